"Every masking strategy: its distribution against enumeration or an independent way to draw it."

import math
from collections import Counter
from functools import partial
from itertools import combinations, permutations, product

import numpy as np
import pytest
import torch
from captions import KINDS, PIECES, config, pieces_batch, words_batch

from mvl_bench.core import update
from mvl_bench.masking.base import random_words
from mvl_bench.masking.image import mask_blocks, mask_by_score, mask_grid
from mvl_bench.masking.joint import PATCHES, build_masking, dirichlet_ratios, uniform_ratios
from mvl_bench.masking.text import SPAN_ENDS, corrupt_tokens, spans, table_of

MANY = torch.arange(6000)


def fits(masks, expected):
    "Whether patterns are as frequent as their chances say, within five sigma of chi-square."
    n, found = (
        len(masks),
        Counter("".join("x" if h else "." for h in row) for row in masks.tolist()),
    )
    assert abs(sum(expected.values()) - 1) < 1e-9
    assert found.keys() <= {pattern for pattern, chance in expected.items() if chance}
    squares = sum((found[k] - n * p) ** 2 / (n * p) for k, p in expected.items() if p)
    freedom = sum(p > 0 for p in expected.values()) - 1
    return squares < freedom + 5 * math.sqrt(2 * max(freedom, 1)) + 5


def pattern(places, size):
    "The hidden places as text."
    return "".join("x" if i in places else "." for i in range(size))


def evenly(size, count):
    "Every choice of so many places, all alike."
    chosen = [pattern(places, size) for places in combinations(range(size), count)]
    return dict.fromkeys(chosen, 1 / len(chosen))


def shuffled_over(weights):
    "Chances added up by pattern."
    total = Counter()
    for key, chance in weights:
        total[key] += chance
    return dict(total)


def test_random_and_whole_words():
    batch = words_batch(6000, 6)
    plain = update(config(), token_kinds="w" * len(PIECES))
    for name in ("random", "whole_word", "content"):  # without pieces and function words all alike
        hide = build_masking(update(plain, text_strategy=name)).word_strategy
        assert fits(hide(batch, 0.5, (0, 0))[:, 1:7], evenly(6, 3))


def test_whole_words_are_drawn_alike():
    batch = words_batch(6000, 6)
    kinds = list("w" * len(PIECES))
    kinds[12] = kinds[13] = "p"  # tokens 10..17: words of 1, 3, 1, 1 tokens stand at 1..6
    hide = build_masking(config(text_strategy="whole_word", token_kinds="".join(kinds))).word_strategy
    words = [{0, 1, 2}, {3}, {4}, {5}]  # the first maskable token is id 11
    pairs = [pattern(a | b, 6) for a, b in combinations(words, 2)]
    assert fits(hide(batch, 0.5, (0, 0))[:, 1:7], dict.fromkeys(pairs, 1 / 6))


def test_content_words_are_drawn_alike_and_before_function_words():
    batch, kinds = words_batch(6000, 5), list("w" * len(PIECES))
    kinds[11] = kinds[14] = "f"  # the first and the fourth word
    hide = build_masking(config(text_strategy="content", token_kinds="".join(kinds))).word_strategy
    content, other = (1, 2, 4), (0, 3)
    two = {pattern(c, 5): 1 / 3 for c in combinations(content, 2)}
    assert fits(hide(batch, 0.4, (0, 0))[:, 1:6], two)
    four = {pattern((*content, o), 5): 1 / 2 for o in other}
    assert fits(hide(batch, 0.8, (0, 0))[:, 1:6], four)


def span_chances(words, count):
    "Every pattern of spans and its chance, by enumeration: lengths, their order, and the slots they stand in."
    visible, found = words - count, []

    def lengths(left, room, chance):
        if left == 0:
            yield (), chance
        elif room == 1:  # no more spans than can be parted: the last takes the rest
            yield (left,), chance
        else:
            for length in range(1, left + 1):
                ends = (1 - SPAN_ENDS) ** (length - 1) * (SPAN_ENDS if length < left else 1)
                for more, p in lengths(left - length, room - 1, chance * ends):
                    yield (length, *more), p

    for drawn, chance in lengths(count, visible + 1, 1.0):
        orders = list(permutations(drawn))
        slots = list(combinations(range(visible + 1), len(drawn)))
        for order, places in product(orders, slots):
            row, spans_left = "", dict(zip(places, order))
            for slot in range(visible + 1):
                row += "x" * spans_left.get(slot, 0) + "." * (slot < visible)
            found.append((row, chance / len(orders) / len(slots)))
    return shuffled_over(found)


@pytest.mark.parametrize("words, count", [(7, 3), (6, 4), (5, 4), (4, 4), (6, 1)])
def test_spans(words, count):
    mask = spans(words_batch(6000, words), count / words, (0, 0))[:, 1 : words + 1]
    assert fits(mask, span_chances(words, count))


def test_disguised_words():
    batch, special = words_batch(20000, 4), table_of(KINDS, "special")
    masked = batch.maskable & (torch.arange(6) == 2)
    shown = corrupt_tokens(batch, masked, (0, 0), PIECES.mask_token_id, special, 0.2)
    assert shown[~masked].equal(batch.input_ids[~masked])
    counts = torch.bincount(shown[masked], minlength=len(PIECES)) / len(batch)
    each = 0.1 / (~special).sum()  # another word, each alike, the word itself among them
    expected = torch.where(special, 0.0, each.item())
    expected[PIECES.mask_token_id] += 0.8
    expected[12] += 0.1
    sigma = (expected * (1 - expected) / len(batch)).sqrt()
    assert ((counts - expected).abs() <= 5 * sigma).all()
    few, mask = pieces_batch(), random_words(pieces_batch(), 0.6, (0, 1))
    show = partial(corrupt_tokens, mask_id=PIECES.mask_token_id, special=special, fraction=0.5)
    whole = show(few, mask, (0, 1))
    wide = show(pieces_batch(extra=9), torch.nn.functional.pad(mask, (0, 9)), (0, 1))
    assert wide[:, : mask.shape[1]].equal(whole)
    assert show(few.rows([6, 2]), mask[[6, 2]], (0, 1)).equal(whole[[6, 2]])


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_random_patches(ratio):
    mask = PATCHES["random"](MANY, (2, 4), ratio, (0, 0))
    assert fits(mask, evenly(8, round(ratio * 8)))


