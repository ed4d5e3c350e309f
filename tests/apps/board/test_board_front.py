"The front end's manners, with this test as its host: one question in flight, the last one kept, nothing old drawn."

import json
from contextlib import contextmanager
from functools import partial

import pytest
from boards import untrained
from chromium import needs_chromium, tab

from mvl_bench.apps.board.respond import opening, react
from mvl_bench.apps.web.app import FRONT

pytestmark = needs_chromium
MOUNT = """async ([js, css, first]) => {
  const style = document.createElement('style');
  style.textContent = css;
  document.head.append(style);
  const { mount } = await import(URL.createObjectURL(new Blob([js], { type: 'text/javascript' })));
  window.asked = [];
  window.board = mount(document.body, first, (ask) => window.asked.push(ask), { base: 'http://a/' });
}"""


@pytest.fixture(scope="module")
def models():
    return {"one": untrained()}


@contextmanager
def board(browser, first):
    "A tab with a board that this test answers: `asked()` lists its requests, `tell(answer)` answers."
    with tab(browser) as page:
        page.goto("data:text/html,<title>board</title>")
        page.clock.install()
        page.evaluate(
            MOUNT, [(FRONT / "board.js").read_text(), (FRONT / "board.css").read_text(), first]
        )
        page.locator(".mb[data-answered='1']").wait_for()
        tell = partial(page.evaluate, "answer => window.board.update(answer)")
        yield page, lambda: page.evaluate("window.asked"), tell


def test_no_response_is_said_and_a_late_answer_is_shown(browser, models):
    first = opening(models)
    with board(browser, first) as (page, asked, tell):
        page.locator(".mb-cell").nth(0).click()
        page.clock.fast_forward(14_000)
        assert page.locator(".mb[aria-busy]").count() == 1
        page.clock.fast_forward(2_000)
        error = page.locator(".mb-error")
        assert error.inner_text() == "No response: the server is busy or disconnected."
        assert page.locator(".mb[aria-busy]").count() == 0
        tell(react(models, asked()[0]))  # late, and nothing else was asked
        assert error.count() == 0
        page.locator(".mb-cell").nth(1).click()
        tell(asked()[1] | dict(error="The server is busy."))  # said at once
        assert error.inner_text() == "The server is busy."
        assert page.locator(".mb[aria-busy]").count() == 0
        page.locator(".mb-cell").nth(2).click()
        tell(react(models, asked()[1]))  # late, but something else was asked
        assert page.locator(".mb[aria-busy]").count() == 1 and error.count() == 1
        tell(react(models, asked()[2]))
        assert page.locator(".mb[aria-busy]").count() == 0 and error.count() == 0


def test_predictions_name_the_true_word_and_quote_marks(browser, models):
    first = opening(models)
    guesses = [
        dict(truth="zebra", probability=0.1, top=[[",", 0.7], ["[UNK]", 0.1]], known=False),
        dict(truth="cat", probability=0.2, top=[["dog", 0.5], ["cat", 0.2]], known=True),
        dict(truth="cat", probability=0.9, top=[["cat", 0.9]], known=True),
    ]
    first["shown"]["columns"]["with"] |= dict(guesses=guesses, why="Error lower by 0.01.")
    with board(browser, first) as (page, _, _):
        column = page.locator(".mb-with")
        assert column.locator(".mb-guess > .mb-chip").all_inner_texts() == [
            "✗ “,” 70 %",
            "✗ dog 50 %",
            "✓ cat 90 %",
        ]
        truths = column.locator(".mb-word")
        assert [text.strip() for text in truths.all_inner_texts()] == [
            "truth: zebra is not in the vocabulary",
            "truth: cat",
        ]
        assert truths.locator(".mb-unknown").all_inner_texts() == ["zebra"]
        assert column.locator(".mb-why").inner_text() == "Error lower by 0.01."
        page.get_by_label("numbers").check()
        bars = column.locator(".mb-bars").nth(0)
        assert bars.locator("li").count() == 2 and "✓" not in bars.inner_text()


def test_influence_has_one_scale_and_a_zero(browser, models):
    first = opening(models)
    words, patches = len(first["shown"]["chips"]), 64
    table = [[0] * patches for _ in range(words)]
    table[1][7], table[2][8] = 33, 99
    first["shown"]["influence"] = dict(patches=table, words=None)
    first["state"]["view"] = ["influence"]
    with board(browser, first) as (page, _, _):
        tint = "e => Number(e.style.getPropertyValue('--tint'))"
        for word, patch, strength in ((1, 7, 1 / 3), (2, 8, 1)):
            page.locator("[data-word]").nth(word).hover()
            assert page.locator(".mb-cell").nth(patch).evaluate(tint) == pytest.approx(strength)
            assert page.locator(".mb-tinted").count() == 1
        page.locator("[data-word]").nth(0).hover()
        assert page.locator(".mb-read").inner_text().endswith(": no effect above the noise floor")
        assert page.locator(".mb-tinted").count() == 0
        assert not any(page.locator(".mb-cell").evaluate_all(f"a => a.map({tint})"))


def test_one_question_in_flight_and_the_last_one_kept(browser, models):
    first = opening(models)
    with tab(browser) as page:
        page.goto("data:text/html,<title>board</title>")
        page.evaluate(
            MOUNT, [(FRONT / "board.js").read_text(), (FRONT / "board.css").read_text(), first]
        )
        page.locator(".mb[data-answered='1']").wait_for()
        asked = lambda: page.evaluate("window.asked")  # noqa: E731
        tell = lambda answer: page.evaluate("answer => window.board.update(answer)", answer)  # noqa: E731
        chosen = page.locator(".mb-cell[aria-selected=true]")
        for place in (0, 1, 2):
            page.locator(".mb-cell").nth(place).click()
        assert len(asked()) == 1 and chosen.count() == 15  # the board itself does not wait
        tell(react(models, asked()[0]))
        assert len(asked()) == 2 and asked()[1]["given"]["patches"].startswith("0-2,")
        assert chosen.count() == 15  # an answer to an older question takes nothing back
        tell(react(models, asked()[0]))  # once more: it is old now
        tell(react(models, asked()[0]) | dict(source="another view"))  # ours is on its way
        assert page.locator(".mb[aria-busy]").count() == 1 and chosen.count() == 15
        tell(react(models, asked()[1]))
        assert page.locator(".mb[aria-busy]").count() == 0 and len(asked()) == 2
        other = react(models, dict(state=first["state"], kind="clear", given={}))
        tell(json.loads(json.dumps(other)))  # nothing is on its way: what Python set is shown
        assert chosen.count() == 0
        page.locator(".mb-cell").nth(9).click()
        tell(dict(error="no <b>such</b> thing", seq=3, source=asked()[2]["source"]))
        assert page.locator(".mb-error").inner_text() == "no <b>such</b> thing"
        assert page.locator(".mb[aria-busy]").count() == 0
        page.locator(".mb-edit textarea").fill("a dog")
        page.locator(".mb-cell").nth(10).click()
        page.get_by_label("numbers").check()
        tell(react(models, asked()[3]))
        last = asked()[4]["state"]  # what was typed, clicked and switched meanwhile came along
        assert (last["edit"], last["patches"], last["view"]) == ("a dog", "9-10", ["numbers"])
        page.evaluate("window.board.destroy()")
        assert page.locator(".mb").count() == 0
