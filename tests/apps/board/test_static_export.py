"A board as a file: opened without a server, it answers from what it holds and says so."

import base64
import json
from dataclasses import replace

import pytest
from accessible import objections
from boards import BOARD, answered, drag, masked, pixels, shipped
from chromium import needs_chromium, tab

from mvl_bench.apps.board import codec as compact
from mvl_bench.apps.board.codec import pack
from mvl_bench.apps.board.events import EXAMPLES, example_board
from mvl_bench.apps.board.static_export import boards_to_store, export_board
from mvl_bench.apps.widgets.board import MaskBoard

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "Model, board and the address of its page."
    model = shipped()
    board = replace(example_board(model, *EXAMPLES[0]).board, model="maskvlm-tiny")
    path = export_board(model, board, tmp_path_factory.mktemp("page") / "board.html")
    return model, board, path.as_uri()


def test_the_page_answers_without_a_server(browser, made):
    model, board, url = made
    stored = boards_to_store(model, board)
    with tab(browser) as page:
        page.goto(url)
        page.locator(BOARD).wait_for()
        assert not objections(page)
        assert masked(page) == list(board.patches) and "stored answers" in page.inner_text("main")
        assert f"holds {len(stored)} answers" in page.locator("footer").inner_text()
        with answered(page):
            page.get_by_role("button", name="cat", exact=True).click()
        assert masked(page) == list(stored["cat"].patches)
        with answered(page):  # the nearest of the answers that hide this word
            page.locator("[data-word='5']").click()
        assert masked(page, "word") and 5 in masked(page, "word")
        with answered(page):
            page.get_by_role("button", name="circle", exact=True).click()
        with answered(page):  # beyond the circle: an answer that hides this patch too
            page.locator(".mb-cell").nth(63).click()
        assert 63 in masked(page)
        now = (tuple(masked(page)), tuple(masked(page, "word")))
        assert now in {(one.patches, one.words) for one in stored.values()}
        with answered(page):
            drag(page, 0, 3)
        assert set(range(4)) <= set(masked(page))
        with answered(page):
            page.get_by_role("button", name="circle", exact=True).click()
        before, edits = pixels(page, "edited"), page.locator(".mb-edit option")
        assert edits.count() > 3
        with answered(page):
            page.locator(".mb-edit select").select_option(index=2)
        assert pixels(page, "edited") != before
        assert edits.nth(2).inner_text() == page.locator(".mb-edited figcaption span").inner_text()
        page.get_by_label("numbers").check()
        assert page.locator(".mb-with .mb-score").first.is_visible()
        page.get_by_role("button", name="Copy link").click()
        page.wait_for_function("location.hash.startsWith('#b=')")
        again = MaskBoard.from_link(page.url, {"maskvlm-tiny": model})
        assert tuple(again.patches) == board.patches and again.edit != board.edit


def test_links_made_elsewhere(browser, made):
    model, board, url = made
    widget = MaskBoard({"maskvlm-tiny": model}, board=board)
    widget.patches = [*board.patches][1:]  # nearly the circle
    other = compact.to_link(pack(example_board(model, *EXAMPLES[1]).board))
    for link, told in (
        (widget.link[len("http://127.0.0.1:7860/") :], "nearest stored answer"),
        (other, "another pair"),
        ("#b=AAAA", "no board"),
    ):
        with tab(browser) as page:
            page.goto(url + link)
            page.locator(".mb-notes", has_text=told).wait_for()
            assert masked(page) == list(board.patches)


@pytest.mark.parametrize(
    "change",
    [
        dict(patches="0-99999999"),
        dict(patches=",".join(["0-9999"] * 2000)),
        dict(patches=5),
        dict(words=[1, 2]),
        dict(patches="9-3"),
        dict(words="-1"),
        dict(view=7),
        dict(edit=7),
    ],
    ids=str,
)
def test_a_broken_link_is_refused(browser, made, change):
    _, board, url = made
    text = json.dumps(pack(board) | change).encode()
    link = "#b=" + base64.urlsafe_b64encode(text).decode().rstrip("=")
    with tab(browser) as page:
        page.goto(url + link)
        page.locator(".mb-notes", has_text="no board").wait_for()
        assert masked(page) == list(board.patches)
        with answered(page):
            page.get_by_role("button", name="cat", exact=True).click()


def test_a_hostile_caption_is_text(browser, made, tmp_path):
    model, board, _ = made
    caption = "</script><script>window.hit = 1</script> <img src=x onerror='window.hit = 1'> red"
    hostile = replace(
        board, scene=None, caption=caption, edit="<b>blue</b>", words=(), patches=(9,)
    )
    path = export_board(model, hostile, tmp_path / "hostile.html", "<i>")
    with tab(browser, width=390, height=844, touch=True) as page:
        page.goto(path.as_uri())
        page.locator(BOARD).wait_for()
        assert page.evaluate("window.hit") is None and page.locator("img[src=x], i").count() < 2
        assert json.dumps(masked(page)) == "[9]"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
