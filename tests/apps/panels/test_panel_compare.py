"The panel that compares models: rows, columns, what a model lacks, what lies outside, hostile settings, a page."

import json
from dataclasses import replace

import numpy as np
import pytest
from boards import untrained as small
from chromium import needs_chromium
from panel_page import panel_page, still
from PIL import Image
from skimage import data

from mvl_bench.apps.board.codec import Board
from mvl_bench.apps.board.photographs import pose_photograph
from mvl_bench.apps.panels.base import answers, last_answer
from mvl_bench.apps.panels.compare import COMPARE, UNTRAINED, painted_nearest
from mvl_bench.data.scenes import Scenes
from mvl_bench.models.registry import load

SCENES = Scenes("shapes", "val")


@pytest.fixture(scope="module")
def models():
    fine = small(img_size=(96, 96), patch_size=4, mask_size=8)  # 24 x 24 patches
    photos = small()
    photos.facts = dict(data="photographs")
    tiny = {name: load(name) for name in ("maskvlm-tiny", "vilt-tiny", "vitmae-tiny")}
    return tiny | dict(fine=fine, photos=photos)


@pytest.fixture(scope="module")
def board():
    pair = SCENES.pair(2)
    return Board(
        pair.image, pair.caption, tuple(range(32)), (3,), SCENES.scene(2), model="maskvlm-tiny"
    )


def shown(models, board, /, **settings):
    reply = last_answer(COMPARE, models, board, dict(settings=settings))
    assert "error" not in reply, reply["error"]
    json.dumps(reply, allow_nan=False)
    return reply["shown"]


def by_name(content):
    return {row["name"]: row for row in content["rows"]}


def test_every_model_answers_the_same_pair_and_the_boards_model_comes_first(models, board):
    content = shown(models, board)
    assert [row["name"] for row in content["rows"]] == [
        "maskvlm-tiny", "vilt-tiny", "vitmae-tiny", "fine", UNTRAINED, "photos"]  # fmt: skip
    for row in content["rows"]:
        assert [*row["columns"]] == ["with", "without", "wrong"]
    said = {
        " ".join(text for _, text in row["columns"]["wrong"]["said"]) for row in content["rows"]
    }
    assert len(said) == 1  # the same wrong pair for all
    assert len(by_name(content)["fine"]["hidden"]) == 24 * 12  # the same half of the picture


def test_what_a_model_lacks_is_said(models, board):
    rows = by_name(shown(models, board))
    assert rows["vilt-tiny"]["missing"] == dict(pixels="predicts no patches")
    assert rows["vitmae-tiny"]["missing"] == dict(words="predicts no words")
    assert rows["vitmae-tiny"]["columns"]["with"]["nats"] is None
    only_words = by_name(shown(models, replace(board, patches=())))
    assert only_words["vitmae-tiny"]["columns"] == {} and only_words["vitmae-tiny"]["lacks"]
    assert not by_name(shown(models, replace(board, words=())))["vilt-tiny"]["columns"]


def test_rows_outside_their_training_data_are_marked_and_the_untrained_one_is_not(models, board):
    rows = by_name(shown(models, board))
    assert [name for name, row in rows.items() if row["outside"]] == ["photos"]
    assert rows[UNTRAINED]["of"] == "maskvlm-tiny"
    trained, random = (
        rows[name]["columns"]["with"]["error"] for name in ("maskvlm-tiny", UNTRAINED)
    )
    assert trained < random


def test_errors_of_two_sizes_are_not_called_comparable(models, board):
    both, one = (
        shown(models, board, models=[*names])["compared"][0]
        for names in (("maskvlm-tiny", "fine"), ("maskvlm-tiny",))
    )
    assert "64 × 64 and 96 × 96" in both and "only between rows of one size" in both
    assert "only" not in one and "mean absolute error" in one


def test_a_verdict_names_who_painted_nearest_and_counts_the_words(models, board):
    patches, words = shown(models, board)["verdict"]
    assert patches.startswith("Patches: ") and "maskvlm-tiny 0.0" in patches and ", all at 64 × 64 pixels)." in patches
    assert not any(name in patches for name in ("photos", UNTRAINED, "vilt-tiny"))
    assert words.startswith("Words: ") and "of 1" in words and "photos" not in words
    (clear,) = shown(models, replace(board, words=()), models=["maskvlm-tiny", "fine"])["verdict"]
    assert clear.startswith("Patches: maskvlm-tiny painted nearest (error maskvlm-tiny 0.0")
    row = by_name(shown(models, board))["maskvlm-tiny"]
    assert painted_nearest([row, row]).startswith("Patches: no clear difference (error ")
    few = by_name(shown(models, replace(board, patches=(0,))))["maskvlm-tiny"]
    assert painted_nearest([few, few]) == "Patches: too little is hidden for a verdict."


