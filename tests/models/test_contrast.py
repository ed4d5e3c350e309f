"ITC, ITM, slow copies and queue against short independent computations; each check is shown failing on a planted fault."

import math
from collections import deque
from dataclasses import replace

import pytest
import torch
from torch import nn

from mvl_bench.core import hashed_uniform, update
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_tokenizer
from mvl_bench.models import losses as contrast
from mvl_bench.models.losses import Vectors, hard_negatives, is_negative, itc, itm, match_pairs
from mvl_bench.models.maskvlm import MaskVLM, maskvlm_tiny
from mvl_bench.models.momentum_contrast import MomentumCopy, Queue
from mvl_bench.training.optim import TrainConfig

SIZES = dict(
    img_size=(24, 32), patch_size=8, mask_size=8, max_text_len=24, embed_dim=32, num_heads=2,
    image_depth=1, text_depth=1, cross_depth=2, decoder_depth=0,
    itc=1.0, itm=1.0, proj_dim=16, queue_size=12, momentum=0.9, random_negative_frac=0.25,
)  # fmt: skip
WORLD = Scenes("shapes", img_size=SIZES["img_size"])
TOKENIZER = word_tokenizer(WORLD.captions(300))
TRAIN = TrainConfig(steps=4, batch_size=6, warmup=1, precision="fp32")


@pytest.fixture(autouse=True)
def one_thread():
    "Small matrices are quickest on one thread."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(cls=MaskVLM, **changes):
    "A small model with all four losses and random weights."
    ids = dict(pad_id=TOKENIZER.pad_token_id, mask_id=TOKENIZER.mask_token_id)
    torch.manual_seed(0)
    return cls(update(maskvlm_tiny(), vocab_size=len(TOKENIZER), **ids, **{**SIZES, **changes}))


def some_batch(first=0, count=6, items=None):
    "Scenes side by side; their items may be named."
    batch = collate([WORLD.pair(first + i) for i in range(count)], TOKENIZER, 24)
    return batch if items is None else replace(batch, item=torch.tensor(items))


def vectors(count, items=None, dim=5, seed=0):
    "Random unit vectors."
    made = torch.Generator().manual_seed(seed)
    sides = nn.functional.normalize(torch.randn(2, count, dim, generator=made), dim=-1)
    return Vectors(*sides, torch.arange(count) if items is None else torch.tensor(items))


# ---- itc


def itc_in_words(pairs, candidates, temperature):
    "The same loss, one query at a time."
    nats = []
    for i, item in enumerate(pairs.item.tolist()):
        wrong = [j for j, other in enumerate(candidates.item.tolist()) if other != item]
        for query, answers in (
            (pairs.image[i], candidates.text),
            (pairs.text[i], candidates.image),
        ):
            scores = [
                math.exp(sum((query * answers[j]).tolist()) / temperature) for j in [i, *wrong]
            ]
            if wrong:
                nats.append(-math.log(scores[0] / sum(scores)))
    return sum(nats) / len(nats)


def check_itc(loss=itc):
    "With and without a queue, items twice in batch and queue, another temperature."
    later = vectors(7, [3, 0, 9, 9, 1, 5, 0], seed=2)
    for items, temperature in (([0, 1, 2, 3], 0.07), ([0, 1, 0, 3], 0.3), ([4, 4, 4, 3], 1.0)):
        pairs, slow = vectors(4, items), vectors(4, items, seed=1)
        for candidates in (slow, contrast.join([slow, later])):
            found = loss(pairs, candidates, temperature).item()
            assert found == pytest.approx(itc_in_words(pairs, candidates, temperature), rel=1e-4)


def test_itc_is_what_anybody_computes():
    check_itc()


def test_itc_takes_a_batch_as_it_is():
    pairs = vectors(6)
    blind = Vectors(*torch.zeros(2, 6, 5), pairs.item)
    assert itc(blind, blind, 0.1).item() == pytest.approx(math.log(6))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    moved = Vectors(*(part[order] for part in pairs))
    assert itc(moved, moved, 0.1).item() == pytest.approx(itc(pairs, pairs, 0.1).item())
    with torch.autocast("cpu", torch.bfloat16):  # as exact where passes run in bf16
        assert itc(pairs, pairs, 0.01).equal(itc(pairs, pairs, 0.01))
        half = itc(pairs, pairs, 0.01)
    assert half.item() == pytest.approx(itc(pairs, pairs, 0.01).item(), rel=1e-6)


