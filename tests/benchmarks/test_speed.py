"The benchmark is fair: the stock reference gives our losses and does no pass too many; what it says has the agreed names."

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import (
    RobertaPreLayerNormLayer,
)

from mvl_bench.benchmarks import speed as bench
from mvl_bench.benchmarks import stock_models as reference
from mvl_bench.benchmarks.stock_models import PADDED, Reference, take_weights
from mvl_bench.benchmarks.timing import flops, interleave, medians
from mvl_bench.core import update
from mvl_bench.data.loader import batches
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_tokenizer
from mvl_bench.models.maskvlm import MaskVLM, maskvlm_small, maskvlm_tiny

SOURCE = Scenes("shapes", img_size=(32, 32))
TOKENIZER = word_tokenizer(SOURCE.captions(500))
SIZES = dict(
    img_size=(32, 32), mask_size=8, patch_size=8, embed_dim=32, num_heads=2, vocab_size=len(TOKENIZER),
    itc=1.0, itm=1.0, queue_size=16, proj_dim=16, max_text_len=24,
)  # fmt: skip
PRESETS = dict(tiny=maskvlm_tiny, small=maskvlm_small)


def config(name="tiny", **changes):
    "A preset with all its losses, smaller."
    return update(PRESETS[name](), **(SIZES | dict(full_mask_steps=0) | changes))


def same_weights(cfg, cls=Reference):
    "Our model and the reference, every weight random, norms and biases too; the queue is half full."
    torch.manual_seed(0)
    ours, theirs = MaskVLM(cfg), cls(cfg, kind=RobertaPreLayerNormLayer)
    for p in ours.parameters():
        p.data += 0.05 * torch.randn_like(p)
    ours.start_momentum()
    with torch.no_grad():
        batch, _ = next(batches(SOURCE, TOKENIZER, 8, 50))
        views = cfg.build_masking()(batch, (1, 0))
        ours.after_step(ours.losses(batch, views, ours.cfg.step_key(0, 0)).carry)
    take_weights(theirs, ours)
    return ours.train(), theirs.train()


def compare(ours, theirs, batch):
    "Every loss, every count, what goes into the queue, and some gradients."
    views = ours.cfg.build_masking()(batch, (0, 0))
    found = [model.losses(batch, views, ours.cfg.step_key(0, 7)) for model in (ours, theirs)]
    assert found[0].counts == found[1].counts
    assert found[0].parts.keys() == found[1].parts.keys() == {"mlm", "recon", "itc", "itm"}
    for name, part in found[0].parts.items():
        torch.testing.assert_close(found[1].parts[name], part, atol=1e-5, rtol=1e-5, msg=name)
    torch.testing.assert_close(*(losses.carry for losses in found), atol=1e-5, rtol=1e-4)
    for losses in found:
        sum(losses.parts.values()).backward()
    for name in ("absent_text", "absent_image", "mask_vector", "mask_position"):
        tokens = [getattr(model, name) for model in (theirs, ours)]
        pair = [torch.zeros_like(p) if p.grad is None else p.grad for p in tokens]
        torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-4, msg=name)


def some_batch(size=12):
    batch, _ = next(batches(SOURCE, TOKENIZER, size))
    return replace(batch, item=batch.item.index_fill(0, torch.tensor([3]), batch.item[2]))


@pytest.mark.parametrize(
    "name, changes",
    [
        ("tiny", {}),
        ("small", {}),
        (
            "tiny",
            dict(
                random_ratio_prob=0.0,
                object_mask_prob=0.0,
                modality_dropout=0.0,
                recon_saliency_weight=2.0,
            ),
        ),
        (
            "tiny",
            dict(modality_dropout=0.6, decoder_depth=0, recon_kind="l2", random_negative_frac=1.0),
        ),
    ],
)
def test_the_reference_gives_our_losses(name, changes):
    compare(*same_weights(config(name, **changes)), some_batch())


def causal(model):
    model.image_cross[0].attention.self.is_causal = True


