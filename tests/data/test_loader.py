"Steps know no past: batches, streams that resume, worker processes, broken rows, and the data sets at hand."

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.packaged_modules.parquet.parquet import Parquet
from PIL import Image
from samples import COLOURS, ROOT, SHARED, drawing, encoded, rows_of, write_tar

from mvl_bench.core import Pair, PairSource, UserError
from mvl_bench.data.formats import Table
from mvl_bench.data.loader import (
    Steps,
    ahead,
    batches,
    batches_of_bytes,
    first_pairs,
    like_lengths,
    mismatched,
    sample_ids,
    some_pairs,
    stream_chunks,
)
from mvl_bench.data.pairs import Pairs, StreamedPairs, open_pairs
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_tokenizer


def test_an_epoch_is_a_permutation_and_steps_know_no_past():
    for length, batch_size in ((100, 7), (64, 64), (5, 2), (1, 1)):
        per_epoch = length // batch_size
        for epoch in range(3):
            steps = [
                sample_ids(epoch * per_epoch + k, batch_size, length, 9) for k in range(per_epoch)
            ]
            ids = np.concatenate([ids for ids, _ in steps])
            assert len(set(ids.tolist())) == len(ids) and ids.max() < length
            assert {e for _, e in steps} == {epoch}
    assert (sample_ids(123, 7, 100, 9)[0] == sample_ids(123, 7, 100, 9)[0]).all()
    assert (sample_ids(0, 50, 100, 1)[0] != sample_ids(0, 50, 100, 2)[0]).any()
    assert (sample_ids(0, 50, 100, 1)[0] != sample_ids(2, 50, 100, 1)[0]).any()
    assert sample_ids(7, 3, None)[0].tolist() == [21, 22, 23]
    for batch_size in (0, 101):
        with pytest.raises(UserError, match=f"batch_size {batch_size}"):
            sample_ids(0, batch_size, 100)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(home, workers):
    rows_of(30, {4}).to_parquet("w.parquet")
    pairs = open_pairs("w.parquet", (16, 24))
    tokenizer = word_tokenizer(pairs.captions())
    alone = islice(batches(pairs, tokenizer, 4, start=5), 12)
    helped = islice(
        batches(open_pairs("w.parquet", (16, 24)), tokenizer, 4, start=5, workers=workers), 12
    )
    for (a, first), (b, second) in zip(alone, helped, strict=True):
        assert first == second and a.images.equal(b.images) and a.input_ids.equal(b.input_ids)
        assert a.ids.equal(b.ids) and a.item.equal(b.item) and a.images.shape == (4, 3, 16, 24)


class Sour(PairSource):
    "Data of which sample 9 cannot be read."

    name, bad = "sour", ()

    def __init__(self, error):
        self.error = error

    def pair(self, i, epoch):
        if i == 9:
            if isinstance(self.error, int):
                os.kill(os.getpid(), self.error)
            raise self.error
        return Pair(np.zeros((8, 8, 3), np.uint8), "a", i, i)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [OSError("disk gone"), UserError("disk gone")])
def test_an_error_comes_out_where_it_belongs(workers, error):
    stream = batches(Sour(error), word_tokenizer(["a"]), 2, workers=workers)
    assert [next(stream)[0].ids[0].item() for _ in range(4)] == [0, 2, 4, 6]
    with pytest.raises(type(error), match="disk gone") as found:
        next(stream)
    assert isinstance(error, OSError) or str(found.value) == "disk gone"  # one line


