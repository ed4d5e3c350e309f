"The tabs beside the board, as a stranger opens them: each answers at once for the pair on the board and names the model."

import re

import pytest
from boards import answered, begin, url
from chromium import needs_chromium, tab
from playwright.sync_api import expect

from mvl_bench.apps.panels import influence
from mvl_bench.apps.web import app

pytestmark = needs_chromium
__all__ = ["url"]  # a fixture
OF_BOARD = ("Decoding", "Influence", "Masking", "Compare models", "Uncertainty")
ANSWERED = ("Decoding", "Influence", "Uncertainty")  # by the board's model
NOTHING = {"Decoding": "nothing is hidden", "Uncertainty": "no patch is hidden"}
SLOW = 60_000  # milliseconds


def opened(page, name):
    "The panel of a tab that was just opened, with its answer."
    seen = page.get_by_role("tab", name=name, exact=True)
    if seen.is_visible():
        seen.click()
    else:
        page.locator(".overflow-menu button").first.click()
        page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True).click()
    panel = page.locator(".mb-panel:visible")
    expect(panel.locator("h2")).to_have_text(name)
    expect(panel.locator(".mb-main")).to_be_visible(timeout=SLOW)
    expect(panel.locator(".mb-answers")).not_to_contain_text("Computing", timeout=SLOW)
    return panel


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_tab_answers_when_it_is_opened(browser, url, theme):
    with tab(browser) as page:
        begin(page, url, theme)
        for name in OF_BOARD:
            panel = opened(page, name)
            if name in ANSWERED:
                line = panel.locator(".mb-answers")
                expect(line).to_contain_text("maskvlm-tiny answers (trained on", timeout=SLOW)
            assert panel.locator(".mb-right").inner_text().strip(), name
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_a_tab_answers_with_words_hidden(browser, url):
    with tab(browser) as page:
        begin(page, url)
        with answered(page):
            page.locator(".mb").first.locator("[data-word][aria-pressed=false]").nth(3).click()
        for name in OF_BOARD:
            expect(opened(page, name).locator(".mb-error")).to_have_count(0)


def test_every_panel_has_its_tab(browser, url):
    with tab(browser, width=1920) as page:
        begin(page, url)
        names = page.get_by_role("tab").all_inner_texts()
        assert names == ["Board", *(panel.title for panel in (*app.PANELS, *app.SCENE_PANELS))]


def test_a_tab_follows_the_board_and_computes_once(browser, url, monkeypatch):
    made, compute = [], influence.pair_influence

    def counted(model, board):
        made.append(board.caption)
        return compute(model, board)

    monkeypatch.setattr(influence, "pair_influence", counted)
    with tab(browser) as page:
        begin(page, url)
        panel = opened(page, "Influence")
        chips = panel.locator(".mb-left .mb-chips")
        expect(chips).to_contain_text("red")
        caption = chips.inner_text()
        page.get_by_role("tab", name="Board").click()
        opened(page, "Influence")
        page.wait_for_timeout(1500)
        assert len(made) == 1  # the same board
        page.get_by_role("tab", name="Board").click()
        with answered(page):
            page.locator("[data-card='2']").click()
        panel = opened(page, "Influence")
        page.wait_for_function("([e, text]) => e.innerText !== text", arg=[chips.element_handle(), caption], timeout=SLOW)
        assert len(made) == 2 and made[0] != made[1]


def test_what_cannot_be_shown_is_said(browser, url):
    with tab(browser) as page:
        begin(page, url)
        with answered(page):
            page.get_by_role("button", name="Clear mask").click()
        for name, said in NOTHING.items():
            page.get_by_role("tab", name=name, exact=True).click()
            expect(page.locator(".mb-error:visible")).to_contain_text(said, timeout=SLOW)


def test_decoding_starts_filled_and_is_stepped_through_and_pinned(browser, url):
    with tab(browser) as page:
        begin(page, url)
        panel = opened(page, "Decoding")
        step = panel.get_by_label("step", exact=True)
        assert step.input_value() == step.get_attribute("max") == "8"
        assert panel.locator(".mb-right .mb-on").count() == 0
        expect(panel.locator(".mb-right .mb-score")).to_contain_text(re.compile(r"error so far 0\.\d+ of the pixel range \(12 patches\)"))
        assert panel.locator(".mb-slider").first.locator(".mb-ends span").all_inner_texts() == ["1", "16"]
        panel.get_by_role("button", name="Back").click()
        assert step.input_value() == "7" and panel.locator(".mb-right .mb-on").count() > 0
        panel.locator(".mb-left .mb-on").first.click()
        expect(panel.get_by_role("button", name="Remove all pins")).to_be_visible(timeout=SLOW)
        assert panel.locator(".mb-left .mb-marked").count() == 1
        panel.get_by_label("number of steps").fill("2")
        expect(step).to_have_attribute("max", "2", timeout=SLOW)
        step.fill("0")
        panel.get_by_role("button", name="Play").click()
        expect(step).to_have_js_property("value", "2")
        panel.get_by_role("button", name="Remove all pins").click()
        expect(panel.locator(".mb-left .mb-marked")).to_have_count(0, timeout=SLOW)


def test_influence_names_what_helps_and_keeps_it(browser, url):
    with tab(browser) as page:
        begin(page, url)
        panel = opened(page, "Influence")
        assert "%" not in panel.inner_text() and "50 percentage points of probability and more" in panel.inner_text()
        word = panel.locator(".mb-left .mb-chip", has_text=re.compile("^left$"))
        word.hover()
        say = panel.locator(".mb-say").first
        expect(say).to_contain_text("“left” helps to predict")
        word.click()
        panel.locator("h2").hover()
        expect(say).to_contain_text("“left” helps to predict")  # kept
        panel.locator(".mb-left .mb-chip", has_text=re.compile("^is$")).hover()
        expect(say).to_contain_text("has no effect on hidden patches above the noise floor")
        panel.get_by_role("button", name="Release").click()
        panel.locator("h2").hover()
        expect(say).to_contain_text("Point at a word")


def test_uncertainty_puts_the_picture_on_the_curve(browser, url):
    with tab(browser) as page:
        begin(page, url)
        panel = opened(page, "Uncertainty")
        assert panel.locator(".mb-chart .mb-dot.mb-tone-pink").count() == 1
        expect(panel.locator(".mb-right")).to_contain_text("Is spread a sign of error?")


@pytest.mark.parametrize("wide", [390, *(pytest.param(wide, marks=pytest.mark.slow) for wide in (820, 1920))])
def test_no_panel_scrolls_sideways(browser, url, wide):
    with tab(browser, width=wide) as page:
        begin(page, url)
        for panel in (*app.PANELS, *app.SCENE_PANELS):
            opened(page, panel.title)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), panel.title


def test_a_race_goes_on_until_it_is_stopped(browser, url):
    with tab(browser) as page:
        begin(page, url)
        panel = opened(page, "Masking race")
        start, stop = (panel.get_by_role("button", name=n, exact=True) for n in ("Start", "Stop"))
        expect(stop).to_be_disabled()
        start.click()
        expect(panel.locator(".mb-race")).to_contain_text(re.compile(r"Update \d+ of"), timeout=SLOW)
        expect(stop).to_be_enabled()
        stop.click()
        expect(panel.locator(".mb-race")).to_contain_text("no verdict", timeout=SLOW)
        expect(start).to_be_enabled()
