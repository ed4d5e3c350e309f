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
# a package imports only from the layers before its own, from modules before its own in the same package, and, within a layer, from no
# other package; in the last layer the packages of `apps` follow one another
LAYERS = [
    "core patches storage distributed",
    "data masking",
    "models",
    "inference",
    "evaluation",
    "viz",
    "training",
    "benchmarks",
    "experiments",
    "apps",
    "api",
]
# the command line is built on the public API, which no other module imports
ALLOWED = {("apps.cli.main", "api")}
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}
APPS = ["apps.board", "apps.panels", "apps.web", "apps.widgets", "apps.cli"]
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


def order():
    "Layer and number of the notebook that exports each module: (layer, package, number)."
    found = {}
    for path in notebooks.notebooks():
        module = notebooks.default_exp(json.loads(path.read_text(encoding="utf-8")))
        if module and module != "__main__":
            package, _, _ = module.rpartition(".")
            number = int(re.match(r"\d+", path.name)[0])
            found[module] = (
                LAYER[module.split(".")[0]],
                APPS.index(package) if package in APPS else package,
                number,
            )
    return found


ORDER = order()
MODULES = sorted(
    path.relative_to(LIBRARY).with_suffix("").as_posix().replace("/", ".")
    for path in LIBRARY.rglob("*.py")
    if path.stem not in ("__init__", "_modidx")
)


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
    below, above = (
        [f"{PACKAGE}.{name}" for name in MODULES if is_app(name) is there]
        for there in (False, True)
    )
    return each_imported(["timm", *below, *(f"+{name}" for name in sorted(UI)), *above])


def is_app(module):
    return module.split(".")[0] in ("apps", "__main__")


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_alone_and_loads_no_ui_package(every, module):
    packages = every[f"{PACKAGE}.{module}"]
    assert isinstance(packages, list), packages
    assert PACKAGE in packages
    if not is_app(module):
        assert not UI & {*packages}, f"{module} loads {UI & {*packages}}"


def test_the_package_alone_is_light():
    seconds, packages = min(imported(PACKAGE) for _ in range(3))
    print(f"import {PACKAGE}: {1000 * seconds:.1f} ms")
    assert seconds < 0.05
    assert not packages & (UI | {"torch", "numpy", "transformers", "matplotlib"})


def imports(module, text, known):
    "Modules of the package that a module's source imports, anywhere in it."
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = f"{PACKAGE}.{module}".split(".")[: -node.level or None] if node.level else []
            base = ".".join([*up, *filter(None, [node.module])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from known & {name.removeprefix(f"{PACKAGE}.") for name in names}


def may_import(mine, other):
    "Whether a module at one place of the order may import one at another."
    if mine[0] != other[0]:
        return other[0] < mine[0]
    if mine[1] != other[1]:  # packages of one layer: only those of the apps know each other
        return isinstance(mine[1], int) and other[1] < mine[1]
    return other[2] < mine[2]


def against_the_order(module, text, order):
    "Modules that `module` imports though they are not in an earlier layer, or before it in its package."
    found = imports(module, text, order.keys())
    found = {name for name in found if not may_import(order[module], order[name])}
    return sorted(name for name in found if (module, name) not in ALLOWED)


@pytest.mark.parametrize("module", sorted(ORDER))
def test_module_imports_only_from_earlier_layers(module):
    text = (LIBRARY / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert against_the_order(module, text, ORDER) == []


@pytest.mark.parametrize(
    "line, late",
    [
        ("from .late import f", "data.late"),
        ("from . import late", "data.late"),
        ("import mvl_bench.data.late", "data.late"),
        ("from mvl_bench.data import late", "data.late"),
        ("def g():\n    from mvl_bench.data.late import f", "data.late"),
        ("from ..models.far import f", "models.far"),
        ("from mvl_bench.models.far import f", "models.far"),
        ("from ..masking.beside import f", "masking.beside"),
        ("from ..api import f", "api"),
    ],
)
def test_an_import_against_the_order_is_found(line, late):
    order = {
        "core": (0, "", 0), "data.early": (1, "data", 0), "data.late": (1, "data", 1),
        "masking.beside": (1, "masking", 0), "models.far": (2, "models", 0), "api": (9, "", 0),
    }  # fmt: skip
    fine = "import torch\nfrom ..core import Batch\nfrom mvl_bench.core import Masks\n"
    assert against_the_order("data.early", fine, order) == []
    assert against_the_order("data.early", fine + line, order) == [late]
    assert against_the_order("models.far", "from ..data.late import f", order) == []


def test_packages_show_the_architecture():
    packages = {}
    for module in MODULES:
        packages.setdefault(module.rpartition(".")[0], []).append(module)
    assert {name.split(".")[0] for name in packages} - {""} == LAYER.keys() - {
        "core", "patches", "storage", "distributed", "api",
    }  # fmt: skip
    assert max(map(len, packages.values())) <= 12
    for module in MODULES:
        text = (LIBRARY / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        code = [
            line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
        ]
        assert len(code) <= 500, module


def test_a_broken_or_heavy_module_is_found(tmp_path):
    (tmp_path / "broken.py").write_text("x = undefined")
    (tmp_path / "gradio.py").write_text("")
    (tmp_path / "heavy.py").write_text("import gradio")
    found = each_imported(["broken", "heavy", "ast", "+gradio", "json"], tmp_path, there=["json"])
    assert "NameError" in found["broken"] and UI & {*found["heavy"]} == {"gradio"}
    assert not UI & {*found["ast"]} and UI & {*found["json"]} == {"gradio"}


def test_what_forks_holds_neither_a_ui_package_nor_ours(every):
    assert not UI & {*every["timm"]} and PACKAGE not in every["timm"]
