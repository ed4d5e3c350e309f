"The pair bench as a person meets it: on the page, driven in headless Chromium, and in a notebook's front end."

import os

import numpy as np
from boards import opened, url
from chromium import needs_chromium

from mvl_bench.apps.widgets.experiments import PairBench
from mvl_bench.evaluation.item_matching import PairScores
from mvl_bench.viz.tasks import DOTS, score_rows, jittered_points

__all__ = ["url"]  # a fixture
BENCH = ".mb-bench img"


@needs_chromium
def test_open_drag_and_click(browser, url):
    scores = PairScores.load()
    with opened(browser, url) as page:
        page.get_by_role("tab", name="Pairs").click()
        page.locator(BENCH).wait_for()
        shot = os.environ.get("BENCH_SHOT")
        if shot:
            page.wait_for_timeout(500)
            page.screenshot(path=f"{shot}-light.png")
        first = page.locator(BENCH).get_attribute("src")
        i = next(k for k, kind in enumerate(scores.kinds) if kind == "differs in colour")
        x, y = jittered_points(scores, "words alone")[i]
        place = (
            DOTS[0] + (x + 0.02) / 1.04 * DOTS[2],
            DOTS[1] + (y + 0.5) / len(score_rows(scores)) * DOTS[3],
        )
        box = page.locator(BENCH).bounding_box()
        page.mouse.click(
            box["x"] + place[0] * box["width"], box["y"] + (1 - place[1]) * box["height"]
        )
        told = " and ".join(scores.source().text_of(scores.ids[i]).texts)
        page.locator(f"{BENCH}[alt*='pair {i}: {told}']").wait_for()  # the pair under the click
        assert page.locator(BENCH).get_attribute("src") != first
        page.mouse.click(
            box["x"] + 0.2 * box["width"], box["y"] + 0.35 * box["height"]
        )  # the curve
        page.wait_for_function(
            "() => document.querySelector('[aria-label*=threshold]').value != 0.5"
        )
        page.get_by_label("pictures alone").check()
        page.evaluate("document.body.classList.add('dark')")
        page.get_by_label("both", exact=True).check()
        page.wait_for_timeout(800)
        if shot:
            page.screenshot(path=f"{shot}-dark.png")


def test_the_widget_follows_python_and_clicks():
    bench = PairBench()
    seen = {bench.picture.png}
    for change in (dict(threshold=0.9), dict(condition="pictures alone"), dict(at=9)):
        for name, value in change.items():
            setattr(bench, name, value)
        assert bench.picture.png not in seen
        seen.add(bench.picture.png)
    cut, number = bench.children[0].children[1], bench.children[0].children[2]
    assert (cut.value, number.value) == (0.9, 9)
    number.value = 30  # and the controls set Python
    assert bench.at == 30 and f"pair {bench.at}:" in bench.picture.alt_text
    x, y = jittered_points(bench.scores, "pictures alone")[77]
    y = DOTS[1] + (y + 0.5) / len(score_rows(bench.scores)) * DOTS[3]
    bench.picture.place = [float(DOTS[0] + (x + 0.02) / 1.04 * DOTS[2]), float(1 - y)]
    assert np.allclose(
        jittered_points(bench.scores, "pictures alone")[bench.at],
        jittered_points(bench.scores, "pictures alone")[77],
        atol=0.05,
    )
