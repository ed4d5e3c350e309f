"Point at a word and see the patches that it moves, and back: by mouse, by keyboard, in the app and on a page that stores it."

import numpy as np
import pytest
from boards import BOARD, answered, shipped, untrained, url
from chromium import needs_chromium, tab

from mvl_bench.apps.board import session as told
from mvl_bench.apps.board.codec import unpack
from mvl_bench.apps.board.events import EXAMPLES, example_board
from mvl_bench.apps.board.respond import opening, react
from mvl_bench.apps.board.session import MOST_PASSES, board_influence, floor_of
from mvl_bench.apps.board.static_export import export_board
from mvl_bench.core import Pair
from mvl_bench.inference.attribution import SCALE, influence_under

__all__ = ["url"]  # a fixture
TINTS = "a => a.map(e => Number(e.style.getPropertyValue('--tint')))"


def tints(page, what):
    "How strongly patches or words are tinted."
    return page.locator(what).evaluate_all(TINTS)


def test_the_tables_are_help_above_the_noise_floor_on_a_fixed_scale():
    model = shipped()
    board = example_board(model, *EXAMPLES[0]).board
    tables, _ = board_influence(model, board)
    masked = board.patches, board.words
    result, floor = influence_under(model, Pair(board.image, board.caption, 0, 0), *masked), floor_of(model)
    for name, way in (("patches", "to_patches"), ("words", "to_words")):
        helped = np.nan_to_num(getattr(result, way).helped)
        expected = 99 * (helped / SCALE[way]).clip(0, 1) * (helped > floor[way])
        assert np.abs(np.array(tables[name]) - expected).max() <= 0.51
    visible = [i for i in range(model.num_patches) if i not in board.patches]
    assert not np.array(tables["patches"])[:, visible].any()  # only what is hidden depends on a word
    first = opening({"one": model})
    assert first["shown"]["influence"] is None  # nobody asked
    ask = dict(state=first["state"], kind="view", given=dict(on=["influence"]))
    seen = react({"one": model}, ask)
    assert seen["shown"]["influence"] == tables
    ask = dict(state=seen["state"], kind="hide", given=dict(patches="0-9", words="3"))
    assert react({"one": model}, ask)["shown"]["influence"] != tables


def test_an_untrained_model_has_no_effect_worth_a_colour():
    model = untrained()
    tables, _ = board_influence(model, example_board(model, *EXAMPLES[0]).board)
    assert max(np.array(table).max() for table in tables.values()) < 25


@pytest.mark.parametrize("small", [dict(img_size=(96, 96), patch_size=4, mask_size=8)])
def test_what_a_page_cannot_wait_for_is_said(small):
    model = untrained(**small)
    assert 4 * model.num_patches > MOST_PASSES
    state = opening({"fine": model})["state"]
    seen = react({"fine": model}, dict(state=state, kind="view", given=dict(on=["influence"])))
    assert seen["shown"]["influence"] is None and "takes too long" in seen["shown"]["notes"][0]


@needs_chromium
def test_by_mouse_and_keyboard_in_the_app(browser, url):
    with tab(browser) as page:
        page.goto(url)
        page.locator(BOARD).wait_for()
        read = page.locator(".mb-read")
        assert not read.is_visible()
        page.locator(".mb-chips").get_by_text("red", exact=True).hover()
        assert page.locator(".mb-tinted").count() == 0  # not asked for
        with answered(page):
            page.get_by_label("influence").check()
        assert "Point at a word" in read.inner_text() and read.get_attribute("role") == "status"
        page.locator(".mb-chips").get_by_text("red", exact=True).hover()
        said, own = read.inner_text(), tints(page, ".mb-cell")
        best = int(np.argmax(own))
        assert said == f"red: strongest on row {best // 8 + 1} column {best % 8 + 1}"
        assert 0 < max(own) <= 1
        assert max(tints(page, ".mb-chip[data-word]")) == 0
        page.locator(".mb-cell").nth(best).hover()
        assert read.inner_text().startswith(f"row {best // 8 + 1} column {best % 8 + 1}: ")
        assert max(tints(page, ".mb-chip[data-word]")) > 0 == max(tints(page, ".mb-cell"))
        page.mouse.move(5, 5)
        assert page.locator(".mb-tinted").count() == 0
        page.locator(".mb-chip[data-word]").first.focus()
        for _ in range(4):  # there is a big red
            page.keyboard.press("ArrowRight")
        assert read.inner_text() == said and tints(page, ".mb-cell") == own
        with answered(page):
            page.keyboard.press("Enter")  # hidden now, and still pointed at
        assert read.inner_text().startswith("red: ")
        page.keyboard.press("Shift+Tab")
        assert read.inner_text().startswith("row 1 column 1: ")
        with answered(page):
            page.get_by_label("influence").uncheck()
        assert not read.is_visible() and page.locator(".mb-tinted").count() == 0


@needs_chromium
def test_on_a_page_without_a_server(browser, tmp_path, monkeypatch):
    for model, name in ((shipped(), "board"), (untrained(), "without")):
        export_board(model, example_board(model, *EXAMPLES[0]).board, tmp_path / f"{name}.html", "a model")
        monkeypatch.setattr(
            told, "MOST_PASSES", 16
        )  # of the second there is no influence to store
    with tab(browser) as page:
        page.goto(f"file://{tmp_path}/board.html")
        page.locator(BOARD).wait_for()
        with answered(page):
            page.get_by_label("influence").check()
        page.locator(".mb-chips").get_by_text("red", exact=True).hover()
        assert page.locator(".mb-read").inner_text().startswith("red: strongest on row ")
        assert 0 < max(tints(page, ".mb-cell")) <= 1
        page.goto(f"file://{tmp_path}/without.html")
        page.locator(BOARD).wait_for()
        assert page.get_by_label("influence").count() == 0  # it is not stored


def test_a_board_with_the_switch_on_travels():
    model = untrained()
    state = opening({"one": model})["state"] | dict(view=["influence"])
    assert unpack(state, model.cfg.image.img_size).view == ("influence",)
