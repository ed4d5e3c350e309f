"The model with ITC and ITM: its pair losses against what features say, shared passes, training, many processes; each check is shown failing on a planted fault."

import math
from dataclasses import replace

import pytest
import torch
from test_contrast import (  # noqa: F401  one_thread is a fixture
    TOKENIZER,
    TRAIN,
    draw_in_words,
    itc_in_words,
    one_thread,
    small,
    some_batch,
    vectors,
)
from torch import nn

from mvl_bench.core import StepKey, UserError, hashed_uniform, view
from mvl_bench.masking.base import without_image, without_text
from mvl_bench.models import base as saving
from mvl_bench.models import momentum_contrast as contrast
from mvl_bench.models import registry as checkpoints
from mvl_bench.models.losses import Vectors, itc
from mvl_bench.models.maskvlm import MaskVLM
from mvl_bench.training.loop import check_queue, train_step, train_steps
from mvl_bench.training.optim import make_optimizer

# ---- the model


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before, model):
    "Names of what differs."
    return {name for name, value in model.state_dict().items() if not value.equal(before[name])}


@torch.no_grad()
def check_pair_losses(model, batches):
    "Compare ITC and ITM, step after step, with what `features`, an own slow copy and an own queue give."
    slow, earlier = small(type(model)), []
    slow.load_state_dict(model.state_dict())
    size = model.cfg.contrast.queue_size
    for step, batch in enumerate(batches):
        views = model.cfg.build_masking()(batch, (0, step))
        found = model.losses(batch, views, model.cfg.step_key(0, step))
        whole = batch.rows((batch.has_image & batch.has_text).nonzero()[:, 0])
        fast, old = model.features(whole), slow.features(whole)
        own = Vectors(fast.image_vector, fast.text_vector, whole.item)
        before = Vectors(old.image_vector, old.text_vector, whole.item)
        every = contrast.join([before, *earlier])
        if len(set(every.item.tolist())) > 1:
            expected = itc_in_words(own, every, model.contrast.temperature.item())
            assert found.parts["itc"].item() == pytest.approx(expected, rel=1e-4)
        several = len(set(whole.item.tolist())) > 1
        assert ("itm" in found.parts) == several
        if several:
            expected = itm_in_words(model, whole, fast, step)
            assert found.parts["itm"].item() == pytest.approx(expected, rel=1e-4)
        counts = {name: found.counts[name] for name in ("itc", "itm") if name in found.counts}
        assert counts.get("itm", 0) == 3 * len(whole) * several
        assert counts.keys() == found.parts.keys() & {"itc", "itm"}
        for p in model.parameters():  # as if something were learnt
            p.add_(0.02 * torch.randn(p.shape) * p.requires_grad)
        model.after_step(found.carry)
        for copy, p in zip(slow.parameters(), model.parameters()):
            copy.copy_(0.9 * copy + 0.1 * p)
        joined = contrast.join([*earlier, before])
        earlier = [Vectors(*(part[-size:] for part in joined))] if size else []


def itm_in_words(model, pairs, features, step):
    "Return ITM of whole pairs: each pair, and one drawn negative for each image and each caption."
    logits = features.image_vector @ features.text_vector.T / model.contrast.temperature
    draws, items = hashed_uniform((0, step, 0, "negatives"), pairs.ids, 2), pairs.item.tolist()
    texts = draw_in_words(logits.tolist(), items, draws[:, 0].tolist(), 0.25)
    images = draw_in_words(logits.T.tolist(), items, draws[:, 1].tolist(), 0.25)
    questions = [(i, i, 1) for i in texts] + [(i, j, 0) for i, j in texts.items()]
    questions += [(j, i, 0) for i, j in images.items()]
    seen, read, yes = (list(side) for side in zip(*questions))
    shown = pairs.rows(seen)
    asked = replace(pairs.rows(read), images=shown.images, has_image=shown.has_image)
    sign = 2 * torch.tensor(yes) - 1
    return -nn.functional.logsigmoid(sign * model.features(asked).match).mean().item()


def batches_of_all_kinds():
    "First steps, the same item twice, a short batch, sides that are absent, wrap-around, one item alone."
    lacking = some_batch(24)
    lacking = replace(
        lacking,
        has_image=torch.tensor([True, False, True, True, True, True]),
        has_text=torch.tensor([True, True, True, False, True, True]),
    )
    return [
        some_batch(0, items=[0, 1, 2, 0, 4, 5]),
        some_batch(6),
        some_batch(12, 2),
        lacking,
        some_batch(0, items=[0, 1, 2, 0, 4, 5]),
        some_batch(30, 3, [7, 7, 7]),
        some_batch(6),
    ]


