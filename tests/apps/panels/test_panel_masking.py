"The masking panel: independent samples of every strategy, words in pieces, two views, hostile settings, a page."

import json

import numpy as np
import pytest
from chromium import needs_chromium
from panel_page import panel_page, still

from mvl_bench.apps.board.codec import Board
from mvl_bench.apps.panels.base import last_answer
from mvl_bench.apps.panels.masking import DRAWS, MASKING, NAMES
from mvl_bench.data.scenes import Scenes
from mvl_bench.masking.statistics import STRATEGIES
from mvl_bench.models.registry import load

CAPTION = "a chrysanthemum with purple petals"  # its second word has seven pieces
PIECES = {*range(1, 8)}


@pytest.fixture(scope="module")
def models():
    return {name: load(name) for name in ("maskvlm-tiny", "maskvlm-flowers", "vitmae-tiny")}


@pytest.fixture(scope="module")
def scene():
    pair = Scenes("shapes", "val").pair(2)
    return Board(pair.image, pair.caption, model="maskvlm-tiny")


@pytest.fixture(scope="module")
def flower():
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    return Board(image, CAPTION, model="maskvlm-flowers", grid=(12, 12))


def shown(models, board, **settings):
    reply = last_answer(MASKING, models, board, dict(settings=settings))
    assert "error" not in reply, reply["error"]
    json.dumps(reply, allow_nan=False)
    return reply["shown"]


def by_key(content):
    return {strategy["key"]: strategy for strategy in content["strategies"]}


@pytest.mark.parametrize(
    "modality, kind", [("image", "patches"), ("text", "words"), ("both", "joint")]
)
def test_every_strategy_is_named_explained_and_sampled(models, scene, modality, kind):
    content = shown(models, scene, modality=modality, ratio=50)
    assert [*by_key(content)] == [*STRATEGIES[kind][1]] == [*NAMES[kind]]
    for strategy in content["strategies"]:
        assert strategy["help"].endswith(".") and strategy["draws"] == DRAWS
        assert len(strategy["examples"]) >= 3


def test_strategies_and_seeds_have_independent_samples(models, scene):
    spans = by_key(shown(models, scene, modality="text"))["span"]
    assert spans["help"].endswith("with a visible token between any two runs.")
    first, second = (shown(models, scene, modality="text", seed=seed) for seed in (0, 1))
    random, whole = (by_key(first)[name]["examples"] for name in ("random", "whole_word"))
    assert random != whole  # the same rule here: no word has pieces
    assert random != by_key(second)["random"]["examples"]
    assert first == shown(models, scene, modality="text", seed=0)


def test_a_word_in_pieces_is_whole_to_one_strategy_only(models, flower):
    content = shown(models, flower, modality="text", ratio=40)
    word = content["caption"][1]
    assert "".join(piece["text"] for piece in word) == "chrysanthemum" and len(word) == 7
    masked = {name: [PIECES & {*e["words"]} for seed in range(4) for e in
              by_key(shown(models, flower, modality="text", ratio=40, seed=seed))[name]["examples"]]
              for name in ("random", "whole_word")}  # fmt: skip
    assert all(pieces in (set(), PIECES) for pieces in masked["whole_word"])
    assert any(0 < len(pieces) < 7 for pieces in masked["random"])
    assert len({*by_key(content)["whole_word"]["chance"]["word"][1:8]}) == 1


def test_alternating_has_two_views_and_any_ratio_ignores_the_ratio(models, scene):
    strategies = by_key(shown(models, scene, modality="both", ratio=50))
    assert {name for name, s in strategies.items() if s["views"] == 2} == {
        "alternating",
        "alternating_any_ratio",
    }
    assert [name for name, s in strategies.items() if not s["uses_ratio"]] == [
        "alternating_any_ratio"
    ]
    assert len(strategies["mam"]["share"]["patch"]) == 3  # heavy, light and none


@pytest.mark.parametrize("ratio, said", [(50, "50 % is rounded to 2 of 5 tokens (40 %)."), (40, ""), (0, "")])
def test_a_ratio_that_is_rounded_says_so(models, scene, ratio, said):
    from dataclasses import replace

    content = shown(models, replace(scene, caption="a circle and a square"), modality="text", ratio=ratio)
    assert content["rounded"] == said
    masked = {0: 0, 40: 2, 50: 2}[ratio]
    assert all(len(example["words"]) == masked for s in content["strategies"] for example in s["examples"])


