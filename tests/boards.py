"What the tests of the board share: a model, waiting for an answer, and what is hidden."

from contextlib import contextmanager

import pytest
import torch
from chromium import tab

from mvl_bench.core import UserError, update
from mvl_bench.data.factory import make_tokenizer
from mvl_bench.data.scenes import Scenes
from mvl_bench.models import registry as checkpoints
from mvl_bench.models.maskvlm import MaskVLM, maskvlm_tiny


def untrained(**changes):
    "A small model with random weights, for a checkout without the shipped checkpoint."
    torch.manual_seed(1)
    tokenizer = make_tokenizer(Scenes())
    ids = dict(pad_id=tokenizer.pad_token_id, mask_id=tokenizer.mask_token_id)
    depths = dict(image_depth=1, text_depth=1, cross_depth=1, embed_dim=32, num_heads=2)
    model = MaskVLM(
        update(maskvlm_tiny(), vocab_size=len(tokenizer), **ids, **depths, **changes)
    ).eval()
    model.tokenizer, model.facts = tokenizer, dict(data="scenes")
    return model


def shipped(name="maskvlm-tiny"):
    "A shipped model, or the small one."
    try:
        return checkpoints.load(name)
    except UserError:
        return untrained()


@pytest.fixture(scope="module")
def url():
    "Address of the page."
    from mvl_bench.apps.web import app, server

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fine = untrained(img_size=(96, 96), patch_size=4, mask_size=8)  # 24 x 24 patches
    blocks = app.build({"maskvlm-tiny": shipped(), "random": untrained(), "fine": fine})
    yield server.open_page(blocks)
    blocks.close(verbose=False)
    torch.set_num_threads(threads)


BOARD = ".mb[data-answered]"
COUNT = "() => [...document.querySelectorAll('.mb')].map(e => e.dataset.answered).join()"


def begin(page, url, theme="light"):
    "The page with its board."
    page.goto(f"{url}?__theme={theme}")
    page.locator(BOARD).wait_for()


@contextmanager
def answered(page):
    "Wait until every picture of an answer is painted."
    before = page.evaluate(COUNT)
    yield
    page.wait_for_function(f"before => ({COUNT})() !== before", arg=before)
    page.locator(".mb[aria-busy]").first.wait_for(state="detached")


def masked(page, kind="patch"):
    "Places of what is hidden on the first board."
    if kind == "word":
        found = page.locator(".mb").first.locator("[data-word][aria-pressed=true]")
        return [int(place) for place in found.evaluate_all("a => a.map(e => e.dataset.word)")]
    cells = page.locator(".mb").first.locator(".mb-cell")
    return cells.evaluate_all(
        "a => a.flatMap((e, i) => e.getAttribute('aria-selected') === 'true' ? [i] : [])"
    )


def pixels(page, name="with"):
    "Mean colour of the hidden part of a column's picture."
    return page.locator(f".mb-{name} .mb-pic canvas").first.evaluate(
        """canvas => { const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data, sum = [0, 0, 0];
        data.forEach((value, i) => { if (i % 4 < 3) sum[i % 4] += value; }); return sum.map(s => s / data.length * 4); }"""
    )


def drag(page, first, last, steps=8):
    "Draw with the mouse from one patch of the first board to another."
    cells = page.locator(".mb").first.locator(".mb-cell")
    boxes = [cells.nth(i).bounding_box() for i in (first, last)]
    ends = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
    page.mouse.move(*ends[0])
    page.mouse.down()
    page.mouse.move(*ends[1], steps=steps)
    page.mouse.up()


@contextmanager
def opened(browser, url, **window):
    "The page in a fresh tab, answered; afterwards: no complaint, no request to another machine, no picture kept."
    with tab(browser, **window) as page:
        page.goto(url)
        page.locator(BOARD).wait_for()
        yield page
        assert "data:image" not in page.evaluate("() => JSON.stringify(localStorage)")
