"Masks of tokens: which kind a token is, exact counts, spans of geometric length, and what replaces a token."

from dataclasses import replace

import pytest
import torch

from mvl_bench.core import Batch, UserError
from mvl_bench.data.tokenizers import encode, piece_tokenizer
from mvl_bench.masking.base import random_words
from mvl_bench.masking.text import (
    content_words,
    corrupt_tokens,
    known,
    spans,
    table_of,
    token_kinds,
    whole_words,
)

CAPTIONS = [
    "A snowboarder jumps over the snowdrift beside a wooden fence.",
    "Two skateboarders are sitting on the handrail of the stairs.",
    "The firefighter sprays water onto a burning farmhouse.",
    "A dog and a snowman.",
]
TRAINING_TEXT = [
    "a two the is are and of on onto over beside in dog fence stairs water wooden burning jumps sits sprays sitting .",
    "snow skate fire farm hand surfboarder wakeboarder keyboarder spindrift woman fireman gunfighter bullfighter",
    "guardrail monorail warehouse lighthouse treehouse dogs cats birds surfboarders wakeboarders keyboarders",
]
TOKENIZER = piece_tokenizer(TRAINING_TEXT * 9, 400)  # long words of the captions become pieces
KINDS = token_kinds(TOKENIZER)
PIECES, FUNCTIONS, SPECIAL = (table_of(KINDS, kind) for kind in ("piece", "function", "special"))
NONE = torch.zeros_like(PIECES)


def captions_batch(count=len(CAPTIONS), padding=0):
    "The captions without images, repeated up to `count`, with more padding on the right."
    ids, real, words = encode(TOKENIZER, CAPTIONS, 40)
    rows = torch.arange(count) % len(CAPTIONS)
    extra = torch.zeros(count, padding).long()
    columns = [torch.cat([x[rows], extra.to(x.dtype)], 1) for x in (ids, real, words)]
    yes, ids = torch.ones(count, dtype=torch.bool), torch.arange(count)
    return Batch(torch.zeros(count, 3, 8, 8), *columns, ids, ids, yes, yes)


@pytest.fixture(scope="module")
def batch():
    return captions_batch()


@pytest.fixture(scope="module")
def many():
    return captions_batch(4000)


@pytest.fixture(scope="module")
def long_spans():
    "Masks of 30 % in 2000 captions of 50 words, followed by padding."
    batch = captions_batch(2000, 40)
    maskable = torch.arange(batch.maskable.shape[1]).expand(2000, -1) < 50
    return spans(replace(batch, maskable=maskable), 0.3, (0, 0))


def runs(row):
    "Lengths of the runs of masked tokens in a row."
    return [len(run) for run in "".join("x" if masked else " " for masked in row).split()]


class WordStartVocabulary:
    "A vocabulary as of RoBERTa: `Ġ` stands before a token that starts a word."

    all_special_ids = (0, 1)

    def get_vocab(self):
        return {"<s>": 0, "</s>": 1, "Ġthe": 2, "Ġsnow": 3, "board": 4, ",": 5, "Ġof": 6}


def test_kinds_of_a_vocabulary_that_marks_word_starts():
    assert token_kinds(WordStartVocabulary()) == "ssfwpff"


def test_kinds_of_a_vocabulary_that_marks_pieces():
    assert KINDS[TOKENIZER.mask_token_id] == "s" and len(KINDS) == len(TOKENIZER)


def test_missing_kinds_are_refused():
    with pytest.raises(UserError, match="each piece token, and token_kinds is empty"):
        known(None, "piece")


def test_pieces_of_a_word_are_masked_together(many):
    mask = whole_words(many, 0.4, (0, 0), PIECES)
    continues = PIECES[many.input_ids] & many.maskable
    assert mask[:, 1:][continues[:, 1:]].equal(mask[:, :-1][continues[:, 1:]])


def test_whole_words_are_counted_exactly_and_alike(many):
    mask = whole_words(many, 0.4, (0, 0), PIECES)
    continues = PIECES[many.input_ids] & many.maskable
    words = (many.maskable & ~continues).sum(1)
    assert (mask & ~continues).sum(1).equal((0.4 * words).round().long())
    fraction = mask[::4].double().mean(0)[many.maskable[0]]
    assert (fraction - (0.4 * words[0]).round() / words[0]).abs().max() < 0.05


def test_whole_words_without_pieces_are_random_words(batch):
    assert whole_words(batch, 0.4, (0, 0), NONE).equal(random_words(batch, 0.4, (0, 0)))


def test_padding_does_not_change_whole_words(many):
    mask = whole_words(many, 0.4, (0, 0), PIECES)
    longer = whole_words(captions_batch(padding=6), 0.4, (0, 0), PIECES)
    assert longer[:, : mask.shape[1]].equal(mask[:4]) and not longer[:, mask.shape[1] :].any()


