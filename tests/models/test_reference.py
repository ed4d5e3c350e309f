"Our blocks, encoders and losses beside torch, timm, transformers and slow loops: same random weights, same answer."

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from mvl_bench.core import UserError
from mvl_bench.masking.base import mask_fraction
from mvl_bench.models.encoders import ImageEncoder, TextEncoder
from mvl_bench.models.layers import CrossBlock, DecoderBlock, kept, packed, pieces, put, take
from mvl_bench.models.losses import mlm, recon, weigh
from mvl_bench.patches import (
    denormalize_patches,
    normalize_patches,
    patch_statistics,
    patchify,
    sincos_positions,
    unpatchify,
)

DIM, HEADS = 32, 4
CLOSE = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def still():
    "One thread, one seed, no gradients."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def shaken(module):
    "The same module with every weight random, norms and biases too."
    for p in module.parameters():
        p.copy_(torch.randn_like(p) * (0.5 if p.ndim < 2 else p.shape[-1] ** -0.5))
    return module.eval()


def uneven(rows, width):
    "Keys that may be looked at: all, then fewer and fewer, at least one."
    return torch.arange(width) < torch.linspace(width, 1, rows).round()[:, None]


# ---- blocks


def copy_attention(ours, reference):
    "Put our attention's weights into torch's."
    reference.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
    reference.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    reference.out_proj.load_state_dict(ours.proj.state_dict())


def copy_all(pairs):
    "Put each module's weights into its partner."
    for ours, reference in pairs:
        if isinstance(reference, nn.MultiheadAttention):
            copy_attention(ours, reference)
        else:
            reference.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("masked", [False, True])
def test_cross_block_is_torchs_decoder_layer(masked):
    ours = shaken(CrossBlock(DIM, HEADS))
    options = dict(dropout=0, activation="gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerDecoderLayer(DIM, HEADS, 4 * DIM, **options).eval()
    partners = [(ours.norm1, theirs.norm1), (ours.norm2, theirs.norm2), (ours.norm3, theirs.norm3)]
    partners += [(ours.self_attn, theirs.self_attn), (ours.cross_attn, theirs.multihead_attn)]
    copy_all(partners + [(ours.mlp[0], theirs.linear1), (ours.mlp[2], theirs.linear2)])
    x, context = torch.randn(5, 7, DIM), torch.randn(5, 9, DIM)
    keys, context_keys = (uneven(5, 7), uneven(5, 9)) if masked else (None, None)
    keys_of = (
        dict(tgt_key_padding_mask=~keys, memory_key_padding_mask=~context_keys) if masked else {}
    )
    expected = theirs(x, context, **keys_of)
    torch.testing.assert_close(ours(x, context, keys, context_keys), expected, **CLOSE)
    found, looks = ours(x, context, keys, context_keys, need_weights=True)
    torch.testing.assert_close(found, expected, **CLOSE)
    y = theirs.norm2(
        x + theirs.self_attn(*[theirs.norm1(x)] * 3, None if keys is None else ~keys)[0]
    )
    _, weights = theirs.multihead_attn(
        y, context, context, keys_of.get("memory_key_padding_mask"), average_attn_weights=False
    )
    torch.testing.assert_close(looks, weights, **CLOSE)


@pytest.mark.parametrize("masked", [False, True])
def test_decoder_block_is_multihead_attention_then_mlp(masked):
    ours = shaken(DecoderBlock(DIM, HEADS))
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).eval()
    copy_attention(ours.cross_attn, theirs)
    x, context = torch.randn(4, 6, DIM), torch.randn(4, 5, DIM)
    keys = uneven(4, 5) if masked else None
    y = x + theirs(ours.norm1(x), context, context, None if keys is None else ~keys)[0]
    z = F.layer_norm(y, (DIM,), ours.norm2.weight, ours.norm2.bias)
    z = F.linear(
        F.gelu(F.linear(z, ours.mlp[0].weight, ours.mlp[0].bias)), *ours.mlp[2].parameters()
    )
    torch.testing.assert_close(ours(x, context, keys), y + z, **CLOSE)


def test_a_wrong_weight_is_found():
    "The comparison is not blind: one number moved in one weight is seen."
    ours = shaken(DecoderBlock(DIM, HEADS))
    x, context = torch.randn(4, 6, DIM), torch.randn(4, 5, DIM)
    before = ours(x, context)
    ours.cross_attn.key_value.weight[3, 3] += 0.1
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours(x, context), before, **CLOSE)


