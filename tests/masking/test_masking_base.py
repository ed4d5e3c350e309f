"Random masks and their views: exact counts, equal probabilities, random ratios, boxes and replaceable parts."

from dataclasses import replace

import pytest
import torch

from mvl_bench.core import UserError, hashed_uniform
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes, box
from mvl_bench.data.tokenizers import word_tokenizer
from mvl_bench.masking.base import (
    Masking,
    MaskingConfig,
    mask_fraction,
    num_to_mask,
    one_box,
    random_squares,
    random_words,
)
from mvl_bench.patches import overlapping_patches

KEY = (0, 0)
MANY = torch.arange(4000)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(Scenes().captions(3000))


@pytest.fixture(scope="module")
def scene_batch(tokenizer):
    "64 scenes with the boxes of their objects."
    return collate([Scenes().pair(i) for i in range(64)], tokenizer, 24)


@pytest.fixture(scope="module")
def batch(scene_batch):
    "64 pairs whose objects have no known boxes."
    return replace(scene_batch, boxes=None)


@pytest.fixture(scope="module")
def large_batch(batch):
    "The pairs 60 times, each time with new sample ids."
    ids = torch.arange(64 * 60)
    return replace(batch.rows(ids % 64), ids=ids)


def test_each_row_has_its_own_ratio():
    counts = num_to_mask(torch.tensor([0, 1, 10, 10]), torch.tensor([1, 0.2, 0.01, 0.26]))
    assert counts.tolist() == [0, 1, 1, 3]


@pytest.mark.parametrize("ratio, count", [(0, 0), (0.01, 1), (0.3, 4), (1, 12)])
def test_every_row_has_the_same_exact_count(ratio, count):
    draws = hashed_uniform((0,), torch.arange(5), 12)
    assert mask_fraction(draws, ratio).sum(1).tolist() == [count] * 5


def test_the_count_is_exact_for_many_units():
    mask = mask_fraction(hashed_uniform((0,), torch.arange(5), 196), 0.6)
    assert mask.sum(1).tolist() == [118] * 5


def test_the_count_is_a_fraction_of_the_allowed_units():
    draws = hashed_uniform((0,), torch.arange(5), 12)
    allowed = torch.arange(12)[None] < torch.tensor([[0], [1], [5], [10], [12]])
    assert mask_fraction(draws, 0.3, allowed).sum(1).tolist() == [0, 1, 2, 3, 4]


def test_a_mask_depends_on_the_sample_and_not_on_its_row():
    ids = torch.arange(5)
    reverse = mask_fraction(hashed_uniform((0,), ids.flip(0), 12), 0.3)
    assert reverse.flip(0).equal(mask_fraction(hashed_uniform((0,), ids, 12), 0.3))


def test_a_ratio_above_1_is_refused():
    with pytest.raises(UserError, match="ratio 1.2 is not between 0 and 1"):
        mask_fraction(hashed_uniform((0,), torch.arange(5), 12), 1.2)
    with pytest.raises(UserError, match="text_ratio 1.5 is not between 0 and 1"):
        MaskingConfig(text_ratio=1.5)


