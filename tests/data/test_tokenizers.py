"Tokenizers: threads, special tokens, words found as people write them, and the way back to letters."

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from samples import one_sentence
from tokenizers import Regex, normalizers, pre_tokenizers

from mvl_bench.core import UserError
from mvl_bench.data import tokenizers as text
from mvl_bench.data.factory import make_tokenizer
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import (
    WORD,
    bare,
    check_patterns,
    chips,
    cut_off,
    encode,
    load_tokenizer,
    piece_tokenizer,
    positions_of,
    save_tokenizer,
    word_pieces,
    word_tokenizer,
)

CAPTIONS = list(Scenes(seed=0).captions(200))


class Watched:
    "A tokenizer that notes whether it is read by one alone."

    def __init__(self, tokenizer):
        self.tokenizer, self.alone = tokenizer, []

    def __call__(self, *given, **asked):
        self.alone.append(text.READING.locked())
        return self.tokenizer(*given, **asked)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_one_reads_at_a_time():
    tokenizer = Watched(make_tokenizer(Scenes()))
    text.encode(tokenizer, CAPTIONS[:4], 24)
    text.chips(tokenizer, CAPTIONS[0], 24)
    assert tokenizer.alone == [True, True] and not text.READING.locked()


def test_several_threads_may_read_with_one_tokenizer():
    tokenizer = make_tokenizer(Scenes())

    def read(i):  # batches and chips, as the board and the tabs ask for them
        some = CAPTIONS[i % 200 : i % 200 + 4]
        if i % 2:
            return [chip.text for chip in text.chips(tokenizer, some[0], 24)]
        return text.encode(tokenizer, some, 24).input_ids.tolist()

    with ThreadPoolExecutor(4) as pool:
        joint = list(pool.map(read, range(2000)))
    assert joint == [read(i) for i in range(2000)]


WORDS_AND_CAPTIONS = [
    ("a “red” ball on grass", "red", ["red"]),
    ("a red/blue ball", "blue", ["blue"]),
    ("l'herbe est verte", "herbe", ["herbe"]),
    ("l’herbe est verte", "l’herbe", ["l", "’", "herbe"]),
    ("一只红色的狗", "红色", ["红", "色"]),
    ("a café table", "cafe", ["café"]),
    ("a t-shirt", "t-shirt", ["t", "-", "shirt"]),
    ("the dog's ball", "DOG", ["dog"]),
    ("red, blue; green!", "green", ["green"]),
    ("snake_case", "case", ["case"]),
]


@pytest.mark.parametrize("caption, word, parts", WORDS_AND_CAPTIONS)
def test_a_word_is_found_as_people_write_it(caption, word, parts):
    tokenizer = piece_tokenizer([caption for caption, *_ in WORDS_AND_CAPTIONS], 400)
    places = positions_of(tokenizer, caption, [word], 40)
    tokens = [c for c in chips(tokenizer, caption, 40) if c.position in places]
    assert "".join(c.text for c in tokens) == "".join(p for p in parts if p.isalnum())


def test_a_word_that_is_not_there_names_those_that_are():
    tokenizer = piece_tokenizer(["a red ball"], 60)
    with pytest.raises(
        UserError,
        match="'blue' does not occur in the caption .a red ball., whose words are a, red, ball",
    ):
        positions_of(tokenizer, "a red ball", ["blue"], 24)


@pytest.mark.parametrize("mark", ["[MASK]", "[UNK]", "[SEP]", "[PAD]", "[CLS]"])
@pytest.mark.parametrize("make", ["words", "pieces"])
def test_special_tokens_that_are_typed_are_never_hidden(mark, make):
    scenes = Scenes()
    tokenizer = make_tokenizer(scenes) if make == "words" else text.piece_tokenizer(CAPTIONS)
    caption = f"a red {mark} circle"
    (plain,) = text.encode(tokenizer, ["a red circle"], 24).maskable
    encoded = text.encode(tokenizer, ["a", caption, "a red circle"], 24)
    place = text.typed_marks(tokenizer, caption, 24)
    assert [name for _, name in place] == [mark]
    assert not encoded.maskable[1, place[0][0]] and encoded.maskable[1].sum() == plain.sum()
    special = torch.isin(encoded.input_ids, torch.tensor(tokenizer.all_special_ids))
    assert not (encoded.maskable & special).any()
    assert [chip.text for chip in text.chips(tokenizer, caption, 24)] == ["a", "red", "circle"]
    with pytest.raises(UserError):
        text.positions_of(tokenizer, caption, [mark], 24)


TWO = ["a big red circle above a small blue square", "a cat and a green star"]


