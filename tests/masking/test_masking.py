"Every masking strategy: exact counts, rows that stand alone, names, and what older configs say."

import zlib
from dataclasses import replace

import pytest
import torch
from captions import KINDS, PIECES, config, pieces_batch

from mvl_bench.core import UserError, hashed_uniform, update
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.masking.base import Masking, mask_fraction
from mvl_bench.masking.joint import JOINT, PATCHES, WORDS, ModalityAware, any_ratios, build_masking
from mvl_bench.masking.text import table_of
from mvl_bench.models import registry as checkpoints
from mvl_bench.models.base import read_config
from mvl_bench.models.maskvlm import maskvlm_tiny
from mvl_bench.models.mlim import mlim_tiny

RATIOS = (0.0, 0.001, 0.1, 0.25, 0.3, 0.5, 0.6, 0.9, 0.99, 1.0)
RECORDED = [2841911108, 742369934, 1157792866, 742369934, 895891013]


def patch_hider(name, grid=(5, 7), square=1):
    "A patch strategy; what it looks at, if it asks for that, is noise of the sample."

    def hide(batch, ratio, key):
        size = grid[0] * grid[1]
        seen = dict(scores=hashed_uniform(("seen",), batch.ids, size)) if name == "score" else {}
        return PATCHES[name](batch.ids, grid, ratio, key, square, None, **seen)

    return hide


def word_hider(name):
    "A word strategy over pieces."
    return build_masking(config(text_strategy=name)).word_strategy


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
        dict.fromkeys(("image_ratio", "text_ratio", "mam_light_ratio"), ratio),
    )
    strategy = build_masking(config(joint_strategy=name, random_ratio_prob=1.0, **ratios))
    views = replace(strategy, random_ratio_prob=0.0, grid=(4, 6))(batch, (0, 1))
    assert type(strategy) is JOINT[name].kind and len(views) == (
        2 if name.startswith("alternating") else 1
    )
    squares = sum(v.image_mask.reshape(8, 4, 6)[:, ::2, ::2].sum((1, 2)) for v in views)
    words, there = sum(v.text_mask.sum(1) for v in views), batch.maskable.sum(1)
    one = [max(1, round(ratio * m)) if ratio else 0 for m in (6, *there.tolist())]
    if name in ("alternating", "joint"):
        assert squares.tolist() == [one[0]] * 8 and words.tolist() == one[1:]
    elif name == "mam":
        assert all(s in (0, one[0]) and w in (0, k) for s, w, k in zip(squares, words, one[1:]))
    elif name == "pooled":
        assert (squares + words).tolist() == [one[0] + k for k in one[1:]]
    elif name == "alternating_any_ratio":  # whatever the ratio
        shares = any_ratios(batch, 6, (ratio, ratio), (0, 1))
        for found, share, units in zip((squares, words), shares, (6, there)):
            assert found.equal((share * units).round().clamp_min(1).to(found))
    else:  # shares sum to twice the ratio, each rounded to whole units, one at least
        error = (squares / 6 + words / there - 2 * ratio).abs()
        assert (error <= 1 / 6 + 1 / there).all() and (ratio or not (squares + words).any())


def test_defaults_hide_as_they_did():
    for cfg, kind in ((maskvlm_tiny(), Masking), (mlim_tiny(), ModalityAware)):
        masking = cfg.build_masking()
        assert (
            type(masking) is kind
            and masking.ratio_sampler is masking.corrupt is masking.scorer is None
        )
        usual = (masking.patch_strategy, masking.word_strategy)
        assert usual == (PATCHES["random"], WORDS["random"])
    assert not maskvlm_tiny().build_masking().one_view and mlim_tiny().build_masking().one_view


def test_the_masks_of_a_preset_are_what_they_were():
    "Checksums of masks, written down before strategies had names."
    batch, told = collate([Scenes().pair(i) for i in range(16)], PIECES, 24), []
    for cfg in (maskvlm_tiny(), update(maskvlm_tiny(), object_mask_prob=0.0), mlim_tiny()):
        for v in cfg.build_masking()(batch, (3, 1)):
            parts = (v.image_mask, v.text_mask, v.has_image, v.has_text)
            told.append(zlib.crc32(torch.cat([part.flatten() for part in parts]).numpy().tobytes()))
            assert v.text_ids is None
    assert told == RECORDED


def test_names_are_refused_in_one_line_that_lists_them():
    for field, table in (("image", PATCHES), ("text", WORDS), ("joint", JOINT)):
        for cfg in (maskvlm_tiny(), mlim_tiny()):
            with pytest.raises(UserError) as told:
                update(cfg, **{f"{field}_strategy": "nonsense"})
            assert (
                str(told.value) == f"{field}_strategy 'nonsense' is not one of {', '.join(table)}"
            )
    batch = pieces_batch()
    for changes in (
        dict(image_strategy="score"),
        dict(text_strategy="content", token_kinds=""),
        dict(text_strategy="whole_word", token_kinds=""),
        dict(corruption_ratio=0.2, token_kinds=""),
    ):
        with pytest.raises(UserError, match="needs scores|token_kinds is empty"):
            config(**changes).build_masking()(batch, (0, 0))
    with pytest.raises(UserError, match="cross_depth 0"):
        config(image_strategy="score", cross_depth=0)


def test_a_config_of_another_version_is_refused_by_name():
    for model in ("maskvlm", "mlim"):
        with pytest.raises(UserError, match="has no field at_once"):
            read_config(checkpoints.MODELS[model][0].config, dict(at_once=False, embed_dim=32))
        with pytest.raises(UserError, match="MaskingConfig has no field vary"):
            read_config(checkpoints.MODELS[model][0].config, dict(masking=dict(vary=0.5)))
    assert checkpoints.load("maskvlm-tiny").cfg.masking.joint_strategy == "alternating"


def test_faults_are_found():
    batch, sound = pieces_batch(), word_hider("random")

    def by_place(batch, ratio, key):  # of the batch, not of the sample
        return sound(replace(batch, ids=torch.arange(len(batch))), ratio, key)

    def group_by_length(batch, ratio, key):  # ranks run over the padding, too
        chance = hashed_uniform((*key, "text"), batch.ids, batch.maskable.shape[1]).flip(1)
        return mask_fraction(chance, ratio, batch.maskable)

    def keyless(batch, ratio, key):
        return sound(batch, ratio, (0,))

    for fault in (by_place, group_by_length, keyless):
        with pytest.raises(AssertionError):
            check_rows_alone(fault, batch)
