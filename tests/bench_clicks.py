"Clicks in the browser: `python tests/bench_clicks.py [--json FILE]`, on a quiet machine. The rest is in `mvl-bench bench`."

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

os.environ |= dict(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import nbformat
import torch
from chromium import CHROMIUM, FLAGS, tab
from jupyter import serving
from playwright.sync_api import sync_playwright

from mvl_bench.apps.web import app, server
from mvl_bench.models.registry import load

CLICK = """place => new Promise(done => {
  const board = document.querySelector('.mb'), cell = board.querySelectorAll('.mb-cell')[place], box = cell.getBoundingClientRect();
  const before = board.dataset.answered, begun = performance.now(), at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
  const wait = () => board.dataset.answered === before ? requestAnimationFrame(wait) : done(performance.now() - begun);
  for (const kind of ['pointerdown', 'pointerup']) cell.dispatchEvent(new PointerEvent(kind, { ...at, bubbles: true, pointerType: 'mouse', pointerId: 1 }));
  wait();
})"""


def clicks(page, many: int = 40) -> dict:
    "Milliseconds from a click on a patch to the new pictures; a person looks before the next click."
    page.evaluate("() => { Element.prototype.setPointerCapture = () => {}; }")
    took = []
    for i in range(many + 4):  # the first few warm up
        took.append(page.evaluate(CLICK, 7 * i % 64))
        page.wait_for_timeout(400)
    cut = statistics.quantiles(took[4:], n=20)
    return dict(p50=round(cut[9], 1), p95=round(cut[18], 1), runs=many)


def in_app(chromium) -> dict:
    "In the page of `mvl-bench demo`."
    torch.set_num_threads(1)
    with tab(chromium) as page:
        page.goto(server.open_page(app.build({"maskvlm-tiny": load("maskvlm-tiny")})))
        page.locator(".mb[data-answered]").wait_for()
        return clicks(page)


def in_notebook(chromium) -> dict:
    "In the output of a cell in JupyterLab."
    cell = nbformat.v4.new_code_cell(
        "from mvl_bench.apps.widgets.board import MaskBoard\n\nMaskBoard()"
    )
    book = nbformat.v4.new_notebook(cells=[cell])
    book.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        nbformat.write(book, folder / "board.ipynb")
        command = [sys.executable, "-m", "jupyterlab", "--allow-root", f"--notebook-dir={folder}"]
        command += ["--LabApp.default_url=/lab/tree/board.ipynb"]
        with serving(command, folder) as url, tab(chromium, 1400, 1200, silent=False) as page:
            page.goto(url)
            page.get_by_text("| Idle").first.wait_for(timeout=90_000)
            page.locator(".jp-CodeCell .cm-content").first.click()
            page.keyboard.press("Control+Enter")
            page.locator(".mb[data-answered]").wait_for(timeout=60_000)
            return clicks(page)


def bench_clicks() -> dict:
    "From a click on a patch to four new pictures, in headless Chromium with the shipped model."
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        found = dict(app=in_app(chromium), notebook=in_notebook(chromium))
        chromium.close()
    return found


def main() -> None:
    "Measure, print, write JSON."
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--json", type=Path, help="write the same as JSON")
    asked = asked.parse_args()
    if CHROMIUM is None:
        sys.exit("needs Chromium: apt-get install chromium")
    found = bench_clicks()
    for name, took in found.items():
        print(
            f"click to new pictures, {name:9} p50 {took['p50']:6.1f} ms, p95 {took['p95']:6.1f} ms"
        )
    if asked.json:
        asked.json.write_text(json.dumps(dict(click_ms=found), indent=1))


if __name__ == "__main__":
    main()
