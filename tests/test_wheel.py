"The wheel carries `data/` and the board's front end, and building it leaves the source tree alone."

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WANTED = ["settings.ini", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    "A copy of what a build reads, with a result and a checkpoint planted in it."
    copy = tmp_path_factory.mktemp("source")
    for name in WANTED:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    for name in ("mvl_bench", "data"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("results/study.json", "checkpoints/planted/config.json"):
        path = copy / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return copy


@pytest.fixture(scope="module")
def names(source, tmp_path_factory):
    "Files in the wheel built from the copy."
    out = tmp_path_factory.mktemp("wheel")
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, source]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options], check=True)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_data_file_but_results_is_in_the_wheel(source, names):
    wanted = {name for name in files(source / "data") if not name.startswith("results/")}
    carried = {name.removeprefix("mvl_bench/assets/") for name in names if "/assets/" in name}
    assert carried == wanted
    assert "checkpoints/planted/config.json" in wanted


def test_every_library_file_is_in_the_wheel(names):
    wanted = {
        f"mvl_bench/{name}" for name in files(ROOT / "mvl_bench") if "__pycache__" not in name
    }
    assert wanted <= names


def test_nothing_else_is_in_the_wheel(names):
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"mvl_bench"}


def test_the_source_tree_has_no_second_copy(source):
    assert not (source / "mvl_bench" / "assets").exists()
