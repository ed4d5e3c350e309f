"The page as a person meets it: served by this process, driven in headless Chromium, and nothing leaves the machine."

import socket
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO

import gradio as gr
import pytest
import torch
from chromium import needs_chromium, tab
from PIL import Image

from mvl_bench import app, checkpoints
from mvl_bench.core import UserError
from mvl_bench.data import make_tokenizer
from mvl_bench.maskvlm import MaskVLM, maskvlm_tiny
from mvl_bench.scenes import Scenes

pytestmark = needs_chromium


def untrained():
    "A small model with random weights, for a checkout without the shipped checkpoint."
    torch.manual_seed(0)
    tokenizer = make_tokenizer(Scenes())
    ids = dict(pad_id=tokenizer.pad_token_id, mask_id=tokenizer.mask_token_id)
    depths = dict(image_depth=1, text_depth=1, cross_depth=1, embed_dim=32, num_heads=2)
    model = MaskVLM(replace(maskvlm_tiny(), vocab_size=len(tokenizer), **ids, **depths)).eval()
    model.tokenizer, model.facts = tokenizer, dict(data="scenes")
    return model


@pytest.fixture(scope="module")
def url():
    "Address of the page."
    try:
        model = checkpoints.load("maskvlm-tiny")
    except UserError:
        model = untrained()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    blocks = app.build(model, "maskvlm-tiny")
    yield app.open_page(blocks)
    blocks.close()
    torch.set_num_threads(threads)


@contextmanager
def opened(browser, url, **window):
    "The page in a fresh tab, answered; afterwards: no complaint, no request to another machine, no picture kept."
    with tab(browser, **window) as page:
        page.goto(url)
        page.locator(".mb-column").nth(3).wait_for()
        yield page
        assert "data:image" not in page.evaluate("() => JSON.stringify(localStorage)")


@contextmanager
def changes(page, what):
    "Wait until something on the page is no longer as it was."
    look = f"() => [...document.querySelectorAll(`{what}`)].map(e => e.src ?? e.value ?? e.textContent).join()"
    before = page.evaluate(look)
    yield
    page.wait_for_function(f"before => ({look})() !== before", arg=before)


def pressed(page, kind):
    "Places of what is hidden on the board."
    found = page.locator(f"#mb-board [data-{kind}][aria-pressed=true]")
    return [int(place) for place in found.evaluate_all(f"all => all.map(e => e.dataset.{kind})")]


PAINTED = ".mb-pic img"


def test_opens_answered_and_follows_clicks(browser, url):
    with opened(browser, url) as page:
        assert page.locator(PAINTED).count() == 4 and len(pressed(page, "patch")) > 3
        assert all(
            page.locator(PAINTED).evaluate_all(
                "all => all.map(e => e.complete && e.naturalWidth > 99)"
            )
        )
        assert "circle is hidden" in page.locator("#mb-head").inner_text()
        assert (
            page.locator(".mb-edited mark").inner_text() == "blue"
            and page.locator(".mb-note").count() == 0
        )
        with changes(page, PAINTED):
            page.locator("[data-patch='6']").click()
        assert 6 in pressed(page, "patch")
        with changes(page, PAINTED):  # the keyboard: an arrow, then space
            page.keyboard.press("ArrowRight")
            page.keyboard.press(" ")
        assert {6, 7} <= set(pressed(page, "patch"))
        page.locator("#mb-board").get_by_text("red", exact=True).click()
        page.locator(".mb-guess").nth(3).wait_for()
        assert page.locator(".mb-guess .mb-chip").count() == 4
        assert not page.locator(".mb-number").first.is_visible()
        page.get_by_label("numbers").check()
        assert (
            page.locator(".mb-bars").first.is_visible()
            and page.locator(".mb-bars li").count() >= 20
        )
        assert (
            page.locator(".mb-heat").count() == 4
            and "mean error" in page.locator(".mb-with").inner_text()
        )


def test_edit_shares_and_examples(browser, url):
    with opened(browser, url) as page:
        with changes(page, f".mb-edited {PAINTED}"):
            page.locator("#mb-edit textarea").fill(
                "there is a big green circle left and a big cat top-right"
            )
        assert page.locator(".mb-edited mark").inner_text() == "green"
        assert "redrawn" in page.locator(".mb-edited .mb-truth").inner_text()
        share = page.locator("#mb-tools input[type=range]").first
        share.focus()
        with changes(page, PAINTED):
            share.press("End")
        page.wait_for_function(
            "document.querySelectorAll('[data-patch][aria-pressed=true]').length === 64"
        )
        with changes(page, PAINTED):
            page.get_by_role("button", name="Show all").click()
        assert pressed(page, "patch") == [] and share.input_value() == "0"
        with changes(page, "#mb-head p"):
            page.locator("[data-card='1']").click()
        assert page.locator(".mb-none").count() == 1 and pressed(page, "word")
        with changes(page, "#mb-board .mb-chip"):
            page.get_by_role("button", name="Another scene").click()
        assert page.locator(".mb-note").count() == 0  # the drawn world is its own


def test_own_picture_and_caption(browser, url, tmp_path):
    file = BytesIO()
    Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 50).convert("RGB").save(file, "PNG")
    (tmp_path / "mine.png").write_bytes(file.getvalue())
    (tmp_path / "broken.png").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with opened(browser, url) as page:
        with changes(page, PAINTED):
            page.locator("#mb-own input[type=file]").set_input_files(tmp_path / "mine.png")
        assert "outside the drawn world" in page.locator(".mb-note").inner_text()
        with changes(page, "#mb-note"):
            page.locator("#mb-own input[type=file]").set_input_files(tmp_path / "broken.png")
        assert page.locator(".mb-error").inner_text().startswith("the picture broken.png is broken")
        hostile = (
            "<script>window.hit = 1</script> <img src=x onerror='window.hit = 1'> a zebra "
            + "red " * 30
        )
        page.locator("#mb-caption textarea, #mb-caption input").fill(hostile)
        with changes(page, "#mb-board .mb-chip"):
            page.get_by_role("button", name="Use this caption").click()
        assert page.locator("#mb-board").get_by_text("script", exact=True).count() == 2
        note = page.locator(".mb-note").inner_text()
        assert "zebra" in note and "does not know" in note and "left out" in note
        assert page.evaluate("window.hit") is None and page.locator("img[src=x]").count() == 0
        page.locator("#mb-caption textarea, #mb-caption input").fill(" ")
        with changes(page, "#mb-note"):
            page.get_by_role("button", name="Use this caption").click()
        assert "the caption is empty" in page.locator(".mb-error").inner_text()
        page.locator("#mb-caption textarea, #mb-caption input").fill("red " * 700)
        page.get_by_role("button", name="Use this caption").click()
        page.locator(".mb-error").get_by_text("2,799 characters, over 2,000").wait_for()
        assert "Traceback" not in page.content()


def test_fits_a_phone_in_both_themes(browser, url):
    for theme in ("light", "dark"):
        with opened(browser, f"{url}?__theme={theme}", width=390, height=844, touch=True) as page:
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            tops = [
                page.locator(f"#mb-{part}").bounding_box()["y"]
                for part in ("board", "edit", "answer", "tools", "own")
            ]
            assert tops == sorted(tops)
            with changes(page, PAINTED):
                page.locator("[data-patch='6']").tap()
            assert 6 in pressed(page, "patch")


def test_a_taken_port_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with gr.Blocks() as blocks:
            gr.Markdown("nothing")
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1"):
            app.open_page(blocks, port=port)