def test_a_faulty_itc_is_found():
    def one_way(pairs, candidates, temperature):
        both = Vectors(pairs.image, pairs.image, pairs.item)
        other = Vectors(candidates.text, candidates.text, candidates.item)
        return itc(both, other, temperature)

    def all_wrong(pairs, candidates, temperature):
        apart = torch.arange(len(candidates.item))
        return itc(pairs._replace(item=apart[: len(pairs.item)]), candidates._replace(item=apart), temperature)  # fmt: skip

    def no_temperature(pairs, candidates, temperature):
        return itc(pairs, candidates, 1.0)

    def extra_positives(pairs, candidates, temperature):
        logits = pairs.image @ candidates.text.T / temperature
        right = (~is_negative(pairs.item, candidates.item)).float()
        return nn.functional.cross_entropy(logits, right / right.sum(1, keepdim=True))

    for fault in (one_way, all_wrong, no_temperature, extra_positives):
        with pytest.raises(AssertionError):
            check_itc(fault)


# ---- hard negatives and itm


def draw_in_words(logits, items, draws, random_negative_frac=0.0):
    "The row drawn for each row that may have one, by walking up the chances."
    drawn = {}
    for i, item in enumerate(items):
        others = [j for j, other in enumerate(items) if other != item]
        weights = [math.exp(logits[i][j]) for j in others]
        even = random_negative_frac / max(1, len(others))
        weights = [(1 - random_negative_frac) * w / sum(weights) + even for w in weights]
        left = draws[i]
        for j, weight in zip(others, weights):
            left -= weight
            if left < 0:
                drawn[i] = j
                break
    return drawn


def check_draws(draw=hard_negatives):
    "Never the same item, the chances of the softmax, nothing where nothing is allowed."
    logits = 2 * torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    for items in ([0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 1, 1], [7, 7, 7, 7, 7, 2]):
        for seed in range(30):
            draws = hashed_uniform((seed,), torch.arange(6), 1)[:, 0]
            for share in (0.0, 0.4, 1.0):
                rows, picked = draw(logits, torch.tensor(items), draws, share)
                expected = draw_in_words(logits.tolist(), items, draws.tolist(), share)
                assert dict(zip(rows.tolist(), picked.tolist(), strict=True)) == expected
    for end in (0.0, 1 - 2**-53):
        rows, picked = draw(
            logits, torch.tensor([0, 0, 1, 2, 1, 0]), torch.full((6,), end, dtype=torch.float64)
        )
        assert picked.tolist() == ([2, 2, 0, 0, 0, 2] if end == 0 else [4, 4, 5, 5, 5, 4])
    rows, picked = draw(logits, torch.zeros(6), torch.rand(6).double())
    assert len(rows) == len(picked) == 0


def test_negatives_are_drawn_as_anybody_would():
    check_draws()
    far = torch.tensor([[0.0, -1e4, -1e4 - 1], [0, 0, 0], [0, 0, 0]])  # chances under the smallest
    picked = hard_negatives(far, torch.arange(3), torch.tensor([0.99, 0.1, 0.1]).double())[1]
    assert picked.tolist() == [2, 0, 0]
    hardest = torch.zeros(3, 3)
    hardest[0, 2] = 50.0
    assert hard_negatives(hardest, torch.arange(3), torch.full((3,), 0.01).double())[1][0] == 2


def test_faulty_draws_are_found():
    def uniform(logits, item, draws, share=0.0):
        return hard_negatives(logits * 0, item, draws)

    def itself(logits, item, draws, share=0.0):
        return hard_negatives(logits, torch.arange(len(item)), draws, share)

    def other_way(logits, item, draws, share=0.0):
        return hard_negatives(logits.T, item, draws, share)

    def all_hard(logits, item, draws, share=0.0):
        return hard_negatives(logits, item, draws)

    for fault in (uniform, itself, other_way, all_hard):
        with pytest.raises(AssertionError):
            check_draws(fault)


