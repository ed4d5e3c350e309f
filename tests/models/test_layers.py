"Layers: packing and scattering of tokens, attention, cross blocks, absent modalities, the patch CNN, its decoder and the refiner."

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mvl_bench.core import UserError
from mvl_bench.models.layers import (
    Attention,
    CrossBlock,
    CrossEncoder,
    DecoderBlock,
    DeconvDecoder,
    PatchEmbedder,
    Refiner,
    kept,
    or_absent,
    packed,
    pieces,
    put,
    select,
    take,
)

CHOSEN = torch.tensor([[True, False, True, True, True], [False, False, False, True, False]])
EQUAL = torch.tensor([[True, False, True], [False, True, True]])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def tokens():
    "Five patches and seven words of two rows; the second caption has three words."
    keys = torch.ones(2, 7, dtype=torch.bool)
    keys[1, 3:] = False
    whole = torch.ones(2, 5, dtype=torch.bool)
    x, words = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    return SimpleNamespace(x=x, whole=whole, words=words, keys=keys)


# ---- packing


def test_segments_are_flat_positions_and_their_rows():
    places, _, rows, _ = pieces(CHOSEN)
    assert places.tolist() == [[0, 2], [3, 4], [8, -1]] and rows.tolist() == [0, 0, 1]


def test_rows_of_equal_length_are_one_segment_each():
    places, real, rows, _ = pieces(EQUAL)
    assert rows is None and places.tolist() == [[0, 2], [4, 5]] and real.tolist() == [0, 1, 2, 3]
    assert packed(EQUAL).places.equal(places) and packed(EQUAL).allowed is None


def test_packed_rows_attend_only_to_themselves():
    mask = torch.arange(9) < torch.tensor([9, 1, 4, 5, 8, 2])[:, None]
    allowed = packed(mask).allowed[:, 0]
    assert allowed[0].all() and allowed[1].sum() == 8 * 8 + 1
    assert allowed.any(-1).all()  # every query has a key


@pytest.mark.parametrize("packing", [pieces(CHOSEN), packed(CHOSEN)])
def test_scatter_inverts_gather_and_changes_nothing_else(packing):
    x = torch.randn(2, 5, 4)
    assert kept(take(x, packing), packing).sort(0).values.equal(x[CHOSEN].sort(0).values)
    assert put(take(x, packing), packing, torch.zeros_like(x)).equal(x * CHOSEN[..., None])


def test_values_are_selected_row_by_row():
    x = torch.randn(2, 5, 4)
    assert select(x, CHOSEN).equal(x[CHOSEN]) and select(x, CHOSEN & False).shape == (0, 4)


# ---- attention


def test_attention_excludes_masked_keys(tokens):
    attention, padded = Attention(32, 4), tokens.words.clone()
    _, weights = attention(tokens.x, tokens.words, tokens.keys, need_weights=True)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 5))
    assert (weights[1, ..., 3:] == 0).all()
    padded[1, 3:] = 99.0
    plain = attention(tokens.x, tokens.words, tokens.keys)
    assert attention(tokens.x, padded, tokens.keys).equal(plain)


def test_returned_weights_are_the_ones_that_mix(tokens):
    attention = Attention(32, 4)
    mixed, weights = attention(tokens.x, tokens.words, tokens.keys, need_weights=True)
    torch.testing.assert_close(attention(tokens.x, tokens.words, tokens.keys), mixed)
    (gradient,) = torch.autograd.grad(mixed.square().sum(), weights)
    assert gradient[0].abs().min() > 0


