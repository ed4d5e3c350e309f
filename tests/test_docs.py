"The site: every notebook has its place and its page, the API says shapes, and no link is broken."

import html
import json
import re
import subprocess
import sys

import docs
import links
import notebooks
import pages
import pytest


def test_the_sidebar_lists_every_notebook():
    text = (notebooks.ROOT / "_quarto.yml").read_text(encoding="utf-8")
    assert text == docs.quarto_yml(), "run python .ci/docs.py sidebar"
    listed = re.findall(r"- ([\w/]+\.ipynb)", text)
    there = [path.relative_to(notebooks.ROOT / "nbs") for path in notebooks.notebooks()]
    assert sorted(listed) == sorted(path.as_posix() for path in there)
    assert (notebooks.ROOT / "nbs" / "_quarto.yml").resolve() == notebooks.ROOT / "_quarto.yml"


def test_a_notebook_finds_its_section():
    paths = [
        "masking/00_base.ipynb",
        "index.ipynb",
        "apps/board/03_events.ipynb",
        "studies/one.ipynb",
        "00_core.ipynb",
        "tutorials/a.ipynb",
    ]
    assert docs.sidebar(paths) == [
        "index.ipynb",
        {"section": "Tutorials", "contents": ["tutorials/a.ipynb"]},
        {"section": "Core", "contents": ["00_core.ipynb"]},
        {"section": "Masking", "contents": ["masking/00_base.ipynb"]},
        {"section": "Board", "contents": ["apps/board/03_events.ipynb"]},
        {"section": "Studies", "contents": ["studies/one.ipynb"]},
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The whole site, built as make docs builds it."
    folder = tmp_path_factory.mktemp("site") / "_docs"
    command = [sys.executable, notebooks.ROOT / ".ci" / "docs.py", "build", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_notebook_has_a_page_that_search_finds(site):
    found = {
        entry["href"].split("#")[0] for entry in json.loads((site / "search.json").read_text())
    }
    for path in notebooks.notebooks():
        link = pages.without_number(path.relative_to(notebooks.ROOT / "nbs").as_posix())
        page = link.replace(".ipynb", ".html")
        assert (site / page).is_file() and page in found


@pytest.mark.slow
def test_the_api_says_shapes(site):
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "core.html").read_text(encoding="utf-8")))
    assert "class Batch(Rows):" in text and "# (b c h w)" in text


def test_an_outline_keeps_what_a_reader_needs():
    lines = pages.outline(links.Page).splitlines()
    assert lines[0] == "class Page(HTMLParser):"
    assert "    def handle_data(self, data):" in lines
    assert not any("self.feed" in line for line in lines)


def test_links_follow_pages_that_lose_their_number():
    assert pages.without_number("../10_masking.ipynb#views") == "../masking.ipynb#views"
    assert pages.without_number("https://host/10_masking.ipynb") == "https://host/10_masking.ipynb"


FAULTS = {
    '<a href="gone.html">': "index.html: broken link gone.html",
    '<a href="b.html#gone">': "index.html: link b.html#gone names an anchor that is not there",
    '<img src="gone.png">': "index.html: broken link gone.png",
    '<a href="../../outside.html">': "index.html: broken link ../../outside.html",
    '<a href="/b.html">': "index.html: link /b.html does not survive a move to another base",
    '<script src="https://cdn.example/x.js">': "index.html: asks the network for https://cdn.example/x.js",
    "<style>@import url(//fonts.example/a)</style>": "index.html: asks the network for //fonts.example/a",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_in_a_site_is_found(fault, tmp_path):
    good = '<a href="b.html#here"></a><a href="https://example.com"></a><img src="data:image/png;base64,">'
    (tmp_path / "b.html").write_text('<h1 id="here">b</h1>')
    (tmp_path / "index.html").write_text(good)
    assert links.check(tmp_path) == (2, [])
    (tmp_path / "index.html").write_text(good + fault)
    assert links.check(tmp_path) == (2, [FAULTS[fault]])
