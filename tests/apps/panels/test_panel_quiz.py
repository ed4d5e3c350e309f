"You vs. the model: the truth leaves the server after the guess, the round is in the settings, and a page plays it."

import json
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
from boards import shipped, untrained
from chromium import needs_chromium, tab

from mvl_bench.apps.board.photo_questions import about_questions, can_play, question_for
from mvl_bench.apps.board.quiz import ROUND
from mvl_bench.apps.panels.base import last_answer, style
from mvl_bench.apps.panels.quiz import QUIZ, _given
from mvl_bench.core import Pair, UserError
from mvl_bench.data.tokenizers import piece_tokenizer


@lru_cache(1)
def models():
    return {"maskvlm-tiny": shipped(), "random": untrained()}


class OwnPairs:
    "Ten pairs of a user's own data."

    numbers = (3, 4)  # held out
    names = "dog cat horse bird fish cow fox bear wolf frog".split()

    def __len__(self):
        return len(self.names)

    def caption_at(self, i):
        return f"a happy {self.names[i]} runs"

    def pair(self, i):
        image = np.random.default_rng(i).integers(0, 255, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
        return Pair(image.astype(np.uint8), self.caption_at(i), i, i)


def of_photographs(pairs=None):
    "An untrained model that passes for one of photographs."
    model = untrained()
    model.facts, model.pairs = dict(data="holiday"), pairs
    own = OwnPairs()
    words = "a flower with orange petals blue white purple woman man boy dog in an suit smiles the of cup coffee red plate green yellow on"
    model.tokenizer = piece_tokenizer([own.caption_at(i) for i in range(10)] * 9 + [words] * 9, 250)
    return model


def ask(settings=None, known=None):
    return last_answer(QUIZ, known or models(), None, dict(settings=settings or {}))


@pytest.mark.parametrize("name", ["scenes", "photographs", "own"])
def test_nothing_that_is_hidden_is_sent_before_the_guess(name):
    model = dict(scenes=models()["random"], photographs=of_photographs(), own=of_photographs(OwnPairs()))[name]
    kinds = set()
    for number in range(4):
        asked = question_for(model, 0, 0, number)
        settings = dict(number=number, marks=[["x", "x", "x", 4]] * number)
        shown = ask(settings, dict(one=model))["shown"]
        kinds.add(asked.kind)
        assert shown["told"] is None and "truth" not in json.dumps(shown)
        assert [w["text"] for w in shown["words"] if w["hidden"]] == [""] * len(asked.words)
        image = asked.pair.image.copy()  # other content where it is hidden: the same answer
        side = image.shape[0] // asked.grid[0]
        for y, x in (divmod(patch, asked.grid[1]) for patch in asked.patches):
            image[y * side : (y + 1) * side, x * side : (x + 1) * side] = 7
        changed = SimpleNamespace(**vars(asked) | dict(pair=asked.pair._replace(image=image)))
        changed.question, changed.read_out = asked.question, asked.read_out
        assert _given(changed)["picture"] == shown["picture"]
    assert kinds == {"word", "colour" if name == "scenes" else "crop"}


def test_questions_fit_the_data_of_the_model():
    photos, own = of_photographs(), of_photographs(OwnPairs())
    assert "validation split" in about_questions(models()["random"])
    assert "Six photographs" in about_questions(photos) and "held out" in about_questions(own)
    asked = question_for(own, 0, 0, 0)
    assert asked.pair.caption.startswith("a happy") and asked.truth in asked.pair.caption
    assert asked.truth in asked.choices and set(asked.choices) <= {*OwnPairs.names}
    crop = question_for(photos, 0, 0, 1)
    rows, columns = (np.flatnonzero(crop.pixels.any(axis)) for axis in (1, 0))
    true = crop.pair.image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert (crop.crops[crop.choices.index(crop.truth)] == true).all()
    assert set(crop.spot) <= set(crop.patches) and 3 <= len(crop.crops) == len(crop.choices)


def test_a_round_is_kept_in_the_settings_and_ends_with_a_result():
    settings = dict(model="random", round=3)
    for number in range(ROUND):
        reply = ask(settings | dict(number=number, guess=0))
        told, settings = reply["shown"]["told"], reply["settings"]
        assert "guess" not in settings and len(settings["marks"]) == number + 1
        assert told["truth"] == question_for(models()["random"], 0, 2, number).truth
    again = ask(settings | dict(number=4))["shown"]["told"]  # look back
    assert again["truth"] == settings["marks"][4][2]
    result = ask(settings | dict(number=ROUND))["shown"]["result"]
    assert result["you"] == sum(mark[0] == mark[2] for mark in settings["marks"])
    assert result["model"] == sum(mark[1] == mark[2] for mark in settings["marks"])
    differing = [k for k, mark in enumerate(settings["marks"]) if mark[0] != mark[1]]
    assert [one["number"] for one in result["differing"]] == differing
    assert f"{result['you']} of 10 right" in result["verdict"]


@pytest.mark.parametrize(
    "settings",
    [
        dict(model="other"), dict(model=[]), dict(round=0), dict(round="1"), dict(seed=-1), dict(number=1), dict(number=11),
        dict(guess=99), dict(guess="red"), dict(guess=True), dict(marks={}), dict(marks=[[1, 2, 3, 4]]),
        dict(marks=[["a", "b", "c", 0]]), dict(marks=[["a", "b", "c" * 99, 4]]), dict(marks=[["a", "b", "c", 4]] * 11),
        dict(marks=[["a", "b"]]), dict(marks=[None]),
    ],
)  # fmt: skip
def test_hostile_settings_get_one_sentence(settings):
    reply = ask(settings)
    assert "shown" not in reply and reply["error"] and "\n" not in reply["error"]


def test_a_model_of_one_modality_cannot_play():
    lone = SimpleNamespace(offers=frozenset({"pixels"}), lacks="It has no words.", facts={})
    assert not can_play(lone)
    with pytest.raises(UserError, match="choose a model of both"):
        question_for(lone)
    assert "no open model can play" in ask(None, dict(one=lone))["error"]


PAGE = """<!doctype html><meta name="viewport" content="width=device-width"><style>body { margin: 16px; font-family: serif; } %s</style><div id="place"></div>
<script>%s; const panel = mount(document.getElementById('place'), build, %s, async (request) => panel.update(await window.answerPanel(request)));</script>"""


@needs_chromium
def test_a_round_in_a_page_with_the_keyboard(browser):
    known = {name: models()[name] for name in ("random", "maskvlm-tiny")}
    with tab(browser, 390, 800) as page:
        page.expose_function("answerPanel", lambda request: last_answer(QUIZ, known, None, request))
        first = json.dumps(last_answer(QUIZ, known, None)).replace("</", "<\\/")
        page.set_content(PAGE % (style(), QUIZ.script(), first))
        page.get_by_text("Question 1 of 10").wait_for()
        assert page.get_by_text("which word?").is_visible()
        page.locator(".mb-pick").first.focus()
        for number in range(ROUND):
            page.keyboard.press("2")
            page.locator(".mb-pick:disabled").first.wait_for()
            truth = question_for(known["random"], 0, 0, number).truth
            assert page.locator(".mb-right-one").inner_text().split("\n")[1].startswith(truth)
            heading = page.locator(".mb-asking:visible").inner_text()
            assert heading.startswith("Answer: ") and truth in heading  # the question is over
            if number == 1:
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert page.locator(".mb-spot path").count() == 2
            page.keyboard.press("Enter")
            page.get_by_text(f"Question {number + 2} of 10" if number + 1 < ROUND else "blind guessing").first.wait_for()
        assert page.get_by_role("heading", name="Questions with different answers").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name="New round").click()
        page.get_by_text("Question 1 of 10").wait_for()
        assert page.get_by_label("round").input_value() == "2"
