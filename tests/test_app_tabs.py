"The tabs beside the board that compare: every open model, how sure one is, and a race of two ways of hiding."

import pytest
from boards import BOARD, answered, url
from chromium import needs_chromium, tab
from playwright.sync_api import expect

pytestmark = needs_chromium
__all__ = ["url"]  # a fixture


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_models_and_how_sure(browser, url, theme):
    with tab(browser) as page:
        page.goto(f"{url}?__theme={theme}")
        page.locator(BOARD).wait_for()
        seen = page.locator(".mb-view img:visible")
        for name in ("Models", "How sure"):
            page.get_by_role("tab", name=name).click()
            page.get_by_role("button", name="Show for the pair").locator("visible=true").click()
            seen.wait_for(timeout=60_000)
            assert seen.evaluate("image => image.naturalWidth") > 900
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("tab", name="Board").click()
        with answered(page):
            page.get_by_role("button", name="Show all").click()
        for name, said in (("Models", "nothing is hidden"), ("How sure", "no patch is hidden")):
            page.get_by_role("tab", name=name).click()
            page.get_by_role("button", name="Show for the pair").locator("visible=true").click()
            page.get_by_text(said).wait_for()


def test_a_race_goes_on_until_it_is_stopped(browser, url):
    with tab(browser) as page:
        page.goto(url)
        page.locator(BOARD).wait_for()
        page.get_by_role("tab", name="Race").click()
        page.get_by_label("patches", exact=True).check()
        expect(page.get_by_label("another")).to_have_value(
            "block"
        )  # the menus are those of patches
        page.get_by_label("another").click()
        page.get_by_role("option", name="grid").click()
        page.get_by_role("button", name="Race for a minute").click()
        seen = page.locator(".mb-view img:visible")
        seen.wait_for(timeout=60_000)
        first = seen.get_attribute("src")
        page.wait_for_function(
            "src => [...document.querySelectorAll('.mb-view img')].some(e => e.src && e.offsetParent && e.src !== src)",
            arg=first, timeout=60_000,
        )  # fmt: skip
        page.get_by_text("nats a word: random").wait_for(timeout=60_000)
        page.get_by_role("button", name="Stop").click()
        page.wait_for_timeout(3000)
        last = seen.get_attribute("src")
        page.wait_for_timeout(3000)
        assert seen.get_attribute("src") == last