def test_no_winner_is_named_outside_the_training_data(models, board):
    photo = np.asarray(Image.fromarray(data.cat()).resize((64, 64)))
    other = replace(board, image=photo, caption="a cat", words=(), scene=None, brought=True)
    everywhere = shown(models, other, models=["maskvlm-tiny", "vilt-tiny", "vitmae-tiny", UNTRAINED])
    assert all(row["outside"] for row in everywhere["rows"] if row["name"] != UNTRAINED)
    assert everywhere["verdict"] == ["No winner: the pair lies outside the training data of these models."]
    one = shown(models, board, models=["maskvlm-tiny", "photos", UNTRAINED])
    assert one["verdict"] == ["No winner: of these models only maskvlm-tiny was trained on such pairs."]
    assert shown(models, board, models=["maskvlm-tiny", UNTRAINED])["verdict"] == []


def test_an_example_of_one_model_may_lie_outside_the_data_of_another():
    known = {name: load(name) for name in ("maskvlm-photos", "maskvlm-flowers")}
    example = replace(pose_photograph(known["maskvlm-photos"], 1), model="maskvlm-photos")
    content = shown(known, example)
    assert {name: row["outside"] for name, row in by_name(content).items() if name != UNTRAINED} == {
        "maskvlm-photos": False, "maskvlm-flowers": True}  # fmt: skip
    assert content["verdict"][0].startswith("No winner")


def test_an_edit_is_a_fourth_column(models, board):
    content = shown(models, replace(board, edit=board.caption + " now"), models=["maskvlm-tiny"])
    assert [*content["rows"][0]["columns"]] == ["with", "without", "wrong", "edited"]
    assert content["edit"].endswith("now")


def test_rows_arrive_one_by_one(models, board):
    parts = [
        *answers(COMPARE, models, board, dict(settings=dict(models=["maskvlm-tiny", UNTRAINED])))
    ]
    assert [len(part["shown"]["rows"]) for part in parts] == [1, 2]
    assert [part["more"] for part in parts] == [True, False]
    assert not parts[0]["shown"]["verdict"]  # not before all have answered


@pytest.mark.parametrize(
    "value, says",
    [
        (["gpt"], "models ['gpt'] is not a list of maskvlm-tiny, vilt-tiny"),
        ("maskvlm-tiny", "is not a list of"),
        ([["maskvlm-tiny"]], "is not a list of"),
        ({"a": 1}, "is not a list of"),
        (None, "is not a list of"),
        ([], "no model is chosen"),
    ],
)
def test_hostile_settings_get_one_sentence(models, board, value, says):
    reply = last_answer(COMPARE, models, board, dict(settings=dict(models=value)))
    assert says in reply["error"] and "shown" not in reply


def test_a_board_with_nothing_hidden(models, board):
    assert (
        "nothing is hidden"
        in last_answer(COMPARE, models, replace(board, patches=(), words=()))["error"]
    )


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page(browser, models, board, width):
    with panel_page(browser, COMPARE, models, board, width=width) as page:
        assert page.locator(".mb-model").count() == 6
        folded = page.get_by_role("article", name="photos, outside its training data")
        assert folded.locator("canvas").first.is_visible() == (width > 700)  # little room: what says nothing is folded
        if width < 700:
            assert page.evaluate("document.documentElement.scrollHeight") < 3600
            folded.locator("summary").click()
        assert folded.locator("canvas").first.is_visible()
        assert page.locator(".mb-says").inner_text().startswith("Patches: ")
        assert page.locator(".mb-score abbr").first.get_attribute("title").startswith("nats: ")
        assert page.locator(".mb-outside").count() == 1
        assert page.locator(".mb-outside .mb-badge").inner_text() == "outside its training data"
        vilt = page.get_by_role("article", name="vilt-tiny")
        assert (
            vilt.get_by_text("predicts no patches").count() == 3
            and vilt.locator("canvas").count() == 0
        )
        tiny = page.get_by_role("article", name="maskvlm-tiny")
        assert tiny.locator("canvas").count() == 3 and tiny.locator(".mb-bars").count() == 3
        page.wait_for_timeout(300)
        drawn = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].some((v, i) => i % 4 < 3 && v)"
        assert all(tiny.locator("canvas").nth(i).evaluate(drawn) for i in range(3))
        box = page.get_by_label("vilt-tiny", exact=True).and_(page.locator("input"))
        box.focus()
        page.keyboard.press("Space")
        still(page)
        assert (
            "vilt-tiny" not in page.asked[-1]["settings"]["models"]
            and page.locator(".mb-model").count() == 5
        )
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert "winner" not in page.locator("body").inner_text().lower()
