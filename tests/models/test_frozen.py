"A frozen network sees a picture once, is its own slow copy, and forgets when it moves."

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
from contract import TOKENIZER, one_thread, some_batch  # noqa: F401
from torch import nn

from mvl_bench.core import update, view
from mvl_bench.models import pretrained as frozen
from mvl_bench.models.base import save
from mvl_bench.models.maskvlm import MaskVLM, maskvlm_tiny
from mvl_bench.models.momentum_contrast import MomentumCopy
from mvl_bench.models.pretrained import CHUNK, GridEncoder, in_chunks, is_frozen, see
from mvl_bench.models.registry import load

PHOTOS = dict(
    img_size=(24, 32), patch_size=8, mask_size=8, embed_dim=16, num_heads=2, cross_depth=1, text_depth=1,
    vocab_size=len(TOKENIZER), pad_id=TOKENIZER.pad_token_id, mask_id=TOKENIZER.mask_token_id,
    timm_model="test_efficientnet", itc=1.0, itm=1.0, queue_size=12, proj_dim=8,
)  # fmt: skip


@pytest.fixture
def seen(monkeypatch):
    "How many rows each pass of a grid had."
    rows, cells = [], GridEncoder._cells
    monkeypatch.setattr(
        GridEncoder, "_cells", lambda self, x: rows.append(len(x)) or cells(self, x)
    )
    return rows


def photos(**changes):
    torch.manual_seed(0)
    return MaskVLM(update(maskvlm_tiny(), **PHOTOS | changes))


def a_step(model, epoch):
    "Losses of one step and the step itself."
    batch = some_batch()
    losses = model.losses(
        batch, model.cfg.build_masking()(batch, (0, epoch)), model.cfg.step_key(0, 5000 + epoch, 0)
    )
    sum(losses.parts.values()).backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(0.01 * p.grad)
                p.grad = None
    model.after_step(losses.carry)
    return {name: part.item() for name, part in losses.parts.items()}


def test_a_whole_picture_is_seen_once(seen):
    model = photos(frozen="image")
    a_step(model, 0)
    assert len(seen) == 2  # whole, for all losses and for the slow copy; and with hidden patches
    a_step(model, 1)
    assert len(seen) == 3  # the same pictures, hidden otherwise
    assert set(seen) == {CHUNK}
    free = photos()
    seen.clear()
    a_step(free, 0), a_step(free, 1)
    assert len(seen) == 6


@torch.no_grad()
def test_a_picture_with_holes_is_seen_once_beside_all_captions(seen):
    model, batch = photos(frozen="image"), some_batch()
    masks = model.cfg.build_masking()(batch, (0, 0))[0]
    plain = model(batch, masks).pixels  # as in training, where holes do not come again
    model(batch, masks)
    assert len(seen) == 2
    seen.clear()
    with torch.inference_mode():
        asked = [model(batch, masks).pixels for _ in range(3)]
    assert len(seen) == 1 and all(pixels.equal(plain) for pixels in asked)
    with torch.enable_grad():
        assert a_step(model, 0)  # what was kept then is of use in training


def test_nothing_changes_but_the_time(monkeypatch):
    model, plain = photos(frozen="image"), photos(frozen="image")
    kept = [a_step(model, epoch) for epoch in range(3)]
    monkeypatch.setattr(frozen, "is_frozen", lambda net: False)
    assert [a_step(plain, epoch) for epoch in range(3)] == [
        pytest.approx(x, rel=1e-5) for x in kept
    ]
    monkeypatch.undo()
    frozen._memories.clear()
    again = photos(frozen="image")
    told = []
    for epoch in range(3):
        told.append(a_step(again, epoch))
        frozen._memories.clear()  # as after a stop
    assert told == kept


