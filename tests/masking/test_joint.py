"Joint strategies: how much of each modality they mask, which names exist, and what a configuration promises."

from dataclasses import replace
from itertools import product

import pytest
import torch

from mvl_bench.core import MaskedVLModel, UserError, update, view
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_tokenizer
from mvl_bench.masking.base import Masking, MaskingConfig
from mvl_bench.masking.image import mask_by_score
from mvl_bench.masking.joint import (
    JOINT,
    PATCHES,
    STRATEGY_HELP,
    WORDS,
    ModalityAware,
    any_ratios,
    build_masking,
    dirichlet,
    dirichlet_ratios,
    draw_modes,
    drop_modalities,
    full_mask,
    masked_losses,
    uniform_ratios,
    with_kinds,
    with_scores,
)
from mvl_bench.models.maskvlm import maskvlm_tiny
from mvl_bench.models.mlim import mlim_tiny
from mvl_bench.models.registry import load
from mvl_bench.patches import patchify

IDS = torch.arange(9000)
EPOCHS = range(50)


@pytest.fixture(scope="module")
def shapes():
    "64 pairs of the world of shapes."
    source = Scenes("shapes", img_size=64)
    tokenizer = word_tokenizer(source.captions(500))
    return collate([source.pair(i) for i in range(64)], tokenizer, 24)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(Scenes().captions(500))


@pytest.fixture(scope="module")
def few(tokenizer):
    "Eight pairs of the default world."
    scenes = Scenes()
    return collate([scenes.pair(i) for i in range(8)], tokenizer, 24)


@pytest.fixture(scope="module")
def many(few):
    "The eight pairs under 2000 sample ids."
    return replace(few.rows(torch.arange(2000) % 8), ids=torch.arange(2000))


@pytest.fixture(scope="module")
def cfg(tokenizer):
    "MaskVLM's tiny preset without random ratios, boxes and modality dropout."
    preset = update(maskvlm_tiny(), vocab_size=len(tokenizer), mask_id=tokenizer.mask_token_id)
    return update(preset, random_ratio_prob=0.0, object_mask_prob=0.0, modality_dropout=0.0)


@pytest.fixture(scope="module")
def with_content(cfg, tokenizer):
    return with_kinds(update(cfg, text_strategy="content"), tokenizer)


def darkness(batch):
    "Scores of patches: dark ones are high."
    return 1 - patchify(batch.images, 8).mean(2)


def test_modes_are_equally_likely():
    fractions = torch.bincount(draw_modes(IDS, (0, 0)), minlength=3) / len(IDS)
    assert (fractions - 1 / 3).abs().max() < 0.015  # three standard deviations


def test_modes_depend_on_the_sample_and_the_epoch():
    first, second = (draw_modes(IDS, (0, epoch)) for epoch in range(2))
    assert draw_modes(IDS.flip(0), (0, 0)).flip(0).equal(first)
    assert abs((first == second).double().mean() - 1 / 3) < 0.015


@pytest.mark.parametrize("mode, ratios", [(0, (0.8, 0.0)), (1, (0.0, 0.8)), (2, (0.15, 0.15))])
def test_each_mode_masks_exactly_its_ratios(shapes, mode, ratios):
    (masks,) = ModalityAware((8, 8), modality_dropout=0.0)(shapes, (0, 0))
    rows, (image_ratio, text_ratio) = draw_modes(shapes.ids, (0, 0)) == mode, ratios
    assert masks.image_mask[rows].sum(1).eq(round(image_ratio * 64)).all()
    least = float(text_ratio > 0)  # a ratio above 0 masks at least one word
    expected = (text_ratio * shapes.maskable[rows].sum(1)).round().clamp_min(least)
    assert masks.text_mask[rows].sum(1).equal(expected.long())


def test_modality_aware_masks_depend_on_the_sample_not_on_its_row(shapes):
    strategy = ModalityAware((8, 8), modality_dropout=0.0)
    whole = strategy(shapes, (0, 0))[0].image_mask
    moved = strategy(shapes.rows(torch.arange(64).flip(0)), (0, 0))[0].image_mask
    assert moved.flip(0).equal(whole)