def one_weight(model):
    model.text_cross[0].intermediate.dense.weight.data[0, 0] += 1


def no_queue(model):
    model.contrast.queue.pushed.zero_()


def other_negatives(model):
    model.cfg = update(model.cfg, random_negative_frac=1 - model.cfg.contrast.random_negative_frac)


def sees_all(model):
    seen = model.image_encoder.forward
    model.image_encoder.forward = lambda images, keys=None: seen(images)


def reads_padding(model):
    read = model.text_encoder.forward
    model.text_encoder.forward = lambda ids, real: read(ids, torch.ones_like(real))


@pytest.mark.parametrize(
    "fault", [causal, one_weight, no_queue, other_negatives, sees_all, reads_padding]
)
def test_another_reference_is_noticed(fault):
    ours, theirs = same_weights(config(random_negative_frac=0.0))
    compare(ours, theirs, some_batch())
    fault(theirs)
    with pytest.raises(AssertionError):
        compare(ours, theirs, some_batch())


def layers(tokens, blocks, d, crossed=0):
    "FLOPs of blocks of width d that attend to their own tokens, and to `crossed` others."
    own = 2 * tokens * 4 * d * d + 4 * tokens * tokens * d
    other = 2 * (2 * tokens + 2 * crossed) * d * d + 4 * tokens * crossed * d
    return blocks * (own + (other if crossed else 0) + 2 * tokens * 8 * d * d)


def full_length(cfg, b, matched):
    "FLOPs of the losses by hand: three passes of each encoder (one by the slow copy), two cross passes, ITM, the heads."
    d, n, t = cfg.embed_dim, 1 + cfg.image.grid[0] * cfg.image.grid[1], PADDED
    pixels = 3 * cfg.image.patch_size**2
    encode = layers(n, cfg.image_depth, d) + 2 * (n - 1) * pixels * d + layers(t, cfg.text_depth, d)
    cross = layers(n, cfg.cross_depth, d, t) + layers(t, cfg.cross_depth, d, n)
    look = 2 * (2 * (n - 1) + 2 * t) * d * d + 4 * (n - 1) * t * d + 2 * (n - 1) * 8 * d * d
    masked = cfg.pixel_head_dim
    paint = 2 * (n - 1) * (d * masked + masked * pixels if masked else d * pixels)
    heads = paint + 2 * t * (d * d + d * cfg.text.vocab_size)
    vectors = 2 * 2 * 2 * d * cfg.contrast.proj_dim
    one = 3 * encode + cross + cfg.decoder_depth * look + heads + vectors
    candidates = 2 * 2 * b * (b + 8) * cfg.contrast.proj_dim + 2 * b * b * cfg.contrast.proj_dim
    return b * one + matched * (cross + 2 * 2 * d * 2) + candidates


@pytest.mark.parametrize("name", PRESETS)
def test_the_reference_does_no_pass_too_many(name):
    cfg, batch = config(name, modality_dropout=0.0), some_batch()
    _, theirs = same_weights(cfg)
    views = cfg.build_masking()(batch, (0, 0))
    with torch.no_grad():
        matched = theirs.losses(batch, views, theirs.cfg.step_key(0, 7)).counts["itm"]
        counted = flops(lambda: theirs.losses(batch, views, theirs.cfg.step_key(0, 7)))
    assert counted == pytest.approx(full_length(cfg, len(batch), matched), rel=1e-3)

    class Again(Reference):
        "Encodes the whole picture once more, for ITM."

        def _itm(self, vectors, sides, ids, key):
            self.image_encoder(batch.images)
            return super()._itm(vectors, sides, ids, key)

    _, wasteful = same_weights(cfg, Again)
    with torch.no_grad():
        assert (
            flops(lambda: wasteful.losses(batch, views, wasteful.cfg.step_key(0, 7)))
            > 1.01 * counted
        )


