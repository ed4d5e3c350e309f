"The training timeline: the stored run, a run that grows, broken runs, and the page."

import json
import shutil

import pytest
from boards import begin, untrained
from chromium import needs_chromium, tab
from playwright.sync_api import expect

from mvl_bench.apps.panels import timeline
from mvl_bench.apps.panels.base import last_answer
from mvl_bench.apps.widgets.panels import TrainingTimeline
from mvl_bench.core import UserError, data_path


@pytest.fixture
def run(tmp_path):
    "A copy of the stored run."
    return shutil.copytree(data_path("runs", timeline.STORED), tmp_path / "run")


def drop_last(run):
    "Remove the newest recorded step and return its files' contents."
    newest = sorted((run / "probes").iterdir())[-2:]
    kept = {path: path.read_bytes() for path in newest}
    for path in newest:
        path.unlink()
    return kept


def test_the_stored_run():
    reply = last_answer(timeline.TIMELINE, {}, None)
    shown = reply["shown"]
    assert len(json.dumps(reply, allow_nan=False)) < 1_000_000
    assert len(shown["steps"]) > 15 and shown["at"] == len(shown["steps"]) - 1
    assert shown["steps"][-1]["recon"][0] < shown["steps"][-1]["recon"][1]  # the caption helps
    assert shown["steps"][0]["pictures"]["with"] != shown["steps"][-1]["pictures"]["with"]
    assert {"recon", "mlm"} == {loss["name"] for loss in shown["losses"]}
    about = json.loads((data_path("runs", timeline.STORED) / "run.json").read_text())
    assert {"command", "seed", "commit"} <= about["origin"].keys()


@pytest.mark.parametrize("settings", [dict(run="/"), dict(run=None), dict(step=-1), dict(step="x")])
def test_a_page_cannot_open_a_folder(settings):
    assert last_answer(timeline.TIMELINE, {}, None, dict(settings=settings))["error"]


def test_a_run_that_grows_is_followed(run):
    kept = drop_last(run)
    widget = TrainingTimeline(run)
    known = len(widget.shown["steps"])
    for path, data in kept.items():
        path.write_bytes(data)
    assert widget.refresh() == 1 and len(widget.shown["steps"]) == known + 1
    assert widget.refresh() == 0
    widget.close()


def test_broken_runs_are_one_sentence(run, tmp_path):
    with pytest.raises(UserError, match="no run's folder"):
        TrainingTimeline(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    ask = lambda folder: last_answer(timeline.timeline_panel(folder), {}, None)  # noqa: E731
    assert "probe_every" in ask(tmp_path / "empty")["error"]
    sorted((run / "probes").glob("*.png"))[0].write_bytes(b"none")
    assert "cannot be read as a picture" in ask(run)["error"]
    sorted((run / "probes").glob("*.json"))[0].write_text('{"step": 0}')
    assert "incomplete" in ask(run)["error"]


def test_a_long_run_is_thinned():
    assert timeline.thinned(range(1000), 40)[::39] == [0, 999]
    assert timeline.thinned([1, 2], 40) == [1, 2]


@needs_chromium
def test_play_and_step_in_the_page(browser):
    import gradio as gr

    from mvl_bench.apps.web import app, server
    from mvl_bench.apps.web.tabs import add_panel

    models = {"random": untrained()}
    with gr.Blocks() as blocks, gr.Tabs():
        with gr.Tab("Board"):
            board = app._board(models)
        add_panel(timeline.TIMELINE, models, board)
    url = server.open_page(blocks.queue())
    with tab(browser, width=390) as page:
        begin(page, url)
        page.get_by_role("tab", name="Training timeline").click()
        say = page.locator("#mb-timeline .mb-say")
        expect(say).to_contain_text("After step 400.", timeout=60_000)
        last = page.locator(".mb-tile").nth(1).evaluate("e => e.style.backgroundImage")
        page.get_by_role("button", name="Back", exact=True).click()
        expect(say).to_contain_text("After step 380.")
        assert page.locator(".mb-tile").nth(1).evaluate("e => e.style.backgroundImage") != last
        page.get_by_label("recorded step").fill("0")
        expect(say).to_contain_text("After step 0.")
        page.get_by_role("button", name="Play", exact=True).click()
        expect(say).not_to_contain_text("After step 0.")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    blocks.close(verbose=False)