def test_modality_aware_in_two_views_masks_every_row_heavily(shapes):
    views = ModalityAware((8, 8), modality_dropout=0.0, one_view=False)(shapes, (0, 0))
    assert views[0].image_mask.sum(1).eq(51).all() and not views[0].text_mask.any()
    assert views[1].text_mask.any(1).all() and not views[1].image_mask.any()


def test_a_light_ratio_above_1_is_refused():
    with pytest.raises(UserError, match="mam_light_ratio 1.5 is not between 0 and 1"):
        ModalityAware((8, 8), mam_light_ratio=1.5)


@pytest.fixture(scope="module")
def epochs(shapes):
    "Modes, and views with modality dropout, of 50 epochs."
    strategy = ModalityAware((8, 8), modality_dropout=0.1)
    views = [strategy(shapes, (0, epoch))[0] for epoch in EPOCHS]
    modes = torch.cat([draw_modes(shapes.ids, (0, epoch)) for epoch in EPOCHS])
    no_image = ~torch.cat([masks.has_image for masks in views])
    no_text = ~torch.cat([masks.has_text for masks in views])
    return views, modes, no_image, no_text


def test_modality_dropout_removes_only_the_modality_that_is_not_masked_heavily(epochs):
    _, modes, no_image, no_text = epochs
    assert abs((no_image | no_text).double().mean() - 0.1) < 0.016
    assert not (no_image & (modes == 0)).any() and not (no_text & (modes == 1)).any()
    assert abs(no_image[modes == 2].double().mean() - 0.05) < 0.02
    assert abs(no_text[modes == 2].double().mean() - 0.05) < 0.02


def test_modality_aware_masks_a_third_on_average_and_every_patch_alike(shapes, epochs):
    views, _, no_image, no_text = epochs
    present, words = ~(no_image | no_text), shapes.maskable.sum(1)
    image = torch.cat([masks.image_mask.double().mean(1) for masks in views])
    text = torch.cat([masks.text_mask.sum(1) / words for masks in views]).double()
    assert abs(image[present].mean() - 0.317) < 0.02 and abs(text[present].mean() - 0.317) < 0.03
    patches = torch.cat([masks.image_mask for masks in views]).double().mean(0)
    assert (patches - patches.mean()).abs().max() < 0.035


def test_modality_dropout_in_fine_tuning_has_three_equally_likely_ways(shapes):
    unmasked = view(shapes, 64)
    views = [drop_modalities(unmasked, shapes.ids, (0, epoch)) for epoch in EPOCHS]
    has_image = torch.cat([masks.has_image for masks in views])
    has_text = torch.cat([masks.has_text for masks in views])
    for rows in (~has_image, ~has_text, has_image & has_text):
        assert abs(rows.double().mean() - 1 / 3) < 0.026
    assert (has_image | has_text).all()  # never neither


def test_modality_dropout_depends_on_the_sample_and_never_removes_the_only_modality(shapes):
    unmasked, ids = view(shapes, 64), shapes.ids
    masks = drop_modalities(unmasked, ids, (0, 0))
    few = drop_modalities(unmasked.rows([9, 2]), ids[[9, 2]], (0, 0))
    assert few.has_image.equal(masks.has_image[[9, 2]])
    assert drop_modalities(unmasked, ids, (0, 0), 0, 0).has_image.all()
    text_only = replace(unmasked, has_image=torch.zeros(64, dtype=torch.bool))
    assert drop_modalities(text_only, ids, (0, 0)).has_text.all()


@pytest.mark.parametrize("fractions", ((0.7, 0.7), (-0.1, 0.5), (float("nan"), 0.1)))
def test_impossible_fractions_of_modality_dropout_are_refused(shapes, fractions):
    with pytest.raises(UserError, match="are not fractions that sum to at most 1"):
        drop_modalities(view(shapes, 64), shapes.ids, (0, 0), *fractions)


