"Losses against values worked by hand; `test_contrast.py` compares ITC and ITM with a second implementation."

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from contract import small, some_batch

from mvl_bench.core import UserError, hashed_uniform, update
from mvl_bench.models.losses import (
    Vectors,
    focus,
    hard_negatives,
    is_negative,
    itc,
    itm,
    join,
    match_pairs,
    mlm,
    recon,
    similarity,
    texture,
    texture_filters,
    texture_places,
    weigh,
    windows_at,
)
from mvl_bench.models.maskvlm import maskvlm_tiny
from mvl_bench.patches import patchify, unpatchify

EAST, NORTH, WEST = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
E = math.e


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


# ---- masked words and pixels


def test_mlm_is_the_mean_negative_log_probability(generator):
    logits, labels = torch.randn(4, 10, generator=generator), torch.tensor([1, 5, 5, 9])
    nats = -torch.stack([row.softmax(0)[label].log() for row, label in zip(logits, labels)])
    torch.testing.assert_close(mlm(logits, labels), nats.mean())
    torch.testing.assert_close(mlm(torch.zeros(4, 10), labels), torch.tensor(10.0).log())


def test_recon_of_each_kind(generator):
    predicted, patches = torch.rand(2, 6, 48, generator=generator)
    assert all(recon(patches, patches, kind) == 0 for kind in ("l1", "l2", "sse"))
    errors = predicted - patches
    pixels = errors.reshape(6 * 16, 3)  # the last axis of a patch is the channel
    torch.testing.assert_close(recon(predicted, patches), errors.abs().sum() / patches.numel())
    torch.testing.assert_close(recon(predicted, patches, "l2"), errors.square().mean())
    torch.testing.assert_close(recon(predicted, patches, "sse"), pixels.square().sum(1).mean())


def test_recon_weighs_each_value(generator):
    predicted, patches, weights = torch.rand(3, 6, 48, generator=generator)
    errors = predicted - patches
    weighted = recon(predicted, patches, weights=weights)
    torch.testing.assert_close(weighted, (errors.abs() * weights).mean())
    weighted = recon(predicted, patches, "sse", weights=weights)
    torch.testing.assert_close(weighted, 3 * (errors.square() * weights).mean())


def test_recon_refuses_an_unknown_kind():
    with pytest.raises(UserError, match="loss 'l3' is not one of l1, l2, sse"):
        recon(torch.zeros(1, 48), torch.zeros(1, 48), "l3")


CONSTANTS = torch.linspace(0, 1, 201)


def best_constant(values, kind="l1", weights=1.0):
    "The constant prediction of least loss."
    costs = [recon(c.expand_as(values), values, kind, weights=weights) for c in CONSTANTS]
    return CONSTANTS[torch.stack(costs).argmin()].item()


def test_l1_predicts_the_median_and_squares_the_mean():
    values = torch.tensor([[0.2]] * 60 + [[1.0]] * 40)
    assert best_constant(values, "l1") == pytest.approx(0.2, abs=0.01)
    assert best_constant(values, "l2") == pytest.approx(0.6 * 0.2 + 0.4, abs=0.01)


def test_saliency_weights_move_the_best_constant_to_the_object():
    values = torch.tensor([[0.2]] * 45 + [[1.0]] * 55)
    assert best_constant(values, weights=1.0) > 0.99
    assert best_constant(values, weights=1 + 2 * (1 - values)) == pytest.approx(0.2, abs=0.01)


def test_focus_is_the_distance_from_the_mean_colour(generator):
    background, thing = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.9, 0.1, 0.2])
    covered = torch.rand(1, 4, 16, 1, generator=generator) < 0.2
    images = torch.where(covered, thing, background).flatten(-2)  # (1 4 48)
    weights = focus(images, 2.0).unflatten(-1, (-1, 3))
    mean = images.unflatten(-1, (-1, 3)).mean((0, 1, 2))
    for colour, pixels in ((background, ~covered[..., 0]), (thing, covered[..., 0])):
        expected = 1 + 2 * (colour - mean).abs().mean()
        torch.testing.assert_close(weights[pixels], expected.expand(int(pixels.sum()), 3))
    assert (focus(images, 0.0) == 1).all()
    torch.testing.assert_close(focus(images[:, :2], 2.0, mean[None]), focus(images, 2.0)[:, :2])