def test_a_killed_worker_is_one_line():
    stream = batches(Sour(int(signal.SIGKILL)), word_tokenizer(["a"]), 2, workers=1)
    with pytest.raises(UserError, match="workers 1: a process that prepares batches is gone .*try fewer"):
        list(stream)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_workers_end_with_the_process_that_trains():
    code = """
import os, signal
from mvl_bench.data.loader import batches
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_tokenizer
stream = batches(Scenes("shapes"), word_tokenizer(["a"]), 4, workers=1)
next(stream)
import multiprocessing
print(multiprocessing.active_children()[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 20
    while Path(f"/proc/{int(done.stdout)}").exists():
        assert time.monotonic() < until, "the worker goes on"
        time.sleep(0.1)


def test_data_that_cannot_be_sent_is_one_line():
    source = Sour(OSError())
    source.caption = lambda: "a"
    with pytest.raises(UserError, match="workers 1: this data cannot be sent .*set workers to 0"):
        next(batches(source, word_tokenizer(["a"]), 2, workers=1))


def test_rows_that_a_worker_cannot_read_are_noted(home):
    rows_of(30, {4, 7}).to_parquet("w.parquet")
    noted = []
    for workers in (0, 2):
        pairs = open_pairs("w.parquet", 16)
        list(islice(batches(pairs, word_tokenizer(["a"]), 10, workers=workers), 3))
        noted.append(pairs.bad)
    assert noted[0] == noted[1] and [row for row, _ in noted[0]] == [4, 7]


def test_pixels_stay_bytes_until_they_are_scaled(home):
    rows_of(8).to_parquet("w.parquet")
    pairs = open_pairs("w.parquet", 16)
    tokenizer = word_tokenizer(["a"])
    whole, _ = next(batches(pairs, tokenizer, 4))
    small, _ = next(batches_of_bytes(Steps(pairs, tokenizer, 4)))
    assert small.images.dtype == torch.uint8 and small.scaled().images.equal(whole.images)
    assert whole.images.dtype == torch.float32 and whole.scaled() is whole and 0.5 < whole.images.max() <= 1


def test_batches_of_a_stream_resume_in_any_epoch(home):
    for shard in range(3):
        rows_of(30).select(range(shard, 30, 3)).to_parquet(f"s-{shard}.parquet")
    stream = open_pairs("s-*.parquet", 16, streaming=True)
    tokenizer = word_tokenizer(stream.captions())
    steps = list(islice(batches(stream, tokenizer, 7), 10))
    assert [epoch for _, epoch in steps] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    for start in (1, 4, 9):
        fresh = open_pairs("s-*.parquet", 16, streaming=True)
        batch, epoch = next(batches(fresh, tokenizer, 7, start=start, workers=2))
        assert batch.ids.equal(steps[start][0].ids) and epoch == steps[start][1]
        assert batch.images.equal(steps[start][0].images)
    with pytest.raises(UserError, match="batch_size 31"):
        next(batches(stream, tokenizer, 31))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ending", ["pass", "raise KeyError"])
def test_a_half_read_stream_lets_the_process_end(home, ending, workers):
    for shard in range(3):
        rows_of(40).to_parquet(f"s-{shard}.parquet")
    code = f"""
from mvl_bench.data.loader import batches
from mvl_bench.data.pairs import open_pairs
from mvl_bench.data.tokenizers import word_tokenizer
source = open_pairs({str(home / "s-*.parquet")!r}, 16, streaming=True)
source.window = 4
stream = batches(source, word_tokenizer(["a"]), 4, workers={workers})
next(stream)
{ending}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == ("KeyError" in ending), done.stderr
    assert "terminate" not in done.stderr and "ignored" not in done.stderr


ODD = {
    "flickr8k_128/val-*.parquet": (1000, 5, {}),
    "fashion_60x80/items-val.parquet": (1825, 1, {}),
    "daquar_128/train.parquet": (794, 1, dict(caption_column="questions")),
}


@pytest.mark.parametrize("spec", ODD)
@pytest.mark.parametrize("streaming", [False, True])
def test_real_data(spec, streaming):
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}")
    number, captions, options = ODD[spec]
    pairs = open_pairs(str(SHARED / spec), (64, 64), streaming=streaming, **options)
    if streaming:
        assert len({pair.id for pair in pairs.pairs()}) == number
    else:
        assert len(pairs) == number and len(pairs.all_captions(3)) >= captions
        assert len({pairs.pair(i).item for i in range(0, number, 10)}) > 0.09 * number
    assert not pairs.bad
    batch, _ = next(batches(pairs, word_tokenizer(pairs.captions(500)), 16))
    assert batch.images.shape == (16, 3, 64, 64) and batch.images.std() > 0.1


# ---- going on in a stream


class Counted:
    "Rows that pyarrow gives out and pictures that are decoded, of data opened from now on."

    def __init__(self, monkeypatch):
        self.rows, self.pictures = 0, 0
        tables, read = Parquet._generate_tables, StreamedPairs.read

        def counted_tables(builder, **files):
            for key, table in tables(builder, **files):
                self.rows += len(table)
                yield key, table

        def counted_read(source, *args):
            self.pictures += 1
            return read(source, *args)

        monkeypatch.setattr(Parquet, "_generate_tables", counted_tables)
        monkeypatch.setattr(StreamedPairs, "read", counted_read)


def shards_of(count, rows=200, group=20):
    "Parquet files of so many rows, in row groups."
    for shard in range(count):
        rows_of(rows).to_parquet(f"s-{shard}.parquet", batch_size=group)