def test_pooled_masks_exactly_so_many_units_each_equally_likely(many):
    image, text = uniform_ratios(many, 16, (0.6, 0.3), (0, 0))
    words = many.maskable.sum(1)
    units = image * 16 + text * words
    assert (units - (round(0.6 * 16) + (0.3 * words.double()).round())).abs().max() < 1e-9
    expected = units / (16 + words)
    for fraction in (image, text):
        assert abs(fraction.mean() - expected.mean()) < 0.01


def test_pooled_loses_the_two_ratios(many):
    image, text = (fraction.mean() for fraction in uniform_ratios(many, 16, (0.6, 0.3), (0, 0)))
    assert abs(text - 0.5) < 0.03 and abs(image - text) < 0.01


@pytest.mark.parametrize("ratios", ((0.6, 0.3), (0.8, 0.6)))
def test_dirichlet_ratios_have_a_fixed_sum_and_stay_below_1(many, ratios):
    image, text = dirichlet_ratios(many, 16, ratios, (0, 0))
    assert (image + text - sum(ratios)).abs().max() < 1e-9
    assert image.max() <= 1 and text.max() <= 1


def test_dirichlet_ratios_have_the_configured_mean(many):
    assert abs(dirichlet_ratios(many, 16, (0.6, 0.3), (0, 0))[0].mean() - 0.6) < 0.01


def test_dirichlet_has_the_moments_of_its_distribution():
    concentration = torch.tensor([4 / 3, 2 / 3, 1.0])
    fractions, mean = dirichlet(torch.arange(20000), concentration, (0, 0)), concentration / 3
    assert (fractions.sum(1) - 1).abs().max() < 1e-9
    assert (fractions.mean(0) - mean).abs().max() < 0.01
    assert (fractions.var(0) - mean * (1 - mean) / 4).abs().max() < 0.005  # m (1 - m) / (a + 1)


def test_dirichlet_with_two_ones_is_uniform_and_each_row_stands_alone():
    uniform = dirichlet(torch.arange(20000), torch.ones(2), (0, 1))[:, 0].sort().values
    assert (uniform - torch.linspace(0, 1, 20000)).abs().max() < 0.02
    assert dirichlet(torch.tensor([7]), torch.ones(2), (0, 1))[0, 0] in uniform


def test_any_ratio_is_uniform_and_above_0(many):
    for fractions in any_ratios(many, 16, (0.6, 0.3), (0, 0)):
        ordered = fractions.sort().values
        assert (ordered - torch.linspace(0, 1, 2000)).abs().max() < 0.04 and ordered[0] > 0


def test_kinds_are_stored_only_where_a_strategy_needs_them(cfg, with_content, tokenizer):
    assert len(with_content.text.token_kinds) == len(tokenizer)
    assert with_kinds(cfg, tokenizer) == cfg


def test_presets_build_their_masking(cfg):
    assert build_masking(cfg) == Masking((8, 8), modality_dropout=0.0)
    assert type(build_masking(mlim_tiny())) is ModalityAware


def test_every_strategy_has_a_description():
    for name, table in dict(patches=PATCHES, words=WORDS, joint=JOINT).items():
        assert [*STRATEGY_HELP[name]] == [*table]


@pytest.mark.parametrize("image, text", list(product(PATCHES, WORDS)))
def test_every_combination_masks_a_row_alike_alone_and_in_a_batch(few, with_content, image, text):
    for joint in JOINT:
        names = dict(image_strategy=image, text_strategy=text, joint_strategy=joint)
        changes = dict(corruption_ratio=0.5, random_ratio_prob=0.5)
        masking = build_masking(update(with_content, **names, **changes))
        masking = replace(masking, scorer=darkness) if image == "score" else masking
        views, alone = masking(few, (0, 0)), masking(few.rows([6]), (0, 0))
        assert len(views) == (2 if joint.startswith("alternating") else 1)
        for whole, part in zip(views, alone):
            assert whole.image_mask[[6]].equal(part.image_mask)
            assert whole.text_mask[[6]].equal(part.text_mask)
        visible = ~views[-1].text_mask
        assert views[-1].text_ids[visible].equal(few.input_ids[visible])


