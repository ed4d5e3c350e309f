"The sentence over a board is about this board, whatever was done; an edit that nothing shows is said."

from boards import answered, opened, url  # noqa: F401
from chromium import needs_chromium

pytestmark = needs_chromium
CAPTION = "there is a big red circle left and a big cat top-right"


def test_the_story_is_of_this_board(browser, url):  # noqa: F811
    with opened(browser, url) as page:
        story, edit = page.locator(".mb-story"), page.locator(".mb-edit textarea")
        assert "as a first edit we wrote “blue”" in story.inner_text()
        with answered(page):
            edit.fill(CAPTION.replace("red", "green"))
        assert (
            story.inner_text() == "The circle is hidden. The caption says that the circle is red."
        )
        with answered(page):
            page.locator("[data-word='5']").click()
        assert story.inner_text().startswith("The circle and the word “red” are hidden.")
        assert page.locator("figcaption b").all_inner_texts()[:2] == ["together", "each alone"]
        assert "predicted word:" in page.locator(".mb-with").inner_text()
        with answered(page):
            page.get_by_role("button", name="Clear mask").click()
        assert story.inner_text().startswith("Nothing is hidden")


def test_an_edit_of_what_is_in_full_view_is_told(browser, url):  # noqa: F811
    with opened(browser, url) as page:
        assert page.locator(".mb-notes p").count() == 0
        with answered(page):
            page.locator(".mb-edit textarea").fill(CAPTION.replace("cat", "dog"))
        assert "about the cat, which nothing hides" in page.locator(".mb-notes").inner_text()