@pytest.mark.parametrize("group_by_length", [False, True])
def test_going_on_in_a_stream_reads_one_window(home, monkeypatch, group_by_length):
    shards_of(4)
    tokenizer = word_tokenizer(["a red half"])

    def opened(mark=None):
        stream = open_pairs("s-*.parquet", 16, seed=3, streaming=True)
        stream.window, stream.mark, stream.group_by_length = 16, mark, group_by_length
        return stream

    whole = opened()
    steps, marks = [], []
    for batch, epoch in islice(batches(whole, tokenizer, 6), 300):  # an epoch has 133
        steps.append((batch.ids, batch.input_ids, epoch))
        marks.append(json.loads(json.dumps(whole.mark)))
    counted = Counted(monkeypatch)

    def read(start, mark=None):
        "Rows that are read to get one batch."
        stream = opened(mark)
        counted.rows = counted.pictures = 0
        item = next(iter(Steps(stream, tokenizer, 6, start)))
        ids, words, was = steps[start]
        assert item.batch.ids.equal(ids) and item.batch.input_ids.equal(words) and item.epoch == was
        assert counted.pictures == 6 and json.loads(json.dumps(item.mark)) == marks[start]
        return counted.rows

    fresh = read(0)
    assert 2 * 16 <= fresh <= 2 * 16 + 20 + 16 * 6 * group_by_length  # two windows and a row group
    for start in (1, 70, 132, 134, 140, 265, 299):
        assert read(start, marks[start - 1]) <= fresh + 2 * 20  # a row group at each end
    assert (
        read(133, marks[132]) <= 2 * fresh + 2 * 20
    )  # the end of one epoch, the begin of the next
    assert read(110) > 600  # without a mark all that went before is read


def test_going_on_in_tars_decodes_nothing_before(home, monkeypatch):
    for shard in range(3):
        told = [(f"{i:03}.{kind}", data) for i in range(40) for kind, data in
                (("png", encoded(drawing(COLOURS[i % 10], (40 + i, 24)))), ("txt", b"a half"))]  # fmt: skip
        write_tar(f"s-{shard}.tar", told)
    tokenizer, counted = word_tokenizer(["a half"]), Counted(monkeypatch)
    whole = open_pairs("s-*.tar", 16, streaming=True)
    whole.window = 8
    steps, marks = [], []
    for batch, _ in islice(batches(whole, tokenizer, 6), 45):  # an epoch has 20
        steps.append(batch.ids)
        marks.append(whole.mark)
    for start in (1, 9, 19, 20, 33, 44):
        stream = open_pairs("s-*.tar", 16, streaming=True)
        stream.window, stream.mark, counted.pictures = 8, marks[start - 1], 0
        assert next(iter(Steps(stream, tokenizer, 6, start))).batch.ids.equal(steps[start])
        assert counted.pictures == 6


@pytest.mark.parametrize("change", [dict(seed=4), dict(window=8), dict(batch=7), dict(files=3)])
def test_a_mark_of_another_order_is_not_used(home, change):
    shards_of(4, 60)
    tokenizer = word_tokenizer(["a red half"])
    source = open_pairs("s-*.parquet", 16, seed=3, streaming=True)
    source.window = 16
    list(islice(batches(source, tokenizer, 6), 30))
    found = []
    for mark in (None, source.mark):
        spec = f"s-[0-{change.get('files', 4) - 1}].parquet"
        stream = open_pairs(spec, 16, seed=change.get("seed", 3), streaming=True)
        stream.window, stream.mark = change.get("window", 16), mark
        found.append(next(batches(stream, tokenizer, change.get("batch", 6), start=30))[0].ids)
    assert found[0].equal(found[1])


def test_shards_are_shuffled_anew_in_every_epoch_and_alike_in_every_process(home):
    shards_of(6, 24, 8)
    tokenizer = word_tokenizer(["a red half"])
    streams = [open_pairs("s-*.parquet", 16, seed=1, streaming=True) for _ in range(3)]
    for stream in streams:
        stream.window = 12
    whole = list(islice(batches(streams[0], tokenizer, 8), 36))
    halves = [
        list(islice(batches(streams[1 + k], tokenizer, 8, part=(k, 2), workers=2), 36))
        for k in range(2)
    ]
    for (batch, epoch), (one, e1), (two, e2) in zip(whole, *halves):
        assert batch.ids[0::2].equal(one.ids) and batch.ids[1::2].equal(two.ids)
        assert epoch == e1 == e2
    assert streams[0].mark == streams[1].mark == streams[2].mark
    orders = []
    for epoch in range(2):
        ids = torch.cat([batch.ids for batch, e in whole if e == epoch])
        assert len(ids.unique()) == 144
        orders.append(list(dict.fromkeys((ids >> 32).tolist())))
    assert orders[0] != orders[1] and sorted(orders[0]) == list(range(6))