@pytest.mark.parametrize(
    "changes, message",
    (
        (dict(image_strategy="blocks"), "image_strategy 'blocks' is not one of random, block"),
        (dict(text_strategy="noun"), "text_strategy 'noun' is not one of random, whole_word"),
        (dict(joint_strategy="all"), "joint_strategy 'all' is not one of alternating, joint"),
        (dict(corruption_ratio=1.5), "corruption_ratio 1.5 is not between 0 and 1"),
    ),
)
def test_a_wrong_value_is_refused(cfg, changes, message):
    with pytest.raises(UserError, match=message):
        update(cfg, **changes)


@pytest.mark.parametrize(
    "changes",
    (
        dict(image_strategy="score"),
        dict(text_strategy="whole_word"),
        dict(text_strategy="content"),
        dict(corruption_ratio=0.2),
    ),
)
def test_a_strategy_without_its_scores_or_kinds_is_refused(cfg, few, changes):
    with pytest.raises(UserError, match="needs scores|token_kinds is empty"):
        build_masking(update(cfg, **changes))(few, (0, 0))


@pytest.mark.parametrize("joint", JOINT)
def test_the_full_mask_leaves_no_part_of_an_image(cfg, few, joint):
    usual = update(cfg, joint_strategy=joint, random_ratio_prob=0.5, image_strategy="block")
    for masks in build_masking(replace(usual, masking=full_mask(usual.masking)))(few, (0, 0)):
        whole, none = masks.image_mask.all(1), ~masks.image_mask.any(1)
        both = masks.image_mask.any(1) & masks.text_mask.any(1)
        light = both if joint == "mam" else torch.zeros_like(both)
        assert (whole | none | light).all()


def test_what_a_configuration_masks(cfg):
    assert masked_losses(update(cfg.masking, text_ratio=0.0)) == dict(mlm=False, recon=True)
    assert masked_losses(update(cfg.masking, text_ratio=0.0, joint_strategy="pooled"))["mlm"]
    assert masked_losses(update(cfg.masking, text_ratio=0.0, joint_strategy="mam"))["mlm"]


def test_masking_by_score_masks_the_patches_with_high_scores():
    model, scenes = load("maskvlm-tiny"), Scenes()
    batch = collate([scenes.pair(i) for i in range(4)], model.tokenizer, 24)
    by_score = with_scores(Masking((8, 8), 1, 0.3, patch_strategy=mask_by_score), model)
    scores, mask = model.patch_scores(batch), by_score(batch, (0, 0))[0].image_mask
    assert scores.shape == mask.shape == (4, 64) and (mask.sum(1) == 19).all()  # 30 % of 64
    assert (scores.where(mask, 0).sum(1) / 19 > 1.5 * scores.mean(1)).all()


def test_other_strategies_need_no_scores():
    squares = Masking((8, 8))
    assert with_scores(squares, MaskedVLModel) is squares


def test_a_model_without_scores_is_refused():
    by_score = Masking((8, 8), patch_strategy=mask_by_score)
    with pytest.raises(UserError, match="image_strategy 'score' needs scores of patches"):
        with_scores(by_score, MaskedVLModel)


def test_any_ratio_masks_both_modalities_whatever_the_ratios_and_alternates_while_images_are_whole():
    cfg = MaskingConfig(image_ratio=0.0, text_ratio=0.0, joint_strategy="alternating_any_ratio")
    assert masked_losses(cfg) == dict(mlm=True, recon=True)
    assert full_mask(cfg).joint_strategy == "alternating"
    assert full_mask(MaskingConfig(joint_strategy="pooled")).joint_strategy == "joint"
