"A JupyterLab of one test: settings, workspaces and notebooks of its own, nothing asked of other machines."

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import nbformat

SETTINGS = {  # nothing is asked of other machines, and the notebook is left as it is
    "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False),
    "docmanager-extension/plugin": dict(autosave=False),
}


def notebook_command(cells, folder, name):
    "Write a notebook of code cells; return the command that opens it in JupyterLab."
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    book.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(book, folder / name)
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", f"--notebook-dir={folder}"]
    return [*command, f"--LabApp.default_url=/lab/tree/{name}"]


@contextmanager
def serving(command, folder, settings=None):
    "Address of the JupyterLab that a command starts, with settings that only a test wants."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("config_dir", "data_dir", "runtime_dir")
    places = {f"JUPYTER_{name.upper()}": str(folder / name) for name in names}
    places |= {
        f"JUPYTERLAB_{name.upper()}_DIR": str(folder / name) for name in ("settings", "workspaces")
    }
    for name, content in (SETTINGS | (settings or {})).items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    server = dict(port=port, ip="127.0.0.1", open_browser=False)
    (folder / "config_dir").mkdir()
    (folder / "config_dir" / "jupyter_server_config.json").write_text(
        json.dumps(dict(ServerApp=server, IdentityProvider=dict(token="")))
    )
    told = (folder / "told").open("w")
    process = subprocess.Popen(command, env=os.environ | places, stdout=told, stderr=told)
    try:
        yield _address(process, port, folder / "told")
    finally:
        process.terminate()
        process.wait(20)


def _address(process, port, told):
    "Where a JupyterLab answers, as soon as it does."
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{url}/api")
            return url
        except OSError:
            assert process.poll() is None, told.read_text()
            time.sleep(0.25)
    raise AssertionError(f"nothing answers at {url}: {told.read_text()}")