def test_each_process_decodes_only_its_own_rows(home, monkeypatch):
    shards_of(2, 40)
    counted = Counted(monkeypatch)
    stream = open_pairs("s-*.parquet", 16, streaming=True)
    stream.window = 16
    list(islice(Steps(stream, word_tokenizer(["a"]), 8, part=(1, 4)), 5))
    assert counted.pictures == 5 * 2


# ---- twelve scenes, by number and as a stream of three shards


@pytest.fixture
def toy():
    "Twelve scenes of one shape each, by number."
    pairs = [Scenes("shapes", things=(1, 1)).pair(i) for i in range(12)]
    images = [encoded(Image.fromarray(pair.image)) for pair in pairs]
    rows = Dataset.from_dict({"image": images, "caption": [pair.caption for pair in pairs]})
    return Pairs(Table(rows, ("image", "caption"), Path()), "drawings", 48)


@pytest.fixture
def stream(toy):
    "The same scenes as a stream, with windows of four rows."
    table = toy.table._replace(rows=toy.table.rows.to_iterable_dataset(3))
    return StreamedPairs(table, "stream", 48, window=4)


def test_the_incomplete_last_batch_of_an_epoch_is_dropped():
    ids = np.concatenate([sample_ids(step, 5, 12)[0] for step in range(2)])
    assert len(set(ids.tolist())) == 10 and sample_ids(2, 5, 12)[1] == 1
    assert sample_ids(3, 4, None)[0].tolist() == [12, 13, 14, 15]
    with pytest.raises(UserError):
        sample_ids(0, 20, 12)


def test_prefetched_results_come_in_order():
    assert list(ahead(iter([1, 2, 3]))) == [1, 2, 3] and list(ahead(iter([]))) == []


def test_batches_of_similar_length_hold_every_caption_in_an_order_of_the_key():
    captions = ["a" * n for n in (5, 1, 9, 2, 8, 3, 7, 4)]
    grouped = like_lengths(captions, 2, 0, 1)
    assert sorted(grouped.flatten()) == list(range(8))
    assert {tuple(row) for row in like_lengths(captions, 2, 7)} == {(1, 3), (5, 7), (0, 6), (4, 2)}
    assert any((grouped != like_lengths(captions, 2, 0, k)).any() for k in (2, 3))


def test_chunks_of_a_stream_start_at_any_step(stream):
    chunks = list(islice(stream_chunks(stream, 5), 3))
    rows, mark = next(stream_chunks(stream, 5, start=2))
    assert mark["epoch"] == 1 and stream.number(rows[0]) == next(stream.pairs(1)).id
    assert mark == chunks[2][1] and chunks[1][1]["rows"] == 8  # the third window, with row 9 in it


def test_the_first_pairs_are_those_with_the_lowest_numbers(toy, stream):
    assert [p.id for p in first_pairs(toy, 3)] == [0, 1, 2] and len(first_pairs(toy, 99)) == 12
    assert len(first_pairs(stream, 5)) == 5


def test_some_pairs_are_evenly_spaced_in_a_table(toy, stream):
    assert [p.id for p in some_pairs(toy, 5)] == [0, 2, 4, 7, 9] and len(some_pairs(toy, 99)) == 12
    assert [p.id for p in some_pairs(Scenes(), 3)] == [0, 1, 2] and len(
        some_pairs(stream, 99)
    ) == 12


@pytest.mark.parametrize("kind", ["toy", "stream"])
def test_workers_change_no_batch(kind, request):
    source = request.getfixturevalue(kind)
    tokenizer = word_tokenizer(source.captions())
    alone, helped = (
        list(islice(batches(source, tokenizer, 5, workers=workers), 6)) for workers in (0, 2)
    )
    assert [e for _, e in alone] == [e for _, e in helped] == [0, 0, 1, 1, 2, 2]
    for (a, _), (b, _) in zip(alone, helped):
        assert a.images.equal(b.images) and a.ids.equal(b.ids)


def test_a_run_continues_at_any_step(toy):
    tokenizer = word_tokenizer(toy.captions())
    whole = list(islice(batches(toy, tokenizer, 5), 6))
    resumed, epoch = next(batches(toy, tokenizer, 5, start=4))
    assert resumed.images.equal(whole[4][0].images) and epoch == 2


def test_mismatched_pairs_have_the_caption_of_the_row_before(toy):
    batch, _ = next(batches(toy, word_tokenizer(toy.captions()), 5, start=4))
    other = mismatched(batch)
    assert other.images.equal(batch.images) and other.input_ids[1:].equal(batch.input_ids[:-1])
