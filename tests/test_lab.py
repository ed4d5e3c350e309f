"`mvl-bench lab` as a person meets it: JupyterLab opens at the tutorial, and all of its cells run."

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from chromium import needs_chromium, tab
from samples import ROOT

pytestmark = needs_chromium
SETTINGS = {  # nothing is asked of other machines, and the notebook is left as it is
    "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
    "docmanager-extension/plugin": dict(autosave=False),
}


@pytest.fixture
def lab(tmp_path):
    "Address of the JupyterLab that the command starts, with settings that only a test wants."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("config_dir", "data_dir", "runtime_dir")
    places = {f"JUPYTER_{name.upper()}": str(tmp_path / name) for name in names}
    places |= {
        f"JUPYTERLAB_{name.upper()}_DIR": str(tmp_path / name)
        for name in ("settings", "workspaces")
    }
    for name, content in SETTINGS.items():
        file = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    server = dict(port=port, ip="127.0.0.1", open_browser=False)
    (tmp_path / "config_dir").mkdir()
    (tmp_path / "config_dir" / "jupyter_server_config.json").write_text(
        json.dumps(dict(ServerApp=server, IdentityProvider=dict(token="")))
    )
    command = [sys.executable, "-c", "from mvl_bench.cli import main; main()", "lab"]
    told = (tmp_path / "told").open("w")
    process = subprocess.Popen(command, env=os.environ | places, stdout=told, stderr=told)
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{url}/api")
            break
        except OSError:
            assert process.poll() is None, (tmp_path / "told").read_text()
            time.sleep(0.25)
    yield url
    process.terminate()
    process.wait(20)


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
