"The one contract, on every model there is; each check is shown failing on a planted fault."

from dataclasses import replace
from functools import partial

import pytest
import torch
from contract import (  # noqa: F401  fixtures among them
    IDLE,
    SMALL,
    TOKENIZER,
    case,
    check_asked,
    check_finite,
    check_gradients,
    check_hidden_is_hidden,
    check_learns,
    check_losses_agree,
    check_losses_repeat,
    check_rows_stand_alone,
    check_saves,
    check_shapes,
    check_visible_is_seen,
    check_ways_agree,
    model,
    odd_views,
    one_thread,
    pairs_of,
    scrambled,
    small,
    some_batch,
)

from mvl_bench.core import Losses, StepKey, UserError, view
from mvl_bench.data.pairs import collate
from mvl_bench.models import base as saving
from mvl_bench.models.encoders import ImageEncoder
from mvl_bench.models.maskvlm import MaskVLM


def test_shapes(model):
    check_shapes(model, some_batch(), odd_views(model, some_batch()))


def test_finite(model):
    batch = some_batch()
    check_finite(
        model, batch, (*odd_views(model, batch), *model.cfg.build_masking()(batch, (0, 0)))
    )


def test_gradients_reach_what_should_learn(case):
    name, variant, model = case
    idle = IDLE["mask_token_at input" if variant == "mask_token_at input" else "plain"] + IDLE.get(
        variant, []
    )
    idle = idle if name == "maskvlm" else IDLE.get(f"{name} {variant}", IDLE.get(name, []))
    batch = some_batch()
    check_gradients(model, batch, odd_views(model, batch), idle)


def test_one_batch_is_learnt_by_heart(case):
    (name, _, model), batch = case, some_batch(4)
    views = replace(model.cfg.build_masking(), modality_dropout=0.0)(batch, (0, 0))
    pace = dict(steps=300) if name == "vitmae" else {}  # its decoder is 16 wide here
    pace = dict(steps=300, lr=2e-3) if "itc" in model.cfg.losses.weights else pace
    check_learns(model.train(), batch, views, **pace)


def test_rows_that_are_asked_for_are_answered(model):
    batch = some_batch()
    check_asked(model, batch, odd_views(model, batch))


def test_what_is_hidden_changes_nothing(model):
    batch = some_batch()
    check_hidden_is_hidden(
        model, batch, (*odd_views(model, batch), *model.cfg.build_masking()(batch, (3, 1)))
    )


@pytest.mark.parametrize("pixel", [1e19, float("nan"), float("inf")])
def test_masked_pixels_of_any_value_change_nothing(model, pixel):
    batch = some_batch()
    check_hidden_is_hidden(model, batch, odd_views(model, batch), pixel)


def test_what_is_visible_counts(model):
    check_visible_is_seen(model, some_batch())


def test_rows_stand_alone(model):
    check_rows_stand_alone(model, pairs_of(), odd_views)


def test_losses_repeat_and_change_nothing(model):
    batch = some_batch()
    check_losses_repeat(model, batch, odd_views(model, batch))
    check_losses_repeat(model, batch, model.cfg.build_masking()(batch, (0, 0)))


def test_losses_are_means_of_what_forward_says(model):
    batch = some_batch()
    check_losses_agree(model, batch, odd_views(model, batch))
    check_losses_agree(model, batch, model.cfg.build_masking()(batch, (0, 0)))


def test_saved_and_loaded_bit_by_bit(model, tmp_path):
    batch = some_batch()
    check_saves(model, batch, odd_views(model, batch), tmp_path / "one")


@torch.no_grad()
def test_gathered_and_dense_models_agree(model):
    if not isinstance(getattr(model, "image_encoder", None), ImageEncoder):
        pytest.skip("no encoder of visible patches")
    batch = some_batch()
    views = odd_views(model, batch)
    check_ways_agree(model.image_encoder, batch.images, views[0].image_mask)
    if model.cfg.mask_token_at == "cross":
        gathered = [model(batch, masks) for masks in views]
        forward = model.image_encoder.forward
        model.image_encoder.forward = lambda images, masked, way: forward(images, masked, "dense")
        for masks, before in zip(views, gathered):
            for a, b in zip(before[:2], model(batch, masks)[:2]):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_pairs_that_lack_a_side_are_answered(model):
    pairs = pairs_of()
    lacking = [pairs[0], pairs[1]._replace(image=None), pairs[2]._replace(caption=None), *pairs[3:]]
    batch = collate(lacking, TOKENIZER, model.cfg.text.max_text_len)
    nothing = view(batch, model.num_patches)
    check_finite(model, batch, (*model.cfg.build_masking()(batch, (0, 0)), nothing))
    other = scrambled(model, batch, nothing)
    assert not other.images.equal(batch.images)
    for a, b in zip(
        model.features(batch), model.features(other)
    ):  # what is absent is not looked at
        assert a is None or (a.equal(b) and a.isfinite().all())


# ---- planted faults


class Cut(MaskVLM):
    def forward(self, *args, **more):
        found = super().forward(*args, **more)
        return found._replace(pixels=found.pixels[:, 1:])


class Blind(MaskVLM):
    "No number where everything is hidden: what an empty set of keys gives."

    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        blind = masks.image_mask.all(1)[:, None, None]
        return found._replace(pixels=found.pixels.masked_fill(blind, torch.nan))


class BlindLoss(MaskVLM):
    def losses(self, batch, views, key=StepKey()):
        found = super().losses(batch, views, key)
        bad = torch.nan if any(v.image_mask.all(1).any() for v in views) else 0
        return found._replace(parts={name: part + bad for name, part in found.parts.items()})


