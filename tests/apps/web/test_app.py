"The page as a person meets it: served by this process, driven in headless Chromium, and nothing leaves the machine."

from io import BytesIO

from boards import answered, drag, masked, opened, pixels, url
from chromium import needs_chromium, tab
from PIL import Image

from mvl_bench.apps.board import codec as compact

pytestmark = needs_chromium
__all__ = ["url"]  # a fixture


def test_opens_answered_and_follows_clicks(browser, url):
    with opened(browser, url) as page:
        assert page.locator(".mb-pic canvas").count() == 4 and len(masked(page)) == 12
        assert "circle is hidden" in page.locator(".mb-story").inner_text()
        assert page.locator(".mb-edited mark").inner_text() == "blue"
        assert page.locator(".mb-notes p").count() == 0
        before = pixels(page)
        with answered(page):
            page.locator(".mb-cell").nth(6).click()
        assert 6 in masked(page) and pixels(page) != before
        with answered(page):
            drag(page, 56, 59)
        assert {56, 57, 58, 59} <= set(masked(page))
        with answered(page):
            page.keyboard.down("Shift")
            drag(page, 0, 63, steps=2)  # a quick hand: patches between two reports count too
            page.keyboard.up("Shift")
        assert not {0, 9, 18, 27, 36, 45, 54, 63} & set(masked(page))
        with answered(page):
            page.locator(".mb-chips").get_by_text("red", exact=True).click()
        assert masked(page, "word") == [5]
        assert page.locator(".mb-guess > .mb-chip").count() == 4
        assert not page.locator(".mb-number").first.is_visible()
        page.get_by_label("numbers").check()
        assert page.locator(".mb-bars li").count() >= 20
        assert page.locator(".mb-heat").first.is_visible()
        assert "mean error" in page.locator(".mb-with").inner_text()
        page.locator(".mb-cell").nth(16).hover()
        assert "row 3 column 1: with 0." in page.locator(".mb-read").inner_text()


def test_keyboard_alone(browser, url):
    with opened(browser, url) as page:
        place = "document.activeElement.getAttribute('aria-label')"
        page.keyboard.press("Tab")
        while page.evaluate(place) != "row 1 column 1":
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement !== document.body")
        walk = dict(ArrowDown="2 1", ArrowRight="2 2", End="2 8", PageDown="4 8", Home="4 1")
        walk |= {"Control+End": "8 8", "ArrowRight ": "8 8", "PageUp": "6 8", "Control+Home": "1 1"}
        for key, at in walk.items():
            page.keyboard.press(key.strip())
            assert page.evaluate(place) == "row {} column {}".format(*at.split()), key
        live = page.locator(".mb-live[aria-live]")
        with answered(page):
            page.keyboard.press(" ")
        assert live.inner_text() == "patch row 1 column 1 hidden, 13 of 64"
        with answered(page):
            page.keyboard.press("Shift+ArrowRight")
        assert {0, 1} <= set(masked(page)) and page.evaluate(place) == "row 1 column 2"
        with answered(page):
            page.keyboard.press(" ")
        assert live.inner_text() == "patch row 1 column 2 shown, 13 of 64"
        page.keyboard.press("Tab")
        page.keyboard.press("End")
        assert page.evaluate(place).startswith("top-right")
        with answered(page):
            page.keyboard.press("Enter")
        assert live.inner_text() == "word top-right hidden, 1 of 12" and masked(page, "word") == [
            12
        ]
        assert page.locator(".mb-cell[tabindex='0']").count() == 1
        assert page.locator(".mb-chips [tabindex='0']").count() == 1


def test_edit_shares_patterns_and_examples(browser, url):
    with opened(browser, url) as page:
        with answered(page):
            page.locator(".mb-edit textarea").fill(
                "there is a big green circle left and a big cat top-right"
            )
        assert page.locator(".mb-edited mark").inner_text() == "green"
        assert "redrawn" in page.locator(".mb-edited").inner_text()
        assert "redrawn scene" in page.locator(".mb-edited .mb-verdict").inner_text()
        share = page.get_by_label("Picture hidden", exact=True)
        share.focus()
        with answered(page):
            share.press("End")
        assert len(masked(page)) == 64
        share.press("Home")
        with answered(page):
            share.fill("25")
        some = masked(page)
        assert len(some) == 16
        with answered(page):
            page.get_by_label("Picture hidden: pattern").select_option("block")
        assert len(masked(page)) == 16 and masked(page) != some
        with answered(page):
            page.get_by_role("button", name="Clear mask").click()
        assert masked(page) == [] and share.input_value() == "0"
        assert page.get_by_label("Picture hidden: pattern").input_value() == "block"
        with answered(page):
            page.locator("[data-card='1']").click()
        assert page.locator(".mb-none").count() == 1 and masked(page, "word") == [9]
        with answered(page):
            page.get_by_role("button", name="Next scene").click()
        assert page.locator(".mb-notes p").count() == 0  # the drawn world is its own


