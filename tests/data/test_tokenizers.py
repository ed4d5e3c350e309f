"Words read by several people at once."

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mvl_bench.core import UserError
from mvl_bench.data import tokenizers as text
from mvl_bench.data.factory import make_tokenizer
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import chips, piece_tokenizer, positions_of

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
