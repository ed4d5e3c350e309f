"An experiment card repeats its board in a fresh kernel, and says in one sentence why it does not."

import json
import re
from dataclasses import replace
from html import unescape

import nbformat
import pytest
from boards import BOARD, untrained, url
from chromium import needs_chromium, tab
from nbclient import NotebookClient
from nbconvert.filters.markdown_mistune import markdown2html_mistune as markdown2html

from mvl_bench.apps.board.codec import pack
from mvl_bench.apps.board.events import EXAMPLES, example_board
from mvl_bench.apps.board.experiment_card import card_text, experiment_card, literal
from mvl_bench.apps.board.respond import react
from mvl_bench.apps.widgets.board import MaskBoard
from mvl_bench.core import UserError
from mvl_bench.models import base as saving

__all__ = ["url"]  # a fixture


@pytest.fixture
def saved(tmp_path_factory):
    "A model of its own and the folder of its checkpoint."
    model = untrained()
    return model, saving.save(model, model.tokenizer, tmp_path_factory.mktemp("run") / "mine")


def shown(path):
    "What the last cell of a card shows in a fresh kernel."
    book = nbformat.read(path, 4)
    NotebookClient(book, timeout=120).execute()
    assert "image/png" in book.cells[2].outputs[0].data  # the four columns
    return book.cells[-1].outputs[0].data["text/plain"]


def run(book):
    "What a card defines, in this process; its last cell asserts that the numbers are those it was made with."
    scope = {}
    for cell in book.cells[1:]:
        exec(cell.source, scope)
    return scope


@pytest.mark.slow
def test_a_card_repeats_its_board_until_the_weights_are_others(saved, tmp_path):
    model, folder = saved
    board = MaskBoard({str(folder): model})
    board.patches, board.words, board.edit = [0, 1, 9], [5], "a dog"
    path = board.card(tmp_path / "card.ipynb")
    columns = board.answer["shown"]["columns"]
    made = eval(shown(path), {})
    for name in ("with", "without", "wrong"):
        assert abs(made[name]["error"] - columns[name]["error"]) <= 1e-4
        assert abs(made[name]["nats"] - columns[name]["nats"]) <= 1e-4
    twin = untrained()
    next(twin.parameters()).data += 1
    saving.save(twin, twin.tokenizer, folder)
    book = nbformat.read(path, 4)
    with pytest.raises(UserError, match="the weights of .* are not those of this card: model"):
        run(book)
    saving.save(model, model.tokenizer, folder)
    assert run(book)["found"] == made


def test_the_untrained_twin_and_a_picture_that_was_brought(saved, tmp_path):
    model, folder = saved
    posed = replace(example_board(model, *EXAMPLES[4]).board, model=str(folder))
    for number, board in enumerate(
        (replace(posed, view=("untrained",)), replace(posed, scene=None))
    ):
        text = card_text(pack(board), model)
        scope = run(nbformat.reads(text, 4))
        assert scope["board"].view == board.view, number


def test_what_cannot_be_repeated_is_refused_and_nothing_is_written(saved, tmp_path):
    model, folder = saved
    state, path = (
        pack(replace(example_board(model, *EXAMPLES[0]).board, model="mine")),
        tmp_path / "card.ipynb",
    )
    with pytest.raises(UserError, match="no checkpoint 'mine'"):
        experiment_card(state, model, path)
    other = untrained()
    next(other.parameters()).data += 1
    with pytest.raises(UserError, match="save it first"):
        experiment_card(state, other, path, folder)
    with pytest.raises(UserError, match="cannot write"):
        experiment_card(state, model, tmp_path / "nowhere" / "card.ipynb", folder)
    assert not list(tmp_path.iterdir())
    asked = react({"mine": model}, dict(state=state, kind="card", given={}))
    assert "no checkpoint 'mine'" in asked["error"] and "\n" not in asked["error"]


@needs_chromium
def test_the_button_of_the_page(browser, url, tmp_path):
    with tab(browser) as page:
        page.goto(url)
        page.locator(BOARD).wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Experiment card").click()
        download.value.save_as(tmp_path / "board.ipynb")
        state = json.loads((tmp_path / "board.ipynb").read_text())
        assert "maskvlm-tiny" in str(state["cells"][1]["source"])
        run(nbformat.read(tmp_path / "board.ipynb", 4))
        page.get_by_label("the model that answers").select_option("random")
        page.locator(".mb[aria-busy]").wait_for(state="detached")
        page.get_by_role("button", name="Experiment card").click()
        page.locator(".mb-error", has_text="no checkpoint 'random'").wait_for()


@pytest.mark.parametrize("text", ["# x <script>hit()</script> [a](javascript:hit()) ``` `", "a\n\n# b", "``", "![x](y) *z*"])
def test_text_of_a_card_is_shown_as_it_is(text):
    page = markdown2html(f"> of {literal(text)}, filled in")
    assert unescape(re.search("<code>(.*)</code>", page)[1]) == " ".join(text.split())
    assert not re.search("<(script|a|img|h1|em)[ >]", page)


def test_a_hostile_caption_is_text_in_a_card(saved):
    model, folder = saved
    board = replace(example_board(model, *EXAMPLES[0]).board, scene=None, patches=(9,), words=())
    caption = "# red [a](javascript:hit()) <script>hit()</script> ``` `"
    state = pack(replace(board, caption=caption, model=str(folder)))
    about = nbformat.reads(card_text(state, model), 4).cells[0].source
    page = markdown2html(about)
    assert page.count("<h1") == 1 and "<script" not in page and "href=\"javascript" not in page
    assert "[a](javascript:hit())" in page