def test_attention_is_torchs_multihead_attention(tokens):
    attention, reference = Attention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    query, key_value = attention.query, attention.key_value
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([query.weight, key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([query.bias, key_value.bias]))
    reference.out_proj = attention.proj
    mixed, weights = attention(tokens.x, tokens.words, tokens.keys, need_weights=True)
    expected = reference(
        tokens.x, tokens.words, tokens.words, ~tokens.keys, average_attn_weights=False
    )
    torch.testing.assert_close(mixed, expected[0])
    torch.testing.assert_close(weights, expected[1])


@pytest.mark.parametrize("masked", [False, True])
def test_a_single_query_gets_the_same_result(masked, tokens):
    attention, keys = Attention(32, 4), tokens.keys if masked else None
    expected = attention(tokens.x, tokens.words, keys)[:, :1]
    torch.testing.assert_close(attention.for_one_query(tokens.x[:, :1], tokens.words, keys), expected)


# ---- blocks


def test_blocks_keep_the_shape(tokens):
    block, decoder = CrossBlock(32, 4), DecoderBlock(32, 4)
    fused = block(tokens.x, tokens.words, context_keys=tokens.keys)
    assert fused.shape == decoder(tokens.x, tokens.words, tokens.keys).shape == (2, 5, 32)
    assert [sum(p.numel() for p in part.parameters()) for part in (block, decoder)] == [
        16992,
        12704,
    ]


def test_a_decoder_block_treats_each_patch_independently(tokens):
    decoder, block = DecoderBlock(32, 4), CrossBlock(32, 4)
    single = decoder(tokens.x[:, [2]], tokens.words, tokens.keys)
    torch.testing.assert_close(single, decoder(tokens.x, tokens.words, tokens.keys)[:, [2]])
    fused = block(tokens.x[:, [2]], tokens.words)  # a cross block does not
    assert not torch.allclose(fused, block(tokens.x, tokens.words)[:, [2]])


def test_a_cross_encoder_collects_the_weights_of_every_block(tokens):
    encoder, weights = CrossEncoder(2, 32, 4), []
    inputs = tokens.x, tokens.whole, tokens.words, tokens.keys
    torch.testing.assert_close(encoder(*inputs, weights), encoder(*inputs))
    assert len(weights) == 2 and (weights[0][1, ..., 3:] == 0).all()  # padding gets no attention


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("swapped", [False, True])
def test_class_tokens_are_those_of_a_whole_pass(depth, swapped, tokens):
    rows, others = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([0, 1, 0, 1, 1])
    sides = [(tokens.x, tokens.whole), (tokens.words, tokens.keys)]
    first, second = sides[::-1] if swapped else sides
    encoder = CrossEncoder(depth, 32, 4)
    expected = encoder(*(part[rows] for part in first), *(part[others] for part in second))[:, 0]
    short = encoder.class_tokens(*first, *second, rows, others)
    torch.testing.assert_close(short, expected)
    assert not torch.allclose(short[1], short[2])  # the same row with another partner


def test_an_absent_modality_is_one_learnt_token(tokens):
    present = torch.tensor([False, True])
    replaced, allowed = or_absent(tokens.words, tokens.keys, present, torch.zeros(32))
    assert replaced[1].equal(tokens.words[1]) and not replaced[0].any()
    assert allowed[0].tolist() == [True] + 6 * [False] and allowed[1].equal(tokens.keys[1])


# ---- the patch CNN


@torch.no_grad()
def test_a_pixel_changes_its_own_token_only():
    embedder, images = PatchEmbedder(8, 128, 64), torch.rand(2, 3, 32, 48)
    changed, tokens = images.clone(), embedder(images)
    changed[:, :, 15, 24] += 0.5
    difference = (embedder(changed) - tokens).abs().amax(2)[0].reshape(4, 6)
    assert (difference > 0).sum() == 1 and difference[1, 3] > 0
    assert tokens.shape == (2, 24, 128)


@torch.no_grad()
def test_a_pixel_changes_several_tokens_where_kernels_overlap():
    layers = [nn.Conv2d(c, d, 3, 2, 1) for c, d in ((3, 16), (16, 32), (32, 128))]
    cnn, images = nn.Sequential(*layers), torch.rand(2, 3, 32, 48)
    changed = images.clone()
    changed[:, :, 15, 24] += 0.5
    assert ((cnn(changed) - cnn(images)).abs().amax(1)[0] > 0).sum() > 1


@torch.no_grad()
def test_masked_pixels_change_no_visible_token():
    embedder, images, masked = (
        PatchEmbedder(8, 128, 64),
        torch.rand(2, 3, 32, 48),
        torch.rand(2, 24) < 0.5,
    )
    area = masked.reshape(2, 1, 4, 6).repeat_interleave(8, 2).repeat_interleave(8, 3)
    other = torch.rand_like(images).where(area, images)
    assert embedder(other)[~masked].equal(embedder(images)[~masked])
    assert not embedder(other)[masked].equal(embedder(images)[masked])


@pytest.mark.parametrize(
    "patch_size, width, message",
    [
        (12, 64, "patch_size 12 is not a power of two"),
        (1, 64, "patch_size 1 is not a power of two"),
        (8, 6, "width 6 is not a multiple of 4"),
        (8, 0, "width 0 is not a multiple of 4"),
    ],
)
def test_impossible_patch_sizes_and_widths_are_refused(patch_size, width, message):
    with pytest.raises(UserError, match=message):
        PatchEmbedder(patch_size, 16, width)


def test_the_decoder_returns_pixels_that_start_near_grey():
    tokens = PatchEmbedder(8, 128, 64)(torch.rand(2, 3, 32, 48))
    pixels = DeconvDecoder(8, 128, 64)(tokens, (4, 6))
    assert pixels.shape == (2, 24, 8 * 8 * 3) and 0 <= pixels.min() and pixels.max() <= 1
    assert (pixels - 0.5).abs().mean() < 0.25


def test_embedder_and_decoder_have_the_papers_sizes():
    with torch.device("meta"):
        parts = dict(embedder=PatchEmbedder(32, 1024, 128), decoder=DeconvDecoder(32, 1024, 320))
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    depths = {name: sum("Conv" in type(m).__name__ for m in part) for name, part in parts.items()}
    assert abs(counts["embedder"] / 200e3 - 1) < 0.05 and abs(counts["decoder"] / 2.8e6 - 1) < 0.02
    assert depths == dict(embedder=7, decoder=10)


@torch.no_grad()
def test_a_refiner_is_the_identity_at_first_and_reaches_six_pixels():
    refiner, images = Refiner(8, (16, 16)), torch.rand(2, 3, 16, 16)
    masked = (torch.rand(2, 1, 16, 16) > 0.5).float()
    assert refiner(images, masked).equal(images)
    nn.init.normal_(refiner.end.weight)
    corrected, far = refiner(images, masked), images.clone()
    assert corrected.shape == images.shape and not corrected.equal(images)
    far[..., -1] = 0  # six convolutions of 3x3
    assert refiner(far, masked)[..., :9].equal(corrected[..., :9])
