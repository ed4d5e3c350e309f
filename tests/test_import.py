"What only a fresh process shows: every module imports alone, in the order of its number, and loads no more than it needs."

import ast
import json
import re
import subprocess
import sys

import notebooks
import pytest

LIBRARY = notebooks.ROOT / "mvl_bench"
PACKAGE = LIBRARY.name
UI = {"gradio", "ipywidgets", "anywidget"}
UI_FROM = 50  # notebooks 5x are the apps; below, no module imports a UI package
IMPORT_AND_LIST = """
import sys, time
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
import json
print(json.dumps([seconds, sorted({{name.split(".")[0] for name in sys.modules}})]))
"""
# a process with the heavy libraries in it forks for each module: as fresh as one of its own, and forty times as quick
HEAVY = "accelerate datasets matplotlib.pyplot nbformat sklearn.metrics timm torch".split()
HEAVY += [f"transformers.models.{name}.modeling_{name}" for name in ("bert", "vilt")]
FORKS = """
import importlib, json, os, sys, traceback
names = sys.argv[1:]
for library in names[: names.index("--")]:
    importlib.import_module(library)
for module in names[names.index("--") + 1 :]:
    if module.startswith("+"):
        importlib.import_module(module[1:])
        continue
    sys.stdout.flush()
    if os.fork() == 0:
        try:
            importlib.import_module(module)
            found = sorted({name.split(".")[0] for name in sys.modules})
        except BaseException:
            found = traceback.format_exc()
        print(json.dumps([module, found]), flush=True)
        os._exit(0)
    os.wait()
"""


def numbers():
    "Number of the notebook that exports each module."
    found = {}
    for path in notebooks.notebooks():
        module = notebooks.default_exp(json.loads(path.read_text(encoding="utf-8")))
        if module:
            found[module] = int(re.match(r"\d+", path.name)[0])
    return found


ORDER = numbers()
MODULES = sorted(path.stem for path in LIBRARY.glob("*.py") if path.stem != "__init__")


def imported(module, path=notebooks.ROOT):
    "Seconds that `import module` takes in a fresh process, and the packages that it loads."
    command = [sys.executable, "-c", IMPORT_AND_LIST.format(module=module)]
    done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"import {module}: {done.stderr}"
    seconds, packages = json.loads(done.stdout.splitlines()[-1])
    return seconds, set(packages)


def each_imported(modules, path=notebooks.ROOT, there=HEAVY):
    "Packages that each module loads in a process of its own that has some, or what went wrong; `+name` loads more from there on."
    command = [sys.executable, "-c", FORKS, *there, "--", *modules]
    done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=True)
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.fixture(scope="module")
def every():
    "Every module, each imported in a process of its own; those of the apps may find UI packages there."
    apps = [name for name in MODULES if ORDER.get(name, 0) >= UI_FROM]
    below, above = (
        [f"{PACKAGE}.{name}" for name in MODULES if (name in apps) is there]
        for there in (False, True)
    )
    return each_imported(["timm", *below, *(f"+{name}" for name in sorted(UI)), *above])


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_alone_and_loads_no_ui_package(every, module):
    packages = every[f"{PACKAGE}.{module}"]
    assert isinstance(packages, list), packages
    assert PACKAGE in packages
    if ORDER.get(module, 0) < UI_FROM:
        assert not UI & {*packages}, f"{module} loads {UI & {*packages}}"


def test_the_package_alone_is_light():
    seconds, packages = min(imported(PACKAGE) for _ in range(3))
    print(f"import {PACKAGE}: {1000 * seconds:.1f} ms")
    assert seconds < 0.5
    assert not packages & (UI | {"torch", "numpy", "transformers", "matplotlib"})


def imports(text):
    "Modules of the package that a module's source imports, anywhere in it."
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = f"{PACKAGE}." * bool(node.level) + (node.module or "")
            names = [base, *(f"{base.rstrip('.')}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name.split(".")[1] for name in names if re.match(rf"{PACKAGE}\.\w", name))


def against_the_order(module, text, order):
    "Modules that `module` imports though their notebook does not come before its own."
    return sorted({name for name in imports(text) if order.get(name, -1) >= order[module]})


@pytest.mark.parametrize("module", sorted(ORDER))
def test_module_imports_only_from_lower_numbers(module):
    text = (LIBRARY / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert against_the_order(module, text, ORDER) == []


@pytest.mark.parametrize(
    "line",
    [
        "from .late import f",
        "from . import late",
        "import mvl_bench.late",
        "from mvl_bench import late",
        "def g():\n    from mvl_bench.late import f",
    ],
)
def test_an_import_against_the_order_is_found(line):
    order = {"core": 0, "early": 10, "late": 20}
    fine = "import torch\nfrom .core import Batch\nfrom mvl_bench.core import Masks\n"
    assert against_the_order("early", fine, order) == []
    assert against_the_order("early", fine + line, order) == ["late"]


def test_a_broken_or_heavy_module_is_found(tmp_path):
    (tmp_path / "broken.py").write_text("x = undefined")
    (tmp_path / "gradio.py").write_text("")
    (tmp_path / "heavy.py").write_text("import gradio")
    found = each_imported(["broken", "heavy", "ast", "+gradio", "json"], tmp_path, there=["json"])
    assert "NameError" in found["broken"] and UI & {*found["heavy"]} == {"gradio"}
    assert not UI & {*found["ast"]} and UI & {*found["json"]} == {"gradio"}


def test_what_forks_holds_neither_a_ui_package_nor_ours(every):
    assert not UI & {*every["timm"]} and PACKAGE not in every["timm"]
