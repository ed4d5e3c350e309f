"Filling in step by step: it ends, keeps what is pinned, is repeatable, is data; and how spread and masking lab count."

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from captions import KINDS, PIECES, config, pieces_batch

from mvl_bench.core import Pair, UserError, update
from mvl_bench.data.scenes import Scenes
from mvl_bench.inference.decoding import (
    ORDERS,
    Plan,
    _cells,
    advance,
    alternate,
    decode,
    first_step,
    from_trace,
    pin,
    remask_all,
    to_trace,
)
from mvl_bench.inference.reconstruction import reconstruct_pair
from mvl_bench.inference.uncertainty import spread
from mvl_bench.masking.joint import build_masking
from mvl_bench.masking.statistics import draw_many, hole_sizes, run_lengths, sample_strategies
from mvl_bench.models.registry import load

WORLD = Scenes("shapes", "val")


@pytest.fixture(scope="module", params=["maskvlm-tiny", "mlim-tiny"])
def model(request):
    torch.set_num_threads(1)
    return load(request.param)


@pytest.fixture(scope="module")
def run():
    "A short run as JSON."
    start = first_step(model := load("maskvlm-tiny"), WORLD.pair(5), [1, 2])
    return json.dumps(to_trace([start, *decode(model, start, Plan(1))], 8))


def some_start(model, i, rng):
    "A scene with some patches and words hidden by chance."
    pair = WORLD.pair(i)
    places = first_step(model, pair).places
    patches = rng.permutation(64)[: rng.integers(0, 65)].tolist()
    return first_step(
        model, pair, patches, rng.permutation(places)[: rng.integers(0, len(places))].tolist()
    )


@pytest.mark.parametrize("order", ORDERS)
def test_it_ends_with_nothing_hidden_and_what_was_seen_stays(model, order):
    rng = np.random.default_rng(ORDERS.index(order))
    for i in range(3):
        start = some_start(model, i, rng)
        plan = Plan(4, order, temperature=float(i % 2), unsure_first=i == 2)
        steps = [start, *decode(model, start, plan)]
        assert steps[-1].done and len(steps) <= 5
        assert [s.index for s in steps] == list(range(len(steps)))
        old, new = (_cells(s.picture, 8) for s in (start, steps[-1]))
        seen = [p for p in range(64) if p not in start.hidden_patches]
        assert (old[seen] == new[seen]).all()
        shown = [t for t in range(len(start.ids)) if t not in start.hidden_words]
        assert all(steps[-1].ids[t] == start.ids[t] for t in shown)
        special = {*model.tokenizer.all_special_ids}
        assert not special & {steps[-1].ids[t] for t in start.places}  # a word, not a mark
        for before, after in zip(steps, steps[1:]):
            assert {*before.hidden_patches} == {*after.hidden_patches, *after.new_patches}
            assert {*before.hidden_words} == {*after.hidden_words, *after.new_words}
            assert after.guesses.keys() == after.entropy.keys() == {*before.hidden_words}
            assert after.spread.keys() == {*before.hidden_patches}
        again = [start, *decode(model, start, plan)]
        assert steps == again
        told = json.loads(json.dumps(to_trace(steps, 8)))
        assert from_trace(told) == steps
        assert list(decode(model, from_trace(told)[0], plan)) == steps[1:]


def test_pinned_parts_stay_through_everything(model):
    black, start = (
        np.zeros((8, 8, 3), np.uint8),
        first_step(model, Pair(None, None, 0, 0), blanks=6),
    )
    start = pin(model, start, {2: "red", 5: "circle"}, {0: black, 63: black})
    for step in alternate(model, start, Plan(2, temperature=1.0), rounds=2):
        told = dict(zip(step.places, step.words))
        assert told[2] == "red" and told[5] == "circle"
        cells = _cells(step.picture, 8)
        assert (cells[[0, 63]] == 0).all() and not {0, 63} & {*step.hidden_patches}
        assert not {2, 5} & {*step.hidden_words}
    assert step.done and step.pinned_words == (2, 5) and step.pinned_patches == (0, 63)


def test_all_at_once_is_reconstruct(model):
    pair, masked = WORLD.pair(5), [9, 10, 21, 22, 29, 30, 37, 38, 53]
    (step,) = decode(model, first_step(model, pair, masked, [6]), Plan(1))
    column = reconstruct_pair(model, pair, masked, [6]).columns["with"]
    assert np.abs(step.picture / 255 - column.picture).max() <= 0.5 / 255 + 1e-5
    assert (
        step.guesses[6][0][0] == column.tokens[0].top[0][0] == dict(zip(step.places, step.words))[6]
    )
    assert abs(step.guesses[6][0][1] - column.tokens[0].top[0][1]) < 1e-3


