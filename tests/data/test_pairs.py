"Pairs from real data: bad rows are named, streams keep their order, captions and items never change."

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from samples import SHARED, drawing, encoded, one_sentence, rows_of

from mvl_bench.core import Pair, UserError
from mvl_bench.data.loader import batches
from mvl_bench.data.pairs import collate, open_pairs
from mvl_bench.data.tokenizers import word_tokenizer


def test_five_percent_broken_rows_are_named_and_training_goes_on(home):
    broken = {3, 40, 41, 77, 99}
    rows_of(100, broken).to_parquet("b.parquet")
    pairs, whole = (
        open_pairs("b.parquet", 16),
        rows_of(100).to_parquet("w.parquet") and open_pairs("w.parquet", 16),
    )
    tokenizer = word_tokenizer(pairs.captions())
    seen = [batch for batch, _ in islice(batches(pairs, tokenizer, 10), 10)]
    assert {row for row, _ in pairs.bad} == broken and "row 40" in pairs.report()
    assert sorted(torch.cat([batch.ids for batch in seen]).tolist()) == list(range(100))
    again = open_pairs("b.parquet", 16)
    for i in (99, 3, 41, 40, 77):  # in any order, with or without knowing the others
        a, b = pairs.pair(i, 2), again.pair(i, 2)
        assert a.id == i and a.item == b.item and a.caption == b.caption
    for i in sorted(set(range(100)) - broken):
        assert (pairs.pair(i, 1).image == whole.pair(i, 1).image).all()
        assert pairs.pair(i, 1)[1:] == whole.pair(i, 1)[1:]


def test_nothing_readable_is_told_at_once(home):
    rows_of(30, range(30)).to_parquet("b.parquet")
    with pytest.raises(UserError) as caught:
        open_pairs("b.parquet", 16)
    one_sentence(caught, "b.parquet", "no readable pair", "row 0")
    with pytest.raises(UserError, match="no readable pair"):
        list(open_pairs("b.parquet", 16, streaming=True).pairs())


def test_a_stream_is_the_same_set_in_an_order_that_resumes(home):
    for shard in range(4):
        rows_of(50, {7}).select(range(shard, 50, 4)).to_parquet(f"s-{shard}.parquet")
    stream = open_pairs("s-*.parquet", 16, seed=3, streaming=True)
    stream.window = 8
    first, second = list(stream.pairs(0)), list(stream.pairs(1))
    assert len({p.id for p in first}) == len(first) == 50 == stream.rows_seen
    assert {p.id for p in first} == {p.id for p in second}
    assert [p.id for p in first] != [p.id for p in second]
    assert len(stream.bad) == 1 and "of shard 3" in stream.report()
    for start in (0, 1, 7, 8, 31, 41, 49, 50, 80):
        fresh = open_pairs("s-*.parquet", 16, seed=3, streaming=True)
        fresh.window = 8
        rest = list(fresh.pairs(1, start))
        assert [p.id for p in rest] == [p.id for p in second[start:]]
        assert [p.caption for p in rest] == [p.caption for p in second[start:]]
        assert all((a.image == b.image).all() for a, b in zip(rest, second[start:]))


def test_a_shard_that_breaks_off_is_named(home):
    for shard in range(2):
        rows_of(400).to_parquet(f"s-{shard}.parquet", batch_size=50)
    data = bytearray(Path("s-1.parquet").read_bytes())
    data[2000 : len(data) // 2] = bytes(len(data) // 2 - 2000)
    Path("s-1.parquet").write_bytes(data)
    stream = open_pairs("s-*.parquet", 16, streaming=True)
    with pytest.raises(UserError, match="shard 1 of s-"):
        list(stream.pairs())


def test_captions_are_a_pure_function_of_seed_epoch_and_id(home):
    rows_of(40).to_parquet("c.parquet")
    one, two = open_pairs("c.parquet", 16, seed=5), open_pairs("c.parquet", 16, seed=5)
    forward = [one.pair(i, 3).caption for i in range(40)]
    assert forward == [two.pair(i, 3).caption for i in reversed(range(40))][::-1]
    assert forward != [one.pair(i, 4).caption for i in range(40)]
    assert forward != [open_pairs("c.parquet", 16, seed=6).pair(i, 3).caption for i in range(40)]


def test_the_same_picture_is_the_same_item(home):
    data = encoded(drawing())
    table = {"image": [data, encoded(drawing("blue")), data], "caption": ["a", "b", "c"]}
    Dataset.from_dict(table).to_parquet("i.parquet")
    items = [open_pairs("i.parquet", 16).pair(i).item for i in range(3)]
    assert items[0] == items[2] != items[1]
    assert torch.tensor(items).dtype == torch.int64 and min(items) >= 0


def test_collate_tells_what_is_absent():
    picture = np.full((8, 8, 3), 255, np.uint8)
    given = [Pair(picture, " ", 1, 1), Pair(None, "a b", 2, 2), Pair(picture, None, 3, 3)]
    batch = collate(given, word_tokenizer(["a b"]), 8)
    assert batch.has_image.tolist() == [True, False, True] and batch.images.dtype == torch.float32
    assert batch.has_text.tolist() == [False, True, False] and batch.maskable.sum(1).tolist() == [
        0,
        2,
        0,
    ]
    assert batch.images.amax((1, 2, 3)).tolist() == [1, 0, 1] and batch.images.is_contiguous()
    with pytest.raises(UserError, match="one size"):
        collate(
            [given[0], Pair(np.zeros((9, 8, 3), np.uint8), "a", 1, 1)], word_tokenizer(["a"]), 8
        )


def test_real_tables_without_one_picture_a_row_are_told():
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}")
    for spec in ("flickr8k_entailment/entailment.parquet", "fashion_60x80/pairs.parquet"):
        with pytest.raises(UserError, match="column"):
            open_pairs(str(SHARED / spec), 64)