def test_pieces_hold_the_chosen_tokens_of_one_row_in_order():
    x, mask = torch.randn(6, 9, 4), torch.rand(6, 9) < 0.5
    mask[0], mask[1] = False, True
    packing = pieces(mask)
    assert kept(take(x, packing), packing).equal(x[mask])
    assert kept(packing.places, packing).tolist() == mask.flatten().nonzero()[:, 0].tolist()
    for piece, row in zip(packing.places, packing.rows, strict=True):
        there = piece[piece >= 0]
        assert len(there) and (there // 9 == row).all() and piece[: len(there)].equal(there)
    even = torch.arange(9).expand(6, 9) % 3 == 0
    assert pieces(even).rows is None and pieces(even).places.shape == (6, 3)


def test_packed_rows_share_sequences_and_see_only_their_own():
    mask = torch.arange(9) < torch.tensor([9, 1, 4, 5, 8, 2])[:, None]
    x = torch.randn(6, 9, 4)
    packing = packed(mask)
    places, seen = packing.places, packing.allowed[:, 0]
    assert len(places) == 4  # 9, 8 + 1, 5 + 4, 2
    assert sorted(places[places >= 0].tolist()) == mask.flatten().nonzero()[:, 0].tolist()
    for sequence, looks in zip(places.tolist(), seen.tolist()):
        for i, a in enumerate(sequence):
            for j, b in enumerate(sequence):
                if a >= 0:
                    assert looks[i][j] == (b >= 0 and a // 9 == b // 9)
    assert seen.any(-1).all()  # nobody looks at nothing
    onto = torch.randn_like(x)
    assert put(2 * take(x, packing), packing, onto).equal(torch.where(mask[..., None], 2 * x, onto))
    even = torch.arange(9).expand(6, 9) % 3 == 0
    assert packed(even).allowed is None and packed(even).places.equal(pieces(even).places)


# ---- encoders


def image_encoder():
    return shaken(ImageEncoder((24, 32), 8, DIM, 2, HEADS)), torch.rand(5, 3, 24, 32)


def some_hidden():
    "Nothing, everything, and uneven shares of 12 patches."
    order = torch.rand(5, 12).argsort(1).argsort(1)
    return order < torch.tensor([0, 12, 1, 6, 9])[:, None]


def test_image_encoder_is_timms_vit():
    ours, images = image_encoder()
    expected = ours.vit.forward_features(images * 2 - 1)
    torch.testing.assert_close(ours(images), expected, **CLOSE)
    nothing = torch.zeros(5, 12, dtype=torch.bool)
    for way in ("gather", "dense", "mask"):
        torch.testing.assert_close(ours(images, nothing, way), expected, **CLOSE)


def test_visible_patches_alone_are_timms_blocks_on_gathered_tokens():
    ours, images = image_encoder()
    vit, masked = ours.vit, some_hidden()
    gathered, dense = (ours(images, masked, way) for way in ("gather", "dense"))
    patches = F.conv2d(images * 2 - 1, *vit.patch_embed.proj.parameters(), stride=8)
    for row in range(5):
        x = torch.cat([vit.cls_token[0], patches[row].flatten(1).T]) + vit.pos_embed[0]
        x = x[torch.cat([torch.tensor([True]), ~masked[row]])][None]
        for block in vit.blocks:
            x = block(x)
        expected = torch.zeros(13, DIM)
        expected[0], expected[1:][~masked[row]] = vit.norm(x)[0, 0], vit.norm(x)[0, 1:]
        torch.testing.assert_close(gathered[row], expected, **CLOSE)
        torch.testing.assert_close(dense[row], expected, **CLOSE)


def test_mask_vectors_from_the_first_layer_on():
    ours, images = image_encoder()
    vit, masked = ours.vit, some_hidden()
    patches = F.conv2d(images * 2 - 1, *vit.patch_embed.proj.parameters(), stride=8)
    x = patches.flatten(2).transpose(1, 2)
    x = torch.where(masked[..., None], ours.mask_token, x)  # SimMIM: vectors join, then positions
    x = torch.cat([vit.cls_token.expand(5, 1, -1), x], 1) + vit.pos_embed
    for block in vit.blocks:
        x = block(x)
    torch.testing.assert_close(ours(images, masked, "mask"), vit.norm(x), **CLOSE)


@pytest.mark.parametrize(
    "arch, pad_id, cls, config",
    [("bert", 0, BertModel, BertConfig), ("roberta", 1, RobertaModel, RobertaConfig)],
)
def test_text_encoder_is_transformers(arch, pad_id, cls, config):
    ours = shaken(TextEncoder(arch, 50, 12, DIM, 2, HEADS, pad_id))
    sizes = dict(
        hidden_size=DIM, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=4 * DIM
    )
    room = dict(
        vocab_size=50, max_position_embeddings=13 + pad_id, pad_token_id=pad_id, type_vocab_size=1
    )
    theirs = cls(
        config(**sizes, **room, attn_implementation="eager"), add_pooling_layer=False
    ).eval()
    theirs.load_state_dict(ours.model.state_dict())
    real = uneven(4, 12).long()
    ids = torch.randint(5, 50, (4, 12)).masked_fill(real == 0, pad_id)
    found, expected = ours(ids, real), theirs(ids, real).last_hidden_state
    torch.testing.assert_close(found[real == 1], expected[real == 1], **CLOSE)
    short = ours(ids[2:, : int(real[2].sum())], real[2:, : int(real[2].sum())])
    torch.testing.assert_close(short[0], found[2, : short.shape[1]], **CLOSE)  # padding is nothing
    assert found.isfinite().all()


def test_impossible_encoders_are_refused():
    for make in (
        lambda: ImageEncoder((24, 32), 8, 30, 1, 4),
        lambda: TextEncoder("bert", 50, 12, 30, 1, 4),
        lambda: TextEncoder("no-such-thing", 50, 12, 32, 1, 4),
    ):
        with pytest.raises(UserError):
            make()


# ---- losses, patches, masks: slow loops


def test_mlm_is_the_mean_surprise():
    logits, labels = torch.randn(7, 11), torch.randint(11, (7,))
    by_hand = 0.0
    for row, label in zip(logits.tolist(), labels.tolist()):
        by_hand += math.log(sum(math.exp(v) for v in row)) - row[label]
    assert mlm(logits, labels).item() == pytest.approx(by_hand / 7, rel=1e-5)
    assert mlm(logits.bfloat16(), labels).dtype == torch.float32
    even = mlm(torch.zeros(3, 11), torch.tensor([0, 5, 10])).item()
    assert even == pytest.approx(math.log(11), rel=1e-6)


@pytest.mark.parametrize("kind", ("l1", "l2", "sse"))
def test_recon_is_a_mean_over_hidden_pixels(kind):
    predicted, truth = torch.randn(4, 2 * 2 * 3), torch.rand(4, 2 * 2 * 3)
    values = zip(predicted.flatten().tolist(), truth.flatten().tolist())
    size = [abs(a - b) for a, b in values]
    pixels = len(size) / 3
    by_hand = dict(
        l1=sum(size) / len(size),
        l2=sum(e * e for e in size) / len(size),
        sse=sum(e * e for e in size) / pixels,  # squares summed over the channels of a pixel
    )
    assert kind in by_hand, "a kind without a computation by hand"
    assert recon(predicted, truth, kind).item() == pytest.approx(by_hand[kind], rel=1e-5)
    with pytest.raises(UserError, match="l3"):
        recon(predicted, truth, "l3")


def test_normalised_patches_are_maes():
    truth = torch.rand(6, 48)
    spread = truth.var(-1, keepdim=True, unbiased=True)
    target = (truth - truth.mean(-1, keepdim=True)) / (spread + 1e-6).sqrt()  # as MAE's code does
    torch.testing.assert_close(normalize_patches(truth), target)
    assert denormalize_patches(normalize_patches(truth), patch_statistics(truth)).allclose(
        truth, atol=1e-5
    )


def test_weighing_by_hand():
    parts = dict(mlm=torch.tensor(2.0), recon=torch.tensor(0.5))
    assert weigh(parts, dict(mlm=1.5, recon=4.0)).item() == 5.0
    for wrong in (parts, {}), ({}, dict(mlm=1.0)):
        with pytest.raises(KeyError):
            weigh(*wrong)


def test_patchify_is_a_slow_loop():
    images = torch.rand(2, 3, 8, 12)
    patches = patchify(images, 4)
    for row in range(2):
        for column in range(3):
            for y in range(4):
                for x in range(4):
                    place = images[:, :, 4 * row + y, 4 * column + x]
                    assert patches[:, 3 * row + column].reshape(2, 4, 4, 3)[:, y, x].equal(place)
    assert unpatchify(patches, (2, 3)).equal(images)
    unfolded = F.unfold(images, 4, stride=4).transpose(1, 2)  # channel first inside a patch
    assert unfolded.unflatten(2, (3, 16)).transpose(2, 3).flatten(2).equal(patches)


def test_positions_are_sines_and_cosines():
    dim, (rows, columns) = 16, (3, 5)
    found = sincos_positions((rows, columns), dim)
    for row in range(rows):
        for column in range(columns):
            expected = []
            for place in (row, column):
                speeds = [10 ** (-i / (dim // 4)) for i in range(dim // 4)]  # twice the longer side
                expected += [math.sin(place * s) for s in speeds] + [
                    math.cos(place * s) for s in speeds
                ]
            torch.testing.assert_close(found[row * columns + column], torch.tensor(expected))
    with pytest.raises(UserError, match="18"):
        sincos_positions((2, 2), 18)


def test_hidden_units_are_the_lowest_numbers():
    chance = torch.rand(6, 10, dtype=torch.float64)
    allowed = torch.rand(6, 10) < 0.7
    allowed[0] = False
    for ratio in (0.0, 0.01, 0.34, 0.5, 1.0):
        found = mask_fraction(chance, ratio, allowed)
        for row in range(6):
            units = [i for i in range(10) if allowed[row, i]]
            count = max(1, round(ratio * len(units))) if ratio and units else 0
            lowest = sorted(units, key=lambda i: chance[row, i].item())[:count]
            assert sorted(lowest) == found[row].nonzero().flatten().tolist()
