"The panels in JupyterLab, by mouse and keyboard; a timeline of a run that goes on while it is watched."

import os
from pathlib import Path

import pytest
from chromium import needs_chromium, tab
from jupyter import notebook_command, serving
from playwright.sync_api import expect
from samples import ROOT

pytestmark = [needs_chromium, pytest.mark.slow]
SHOTS = os.environ.get("SHOTS")  # a folder to keep pictures in, for people to look at
CELLS = (
    "from boards import shipped\nfrom mvl_bench.apps.widgets import panels\n\nmodel = shipped()\nplayer = panels.DecodingPlayer(model)\nplayer",
    "lab = panels.MaskingLab(model)\nlab",
    "influence = panels.InfluenceMap(model)\ninfluence",
    """from threading import Thread
from time import sleep

from mvl_bench.training.runner import run_training
from mvl_bench.training.config import DataConfig, RunConfig, with_settings
from mvl_bench.training.monitor import read_looks

sizes = "embed_dim=48 num_heads=2 steps=24 batch_size=16 probe_every=8 save_every=24 warmup=2"
run = with_settings(RunConfig("run", preset="mini", data=DataConfig("scenes:shapes")), sizes.split())
Thread(target=run_training, args=(run,), kwargs=dict(quiet=True), daemon=True).start()
while not read_looks("run"):
    sleep(0.1)
timeline = panels.TrainingTimeline("run", every=0.2)
timeline""",
    "quiz = panels.QuizWidget(model)\nquiz",
    "print('python sees', player.settings['steps'], lab.settings['ratio'], len(quiz.settings['marks']))",
)
SLOW = 120_000  # milliseconds


def run(page, cell):
    "Run one cell and wait for it."
    book = page.locator(".jp-CodeCell").nth(cell)
    book.locator(".cm-content").first.click()
    page.keyboard.press("Control+Enter")
    prompt = book.locator(".jp-InputPrompt").element_handle()
    page.wait_for_function("e => /\\[\\d+\\]/.test(e.textContent)", arg=prompt, timeout=SLOW)
    return book.locator(".jp-OutputArea-output").last


def keep(part, name):
    "A picture for people to look at, where asked for."
    if SHOTS:
        part.scroll_into_view_if_needed()
        part.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def drive_decoding(part):
    "Another number of steps, back, and a pinned patch."
    part.get_by_label("number of steps").fill("3")
    step = part.get_by_label("step", exact=True)
    expect(step).to_have_attribute("max", "3", timeout=SLOW)
    part.get_by_role("button", name="Back").click()
    expect(step).to_have_js_property("value", "2")
    part.locator(".mb-left .mb-on").first.click()
    expect(part.get_by_role("button", name="Remove all pins")).to_be_visible(timeout=SLOW)


def drive_masking(part):
    "Another modality and another ratio."
    part.get_by_role("button", name="Text", exact=True).click()
    expect(part.get_by_role("button", name="Text", exact=True)).to_have_attribute("aria-pressed", "true")
    part.get_by_role("slider").fill("20")
    expect(part.get_by_text("20 %").first).to_be_visible(timeout=SLOW)


def drive_influence(part):
    "Point at a word by keyboard."
    part.locator(".mb-left .mb-chip", has_text="left").focus()
    expect(part.locator(".mb-say").first).to_contain_text("“left”")


def drive_timeline(part):
    "The run goes on, and who stands at its end moves on with it."
    expect(part.get_by_role("slider").first).to_have_attribute("max", "3", timeout=SLOW)  # 0, 8, 16, 24
    expect(part.get_by_role("slider").first).to_have_js_property("value", "3")


def drive_quiz(part):
    "Guess by a number key, and read who was right."
    part.get_by_text("Question 1 of 10").wait_for()
    part.locator("button", has_text="1").first.click()
    expect(part.get_by_role("button", name="Next")).to_be_visible(timeout=SLOW)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_panels_in_a_notebook(browser, tmp_path, theme):
    command = notebook_command(CELLS, tmp_path, "panels.ipynb")
    looks = {"apputils-extension/themes": dict(theme=f"JupyterLab {theme}")}
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"], before = path, os.environ.get("PYTHONPATH", "")
    drives = (drive_decoding, drive_masking, drive_influence, drive_timeline, drive_quiz)
    try:
        with (
            serving(command, tmp_path, looks) as url,
            tab(browser, 1500, 1400, silent=False) as page,
        ):
            page.goto(url)
            page.get_by_text("| Idle").first.wait_for(timeout=90_000)
            page.set_default_timeout(60_000)
            for cell, drive in enumerate(drives):
                part = run(page, cell)
                part.locator(".mb-panel .mb-main").wait_for(timeout=SLOW)
                drive(part)
                keep(part, f"{drive.__name__}-{theme}")
                ground = part.locator(".mb-panel").evaluate("e => getComputedStyle(e).getPropertyValue('--ground')")
                assert (ground.strip() == "#ffffff") == (theme == "Light"), ground
            said = run(page, len(drives)).inner_text()
            assert said.strip() == "python sees 3 20 1", said
            errors = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type*=error]"
            assert page.locator(errors).all_inner_texts() == []
    finally:
        os.environ["PYTHONPATH"] = before
