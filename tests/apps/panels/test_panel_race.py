"The masking race: equal updates, its interval, Start and Stop, hostile settings, and the page."

import json
import time

import pytest
from boards import begin, untrained
from chromium import needs_chromium, tab
from playwright.sync_api import expect

from mvl_bench.apps.panels import race
from mvl_bench.apps.panels.base import answers, last_answer
from mvl_bench.apps.widgets.panels import MaskingRace
from mvl_bench.training.race import Lap, compare_strategies, race_updates


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "Races of few updates."
    monkeypatch.setattr(race, "UPDATE_RANGE", (2, 600))
    monkeypatch.setattr(race, "_speed", [0.1])


def ask(host="a", **settings):
    "All parts of an answer."
    return list(answers(race.RACE, {}, None, dict(settings=settings), host))


def test_a_race_to_its_end():
    parts = ask(start=True, updates=2)
    *before, last = parts
    json.dumps(parts)
    assert all(part["more"] and "verdicts" not in part["shown"] for part in before) and not last["more"]
    shown = last["shown"]
    assert shown["state"] == "done" and shown["done"] == shown["total"] == 12
    for one in shown["verdicts"]:
        assert len(one["differences"]) == 3 and one["low"] <= one["mean"] <= one["high"]
        assert "One modality at a time " in one["text"] and "alternating" not in one["text"]
        assert bool(one["better"]) == (not one["low"] <= 0 <= one["high"])
    for curve in shown["curves"]["nats"].values():
        assert [[x for x, _ in points] for points in curve["seeds"]] == [[0, 1, 2]] * 3
        assert curve["mean"][-1][1] == pytest.approx(sum(p[-1][1] for p in curve["seeds"]) / 3, abs=1e-3)
    assert not race._running


def test_stop_ends_the_race_of_its_own_page_only():
    parts = answers(race.RACE, {}, None, dict(settings=dict(start=True, updates=600)), "a")
    next(parts), next(parts)
    assert ask("b", stop=True)[0]["shown"]["state"] == "ready"
    assert ask("a", page="other", stop=True)[0]["shown"]["state"] == "ready"
    assert next(parts)["more"]
    race._running["a", ""].stop.set()
    *_, last = parts
    assert last["shown"]["state"] == "stopped" and "no verdict" in last["shown"]["say"]
    assert not race._running


def test_both_strategies_of_a_seed_begin_alike_and_models_do_not_disturb_each_other():
    together = [lap for lap in race_updates("patches", ("random", "block"), 2, (0, 1), 2) if lap]
    alone = [lap for lap in race_updates("patches", ("random", "block"), 2, (1,), 2) if lap]
    same = [lap for lap in together if lap.seed == 1]
    assert [lap._replace(seconds=0) for lap in same] == [lap._replace(seconds=0) for lap in alone]
    assert same[0][3:] == same[1][3:] and same[-1].nats != same[-2].nats


def test_a_comparison_uses_the_last_step_that_all_have_reached():
    laps = [Lap(s, n, 1.0, 5, v, v) for s in range(3) for n, v in (("a", 1.0 + s), ("b", 2.0 + s * 1.01))]
    gap = compare_strategies([*laps, Lap(0, "a", 2.0, 10, 0.0, 0.0)], ("a", "b"))[0]
    assert gap.differences == pytest.approx({0: 1.0, 1: 1.01, 2: 1.02}) and gap.better == "a"


@pytest.mark.parametrize(
    "settings",
    [
        dict(masked="sound"), dict(masked=["words"]), dict(a="spiral"), dict(a="joint", b="joint"), dict(updates=10**9),
        dict(updates="many"), dict(seeds=2), dict(page="x" * 65), dict(page=3),
    ],
)  # fmt: skip
def test_hostile_settings_are_one_sentence(settings):
    (reply,) = ask(start=True, **settings)
    assert reply["error"] and "shown" not in reply and not race._running


def test_a_notebook_goes_on_while_a_race_runs():
    widget = MaskingRace(updates=600)
    start = time.process_time()
    widget.start()
    assert widget.shown["state"] == "running" and time.process_time() - start < 20
    widget.stop()
    widget.wait()
    assert widget.shown["state"] == "stopped"


@needs_chromium
def test_start_and_stop_in_the_page(browser):
    import gradio as gr

    from mvl_bench.apps.web import app, server
    from mvl_bench.apps.web.tabs import add_panel

    models = {"random": untrained()}
    with gr.Blocks() as blocks, gr.Tabs():
        with gr.Tab("Board"):
            board = app._board(models)
        add_panel(race.RACE, models, board)
    url = server.open_page(blocks.queue())
    with tab(browser, width=390) as page:
        begin(page, url)
        page.get_by_role("tab", name="Masking race").click()
        say = page.locator(".mb-race .mb-say")
        page.get_by_role("button", name="Start", exact=True).click(timeout=60_000)
        expect(say).to_contain_text("No verdict yet", timeout=60_000)
        expect(page.get_by_label("masked modality")).to_be_disabled()
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(say).to_contain_text("no verdict, as", timeout=60_000)
        expect(page.get_by_label("masked modality")).to_be_enabled()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    blocks.close(verbose=False)


def test_the_answer_without_start_is_ready():
    shown = last_answer(race.RACE, {}, None)["shown"]
    assert shown["state"] == "ready" and shown["seconds_per_update"] == 0.1
    assert all(help for names in shown["strategies"].values() for _, _, help in names)
    assert {name: plain for name, plain, _ in shown["strategies"]["joint"]}["mam"] == "Modality-Aware Masking (MAM)"