@pytest.mark.parametrize("queue_size", [12, 0])
def test_pair_losses_are_what_features_say(queue_size):
    torch.manual_seed(1)
    model = small(queue_size=queue_size)
    if queue_size:
        check_pair_losses(model, batches_of_all_kinds())
        assert model.contrast.queue.pushed == 6 + 6 + 2 + 4 + 6 + 3 + 6
    else:
        found = model.losses(some_batch(30, 3, [7, 7, 7]), ())
        assert not found.parts and not found.counts and len(found.carry.item) == 3
        model.after_step(found.carry)
        assert len(model.contrast.queue.filled().item) == 0


class Swapped(MaskVLM):
    "Asks ITM of the pairs the other way round."

    def match(self, image, text, rows, others):
        return super().match(image, text, others, rows)


class Hasty(MaskVLM):
    "Enqueues what the learning weights say."

    def after_step(self, *carries):
        super().after_step(*(c._replace(image=torch.roll(c.image, 1, 0)) for c in carries))


class Static(MaskVLM):
    "The slow copies stand still."

    def after_step(self, *carries):
        before = state_of(self.contrast.slow)
        super().after_step(*carries)
        self.contrast.slow.load_state_dict(before)


class SameItem(MaskVLM):
    "Takes every row for another item."

    def losses(self, batch, views, key=StepKey()):
        return super().losses(replace(batch, item=torch.arange(len(batch))), views, key)


class Lacking(MaskVLM):
    "Contrasts with sides that are not there."

    def losses(self, batch, views, key=StepKey()):
        there = torch.ones_like(batch.has_image)
        return super().losses(replace(batch, has_image=there, has_text=there), views, key)


@pytest.mark.parametrize("cls", [Swapped, Hasty, Static, SameItem, Lacking])
def test_faulty_pair_losses_are_found(cls):
    torch.manual_seed(1)
    with pytest.raises(AssertionError):
        check_pair_losses(small(cls), batches_of_all_kinds())


def test_losses_change_nothing_and_after_step_only_what_it_should():
    model, batch = small(), some_batch()
    views, before = model.cfg.build_masking()(batch, (0, 0)), state_of(model)
    noise_before = torch.get_rng_state()
    losses = model.losses(batch, views, model.cfg.step_key(1, 2))
    assert not moved(before, model) and torch.get_rng_state().equal(noise_before)
    assert (
        model.losses(batch, views, model.cfg.step_key(1, 2)).parts["itm"].equal(losses.parts["itm"])
    )
    for p in model.parameters():
        p.data += p.requires_grad * 0.1
    before = state_of(model)
    model.after_step(losses.carry)
    changed = moved(before, model)
    assert changed and all(n.startswith(("contrast.slow.", "contrast.queue.")) for n in changed)
    model.contrast.log_temperature.data.fill_(3.0)
    model.after_step(losses.carry)
    assert model.contrast.temperature.item() == pytest.approx(0.5)


def test_negatives_come_from_the_key():
    model, batch = small(itc=0.0), some_batch()  # without ITC: uniform, and so all vary
    values = {
        model.losses(batch, (), model.cfg.step_key(0, step)).parts["itm"].item()
        for step in range(4)
    }
    assert len(values) > 1 and model.losses(batch, ()).parts["itm"].isfinite()


def test_what_is_absent_is_not_looked_at():
    model, batch = small(), batches_of_all_kinds()[3]
    other = replace(
        batch,
        images=torch.where(batch.has_image[:, None, None, None], batch.images, 1 - batch.images),
        input_ids=torch.where(batch.has_text[:, None], batch.input_ids, 7),
    )
    first, second = (model.losses(b, (), model.cfg.step_key(0)) for b in (batch, other))
    assert all(first.parts[n].equal(second.parts[n]) for n in ("itc", "itm"))
    assert first.carry.item.tolist() == batch.item[[0, 2, 4, 5]].tolist()
    nobody = replace(batch, has_image=batch.has_image & False)
    none = model.losses(nobody, (), model.cfg.step_key(0))
    assert not none.parts and len(none.carry.item) == 0


