"""Peak memory of a process that reads a streamed set from end to end, and of one that reads a set 100 times as long.

python tests/flat_memory.py [--rows 1500] [--times 100] [--json FILE]      the tests run a shorter version
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image
from samples import ROOT, encoded

from mvl_bench.training.resume import commit

ALLOWED = 40  # MB that a longer set may take more: what an allocator keeps, and no more
# VmHWM and not getrusage: the latter begins with what the process had that this one was forked from
READ = """
import json, re, sys
from pathlib import Path
from mvl_bench.data.loader import batches
from mvl_bench.data.pairs import open_pairs
from mvl_bench.data.tokenizers import word_tokenizer
spec, window, most, keep = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "keep"
source = open_pairs(spec, 32, streaming=True)
source.window = window
rows, kept = 0, []
for batch, epoch in batches(source, word_tokenizer(["noise"]), 50, workers=1):
    if epoch or rows >= most:
        break
    rows += len(batch.ids)
    kept += [batch] * keep
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps(dict(rows=rows, peak_mb=round(peak, 1))))
"""


def shards(
    folder: Path, rows: int, times: int
) -> list[str]:  # names of the short set and the long one
    "Five Parquet files of noise, and as many names for each of them as make a set so much longer."
    chance = np.random.default_rng(0)
    for part in range(5):
        noise = [chance.integers(0, 255, (48, 48, 3), np.uint8) for _ in range(rows // 5)]
        told = dict(
            image=[encoded(Image.fromarray(n)) for n in noise], caption=["noise"] * len(noise)
        )
        Dataset.from_dict(told).to_parquet(folder / f"short-{part}.parquet", batch_size=50)
        for copy in range(times):
            os.link(folder / f"short-{part}.parquet", folder / f"long-{copy:03}-{part}.parquet")
    return [f"{folder}/short-*.parquet", f"{folder}/long-*.parquet"]


def reading(spec: str, window: int, keep: bool = False) -> dict:  # rows, peak_mb
    "What a fresh process needs to read a set once; one that keeps its batches, up to 10,000 rows, is a control."
    most = 10_000 if keep else 10**9
    words = [sys.executable, "-c", READ, spec, str(window), str(most), "keep" if keep else ""]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def compared(rows: int, times: int, window: int, folder: Path) -> dict:
    "Both sets read, and the long one by a process that keeps everything."
    short, long = shards(folder, rows, times)
    found = dict(short=reading(short, window), long=reading(long, window))
    return dict(
        found, long_kept=reading(long, window, keep=True), window=window, allowed_mb=ALLOWED
    )


def flat(short: dict, long: dict) -> bool:
    "Whether a longer set took no more memory."
    return long["peak_mb"] - short["peak_mb"] < ALLOWED


def main() -> None:
    "The comparison as a table and as JSON."
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=1500)
    asked.add_argument("--times", type=int, default=100)
    asked.add_argument("--json", type=Path)
    asked = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compared(asked.rows, asked.times, 512, Path(folder))
    for name in ("short", "long", "long_kept"):
        print(f"{name:10} {found[name]['rows']:9,} rows {found[name]['peak_mb']:9,.1f} MB at most")
    about = dict(command=f"python tests/flat_memory.py --rows {asked.rows} --times {asked.times}")
    if asked.json:
        asked.json.write_text(json.dumps(dict(about, commit=commit(), **found), indent=1))
    sys.exit(not flat(found["short"], found["long"]) or flat(found["short"], found["long_kept"]))


if __name__ == "__main__":
    main()