# ---- texture


@pytest.fixture
def photo(generator):
    return torch.rand(2, 3, 32, 32, generator=generator)


@pytest.fixture
def filters(generator):
    return texture_filters(torch.rand(24, 75, generator=generator))


def test_texture_filters_have_mean_0_and_length_1(filters):
    assert (filters.norm(dim=0) - 1).abs().max() < 1e-6
    assert filters.view(3, 25, 24).sum(1).abs().max() < 1e-6


def test_texture_ranks_versions_of_an_image(photo, generator):
    everywhere = torch.ones(2, 16, dtype=torch.bool)
    draws = torch.rand(2, 64, generator=generator)
    places = texture_places(everywhere, (4, 4), 8, draws, torch.arange(0, 64, 3))
    filters = texture_filters(torch.rand(24, 75, generator=generator))
    patches = patchify(photo, 8)
    versions = dict(
        same=photo,
        elsewhere=unpatchify(patches.flip(1), (4, 4)),  # the same patches at other places
        darker=photo - 0.2,
        ornament=unpatchify(patches[:, :1].expand(-1, 16, -1), (4, 4)),
        smooth=photo / 2,
    )
    scores = {name: texture(x, photo, places, filters).item() for name, x in versions.items()}
    assert scores["same"] == 0 and scores["darker"] < 1e-6  # flat colours are left to L1
    assert scores["elsewhere"] < 0.7 * scores["smooth"] < scores["ornament"]


def test_texture_places_lie_in_masked_patches_at_the_offsets(generator):
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[0, [5, 6]], masked[1, 15] = True, True
    draws, offsets = torch.rand(2, 64, generator=generator), torch.arange(0, 64, 3)
    places = texture_places(masked, (4, 4), 8, draws, offsets)
    patches = places[..., 0] // 8 * 4 + places[..., 1] // 8
    assert {*patches[0].flatten().tolist()} == {5, 6}
    assert {*patches[1].flatten().tolist()} == {15}
    within = places[..., 0] % 8 * 8 + places[..., 1] % 8
    assert (within == offsets[None, :, None]).all()


def test_windows_are_the_pixels_around_a_place(photo):
    window = windows_at(photo, torch.tensor([[[4, 7]], [[0, 0]]]))
    torch.testing.assert_close(window[0, 0].view(3, 5, 5), photo[0, :, 2:7, 5:10])
    corner = photo[1, :, [0, 0, 0, 1, 2]][:, :, [0, 0, 0, 1, 2]]  # the edges repeat
    torch.testing.assert_close(window[1, 0].view(3, 5, 5), corner)
    wide = windows_at(photo, torch.tensor([[[8, 9]], [[9, 9]]]), 2)
    torch.testing.assert_close(wide[0, 0].view(3, 5, 5), photo[0, :, 4:13:2, 5:14:2])


# ---- the sum


def test_weigh_sums_and_refuses_a_loss_without_a_weight():
    losses = dict(mlm=torch.tensor(2.0), recon=torch.tensor(0.1))
    assert weigh(losses, dict(mlm=1.0, recon=5.0)) == 2.5
    with pytest.raises(KeyError, match="'mlm', 'recon'.* but weights .'mlm'"):
        weigh(losses, dict(mlm=1.0))
    with pytest.raises(KeyError, match="losses"):
        weigh({}, dict(mlm=1.0))


# ---- pairs


@pytest.fixture
def two():
    "Two pairs whose image and caption agree, at right angles to each other."
    return Vectors(torch.stack([EAST, NORTH]), torch.stack([EAST, NORTH]), torch.tensor([7, 8]))


@pytest.fixture
def queue():
    "One earlier pair."
    return Vectors(NORTH[None], WEST[None], torch.tensor([9]))


def test_similarity_is_the_cosine_over_the_temperature_even_in_bf16(two):
    assert similarity(two.image, two.text, 0.5).equal(2 * torch.eye(2))
    near = torch.tensor([[0.9999, 0.01], [0.9975, 0.07]])  # two cosines that are one in bf16
    with torch.autocast("cpu", torch.bfloat16):
        assert similarity(EAST[None], near, 1.0).diff() < 0


