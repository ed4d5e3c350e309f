"Several processes do what one does: same losses, same weights, one log."

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def begun(out, count: int, *more: str, asked=ASKED):
    "The command in `count` processes on this machine, running."
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(count)] if count > 1 else []
    words = [*torchrun, "-m", "mvl_bench", *asked, *more, "--out", str(out)]
    said = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(
        [sys.executable, *words], env=dict(os.environ, OMP_NUM_THREADS="1"), **said
    )


def launched(out, count: int, *more: str, asked=ASKED):
    "The command in `count` processes on this machine, when it has ended."
    process = begun(out, count, *more, asked=asked)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


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


# ---- stopped and killed


def wait_for(out: Path, lines: int, seconds: float = 90):
    "Until a run has logged so many lines."
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        path = out / "log.jsonl"
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {lines} lines after {seconds} s")


LONG = ["--steps", "100000", "--set", *SIZES, "batch_size=4", "log_every=1", "save_every=3"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    asked = ["train", "--data", "scenes:shapes", *LONG, "save_every=99999", "probe_every=0"]
    run = begun(tmp_path / "run", 1, asked=asked)
    wait_for(tmp_path / "run", 4)
    run.send_signal(number)
    _, stderr = run.communicate(timeout=60)
    last = stderr.strip().splitlines()[-1]
    assert run.returncode == 128 + number and "Traceback" not in stderr
    assert "and saved; the same command with --resume goes on" in last
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"stopped at step {int(path.name.removeprefix('step-'))} and saved" in last


def children_of(pid: int) -> list[int]:
    "Processes that a process started."
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_a_killed_process_ends_the_run_in_one_line_and_it_goes_on(tmp_path):
    asked = ["train", "--data", "scenes:shapes", *LONG]
    run = begun(tmp_path / "run", 2, asked=asked)
    wait_for(tmp_path / "run", 8)
    workers = children_of(run.pid)
    second = [p for p in workers if "\0RANK=1\0" in Path(f"/proc/{p}/environ").read_text()]
    assert len(workers) == 2 and len(second) == 1
    os.kill(second[0], signal.SIGKILL)
    _, stderr = run.communicate(timeout=90)
    told = [line for line in stderr.splitlines() if line.startswith("mvl-bench train:")]
    assert run.returncode and len(told) == 1, stderr[-3000:]
    assert "another process of this run is gone" in told[0] and "--resume goes on" in told[0]
    before = max((tmp_path / "run" / "checkpoints").glob("step-*")).name
    again = begun(tmp_path / "run", 1, "--resume", asked=asked)
    wait_for(tmp_path / "run", (tmp_path / "run" / "log.jsonl").read_text().count("\n") + 5)
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
    assert max((tmp_path / "run" / "checkpoints").glob("step-*")).name > before


def test_a_loss_that_is_no_number_is_kept_and_gone_through_again(tmp_path):
    asked = ["train", "--data", "scenes:shapes", "--steps", "30", "--set", *SIZES, "batch_size=4"]
    asked += ["lr=1e30", "warmup=0", "precision=fp32", "optimizer=adamw", "probe_every=0"]
    done = launched(tmp_path / "run", 1, asked=asked)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "stopped before the update" in last and "mvl-bench doctor" in last
    told = subprocess.run(
        [sys.executable, "-m", "mvl_bench", "doctor", str(tmp_path / "run")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "the first part whose answer is no number" in told