@pytest.mark.parametrize("way", ["cross", "input"])
def test_shared_passes_run_once(monkeypatch, way):
    model, batch, calls = small(mask_token_at=way), some_batch(), []
    for name in ("image_encoder", "text_encoder"):
        module = getattr(model, name)

        def counting(*args, _forward=module.forward, _name=name):
            calls.append(_name)
            return _forward(*args)

        monkeypatch.setattr(module, "forward", counting)
    rows = torch.tensor([True, False, False, True, False, False])
    picture, caption = model.cfg.build_masking()(batch, (0, 0))
    model.losses(
        batch, (without_text(picture, rows), without_image(caption, rows)), model.cfg.step_key(0)
    )
    assert sorted(calls) == ["image_encoder"] * 2 + ["text_encoder"] * 2  # one hidden, one whole
    calls.clear()
    model.losses(batch, (view(batch, model.num_patches),), model.cfg.step_key(0))
    assert sorted(calls) == ["image_encoder", "text_encoder"]


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_what_weighs_nothing_is_not_there(weights):
    names = [n for n, weight in zip(("itc", "itm"), weights) if weight]
    model = small(itc=weights[0], itm=weights[1])
    there = {name.split(".")[0] for name in model.state_dict()}
    assert ("contrast" in there) == ("itc" in names) and ("to_match" in there) == ("itm" in names)
    offered = {"itc": "embed", "itm": "match"}
    assert model.offers == {"pixels", "words", *(offered[name] for name in names)}
    batch = some_batch()
    losses = model.losses(batch, model.cfg.build_masking()(batch, (0, 0)), model.cfg.step_key(0))
    assert losses.parts.keys() == {"mlm", "recon", *names} == model.cfg.losses.weights.keys()
    assert (losses.carry is None) == ("itc" not in names)
    found = model.features(batch)
    assert (found.match is None) == ("itm" not in names)
    assert (found.image_vector is None) == (found.text_vector is None) == ("itc" not in names)
    assert found.fused_vector.shape == (6, 64)
    model.after_step(losses.carry)


def test_weights_that_were_there_are_drawn_as_before():
    "Turning the pair losses on changes no weight that was there without them."
    plain, full = small(itc=0.0, itm=0.0).state_dict(), small().state_dict()
    assert all(full[name].equal(value) for name, value in plain.items())


def test_vectors_are_units_and_match_says_yes_or_no():
    model, batch = small(), some_batch()
    found = model.features(batch)
    for side in (found.image_vector, found.text_vector):
        torch.testing.assert_close(side.norm(dim=1), torch.ones(6))
    scores = model.to_match(found.fused_vector)
    torch.testing.assert_close(found.match.sigmoid(), scores.softmax(1)[:, 1])


def test_the_shipped_checkpoint_loads_strictly():
    model = checkpoints.load("maskvlm-tiny")
    assert model.offers == {"pixels", "words", "embed", "match"}
    for name in ("image", "text"):  # slow copies still follow after another step
        assert getattr(model.contrast.queue, name).norm(dim=1).sub(1).abs().max() < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_queue_and_copies_are_saved(tmp_path, dtype):
    model, batch = small(), some_batch(items=[2**62 + i for i in range(6)])
    for step in range(3):  # wraps around
        model.after_step(model.losses(batch, (), model.cfg.step_key(step)).carry)
    saving.save(model, TOKENIZER, tmp_path / "one", dtype=dtype)
    again = checkpoints.load(tmp_path / "one")
    queue, back = model.contrast.queue, again.contrast.queue
    assert back.item.tolist() == queue.item.tolist() and back.pushed == queue.pushed == 18
    if dtype == torch.float32:
        assert not moved(state_of(model), again)
        parts = [m.losses(batch, (), m.cfg.step_key(9)).parts for m in (model.eval(), again)]
        assert all(parts[0][name].equal(parts[1][name]) for name in parts[0])


# ---- in training


def train(model, first, last, optimizer=None, **changes):
    "Steps `first` to `last` on batches that are functions of the step."
    cfg = replace(TRAIN, **changes)
    optimizer = optimizer or make_optimizer(model, cfg)
    many = [(some_batch(6 * i), 0) for i in range(first, last)]
    list(train_steps(model, many, cfg, optimizer, first))
    return optimizer


def test_stopped_and_gone_on_is_the_same_bit_for_bit(tmp_path):
    whole, first = small(), small()
    train(whole, 0, 4)
    done = train(first, 0, 2)
    saving.save(first, TOKENIZER, tmp_path / "half")
    second = checkpoints.load(tmp_path / "half")
    optimizer = make_optimizer(second, TRAIN)
    optimizer.load_state(done.state())
    train(second, 2, 4, optimizer)
    assert not moved(state_of(whole), second) and moved(state_of(first), second)