def test_span_lengths_are_geometric(long_spans):
    assert (long_spans.sum(1) == 15).all()
    lengths = [length for row in long_spans.tolist() for length in runs(row)]
    for length in (1, 2, 3, 4):  # the last span of a caption is cut, so a little shorter
        fraction = lengths.count(length) / len(lengths)
        assert abs(fraction - 0.4 * 0.6 ** (length - 1)) < 0.06


def test_spans_cover_the_ends_alike_and_the_middle_evenly(long_spans):
    fraction = long_spans.double().mean(0)[:50]
    assert (fraction - fraction.flip(0)).abs().max() < 0.06
    assert (fraction[5:45] - 0.3).abs().max() < 0.06


@pytest.mark.parametrize("ratio", (0, 0.01, 0.3, 0.6, 0.9, 1))
def test_spans_are_exact_and_independent_of_padding_and_other_rows(batch, ratio):
    mask = spans(batch, ratio, (0, 0))
    words = batch.maskable.sum(1).tolist()
    assert mask.sum(1).tolist() == [max(1, round(ratio * w)) if ratio else 0 for w in words]
    assert spans(captions_batch(padding=6), ratio, (0, 0))[:, : mask.shape[1]].equal(mask)
    assert spans(batch.rows([2]), ratio, (0, 0)).equal(mask[[2]])


def test_spans_have_fewer_gaps_than_random_tokens(many):
    starts = [
        mask.int().diff(dim=1).eq(1).sum() / many.maskable.sum()
        for mask in (spans(many, 0.4, (0, 0)), random_words(many, 0.4, (0, 0)))
    ]
    assert starts[0] < 0.8 * starts[1]


def test_function_words_are_masked_only_after_all_content_words(many):
    mask = content_words(many, 0.4, (0, 0), FUNCTIONS)
    last = FUNCTIONS[many.input_ids] & many.maskable
    content = many.maskable & ~last
    assert mask.sum(1).equal((0.4 * many.maskable.sum(1)).round().long())
    assert (mask & last).sum(1).equal((mask.sum(1) - content.sum(1)).clamp_min(0))
    fraction = mask[::4].double().mean(0)[content[0]]
    assert (fraction - fraction.mean()).abs().max() < 0.05  # content words all alike


def test_content_words_without_function_words_are_random_words(batch):
    assert content_words(batch, 0.4, (0, 0), NONE).equal(random_words(batch, 0.4, (0, 0)))


@pytest.fixture(scope="module")
def corrupted(many):
    "Masks of half of the tokens, and the token ids that a model receives."
    mask = random_words(many, 0.5, (0, 0))
    return mask, corrupt_tokens(many, mask, (0, 0), TOKENIZER.mask_token_id, SPECIAL)


def test_visible_tokens_are_never_replaced(many, corrupted):
    mask, inputs = corrupted
    assert inputs[~mask].equal(many.input_ids[~mask]) and not SPECIAL[inputs[mask]].all()


def test_masked_tokens_are_replaced_at_the_rates_of_bert(many, corrupted):
    mask, inputs = corrupted
    mask_id = TOKENIZER.mask_token_id
    assert abs((inputs == mask_id)[mask].double().mean() - 0.8) < 0.01
    assert abs((inputs == many.input_ids)[mask].double().mean() - 0.1) < 0.01
    assert not SPECIAL[inputs[mask & (inputs != mask_id)]].any()


def test_replacements_do_not_depend_on_other_rows(many, corrupted):
    mask, inputs = corrupted
    rows = [9, 4]
    again = corrupt_tokens(many.rows(rows), mask[rows], (0, 0), TOKENIZER.mask_token_id, SPECIAL)
    assert again.equal(inputs[rows])


def test_how_often_each_strategy_masks_each_token_of_a_caption(many):
    row = many.rows(torch.arange(0, 4000, 4))  # the first caption, a thousand times
    there = row.maskable[0]
    masks = (
        random_words(row, 0.4, (0, 0)),
        whole_words(row, 0.4, (0, 0), PIECES),
        spans(row, 0.4, (0, 0)),
        content_words(row, 0.4, (0, 0), FUNCTIONS),
    )
    fractions = torch.stack([mask.double().mean(0)[there] for mask in masks])
    assert (fractions.sum(1)[[0, 2, 3]] - round(0.4 * there.sum().item())).abs().max() < 1e-9
    assert (fractions[0] - fractions[0].mean()).abs().max() < 0.06  # random: all alike
    assert fractions[2, [0, -1]].max() < fractions[2, 4:-4].min()  # spans: the ends less often
    last = FUNCTIONS[row.input_ids[0][there]]
    assert fractions[3, last].max() == 0 and fractions[3, ~last].min() > 0.4