def test_frozen_parts_are_their_own_slow_copy(tmp_path):
    model = photos(frozen="image")
    slow, _, *_ = model.contrast.slow
    assert slow.net is model.image_encoder.net and slow.to_width is not model.image_encoder.to_width
    before = [p.clone() for p in model.image_encoder.net.parameters()]
    a_step(model, 0)
    after = model.image_encoder.net.parameters()
    assert all(a.equal(b) for a, b in zip(before, after, strict=True))
    save(model, TOKENIZER, tmp_path / "one")
    again = load(tmp_path / "one")
    assert again.contrast.slow[0].net is again.image_encoder.net
    assert all(a.equal(b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    free = photos()
    assert free.contrast.slow[0].net is not free.image_encoder.net


def test_a_copy_of_what_learns_still_follows():
    both = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    copy = MomentumCopy([both], 0.5)
    assert copy[0][0] is both[0] and copy[0][1] is not both[1]
    was = both[1].weight.detach().clone()
    both[1].weight.data.add_(1.0)
    copy.follow([both])
    torch.testing.assert_close(copy[0][1].weight, was + 0.5)


def test_it_forgets_when_a_weight_moves():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval().requires_grad_(False)
    x = torch.rand(5, 3)
    before = see(net, net, x, True)
    for tensor in (net[0].weight, net[1].running_mean):
        with torch.no_grad():
            tensor.add_(1.0)
        assert not see(net, net, x, True).allclose(before)
        torch.testing.assert_close(before := see(net, net, x, True), net(x))
    net.load_state_dict({k: torch.zeros_like(v) for k, v in net.state_dict().items()})
    assert not see(net, net, x, True).any()


def test_memory_has_an_end(monkeypatch):
    net, seen = nn.Linear(3, 2).requires_grad_(False), []

    def run(x):
        seen.append(len(x))
        return net(x)

    x = torch.rand(4 * CHUNK, 3)
    monkeypatch.setattr(frozen, "MEMORY", 3 * CHUNK * 8)  # a row is 8 bytes
    first = see(net, run, x, True)
    assert len(seen) == 4 and see(net, run, x, True).equal(first) and len(seen) == 5
    assert see(net, run, x.flip(0), True).equal(first.flip(0)) and len(seen) == 6
    assert see(net, run, x[:0], False).shape == (0, 2)


def test_precision_is_part_of_what_is_remembered():
    net, x = nn.Linear(3, 2).requires_grad_(False), torch.rand(2, 3)
    exact = see(net, net, x, True)
    with torch.autocast("cpu", torch.bfloat16):
        rough = see(net, net, x, True)
    assert rough.dtype == torch.bfloat16 and see(net, net, x, True).equal(exact)


@pytest.fixture
def lite():
    "A frozen EfficientNet-Lite0, 32 images, and their features with an empty cache."
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0").eval().requires_grad_(False)
    images = torch.rand(32, 3, 64, 64)
    return SimpleNamespace(net=net, images=images, features=see(net, net, images, True))


@torch.no_grad()
def test_features_are_the_same_bits_alone_in_any_order_and_from_the_cache(lite):
    net, images, features = lite.net, lite.images, lite.features
    order = torch.randperm(32)
    assert see(net, net, images, True).equal(features)
    assert see(net, net, images, False).equal(features)
    assert see(net, net, images[order], True).equal(features[order])
    assert in_chunks(net, images[[5]])[0].equal(features[5])
    torch.testing.assert_close(net(images), features, rtol=1e-4, atol=1e-4)


def test_the_cache_is_faster_than_the_network(lite):
    seconds = []
    for again in (False, True):
        start = time.perf_counter()
        see(lite.net, lite.net, lite.images, again)
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 0.5 * seconds[0]


def test_a_weight_changed_in_place_or_replaced_empties_the_cache(lite):
    net, images = lite.net, lite.images[:8]
    with torch.no_grad():
        net.classifier.bias.add_(1.0)
    moved = see(net, net, images, True)
    net.classifier.bias.data = net.classifier.bias.data + 1
    assert not moved.equal(lite.features[:8]) and not see(net, net, images, True).equal(moved)


def test_a_frozen_network_passes_the_gradient_of_its_pixels(lite):
    pixels = lite.images[:2].clone().requires_grad_()
    see(lite.net, lite.net, pixels, True).sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_what_counts_as_frozen():
    linear = nn.Linear(2, 2)
    assert not is_frozen(linear) and not is_frozen(nn.GELU())
    assert is_frozen(linear.requires_grad_(False))
    linear.bias.requires_grad_(True)
    assert not is_frozen(linear)
    torch.testing.assert_close(in_chunks(linear, x := torch.rand(19, 2)), linear(x))


def test_what_is_hidden_stays_hidden():
    model = photos(frozen="image").eval()
    batch = some_batch()
    patches = torch.zeros(6, 12, dtype=torch.bool)
    patches[:, 5] = True
    other = batch.images.clone()
    other[:, :, 8:16, 8:16] = torch.rand(6, 3, 8, 8)
    with torch.no_grad():
        whole = model.image_encoder(batch.images), model.image_encoder(other)
        masked = (
            model(replace(batch, images=x), view(batch, 12, patches)).pixels
            for x in (batch.images, other)
        )
        assert next(masked).equal(next(masked)) and not whole[0].equal(whole[1])
