"`mvl-bench study`: measured again or only drawn, told cell by cell, and one line where it breaks off."

import json
from pathlib import Path

import nbformat
import pytest

from mvl_bench.apps.cli import studies
from mvl_bench.apps.cli.main import main

CELLS = [
    "import json\nfrom pathlib import Path",
    '#| slow\nPath("data/results/small.json").write_text(json.dumps(dict(found=7)))',
    'print("found", json.loads(Path("data/results/small.json").read_text())["found"])',
]


@pytest.fixture
def checkout(home, monkeypatch):
    "A project with one study, seen from a folder elsewhere."
    root = home / "project"
    for folder in ("nbs/studies", "data/results"):
        (root / folder).mkdir(parents=True)
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_markdown_cell("# Small\n\n> Is it seven?")]
    nb.cells += [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(nb, root / "nbs/studies/small.ipynb")
    (root / "data/results/small.json").write_text('{"found": 3}')
    monkeypatch.setattr(studies, "data_path", lambda *parts: root.joinpath("data", *parts))
    return root


def said_by(path: str) -> str:
    "What the last cell of a notebook printed."
    return nbformat.read(path, 4).cells[-1].outputs[0]["text"]


def test_quick_draws_what_was_found_and_without_it_all_is_measured_again(checkout, capsys):
    study = checkout / "nbs/studies/small.ipynb"
    before = study.read_bytes()
    assert main(["study"]) == 0
    out = capsys.readouterr().out
    assert "small" in out and "Is it seven?" in out and "joint_or_apart" in out and "9 arms x 5 seeds" in out
    assert main(["study", "small", "--quick"]) == 0
    assert said_by("runs/studies/small.ipynb") == "found 3\n"
    out = capsys.readouterr().out
    assert "cell 4 of 4: print" in out and "cell 3" not in out and "measured again" not in out
    assert main(["study", "small", "--out", "deep/copy.ipynb"]) == 0
    assert said_by("deep/copy.ipynb") == "found 7\n"
    assert "measured again:" in (out := capsys.readouterr().out) and "cell 3 of 4: Path" in out
    assert study.read_bytes() == before


def test_mistakes_are_one_line_and_leave_nothing(checkout, capsys):
    (checkout / "data/results/small.json").write_text(json.dumps(dict(lost=1)))
    Path("file").write_text("")
    for words, said in {
        (
            "small",
            "--quick",
            "--out",
            "new.ipynb",
        ): "study small broke off in cell 4 of 4: KeyError",
        ("smal",): "no study 'smal': there are joint_or_apart",
        ("small", "--out", "file/a.ipynb"): "cannot write file/a.ipynb",
    }.items():
        assert main(["study", *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and "Traceback" not in error
    assert not Path("new.ipynb").exists()
    nb = nbformat.read(study := checkout / "nbs/studies/small.ipynb", 4)
    nb.cells[1].source = "import os\nos._exit(1)"
    nbformat.write(nb, study)
    assert main(["study", "small", "--quick"]) == 2
    assert "broke off in cell 2 of 4: its process ended" in capsys.readouterr().err
    (checkout / "nbs/studies/small.ipynb").unlink()
    assert main(["study", "--list"]) == 0 and "notebook" not in capsys.readouterr().out
