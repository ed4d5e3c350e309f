"A run in JupyterLab: its losses and pairs are seen while the cell is busy, and its button saves and ends it."

import os
from pathlib import Path

import pytest
from chromium import needs_chromium, tab
from jupyter import notebook_command, serving
from playwright.sync_api import expect
from test_panels_lab import SHOTS, SLOW

pytestmark = [needs_chromium, pytest.mark.slow]
SIZES = "preset='mini', batch_size=16, probe_every=10, save_every=5000, log_every=5, warmup=5"
CELLS = (
    f"import mvl_bench as mvl\n\ncheckpoint = mvl.train('scenes:shapes', out='run', steps=4000, {SIZES})",
    "step = int(checkpoint.name.removeprefix('step-'))\nprint('saved before the end:', 20 < step < 4000, mvl.load(checkpoint).facts['steps'] == step)",
)


@pytest.mark.parametrize("theme", ["Light", "Dark"] if SHOTS else ["Light"])
def test_a_run_is_watched_and_stopped(browser, tmp_path, theme):
    command = notebook_command(CELLS, tmp_path, "run.ipynb")
    looks = {"apputils-extension/themes": dict(theme=f"JupyterLab {theme}")}
    with serving(command, tmp_path, looks) as url, tab(browser, 1500, 1400, silent=False) as page:
        page.set_default_timeout(SLOW)
        page.goto(url)
        page.get_by_text("| Idle").first.wait_for()
        for n in range(2):
            page.locator(".jp-CodeCell .cm-content").nth(n).click()
            page.keyboard.press("Control+Enter")
        part = page.locator(".jp-CodeCell").first.locator(".mb-panel")
        stop = part.get_by_role("button", name="Stop training")
        expect(part.get_by_text("At step")).to_be_visible(timeout=SLOW)
        bar = part.get_by_label("recorded step")
        page.wait_for_function("e => Number(e.max) >= 2", arg=bar.element_handle(), timeout=SLOW)
        assert part.locator(".mb-timeline-charts figure").count() >= 4  # the cell is busy meanwhile
        if SHOTS:
            part.screenshot(path=str(Path(SHOTS) / f"training-{theme}.png"))
        stop.click()
        said = page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output")
        expect(said).to_have_text("saved before the end: True True", timeout=SLOW)
        expect(stop).to_be_hidden()
        assert os.listdir(tmp_path / "run" / "checkpoints")
        errors = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type*=error]"
        assert page.locator(errors).all_inner_texts() == []