class Detached(MaskVLM):
    def decode_image(self, x, text):
        return super().decode_image(x, text).detach()


class Frozen(MaskVLM):
    def fuse_image(self, masks, image, text, *more):
        return super().fuse_image(masks, image, (text[0].detach() * 0, text[1]), *more)


class LeaksPixels(MaskVLM):
    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        return found._replace(pixels=found.pixels + batch.images.mean((1, 2, 3))[:, None, None])


class LeaksWords(MaskVLM):
    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        return found._replace(word_logits=found.word_logits + batch.input_ids.sum(1)[:, None, None])


class LeaksLength(MaskVLM):
    "Looks at how long an absent caption is."

    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        return found._replace(pixels=found.pixels + batch.attention_mask.sum(1)[:, None, None])


class Forgetful(MaskVLM):
    "Answers for the first rows, whichever are asked for."

    def forward(self, batch, masks, attention=False, requested=None):
        found = super().forward(batch, masks, attention)
        return found.only(
            {name: slice(len(rows)) for name, rows in (requested or {}).items()} or None
        )


class Deaf(MaskVLM):
    "Paints without listening to the caption."

    def encode_text(self, batch, masks):
        tokens, keys = super().encode_text(batch, masks)
        return tokens * 0, keys


class MixesRows(MaskVLM):
    def forward(self, batch, masks, *more, **asked):
        found = super().forward(batch, masks, *more, **asked)
        return found._replace(pixels=found.pixels - found.pixels.mean(0))


class Restless(MaskVLM):
    def losses(self, batch, views, key=StepKey()):
        found = super().losses(batch, views, key)
        return found._replace(parts={n: p + torch.rand(()) for n, p in found.parts.items()})


class Moves(MaskVLM):
    "Moves a weight where only `after_step` may."

    def losses(self, batch, views, key=StepKey()):
        found = super().losses(batch, views, key)
        self.mask_vector.data += 1e-3
        return found


class ScoresAll(MaskVLM):
    "Its loss ignores the masks."

    def losses(self, batch, views, key=StepKey()):
        every = [replace(v, image_mask=torch.ones_like(v.image_mask)) for v in views]
        found = super().losses(batch, views, key)
        return Losses(
            {**found.parts, "recon": super().losses(batch, every).parts["recon"]}, found.counts
        )


class MeanOfViews(MaskVLM):
    "A mean of each view's mean instead of a mean over all hidden units."

    def losses(self, batch, views, key=StepKey()):
        each = [super(MeanOfViews, self).losses(batch, (v,), key) for v in views]
        whole = super().losses(batch, views, key)
        means = {n: [e.parts[n] for e in each if n in e.parts] for n in whole.parts}
        return Losses({n: sum(m) / len(m) for n, m in means.items()}, whole.counts)


class Peeks(ImageEncoder):
    "Looks at hidden patches in the dense way."

    def forward(self, images, masked=None, way="gather"):
        if way != "dense":
            return super().forward(images, masked, way)
        return (
            self.run(self.embed(images)) * ~torch.cat([masked[:, :1] & False, masked], 1)[..., None]
        )


FAULTS = [
    (Cut, check_shapes),
    (Blind, check_finite),
    (Forgetful, check_asked),
    (BlindLoss, check_finite),
    (LeaksPixels, check_hidden_is_hidden),
    (LeaksWords, check_hidden_is_hidden),
    (LeaksLength, check_hidden_is_hidden),
    (Restless, check_losses_repeat),
    (Moves, check_losses_repeat),
    (ScoresAll, check_losses_agree),
    (MeanOfViews, check_losses_agree),
    (Detached, partial(check_gradients, idle=IDLE["plain"])),
    (Frozen, partial(check_gradients, idle=IDLE["plain"])),
    (Detached, check_learns),
    (Deaf, lambda model, batch, _: check_visible_is_seen(model, batch)),
    (MixesRows, lambda model, *_: check_rows_stand_alone(model, pairs_of(), odd_views)),
]


@pytest.mark.parametrize("cls, check", FAULTS, ids=lambda x: getattr(x, "__name__", "check"))
def test_a_faulty_model_is_found(cls, check):
    batch, sound, faulty = some_batch(), small(), small(cls=cls)
    if cls is not Detached:  # the sound model passes the same check on the same views
        check(sound, batch, odd_views(sound, batch))
    with pytest.raises(AssertionError):
        check(faulty, batch, odd_views(faulty, batch))


def test_a_faulty_encoder_is_found():
    masked = odd_views(small(), some_batch())[0].image_mask
    with pytest.raises(AssertionError):
        check_ways_agree(Peeks(SMALL["img_size"], 8, 32, 1, 2), some_batch().images, masked)


def test_a_faulty_save_is_found(tmp_path, monkeypatch):
    batch, model = some_batch(), small()
    check = partial(check_saves, model, batch, odd_views(model, batch))
    check(tmp_path / "sound")
    with pytest.raises(AssertionError):
        check(tmp_path / "rounded", partial(saving.save, dtype=torch.float16))
    write = saving.save_file

    def with_zeros(weights, *args, **more):
        write({**weights, "mask_vector": weights["mask_vector"] * 0}, *args, **more)

    def without_one(weights, *args, **more):
        write({k: v for k, v in weights.items() if k != "mask_vector"}, *args, **more)

    monkeypatch.setattr(saving, "save_file", with_zeros)
    with pytest.raises(AssertionError):
        check(tmp_path / "zeros")
    monkeypatch.setattr(saving, "save_file", without_one)
    with pytest.raises(UserError, match="missing: mask_vector"):
        check(tmp_path / "dropped")


# ---- masking
