"Data at scale: flat memory over a long stream, broken rows that are all named, captions of like length."

import json
import sys
import threading
from itertools import islice
from pathlib import Path

import flat_memory
import pytest
import torch
from contract import one_thread  # noqa: F401  a fixture
from datasets import Dataset
from samples import COLOURS, drawing, encoded, write_tar
from test_processes import launched

from mvl_bench.apps.cli.main import main
from mvl_bench.core import UserError
from mvl_bench.data import formats as tables
from mvl_bench.data.loader import batches
from mvl_bench.data.pairs import open_pairs
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_tokenizer

SIZES = "embed_dim=24 num_heads=2 image_depth=1 text_depth=1 cross_depth=1 decoder_depth=1".split()
SIZES += "img_size=16 patch_size=4 mask_size=4 precision=fp32 batch_size=10 warmup=1".split()
SIZES += "shuffle_window=30 trackers= probe_every=0".split()
CUT, BLANK, OTHER = {3, 50, 51, 120}, {7, 99, 160}, {11, 85, 199}  # 10 of 200 rows


@pytest.mark.slow
def test_memory_is_flat_over_a_stream_a_hundred_times_as_long(tmp_path):
    found = flat_memory.compared(50, 100, 10, tmp_path)
    assert found["long"]["rows"] == 100 * found["short"]["rows"] == 5_000
    assert flat_memory.flat(found["short"], found["long"]), found
    assert not flat_memory.flat(found["short"], found["long_kept"]), found  # it can fail


def test_threads_get_python_once_more_before_the_process_ends(monkeypatch):
    def lets_go() -> bool:
        "Whether a thread that waits for Python, as pyarrow's do, gets it while streams are closed."
        lock, done = threading.Lock(), []
        lock.acquire()
        thread = threading.Thread(target=lambda: lock.acquire() and done.append(True))
        thread.start()
        often = sys.getswitchinterval()
        sys.setswitchinterval(20)  # nobody gets it from who does not let go
        lock.release()
        tables._close_streams()
        got = bool(done)
        sys.setswitchinterval(often)
        thread.join()
        return got

    assert lets_go()
    with monkeypatch.context() as patch:
        patch.setattr(tables.time, "sleep", id)
        assert not lets_go()  # it can fail


