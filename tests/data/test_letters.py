"Byte-level and sentencepiece tokenizers are shown in letters: no half letters, no blank chips."


import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mvl_bench.core import update
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import (
    bare,
    chips,
    cut_off,
    letters,
    positions_of,
    token_texts,
    without_marker,
    word_chips,
)
from mvl_bench.inference.reconstruction import Guess, of_whole_words, reconstruct_pair
from mvl_bench.models.maskvlm import MaskVLM, maskvlm_tiny

MARKS = dict(
    pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>", mask_token="<mask>"
)
CAPTIONS = [
    "a red café on the grass",
    "un château près de l'été",
    "the dog 狗 runs 犬",
    "a blue naïve dog",
] * 5
CAPTION = "a red café, 狗 runs  the naïve dog"


def framed(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    "Add <s> and </s> around each caption."
    ends = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **MARKS)


def byte_level(size: int) -> PreTrainedTokenizerFast:
    "A tokenizer like GPT-2's and RoBERTa's: pieces of UTF-8 bytes."
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    start = dict(special_tokens=list(MARKS.values()), show_progress=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, **start)
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    return framed(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    "A tokenizer like XLM-R's: sentencepiece, a blank is ▁."
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    start = dict(special_tokens=list(MARKS.values()), unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CAPTIONS, trainers.UnigramTrainer(vocab_size=70, **start))
    return framed(tokenizer)


def byte_fallback() -> PreTrainedTokenizerFast:
    "A tokenizer like Llama's: letters that it lacks are bytes such as <0xC3>."
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    special = [*MARKS.values(), *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["a red dog on the grass"] * 9, trainer)
    return framed(tokenizer)


TOKENIZERS = {
    "few bytes": lambda: byte_level(300),
    "bytes": lambda: byte_level(420),
    "unigram": unigram,
    "fallback": byte_fallback,
}


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request):
    return TOKENIZERS[request.param]()


def test_chips_are_the_captions_letters_once_each(tokenizer):
    tokens = chips(tokenizer, CAPTION, 64)
    assert all(chip.text == CAPTION[chip.start : chip.end] == chip.text.strip() for chip in tokens)
    assert all(chip.text for chip in tokens)
    assert all(left.end <= right.start for left, right in zip(tokens, tokens[1:]))
    assert "".join(chip.text for chip in tokens) == CAPTION.replace(" ", "")


def test_words_have_all_their_pieces(tokenizer):
    words = {word.text.strip(","): word.pieces for word in word_chips(tokenizer, CAPTION, 64)}
    assert words.keys() >= {"a", "red", "café", "狗", "runs", "the", "naïve", "dog"}
    covered = sorted(place for pieces in words.values() for place in pieces)
    assert len(covered) == len(set(covered))
    masked = positions_of(tokenizer, CAPTION, ["naïve", "狗"], 64)
    assert {*masked} <= {*words["naïve"], *words["狗"]}
    ids = tokenizer(CAPTION).input_ids
    pieces = "".join(
        without_marker(t) for t in token_texts(tokenizer, [ids[i] for i in words["naïve"]])
    )
    assert letters(pieces).strip("␣") == "naïve"


def test_tokens_are_read_in_letters(tokenizer):
    ids = tokenizer(CAPTION, add_special_tokens=False).input_ids
    texts = token_texts(tokenizer, ids)
    joined = letters("".join(without_marker(text) for text in texts)).replace("␣", "")
    assert joined.replace("<unk>", ",") == CAPTION.replace(" ", "")
    for text in map(bare, texts):
        assert text and not {*text} & {*"ĠÃ©¯çĭĹ▁"} and not text.startswith("<0x"), text
    assert token_texts(tokenizer, [tokenizer.mask_token_id]) == ["<mask>"]


def test_a_word_of_bytes_is_guessed_in_letters():
    tokenizer = byte_level(300)
    ids = tokenizer("ж", add_special_tokens=False).input_ids
    assert len(ids) == 2  # one letter, two bytes
    texts = token_texts(tokenizer, ids)
    assert [bare(text) for text in texts] == ["�"] * 2
    guesses = [Guess(i, "ж" * (not i), 0.5, ((text, 0.5),)) for i, text in enumerate(texts)]
    (word,) = of_whole_words(guesses, [(0, 1)])
    assert word.truth == "ж" and word.top == (("ж", 0.25),)


def test_a_caption_that_is_cut_within_a_word(tokenizer):
    whole = chips(tokenizer, CAPTION, 64)
    for most in range(4, len(tokenizer(CAPTION).input_ids)):
        visible = chips(tokenizer, CAPTION, most)
        assert len(visible) <= len(whole) and (rest := cut_off(tokenizer, CAPTION, most)) in CAPTION
        assert rest == "" or CAPTION.endswith(rest)


def test_a_model_with_such_a_tokenizer_answers_in_letters(tokenizer):
    ids = dict(pad_id=tokenizer.pad_token_id, mask_id=tokenizer.mask_token_id)
    sizes = dict(img_size=(32, 32), embed_dim=32, num_heads=2, max_text_len=64)
    torch.manual_seed(0)
    model = MaskVLM(update(maskvlm_tiny(), vocab_size=len(tokenizer), **sizes, **ids)).eval()
    model.tokenizer = tokenizer
    pair = Scenes("shapes", img_size=(32, 32)).pair(0)._replace(caption=CAPTION)
    masked = positions_of(tokenizer, CAPTION, ["naïve", "狗"], 64)
    result = reconstruct_pair(model, pair, (), masked)
    truths = [guess.truth for guess in result.columns["with"].tokens]
    assert "狗" in truths and "".join(truths).replace("狗", "") == "naïve"
