"Item matching: the page gets every stored score and counts for itself; its numbers are those of the evaluation."

import json

import pytest
from chromium import needs_chromium, tab
from sklearn.metrics import average_precision_score

from mvl_bench.apps.panels.base import last_answer, style
from mvl_bench.apps.panels.item_matching import INPUTS, ITEM_MATCHING
from mvl_bench.evaluation.item_matching import SHOWN, PairScores, at_threshold


def ask(**settings):
    return last_answer(ITEM_MATCHING, {}, None, dict(settings=settings))


def test_all_pairs_are_sent_with_the_stored_scores():
    scores, shown = PairScores.load(), ask()["shown"]
    assert set(INPUTS) == set(SHOWN) and shown["inputs"] == list(INPUTS)
    assert len(shown["pairs"]) == len(scores.ids)
    for k in (0, 7, len(scores.ids) - 1):
        row = shown["pairs"][k]
        assert row["match"] == (scores.labels[k] == 1) and row["kind"] == scores.kinds[k]
        assert row["chances"] == [scores.chances[name][k] for name in INPUTS]
    assert "NaN" not in json.dumps(shown)


def test_the_chosen_pair_comes_with_its_pictures_and_what_its_titles_differ_in():
    first = ask()["shown"]
    assert "colour" in first["pairs"][first["chosen"]["number"]]["kind"]
    one, other = (ask(pair=k)["shown"]["chosen"] for k in (0, 1))
    assert one["number"] == 0 and one["pictures"] != other["pictures"]
    assert all(url.startswith("data:image/png") for url in one["pictures"])
    titles = ask()["shown"]["pairs"][0]["titles"]
    assert all(word in title for words, title in zip(one["only"], titles) for word in words.split())


@pytest.mark.parametrize("pair", [-1, 400, "3", None, True, [], 1e9])
def test_a_pair_that_does_not_exist_gets_one_sentence(pair):
    reply = ask(pair=pair)
    assert "shown" not in reply and "is not a number from 0 to 399" in reply["error"]


PAGE = """<!doctype html><meta name="viewport" content="width=device-width"><style>body { margin: 16px; font-family: serif; } %s</style><div id="place"></div>
<script>%s; const panel = mount(document.getElementById('place'), build, %s, async (request) => panel.update(await window.answerPanel(request)));</script>"""


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_counts_as_the_evaluation_does(browser, width):
    scores, asked = PairScores.load(), []

    def reply(request):
        asked.append(request["settings"])
        return last_answer(ITEM_MATCHING, {}, None, request)

    with tab(browser, width, 900) as page:
        page.expose_function("answerPanel", reply)
        first = json.dumps(last_answer(ITEM_MATCHING, {}, None)).replace("</", "<\\/")
        page.set_content(PAGE % (style(), ITEM_MATCHING.script(), first))
        for name in INPUTS:
            page.get_by_role("button", name=name, exact=True).click()
            for cut in (0.5, 0.9, 1.0):
                page.get_by_role("slider").fill(str(cut))
                now = at_threshold(scores, cut, name)
                said = page.locator(".mb-say[role=status]").inner_text()
                rule = "A match: same shape, colour and maker. Called a match: probability of at least"
                assert page.get_by_text(f"{rule} {cut:.3f}.").is_visible()
                assert f"{now['called']} of 400 pairs are called a match" in said
                assert f"recall {now['recall']:.2f}" in said
                expected = f"Precision {now['precision']:.2f}" if now["called"] else "Precision has no value"
                assert expected in said
            area = average_precision_score(scores.labels, scores.given[name])
            assert f"{name}: area under the curve {area:.2f}" in page.locator(".mb-key").inner_text()
        assert not asked  # all of that without the server
        page.get_by_role("slider").fill("0.5")
        before = page.locator(".mb-item img").first.get_attribute("src")
        page.get_by_role("button", name="Next wrong decision").click()
        page.wait_for_function("old => (document.querySelector('.mb-item img')?.src ?? old) !== old", arg=before)
        assert page.locator(".mb-decision.mb-chosen").inner_text().endswith("wrong")
        dot = page.locator(".mb-dot.mb-pickable").nth(20)
        title = dot.locator("title").text_content()
        dot.dispatch_event("click")
        page.get_by_text(f"{title.split(':')[0].capitalize()} of 400").wait_for()
        box = page.locator(".mb-chart").first.bounding_box()
        page.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.2 * box["height"])
        assert page.get_by_role("slider").input_value() != "0.5"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert {*asked[-1]} == {"pair"}
