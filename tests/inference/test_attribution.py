"Influence against single removals one by one; what cannot be seen has none; attention's gradient against nudges."

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvl_bench.core import Output, Pair, view
from mvl_bench.data.images import photograph, resize
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_chips
from mvl_bench.evaluation.attribution import score_influence
from mvl_bench.inference.attribution import (
    _across,
    _score,
    attention_gradient,
    deletion,
    influence,
    patch_to_words,
    quarters,
    views_of,
    word_to_patches,
)
from mvl_bench.inference.reconstruction import of_whole_words, reconstruct_pair
from mvl_bench.masking.base import without_image, without_text
from mvl_bench.models import layers
from mvl_bench.models.registry import load
from mvl_bench.patches import patchify

WORLD = Scenes("shapes", "val")
PAIR = WORLD.pair(9)  # a small yellow triangle at the top on a beige ground


@pytest.fixture(scope="module", params=["maskvlm-tiny", "mlim-tiny", "vilt-tiny"])
def model(request):
    torch.set_num_threads(1)
    return load(request.param)


@pytest.fixture(scope="module")
def maskvlm():
    torch.set_num_threads(1)
    return load("maskvlm-tiny")


@torch.inference_mode()
def alone(model, pair, patches, words):
    "Pixels (n p) and nats (t) of one view, asked for by itself."
    batch = collate([pair], model.tokenizer, model.cfg.text.max_text_len)
    masks = view(batch, model.num_patches, patches[None], words[None])
    made = model(batch, masks)
    said = made.word_logits[0].log_softmax(-1).gather(1, batch.input_ids[0, :, None])[:, 0]
    return None if made.pixels is None else made.pixels[0].clamp(0, 1), said


def with_one(mask, place):
    "The mask with one more hidden."
    more = mask.clone()
    more[place] = True
    return more


def test_four_masks_say_what_single_removals_say(model):
    found, n = influence(model, PAIR), model.num_patches
    batch = collate([PAIR], model.tokenizer, model.cfg.text.max_text_len)
    places = batch.maskable[0].nonzero().flatten().tolist()
    none = torch.zeros(batch.input_ids.shape[1], dtype=torch.bool)
    truth = patchify(batch.images, 8)[0]
    if found.to_patches is not None:
        for row in (2, 3):
            moved, helped = torch.zeros(n), torch.zeros(n)
            for shown in quarters((8, 8)):
                before, _ = alone(model, PAIR, ~shown, none)
                after, _ = alone(model, PAIR, ~shown, with_one(none, places[row]))
                worse = (after - truth).abs().mean(1) - (before - truth).abs().mean(1)
                moved += (after - before).abs().mean(1) * ~shown / 3
                helped += worse * ~shown / 3
            for ours, theirs in (
                (found.to_patches.moved, moved),
                (found.to_patches.helped, helped),
            ):
                assert np.abs(ours[row] - theirs.numpy()).max() < 1e-5
    rng = np.random.default_rng(0)
    strong = np.argwhere(found.to_words.moved > found.to_words.moved.max() / 4)[:6]
    for row, patch in [*strong, *zip(rng.integers(0, len(places), 6), rng.integers(0, n, 6))]:
        shown = next(q for q in quarters((8, 8)) if q[patch])
        words = none.clone()
        words[places[row % 4 :: 4]] = True
        _, before = alone(model, PAIR, ~shown, words)
        _, after = alone(model, PAIR, with_one(~shown, patch), words)
        fall = (before - after)[places[row]].item()
        assert abs(found.to_words.helped[row, patch] - fall) < 2e-3 * max(1, abs(fall))


def test_what_cannot_be_seen_has_no_influence(maskvlm):
    class Blind(type(maskvlm)):
        "A MaskVLM to which each side is shown alone."

        def forward(self, batch, masks, attention=False, requested=None):
            "Pixels without the caption, words without the picture."
            pixels = super().forward(batch, without_text(masks)).pixels
            words = super().forward(batch, without_image(masks)).word_logits
            return Output(pixels, words).only(requested)

    blind = load("maskvlm-tiny")
    blind.__class__ = Blind
    found, seen = influence(blind, PAIR), influence(maskvlm, PAIR)
    for way in ("to_patches", "to_words"):
        assert getattr(found, way).moved.max() < 1e-4 < 0.1 < getattr(seen, way).moved.max()
    masked = (~quarters((8, 8))[0]).nonzero().flatten().tolist()
    effect = word_to_patches(maskvlm, PAIR, masked, [3, 4])
    assert (effect.moved[[2, 3]][:, masked] == 0).all() and effect.moved[:, masked].max() > 0.01
    back = patch_to_words(maskvlm, PAIR, [3], masked)
    assert (back.moved[2, masked] == 0).all() and back.moved[2].max() > 0


def test_a_colour_words_strongest_patches_are_its_things_and_shuffled_ones_are_not(maskvlm):
    found = score_influence(maskvlm, WORLD, 12, deletions=False)
    for account in ("to_patches moved", "to_patches helped", "to_words helped"):
        figures = found["accounts"][account]
        assert figures["strongest"]["mean"] >= 0.9
        assert abs(figures["shuffled"]["mean"] - found["chance"]) < 0.2
        assert figures["top_k"]["mean"] > 3 * found["chance"]


