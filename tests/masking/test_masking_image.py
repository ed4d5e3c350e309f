"Patterns of masked patches: exact counts, how often each patch is masked, connected or evenly spread."

import pytest
import torch

from mvl_bench.core import UserError
from mvl_bench.masking.base import random_squares
from mvl_bench.masking.image import mask_blocks, mask_by_score, mask_grid, over_squares

KEY = (0, 0)
GRID = (14, 14)
MANY = torch.arange(3000)


@pytest.fixture(scope="module")
def blocks():  # (b r c)
    return mask_blocks(MANY, GRID, 0.4, KEY).reshape(-1, *GRID)


@pytest.fixture(scope="module")
def hill():
    "Scores (n) with their maximum a little below and left of the middle."
    axes = (torch.linspace(-1, 1, side) for side in GRID)
    down, right = torch.meshgrid(*axes, indexing="ij")
    return (-4 * ((down - 0.3) ** 2 + (right + 0.3) ** 2)).exp().flatten()


def chessboard(rows, squares, unit):
    "Mask every second square."
    down, right = torch.arange(squares[0])[:, None], torch.arange(squares[1])
    return ((down + right) % 2 == 0).flatten().expand(len(rows), -1)


def equal_neighbours(masks):  # (b r c)
    "Fraction of vertical neighbours that are both masked or both visible."
    return (masks[:, 1:] == masks[:, :-1]).double().mean().item()


def test_a_choice_of_squares_reaches_their_patches():
    masks = over_squares(chessboard, torch.arange(2), (4, 6), torch.tensor([2, 3]))
    masks = masks.reshape(2, 4, 6).int()
    assert masks[0].tolist() == [[1, 1, 0, 0, 1, 1]] * 2 + [[0, 0, 1, 1, 0, 0]] * 2
    assert masks[1].tolist() == [[1, 1, 1, 0, 0, 0]] * 3 + [[0, 0, 0, 1, 1, 1]]


def test_shifted_squares_are_cut_at_the_edges():
    mask = over_squares(chessboard, torch.arange(1), (4, 6), 3, torch.tensor([[2, 1]]))
    expected = [[1, 1, 0, 0, 0, 1]] + [[0, 0, 1, 1, 1, 0]] * 3
    assert mask.reshape(4, 6).int().tolist() == expected


def test_random_squares_mask_every_patch_equally_often():
    frequency = random_squares(MANY, GRID, 0.4, (0, "a"), 2).double().mean(0)
    assert (frequency - 20 / 49).abs().max() < 0.04


def test_blocks_are_counted_exactly(blocks):
    assert (blocks.sum((1, 2)) == round(0.4 * 196)).all()
    ratios = torch.arange(9) / 8
    counts = mask_blocks(MANY[:9], GRID, ratios, KEY).sum(1)
    assert counts.tolist() == [round(196 * i / 8) for i in range(9)]


def test_blocks_of_a_sample_do_not_depend_on_the_batch(blocks):
    assert mask_blocks(MANY[[7]], GRID, 0.4, KEY).reshape(1, *GRID).equal(blocks[[7]])


def test_blocks_mask_the_middle_more_often_than_the_corners(blocks):
    frequency = blocks.double().mean(0)
    assert abs(frequency.mean() - 78 / 196) < 1e-6
    assert frequency[[0, 0, -1, -1], [0, -1, 0, -1]].max() < 0.2
    assert frequency[5:9, 5:9].min() > 0.45
    for mirrored in (frequency.flip(0), frequency.flip(1), frequency.T):
        assert (frequency - mirrored).abs().max() < 0.06


def test_blocks_are_connected_and_single_patches_are_not(blocks):
    single = random_squares(MANY, GRID, 0.4, KEY).reshape(-1, *GRID)
    assert equal_neighbours(blocks) > 0.8 > 0.6 > equal_neighbours(single)  # random: 0.52


@pytest.mark.parametrize("ratio", [0.25, 0.6])
def test_a_grid_is_even_in_every_mask_and_over_all_masks(ratio):
    mask = mask_grid(MANY, (16, 16), ratio, KEY).reshape(-1, 16, 16)
    count = round(ratio * 256)
    assert (mask.sum((1, 2)) == count).all()
    assert (mask.double().mean(0) - count / 256).abs().max() < 0.04
    cells = mask.unfold(1, 4, 4).unfold(2, 4, 4).sum((3, 4))
    assert cells.min() >= 16 * ratio - 1 and cells.max() <= 16 * ratio + 1


def test_half_a_grid_is_a_chessboard():
    half = mask_grid(MANY, (16, 16), 0.5, KEY).reshape(-1, 16, 16)
    assert (half[:, 1:] != half[:, :-1]).all() and (half[:, :, 1:] != half[:, :, :-1]).all()


def test_a_grid_separates_neighbours():
    assert equal_neighbours(mask_grid(MANY, GRID, 0.4, KEY).reshape(-1, *GRID)) < 0.4


def test_a_grid_of_squares_has_whole_squares_and_is_nearly_even():
    frequency = mask_grid(MANY, GRID, 0.6, KEY, 2).double().mean(0).reshape(GRID)
    units = frequency.reshape(7, 2, 7, 2)
    assert (units == units[:, :1, :, :1]).all()
    assert (frequency - 29 / 49).abs().max() < 0.12


def test_half_of_the_masked_patches_have_the_highest_scores(hill):
    count, best = round(0.4 * 196), hill.argsort(descending=True)
    masks = mask_by_score(MANY, GRID, 0.4, KEY, scores=hill.expand(len(MANY), -1))
    assert (masks.sum(1) == count).all()
    frequency = masks.double().mean(0)
    assert (frequency[best[: count - count // 2]] == 1).all()
    rest = frequency[best[count - count // 2 :]]
    assert (rest - count // 2 / len(rest)).abs().max() < 0.05


def test_equal_scores_mask_every_patch_equally_often():
    masks = mask_by_score(MANY, GRID, 0.4, KEY, scores=torch.ones(len(MANY), 196))
    assert (masks.double().mean(0) - round(0.4 * 196) / 196).abs().max() < 0.05


@pytest.mark.parametrize(
    "shape, problem", [(None, "there are none"), ((3, 7), r"these are \(3, 7\)")]
)
def test_scores_of_another_shape_are_refused(shape, problem):
    scores = None if shape is None else torch.ones(shape)
    with pytest.raises(UserError, match=problem):
        mask_by_score(torch.arange(3), GRID, 0.4, KEY, scores=scores)


@pytest.mark.parametrize("hide", [random_squares, mask_blocks, mask_grid, mask_by_score])
@pytest.mark.parametrize("square, units", [(1, 35), (2, 12), (3, 6)])
def test_every_strategy_counts_squares_exactly_and_each_row_alone(hide, square, units):
    scores = torch.rand(12, 35, generator=torch.Generator().manual_seed(0))
    for ratio in (0, 0.01, 0.1, 0.3, 0.6, 0.9, 1):
        options = dict(scores=scores) if hide is mask_by_score else {}
        mask = hide(MANY[:12], (5, 7), ratio, (1, 2), square, **options)
        counts = mask.reshape(12, 5, 7)[:, ::square, ::square].sum((1, 2))
        assert (counts == (max(1, round(ratio * units)) if ratio else 0)).all()
        options = dict(scores=scores[[8, 3]]) if options else {}
        assert hide(MANY[[8, 3]], (5, 7), ratio, (1, 2), square, **options).equal(mask[[8, 3]])