def test_models_null_controls_and_honest_pictures(browser, url):
    with opened(browser, url) as page:
        before = pixels(page)
        with answered(page):
            page.get_by_label("the model that answers").select_option("random")
        other = pixels(page)
        assert other != before and len(masked(page)) == 12
        with answered(page):
            page.get_by_label("the model that answers").select_option("maskvlm-tiny")
        assert pixels(page) == before
        with answered(page):
            page.get_by_label("untrained model").check()
        assert pixels(page) != before and "random weights" in page.locator(".mb-null").inner_text()
        with answered(page):
            page.get_by_label("untrained model").uncheck()
        assert "within the dashed line" in page.locator(".mb-honest").inner_text()
        with answered(page):
            page.get_by_label("raw output").check()
        told = page.locator(".mb-honest").inner_text()
        assert (
            "never scored visible patches" in told
            and "not even its mean colour" in told
            and pixels(page) != before
        )


def test_576_patches(browser, url):
    with opened(browser, url) as page:
        share = len(masked(page)) / 64
        with answered(page):
            page.get_by_label("the model that answers").select_option("fine")
        assert page.locator(".mb-cell").count() == 576 and len(masked(page)) == share * 576
        with answered(page):
            page.get_by_role("button", name="Clear mask").click()
        with answered(page):
            drag(page, 0, 575, steps=3)
        assert masked(page) == [25 * i for i in range(24)]
        page.keyboard.press("Control+Home")
        with answered(page):
            page.keyboard.press("Shift+ArrowDown")
        assert 24 in masked(page)
        with answered(page):
            page.get_by_label("the model that answers").select_option("maskvlm-tiny")
        assert page.locator(".mb-cell").count() == 64


def test_own_picture_and_caption(browser, url, tmp_path):
    file = BytesIO()
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 50).convert("RGB").save(file, "PNG")
    (tmp_path / "mine.png").write_bytes(file.getvalue())
    (tmp_path / "broken.png").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    (tmp_path / "large.png").write_bytes(b"\x89PNG" + bytes(4_000_000))
    with opened(browser, url) as page:
        bring, caption = page.locator("input[type=file]"), page.get_by_label("Its caption")
        go = page.get_by_role("button", name="Open this pair")
        before = page.locator(".mb").get_attribute("data-answered")
        bring.set_input_files(tmp_path / "mine.png")
        page.locator(".mb-lacks", has_text="describe it").wait_for()
        assert go.is_disabled() and page.locator(".mb").get_attribute("data-answered") == before
        hostile = "<script>window.hit = 1</script> <img src=x onerror='window.hit = 1'> a zebra "
        caption.fill(hostile + "red " * 30)
        with answered(page):
            go.click()
        note = page.locator(".mb-notes").inner_text()
        assert "outside the drawn world" in note and "farther from the average than 100%" in note
        assert "zebra" in note and "does not know" in note and "left out" in note
        assert len(masked(page)) == page.locator(".mb-cell").count() / 2
        assert page.locator(".mb-chips").get_by_text("script", exact=True).count() == 2
        assert page.evaluate("window.hit") is None and page.locator("img[src=x]").count() == 0
        bring.set_input_files(tmp_path / "large.png")
        page.locator(".mb-error", has_text="large.png is larger than 3 MB").wait_for()
        bring.set_input_files(tmp_path / "broken.png")
        page.locator(".mb-file", has_text="broken.png").wait_for()
        go.click()
        page.locator(".mb-error", has_text="broken.png is broken").wait_for()
        caption.fill(" ")
        assert go.is_disabled()
        assert "Traceback" not in page.content()


def test_of_a_moving_picture_the_first_frame_is_shown(browser, url, tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with opened(browser, url) as page:
        page.locator("input[type=file]").set_input_files(tmp_path / "moving.gif")
        page.get_by_label("Its caption").fill("a red square")
        with answered(page):
            page.get_by_role("button", name="Open this pair").click()
        assert "Shown is the first of 3 frames." in page.locator(".mb-notes").inner_text()


def test_a_link_opens_the_same_board(browser, url):
    with opened(browser, url) as page:
        with answered(page):
            drag(page, 0, 7)
        with answered(page):
            page.locator(".mb-edit textarea").fill("a dog")
        page.get_by_role("button", name="Copy link").click()
        page.wait_for_function("location.hash.startsWith('#b=')")
        link, own, shown = page.url, masked(page), pixels(page, "wrong")
    with tab(browser) as page:
        page.goto(link)
        page.locator(".mb[data-answered]").wait_for()
        page.locator(".mb-story", has_text="came as a link").wait_for()
        page.locator(".mb[aria-busy]").wait_for(state="detached")
        page.wait_for_function("document.querySelector('.mb').dataset.answered > 1")
        assert masked(page) == own and pixels(page, "wrong") == shown
        assert page.locator(".mb-edit textarea").input_value() == "a dog"
        hostile = compact.to_link(compact.from_link(link) | dict(patches="0-99999999"))
        page.evaluate("link => { location.hash = link; }", hostile)
        page.locator(".mb-error").wait_for()
        told = page.locator(".mb-error").inner_text()
        assert told.startswith("this is no board") and "\n" not in told and masked(page) == own


def test_fits_a_phone_in_both_themes(browser, url):
    for theme in ("light", "dark"):
        with opened(browser, f"{url}?__theme={theme}", width=390, height=844, touch=True) as page:
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            parts = ("grid", "chips", "columns", "edit", "tools", "own")
            tops = [page.locator(f".mb-{part}").bounding_box()["y"] for part in parts]
            assert tops == sorted(tops)
            with answered(page):
                page.locator(".mb-cell").nth(6).tap()
            assert 6 in masked(page)
            seen = page.locator(".mb-with .mb-pic").bounding_box()  # what a tap does is in view
            assert seen["y"] + seen["height"] <= 844
