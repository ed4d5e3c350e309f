"Before anything is imported: no network beyond this machine, no window, one thread a worker, quiet libraries."

import os
import sys
from pathlib import Path

import pytest

os.environ |= dict(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    GRADIO_ANALYTICS_ENABLED="False",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    # torch's threads too; two workers of pytest share two cores
    OMP_NUM_THREADS="1" if "PYTEST_XDIST_WORKER" in os.environ else "2",
    NO_PROXY="localhost,127.0.0.1",
    no_proxy="localhost,127.0.0.1",
)
sys.path.insert(0, str(Path(__file__).parent.parent / ".ci"))
# what takes longest comes first, so that at the end no worker is alone with it
LONG = "app_tabs accessible players_lab contract processes resume app api import board_lab ideal_observer docs scale lab quiz".split()


def pytest_collection_modifyitems(items):
    "Files that take long before the others, which keep their order."
    places = {f"test_{name}.py": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A folder of ten pictures with texts, where relative paths begin; the cache of `datasets` is there too."
    from samples import COLOURS, drawing

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    for colour in COLOURS:
        drawing(colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} half\n\n  half {colour}\n")
    return tmp_path


@pytest.fixture(scope="session")
def browser():
    "Chromium without a window."
    from chromium import CHROMIUM, FLAGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
