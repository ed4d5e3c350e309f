"The front end's manners, with this test as its host: one question in flight, the last one kept, nothing old drawn."

import json

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
