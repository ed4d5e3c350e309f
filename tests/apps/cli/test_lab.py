"`mvl-bench lab` as a person meets it: JupyterLab opens at the tutorial, and all of its cells run."

import json
import os
import sys

import pytest
from chromium import needs_chromium, tab
from jupyter import serving
from samples import ROOT

pytestmark = [needs_chromium, pytest.mark.slow]


@pytest.fixture
def lab(tmp_path):
    "Address of the JupyterLab that the command starts, with settings that only a test wants."
    command = [sys.executable, "-c", "from mvl_bench.apps.cli.main import main; main()", "lab"]
    with serving(command, tmp_path) as url:
        yield url


def test_lab_opens_the_tutorial_and_runs_it(browser, lab):
    tutorial = ROOT / "nbs" / "tutorials" / "first_reconstruction.ipynb"
    before = tutorial.read_bytes()
    cells = sum(cell["cell_type"] == "code" for cell in json.loads(before)["cells"])
    # JupyterLab itself complains now and then, as of a kernel that restarts
    with tab(browser, width=1400, height=1000, silent=False) as page:
        page.goto(lab)  # what the command opens by itself
        page.get_by_text("| Idle").first.wait_for(timeout=90_000)
        assert "first_reconstruction" in page.title() + page.url
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.get_by_role("menuitem", name="Kernel", exact=True).click()
        page.locator(".lm-Menu-item[data-command='kernelmenu:restart-and-clear']").click()
        page.get_by_role("button", name="Confirm Kernel Restart").click()
        page.get_by_text("| Idle").first.wait_for(timeout=60_000)
        assert page.locator(".jp-OutputArea-output").count() == 0
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator(".lm-Menu-item[data-command='runmenu:run-all']").click()
        last = page.locator(".jp-InputPrompt", has_text=f"[{cells}]:")
        last.wait_for(state="attached", timeout=120_000)
        assert page.locator(".jp-RenderedImage").count() > 1
        errors = page.locator(
            "[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText[data-mime-type*=error]"
        )
        assert errors.all_inner_texts() == []
        page.screenshot(path=os.environ.get("LAB_SHOT", "/dev/null"), type="png")
    assert tutorial.read_bytes() == before
