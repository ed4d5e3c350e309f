"Every masking strategy: exact counts, rows that stand alone, names, and what older configs say."

import zlib
from dataclasses import replace

import pytest
import torch
from captions import KINDS, PIECES, config, pieces_batch

from mvl_bench.core import UserError, noise
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.masking.base import Masking, hide_share
from mvl_bench.masking.joint import JOINT, PATCHES, WORDS, ModalityAware, any_shares, masking_of
from mvl_bench.masking.text import table_of
from mvl_bench.models import checkpoints
from mvl_bench.models.base import read_config
from mvl_bench.models.maskvlm import maskvlm_tiny
from mvl_bench.models.mlim import mlim_tiny

RATIOS = (0.0, 0.001, 0.1, 0.25, 0.3, 0.5, 0.6, 0.9, 0.99, 1.0)
RECORDED = [2841911108, 742369934, 1157792866, 742369934, 895891013]


def patch_hider(name, grid=(5, 7), square=1):
    "A patch strategy; what it looks at, if it asks for that, is noise of the sample."

    def hide(batch, ratio, key):
        size = grid[0] * grid[1]
        seen = dict(scores=noise(("seen",), batch.ids, size)) if name == "score" else {}
        return PATCHES[name](batch.ids, grid, ratio, key, square, None, **seen)

    return hide


def word_hider(name):
    "A word strategy over pieces."
    return masking_of(config(text_masking=name)).hide_words


def first_pieces(batch):
    "(b t) bool, the first piece of every word."
    follows = torch.zeros_like(batch.maskable)
    follows[:, 1:] = batch.maskable[:, :-1]
    return batch.maskable & ~(table_of(KINDS, "piece")[batch.input_ids] & follows)


def check_counts(hide, sizes):
    "Exactly the rounded share of every row's units, at least one above a ratio of 0."
    for ratio in RATIOS:
        expected = [max(1, round(ratio * m)) if ratio and m else 0 for m in sizes]
        assert hide(ratio).sum(1).tolist() == expected, f"ratio {ratio}"


