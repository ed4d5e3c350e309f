"What every masking strategy promises; each check is shown failing on a planted fault."

from dataclasses import fields, replace

import pytest
import torch
from contract import (  # noqa: F401  fixtures among them
    ADAPTED,
    SMALL,
    SQUARE,
    TOKENIZER,
    check_finite,
    check_hidden_is_hidden,
    check_losses_agree,
    model,
    one_thread,
    pairs_of,
    small,
    some_batch,
)

from mvl_bench.core import UserError, by_hand, update, view
from mvl_bench.data.pairs import collate
from mvl_bench.masking.base import (
    Masking,
    random_squares,
    random_words,
)
from mvl_bench.masking.joint import JOINT, PATCHES, WORDS, ModalityAware, with_scores
from mvl_bench.models import registry as checkpoints

RATIOS = (0.0, 0.001, 0.25, 0.3, 0.5, 0.6, 0.99, 1.0)


def check_counts(hide, sizes):
    "Exactly the rounded share of every row's units, at least one above a ratio of 0."
    for ratio in RATIOS:
        expected = [max(1, round(ratio * m)) if ratio and m else 0 for m in sizes]
        assert hide(ratio).sum(1).tolist() == expected, f"ratio {ratio}"


def check_only_words(hide, batch):
    "Padding and special tokens are never hidden, not even at ratio 1."
    special = torch.tensor([TOKENIZER.pad_token_id, TOKENIZER.cls_token_id, TOKENIZER.sep_token_id])
    for ratio in RATIOS:
        assert not (
            hide(ratio) & (torch.isin(batch.input_ids, special) | (batch.attention_mask == 0))
        ).any()


def check_repeatable(strategy, batch):
    "A sample's views depend on the key and its id, not on its place, its neighbours or the calls before."
    order = torch.tensor([4, 0, 5, 3])
    for whole, some in zip(
        strategy(batch, (0, 1)), strategy(batch.rows(order), (0, 1)), strict=True
    ):
        for f in fields(whole):
            a, b = getattr(whole, f.name), getattr(some, f.name)
            assert (a is None and b is None) or a[order].equal(b), f.name
    other = strategy(batch, (0, 2))
    assert not all(a.image_mask.equal(b.image_mask) and a.text_mask.equal(b.text_mask)
                   for a, b in zip(strategy(batch, (0, 1)), other))  # fmt: skip


def check_views(strategy, batch, n, joint, masked_losses=("recon", "mlm")):
    "A tuple of views with what they claim: shapes, kinds, and nothing hidden of what is absent."
    views = strategy(batch, (0, 0))
    assert isinstance(views, tuple) and len(views) == (1 if joint else 2)
    for masks in views:
        assert masks.image_mask.shape == (len(batch), n) and masks.image_mask.dtype == torch.bool
        assert masks.text_mask.shape == batch.maskable.shape and masks.text_mask.dtype == torch.bool
        assert (masks.has_image <= batch.has_image).all() and (
            masks.has_text <= batch.has_text
        ).all()
        assert (masks.has_image | masks.has_text).all(), "both sides are absent"
        assert not (masks.image_mask & ~masks.has_image[:, None]).any()
        assert not (masks.text_mask & ~masks.has_text[:, None]).any()
        assert joint or not (masks.image_mask.any() and masks.text_mask.any())
    found = dict(recon=[v.image_mask for v in views], mlm=[v.text_mask for v in views])
    assert {name for name, masks in found.items() if any(m.any() for m in masks)} == {*masked_losses}