def test_grid():
    order = np.array([[0, 2], [3, 1]])
    for grid, ratio in (((4, 4), 0.3), ((3, 4), 0.5)):
        side = 4  # the next power of two
        bayer = np.block([[4 * order, 4 * order + 2], [4 * order + 3, 4 * order + 1]])
        rows, columns = np.indices(grid)
        found = []
        for down, right in product(range(side), repeat=2):  # each phase alike
            ranks = bayer[(rows + down) % side, (columns + right) % side].ravel()
            places = np.argsort(ranks, kind="stable")[: round(ratio * ranks.size)]
            found.append((pattern(set(places.tolist()), ranks.size), 1 / side**2))
        assert fits(mask_grid(MANY, grid, ratio, (0, 0)), shuffled_over(found))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_by_score(count):
    scores, size = torch.tensor([0.1, 0.9, 0.5, 0.2, 0.4]), 5
    best, found = scores.argsort(descending=True).tolist(), []
    for sure, share in ((math.ceil(count / 2), 0.5), (math.floor(count / 2), 0.5)):  # a lot rounds
        top, rest = best[:sure], best[sure:]
        more = list(combinations(rest, count - sure))
        found += [(pattern({*top, *chosen}, size), share / len(more)) for chosen in more]
    given = scores.expand(len(MANY), -1)
    mask = mask_by_score(MANY, (1, 5), count / size, (0, 0), scores=given)
    assert fits(mask, shuffled_over(found))


def blocks_by_rejection(rows, columns, count, rng):
    "BEiT's algorithm as one would write it: draw a block, draw its place until it hides something new."
    masked = np.zeros((rows, columns), bool)
    least = max(1, round(rows * columns * 16 / 196))
    while (left := count - masked.sum()) > 0:
        area = least + rng.random() * max(left - least, 0)
        aspect = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        high = min(max(round(math.sqrt(area * aspect)), 1), rows, left)
        wide = min(max(round(math.sqrt(area / aspect)), 1), columns, left // high)
        while True:
            top, start = rng.integers(rows - high + 1), rng.integers(columns - wide + 1)
            block = np.zeros_like(masked)
            block[top : top + high, start : start + wide] = True
            if (block & ~masked).any():
                break
        masked |= block
    return masked.ravel()


@pytest.mark.parametrize("grid, ratio", [((3, 3), 0.5), ((6, 8), 0.4)])
def test_blocks(grid, ratio):
    size, rng = grid[0] * grid[1], np.random.default_rng(0)
    count = round(ratio * size)
    mine = mask_blocks(MANY, grid, ratio, (0, 0)).numpy().astype(float)
    others = [blocks_by_rejection(*grid, count, rng) for _ in range(len(MANY))]
    others = np.array(others, float)
    for pairs in (mine.T @ mine, others.T @ others):
        assert abs(np.trace(pairs) - count * len(MANY)) < 1e-6
    mine, others = (m.T @ m / len(MANY) for m in (mine, others))  # places, and pairs of places
    share = (mine + others) / 2
    sigma = np.sqrt(2 * np.clip(share * (1 - share), 1e-4, None) / len(MANY))
    assert (np.abs(mine - others) < 5.5 * sigma).all()


def test_uniform_is_one_pool():
    batch, squares = words_batch(6000, 6), 6
    image, text = uniform_ratios(batch, squares, (0.5, 0.5), (0, 0))
    masked = (image * squares).round().long()
    assert (masked + (text * 6).round().long() == 6).all()
    ways = torch.tensor([math.comb(6, k) * math.comb(6, 6 - k) for k in range(7)]).double()
    expected = ways / ways.sum()  # hypergeometric
    found = torch.bincount(masked, minlength=7) / len(batch)
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / len(batch)).sqrt()).all()


@pytest.mark.parametrize("ratios", [(0.6, 0.3), (0.2, 0.2), (0.1, 0.7)])
def test_dirichlet_shares_are_a_beta_draw(ratios):
    image, text = dirichlet_ratios(words_batch(6000, 4), 16, ratios, (0, 0))
    total = sum(ratios)
    assert (image + text - total).abs().max() < 1e-9
    torch.manual_seed(0)
    mean = ratios[0] / total
    other = torch.distributions.Beta(2 * mean, 2 - 2 * mean).sample((60000,)).sort().values
    mine = (image / total).sort().values
    below = torch.searchsorted(other, mine.float()) / len(other)
    gap = (below - torch.arange(len(mine)) / len(mine)).abs().max()  # Kolmogorov and Smirnov
    assert gap < 2.2 / math.sqrt(len(mine))  # one in ten thousand draws is further off


def test_a_wrong_distribution_is_found():
    lean = spans(words_batch(6000, 7), 3 / 7, (0, 0))[:, 1:8]
    assert not fits(mask_blocks(MANY, (2, 4), 0.5, (0, 0)), evenly(8, 4))
    with pytest.raises(AssertionError):  # a pattern that cannot be
        fits(lean, {"x" * 7: 1.0})
    assert not fits(lean, evenly(7, 3))