@pytest.mark.parametrize("ratio", [0, 100])
def test_all_or_nothing_is_hidden(models, scene, ratio):
    for strategy in shown(models, scene, ratio=ratio)["strategies"]:
        assert all(len(e["patches"]) == 64 * ratio // 100 for e in strategy["examples"])


def test_a_model_without_scores_or_words_says_so(models, scene):
    from dataclasses import replace

    content = shown(models, replace(scene, model="vitmae-tiny"), modality="image")
    assert "score" not in by_key(content) and "gives no attention scores" in content["missing"]
    notes = shown(models, replace(scene, model="vitmae-tiny"), modality="text")["notes"]
    assert notes == ["vitmae-tiny predicts no words: its own training masks none."]
    assert not shown(models, scene)["notes"] and not shown(models, scene)["missing"]


@pytest.mark.parametrize(
    "settings, says",
    [
        (dict(modality="audio"), "modality 'audio' is not one of image, text, both"),
        (dict(modality=["text"]), "is not one of"),
        (dict(ratio=101), "ratio 101 is not a number from 0 to 100"),
        (dict(ratio=float("nan")), "ratio nan is not a number"),
        (dict(ratio="50"), "is not a number"),
        (dict(seed=-1), "seed -1 is not a number"),
        (dict(seed=True), "is not a number"),
    ],
)
def test_hostile_settings_get_one_sentence(models, scene, settings, says):
    reply = last_answer(MASKING, models, scene, dict(settings=settings))
    assert says in reply["error"] and "shown" not in reply


def test_a_caption_without_words(models, scene):
    from dataclasses import replace

    empty = replace(scene, caption="")
    assert (
        "no word to mask"
        in last_answer(MASKING, models, empty, dict(settings=dict(modality="text")))["error"]
    )
    assert (
        "no word to mask"
        in last_answer(MASKING, models, empty, dict(settings=dict(modality="both")))["error"]
    )
    assert shown(models, empty, modality="image")["strategies"]


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page(browser, models, flower, width):
    with panel_page(browser, MASKING, models, flower, width=width) as page:
        assert page.locator(".mb-strategy").count() == 4
        assert page.locator(".mb-strategy .mb-masked").count() == 12
        page.get_by_role("button", name="Text", exact=True).click()
        still(page)
        assert page.asked[-1]["settings"]["modality"] == "text"
        assert (
            page.locator(".mb-left .mb-piece").count() == 11
            and page.locator(".mb-left .mb-pieces").count() == 5
        )
        for card in page.locator(".mb-strategy").all()[
            1:2
        ]:  # whole words: all pieces of a word or none
            for word in card.locator(".mb-sentences .mb-cut").all():
                assert word.locator(".mb-gone").count() in (0, 7)
        before = page.locator(".mb-sentences").first.inner_html()
        page.get_by_role("button", name="Resample").focus()
        page.keyboard.press("Enter")
        still(page)
        assert (
            page.asked[-1]["settings"]["seed"] == 1
            and page.locator(".mb-sentences").first.inner_html() != before
        )
        page.get_by_role("button", name="Both jointly").click()
        still(page)
        assert page.locator(".mb-strategy").count() == 6
        assert page.get_by_text("Example 1, view 2: text").count() == 2
        assert page.locator(".mb-yaxis").count() == 12 and page.locator(".mb-count", has_text="% of samples").count() == 18
        page.get_by_label("Mask ratio").fill("100")
        page.get_by_label("Mask ratio").dispatch_event("change")
        still(page)
        assert page.asked[-1]["settings"]["ratio"] == 100
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@needs_chromium
def test_what_a_ratio_comes_to_follows_the_control(browser, models, flower):
    with panel_page(browser, MASKING, models, flower, dict(modality="text")) as page:
        for ratio, count, told in (("50", 6, "50 % is rounded to 6 of 11 tokens (55 %)."), ("20", 2, "20 % is rounded to 2 of 11 tokens (18 %).")):
            page.get_by_label("Mask ratio").fill(ratio)
            page.get_by_label("Mask ratio").dispatch_event("change")
            still(page)
            assert page.get_by_text(told).is_visible()  # beside the control, and the same below
            assert page.get_by_text(f"always {count} of 11 (").count() >= 3