@pytest.mark.parametrize("name", ["mlim-tiny", "vilt-tiny"])
def test_which_part_of_a_joint_attention_is_which(name):
    model = load(name)
    batch = collate([PAIR, WORLD.pair(1)], model.tokenizer, model.cfg.text.max_text_len)
    n, t = model.num_patches, batch.input_ids.shape[1]
    padded = batch.attention_mask == 0
    short = int(padded.any(1).nonzero()[0])
    weights = model(batch, view(batch, n), attention=True).attention
    for key, w in weights.items():
        looks = _across(key, w.mean(1), n, t, "to_patches")  # (b t n): patches look at words
        assert looks.shape == (2, t, n)
        assert (looks[short][padded[short]] == 0).all()  # nobody looks at padding
        assert (looks[short][~padded[short]] > 0).all()
    coded = torch.arange(w.shape[2])[:, None] * 1000 + torch.arange(w.shape[3])
    one, other = (_across(key, coded[None], n, t, way)[0] for way in ("to_patches", "to_words"))
    assert (one % 1000).equal(other // 1000) and (one // 1000).equal(other % 1000)


@pytest.mark.parametrize("way, first", [("to_patches", 0), ("to_words", 2)])
def test_the_gradient_of_attention_is_what_a_nudge_does(maskvlm, monkeypatch, way, first):
    batch = collate([PAIR], maskvlm.tokenizer, maskvlm.cfg.text.max_text_len)
    pieces = torch.eye(batch.maskable.shape[1], dtype=torch.bool)[batch.maskable[0]]
    patches, words = (m[:1] for m in views_of(pieces, (8, 8))[way])
    masks = view(batch, 64, patches, words)
    made = maskvlm(batch, masks, attention=True)
    score = _score(maskvlm, batch, masks, made, way)
    grad = torch.autograd.grad(score, list(made.attention.values()), allow_unused=True)[first]
    plain, calls = layers.attention_weights, []
    torch.manual_seed(0)
    nudge = torch.randn(grad.shape) * grad.abs().sqrt()  # where something can be seen of it

    def scored(size):
        "The score with the weights of one attention nudged."
        calls.clear()

        def nudged(*args):
            calls.append(0)
            weights = plain(*args)
            return weights + size * nudge if len(calls) == first + 1 else weights

        monkeypatch.setattr(layers, "attention_weights", nudged)
        with torch.no_grad():
            made = maskvlm(batch, masks, attention=True)
            return _score(maskvlm, batch, masks, made, way).item()

    slope = (scored(1e-2) - scored(-1e-2)) / 2e-2
    assert abs(slope - (grad * nudge).sum().item()) < 0.05 * abs(slope)


def test_attention_leaves_the_answer_as_it_is(model):
    batch = collate([PAIR, WORLD.pair(1)], model.tokenizer, model.cfg.text.max_text_len)
    masks = view(batch, 64, torch.rand(2, 64) < 0.5)
    with torch.no_grad():
        plain, asked = model(batch, masks), model(batch, masks, attention=True)
    torch.testing.assert_close(plain.word_logits, asked.word_logits, rtol=1e-4, atol=1e-4)
    looks = attention_gradient(model, PAIR)
    for table, part in ((looks.to_words, "words"), (looks.to_patches, "pixels")):
        assert (table is not None) == (part in model.offers)
        assert table is None or (table.shape == (len(looks.words), 64) and table.max() > 0)


def test_patches_taken_away_in_a_true_order_go_first(maskvlm):
    own = np.zeros(64)
    own[[3, 4, 11, 12, 2, 5]] = [6, 5, 4, 3, 2, 1]  # the triangle at the top
    curves = deletion(maskvlm, PAIR, 3, {"true": own, "false": -own}, levels=9)
    assert curves["true"][2] < curves["false"][2] and set(curves) == {"true", "false", "at random"}
    assert all(abs(c[0] - curves["true"][0]) < 1e-4 for c in curves.values())


def test_a_caption_that_is_absent_is_told_apart_from_one_that_is_hidden(maskvlm):
    "All words hidden is not no caption: the four masks never ask that."
    batch = collate([PAIR], maskvlm.tokenizer, maskvlm.cfg.text.max_text_len)
    pieces = torch.eye(batch.maskable.shape[1], dtype=torch.bool)[batch.maskable[0]]
    for patches, words in views_of(pieces, (8, 8)).values():
        assert (~patches).any(1).all() and (words.sum(1) < batch.maskable.sum()).all()
    assert replace(batch, ids=batch.ids + 7).images.equal(batch.images)


def test_a_word_of_several_pieces_is_one_word():
    "A rare word is hidden and measured whole: its row is what hiding all its pieces by hand gives."
    model, caption = load("maskvlm-flowers"), "a flower with zigzag petals"
    pair = Pair(np.asarray(resize(photograph("dahlia"), model.cfg.image.img_size)), caption, 0, 0)
    words = word_chips(model.tokenizer, caption, model.cfg.text.max_text_len)
    rare = words[3]
    assert [w.text for w in words] == caption.split() and len(rare.pieces) > 1
    masked = list(range(model.num_patches))
    shown, gone = (
        reconstruct_pair(model, pair, masked, places).columns["with"].raw
        for places in ((), rare.pieces)
    )
    row = word_to_patches(model, pair, masked).moved[3]
    by_hand_row = patchify(
        torch.tensor(np.abs(shown - gone)).permute(2, 0, 1)[None], model.cfg.image.patch_size
    )[0].mean(1)
    assert np.allclose(row, by_hand_row.numpy(), atol=1e-5)
    back = patch_to_words(model, pair, list(rare.pieces))
    assert np.isfinite(back.moved[3]).all() and np.isnan(back.moved[[0, 1, 2, 4]]).all()
    column = reconstruct_pair(model, pair, (), rare.pieces).columns["with"]
    (guess,) = of_whole_words(column.tokens, [w.pieces for w in words])
    assert guess.truth == "zigzag" and guess.position == rare.position
    chances = [token.probability for token in column.tokens]
    assert len(chances) == len(rare.pieces) and np.isclose(guess.probability, np.prod(chances))
