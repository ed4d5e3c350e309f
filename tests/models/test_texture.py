"What no paper has: the texture loss and the refinement are off by default, reach their weights, and see nothing hidden."

import pytest
import torch
from contract import TOKENIZER, one_thread, pairs_of, small  # noqa: F401  one_thread is a fixture

from mvl_bench.core import UserError, by_hand, update
from mvl_bench.data.pairs import collate
from mvl_bench.models.maskvlm import maskvlm_tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def test_off_by_default_and_refused_without_pixels():
    cfg = maskvlm_tiny()
    assert not cfg.losses.texture and not cfg.refine_width and "texture" not in cfg.losses.weights
    with pytest.raises(UserError, match="losses.texture"):
        update(cfg, texture=1.0, recon=0.0)
    with pytest.raises(UserError, match="texture"):
        update(cfg, texture=-1.0)


def test_gradients_reach_the_refinement_and_the_decoder():
    model = small(texture=2.0, refine_width=4).train()
    batch = collate(pairs_of(), TOKENIZER, 24)
    views = model.cfg.build_masking()(batch, (0, 0))
    losses = model.losses(batch, views, model.cfg.step_key(0, 10**6))
    masked = sum(int(v.image_mask.any(1).sum()) for v in views)
    assert losses.counts["texture"] == masked > 0 and losses.parts["texture"] > 0
    losses.parts["texture"].backward()
    reached = {
        n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert {"refiner", "to_pixels"} <= reached
    again = model.losses(batch, views, model.cfg.step_key(0, 10**6))
    assert again.parts["texture"].equal(losses.parts["texture"])  # the same key, the same windows
    early = model.losses(batch, views, model.cfg.step_key(0, 0))
    assert "texture" not in early.parts  # while the whole picture is hidden, squares only


def test_the_refinement_sees_nothing_hidden_and_changes_nothing_visible():
    model = small(refine_width=4)
    torch.nn.init.normal_(model.refiner.end.weight)
    batch = collate(pairs_of(), TOKENIZER, 24)
    masks = by_hand(batch, model.num_patches, range(0, model.num_patches, 2))
    plain = model(batch, masks).pixels
    changed = collate(
        [p._replace(image=_hide(model, p.image, masks)) for p in pairs_of()], TOKENIZER, 24
    )
    assert (model(changed, masks).pixels - plain).abs().max() < 1e-5
    torch.nn.init.zeros_(model.refiner.end.weight)
    raw = model(batch, masks).pixels
    visible = ~masks.image_mask
    assert raw[visible].equal(plain[visible])
    assert not torch.allclose(raw[masks.image_mask], plain[masks.image_mask])


def _hide(model, image, masks):
    "Return an image with other pixels in its hidden patches."
    side, columns = model.cfg.image.patch_size, model.cfg.image.grid[1]
    changed = image.copy()
    for patch in masks.image_mask[0].nonzero().flatten().tolist():
        y, x = patch // columns * side, patch % columns * side
        changed[y : y + side, x : x + side] = 255 - changed[y : y + side, x : x + side]
    return changed
