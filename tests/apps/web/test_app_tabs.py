"The tabs beside the board, as a stranger opens them: each answers at once for the pair on the board, and a race of two ways of hiding."

import re
from base64 import b64decode
from io import BytesIO

import pytest
from boards import answered, begin, url
from chromium import needs_chromium, tab
from PIL import Image
from playwright.sync_api import expect

from mvl_bench.viz.masking import show_lab_of

pytestmark = needs_chromium
__all__ = ["url"]  # a fixture
GROUNDS = dict(light=(255, 255, 255), dark=(10, 15, 30))
NOTHING = {
    "Steps": "nothing is hidden",
    "Models": "nothing is hidden",
    "How sure": "no patch is hidden",
}


def opened(page, name):
    "The picture of a tab that was just opened, with no button pressed."
    page.get_by_role("tab", name=name).click()
    seen = page.locator(".mb-view img:visible")
    seen.wait_for(timeout=60_000)
    return seen


def corner(seen):
    "Colour of the first pixel of a picture in the page."
    data = b64decode(seen.get_attribute("src").split(",")[1])
    return Image.open(BytesIO(data)).convert("RGB").getpixel((1, 1))


def ground(page):
    "Colour of the page beside what is on it."
    return Image.open(BytesIO(page.screenshot())).convert("RGB").getpixel((3, 500))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_tab_answers_when_it_is_opened(browser, url, theme):
    with tab(browser) as page:
        begin(page, url, theme)
        for name in ("Steps", "Influence", "Masking", "Models", "How sure"):
            seen = opened(page, name)
            assert seen.evaluate("image => image.naturalWidth") >= 680, name
            assert seen.evaluate("image => image.clientWidth") >= 680, name
            line = page.locator(".mb-pair.prose:visible")
            expect(line).to_contain_text("Your picture and caption from the Board: there is a big")
            assert ("Hidden there: 12 of 64" in line.inner_text()) == (name in NOTHING)
            assert line.locator("img").evaluate("image => image.naturalWidth") >= 64
            assert page.get_by_role("button", name="Show for the pair").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert corner(seen) == ground(page) == GROUNDS[theme], name


def test_a_tab_follows_the_board_and_computes_once(browser, url, monkeypatch):
    made = []

    def counted(model, pair, *given, **more):
        made.append((pair.caption, *given))
        return show_lab_of(model, pair, *given, **more)

    monkeypatch.setattr("mvl_bench.apps.web.analysis_tabs.show_lab_of", counted)
    with tab(browser) as page:
        begin(page, url)
        first = opened(page, "Masking").get_attribute("src")
        expect(page.get_by_text("score: the blocks that the model attends")).to_be_visible()
        page.get_by_label("words", exact=True).locator("visible=true").check()
        expect(page.get_by_text("span: several words in a row")).to_be_visible()
        second = page.locator(".mb-view img:visible").get_attribute("src")
        assert len(made) == 2 and second != first
        page.get_by_role("tab", name="Board").click()
        opened(page, "Masking")
        page.wait_for_timeout(1500)
        assert len(made) == 2  # the same board, the same controls
        page.get_by_role("tab", name="Board").click()
        with answered(page):
            page.locator("[data-card='2']").click()
        page.get_by_role("tab", name="Masking").click()
        line = page.locator(".mb-pair.prose:visible")
        expect(line).not_to_contain_text("red circle left", timeout=15_000)
        assert len(made) == 3 and made[2][0] != made[1][0] and made[2][0] in line.inner_text()
        assert page.locator(".mb-view img:visible").get_attribute("src") != second


def test_what_cannot_be_shown_is_said(browser, url):
    with tab(browser) as page:
        begin(page, url)
        with answered(page):
            page.get_by_role("button", name="Show all").click()
        for name, said in NOTHING.items():
            page.get_by_role("tab", name=name).click()
            expect(page.get_by_text(said).locator("visible=true")).to_have_count(1)
            assert page.locator(".mb-view img:visible").count() == 0


