"The players in JupyterLab, by mouse and keyboard, on a run that is made there and then and goes on while it is watched."

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import nbformat
from chromium import needs_chromium, tab
from jupyter import serving
from playwright.sync_api import expect
from samples import ROOT

pytestmark = needs_chromium
SHOTS = os.environ.get("SHOTS")  # a folder to keep pictures in, for people to look at
CELLS = (
    "from boards import shipped\nfrom mvl_bench.apps.widgets.players import DecodingPlayer, MaskingLab, TimeMachine\n"
    "from mvl_bench.apps.widgets.experiments import YouAgainstTheModel\n\nmodel = shipped()\nplayer = DecodingPlayer(model)\nplayer",
    "lab = MaskingLab(model, draws=60)\nlab.race.how = dict(seconds=1.5, every=0.5)\nlab",
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
machine = TimeMachine("run", every=0.2)
machine""",
    "duel = YouAgainstTheModel(model)\nduel",
    "print('python sees', player.at, player.steps[0].pinned_words, lab.side, machine.at, len(duel.game.round.marks))",
)


def run(page, cell):
    "Run one cell and wait for it."
    book = page.locator(".jp-CodeCell").nth(cell)
    book.locator(".cm-content").first.click()
    page.keyboard.press("Control+Enter")
    prompt = book.locator(".jp-InputPrompt").element_handle()
    page.wait_for_function("e => /\\[\\d+\\]/.test(e.textContent)", arg=prompt, timeout=120_000)
    return book.locator(".jp-OutputArea-output").last


def typed(page, part, text):
    "Type a word when Python is at rest, and until it has it: a click would overtake what waits for a busy kernel."
    rest = page.get_by_text("| Idle").first
    rest.wait_for()
    part.get_by_placeholder("the word that stands there").fill(text)
    page.wait_for_timeout(300)
    rest.wait_for()


def keep(part, name):
    "A picture for people to look at, where asked for."
    if SHOTS:
        part.scroll_into_view_if_needed()
        part.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


@contextmanager
def redrawn(page, part):
    "Wait until a widget shows another picture."
    image = part.locator("img").first.element_handle()
    before = image.get_attribute("src")
    yield
    page.wait_for_function("([e, src]) => e.src !== src", arg=[image, before], timeout=60_000)


def drive_player(page, part, theme):
    "Forward, back, to the end; pin a word; another order."
    said = part.locator(".widget-html")
    expect(said).to_contain_text("The beginning.", timeout=60_000)  # it comes after the picture
    with redrawn(page, part):
        part.get_by_role("button", name="on", exact=True).click()
    with redrawn(page, part):
        part.get_by_role("button", name="on", exact=True).click()
    keep(part, f"player-{theme}")
    with redrawn(page, part):
        part.get_by_role("button", name="back", exact=True).click()
    with redrawn(page, part):
        part.get_by_label("order").select_option(index=1)
    expect(said).to_contain_text("The beginning.", timeout=60_000)  # it comes after the picture
    typed(page, part, "purple")
    with redrawn(page, part):  # at the first hidden word, which the menu shows
        part.get_by_role("button", name="pin", exact=True).click()
    typed(page, part, "zebra stripes")
    part.get_by_role("button", name="pin", exact=True).click()
    page.wait_for_function("e => /zebra/.test(e.textContent)", arg=said.element_handle())


def drive_lab(page, part, theme):
    "Another side, another share, a race."
    with redrawn(page, part):
        part.get_by_role("button", name="words", exact=True).click()
    keep(part, f"lab-{theme}")
    part.get_by_label("First way").select_option("alternating")
    part.get_by_label("Second way").select_option("joint")
    part.get_by_role("button", name="race for a minute").click()
    part.get_by_role("button", name="stop").wait_for()
    part.get_by_role("button", name="race for a minute").wait_for(timeout=120_000)
    expect(part.locator(".widget-html").last).to_contain_text("nats a word", timeout=60_000)
    keep(part, f"race-{theme}")


def drive_machine(page, part, theme):
    "The run goes on, and who stands at its end moves on with it; then a look back."
    part.get_by_text("After step 24.").wait_for()
    keep(part, f"machine-{theme}")
    with redrawn(page, part):
        part.get_by_role("button", name="back", exact=True).click()
    part.get_by_text("After step 16.").wait_for()


def drive_duel(page, part, theme):
    "Guess, read, go on."
    part.get_by_text("Which word is hidden?").wait_for()
    part.get_by_role("button", name="This is my guess").click()
    part.get_by_text("choose an answer first").wait_for()
    part.get_by_role("button", name="purple", exact=True).click()
    keep(part, f"duel-{theme}")
    part.get_by_role("button", name="This is my guess").click()
    part.get_by_text("You said purple").wait_for()
    keep(part, f"duel-told-{theme}")
    part.get_by_role("button", name="Next question").click()
    part.get_by_text("Which colour hides").wait_for()


def test_players_in_a_notebook(browser, tmp_path):
    theme = os.environ.get("THEME", "Light")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    book.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(book, tmp_path / "players.ipynb")
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", f"--notebook-dir={tmp_path}"]
    command += ["--LabApp.default_url=/lab/tree/players.ipynb"]
    looks = {"apputils-extension/themes": dict(theme=f"JupyterLab {theme}")}
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"], before = path, os.environ.get("PYTHONPATH", "")
    try:
        with (
            serving(command, tmp_path, looks) as url,
            tab(browser, 1500, 1400, silent=False) as page,
        ):
            page.goto(url)
            page.get_by_text("| Idle").first.wait_for(timeout=90_000)
            page.set_default_timeout(60_000)
            for cell, drive in enumerate((drive_player, drive_lab, drive_machine, drive_duel)):
                drive(page, run(page, cell), theme)
            said = run(page, 4).inner_text()
            assert said.strip() == "python sees 0 (3,) words 2 1", said
            errors = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type*=error]"
            assert page.locator(errors).all_inner_texts() == []
    finally:
        os.environ["PYTHONPATH"] = before
