"Checkpoints that a full disk or a kill cuts off: the old one stays whole."

import errno
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
import torch
from certificate import killed_at
from contract import TOKENIZER, one_thread, small  # noqa: F401  one_thread is a fixture
from safetensors.torch import save_file
from test_checkpoints import folder, model, refused, same  # noqa: F401  fixtures among them

from mvl_bench import storage as folders
from mvl_bench.core import UserError
from mvl_bench.models.base import save
from mvl_bench.models.registry import load
from mvl_bench.storage import write_folder
from mvl_bench.training.optim import TrainConfig, make_optimizer
from mvl_bench.training.resume import STATE, load_state

# ---- a full disk

PAGE = 4096


@pytest.fixture
def disk(folder, tmp_path):
    "A real disk with room for three checkpoints, and how many pages one takes."
    pages = sum(-(-f.stat().st_size // PAGE) for f in folder.iterdir())
    (place := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={3 * pages * PAGE}", "tmpfs", str(place)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("no right to mount a small disk")
    yield place, pages
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(
    "lacking",
    [1, 2, 3, 10, 50, None],
)
def test_a_full_disk_leaves_the_old_checkpoint_whole(disk, model, lacking):
    disk, pages = disk
    save(model, TOKENIZER, disk / "one", dict(steps=7))
    free, filler = os.statvfs(disk).f_bavail, disk / "filler"
    filler.write_bytes(bytes((free - (pages - lacking if lacking else 0)) * PAGE))
    with pytest.raises(UserError, match="No space left") as caught:
        save(model, TOKENIZER, disk / "one", dict(steps=8))
    assert "disk/one" in str(caught.value) and "\n" not in str(caught.value)
    assert load(disk / "one").facts["steps"] == 7
    filler.unlink()
    assert [f.name for f in disk.iterdir()] == ["one"]
    save(model, TOKENIZER, disk / "one", dict(steps=9))  # with room again
    assert load(disk / "one").facts["steps"] == 9


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "where",
    ["models.base.save_file", "models.base.json.dumps"]
    + [
        f"storage.{name}"
        for name in ("os.fsync", "_hash", "os.replace", "Path.write_text", "Path.mkdir")
    ],
)
def test_any_failing_write_leaves_the_old_checkpoint_whole(folder, model, monkeypatch, where):
    with monkeypatch.context() as patch:
        patch.setattr(f"mvl_bench.{where}", no_space)
        with pytest.raises(UserError, match="No space left"):
            save(model, TOKENIZER, folder, dict(steps=8))
    assert [f.name for f in folder.parent.iterdir()] == ["one"]
    assert load(folder).facts["steps"] == 7


def test_a_tokenizer_that_cannot_be_written(folder, model, monkeypatch):
    def full(*_):
        raise Exception("No space left on device (os error 28)")  # noqa: TRY002  as tokenizers does

    monkeypatch.setattr(type(TOKENIZER), "save_pretrained", full)
    with pytest.raises(UserError, match="No space left"):
        save(model, TOKENIZER, folder, dict(steps=8))


def test_a_place_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file"):
        save(model, TOKENIZER, tmp_path / "file" / "one")
    assert (tmp_path / "file").read_text() == "x"


# ---- killed


def in_a_child(work, after=None):
    "Run `work` in a child process; kill it after some seconds, or wait until it ends."
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def test_killed_at_any_moment_a_run_goes_on_from_a_whole_checkpoint(model, tmp_path):
    save(model, TOKENIZER, tmp_path / "checkpoints" / "step-00000000", dict(steps=0))

    def keep_saving():
        for step in range(last + 1, last + 1000):
            save(model, TOKENIZER, tmp_path / "checkpoints" / f"step-{step:08}", dict(steps=step))

    last, rng = 0, random.Random(3)
    for _ in range(12):
        assert in_a_child(keep_saving, rng.uniform(0.01, 0.25)) == signal.SIGKILL
        found = load(tmp_path)
        assert found.facts["steps"] >= last and same(model, found)
        last = found.facts["steps"]
    assert last > 5, "hardly anything was saved: the kills proved nothing"


@pytest.mark.parametrize(
    "name, number",
    [
        ("fsync", 1),
        ("fsync", 5),
        ("replace", 1),
        ("replace", 2),
        ("fsync", 8),
    ],
)
def test_killed_while_replacing_a_checkpoint(folder, model, monkeypatch, name, number):
    with monkeypatch.context() as patch:
        patch.setattr(f"mvl_bench.storage.os.{name}", killed_at(number, name))
        assert in_a_child(lambda: save(model, TOKENIZER, folder, dict(steps=8))) == signal.SIGKILL
    assert load(folder).facts["steps"] in (7, 8)


def test_a_save_that_is_not_atomic_is_found(folder, model, monkeypatch):
    "The kill test is not blind: writing straight into the folder leaves a broken checkpoint."

    def careless(target, fill):
        shutil.rmtree(target)
        target.mkdir()
        fill(target)
        folders._flush(target)

    with monkeypatch.context() as patch:
        patch.setattr("mvl_bench.models.base.write_folder", careless)
        patch.setattr("mvl_bench.storage.os.fsync", killed_at(1, "fsync"))
        assert in_a_child(lambda: save(model, TOKENIZER, folder)) == signal.SIGKILL
    refused(folder)


def test_what_a_kill_left_does_not_hinder_the_next_save(folder, model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mvl_bench.storage.os.fsync", killed_at(3, "fsync"))
        in_a_child(lambda: save(model, TOKENIZER, folder, dict(steps=8)))
    save(model, TOKENIZER, folder, dict(steps=9))
    assert load(folder).facts["steps"] == 9


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    def half(folder):
        (folder / "a").write_text("new")
        raise OSError(errno.EIO, "Input/output error")

    write_folder(tmp_path / "x", lambda folder: (folder / "a").write_text("old"))
    with pytest.raises(UserError, match="Input/output error"):
        write_folder(tmp_path / "x", half)
    assert (tmp_path / "x" / "a").read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_what_another_optimiser_saved_is_refused(tmp_path):
    optimizer = make_optimizer(small(), TrainConfig())
    for key in ("3.exp_avg", "2.0.exp_avg", "0.x.exp_avg"):
        save_file({key: torch.zeros(2)}, tmp_path / STATE)
        with pytest.raises(UserError, match="is not what this optimiser saves"):
            load_state(tmp_path, optimizer)
