"Several processes do what one does: same losses, same weights, one log."

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SIZES = "embed_dim=24 num_heads=2 image_depth=1 text_depth=1 cross_depth=1 decoder_depth=1".split()
ASKED = ["train", "--data", "scenes:shapes", "--steps", "6", "--set", *SIZES, "precision=fp32"]
ASKED += ["batch_size=7", "accumulate=2", "log_every=1", "blind_steps=2", "warmup=1"]
ASKED += ["itc_weight=1", "itm_weight=1", "queue_size=14", "momentum=0.5", "absent_ratio=0.3"]
MLIM = ["train", "--model", "mlim", "--data", "scenes:shapes", "--steps", "3", "--set"]
MLIM += ["embed_dim=24", "num_heads=2", "depth=1", "precision=fp32", "batch_size=7", "log_every=1"]
MLIM += ["itm_weight=1", "warmup=1", "joint_masking=mam"]


def launched(out, count: int, *more: str, asked=ASKED):
    "The command in `count` processes on this machine."
    code = "import sys; from mvl_bench.cli import main; sys.exit(main())"
    (out.parent / "main.py").write_text(code)
    words = [str(out.parent / "main.py"), *asked, *more, "--out", str(out)]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(count)] if count > 1 else []
    env = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.run(
        [sys.executable, *torchrun, *words], capture_output=True, text=True, env=env
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "The folder of the same run in one process and in two."
    folder = tmp_path_factory.mktemp("runs")
    return {count: (folder / f"{count}", launched(folder / f"{count}", count)) for count in (1, 2)}


def check_same_log(runs, steps: int, names: list[str]):
    "Two runs that say the same at every step; a negative drawn otherwise would show in the first digits of ITM."
    for out, done in runs.values():
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (
        [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        for out, _ in runs.values()
    )
    assert [row["step"] for row in one] == [row["step"] for row in two] == list(range(1, steps + 1))
    for name in names:
        assert any(name in row for row in one), name
        for row, other in zip(one, two):
            assert other.get(name) == pytest.approx(row.get(name), rel=1e-4), (row["step"], name)


def test_two_processes_do_what_one_does(runs):
    check_same_log(runs, 6, ["mlm", "recon", "itc", "itm", "grad_norm"])
    weights = [
        load_file(next(out.glob("checkpoints/*/model.safetensors"))) for out, _ in runs.values()
    ]
    begun = max((a - b).abs().max() for a, b in zip(*(w.values() for w in weights)))
    assert begun < 1e-3  # six steps of Adam move a number by some 6e-3
    assert torch.stack([w.abs().max() for w in weights[0].values()]).isfinite().all()


def test_two_processes_of_mlim_do_what_one_does(tmp_path):
    runs = {n: (tmp_path / f"{n}", launched(tmp_path / f"{n}", n, asked=MLIM)) for n in (1, 2)}
    check_same_log(runs, 3, ["mlm", "recon", "itm", "grad_norm"])


def test_one_process_writes_for_all(runs):
    out, done = runs[2]
    assert done.stdout.count("checkpoint:") == 1
    assert len(list(out.glob("tensorboard/*"))) == 1
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000006"]


def test_more_processes_than_pairs(tmp_path):
    done = launched(tmp_path / "run", 2, "batch_size=1")
    assert done.returncode and "batch_size 1 is under 2, the processes" in done.stderr
    assert not (tmp_path / "run").exists()
