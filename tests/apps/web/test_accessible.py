"axe-core objects to nothing: in every tab of the page in both themes, on a phone, in a page without a server."

import pytest
from accessible import objections
from boards import begin, url
from chromium import needs_chromium, tab

pytestmark = needs_chromium
__all__ = ["url"]  # a fixture
BUSY = ".mb[aria-busy], .progress-text, .eta-bar, .generating, .pending"
STILL = f"""() => ![...document.querySelectorAll('{BUSY}')].some(e => e.checkVisibility())
    && !document.getAnimations().some(a => a instanceof CSSTransition && a.playState === 'running')"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.slow
def test_in_every_tab(browser, url, theme):
    with tab(browser) as page:
        begin(page, url, theme)
        names = page.get_by_role("tab").all_inner_texts()
        assert len(names) == 9
        found = {}
        for name in names:
            page.get_by_role("tab", name=name, exact=True).click()
            for _ in range(2):  # an answer may be asked for a moment after the tab is there
                page.wait_for_timeout(400)
                page.wait_for_function(STILL, timeout=60_000)
            if told := objections(page):
                found[name] = told
        assert not found, "\n".join(
            f"{name}: {one}" for name, some in found.items() for one in some
        )


def test_on_a_phone(browser, url):
    with tab(browser, 390, 844, touch=True) as page:
        begin(page, url)
        assert not objections(page)


def test_a_fault_is_found(browser, url):
    with tab(browser) as page:
        begin(page, url)
        page.evaluate("() => document.body.append(document.createElement('img'))")
        assert any(one.startswith("image-alt") for one in objections(page))
