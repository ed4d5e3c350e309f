"One writer in a folder, readers that delete nothing, and what an interrupted save leaves."

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from samples import one_sentence

from mvl_bench.core import UserError
from mvl_bench.storage import find, lock_folder, recover, write_folder

DEAD = subprocess.Popen([sys.executable, "-c", ""])
DEAD.wait()


def write(path, text="x"):
    write_folder(path, lambda new: (new / "a.txt").write_text(text))


def test_a_second_writer_is_refused_until_the_first_ends(tmp_path):
    out = tmp_path / "runs" / "mine"
    program = f"from mvl_bench.storage import lock_folder\nwith lock_folder({str(out)!r}):\n print('held', flush=True)\n import time; time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError) as caught, lock_folder(out):
        pass
    one_sentence(caught, "another process", "mine")
    other.send_signal(signal.SIGKILL)
    other.wait()
    with lock_folder(out):  # the system released it
        out.mkdir()
    assert [path.name for path in out.parent.iterdir()] == ["mine"]


def test_a_mistake_under_the_lock_leaves_no_folders(tmp_path):
    with pytest.raises(UserError), lock_folder(tmp_path / "a" / "b" / "c"):
        raise UserError("wrong")
    assert not list(tmp_path.iterdir())


def test_readers_delete_nothing_of_a_writer_that_works(tmp_path):
    live = tmp_path / f".run.new-{os.getppid()}"  # of a process that runs
    live.mkdir()
    with pytest.raises(UserError):
        find(tmp_path / "run")
    recover(tmp_path / "run")
    assert live.is_dir()


def test_readers_find_the_whole_version_of_an_interrupted_save(tmp_path):
    write(tmp_path / "run")
    old = tmp_path / f".run.old-{DEAD.pid}"
    os.replace(tmp_path / "run", old)
    (tmp_path / f".run.new-{DEAD.pid}").mkdir()
    assert find(tmp_path / "run") == old and len(list(tmp_path.iterdir())) == 2
    recover(tmp_path / "run")  # the next writer tidies up
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_reading_while_writing(tmp_path):
    write(tmp_path / "run", "0")
    stop, failures = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                find(tmp_path / "run")
            except UserError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(30):
        write(tmp_path / "run", str(i))
    stop.set()
    reader.join()
    assert not failures and (tmp_path / "run" / "a.txt").read_text() == "29"


@pytest.mark.slow
def test_two_runs_in_one_folder(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mvl_bench",
        "train",
        "--preset",
        "mini",
        "--data",
        "scenes:shapes",
    ]
    command += [
        "--out",
        "run",
        "--set",
        "embed_dim=32",
        "num_heads=2",
        "batch_size=4",
        "probe_every=0",
    ]
    with open(tmp_path / "first.log", "w") as log:
        first = subprocess.Popen([*command, "--steps", "100000"], cwd=tmp_path, stderr=log)
    limit = time.monotonic() + 120
    while not (tmp_path / "run" / "log.jsonl").exists() and time.monotonic() < limit:
        assert first.poll() is None, (tmp_path / "first.log").read_text()
        time.sleep(0.2)
    second = subprocess.run(
        [*command, "--steps", "3"], cwd=tmp_path, capture_output=True, text=True
    )
    assert second.returncode == 2 and "Traceback" not in second.stderr
    assert second.stderr.strip().splitlines()[-1].startswith("mvl-bench train: another process")
    assert first.poll() is None
    first.terminate()
    first.wait(120)
    assert list(Path(tmp_path, "run", "checkpoints").glob("step-*"))
    shutil.rmtree(tmp_path / "run")
