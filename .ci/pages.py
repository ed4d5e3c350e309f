"From a notebook to the source of its page: API entries in, hidden cells out, nothing run again."

import ast
import atexit
import inspect
import re
import textwrap
from functools import partial
from itertools import groupby

from execnb.nbio import mk_cell, read_nb
from execnb.shell import CaptureShell
from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, add_show_docs, exec_show_docs
from nbdev.showdoc import BasicMarkdownRenderer, show_doc
from notebooks import default_exp

NUMBER = re.compile(r"^\d+[a-z]?_(?=\w+\.ipynb\b)")


def without_number(link):
    "A link to a notebook as its page is called: `10_masking.ipynb#views` -> `masking.ipynb#views`."
    folder, slash, name = link.rpartition("/")
    return link if ":" in folder else folder + slash + NUMBER.sub("", name)


def as_pages_are_called(nb):
    "Take the numbers from the links in a notebook's prose; smalldocs names the page after its source."
    nb.cells[0].source = re.sub(r"^output-file:.*\n", "", nb.cells[0].source, flags=re.MULTILINE)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(?<=\]\()[^)\s]+", lambda m: without_number(m[0]), cell.source)


def without_links_in_code(nb):
    "nbdev links names in the comments of signatures too, where a link cannot be: take those back."
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            text = "".join(output.get("data", {}).get("text/markdown", []))
            if text:
                code = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
                plain = code.sub(lambda m: re.sub(r"\[(`[^`]+`)\]\([^)]*\)", r"\1", m[0]), text)
                output["data"]["text/markdown"] = plain.splitlines(keepends=True)


def outline(thing):
    "A function's signature, or a class's fields and public methods, as the source writes them: shapes and all."
    text = textwrap.dedent(inspect.getsource(thing))
    lines, node = text.splitlines(), ast.parse(text).body[0]

    def head(
        node,
    ):  # from the first decorator to the line before the body, or the whole of a one-liner
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return lines[first - 1 : max(node.body[0].lineno - 1, node.lineno)]

    if not isinstance(node, ast.ClassDef):
        return "\n".join(head(node))
    found = head(node)
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            found += lines[part.lineno - 1 : part.end_lineno]
        elif isinstance(part, ast.FunctionDef) and re.match(r"[^_]|__(init|call)__", part.name):
            docstring = part.body[0] if ast.get_docstring(part) else None
            found += ["", *head(part)]
            found += lines[docstring.lineno - 1 : docstring.end_lineno] if docstring else []
    return "\n".join(found)


class Outline(BasicMarkdownRenderer):
    "nbdev's API entry with the signature as the source writes it."

    def _repr_markdown_(self):
        signature = f"```python\n{outline(self.sym)}\n```"
        entry = super()._repr_markdown_()
        return re.sub(r"```python\n.*?\n```", lambda _: signature, entry, count=1, flags=re.DOTALL)


class DocsInOrder(add_show_docs):
    "nbdev adds the API entries of one cell last name first; turn them round."

    def begin(self):
        super().begin()
        runs = groupby(self.nb.cells, key=lambda cell: bool(getattr(cell, "has_sd", False)))
        runs = [(added, list(cells)) for added, cells in runs]
        ordered = (cells[::-1] if added else cells for added, cells in runs)
        self.nb.cells[:] = [cell for cells in ordered for cell in cells]


class ShowExports(Processor):
    "Fill the API entries from the exported module; no other cell is run, so all show what they showed."

    def begin(self):
        self.shell = CaptureShell()
        if module := default_exp(self.nb):
            self.run(mk_cell(f"from {get_config().lib_path.name}.{module} import *"))
        self.shell.push({"show_doc": partial(show_doc, renderer=Outline)})

    def cell(self, cell):
        if cell.cell_type == "code" and re.search(r"^show_doc\(", cell.source, re.MULTILINE):
            self.run(cell)

    def run(self, cell):
        self.shell.cell(cell)
        if self.shell.exc:
            raise self.shell.exc

    def end(self):
        atexit.unregister(self.shell.atexit_operations)  # takes half a second a page as we leave


class Pages(FilterDefaults):
    "nbdev's way from a notebook to a page's source, without running the notebook again."

    def base_procs(self):
        ours = {add_show_docs: DocsInOrder, exec_show_docs: ShowExports}
        return [ours.get(proc, proc) for proc in super().base_procs()]


def page_source(path):
    "The notebook at `path` as the site shows it."
    nb = read_nb(path)
    Pages()(nb)
    as_pages_are_called(nb)
    without_links_in_code(nb)
    return nb