def test_matches_are_one_right_and_two_wrong_a_row():
    logits, items = torch.randn(5, 5), torch.tensor([4, 4, 6, 7, 8])
    draws = hashed_uniform((1,), torch.arange(5), 2)
    image, text, matched = match_pairs(logits, items, draws)
    assert matched.tolist() == [1] * 5 + [0] * 10
    texts = draw_in_words(logits.tolist(), items.tolist(), draws[:, 0].tolist())
    images = draw_in_words(logits.T.tolist(), items.tolist(), draws[:, 1].tolist())
    right = [(i, i) for i in range(5)]
    wrong = [(i, texts[i]) for i in range(5)] + [(images[i], i) for i in range(5)]
    assert list(zip(image.tolist(), text.tolist())) == right + wrong
    share = matched.float().mean()
    guess = torch.stack([1 - share, share]).log().expand(15, 2)
    assert itm(guess, matched).item() == pytest.approx(0.6365, abs=1e-4)
    scores = torch.randn(15, 2)
    nats = [-math.log(row.softmax(0)[m]) for row, m in zip(scores, matched)]
    assert itm(scores, matched).item() == pytest.approx(sum(nats) / 15, rel=1e-5)


# ---- queue and slow copies


def check_queue_holds(cls=Queue, size=7):
    "The last `size` pairs, whatever the lengths: first steps, wrap-around, short, empty, over-long."
    for lengths in ((3, 3, 3, 3), (7, 7), (5, 1, 2, 0, 6, 4), (9, 3), (2, 20, 1)):
        queue, expected, number = cls(size, 2), deque(maxlen=size), 1
        for length in lengths:
            items = list(range(number, number + length))
            number += length
            column = torch.tensor(items, dtype=torch.float).reshape(-1, 1).expand(-1, 2)
            queue.push(Vectors(column, -column, torch.tensor(items, dtype=torch.long)))
            expected.extend(items)
            held = queue.filled()
            assert sorted(held.item.tolist()) == list(expected)
            assert held.image.equal(held.item[:, None].float().expand(-1, 2))
            assert held.text.equal(-held.image)
            again = cls(size, 2)
            again.load_state_dict(queue.state_dict())
            assert all(a.equal(b) for a, b in zip(again.filled(), held))


def test_the_queue_holds_the_last_pairs():
    check_queue_holds()
    held = Queue(4, 2)
    held.push(Vectors(torch.ones(2, 2), torch.ones(2, 2), torch.tensor([2**62 + 1, 5])))
    assert held.filled().item.tolist() == [2**62 + 1, 5]  # whole numbers stay exact


def test_a_faulty_queue_is_found():
    class Unfilled(Queue):
        def filled(self):
            return Vectors(self.image, self.text, self.item)

    class Stops(Queue):
        "Never wraps around."

        def push(self, rows):
            room = len(self.item) - int(self.pushed)
            super().push(Vectors(*(part[:room] for part in rows)))

    class Aligned(Queue):
        "Goes back to the start where a batch does not fit."

        def push(self, rows):
            if int(self.pushed) % len(self.item) + len(rows.item) > len(self.item):
                self.pushed += -int(self.pushed) % len(self.item)
            super().push(rows)

    class Forgets(Queue):
        "Where to go on is not saved."

        def __init__(self, size, dim):
            super().__init__(size, dim)
            self.register_buffer("pushed", self.pushed, persistent=False)

    for fault in (Unfilled, Stops, Aligned, Forgets):
        with pytest.raises((AssertionError, RuntimeError)):
            check_queue_holds(fault)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.995, 1.0])
def test_slow_copies_follow(momentum):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    copy = MomentumCopy([module], momentum)
    expected = [p.detach().clone() for p in module.parameters()]
    for step in range(3):
        for p in module.parameters():
            p.data += torch.randn_like(p)
        module(torch.randn(4, 3))
        copy.follow([module])
        expected = [
            momentum * s + (1 - momentum) * p for s, p in zip(expected, module.parameters())
        ]
        for slow, right in zip(copy.parameters(), expected):
            torch.testing.assert_close(slow.data, right.detach())
    assert copy[0][1].running_mean.equal(module[1].running_mean)
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad for p in module.parameters())
