"Several processes do what one does: same losses, same weights, one log."

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import processes
import pytest
from safetensors.torch import load_file

from mvl_bench.apps.cli.main import main
from mvl_bench.core import UserError
from mvl_bench.training import runner

SIZES = "embed_dim=24 num_heads=2 image_depth=1 text_depth=1 cross_depth=1 decoder_depth=1".split()
ASKED = ["train", "--data", "scenes:shapes", "--steps", "6", "--set", *SIZES, "precision=fp32"]
ASKED += ["batch_size=7", "accumulate=2", "log_every=1", "full_mask_steps=2", "warmup=1"]
ASKED += ["itc=1", "itm=1", "queue_size=14", "momentum=0.5", "modality_dropout=0.3"]
MLIM = ["train", "--model", "mlim", "--data", "scenes:shapes", "--steps", "3", "--set"]
MLIM += ["embed_dim=24", "num_heads=2", "depth=1", "precision=fp32", "batch_size=7", "log_every=1"]
MLIM += ["itm=1", "warmup=1", "joint_strategy=mam"]


def with_torchrun(out, count: int, asked: list[str]):
    "The command in `count` processes as a person starts them, running."
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "-m", "mvl_bench"]
    said = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(
        [sys.executable, *torchrun, *asked, "--out", str(out)],
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        **said,
    )


def started(out, count: int, *more: str, requested=ASKED) -> list:
    "The command in `count` processes as `torchrun` starts them, but from a server: all that they import is there already."
    words = [*requested, *more, "--out", str(out)]
    return [processes.start(_command, out, where, words) for where in processes.addresses(count)]


def _command(out, where: dict, words: list[str]):
    "The command in this process, with streams of its own; ends the process."
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
        os.environ |= where
        os._exit(main(words))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def ended(running: list, out):
    "What processes said, when all have ended, and the code of one that failed."
    codes = processes.wait(running)
    said = (Path(f"{out}.{name}").read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(running, max(codes, key=abs), *said)


def launched(out, count: int, *more: str, requested=ASKED):
    "The command in `count` processes, when all have ended."
    return ended(started(out, count, *more, requested=requested), out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "The folder of the same run in one process, in two, in three, and in two again."
    folder = tmp_path_factory.mktemp("runs")
    counts = {1: 1, 2: 2, 3: 3, "two again": 2}
    return {name: (folder / f"{name}", launched(folder / f"{name}", n)) for name, n in counts.items()}


def check_same_log(runs, steps: int, names: list[str], later: float = 1e-4):
    "Two runs that say the same at every step; a negative drawn otherwise would show in the first digits of ITM."
    for out, done in runs:
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (
        [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        for out, _ in runs
    )
    assert [row["step"] for row in one] == [row["step"] for row in two] == list(range(1, steps + 1))
    for name in names:
        assert any(name in row for row in one), name
        for row, other in zip(one, two):
            bound = 1e-6 if row["step"] == 1 else later  # rounding grows with each update
            assert other.get(name) == pytest.approx(row.get(name), rel=bound), (row["step"], name)


def weights_of(out) -> dict:
    "The weights that a run saved last."
    return load_file(max(out.glob("checkpoints/*/model.safetensors")))


@pytest.mark.parametrize("count", [2, 3])  # three share 7 rows unevenly
def test_several_processes_do_what_one_does(runs, count):
    check_same_log([runs[1], runs[count]], 6, ["mlm", "recon", "itc", "itm", "grad_norm"])
    one, several = (weights_of(runs[name][0]).values() for name in (1, count))
    assert max((a - b).abs().max() for a, b in zip(one, several)) < 1e-3  # Adam moves a number by some 6e-3


def test_two_runs_of_two_processes_are_bit_equal(runs):
    first, again = (weights_of(runs[name][0]) for name in (2, "two again"))
    assert all(value.equal(again[name]) for name, value in first.items())
    assert all(value.isfinite().all() for value in first.values())


def test_two_processes_of_mlim_do_what_one_does(tmp_path):
    runs = [(tmp_path / f"{n}", launched(tmp_path / f"{n}", n, requested=MLIM)) for n in (1, 2)]
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
    (run,) = started(tmp_path / "run", 1, requested=asked)
    wait_for(tmp_path / "run", 4)
    os.kill(run.pid, number)
    done = ended([run], tmp_path / "run")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 128 + number and "Traceback" not in done.stderr
    assert "and saved; the same command with --resume goes on" in last
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"stopped at step {int(path.name.removeprefix('step-'))} and saved" in last


def children_of(pid: int) -> list[int]:
    "Processes that a process started."
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
@pytest.mark.slow
def test_a_killed_process_ends_the_run_in_one_line_and_it_goes_on(tmp_path):
    asked = ["train", "--data", "scenes:shapes", *LONG]
    run = with_torchrun(tmp_path / "run", 2, asked)
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
    again = started(tmp_path / "run", 1, "--resume", requested=asked)
    wait_for(tmp_path / "run", (tmp_path / "run" / "log.jsonl").read_text().count("\n") + 5)
    os.kill(again[0].pid, signal.SIGTERM)
    ended(again, tmp_path / "run")
    assert max((tmp_path / "run" / "checkpoints").glob("step-*")).name > before


def test_one_of_several_processes_that_fails_lives_through_the_signal_of_its_launcher(monkeypatch):
    "torchrun sends SIGTERM as soon as one process has died, while the others close their files and say why they end."
    monkeypatch.setattr(runner, "rank_and_world_size", lambda: (0, 2))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(UserError), runner.stops():
            raise UserError("another process of this run is gone")
        os.kill(os.getpid(), signal.SIGTERM)  # ends pytest if it is not deferred
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_loss_that_is_no_number_is_kept_and_gone_through_again(tmp_path, capsys):
    asked = ["train", "--data", "scenes:shapes", "--steps", "30", "--set", *SIZES, "batch_size=4"]
    asked += ["lr=1e30", "warmup=0", "precision=fp32", "optimizer=adamw", "probe_every=0"]
    done = launched(tmp_path / "run", 1, requested=asked)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "stopped before the update" in last and "mvl-bench doctor" in last
    assert main(["doctor", str(tmp_path / "run")]) == 0
    assert "the first part whose answer is no number" in capsys.readouterr().out
