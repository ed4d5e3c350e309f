"The board in JupyterLab: two boards, two views of one, clicks that Python sees and settings that views follow."

import os

import pytest
from accessible import objections
from boards import BOARD, answered, drag, masked, pixels
from chromium import needs_chromium, tab
from jupyter import notebook_command, serving
from samples import ROOT

pytestmark = [needs_chromium, pytest.mark.slow]
ALL_CELLS = {"notebook-extension/tracker": dict(windowingMode="none")}  # far ones stay in the page
CELLS = (
    "from boards import shipped\nfrom mvl_bench.apps.widgets.board import MaskBoard\n\nmodel = shipped()\n"
    "board = MaskBoard({'maskvlm-tiny': model})\nboard",
    "board",
    "other = MaskBoard.from_link(board.link, {'maskvlm-tiny': model})\nother",
    "print('python sees', board.patches, board.words, other.patches)",
    "board.patches, board.words = [0, 1], [5]\nboard.edit = 'a dog'",
)


def test_boards_in_a_notebook(browser, tmp_path):
    command = notebook_command(CELLS, tmp_path, "boards.ipynb") + ["--LabApp.expose_app_in_browser=True"]
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"], before = path, os.environ.get("PYTHONPATH", "")
    try:
        with (
            serving(command, tmp_path, ALL_CELLS) as url,
            tab(browser, 1500, 1400, silent=False) as page,
        ):
            page.goto(url)
            page.get_by_text("| Idle").first.wait_for(timeout=90_000)
            drive(page)
    finally:
        os.environ["PYTHONPATH"] = before


def run(page, cell):
    "Run one cell and wait for it."
    page.locator(".jp-CodeCell").nth(cell).locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    prompt = page.locator(".jp-CodeCell").nth(cell).locator(".jp-InputPrompt")
    page.wait_for_function(
        "e => /\\[\\d+\\]/.test(e.textContent)", arg=prompt.element_handle(), timeout=60_000
    )


SELECTED = "[aria-selected=true]"


def drive(page):
    "Run the cells, then go through the board step by step; nothing may be reported as an error."
    for cell in range(3):
        run(page, cell)
    page.locator(BOARD).nth(2).wait_for(timeout=60_000)
    first, second, other = (page.locator(".mb").nth(i) for i in range(3))
    assert not objections(page, ".mb")
    assert first.locator(SELECTED).count() == 12
    mask_by_hand(page, first)
    views_agree(page, second, other)
    settings_reach_the_views(page, first, second)
    influence_is_shared(page, first, second)
    one_card_is_saved(page, first)
    gallery_and_dark(page, first, second)
    errors = page.locator(
        "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type*=error]"
    )
    assert errors.all_inner_texts() == []


def mask_by_hand(page, board):
    "Hide patches by click, drag and keyboard, and a word by click."
    before = pixels(page)
    with answered(page):
        board.locator(".mb-cell").nth(6).click()
    with answered(page):
        drag(page, 56, 58)
    page.keyboard.press("ArrowUp")
    with answered(page):
        page.keyboard.press(" ")
    with answered(page):
        board.locator("[data-word='5']").click()
    assert {6, 56, 57, 58, 50} <= set(masked(page)) and pixels(page) != before


def views_agree(page, second, other):
    "Compare the second view, the other board and Python with what is hidden in the first view."
    own = masked(page)
    assert second.locator(SELECTED).count() == len(own) == 17  # the second view is in step
    assert second.locator("[data-word='5'][aria-pressed=true]").count() == 1
    assert other.locator(SELECTED).count() == 12  # the other board is its own
    run(page, 3)
    said = page.locator(".jp-CodeCell").nth(3).locator(".jp-OutputArea-output").inner_text()
    assert str(own) in said.replace("\n", "") and "[5]" in said


def settings_reach_the_views(page, first, second):
    "Set patches, words and the edit in Python; both views follow."
    run(page, 4)
    page.wait_for_function(
        "document.querySelectorAll('.mb')[1].querySelectorAll('[aria-selected=true]').length === 2"
    )
    assert masked(page) == [0, 1] and second.locator(SELECTED).count() == 2
    assert first.locator(".mb-edit textarea").input_value() == "a dog"


def influence_is_shared(page, first, second):
    "Switch influence on in one view; both views show it."
    with answered(page):
        first.get_by_label("influence").check()
    first.locator("[data-word='5']").hover()
    assert first.locator(".mb-read").inner_text().startswith("red: ")
    assert second.locator(".mb-read").is_visible()  # the switch is the board's, not the view's


def one_card_is_saved(page, board):
    "Ask for an experiment card in one view; only this view downloads it."
    cards = []
    page.on("download", lambda card: cards.append(card.suggested_filename))
    with page.expect_download():
        board.get_by_role("button", name="Experiment card").click()
    page.wait_for_timeout(500)
    assert cards == ["board.ipynb"]


def gallery_and_dark(page, first, second):
    "Open an example and the next scene; then look at the board in the dark theme."
    with answered(page):  # the gallery of the app
        first.locator("[data-card='1']").click()
    assert masked(page) == [] and second.locator("[data-word='9'][aria-pressed=true]").count() == 1
    with answered(page):
        first.get_by_role("button", name="Next scene").click()
    assert first.locator(".mb-story").inner_text() == second.locator(".mb-story").inner_text()
    dark = (
        "window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })"
    )
    page.evaluate(dark)
    page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
    page.wait_for_timeout(500)
    assert not objections(page, ".mb")