def test_a_filled_patch_is_visible_from_then_on(model):
    start = first_step(model, WORLD.pair(5), range(40))
    first = advance(model, start, 10, 0)
    seen = first_step(model, Pair(first.picture, WORLD.pair(5).caption, 0, 0), first.hidden_patches)
    second, other = advance(model, first, 30, 0), advance(model, seen, 30, 0)
    assert (second.picture == other.picture).all() and second.done
    black = first.picture.copy()
    for patch in first.new_patches:
        black[patch // 8 * 8 :, patch % 8 * 8 :][:8, :8] = 0
    other = advance(model, replace(first, picture=black), 30, 0)
    still = [i for i in range(64) if i not in first.new_patches]
    assert (_cells(second.picture, 8)[still] != _cells(other.picture, 8)[still]).any()


def test_what_a_model_lacks_is_not_filled_in():
    vilt, vitmae, pair = load("vilt-tiny"), load("vitmae-tiny"), WORLD.pair(5)
    *_, step = decode(vilt, first_step(vilt, pair, [], [6, 7]), Plan(2))
    assert step.done and not step.spread
    *_, step = decode(vitmae, first_step(vitmae, pair, [1, 2, 3]), Plan(2))
    assert step.done and not step.guesses
    for call in (
        lambda: first_step(vilt, pair, [0]),
        lambda: first_step(vitmae, pair, [], [6]),
        lambda: first_step(vitmae, Pair(pair.image, "", 0, 0)),
        lambda: remask_all(vilt, step, "both"),
    ):
        with pytest.raises(UserError):
            call()


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        dict(steps=3),
        dict(picture="x"),
        dict(picture=None),
        dict(patch_size=0),
        dict(patch_size=-8),
        dict(patch_size="a"),
        dict(places=5),
        dict(steps=[{}]),
        dict(changed=[64]),
        dict(changed=[0.5]),
        dict(pixels="AAAA"),
        dict(spread={"x": 1}),
        dict(guesses=[1]),
    ],
)
def test_a_trace_that_is_none_is_refused_in_a_line(run, wrong):
    trace = json.loads(run)
    if wrong and wrong.keys() & trace.keys():
        trace |= wrong
    elif wrong:
        trace["steps"][1] |= wrong
    with pytest.raises(UserError, match="not a valid trace") as caught:
        from_trace(trace if wrong else wrong)
    assert "\n" not in str(caught.value)


def test_spread_is_the_deviation_of_the_answers_and_nothing_where_they_agree(model):
    from mvl_bench.core import view
    from mvl_bench.data.pairs import collate
    from mvl_bench.inference.uncertainty import parts_of

    batch = collate([WORLD.pair(i) for i in (1, 5)], model.tokenizer, model.cfg.text.max_text_len)
    masks = view(batch, 64, torch.arange(64).expand(2, -1) % 3 > 0)
    with torch.no_grad():
        each = [model(batch, v).pixels.clamp(0, 1) for v in parts_of(batch, masks, 3)]
    mean = sum(each) / 3
    wanted = (sum((p - mean) ** 2 for p in each) / 3).sqrt().mean(-1)
    found = spread(model, batch, masks, 3)
    masked = masks.image_mask
    torch.testing.assert_close(found[masked], wanted[masked], rtol=1e-3, atol=1e-4)
    nothing = view(batch, 64, torch.ones(2, 64, dtype=torch.bool), batch.maskable)
    assert spread(model, batch, nothing, 3).max() < 1e-5  # no part is left to take away


def flood(mask):
    "Size of the hole of each place, by walking."
    found = np.zeros(mask.shape, int)
    for place in np.argwhere(mask):
        hole, rest = set(), [tuple(place)]
        while rest:
            r, c = rest.pop()
            if (
                (r, c) in hole
                or not (0 <= r < mask.shape[0] and 0 <= c < mask.shape[1])
                or not mask[r, c]
            ):
                continue
            hole.add((r, c))
            rest += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
        found[tuple(place)] = len(hole)
    return found


def test_holes_are_what_walking_finds():
    torch.manual_seed(0)
    for ratio in (0.2, 0.5, 0.65, 0.9):
        masks = torch.rand(8, 42) < ratio
        for mask, sizes in zip(masks, hole_sizes(masks, (6, 7))):
            assert (flood(mask.reshape(6, 7).numpy()) == sizes.reshape(6, 7).numpy()).all()
    assert run_lengths(torch.tensor([[0, 1, 1, 1, 0, 1]]).bool()).tolist() == [[0, 3, 3, 3, 0, 1]]


def test_statistics_count_what_the_strategies_sample():
    cfg, batch = update(config(), token_kinds=KINDS), pieces_batch(1)
    found = sample_strategies(
        cfg, PIECES, batch, 0.4, 400, torch.rand(64, generator=torch.Generator().manual_seed(0))
    )
    words = int(batch.maskable.sum())
    for modality, by_strategy in found.items():
        for name, samples in by_strategy.items():
            assert samples.patches.shape == (400, 64) and samples.words.shape == (400, words), (
                modality,
                name,
            )
            for kind in ("patch", "word"):
                chance = getattr(samples, f"{kind}_chance")
                ratios = getattr(samples, f"{kind}_ratios")
                assert abs(chance.mean() - ratios.mean()) < 1e-9
            assert len(samples.holes) == samples.patches.sum()
            assert len(samples.runs) == samples.words.sum()
    alone = draw_many(build_masking(update(cfg, image_ratio=0.4, text_ratio=0.4)), batch, 400)
    assert found["joint"]["alternating"].patches.equal(alone.patches)
    ratio = found["words"]["random"].word_ratios
    assert (ratio == round(0.4 * words) / words).all()
    sigma = (0.4 * 0.6 / 400) ** 0.5
    squares = round(0.4 * 16) / 16
    assert (found["patches"]["random"].patch_chance - squares).abs().max() < 5 * sigma
