"""Build the site in _docs from the notebooks and check every link in it. No Quarto program needed.

    python .ci/docs.py                   sidebar, pages, link check
    python .ci/docs.py build [FOLDER]    only pages and link check, in another folder than _docs
    python .ci/docs.py sidebar           only write the notebooks that are there into _quarto.yml

nbdev turns notebooks into pages' sources (API entries in, hidden cells out), smalldocs renders them.
(nbdev_docs and nbdev_proc_nbs are not called: without Quarto they run a pip install of their own.)
Links go to settings.ini's git_url, or to GITHUB_REPOSITORY where that is set.
"""

import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import links
import yaml
from execnb.nbio import write_nb
from latex2mathml.converter import convert
from nbdev.config import get_config
from notebooks import ROOT, notebooks
from pages import page_source, without_number

# folders of nbs/ in the order of the sidebar, and their titles; notebooks beside the folders are "Core"
FOLDERS = {
    "tutorials": "Tutorials",
    "guides": "Guides",
    "": "Core",
    "data": "Data",
    "masking": "Masking",
    "models": "Models",
    "inference": "Inference",
    "evaluation": "Evaluation",
    "viz": "Visualisation",
    "training": "Training",
    "benchmarks": "Benchmarks",
    "experiments": "Experiments",
    "apps/board": "Board",
    "apps/web": "Web app",
    "apps/widgets": "Widgets",
    "apps/cli": "Command line",
    "studies": "Studies",
}
MARK = "    # From here on written by .ci/docs.py, from the notebooks that are there.\n"
BESIDE = {".css", ".svg", ".png", ".jpg", ".gif", ".webp"}
CDN = re.compile(r'<(?:link|script)[^>]*"https://cdn\.jsdelivr\.net/npm/katex[^>]*>(?:</script>)?')


def section_of(path):
    "Title of the sidebar's section for a notebook, None for a page of its own."
    folder, _, name = path.rpartition("/")
    if not folder and not re.match(r"\d", name):
        return None
    return FOLDERS.get(folder, folder.replace("_", " ").capitalize())


def sidebar(paths):
    "The sidebar's contents for notebooks at `paths` under nbs/: home, tutorials, the library, studies."
    sections = {title: [] for title in (None, *FOLDERS.values())}
    for path in sorted(paths, key=lambda path: (path != "index.ipynb", path)):
        sections.setdefault(section_of(path), []).append(path)
    pages = sections.pop(None)
    return pages + [
        {"section": title, "contents": found} for title, found in sections.items() if found
    ]


def quarto_yml(root=ROOT):
    "Text of _quarto.yml with the sidebar that fits the notebooks of `root`."
    paths = [path.relative_to(root / "nbs").as_posix() for path in notebooks(root)]
    contents = yaml.safe_dump({"contents": sidebar(paths)}, sort_keys=False, indent=2)
    head = (root / "_quarto.yml").read_text(encoding="utf-8").split(MARK)[0]
    return head + MARK + "".join(f"    {line}\n" for line in contents.splitlines())


def write_sources(folder):
    "What smalldocs reads: a source for each notebook, and what stands beside them; no numbers in names."
    for path in (path for path in (ROOT / "nbs").rglob("*") if path.suffix in BESIDE):
        target = folder / path.relative_to(ROOT / "nbs")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for path in notebooks():
        target = folder / without_number(path.relative_to(ROOT / "nbs").as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        write_nb(page_source(path), target)
    text = re.sub(r"[\w/]+\.ipynb", lambda match: without_number(match[0]), quarto_yml())
    (folder / "_quarto.yml").write_text(text, encoding="utf-8")


def mathml(page):
    "Formulas as MathML, which needs no script."

    def formula(match):
        tex = html.unescape(match[2]).strip()[2:-2]
        tree = convert(tex, display={"display": "block", "inline": "inline"}[match[1]])
        tree = tree.replace("&#x029F5;", "\\")  # \\setminus, which few fonts have
        tree = re.sub(r"<mo>(?=&#x0(2016|007C);)", '<mo stretchy="false">', tree)  # norms, bars
        tree = re.sub(r"(<mi>(?:log|exp|max|min)</mi>)(?=<mi)", r'\1<mspace width="0.17em"/>', tree)
        return f'<span class="math {match[1]}">{tree}</span>'

    page = re.sub(
        r'<span class="math (inline|display)">(.*?)</span>', formula, page, flags=re.DOTALL
    )
    return CDN.sub("", page)


def finish(site):
    "Links within the site relative, those to the source to this repository, nothing from elsewhere."
    for path in site.rglob("*.css"):
        css = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"@import url\(https:[^)]*\);?", "", css), encoding="utf-8")
    cfg = get_config()
    base = f"{cfg.doc_host}{cfg.doc_baseurl}".rstrip("/") + "/"
    repository = os.environ.get("GITHUB_REPOSITORY")
    git_url = f"https://github.com/{repository}" if repository else cfg.git_url
    for path in site.rglob("*.html"):
        up = "../" * (len(path.relative_to(site).parts) - 1)
        page = path.read_text(encoding="utf-8").replace(cfg.git_url, git_url)
        page = page.replace(f'href="{base}', f'href="{up}')
        page = re.sub(r'<a href="[^"]*#_\w+"[^>]*>(.*?)</a>', r"\1", page)  # private names have no entry
        path.write_text(mathml(page), encoding="utf-8")


def build(site):
    "The site in the folder `site`, replaced in one go when it is complete."
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder)
        write_sources(sources)
        render = [Path(sys.executable).with_name("smalldocs"), "render", sources]
        subprocess.run(render, check=True, stdout=subprocess.DEVNULL)
        finish(sources / "_docs")
        shutil.rmtree(site, ignore_errors=True)
        shutil.move(sources / "_docs", site)
    pages, faults = links.check(site)
    print("\n".join(faults) or f"{pages} pages in {site}, every link holds")
    return not faults


def main(command=None, site="_docs"):
    site = Path(site).resolve()
    os.chdir(ROOT)
    if command != "build":
        Path("_quarto.yml").write_text(quarto_yml(), encoding="utf-8")
    if command != "sidebar":
        sys.exit(not build(site))


if __name__ == "__main__":
    if sys.argv[1:2] not in ([], ["build"], ["sidebar"]):
        sys.exit(__doc__)
    main(*sys.argv[1:])