def test_join_concatenates(two):
    assert join([two, two, two]).item.tolist() == [7, 8] * 3


def test_negatives_are_of_other_items():
    item = torch.tensor([3, 5, 3, 8])
    candidates = torch.cat([item, torch.tensor([9, 5, 1, 9, 3, 2])])  # the batch, then a queue
    negative = is_negative(item, candidates)
    assert negative.sum(1).tolist() == [7, 8, 7, 9]  # item 3 occurs three times, 5 twice, 8 once


def test_itc_of_two_pairs_by_hand(two, queue):
    assert itc(two, two, 1.0).item() == pytest.approx(math.log(1 + 1 / E), rel=1e-5)
    first = (math.log((E + 1 + 1 / E) / E) + math.log((E + 1 + 1) / E)) / 2  # captions, images
    second = (math.log((E + 1 + 1) / E) + math.log((E + 1 + E) / E)) / 2
    nats = itc(two, join([two, queue]), 1.0).item()
    assert nats == pytest.approx((first + second) / 2, rel=1e-5)


def test_itc_leaves_out_candidates_of_the_same_item(two, queue):
    same = two._replace(item=torch.tensor([7, 7]))  # one image, two captions
    assert itc(same, same, 1.0).isnan()  # no negative, nothing to count
    beside = join([same, queue])  # each is compared with the earlier pair alone
    first = (math.log(1 + 1 / E**2) + math.log(1 + 1 / E)) / 2
    second = (math.log(1 + 1 / E) + math.log(1 + 1)) / 2
    assert itc(same, beside, 1.0).item() == pytest.approx((first + second) / 2, rel=1e-5)
    swapped = same._replace(text=same.text.flip(0))
    assert itc(swapped, join([swapped, queue]), 1.0) > itc(same, beside, 1.0)


def test_itc_of_equal_vectors_is_a_uniform_guess():
    equal = Vectors(*torch.zeros(2, 6, 2), torch.arange(6))
    torch.testing.assert_close(itc(equal, equal, 0.07), torch.tensor(6.0).log())


# ---- hard negatives and matching

ITEM = torch.tensor([3, 5, 3, 8])
LOGITS = torch.tensor([[9.0, 0, 9, 1], [0, 9, 2, 2], [9, 0, 9, 0], [1, 1, 3, 9]])


def sampled(lot, *args, rows=4, **options):
    "Rows and their negatives, with the same random number for each row."
    draws = torch.full((rows,), lot, dtype=torch.float64)
    return [x.tolist() for x in hard_negatives(LOGITS, ITEM, draws, *args, **options)]


def test_hard_negatives_follow_the_softmax_over_other_items():
    frequency = torch.zeros(4, 4)
    for draws in hashed_uniform((0, "demo"), torch.arange(4), 1000).T:
        rows, columns = hard_negatives(LOGITS, ITEM, draws)
        frequency[rows, columns] += 1 / 1000
    assert (frequency[~is_negative(ITEM, ITEM)] == 0).all()  # neither itself nor the same item
    torch.testing.assert_close(frequency.sum(1), torch.ones(4))
    expected = torch.tensor([1, E]) / (1 + E)  # row 0 chooses between rows 1 and 3
    assert (frequency[0, [1, 3]] - expected).abs().max() < 0.05


def test_hard_negatives_of_chosen_rows_are_those_of_the_whole_batch():
    assert sampled(0.26)[1] == [1, 2, 1, 2]
    assert sampled(0.26, rows=2, mine=torch.tensor([1, 3])) == [[1, 3], [2, 2]]


def test_random_negatives_ignore_the_similarity():
    assert [sampled(lot, 1.0)[1][0] for lot in (0.4, 0.6)] == [1, 3]  # probability 1/2 each


def test_hard_negatives_where_there_is_none_and_where_probabilities_underflow():
    rows, _ = hard_negatives(LOGITS, torch.tensor([4, 4, 4, 4]), torch.rand(4).double())
    assert len(rows) == 0
    far = torch.tensor([[0.0, -900], [0, 0]])
    picked = hard_negatives(far, torch.tensor([1, 2]), torch.zeros(2).double())[1]
    assert picked.tolist() == [1, 0]


