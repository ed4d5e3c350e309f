"The ideal observer against a second count of its world, against every shipped model, and in a run's floors."

import json
from collections import Counter
from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from mvl_bench.apps.board.respond import opening, react
from mvl_bench.apps.panels.base import last_answer
from mvl_bench.apps.panels.compare import COMPARE
from mvl_bench.core import UserError, by_hand, view
from mvl_bench.data.finite_worlds import KNOWN, KnownWorld, all_scenes, truth_of
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import caption, draw
from mvl_bench.evaluation.information import chain
from mvl_bench.evaluation.reconstruction import evaluate_shares
from mvl_bench.evaluation.tasks import evaluate_probe
from mvl_bench.masking.base import without_image, without_text
from mvl_bench.models.registry import IDEALS, load
from mvl_bench.patches import patchify
from mvl_bench.training.config import DataConfig, RunConfig, with_settings
from mvl_bench.training.doctor import diagnose
from mvl_bench.training.runner import new_model, open_source, run_training


@pytest.fixture(scope="module", params=sorted(IDEALS.items()), ids=lambda x: x[1])
def observer(request):
    name, world = request.param
    return load(name), KnownWorld(world, "val")


def told_apart(text, picture, patches, words):
    "What is visible of a scene: bytes of the chosen patches, the chosen words, and how many words."
    cells = [(8 * (i // 8), 8 * (i % 8)) for i in patches]
    seen = tuple(picture[y : y + 8, x : x + 8].tobytes() for y, x in cells)
    return seen, tuple(text[i] for i in words), len(text)


def test_posterior_is_a_second_count(observer):
    ideal, source = observer
    scenes = [(caption(scene).split(), draw(scene)) for scene in all_scenes(source.world)]
    for i, (patches, words) in enumerate(
        [((9, 10, 27, 54), (0, 1)), ((), (1, 3, 4)), ((0, 7, 18), ()), (range(40), (2,))]
    ):
        pair = source.pair(i)
        batch = collate([pair], ideal.tokenizer, 24)
        masked = set(range(64)) - set(patches)
        said = range(1, 1 + len(pair.caption.split()))
        masks = by_hand(batch, 64, sorted(masked), [k for k in said if k - 1 not in words])
        true = told_apart(pair.caption.split(), pair.image, patches, words)
        alike = [one for one in scenes if told_apart(*one, patches, words) == true]
        place, word = min(masked), min(k for k in said if k - 1 not in words)
        counted = Counter(text[word - 1] for text, _ in alike)
        chances = ideal(batch, masks).word_logits[0, word].softmax(-1)
        for text, count in counted.items():
            got = chances[ideal.tokenizer.convert_tokens_to_ids(text)].item()
            assert abs(got - count / len(alike)) < 1e-5, (text, got, count, len(alike))
        assert abs(sum(counted.values()) / len(alike) - 1) < 1e-9
        y, x = 8 * (place // 8), 8 * (place % 8)
        mean = np.mean([picture[y : y + 8, x : x + 8] / 255 for _, picture in alike], axis=0)
        got = ideal(batch, masks).pixels[0, place].view(8, 8, 3).numpy()
        assert np.abs(got - mean).max() < 1e-4


def test_estimates_are_the_truth_when_chances_are(observer):
    ideal, source = observer
    batch = collate([source.pair(i) for i in range(6)], ideal.tokenizer, 24)
    scenes, lengths = all_scenes(source.world), Counter()
    by_text = Counter(caption(s) for s in scenes)
    for text, count in by_text.items():
        lengths[len(text.split())] += count
    for row in range(6):
        text = source.pair(row).caption
        exact = log(lengths[len(text.split())] / by_text[text])
        nats = chain(ideal, batch.rows([row]), "text", False, (0, row)).nats.sum().item()
        assert abs(nats - exact) < 1e-3
    assert truth_of(source.world).information > 6


@pytest.mark.parametrize("name", ["maskvlm-tiny", "mlim-tiny", "vitmae-tiny", "vilt-tiny"])
def test_no_model_beats_it(name):
    "A standing test for leaks: what a model knows beyond the ideal observer, it has seen."
    model = load(name)
    found = evaluate_shares(model, KnownWorld("one", "val"), 40)
    assert found
    for loss, rows in found.items():
        for side, row in rows.items():
            low, high = row["above_ideal"]
            assert high > 0, f"{name} {loss} {side}: {low} to {high} above the ideal observer"


def test_absent_sides_and_strangers(observer):
    ideal, source = observer
    batch = collate([source.pair(i) for i in range(4)], ideal.tokenizer, 24)
    nothing = view(batch, 64)
    assert torch.equal(ideal(batch, nothing).pixels, patchify(batch.images, 8))
    blind, mute = without_image(nothing), without_text(nothing)
    for masks in (blind, mute):
        found = ideal(batch, masks)
        assert found.pixels.isfinite().all() and found.word_logits.isfinite().all()
    noise = collate(
        [
            source.pair(0)._replace(
                image=np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
            )
        ],
        ideal.tokenizer,
        24,
    )
    assert ideal(noise, by_hand(noise, 64, range(32))).pixels.isfinite().all()


@pytest.mark.slow
def test_a_run_on_a_known_world_knows_its_floor(tmp_path):
    out = tmp_path / "run"
    settings = [
        "steps=3",
        "batch_size=8",
        "probe_every=0",
        "log_every=1",
        "save_every=3",
        "trackers=",
    ]
    run_training(
        with_settings(
            RunConfig(str(out), "maskvlm", "mini", data=DataConfig("scenes:one")), settings
        ),
        quiet=True,
    )
    lines = json.loads((out / "baselines.json").read_text())
    assert 0 <= lines["mlm floor"] < lines["mlm unigram"]
    assert 0 <= lines["recon floor"] < min(lines["recon median"], lines["recon background"])
    _, _, findings = diagnose(out, 24)
    told = {one.about: one.text for one in findings}
    assert "no model of this world comes under" in told["mlm floor"]
    assert set(KNOWN) == set(IDEALS.values())


@pytest.mark.parametrize("event, given", [("view", {"on": ["untrained"]}), ("card", {})])
def test_what_the_observer_has_not_is_one_sentence(event, given):
    models = {name: load(name) for name in ("maskvlm-tiny", "ideal")}
    state = react(
        models, dict(state=opening(models)["state"], kind="model", given={"name": "ideal"})
    )
    assert "none of them" in state["shown"]["notes"][0]
    said = react(models, dict(state=state["state"], kind=event, given=given))
    assert "has no weights" in said["error"]
    rows = last_answer(COMPARE, models, dict(state=state["state"]))["shown"]["rows"]
    assert {"maskvlm-tiny", "ideal"} <= {row["name"] for row in rows}  # the others are shown


def test_a_reader_names_patches_of_its_data_only(tmp_path):
    run = RunConfig(str(tmp_path / "run"), "reader", "mini", data=DataConfig("scenes:shapes"))
    with pytest.raises(UserError, match="patches of 'shapes' cannot be named"):
        run_training(run, quiet=True)
    two = with_settings(replace(run, data=DataConfig("scenes:two")), ["steps=1"])
    model, _ = new_model(two, open_source(two))
    assert model.cfg.world == "two" and len(model.prototypes) == 98


def test_a_probe_needs_vectors():
    source = KnownWorld("one")
    with pytest.raises(UserError, match="returns no image features"):
        evaluate_probe(load("ideal"), source, source)