@pytest.mark.parametrize("grid, square", [((8, 8), 1), ((8, 8), 2), ((3, 4), 1), ((5, 7), 3)])
def test_squares_are_counted_exactly(grid, square):
    rows, columns = (-(-side // square) for side in grid)

    def hide(ratio):  # (b squares): each square is hidden as a whole, cut at the picture's edge
        mask = random_squares(torch.arange(20), grid, ratio, (0, 0), square).reshape(20, *grid)
        units = mask[:, ::square, ::square]
        again = units.repeat_interleave(square, 1).repeat_interleave(square, 2)
        assert again[:, : grid[0], : grid[1]].equal(mask)
        return units.flatten(1)

    check_counts(hide, [rows * columns] * 20)


def test_words_are_counted_exactly_and_only_words_hidden():
    batch = some_batch()

    def hide(ratio):
        return random_words(batch, ratio, (0, 0))

    check_counts(hide, batch.maskable.sum(1).tolist())
    check_only_words(hide, batch)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("modality_dropout", [0.0, 0.5, 1.0])
def test_strategies(joint, modality_dropout):
    batch = some_batch()
    strategy = Masking((3, 4), 2, one_view=joint, modality_dropout=modality_dropout)
    check_repeatable(strategy, batch)
    if not (joint and modality_dropout == 1.0):
        check_views(strategy, batch, 12, joint)
    pairs = [
        pairs_of()[0]._replace(image=None),
        pairs_of()[1]._replace(caption=None),
        *pairs_of()[2:],
    ]
    check_views(strategy, collate(pairs, TOKENIZER, 24), 12, joint)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("modality_dropout", [0.0, 0.5])
def test_modality_aware_masking(joint, modality_dropout):
    batch = some_batch()
    strategy = ModalityAware((3, 4), one_view=joint, modality_dropout=modality_dropout)
    check_repeatable(strategy, batch)
    check_views(strategy, batch, 12, joint)
    lacking = [p._replace(image=None) if i % 2 else p for i, p in enumerate(pairs_of())]
    check_views(strategy, collate(lacking, TOKENIZER, 24), 12, joint)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_a_ratio_outside_is_refused(ratio):
    batch = some_batch()
    for hide in (
        lambda: random_squares(batch.ids, (3, 4), ratio, (0,)),
        lambda: random_words(batch, ratio, (0,)),
        lambda: Masking((3, 4), image_ratio=ratio),
        lambda: Masking((3, 4), text_ratio=ratio),
        lambda: ModalityAware((3, 4), mam_light_ratio=ratio),
    ):
        with pytest.raises(UserError, match="between 0 and 1"):
            hide()


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_the_config_reaches_the_masking(name):
    cfg = small(name).cfg
    shared = {f.name for f in fields(cfg)} & {f.name for f in fields(Masking)} - {"grid"}
    for option in shared:
        assert getattr(update(cfg, **{option: 0.37}).build_masking(), option) == 0.37, option
    for image in PATCHES.keys() - ({"score"} if name in ADAPTED else set()):
        assert update(cfg, image_strategy=image).build_masking().patch_strategy is PATCHES[image]


NAMED = [(i, "random", "alternating") for i in PATCHES] + [("random", t, "joint") for t in WORDS]
NAMED += [("random", "random", j) for j in JOINT] + [("block", "content", "pooled")]
NAMED = {
    (name, i, *(("", "") if name == "vitmae" else rest))  # it hides no words
    for name in checkpoints.MODELS
    for i, *rest in NAMED
    if name not in ADAPTED or i != "score"
}


@pytest.mark.parametrize("name, image, text, joint", sorted(NAMED))
def test_strategies_by_name(name, image, text, joint, monkeypatch):
    monkeypatch.setitem(SMALL, "img_size", SQUARE.get(name, SMALL["img_size"]))
    words = dict(text_strategy=text, joint_strategy=joint, text_ratio=0.4, corruption_ratio=0.5)
    chosen = dict(
        image_strategy=image, image_ratio=0.5, random_ratio_prob=0.3, **(words if text else {})
    )
    batch, model = some_batch(), small(name, **chosen)
    cfg = update(model.cfg, modality_dropout=0.0) if text else model.cfg
    strategy = with_scores(cfg.build_masking(), model)
    check_repeatable(strategy, batch)
    views = strategy(batch, (0, 0))
    masked_losses = {"recon", "mlm"} if text else {"recon"}
    check_views(strategy, batch, model.num_patches, not joint.startswith("alternating"), masked_losses)
    for masks in views:
        assert not (masks.text_mask & ~batch.maskable).any()
    if text:
        shown = views[-1]  # kept and replaced words are asked for, all others shown as they are
        assert shown.text_ids[~shown.text_mask].equal(batch.input_ids[~shown.text_mask])
    check_finite(model, batch, views)
    check_losses_agree(model, batch, views)
    check_hidden_is_hidden(model, batch, views)


def test_faulty_masking_is_found():
    batch, sound = some_batch(), Masking((3, 4), 1)

    def by_lot(ratio):
        torch.manual_seed(0)
        return torch.rand(20, 64) < ratio

    def position(batch, key):
        torch.manual_seed(key[1])
        return (view(batch, 12, torch.rand(len(batch), 12) < 0.5, batch.maskable),)

    def absent_hidden(batch, key):
        masks = sound(batch, key)
        return replace(masks[0], has_image=masks[0].has_image & False), masks[1]

    def specials(ratio):
        return (batch.input_ids > -1) & (ratio > 0)

    for check in (
        lambda: check_counts(by_lot, [64] * 20),
        lambda: check_counts(
            lambda r: random_squares(batch.ids, (8, 8), r, (0,)) & (r > 0.1), [64] * 6
        ),
        lambda: check_only_words(specials, batch),
        lambda: check_repeatable(position, batch),
        lambda: check_repeatable(lambda batch, _: sound(batch, (0,)), batch),
        lambda: check_views(lambda *a: list(sound(*a)), batch, 12, False),
        lambda: check_views(absent_hidden, batch, 12, False),
    ):
        with pytest.raises(AssertionError):
            check()


def test_hand_made_views_name_what_is_not_there():
    batch = some_batch()
    masks = by_hand(batch, 12, [0, 11], [0, 1, 2])
    assert masks.image_mask[:, [0, 11]].all() and masks.image_mask.sum() == 2 * len(batch)
    assert not masks.text_mask[:, 0].any() and masks.text_mask[:, 1:3].all()
    for patches, words in (([12], []), ([-1], []), ([], [99])):
        with pytest.raises(UserError, match="is not in 0"):
            by_hand(batch, 12, patches, words)