def test_a_tab_knows_the_board_after_a_mistake_there(browser, url):
    with tab(browser) as page:
        begin(page, url)
        broken = dict(name="broken.png", mimeType="image/png", buffer=b"\x89PNG")
        page.locator("input[type=file]").set_input_files(broken)
        page.get_by_label("Its caption").fill("a cat")
        page.get_by_role("button", name="Open this pair").click()
        page.locator(".mb-error", has_text="broken.png").wait_for()
        opened(page, "Steps")
        expect(page.locator(".mb-pair.prose:visible")).to_contain_text("12 of 64")


def test_steps_begin_at_the_beginning(browser, url):
    with tab(browser) as page:
        begin(page, url)
        page.get_by_role("tab", name="Steps").click()
        seen = page.locator(".mb-view img:visible")
        seen.wait_for(timeout=60_000)
        page.get_by_text("The beginning. Move").wait_for()
        first, step = (
            seen.get_attribute("src"),
            page.get_by_role("slider", name=re.compile("for step")),
        )
        expect(step).to_be_enabled()
        assert step.input_value() == "0" and step.get_attribute("max") == "8"
        step.fill("1")
        page.get_by_text("Filled in now: ").wait_for()
        assert seen.get_attribute("src") != first
        page.get_by_role("tab", name="Board").click()
        with answered(page):
            page.get_by_role("button", name="Show all").click()
        page.get_by_role("tab", name="Steps").click()
        page.get_by_text("nothing is hidden").locator("visible=true").wait_for()
        expect(step).to_be_disabled()


@pytest.mark.parametrize("wide, most", [(390, 4), (1920, 1.4)])
def test_figures_are_readable_at_every_width(browser, url, wide, most):
    with tab(browser, width=wide) as page:
        begin(page, url)
        if page.get_by_role("tab", name="Masking").is_visible():
            seen = opened(page, "Masking")
        else:
            page.locator(".overflow-menu button").first.click()
            page.locator(".overflow-dropdown button", has_text="Masking").click()
            seen = page.locator(".mb-view img:visible")
            seen.wait_for(timeout=60_000)
        natural, shown = seen.evaluate("image => [image.naturalWidth, image.clientWidth]")
        assert 0.65 * natural <= shown <= most * natural  # its letters are 7.5 points: 15 pixels
        assert wide < 700 or shown > 1000  # it grows with the page
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_race_goes_on_until_it_is_stopped(browser, url):
    with tab(browser) as page:
        begin(page, url)
        page.get_by_role("tab", name="Race").click()
        page.get_by_text(
            "alternating: mask the image in one view and the caption in another; joint: mask both at once"
        ).wait_for()
        page.get_by_label("patches", exact=True).locator("visible=true").check()
        second = page.get_by_label("Second way")
        expect(second).to_have_value("block")  # the menus are those of patches
        second.click()
        page.get_by_role("option", name="grid").click()
        page.get_by_text("grid: evenly spread blocks").locator("visible=true").wait_for()
        start, stop = (
            page.get_by_role("button", name=n, exact=True) for n in ("Race for a minute", "Stop")
        )
        expect(stop).to_be_disabled()
        start.click()
        seen = page.locator(".mb-view img:visible")
        seen.wait_for(timeout=60_000)
        expect(stop).to_be_enabled()
        expect(start).to_be_disabled()
        first = seen.get_attribute("src")
        page.wait_for_function(
            "src => [...document.querySelectorAll('.mb-view img')].some(e => e.src && e.offsetParent && e.src !== src)",
            arg=first, timeout=60_000,
        )  # fmt: skip
        said = page.get_by_text(re.compile(r"Running: seed 1 of 2, \d+ of 28 s. No verdict yet."))
        said.wait_for()
        assert page.get_by_text("within noise").count() == 0
        stop.click()
        page.get_by_text("Stopped before every seed had finished: no verdict.").wait_for()
        expect(stop).to_be_disabled()
        expect(start).to_be_enabled()
        page.wait_for_timeout(1000)
        last = seen.get_attribute("src")
        page.wait_for_timeout(1500)
        assert seen.get_attribute("src") == last
        assert page.get_by_text("Stopped before").count() == 1
