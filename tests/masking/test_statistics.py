"Statistics of sampled masks: holes, runs, frequencies and fractions, of every strategy."

import json

import pytest
import torch

from mvl_bench.core import UserError, update
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.masking.base import Masking
from mvl_bench.masking.joint import JOINT, PATCHES, WORDS, build_masking
from mvl_bench.masking.statistics import (
    MaskSamples,
    draw_many,
    hole_sizes,
    mask_statistics,
    run_lengths,
    sample_strategies,
)
from mvl_bench.models.registry import load

MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]]).bool()


@pytest.fixture(scope="module")
def model():
    return load("maskvlm-tiny")


@pytest.fixture(scope="module")
def batch(model):
    "One pair whose caption has twelve words."
    pair = next(
        p for p in map(Scenes("all", "val").pair, range(50)) if len(p.caption.split()) == 12
    )
    return collate([pair], model.tokenizer, 24)


@pytest.fixture(scope="module")
def statistics(model, batch):
    "The statistics of every strategy at a ratio of one half."
    with torch.inference_mode():
        scores = model.patch_scores(batch)[0]
    return sample_strategies(model.cfg, model.tokenizer, batch, 0.5, 500, scores)


def test_sizes_of_two_holes_that_touch_at_a_corner():
    sizes = hole_sizes(MASK.flatten()[None], (3, 4)).reshape(3, 4)
    assert sizes.tolist() == [[3, 3, 0, 0], [0, 3, 0, 3], [0, 0, 3, 3]]


def test_lengths_of_runs():
    assert run_lengths(MASK).tolist() == [[2, 2, 0, 0], [0, 1, 0, 1], [0, 0, 2, 2]]


def test_holes_cover_the_mask_and_do_not_depend_on_direction():
    masks = torch.rand(50, 48, generator=torch.Generator().manual_seed(0)) < 0.6
    sizes = hole_sizes(masks, (6, 8))
    assert (sizes > 0).equal(masks) and sizes.flip(1).equal(hole_sizes(masks.flip(1), (6, 8)))
    assert hole_sizes(torch.ones(1, 48).bool(), (6, 8)).eq(48).all()


def test_a_block_is_one_hole_and_scattered_patches_are_small_ones():
    scattered = torch.rand(1, 256, generator=torch.Generator().manual_seed(0)) < 0.4
    block = torch.zeros(1, 256, dtype=torch.bool)
    block.unflatten(1, (16, 16))[:, 3:13, 3:13] = True
    assert hole_sizes(block, (16, 16))[block].double().mean() == 100
    assert hole_sizes(scattered, (16, 16))[scattered].double().mean() < 20


def test_scattered_patches_join_into_one_hole_between_40_and_70_percent():
    noise = torch.rand(200, 256, generator=torch.Generator().manual_seed(0))
    reach = [
        hole_sizes(masks, (16, 16))[masks].double().mean() / 256
        for masks in (noise < 0.4, noise < 0.7)
    ]
    assert reach[0] < 0.06 and reach[1] > 0.5


def test_statistics_of_two_masks_by_hand():
    patches = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]]).bool()
    samples = MaskSamples(patches, torch.tensor([[1, 1, 0], [0, 1, 0]]).bool(), (2, 3))
    assert samples.patch_chance.tolist() == [1, 0.5, 0, 0, 0, 0.5]
    assert samples.word_chance.tolist() == [0.5, 1, 0]
    assert samples.patch_ratios.allclose(torch.tensor(1 / 3).double())
    assert samples.word_ratios.allclose(torch.tensor([2 / 3, 1 / 3]).double())
    assert samples.holes.tolist() == [2, 2, 1, 1] and samples.runs.tolist() == [2, 2, 1]


def test_random_patches_are_masked_alike_and_blocks_spare_the_corners(batch):
    by_strategy = [
        draw_many(Masking((8, 8), 1, 0.5, patch_strategy=PATCHES[name]), batch)
        for name in ("random", "block")
    ]
    assert all(
        (samples.patch_ratios == 0.5).all() for samples in by_strategy
    )  # exact in every sample
    single, blocks = (samples.patch_chance for samples in by_strategy)
    assert (single - 0.5).abs().max() < 0.08
    assert blocks[0] < 0.3 and blocks.reshape(8, 8)[3:5, 3:5].min() > 0.6


def test_masks_of_two_pairs_are_refused(batch):
    with pytest.raises(UserError, match="need 1 pair, not 2"):
        draw_many(Masking((8, 8)), batch.rows([0, 0]))


def test_every_strategy_is_sampled(statistics):
    assert {**statistics}.keys() == {"patches", "words", "joint"}
    for name, table in dict(patches=PATCHES, words=WORDS, joint=JOINT).items():
        assert list(statistics[name]) == list(table)


def test_the_masked_fraction_is_exact_where_it_is_fixed(statistics):
    for samples in statistics["patches"].values():  # half of 16 squares of 2 x 2
        assert (samples.patch_ratios == 0.5).all()
        assert abs(samples.patch_chance.mean() - 0.5) < 1e-9
    assert (statistics["words"]["random"].word_ratios == 0.5).all()
    assert statistics["joint"]["dirichlet"].patch_ratios.std() > 0.1
    assert statistics["joint"]["joint"].patch_ratios.std() == 0


def test_a_grid_has_the_smallest_holes_and_blocks_the_largest(statistics):
    means = {name: samples.holes.double().mean() for name, samples in statistics["patches"].items()}
    assert means["grid"] < means["random"] < means["block"]


def test_spans_have_longer_runs_than_random_words(statistics):
    spans, random = (statistics["words"][name].runs.double().mean() for name in ("span", "random"))
    assert spans > random


def test_what_cannot_or_need_not_be_sampled_is_left_out(model, batch):
    assert "score" not in sample_strategies(model.cfg, model.tokenizer, batch, 0.5, 10)["patches"]
    words = sample_strategies(model.cfg, model.tokenizer, batch, 0.5, 10, modalities=("words",))
    assert [*words] == ["words"]


def test_mam_samples_its_modes_equally_often_in_the_long_run(model, batch):
    cfg = update(model.cfg, joint_strategy="mam", image_ratio=0.5, mam_light_ratio=0.15)
    cfg = update(cfg, random_ratio_prob=0.0, object_mask_prob=0.0, modality_dropout=0.0)
    samples = draw_many(build_masking(cfg), batch, 20000)
    ratios, counts = samples.patch_ratios.unique(return_counts=True)
    assert ratios.tolist() == [0, 2 / 16, 0.5]  # heavy text, light, heavy image
    assert (counts / 20000 - 1 / 3).abs().max() < 0.0167  # five standard deviations
    assert (samples.patch_chance - (0.5 + 0.125) / 3).abs().max() < 0.0167


def test_statistics_as_json(statistics, batch):
    data = mask_statistics(statistics["patches"]["block"])
    assert abs(sum(data["hole"].values()) - 1) < 1e-3 and data["share"]["patch"] == {"0.5": 1.0}
    assert data["draws"] == 500 and len(data["chance"]["patch"]) == 64
    assert len(data["chance"]["word"]) == batch.maskable.sum()
    assert json.loads(json.dumps(data)) == data