def test_matches_are_one_true_and_two_wrong_pairs_a_row():
    pairs = match_pairs(LOGITS, ITEM, hashed_uniform((0, "demo"), torch.arange(4), 2))
    assert pairs.matched.tolist() == [1] * 4 + [0] * 8
    assert pairs.image[:4].equal(pairs.text[:4])
    assert pairs.image[4:8].tolist() == pairs.text[8:].tolist() == [0, 1, 2, 3]
    assert (ITEM[pairs.image[4:]] != ITEM[pairs.text[4:]]).all()


def test_itm_of_a_guess_and_of_a_certain_model():
    matched = torch.tensor([1] * 4 + [0] * 8)
    guess = torch.tensor([2 / 3, 1 / 3]).log().expand(12, 2)
    assert itm(guess, matched).item() == pytest.approx(math.log(3) - 2 / 3 * math.log(2), rel=1e-5)
    certain = torch.tensor([[0.0, 20], [20, 0]])
    assert itm(certain, torch.tensor([1, 0])) < 1e-6 < 19 < itm(certain, torch.tensor([0, 1]))


def itc_by_hand(pairs, candidates, slow, temperature, same_item, soft):
    "ITC row by row, as ALBEF's loss reads: target log-softmax, both ways; pairs of one item left out unless positive."
    nats = []
    for i, item in enumerate(pairs.item.tolist()):
        positive = [
            j
            for j, other in enumerate(candidates.item.tolist())
            if (other == item if same_item else j == i)
        ]
        kept = [
            j for j, other in enumerate(candidates.item.tolist()) if other != item or j in positive
        ]
        for query, teacher, keys in (
            (pairs.image, slow.image, candidates.text),
            (pairs.text, slow.text, candidates.image),
        ):
            scores = torch.stack([query[i] @ keys[j] for j in kept]) / temperature
            predicted = torch.stack([teacher[i] @ keys[j] for j in kept]) / temperature
            hard = torch.tensor([float(j in positive) / len(positive) for j in kept])
            target = soft * predicted.softmax(0) + (1 - soft) * hard
            nats.append(-(target * scores.log_softmax(0)).sum() / 2)
    return sum(nats) / len(pairs.item)


@pytest.mark.parametrize("same_item, soft", [(False, 0.0), (True, 0.0), (False, 0.4), (True, 0.4)])
def test_itc_with_positives_of_the_same_item_and_soft_targets(generator, same_item, soft):
    unit = lambda rows: F.normalize(torch.randn(rows, 8, generator=generator), dim=1)  # noqa: E731
    item = torch.tensor([0, 1, 0, 2])
    pairs = Vectors(unit(4), unit(4), item)
    slow = Vectors(unit(4), unit(4), item)
    queue = Vectors(unit(5), unit(5), torch.tensor([1, 3, 4, 0, 5]))
    candidates = join([slow, queue])
    expected = itc_by_hand(pairs, candidates, slow, 0.1, same_item, soft)
    torch.testing.assert_close(itc(pairs, candidates, 0.1, same_item, soft), expected)


def test_itc_options_train_a_model():
    batch = some_batch(4)
    batch = replace(batch, item=torch.tensor([0, 0, 1, 2]))
    losses = {}
    for options in (dict(), dict(same_item_positives=True), dict(soft_targets=0.4)):
        model = small("maskvlm", itc=1.0, queue_size=8, mlm=0.0, recon=0.0, **options)
        with torch.no_grad():  # the momentum encoders begin as copies: move the trained ones away
            model.contrast.to_image.weight.add_(0.1)
        loss = model.losses(batch, (), model.cfg.step_key(0, 0)).parts["itc"]
        loss.backward()
        assert loss.isfinite() and model.contrast.to_text.weight.grad.any()
        losses[str(options)] = loss.item()
    assert len(set(losses.values())) == 3, losses
    with pytest.raises(UserError, match="soft_targets 1.5 is not between 0 and 1"):
        update(maskvlm_tiny(), soft_targets=1.5)