@pytest.mark.parametrize("square", [1, 2, 4])
def test_squares_are_whole_exactly_counted_and_equally_probable(square):
    mask = random_squares(MANY, (8, 8), 0.6, KEY, square).reshape(-1, 8, 8)
    units = (8 // square) ** 2
    count = round(0.6 * units)
    assert (mask.sum((1, 2)) == count * square**2).all()
    assert (mask.double().mean(0) - count / units).abs().max() < 0.04
    patches = mask.reshape(-1, 8 // square, square, 8 // square, square)
    assert (patches == patches[:, :, :1, :, :1]).all()


def test_shifted_squares_are_whole_and_equally_probable():
    shift = torch.tensor([[1, 3]]).expand(len(MANY), 2)
    mask = random_squares(MANY, (8, 8), 0.5, KEY, 4, shift).reshape(-1, 8, 8)
    for part in (mask[:, :3, :1], mask[:, 3:7, 1:5]):  # cut at the corner, and complete
        assert part.flatten(1).any(1).equal(part.flatten(1).all(1))
    units = mask[:, [0, 3, 7]][:, :, [0, 1, 5]]  # one patch of each of the nine squares
    assert (units.sum((1, 2)) == 4).all()
    assert (units.double().mean(0) - 4 / 9).abs().max() < 0.04


def test_each_row_has_its_own_square_size():
    sizes = torch.arange(len(MANY)) % 4 + 1
    mixed = random_squares(MANY, (8, 8), 0.3, KEY, sizes)
    for size in (1, 2, 3, 4):
        same_size = random_squares(MANY, (8, 8), 0.3, KEY, size)
        assert mixed[sizes == size].equal(same_size[sizes == size])


@pytest.mark.parametrize("size", [64, 112])
def test_a_known_box_masks_exactly_the_patches_of_one_object(tokenizer, size):
    source = Scenes(img_size=size)
    batch = collate([source.pair(i) for i in range(64)], tokenizer, 24)
    for epoch in range(3):
        for i, mask in enumerate(one_box(batch, (8, 8), (0, epoch))):
            boxes = [box(thing, (size, size)) for thing in source.scene(i).things]
            assert any(mask.equal(overlapping_patches(b, (size, size), size // 8)) for b in boxes)


@pytest.mark.parametrize("row", [2, 3])  # scenes of one object and of three
def test_each_object_of_a_scene_is_equally_probable(scene_batch, row):
    pair = scene_batch.rows([row])
    masks = torch.stack([one_box(pair, (8, 8), (0, epoch))[0] for epoch in range(400)])
    counts = masks.unique(dim=0, return_counts=True)[1]
    assert len(counts) == len(Scenes().scene(row).things)
    assert counts.min() > 0.7 * 400 / len(counts)


def test_a_random_box_is_never_empty_and_covers_every_part(batch):
    masks = torch.stack([one_box(batch, (6, 8), (0, epoch)) for epoch in range(100)])
    assert masks.any(2).all()
    assert (masks.double().mean((0, 1)).reshape(6, 8)[2:4, 3:5] > 0.3).all()


def test_words_are_exactly_counted_and_never_special(batch):
    mask = random_words(batch, 0.3, KEY)
    assert (mask.sum(1) == (0.3 * batch.maskable.sum(1)).round()).all()
    assert not (mask & ~batch.maskable).any()
    assert random_words(batch.rows([9, 2]), 0.3, KEY).equal(mask[[9, 2]])


def test_more_padding_does_not_change_masked_words(batch):
    names = ("input_ids", "attention_mask", "maskable")
    padded = {name: torch.nn.functional.pad(getattr(batch, name), (0, 5)) for name in names}
    mask = random_words(batch, 0.3, KEY)
    assert random_words(replace(batch, **padded), 0.3, KEY)[:, : mask.shape[1]].equal(mask)


def test_alternating_views_mask_one_modality_each(batch):
    image_view, text_view = Masking((8, 8))(batch, KEY)
    assert not image_view.text_mask.any() and not text_view.image_mask.any()
    assert image_view.image_mask.sum(1).eq(40).all()  # round(0.6 * 16) squares of 4 patches
    assert image_view.has_image.all() and not image_view.has_text.all()
    assert text_view.has_text.all()


@pytest.mark.parametrize("joint", [False, True])
def test_an_absent_modality_has_no_masked_units(batch, joint):
    for view in Masking((8, 8), one_view=joint)(batch, KEY):
        assert not view.image_mask[~view.has_image].any()
        assert not view.text_mask[~view.has_text].any()


def test_views_repeat_and_change_with_the_epoch(batch):
    masking = Masking((8, 8))
    mask = masking(batch, KEY)[0].image_mask
    assert mask.equal(masking(batch, KEY)[0].image_mask)
    assert not mask.equal(masking(batch, (0, 1))[0].image_mask)


def test_modality_dropout_is_a_fraction_of_rows(batch):
    masking = Masking((8, 8), modality_dropout=0.1)
    has_text = torch.cat([masking(batch, (0, epoch))[0].has_text for epoch in range(60)])
    assert abs(has_text.double().mean() - 0.9) < 0.02


def test_half_of_the_ratios_are_random(batch):
    counts = Masking((8, 8), square=1, random_ratio_prob=0.5)(batch, KEY)[0].image_mask.sum(1)
    assert 16 < (counts == 38).sum() < 48 and counts.min() < 12 and counts.max() == 64


def test_a_quarter_of_the_random_ratios_mask_the_whole_image(large_batch):
    masking = Masking((8, 8), random_ratio_prob=1.0, modality_dropout=0.0)
    mask = masking(large_batch, KEY)[0].image_mask
    assert 0.22 < mask.all(1).double().mean() < 0.36 and mask.any(1).all()
    assert (mask.double().mean(0) - mask.double().mean()).abs().max() < 0.05  # everywhere


def test_a_fraction_of_rows_masks_one_box(large_batch):
    masking = Masking((8, 8), object_mask_prob=0.4)
    mask = masking(large_batch, KEY)[0].image_mask
    assert 0.36 < mask.sum(1).ne(40).double().mean() < 0.43  # else 10 squares of 4 patches
    assert mask[:64].equal(masking(large_batch.rows(slice(64)), KEY)[0].image_mask)
    nothing = Masking((8, 8), image_ratio=0, object_mask_prob=1)
    assert not nothing(large_batch, KEY)[0].image_mask.any()


def first_words(batch, ratio, key):
    "Mask the beginning of every caption."
    position = torch.arange(batch.maskable.shape[1]).expand(batch.maskable.shape)
    return mask_fraction(position / 1e3, ratio, batch.maskable)


def unchanged(batch, masked, key):
    "Leave every masked word as it is."
    return batch.input_ids


@pytest.fixture
def custom():
    return Masking((8, 8), text_ratio=0.5, word_strategy=first_words, corrupt=unchanged, one_view=True)


def test_word_strategy_and_corruption_can_be_replaced(batch, custom):
    (view,) = custom(batch, KEY)
    assert view.text_ids.equal(batch.input_ids) and view.text_mask[:, 1][view.has_text].all()
    image_view, text_view = replace(custom, one_view=False)(batch, KEY)
    assert image_view.text_ids is None and text_view.text_ids is not None  # where words are masked


def test_a_ratio_sampler_sets_the_ratios_of_each_row(batch, custom):
    def every_second(batch, squares, ratios, key):
        return 0.5, torch.arange(64) % 2

    (view,) = replace(custom, ratio_sampler=every_second)(batch, KEY)
    assert view.image_mask[view.has_image].sum(1).eq(32).all()  # 8 of 16 squares
    assert not view.text_mask[::2].any()
    assert view.text_mask[1::2][view.has_text[1::2]].any(1).all()


def test_plain_masking_keeps_only_grid_square_and_ratios(custom):
    sampled = replace(custom, ratio_sampler=lambda batch, squares, ratios, key: (0.5, 0.5))
    assert sampled.plain() == Masking((8, 8), text_ratio=0.5, modality_dropout=0.0)
