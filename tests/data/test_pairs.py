"Pairs from real data: bad rows are named, streams keep their order, captions and items never change."

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from samples import COLOURS, SHARED, drawing, encoded, one_sentence, rows_of

from mvl_bench.core import Pair, UserError
from mvl_bench.data.formats import Table
from mvl_bench.data.loader import batches
from mvl_bench.data.pairs import (
    Pairs,
    StreamedPairs,
    collate,
    open_pairs,
    shuffled,
    windows,
)
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


# ---- twelve drawings: the third is cut in half, the eighth is the first again


DRAWN = [encoded(drawing((COLOURS * 2)[i], (96 + i, 96))) for i in range(12)]
DRAWN[2], DRAWN[7] = DRAWN[2][:100], DRAWN[0]
CAPTIONS = [[f"a {(COLOURS * 2)[i]} half {i}", f"number {i}"] for i in range(12)]
ROWS = Dataset.from_dict({"image": DRAWN, "captions": CAPTIONS})


@pytest.fixture
def toy():
    "The drawings by number."
    return Pairs(Table(ROWS, ("image", "captions"), Path()), "drawings", 48)


@pytest.fixture
def stream(toy):
    "The drawings as a stream of three shards."
    table = toy.table._replace(rows=ROWS.to_iterable_dataset(3))
    return StreamedPairs(table, "stream", 48, window=4)


def test_a_bad_row_has_always_the_same_replacement(toy):
    assert [toy.pair(i).id for i in range(12)] == list(range(12))
    assert len(toy) == 12 and toy.img_size == (48, 48) and [row for row, _ in toy.bad] == [2]
    assert toy.pair(2).id == 2 and toy.pair(2).item == toy.pair(9).item
    assert toy.pair(0).item == toy.pair(7).item != toy.pair(1).item


def test_every_caption_of_an_image_has_its_turn(toy):
    assert len({toy.pair(1, epoch).caption for epoch in range(9)}) == 2 == len(toy.all_captions(1))
    assert list(toy.captions(limit=3))[2] == CAPTIONS[1][0]
    assert all(toy.caption_at(i, 5) == toy.pair(i, 5).caption for i in (0, 1, 11))


def test_an_augmented_image_is_cropped_anew_in_every_epoch(toy):
    cropped = replace(toy, augment=True)
    assert (cropped.pair(4, 3).image == cropped.pair(4, 3).image).all()
    assert (cropped.pair(4, 3).image != cropped.pair(4, 2).image).any()


def test_a_shuffled_order_is_a_permutation_that_depends_on_the_key():
    assert sorted(shuffled(7, -1)) == list(range(7))
    assert (shuffled(99, 0, 1) != shuffled(99, 0, 2)).any()


def test_windows_keep_all_rows_in_order():
    assert [row for part in windows(range(107), 20) for row in part] == list(range(107))
    assert not list(windows([], 3))


def test_a_stream_continues_at_any_position(toy, stream):
    whole, rest = list(stream.pairs(1)), list(stream.pairs(1, start=7))
    assert [p.id for p in rest] == [p.id for p in whole[7:]] and stream.rows_seen == 12
    assert all((a.image == b.image).all() for a, b in zip(whole[7:], rest))
    assert len({p.id for p in whole}) == 12 and len(stream.bad) == 1
    assert set(stream.captions()) == set(toy.captions()) and len(stream.first(5)) == 5


def test_a_stream_continues_from_a_mark_as_from_the_beginning(stream):
    rest, draws = list(stream.pairs(1, start=7)), list(stream.drawn(1))
    for mark in (draws[0].mark, draws[7].mark):
        continued = [stream.take(draw) for draw in stream.drawn(1, 7, mark)]
        assert [p.id for p in continued] == [p.id for p in rest] and stream.rows_seen == 12
    differs = [stream.caption_at(draw) != pair.caption for draw, pair in zip(draws[7:], rest)]
    assert sum(differs) <= len(stream.bad)  # only a replacement has another caption


def test_a_folder_gives_all_its_pairs_and_names_the_broken_one(tmp_path):
    for i, (data, texts) in enumerate(zip(DRAWN, CAPTIONS)):
        (tmp_path / f"{i:02}.png").write_bytes(data)
        (tmp_path / f"{i:02}.txt").write_text("\n".join(texts))
    folder = open_pairs(tmp_path, (32, 64))
    pairs = [folder.pair(i) for i in range(len(folder))]
    assert len(folder) == 12 and pairs[0].image.shape == (32, 64, 3)
    assert len(folder.bad) == 1 and "02.png" in folder.report()


def test_parquet_gives_the_same_pairs_by_number_and_as_a_stream(toy, home):
    for shard in range(3):
        ROWS.shard(3, shard).to_parquet(f"{shard}.parquet")
    table, read = open_pairs("*.parquet", 48), open_pairs("*.parquet", 48, streaming=True)
    assert {p.item for p in read.pairs()} == {table.pair(i).item for i in range(12)}
    assert all((table.pair(i).image == toy.pair(i).image).all() for i in range(12))


def test_an_absent_image_or_caption_leaves_an_empty_row(toy):
    tokenizer = word_tokenizer(toy.captions())
    absent = [Pair(None, "a red half", 20, 20), Pair(toy.pair(0).image, "", 21, 21)]
    batch = collate([toy.pair(0), toy.pair(1), *absent], tokenizer, max_text_len=16)
    assert batch.images.max() <= 1 and batch.images[2].max() == 0 and batch.images[3].max() > 0.9
    assert batch.maskable[3].sum() == 0 and batch.attention_mask[3].sum() == 2  # [CLS] [SEP]
    assert batch.has_image.tolist() == [True, True, False, True] and batch.has_text[:3].all()
    assert collate(absent[:1], tokenizer, 16, img_size=8).images.shape == (1, 3, 8, 8)


def test_boxes_are_padded_to_the_longest_row(toy):
    tokenizer, pair = word_tokenizer(toy.captions()), toy.pair(0)
    boxed = pair._replace(boxes=np.array([[0.1, 0.2, 0.5, 0.6]]))
    assert collate([pair, toy.pair(1)], tokenizer, 16).boxes is None
    boxes = collate([boxed, toy.pair(1)], tokenizer, 16).boxes
    assert boxes.sum(2).gt(0).tolist() == [[True], [False]]
