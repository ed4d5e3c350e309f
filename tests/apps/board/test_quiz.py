"A round against the model: nothing of an answer is there before the guess, and the model answers live. In the page: panels/test_panel_quiz."

from dataclasses import replace

import numpy as np
import pytest
from boards import shipped, untrained

from mvl_bench.apps.board.quiz import NOTHING, ROUND, Round, answer, check_quiz, riddle
from mvl_bench.core import UserError
from mvl_bench.data.tokenizers import word_tokenizer
from mvl_bench.viz.base import to_png
from mvl_bench.viz.quiz import show_riddle


def scrambled(asked):
    "The same question about a pair that differs where it is hidden."
    rows, columns = asked.grid
    image, side = asked.pair.image.copy(), asked.pair.image.shape[0] // rows
    for patch in asked.patches:
        y, x = (side * part for part in divmod(patch, columns))
        image[y : y + side, x : x + side] = np.random.default_rng(patch).integers(0, 255)
    said = tuple(
        c._replace(text="zzz") if c.position in asked.words else c for c in asked.caption_words
    )
    return replace(asked, pair=asked.pair._replace(image=image), caption_words=said, truth="zzz")


@pytest.mark.parametrize("number", range(4))
def test_what_is_shown_before_the_guess_holds_nothing_that_is_hidden(number):
    asked = riddle(untrained(), 0, 1, number)
    other = scrambled(asked)
    assert to_png(show_riddle(asked, dark=False)) == to_png(show_riddle(other, dark=False))
    assert asked.read_out == other.read_out and asked.question == other.question


def test_the_model_answers_live_and_from_what_is_shown():
    one, other = shipped(), untrained()
    found = [[answer(m, riddle(m, 0, 0, k)).choice for k in range(ROUND)] for m in (one, other)]
    assert found[0] != found[1]  # another model, other answers
    for number in range(4):
        asked = riddle(one, 0, 0, number)
        told = answer(one, asked)
        assert told.choice in (*asked.choices, NOTHING)
        blind = replace(asked, pair=scrambled(asked).pair)
        assert answer(one, blind).choice == told.choice


def test_a_round_is_a_function_of_seed_and_number():
    model, first = untrained(), Round(2, 3)
    for _ in range(2):
        first, asked, told = first.guess(model, first.asked(model).choices[-1])
    again = Round(2, 3)
    for mark in first.marks:
        again = again.guess(model, mark.guess)[0]
    assert again == first


def test_a_model_of_one_side_or_of_another_world_cannot_play():
    with pytest.raises(UserError, match="choose a model of both"):
        check_quiz(shipped("vitmae-tiny"))
    model = untrained()
    model.tokenizer = word_tokenizer(["a dog on a beach"])
    with pytest.raises(UserError, match="'red' as one known word"):
        check_quiz(model)
