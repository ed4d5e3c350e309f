"MaskVLM's own: presets, impossible values, what reaches a prediction, its variants, and patches as symbols."

import math
from dataclasses import replace

import pytest
import torch
from contract import check_hidden_is_hidden, odd_views, small, some_batch

from mvl_bench.core import UserError, by_hand, update
from mvl_bench.data.finite_worlds import KnownWorld, list_pairs
from mvl_bench.data.pairs import collate
from mvl_bench.data.tokenizers import word_tokenizer
from mvl_bench.masking.base import without_image, without_text
from mvl_bench.models.losses import mlm, recon
from mvl_bench.models.maskvlm import (
    READER_PRESETS,
    PatchReader,
    maskvlm_base,
    maskvlm_mini,
    maskvlm_tiny,
    reader_mini,
    reader_tiny,
)
from mvl_bench.patches import patchify


@pytest.fixture
def model():
    return small("maskvlm")


@pytest.fixture
def batch():
    return some_batch(4)


def test_whole_images_are_masked_first():
    tiny, mini = maskvlm_tiny(), maskvlm_mini()
    first = tiny.at_step(tiny.masking.full_mask_steps - 1)
    assert first.build_masking().image_ratio == 1 and first.losses.recon_kind == "l2"
    assert tiny.at_step(tiny.masking.full_mask_steps) is tiny and mini.at_step(0) is mini


def test_the_papers_size_has_its_four_losses():
    base = maskvlm_base()
    assert base.contrast.queue_size == 65536
    assert base.losses.weights == dict(mlm=1.0, recon=1.0, itc=1.0, itm=1.0)
    assert list(update(maskvlm_tiny(), itc=1.0, itm=1.0).losses.weights) == [
        "mlm",
        "recon",
        "itc",
        "itm",
    ]
    assert update(base, mlm=0, recon=0, image_ratio=0, text_ratio=0, random_ratio_prob=0)


@pytest.mark.parametrize(
    "wrong, rule",
    [
        (dict(img_size=(65, 64)), "img_size 65"),
        (dict(mask_size=12), "mask_size 12"),
        (dict(image_ratio=1.5), "image_ratio 1.5"),
        (dict(mlm=0, recon=0), "are all 0"),
        (dict(num_heads=5), "num_heads 5"),
        (dict(full_mask_steps=-1), "full_mask_steps -1"),
        (dict(recon_saliency_weight=-1.0), "recon_saliency_weight -1.0"),
        (dict(full_mask_steps=1.5), "full_mask_steps 1.5"),
        (dict(image_std=0), "image_std 0"),
        (dict(queue_size=100.5), "queue_size 100.5"),
        (dict(momentum=1.5), "momentum 1.5"),
        (dict(itm=1.0, cross_depth=0), "cross_depth"),
        (dict(image_strategy="blocks"), "blocks"),
        (dict(joint_strategy="all"), "all"),
        (dict(image_strategy="score", cross_depth=0), "score"),
    ],
)
def test_impossible_values_are_refused(wrong, rule):
    with pytest.raises(UserError, match=rule):
        update(maskvlm_tiny(), **wrong)


def test_losses_are_those_of_the_masked_units_of_forward(model, batch):
    views = model.cfg.build_masking()(batch, (0, 0))
    with torch.no_grad():
        losses, (image, text) = model.losses(batch, views), [model(batch, v) for v in views]
    assert losses.counts == dict(mlm=views[1].text_mask.sum(), recon=views[0].image_mask.sum())
    masked, words = views[0].image_mask, views[1].text_mask
    truth = patchify(batch.images, model.cfg.image.patch_size)[masked]
    kind = model.cfg.losses.recon_kind
    torch.testing.assert_close(losses.parts["recon"], recon(image.pixels[masked], truth, kind))
    expected = mlm(text.word_logits[words], batch.input_ids[words])
    torch.testing.assert_close(losses.parts["mlm"], expected)


@pytest.mark.parametrize(
    "changes",
    [
        dict(mask_token_at="input"),
        dict(decoder_depth=0),
        dict(joint_strategy="joint"),
        dict(joint_strategy="dirichlet", image_strategy="block", text_strategy="span"),
        dict(recon=0.0),
        dict(mlm=0.0),
    ],
)
@torch.no_grad()
def test_no_variant_leaks(changes, batch):
    variant = small("maskvlm", **changes)
    views = variant.cfg.build_masking()(batch, (0, 0))
    assert variant.losses(batch, views).parts.keys() == variant.cfg.losses.weights.keys()
    check_hidden_is_hidden(variant, batch, [*views, *odd_views(variant, batch)])


