"Momentum encoders, queue and `Contrast`; `test_contrast.py` compares queue and copies with a second implementation."

import math

import pytest
import torch
from torch import nn

from mvl_bench.data.factory import make_tokenizer, open_data
from mvl_bench.data.pairs import collate
from mvl_bench.models.encoders import ImageEncoder, TextEncoder
from mvl_bench.models.losses import Vectors
from mvl_bench.models.momentum_contrast import TEMPERATURES, Contrast, MomentumCopy, Queue, gather


def numbered(*items):
    "Pairs whose vectors are the number of their item."
    column = torch.tensor(items, dtype=torch.float)[:, None]
    return Vectors(column, -column, torch.tensor(items, dtype=torch.long))


# ---- momentum encoders


def follow_a_jump(momentum, steps=300):
    "The weight of a copy in each step after its original went from 0 to 1."
    linear = nn.Linear(1, 1, bias=False)
    linear.weight.data.fill_(0.0)
    copy = MomentumCopy([linear], momentum)
    linear.weight.data.fill_(1.0)
    path = []
    for _ in range(steps):
        path.append(copy[0].weight.item())
        copy.follow([linear])
    return path


def test_a_copy_keeps_its_momentum_of_itself():
    assert follow_a_jump(0.9)[:3] == [0, *torch.tensor([0.1, 0.19]).tolist()]
    half_way = sum(weight < 0.5 for weight in follow_a_jump(0.995))
    assert half_way == 139  # ln 0.5 / ln 0.995 = 138.3 steps


def test_copies_are_not_trained_and_originals_are():
    linear = nn.Linear(2, 2)
    copy = MomentumCopy([linear], 0.9)
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad for p in linear.parameters())


def test_begin_copies_the_current_weights():
    linear = nn.Linear(2, 2)
    copy = MomentumCopy([linear], 0.9)
    linear.weight.data.add_(1.0)
    assert not copy[0].weight.equal(linear.weight)
    copy.begin([linear])
    assert copy[0].weight.equal(linear.weight)


# ---- queue


def test_the_queue_replaces_the_oldest_pairs():
    queue, contents = Queue(5, 1), []
    for rows in (numbered(), numbered(1, 2), numbered(3, 4), numbered(5, 6), numbered(7)):
        queue.push(rows)
        contents.append(queue.filled().item.tolist())
    assert contents == [[], [1, 2], [1, 2, 3, 4], [6, 2, 3, 4, 5], [6, 7, 3, 4, 5]]
    pairs = queue.filled()
    assert pairs.image[:, 0].tolist() == pairs.item.tolist() and pairs.text.equal(-pairs.image)


def test_of_more_pairs_than_slots_the_last_stay():
    queue = Queue(5, 1)
    queue.push(numbered(*range(1, 8)))
    queue.push(numbered(*range(10, 22)))
    assert sorted(queue.filled().item.tolist()) == [17, 18, 19, 20, 21]
    queue.push(numbered(30))
    assert sorted(queue.filled().item.tolist()) == [18, 19, 20, 21, 30]  # the oldest has gone


def test_a_saved_queue_goes_on_where_it_was():
    queue, loaded = Queue(5, 1), Queue(5, 1)
    queue.push(numbered(*range(1, 21)))
    loaded.load_state_dict(queue.state_dict())
    for each in (queue, loaded):
        each.push(numbered(31, 32))
    assert loaded.filled().item.equal(queue.filled().item) and loaded.pushed == 22


def test_a_queue_of_size_0_holds_nothing():
    queue = Queue(0, 1)
    queue.push(numbered(1, 2))
    assert len(queue.filled().item) == 0


def test_a_single_process_gathers_its_own_rows():
    rows = numbered(4, 5, 6)
    for gathered in gather(rows, torch.arange(3)):
        assert all(a.equal(b) for a, b in zip(gathered, rows, strict=True))


# ---- contrast


@pytest.fixture(scope="module")
def source():
    return open_data("scenes:shapes", 64)


@pytest.fixture(scope="module")
def tokenizer(source):
    return make_tokenizer(source)


@pytest.fixture
def batch(source, tokenizer):
    return collate([source.pair(i) for i in range(6)], tokenizer, 24)


@pytest.fixture
def encoders(tokenizer):
    torch.manual_seed(0)
    image_encoder = ImageEncoder((64, 64), 16, 32, 1, 2)
    return [image_encoder, TextEncoder("bert", len(tokenizer), 24, 32, 1, 2)]


@pytest.fixture
def contrast(encoders):
    return Contrast(encoders, dim=32, proj_dim=8, queue_size=12, momentum=0.995)


@pytest.fixture
def pairs(contrast, encoders, batch):
    tokens = encoders[0](batch.images), encoders[1](batch.input_ids, batch.attention_mask)
    return contrast.vectors(*tokens, batch.item)


@pytest.fixture
def slow(contrast, batch):
    return contrast.slow_vectors(batch, torch.arange(6))


def test_copies_start_equal_and_have_no_gradients(pairs, slow):
    torch.testing.assert_close(slow.image, pairs.image)
    torch.testing.assert_close(slow.text, pairs.text)
    assert not slow.image.requires_grad and not slow.text.requires_grad


def test_vectors_have_length_1(pairs):
    torch.testing.assert_close(pairs.image.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(pairs.text.norm(dim=1), torch.ones(6))


def test_slow_vectors_of_chosen_rows(contrast, batch, slow):
    rows = torch.tensor([1, 4, 5])
    chosen = contrast.slow_vectors(batch, rows)
    assert all(a.equal(b[rows]) for a, b in zip(chosen, slow, strict=True))


def test_gradients_reach_all_but_the_slow_copies(contrast, pairs, slow, batch):
    loss, counted, carry = contrast(pairs, slow, torch.arange(6))
    assert counted == 6 and carry.item.equal(batch.item)
    loss.backward()
    trained = {name for name, p in contrast.named_parameters() if p.grad is not None}
    everything = {name for name, _ in contrast.named_parameters()}
    assert trained == {name for name in everything if not name.startswith("slow.")}


def test_after_step_pushes_the_batch(contrast, encoders, pairs, slow, batch):
    carry = contrast(pairs, slow, torch.arange(6))[2]
    assert len(contrast.queue.filled().item) == 0  # forward changes no state
    contrast.after_step(encoders, [carry])
    assert contrast.queue.filled().item.equal(batch.item)


def test_copies_of_a_pair_in_the_queue_are_left_out(contrast, encoders, pairs, slow):
    contrast.after_step(encoders, [contrast(pairs, slow, torch.arange(6))[2]])
    equal = slow._replace(image=slow.image * 0, text=slow.text * 0)
    contrast.queue.image.zero_(), contrast.queue.text.zero_()
    loss = contrast(equal, equal, torch.arange(6))[0].item()
    assert abs(loss - math.log(11)) < 1e-5  # the partner, five others, and those five in the queue


@pytest.mark.parametrize("start, bound", [(-9.0, TEMPERATURES[0]), (9.0, TEMPERATURES[1])])
def test_the_temperature_stays_within_its_bounds(contrast, encoders, start, bound):
    contrast.log_temperature.data.fill_(start)
    assert contrast.temperature.item() == torch.tensor(bound).log().exp().item()
    contrast.after_step(encoders, [])
    assert contrast.log_temperature.item() == torch.tensor(bound).log().item()