def test_passes_of_one_update_are_averaged():
    "Candidates are not gathered across passes; copies and queue move once, after the step."
    model, cfg = small(), replace(TRAIN, accumulate=2)
    views = model.cfg.build_masking()
    passes = [(b, views(b, (0, 0))) for b in (some_batch(0, 5), some_batch(6, 3))]
    alone = [
        model.losses(b, v, model.cfg.step_key(0, 0, i)).parts for i, (b, v) in enumerate(passes)
    ]
    slow = state_of(model.contrast.slow)
    losses, _ = train_step(
        model, make_optimizer(model, cfg), passes, cfg, model.cfg.step_key(cfg.seed, 0)
    )
    for name in ("itc", "itm"):
        assert losses[name] == pytest.approx(sum(p[name].item() for p in alone) / 2, rel=1e-5)
    held = model.contrast.queue.filled()
    assert held.item.tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    learnt = dict(model.image_encoder.named_parameters())
    for name, p in model.contrast.slow[0].named_parameters():
        torch.testing.assert_close(p.data, 0.9 * slow[f"0.{name}"] + 0.1 * learnt[name].data)


def test_a_pass_without_a_question_is_not_counted():
    model, cfg = small(mlm=0.0, recon=0.0), replace(TRAIN, accumulate=2)
    passes = [(some_batch(0), ()), (some_batch(6, 2, [50, 50]), ())]
    expected = model.losses(*passes[0], model.cfg.step_key(0, 0)).parts
    losses, _ = train_step(
        model, make_optimizer(model, cfg), passes, cfg, model.cfg.step_key(cfg.seed, 0)
    )
    assert losses == {n: pytest.approx(part.item()) for n, part in expected.items()}
    lonely = small(mlm=0.0, recon=0.0, itc=0.0)
    losses, norm = train_step(
        lonely, make_optimizer(lonely, cfg), passes[1:], cfg, lonely.cfg.step_key(cfg.seed, 0)
    )
    assert losses == {} and norm == 0


def test_a_queue_holds_whole_batches():
    check_queue(small().cfg, 6)
    check_queue(small(itc=0.0).cfg, 7)  # there is no queue
    with pytest.raises(UserError, match="queue_size 12 is not a multiple of batch_size 7"):
        train(small(), 0, 1, batch_size=7)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(queue_size=-1), "queue_size -1"),
        (dict(queue_size=10.5), "queue_size 10.5 is not a whole number"),
        (dict(proj_dim=0), "proj_dim 0"),
        (dict(momentum=1.01), "momentum 1.01"),
        (dict(momentum=-0.1), "momentum -0.1"),
        (dict(random_negative_frac=1.5), "random_negative_frac 1.5"),
        (dict(itc=-1.0), "itc -1"),
        (dict(itm=math.nan), "itm nan"),
        (dict(cross_depth=0), "cross_depth"),
        (dict(mlm=0, recon=0, itc=0, itm=0), "all 0"),
    ],
)
def test_impossible_values_are_refused(changes, words):
    with pytest.raises(UserError, match=words) as error:
        small(**changes)
    assert "\n" not in str(error.value)


# ---- many processes


def test_candidates_are_gathered_across_processes(monkeypatch):
    pairs, slow, other = vectors(4), vectors(4, seed=1), vectors(3, [9, 1, 8], seed=2)
    place, mine = torch.arange(4), torch.tensor([1, 3, 5, 6])
    assert all(a.equal(b) for one in contrast.gather(slow, place) for a, b in zip(one, slow))
    both = contrast.join(
        [other, slow]
    )  # process 1 of two: rows 1, 3, 5 and 6 of the whole are here
    whole = [part[torch.tensor([0, 3, 1, 4, 2, 5, 6])] for part in both]
    monkeypatch.setattr(contrast, "gather_rows", lambda rows, place: (whole, mine))
    candidates, carry = contrast.gather(slow, place)
    assert candidates.item.tolist() == [0, 1, 2, 3, 9, 1, 8]  # own ones first: they are the answers
    assert carry.item.tolist() == [9, 0, 1, 1, 8, 2, 3]  # the same order in every process
    expected = itc_in_words(pairs, contrast.join([slow, other]), 0.1)
    assert itc(pairs, candidates, 0.1).item() == pytest.approx(expected, rel=1e-4)