def test_both_move_on_alike():
    "Slow copies and queue after a step, and then the losses again."
    ours, theirs = same_weights(config())
    batch = some_batch(8)
    views = ours.cfg.build_masking()(batch, (0, 0))
    for model in (ours, theirs):
        for p in model.contrast.to_image.parameters():
            p.data += 0.1
        model.after_step(model.losses(batch, views, model.cfg.step_key(0, 0)).carry)
    assert ours.contrast.queue.pushed == theirs.contrast.queue.pushed == 16
    compare(ours, theirs, batch)


@pytest.mark.slow
def test_what_is_said_has_the_agreed_names(monkeypatch):
    monkeypatch.setitem(bench.MASKVLM_PRESETS, "tiny", lambda: config(queue_size=8))
    small = update(bench.MLIM_PRESETS["tiny"](), embed_dim=32, num_heads=2, depth=2)
    monkeypatch.setitem(bench.MLIM_PRESETS, "tiny", lambda: small)
    told = []
    found = json.loads(json.dumps(bench.run_bench(quick=True, tell=told.append)))
    assert {"fp32", "default", "flop_ratio", "vilt_ratio", "vitmae_ratio"} <= found["tiny"].keys()
    for kind in ("fp32", "default"):
        figures = found["tiny"][kind]
        assert {"reference_ratio", "best_ratio", "utilisation"} <= figures.keys()
        assert all(figures[name] > 0 for name in ("reference_ratio", "utilisation", "pairs_per_s"))
        low, high = figures["spread"]["reference_ratio"]
        assert low <= figures["reference_ratio"] <= high
    assert {"pixels_words", "pixels"} <= found["latency_ms"].keys()
    assert all(found["latency_ms"][name]["p95"] > 0 for name in ("pixels_words", "pixels"))
    assert found["data"]["loader"] > 0 and found["seconds"] > 0
    assert len(told) == 5 and "one minute" in told[0] and "1 of 4: training steps of tiny" in told[1]
    lines = bench.bench_table(found)
    assert "tiny fp32 reference ratio" in lines and "dropout 0" in lines and "spread" not in lines


def test_only_a_full_run_measures_everything():
    names = {full: [name for _, name, _ in bench.bench_parts(full=full)] for full in (False, True)}
    assert names[False] == ["tiny", "tiny", "small", "small", "latency_ms", "data"]
    assert names[True] == [*names[False], "growth", "starts_s", "train_peak_mb"]
    limits = {full: sum(map(sum, bench.LIMITS[full].values())) for full in (False, True)}
    assert limits[False] <= 150 < limits[True]


def test_parts_are_told_before_they_run(monkeypatch):
    told = []
    parts = [("a", "x", lambda: dict(n=len(told))), ("b", "x", lambda: dict(m=len(told))), ("c", "y", lambda: 5.0)]
    monkeypatch.setattr(bench, "bench_parts", lambda quick, full: parts)
    found = bench.run_bench(tell=told.append)
    assert found["x"] == dict(n=2, m=3) and found["y"] == 5.0 and found["machine"]["cores"]
    assert "three minutes" in told[0] and "a, b, c" in told[0] and told[1].endswith("1 of 3: a") and len(told) == 4


def test_rounds_and_medians():
    order = []
    works = {n: lambda i, n=n: order.append((i, n)) or float(i) for n in "ab"}
    assert interleave(works, 3) == dict(a=[0.0, 1.0, 2.0], b=[0.0, 1.0, 2.0])
    assert [name for _, name in order] == list("baabbaab")  # who comes first takes turns
    assert medians(dict(x=[1.0, 2.0, 3.0])) == dict(x=2.0, spread=dict(x=[1.0, 3.0]))


def test_the_queue_is_full_from_the_start():
    model = MaskVLM(config())
    bench.fill(model.contrast.queue)
    held = model.contrast.queue.filled()
    assert len(held.item) == 16 and (held.item < 0).all()
    torch.testing.assert_close(held.image.norm(dim=1), torch.ones(16))
    assert isinstance(model.contrast.queue, nn.Module) and reference.PADDED == 32
