"What the tests of masking share: captions in pieces, captions of so many words, a config that knows its tokens."

from dataclasses import replace

import torch

from mvl_bench.core import update
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import piece_tokenizer
from mvl_bench.masking.text import token_kinds
from mvl_bench.models.maskvlm import maskvlm_tiny

WORLD = Scenes("shapes", img_size=32)
PIECES = piece_tokenizer(WORLD.captions(50), 60)  # so few that most words come in pieces
KINDS = token_kinds(PIECES)


def pieces_batch(count=8, extra=0):
    "Captions in pieces, with more padding behind if asked for."
    batch = collate([WORLD.pair(i) for i in range(count)], PIECES, 60)
    names = ("input_ids", "attention_mask", "maskable")
    wide = {n: torch.nn.functional.pad(getattr(batch, n), (0, extra)) for n in names}
    return replace(batch, **wide)


def words_batch(count, words):
    "Many captions of so many one-piece words."
    row = pieces_batch(1)
    t = torch.arange(words + 2)
    maskable = ((t > 0) & (t <= words)).expand(count, -1)
    ids = torch.arange(10, 12 + words).expand(count, -1)
    batch = row.rows(torch.zeros(count, dtype=torch.long))
    return replace(batch, input_ids=ids, attention_mask=maskable.long(), maskable=maskable,
                   ids=torch.arange(count))  # fmt: skip


def config(**changes):
    "A small config that knows its tokens."
    known = dict(vocab_size=len(PIECES), mask_id=PIECES.mask_token_id, token_kinds=KINDS)
    usual = dict(random_ratio_prob=0.0, object_mask_prob=0.0, modality_dropout=0.0)
    return update(maskvlm_tiny(), **{**known, **usual, **changes})