@pytest.fixture(scope="module")
def words():
    "A tokenizer whose tokens are the words of two captions."
    return word_tokenizer(TWO)


def test_training_pieces_again_gives_the_same_vocabulary():
    first = piece_tokenizer(TWO * 10, 60).get_vocab()
    assert all(piece_tokenizer(TWO * 10, 60).get_vocab() == first for _ in range(4))


def test_a_saved_tokenizer_loads_with_its_vocabulary(words, tmp_path):
    words.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.get_vocab() == words.get_vocab()
    assert loaded("a red cat").input_ids == words("a red cat").input_ids


def test_an_unknown_name_is_rejected():
    with pytest.raises(UserError, match="no tokenizer at 'no/such-tokenizer-here'"):
        load_tokenizer("no/such-tokenizer-here")


def test_words_of_the_vocabulary_are_encoded_without_unknown_tokens(words):
    rows = encode(words, TWO, max_text_len=16)
    assert rows.maskable.sum(1).tolist() == [9, 6]
    assert (words.convert_tokens_to_ids("[UNK]") != rows.input_ids).all()
    assert encode(words, TWO, max_text_len=5).input_ids.shape == (2, 5)


def test_pieces_of_words_cover_the_chips_in_order():
    rare = piece_tokenizer(["a red ball", "a blue ball"], vocab_size=40)
    groups = word_pieces(rare, "a red bulb", 16)
    assert [len(word) for word in groups][:2] == [1, 1]
    assert [place for word in groups for place in word] == [
        chip.position for chip in chips(rare, "a red bulb", 16)
    ]


def test_what_does_not_fit_is_cut_off_at_the_end(words):
    assert cut_off(words, TWO[0], 16) == ""
    assert cut_off(words, TWO[0], 6) == "above a small blue square"


def test_a_word_that_the_caption_lacks_is_rejected(words):
    assert positions_of(words, TWO[0], ["Red"], 16) == [3]
    with pytest.raises(UserError):
        positions_of(words, TWO[0], ["dog"], 16)


def test_bare_tokens_lose_their_marks_and_nothing_else():
    assert [bare(token) for token in ("snow", "##man", "Ġa", "▁a")] == ["snow", "man", "a", "a"]
    assert bare("▁") == "␣" and bare("##") == "##" and bare("[MASK]") == "[MASK]"


# ---- tokenizers from anybody


@pytest.mark.parametrize(
    "pattern",
    [r"(a+)+$", r"(?:\w+\s?)*", r"^(a|a)*$", r"(x{1,9}){1,9}", r"\w+{30}", r"(?<a>x\g<a>?)", r"(a)\k<1>", r"[(](b)+"],
)  # fmt: skip
def test_a_pattern_that_may_never_end_is_refused(words, pattern):
    hostile = copy.deepcopy(words)
    for place, step in (
        ("pre_tokenizer", pre_tokenizers.Split(Regex(pattern), "isolated")),
        ("normalizer", normalizers.Sequence([normalizers.Replace(Regex(pattern), "")])),
    ):
        setattr(hostile.backend_tokenizer, place, step)
        with pytest.raises(UserError, match="may never end") as caught:
            check_patterns(hostile, "hostile")
        one_sentence(caught, "hostile", pattern)
        setattr(hostile.backend_tokenizer, place, getattr(words.backend_tokenizer, place))


@pytest.mark.parametrize(
    "pattern",
    [
        WORD,
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
        r"<\|startoftext\|>|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+|\(+|[)]+",
    ],
)  # fmt: skip
def test_the_patterns_of_published_tokenizers_are_taken(words, pattern):
    usual = copy.deepcopy(words)
    usual.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    check_patterns(usual, "usual")


def test_a_normalizer_that_makes_texts_long_is_refused(words):
    hostile = copy.deepcopy(words)
    steps = [normalizers.Replace("a", "aa") for _ in range(40)]
    hostile.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    with pytest.raises(UserError, match="1.1e.12 times as long"):
        check_patterns(hostile, "hostile")


def test_an_empty_tokenizer_is_refused(tmp_path):
    word_tokenizer([]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="special tokens only"):
        load_tokenizer(tmp_path)


def test_saving_leaves_out_the_last_call_and_the_origin(words, tmp_path):
    save_tokenizer(words, tmp_path / "a")
    again = load_tokenizer(tmp_path / "a")
    encode(again, ["a red circle"], 7)
    save_tokenizer(again, tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert encode(again, ["a red circle"], 7).input_ids.equal(
        encode(words, ["a red circle"], 7).input_ids
    )
