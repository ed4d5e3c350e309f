"Steps know no past: batches, streams that resume, threads, broken rows, and the data sets at hand."

import json
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from samples import ROOT, SHARED, encoded, rows_of

from mvl_bench.batches import batches, sample_ids
from mvl_bench.core import Pair, UserError
from mvl_bench.pairs import open_pairs
from mvl_bench.text import word_tokenizer


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


@pytest.mark.parametrize("workers", [1, 2, 5])
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


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_out_where_it_belongs(workers):
    class Sour:
        def pair(self, i, epoch):
            if i == 9:
                raise OSError("disk gone")
            return Pair(np.zeros((8, 8, 3), np.uint8), "a", i, i)

    stream = batches(Sour(), word_tokenizer(["a"]), 2, workers=workers)
    assert [next(stream)[0].ids[0].item() for _ in range(4)] == [0, 2, 4, 6]
    with pytest.raises(OSError, match="disk gone"):
        next(stream)


def test_batches_of_a_stream_resume_in_any_epoch(home):
    for shard in range(3):
        rows_of(30).select(range(shard, 30, 3)).to_parquet(f"s-{shard}.parquet")
    stream = open_pairs("s-*.parquet", 16, streaming=True)
    tokenizer = word_tokenizer(stream.captions())
    steps = list(islice(batches(stream, tokenizer, 7), 10))
    assert [epoch for _, epoch in steps] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    for start in (1, 4, 9):
        fresh = open_pairs("s-*.parquet", 16, streaming=True)
        batch, epoch = next(batches(fresh, tokenizer, 7, start=start, workers=3))
        assert batch.ids.equal(steps[start][0].ids) and epoch == steps[start][1]
        assert batch.images.equal(steps[start][0].images)
    with pytest.raises(UserError, match="batch_size 31"):
        next(batches(stream, tokenizer, 31))


@pytest.mark.parametrize("ending", ["pass", "raise KeyError"])
def test_a_half_read_stream_lets_the_process_end(home, ending):
    for shard in range(3):
        rows_of(40).to_parquet(f"s-{shard}.parquet")
    code = f"""
from mvl_bench.batches import batches
from mvl_bench.pairs import open_pairs
from mvl_bench.text import word_tokenizer
source = open_pairs({str(home / "s-*.parquet")!r}, 16, streaming=True)
source.window = 4
stream = batches(source, word_tokenizer(["a"]), 4, workers=1)
next(stream)
{ending}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
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


def test_memory_stays_flat_when_streaming(home):
    noise = np.random.default_rng(0)
    data = [
        encoded(Image.fromarray(noise.integers(0, 255, (64, 64, 3), np.uint8))) for _ in range(300)
    ]
    part = Dataset.from_dict({"image": data, "caption": ["noise"] * 300})
    for shard in range(40):
        part.to_parquet(f"m-{shard:02}.parquet", batch_size=50)
    code = f"""
import json, resource
from mvl_bench.pairs import open_pairs
stream = open_pairs({str(home / "m-*.parquet")!r}, 32, streaming=True)
stream.window = 100
peaks = []
for n, _ in enumerate(stream.pairs()):
    if n in (1500, 11500):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    early, late = json.loads(done.stdout.splitlines()[-1])
    assert late - early < 60, f"{early:.0f} MB grew to {late:.0f} MB over 150 MB of data"
