"Every architecture of text encoders that can be chosen: a row alone and beside longer ones, in fp32 and bf16; the others are refused in one line."

import json

import pytest
import torch
from samples import one_sentence

from mvl_bench.core import UserError, data_path
from mvl_bench.models.encoders import TextEncoder
from mvl_bench.models.pretrained import NamedText

LONGEST, WORDS = 24, 60
TESTED = json.loads(data_path("results", "encoders.json").read_text())["text"]  # the docs show this list
BY_NAME, BY_CONFIG, REFUSED = TESTED["by_arch"], TESTED["by_hf_model"], TESTED["refused"]
FP32_ONLY = TESTED["fp32_only"]
SIZES = dict(
    vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=40, pad_token_id=1, type_vocab_size=1,
)  # fmt: skip
OTHER_NAMES = dict(
    distilbert=dict(dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=40),
    longformer=dict(attention_window=[8, 8]),
    modernbert=dict(global_attn_every_n_layers=1, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3),
    albert=dict(embedding_size=32),
    electra=dict(embedding_size=32),
    roformer=dict(embedding_size=32),
    squeezebert=dict(embedding_size=32),
    mobilebert=dict(embedding_size=32, intra_bottleneck_size=16, true_hidden_size=16),
    esm=dict(position_embedding_type="absolute"),
)  # fmt: skip


def by_config(arch):
    torch.manual_seed(0)
    config = SIZES | OTHER_NAMES.get(arch, {}) | dict(model_type=arch)
    return NamedText(json.dumps(config), LONGEST, 32).eval()


def by_name(arch, pad_id=0):
    torch.manual_seed(0)
    return TextEncoder(arch, WORDS, LONGEST, 32, 2, 2, pad_id).eval()


def rows(pad_id):
    "A short row alone, and beside a full one."
    ids = torch.randint(4, WORDS, (2, LONGEST), generator=torch.Generator().manual_seed(1))
    padded = ids.clone()
    padded[0, 6:] = pad_id
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return ids[:1, :6], padded, mask


CASES = [("name", arch) for arch in BY_NAME] + [("config", arch) for arch in BY_CONFIG]


@pytest.mark.parametrize("way, arch", CASES)
@pytest.mark.parametrize("bf16", [False, True])
def test_padding_changes_nothing(way, arch, bf16):
    if arch in FP32_ONLY and bf16:
        pytest.skip(f"{arch} of transformers overflows in bf16")
    encoder, pad_id = (by_name(arch), 0) if way == "name" else (by_config(arch), 1)
    short, padded, mask = rows(pad_id)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        alone = encoder(short, torch.ones_like(short)).float()
        beside = encoder(padded, mask)[:1, :6].float()
    tolerance = (0.03 if bf16 else 1e-5) * alone.std()
    assert torch.isfinite(alone).all() and (alone - beside).abs().max() < tolerance


@pytest.mark.parametrize("way, arch", CASES)
def test_one_training_step(way, arch):
    encoder = by_name(arch) if way == "name" else by_config(arch)  # without dropout
    _, padded, mask = rows(0 if way == "name" else 1)
    optimizer = torch.optim.SGD(encoder.parameters(), 1e-3)
    losses = []
    for _ in range(2):
        loss = (encoder(padded, mask) - 1).square()[mask.bool()].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("arch", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(arch):
    with pytest.raises(UserError) as caught:
        by_name(arch)
    one_sentence(caught, arch)
    assert len(str(caught.value)) <= 200


@pytest.mark.parametrize("arch", ["roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text"])
def test_positions_count_from_the_padding(arch):
    config = SIZES | dict(model_type=arch, max_position_embeddings=LONGEST + 2)
    assert NamedText(json.dumps(config), LONGEST, 32)
    with pytest.raises(UserError) as caught:
        NamedText(json.dumps(config), LONGEST + 1, 32)
    one_sentence(caught, str(LONGEST + 1), str(LONGEST))


def test_an_encoder_whose_convolutions_see_padding_is_refused():
    config = SIZES | dict(model_type="convbert", embedding_size=32, head_ratio=1)
    with pytest.raises(UserError) as caught:
        NamedText(json.dumps(config), LONGEST, 32)
    one_sentence(caught, "padding changes")
