"Networks of timm by name: one forward and one training step, or one line why not."

import json

import pytest
import torch
from contract import word_tokenizer
from samples import one_sentence

from mvl_bench.core import UserError, data_path, update
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.masking.joint import build_masking
from mvl_bench.models.losses import weigh
from mvl_bench.models.maskvlm import MaskVLM, MaskVLMConfig

SCENES = Scenes(img_size=(64, 64))
TOKENIZER = word_tokenizer(SCENES.captions(200))
BATCH = collate([SCENES.pair(i) for i in range(4)], TOKENIZER, 24)
SIZES = dict(
    img_size=(64, 64), max_text_len=24, vocab_size=len(TOKENIZER), embed_dim=32, num_heads=2, text_depth=1,
    cross_depth=1, decoder_depth=1,
)  # fmt: skip
TESTED = json.loads(data_path("results", "encoders.json").read_text())["image"]  # the docs show this list
WORKS, REFUSED = TESTED["works"], TESTED["refused"]


def built(name, patch_size, way):
    torch.manual_seed(0)
    own = dict(timm_model=name, patch_size=patch_size, mask_size=patch_size, mask_token_at=way)
    return MaskVLM(update(MaskVLMConfig(), **SIZES, **own))


@pytest.mark.parametrize("name, patch_size, way", WORKS)
def test_a_training_step(name, patch_size, way):
    model = built(name, patch_size, way).train()
    losses = model.losses(BATCH, build_masking(model.cfg)(BATCH, (0, 0))).parts
    assert all(torch.isfinite(loss) for loss in losses.values())
    weigh(losses, model.cfg.losses.weights).backward()
    gradients = [p.grad for p in model.image_encoder.backbone.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(grad).all() for grad in gradients)
    assert max(grad.abs().max() for grad in gradients) > 0


@pytest.mark.parametrize("name, patch_size, way, word", REFUSED)
def test_refused_in_one_line(name, patch_size, way, word):
    with pytest.raises(UserError) as caught:
        built(name, patch_size, way)
    one_sentence(caught, word)
    assert len(str(caught.value)) <= 200