def broken_rows(folder: Path) -> None:
    "Two Parquet files of 100 rows; five in a hundred are broken, each kind in its way."
    told = dict(image=[], caption=[])
    for i in range(200):
        data = encoded(drawing(COLOURS[i % 10], (24 + i, 24)))
        data = (
            data[: len(data) // 2]
            if i in CUT
            else b"%PDF-1.7 not a picture"
            if i in OTHER
            else data
        )
        told["image"].append(data)
        told["caption"].append(
            [None, "", " "][i % 3] if i in BLANK else f"a {COLOURS[i % 10]} half"
        )
    rows = Dataset.from_dict(told)
    for part in range(2):
        half = rows.select(range(100 * part, 100 * part + 100))
        half.to_parquet(folder / f"p-{part}.parquet", batch_size=20)


def named(lines: str, streaming: bool) -> set[int]:
    "Rows that are named in a text of one line each, with the reason that they have."
    found = set()
    for i in CUT | BLANK | OTHER:
        shard, place = divmod(i, 100)
        name = f"row {place}{f' of shard {shard}' * (shard > 0)}" if streaming else f"row {i}"
        why = "has no caption" if i in BLANK else "picture"
        found |= {i} if any(f"{name} " in f"{line} ".replace(":", " ") and why in line for line in lines.splitlines()) else set()  # fmt: skip
    return found


@pytest.mark.parametrize("streaming", [False, True])
def test_five_percent_broken_rows_train_and_are_all_named(home, capfd, streaming, one_thread):  # noqa: F811
    broken_rows(home)
    asked = ["train", "--data", "p-*.parquet", "--out", "run", "--steps", "20", "--set", *SIZES]
    assert main(asked + ["--streaming"] * streaming) == 0
    said = capfd.readouterr().out
    assert "10 rows of p-*.parquet left out: " in said and "and 7 more" in said
    assert "bad_rows.txt" in said and "checkpoint:" in said
    lines = Path("run/bad_rows.txt").read_text()
    assert len(lines.splitlines()) == 10
    assert named(lines, streaming) == CUT | BLANK | OTHER
    goes_on = [word if word != "20" else "21" for word in asked] + ["--resume", "--allow-changes"]
    assert main(goes_on[:7] + goes_on[-2:] + goes_on[7:-2] + ["--streaming"] * streaming) == 0
    assert Path("run/bad_rows.txt").read_text().startswith(lines)  # what was found before stays


def test_tars_are_trained_on_from_the_command_line(home, capfd, one_thread):  # noqa: F811
    for part in range(2):
        told = [(f"{i}.{kind}", data) for i in range(30) for kind, data in (
            ("png", encoded(drawing(COLOURS[i % 10]))), ("json", b'{"caption": "a half"}'))]  # fmt: skip
        told[6] = ("3.png", b"no picture")
        write_tar(f"t-00{part}.tar", told)
    asked = ["train", "--data", "t-{000..001}.tar", "--streaming", "--out", "run", "--set", *SIZES]
    assert main([*asked, "steps=6"]) == 0
    said = capfd.readouterr().out
    assert "2 rows of t-{000..001}.tar left out" in said and "t-001.tar: 3.png" in said
    assert main([*asked, "steps=9", "--resume", "--allow-changes"]) == 0


def test_two_processes_name_the_rows_of_both(home):
    broken_rows(home)
    asked = ["train", "--data", str(home / "p-*.parquet"), "--steps", "20", "--streaming"]
    done = launched(home / "run", 2, requested=[*asked, "--set", *SIZES])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("left out") == 1 and "10 rows of" in done.stdout
    assert named((home / "run/bad_rows.txt").read_text(), True) == CUT | BLANK | OTHER


def test_a_run_without_broken_rows_says_nothing_of_them(home, capfd, one_thread):  # noqa: F811
    rows = [encoded(drawing(COLOURS[i % 10])) for i in range(20)]
    Dataset.from_dict(dict(image=rows, caption=["a half"] * 20)).to_parquet("w.parquet")
    assert (
        main(["train", "--data", "w.parquet", "--out", "run", "--steps", "2", "--set", *SIZES]) == 0
    )
    assert "left out" not in capfd.readouterr().out and not Path("run/bad_rows.txt").exists()
    assert json.loads(Path("run/run.json").read_text())["data"]["shuffle_window"] == 30


# ---- captions of like length


def varied(count):
    "Rows whose captions have 1 to 30 words."
    table = {"image": [encoded(drawing(COLOURS[i % 10], (40 + i, 24))) for i in range(count)]}
    table["caption"] = [" ".join(["dog"] * (1 + 7 * i % 30)) for i in range(count)]
    return Dataset.from_dict(table)


@pytest.mark.parametrize("streaming", [False, True])
def test_captions_of_like_length_share_a_batch(home, streaming):
    for shard in range(3):
        varied(300).select(range(shard, 300, 3)).to_parquet(f"v-{shard}.parquet")
    tokenizer = word_tokenizer(["dog"])

    def drawn(group_by_length, start=0, count=111):
        source = open_pairs("v-*.parquet", 16, seed=2, streaming=streaming)
        source.group_by_length = group_by_length
        if streaming:
            source.window = 40
        return list(islice(batches(source, tokenizer, 8, start=start, workers=1), count))

    plain, sorted_ = drawn(False), drawn(True)
    wide = [sum(batch.input_ids.shape[1] for batch, _ in found) for found in (plain, sorted_)]
    assert wide[1] < 0.75 * wide[0]
    real = [sum(batch.attention_mask.sum().item() for batch, _ in found) for found in (plain, sorted_)]  # fmt: skip
    assert real[0] == real[1]
    for epoch in range(3):  # 37 batches, so sixteen, sixteen and five
        ids = [[b.ids.tolist() for b, e in found if e == epoch] for found in (plain, sorted_)]
        assert sorted(sum(ids[0], [])) == sorted(sum(ids[1], [])) and ids[0] != ids[1]
        widths = [b.input_ids.shape[1] for b, e in sorted_ if e == epoch]
        assert widths != sorted(widths)
    for start in (1, 16, 31, 32, 36, 37, 60):
        (batch, epoch), (again, was) = drawn(True, start, 1)[0], sorted_[start]
        assert batch.ids.equal(again.ids) and epoch == was
    with pytest.raises(UserError, match="batch_size 301"):
        source = open_pairs("v-*.parquet", 16, streaming=streaming)
        source.group_by_length = True
        next(batches(source, tokenizer, 301))


def test_drawn_scenes_by_length():
    source, tokenizer = Scenes("shapes", img_size=16), word_tokenizer(Scenes("shapes").captions())
    plain = list(islice(batches(source, tokenizer, 4), 32))
    source.group_by_length = True
    sorted_ = list(islice(batches(source, tokenizer, 4), 32))
    wide = [sum(batch.input_ids.shape[1] for batch, _ in found) for found in (plain, sorted_)]
    assert wide[1] < wide[0]
    ids = [sorted(torch.cat([b.ids for b, _ in found[:16]]).tolist()) for found in (plain, sorted_)]
    assert ids[0] == ids[1] == list(range(64))
    assert next(batches(source, tokenizer, 4, start=21))[0].ids.equal(sorted_[21][0].ids)