def check_rows_alone(hide, batch):
    "A row is hidden alike alone, in another order, and with more padding behind; another key hides others."
    longer, t = pieces_batch(len(batch), 9), batch.maskable.shape[1]
    for ratio in RATIOS:
        whole = hide(batch, ratio, (0, 1))
        assert whole.dtype == torch.bool and hide(batch, ratio, (0, 1)).equal(whole)
        for rows in ([5], [6, 2, 7]):
            assert hide(batch.rows(rows), ratio, (0, 1)).equal(whole[rows]), f"ratio {ratio}"
        padded = hide(longer, ratio, (0, 1))
        assert padded[:, : whole.shape[1]].equal(whole), f"padding, ratio {ratio}"
        assert whole.shape[1] != t or not padded[:, t:].any()
        if 0.1 <= ratio <= 0.6:
            assert not hide(batch, ratio, (0, 2)).equal(whole), f"key, ratio {ratio}"
    each = torch.linspace(0, 1, len(batch))  # every row its own ratio
    for row, mask in enumerate(hide(batch, each, (0, 1))):
        assert hide(batch.rows([row]), each[row].item(), (0, 1))[0].equal(mask)


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("grid, square", [((5, 7), 1), ((5, 7), 3), ((8, 8), 2)])
def test_every_patch_strategy(name, grid, square):
    batch, hide = pieces_batch(), patch_hider(name, grid, square)
    rows, columns = (-(-side // square) for side in grid)

    def units(ratio):
        mask = hide(batch, ratio, (0, 1)).reshape(8, *grid)
        whole = mask[:, ::square, ::square]
        again = whole.repeat_interleave(square, 1).repeat_interleave(square, 2)
        assert again[:, : grid[0], : grid[1]].equal(mask)  # squares are whole
        return whole.flatten(1)

    check_counts(units, [rows * columns] * 8)
    check_rows_alone(hide, batch)


@pytest.mark.parametrize("name", WORDS)
def test_every_word_strategy(name):
    batch, hide = pieces_batch(), word_hider(name)
    unit = first_pieces(batch) if name == "whole_word" else batch.maskable
    check_counts(lambda ratio: hide(batch, ratio, (0, 1)) & unit, unit.sum(1).tolist())
    for ratio in RATIOS:
        assert not (hide(batch, ratio, (0, 1)) & ~batch.maskable).any()
    check_rows_alone(hide, batch)


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("ratio", (0.0, 0.01, 0.1, 0.3, 0.6, 0.9, 1.0))
def test_every_joint_strategy(name, ratio):
    batch, ratios = (
        pieces_batch(),
        dict.fromkeys(("image_ratio", "text_ratio", "light_ratio"), ratio),
    )
    strategy = masking_of(config(joint_masking=name, vary=1.0, **ratios))
    views = replace(strategy, vary=0.0, grid=(4, 6))(batch, (0, 1))
    assert type(strategy) is JOINT[name].kind and len(views) == (2 if name in ("one", "any") else 1)
    squares = sum(v.image_mask.reshape(8, 4, 6)[:, ::2, ::2].sum((1, 2)) for v in views)
    words, there = sum(v.text_mask.sum(1) for v in views), batch.maskable.sum(1)
    one = [max(1, round(ratio * m)) if ratio else 0 for m in (6, *there.tolist())]
    if name in ("one", "both"):
        assert squares.tolist() == [one[0]] * 8 and words.tolist() == one[1:]
    elif name == "mam":
        assert all(s in (0, one[0]) and w in (0, k) for s, w, k in zip(squares, words, one[1:]))
    elif name == "uniform":
        assert (squares + words).tolist() == [one[0] + k for k in one[1:]]
    elif name == "any":  # whatever the ratio
        shares = any_shares(batch, 6, (ratio, ratio), (0, 1))
        for found, share, units in zip((squares, words), shares, (6, there)):
            assert found.equal((share * units).round().clamp_min(1).to(found))
    else:  # shares sum to twice the ratio, each rounded to whole units, one at least
        error = (squares / 6 + words / there - 2 * ratio).abs()
        assert (error <= 1 / 6 + 1 / there).all() and (ratio or not (squares + words).any())


def test_defaults_hide_as_they_did():
    for cfg, kind in ((maskvlm_tiny(), Masking), (mlim_tiny(), ModalityAware)):
        masking = cfg.masking()
        assert type(masking) is kind and masking.share is masking.disguise is masking.scorer is None
        usual = (masking.hide_patches, masking.hide_words)
        assert usual == (PATCHES["random"], WORDS["random"])
    assert not maskvlm_tiny().masking().at_once and mlim_tiny().masking().at_once


def test_the_masks_of_a_preset_are_what_they_were():
    "Checksums of masks, written down before strategies had names."
    batch, told = collate([Scenes().pair(i) for i in range(16)], PIECES, 24), []
    for cfg in (maskvlm_tiny(), replace(maskvlm_tiny(), box_ratio=0.0), mlim_tiny()):
        for v in cfg.masking()(batch, (3, 1)):
            parts = (v.image_mask, v.text_mask, v.has_image, v.has_text)
            told.append(zlib.crc32(torch.cat([part.flatten() for part in parts]).numpy().tobytes()))
            assert v.text_ids is None
    assert told == RECORDED


def test_names_are_refused_in_one_line_that_lists_them():
    for field, table in (("image", PATCHES), ("text", WORDS), ("joint", JOINT)):
        for cfg in (maskvlm_tiny(), mlim_tiny()):
            with pytest.raises(UserError) as told:
                replace(cfg, **{f"{field}_masking": "nonsense"})
            assert str(told.value) == f"{field}_masking 'nonsense' is not one of {', '.join(table)}"
    batch = pieces_batch()
    for changes in (
        dict(image_masking="score"),
        dict(text_masking="content", token_kinds=""),
        dict(text_masking="whole_word", token_kinds=""),
        dict(disguise_ratio=0.2, token_kinds=""),
    ):
        with pytest.raises(UserError, match="needs scores|token_kinds is empty"):
            config(**changes).masking()(batch, (0, 0))
    with pytest.raises(UserError, match="cross_depth 0"):
        config(image_masking="score", cross_depth=0)


def test_configs_of_older_checkpoints_load():
    for model, old, joint in (
        ("maskvlm", dict(at_once=False), "one"),
        ("maskvlm", dict(at_once=True), "both"),
        ("mlim", dict(aware=False), "both"),
        ("mlim", dict(aware=True), "mam"),
    ):
        config_of = checkpoints.MODELS[model][0].config
        cfg = read_config(config_of, dict(old, img_size=[32, 32], image_ratio=0.5))
        assert cfg.joint_masking == joint and cfg.masking().at_once == (joint != "one")
    assert checkpoints.load("maskvlm-tiny").cfg.joint_masking == "one"


def test_faults_are_found():
    batch, sound = pieces_batch(), word_hider("random")

    def by_place(batch, ratio, key):  # of the batch, not of the sample
        return sound(replace(batch, ids=torch.arange(len(batch))), ratio, key)

    def by_length(batch, ratio, key):  # ranks run over the padding, too
        chance = noise((*key, "text"), batch.ids, batch.maskable.shape[1]).flip(1)
        return hide_share(chance, ratio, batch.maskable)

    def keyless(batch, ratio, key):
        return sound(batch, ratio, (0,))

    for fault in (by_place, by_length, keyless):
        with pytest.raises(AssertionError):
            check_rows_alone(fault, batch)
