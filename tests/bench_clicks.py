"Clicks in the browser: `python tests/bench_clicks.py [--json FILE]`. The rest is in `mvl-bench bench`."

import argparse
import json
import os
import statistics
from pathlib import Path

os.environ |= dict(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

from chromium import CHROMIUM, FLAGS, tab
from playwright.sync_api import sync_playwright

from mvl_bench import app
from mvl_bench.checkpoints import load

CLICK = """place => new Promise(done => {
  const look = () => [...document.querySelectorAll('.mb-pic img')].map(e => e.complete && e.src).join();
  const before = look(), begun = performance.now();
  const wait = () => look() === before || look().includes('false') ? requestAnimationFrame(wait) : done(performance.now() - begun);
  document.querySelector(`[data-patch='${place}']`).click();
  wait();
})"""


def bench_clicks(clicks: int = 40) -> dict:
    "From a click on a patch of the page to the new pictures, in headless Chromium with the shipped model."
    if CHROMIUM is None:
        return dict(runs=0, note="needs Chromium")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with tab(chromium) as page:
            page.goto(app.open_page(app.build(load("maskvlm-tiny"), "maskvlm-tiny")))
            page.locator(".mb-column").nth(3).wait_for()
            took = []
            for i in range(
                clicks + 4
            ):  # the first few warm up; a person looks before the next click
                took.append(page.evaluate(CLICK, str(7 * i % 64)))
                page.wait_for_timeout(500)
            took = took[4:]
        chromium.close()
    cut = statistics.quantiles(took, n=20)
    return dict(p50=cut[9], p95=cut[18], runs=len(took))


def main() -> None:
    "Measure, print, write JSON."
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--json", type=Path, help="write the same as JSON")
    asked, found = asked.parse_args(), bench_clicks()
    print(
        *(f"click to new pictures, ms {name:5}{value:>8}" for name, value in found.items()),
        sep="\n",
    )
    if asked.json:
        asked.json.write_text(json.dumps(dict(click_ms=found), indent=1))


if __name__ == "__main__":
    main()
