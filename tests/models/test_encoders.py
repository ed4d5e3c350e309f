"Encoders of our own sizes: three ways to leave out masked patches, positions at the start, padding."

from types import SimpleNamespace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from mvl_bench.core import UserError
from mvl_bench.models.encoders import ImageEncoder, TextEncoder, begin_as_mae, key_mask
from mvl_bench.patches import sincos_positions

WAYS = ("gather", "dense", "mask")


@pytest.fixture(autouse=True)
def still():
    "Fix the seed; compute no gradients."
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture
def vit():
    "A small encoder and three images; the rows of the mask differ, the last has nothing visible."
    encoder = ImageEncoder((64, 64), 8, 48, 2, 4).eval()
    images, ratios = torch.rand(3, 3, 64, 64), torch.tensor([[0.3], [0.6], [1.0]])
    masked = torch.rand(3, 64) < ratios
    return SimpleNamespace(encoder=encoder, images=images, hidden=masked)


def inverted(images, masked):
    "The same images with the pixels of hidden patches inverted."
    area = masked.view(3, 1, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return torch.where(area, 1 - images, images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_additive_mask_is_zero_or_minus_infinity(dtype):
    assert key_mask(None, dtype) is None
    added = key_mask(torch.tensor([[True, False]]), dtype)
    assert added.dtype == dtype and added.tolist() == [[0.0, -torch.inf]]


def test_gathered_and_dense_tokens_agree(vit):
    gathered, dense = (vit.encoder(vit.images, vit.hidden, way) for way in WAYS[:2])
    assert gathered.shape == (3, 65, 48)
    torch.testing.assert_close(gathered, dense, atol=1e-5, rtol=1e-5)
    assert not gathered[:, 1:][vit.hidden].any() and not dense[:, 1:][vit.hidden].any()


def test_a_whole_image_takes_timms_path(vit):
    whole = vit.encoder(vit.images)
    torch.testing.assert_close(whole, vit.encoder.vit.forward_features(vit.images * 2 - 1))
    torch.testing.assert_close(whole, vit.encoder(vit.images, torch.zeros_like(vit.hidden)))


@pytest.mark.parametrize("way", WAYS)
def test_masked_pixels_change_no_token(way, vit):
    other = inverted(vit.images, vit.hidden)
    expected = vit.encoder(vit.images, vit.hidden, way)
    assert vit.encoder(other, vit.hidden, way).equal(expected)


def test_changed_pixels_of_visible_patches_change_the_tokens(vit):
    fewer = vit.hidden & (torch.arange(64) > 9)  # the first ten patches are visible
    other = inverted(vit.images, vit.hidden)
    assert not vit.encoder(other, fewer).equal(vit.encoder(vit.images, fewer))


def test_class_attention_is_what_timms_last_block_mixes_with(vit):
    weights = vit.encoder.class_attention(vit.images)
    attention, inputs = vit.encoder.vit.blocks[-1].attn, []
    attention.fused_attn = False  # timm's plain path passes its weights to a dropout of 0
    hook = attention.attn_drop.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    tokens = vit.encoder.embed(vit.images)
    for block in vit.encoder.vit.blocks:  # `run` would choose the path itself
        tokens = block(tokens)
    hook.remove()
    torch.testing.assert_close(weights, inputs[0].mean(1)[:, 0, 1:])


def test_a_new_vit_has_fixed_positions_for_its_patches():
    vit = VisionTransformer(64, 8, embed_dim=48, depth=1, num_heads=4)
    begin_as_mae(vit)
    assert vit.pos_embed[0, 1:].equal(sincos_positions((8, 8), 48))


def test_positions_make_up_a_third_of_a_new_token_or_more():
    fresh = ImageEncoder((64, 64), 8, 96, 2, 4, (0.85, 0.17))
    tokens = fresh.embed(0.85 + 0.17 * torch.randn(8, 3, 64, 64))[:, 1:]
    assert tokens.mean(0).std() / tokens.std() > 0.3


@pytest.mark.parametrize("arch, pad_id", [("bert", 0), ("roberta", 1)])
def test_padding_changes_no_token_of_a_caption(arch, pad_id):
    encoder = TextEncoder(arch, 100, 16, 48, 2, 4, pad_id).eval()
    ids, real = torch.randint(5, 100, (2, 8)), torch.ones(2, 8).long()
    real[1, 5:] = 0
    tokens = encoder(ids, real)
    changed = encoder(torch.where(real.bool(), ids, 7), real)
    assert tokens.shape == (2, 8, 48)
    torch.testing.assert_close(tokens[1, :5], changed[1, :5])


@pytest.mark.parametrize("arch, pad_id", [("bert", 0), ("roberta", 1)])
def test_word_positions_are_as_large_as_word_embeddings(arch, pad_id):
    tables = TextEncoder(arch, 100, 16, 48, 2, 4, pad_id).model.embeddings
    size = tables.position_embeddings.weight.square().mean().sqrt()
    torch.testing.assert_close(size, tables.word_embeddings.weight.std())


def test_an_unknown_architecture_is_refused():
    with pytest.raises(UserError, match="arch 'abacus' is no text encoder of transformers"):
        TextEncoder("abacus", 100, 16, 48, 2, 4)