def test_attention_sums_to_one(model, batch):
    hand = by_hand(batch, model.num_patches, patches=range(5), words=[1, 2])
    attention = model(batch, hand, attention=True).attention
    depth = model.cfg.cross_depth
    assert len(attention) == 2 * depth
    assert all(torch.allclose(w.sum(-1), torch.ones(())) for w in attention.values())


def test_gradients_reach_all_but_the_encoders_mask_token(model, batch):
    views, first = model.cfg.build_masking()(batch, (0, 0)), torch.arange(4) == 0
    absent = without_text(views[0], first), without_image(views[1], first)
    sum(model.losses(batch, absent).parts.values()).backward()
    unreached = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert unreached <= {"image_encoder.mask_token"}


def test_pair_losses_add_only_their_own_weights(model, batch):
    views = model.cfg.build_masking()(batch, (0, 0))
    four = small("maskvlm", itc=1.0, itm=1.0, proj_dim=32, queue_size=64, momentum=0.9)
    assert model.features(batch).match is None and model.contrast is None
    extra = four.state_dict().keys() - model.state_dict().keys()
    assert extra and all(name.startswith(("contrast", "to_match")) for name in extra)
    once, twice = (four.losses(batch, views, four.cfg.step_key(0, 0)) for _ in range(2))
    assert all(twice.parts[name].equal(part) for name, part in once.parts.items())


def test_a_row_that_lacks_a_modality_is_no_pair(batch):
    four = small("maskvlm", itc=1.0, itm=1.0, proj_dim=32, queue_size=64)
    views = four.cfg.build_masking()(batch, (0, 0))
    lacking = replace(batch, has_text=torch.tensor([True, False, True, True]))
    with torch.no_grad():
        counts = four.losses(lacking, views).counts
        assert counts["itc"] == 3 and counts["itm"] == 9
        assert "itm" not in four.losses(replace(batch, item=batch.item * 0), views).parts


@pytest.fixture
def reader():
    "A `PatchReader`, a batch of its world, and the batch's masking."
    world, tokenizer = KnownWorld("one", img_size=48), word_tokenizer(list_pairs("one").captions)
    cfg = update(reader_mini(), vocab_size=len(tokenizer), mask_id=tokenizer.mask_token_id)
    torch.manual_seed(0)
    pairs = collate([world.pair(i) for i in range(16)], tokenizer, cfg.text.max_text_len)
    return PatchReader(cfg), pairs, cfg


def test_a_reader_begins_by_guessing_among_all_prototypes(reader):
    model, batch, cfg = reader
    views = cfg.build_masking()(batch, (0, 0))
    assert abs(model.losses(batch, views).parts["recon"] - math.log(1539)) < 1.5
    assert cfg.recon_baselines(batch, views)["recon unigram"] < math.log(1539) / 2
    assert set(READER_PRESETS) == {"mini", "tiny"} and not reader_tiny().masking.full_mask_steps
    assert reader_mini().at_step(0).losses.recon_kind == "nats"


@torch.no_grad()
def test_a_reader_scores_one_place_as_it_scores_all(reader):
    model, batch, _ = reader
    assert model.prototypes[model.numbers_of(batch.images)].equal(patchify(batch.images, 8))
    half, both = by_hand(batch, 36, range(18)), by_hand(batch, 36, (), [2, 4])
    at = torch.arange(16)
    assert model.patch_logits(batch, half, at).shape == (16, 1539)
    words = model(batch, both).word_logits[at, 4]
    torch.testing.assert_close(
        words, model.word_logits(batch, both, at * 0 + 4), atol=1e-5, rtol=1e-5
    )
    assert torch.allclose(model(batch, half).pixels.amax(), torch.tensor(1.0), atol=0.2)


@pytest.mark.parametrize(
    "wrong, rule",
    [
        (dict(world="three"), "'three' cannot be named"),
        (dict(recon_kind="l1"), "recon_kind 'l1' has no effect"),
        (dict(full_mask_steps=5), "full_mask_steps 5 has no effect"),
    ],
)
def test_a_reader_refuses_what_it_cannot_use(wrong, rule):
    with pytest.raises(UserError, match=rule):
        update(reader_mini(), **wrong)
