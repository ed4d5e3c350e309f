"Notebooks are in step with the library, clean, and carry the run that readers see."

import json
import shutil

import notebooks
import pytest
from execnb.nbio import loads, nb2str

EVERY = notebooks.notebooks()
by_name = pytest.mark.parametrize("path", EVERY, ids=["/".join(path.parts[-2:]) for path in EVERY])


def code(text, count=None, outputs=()):
    return dict(
        id="0",
        cell_type="code",
        execution_count=count,
        metadata={},
        outputs=list(outputs),
        source=text.splitlines(True),
    )


def small_notebook():
    "A library notebook with nothing to complain about."
    title = dict(id="1", cell_type="markdown", metadata={}, source=["# Sums"])
    cells = [
        title,
        code("#| default_exp sums"),
        code("#| export\ndef double(x): return 2 * x"),
        code("double(2)", 1),
        code("assert double(2) == 4", 2),
        code("#| slow\ndouble(10**9)"),
        code(""),
        code("#| hide\nimport nbdev; nbdev.nbdev_export()"),
    ]
    return dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)


@by_name
def test_notebook_tells_its_story_and_was_run(path):
    found = list(notebooks.complaints(json.loads(path.read_text(encoding="utf-8"))))
    assert found == [], "make notebooks runs them (plain nbdev_clean drops the run counts)"


@by_name
def test_notebook_is_clean(path):
    text = path.read_text(encoding="utf-8")
    assert text == nb2str(notebooks.clean(loads(text))), "python .ci/notebooks.py clean"


def test_library_is_what_the_notebooks_export():
    assert notebooks.out_of_step() == [], "run nbdev_export"


FAULTS = {
    "does not open with a title": lambda cells: cells.pop(0),
    "has more than a title and one line of > in its first cell: the site would lose it": (
        lambda cells: cells[0]["source"].append("\n\nA long story.")
    ),
    "writes '# |' for '#|'": lambda cells: cells.insert(1, code("# | hide\nx = 1", 0)),
    "was not run: 'double(2)'": lambda cells: cells[3].update(execution_count=None),
    "was not run: 'assert double(2) == 4'": lambda cells: cells[4].update(execution_count=None),
    "was not run from top to bottom: [2, 1]": lambda cells: cells.insert(3, cells.pop(4)),
    "shows an error: KeyError": lambda cells: cells[3]["outputs"].append(
        dict(output_type="error", ename="KeyError")
    ),
    "does not end in a hidden nbdev_export()": lambda cells: cells.pop(),
}


@pytest.mark.parametrize("complaint", FAULTS)
def test_a_planted_fault_is_found(complaint):
    nb = small_notebook()
    assert list(notebooks.complaints(nb)) == []
    FAULTS[complaint](nb["cells"])
    assert list(notebooks.complaints(nb)) == [complaint]


def test_a_dirty_notebook_is_found_and_its_run_survives_cleaning():
    nb = small_notebook()
    clean = nb2str(notebooks.clean(nb))
    dirty = loads(clean)
    dirty["cells"][3]["metadata"]["scrolled"] = True
    dirty["metadata"]["language_info"] = {"name": "python"}
    assert nb2str(dirty) != clean
    assert nb2str(notebooks.clean(dirty)) == clean
    assert [cell["execution_count"] for cell in dirty["cells"][3:5]] == [1, 2]


@pytest.fixture
def project(tmp_path):
    "A project of one notebook and a hand-written module, just exported."
    shutil.copy(notebooks.ROOT / "settings.ini", tmp_path)
    for name in ("nbs", "mvl_bench"):
        (tmp_path / name).mkdir()
    (tmp_path / "nbs" / "00_sums.ipynb").write_text(nb2str(small_notebook()))
    (tmp_path / "mvl_bench" / "by_hand.py").write_text("x = 1\n")
    notebooks.export(tmp_path)
    return tmp_path


def test_a_library_out_of_step_is_found(project):
    module = project / "mvl_bench" / "sums.py"
    text = module.read_text()
    assert "by_hand.py" in notebooks.modules(project / "mvl_bench")
    assert notebooks.out_of_step(project) == []
    module.write_text(text.replace("2 * x", "3 * x"))
    assert notebooks.out_of_step(project) == ["sums.py"], "edited by hand"
    module.unlink()
    assert notebooks.out_of_step(project) == ["sums.py"], "exported but not committed"
    module.write_text(text)
    (project / "mvl_bench" / "gone.py").write_text(text)
    assert notebooks.out_of_step(project) == ["gone.py"], "its notebook is gone"
