"Checkpoints that are damaged, unknown, cut off by a full disk or a kill; and the shipped ones."

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_contract import TOKENIZER, one_thread, small  # noqa: F401  one_thread is a fixture

from mvl_bench import checkpoints
from mvl_bench.checkpoints import (
    MANIFEST,
    SHIPPED,
    check_folder,
    find,
    load,
    newest,
    save,
    write_folder,
)
from mvl_bench.core import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture
def folder(model, tmp_path):
    "A checkpoint."
    return save(model, TOKENIZER, tmp_path / "one", dict(steps=7))


def refused(name, *words):
    "The one line with which a checkpoint is refused; it has all the words."
    with pytest.raises(UserError) as caught:
        load(name)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600, text
    assert all(word in text for word in words), text
    return text


def rewrite(folder, name, content):
    "Replace a file and its hash, as a person would who edits a checkpoint."
    (folder / name).write_bytes(content)
    hashes = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(hashes | {name: checkpoints._hash(folder / name)}))


def same(a, b):
    "Whether two models hold the same weights."
    return all(v.equal(b.state_dict()[k]) for k, v in a.state_dict().items())


# ---- damaged


def test_a_whole_one_loads_wherever_it_is_moved(folder, model, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    again = load(moved)
    assert same(model, again) and again.cfg == model.cfg and again.facts["steps"] == 7
    half = save(model, TOKENIZER, tmp_path / "half", dtype=torch.float16)
    sizes = [(f / "model.safetensors").stat().st_size for f in (half, moved)]
    assert sizes[0] < 0.55 * sizes[1] and next(load(half).parameters()).dtype == torch.float32


def test_any_damage_names_the_file(folder):
    names = sorted(json.loads((folder / MANIFEST).read_text()))
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(names)
    assert set(names) == {f.name for f in folder.iterdir()} - {MANIFEST}
    for name in names:
        whole = (folder / name).read_bytes()
        place = random.Random(name).randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1
        for damaged in (whole[: len(whole) // 2], b"", whole + b" ", bytes(flipped)):
            (folder / name).write_bytes(damaged)
            refused(folder, name, "damaged")
        (folder / name).unlink()
        refused(folder, *[name] * (name != "config.json"))  # without it, a folder is no checkpoint
        (folder / name).write_bytes(whole)
        check_folder(folder)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_manifest(folder, content):
    (folder / MANIFEST).unlink()
    if content is not None:
        (folder / MANIFEST).write_bytes(content)
    refused(folder)


def test_a_config_of_another_kind(folder):
    about = json.loads((folder / "config.json").read_text())
    for wrong, word in (
        (about | {"model": "gpt"}, "gpt"),
        ({"architectures": ["BertModel"], "hidden_size": 768}, "model"),
        (about | {"config": about["config"] | {"width": 3}}, "width"),
        (about | {"config": about["config"] | {"patch_size": 7}}, "patch_size 7"),
        (about | {"config": about["config"] | {"embed_dim": "wide"}}, "config"),
        ([], "config"),
    ):
        rewrite(folder, "config.json", json.dumps(wrong).encode())
        text = refused(folder)
        assert word in text or word == "config", text
    rewrite(folder, "config.json", b"not json")
    refused(folder)


def test_a_config_that_is_a_list(folder):
    about = json.loads((folder / "config.json").read_text())
    rewrite(folder, "config.json", json.dumps(about | {"config": [1]}).encode())
    refused(folder)


def test_a_config_without_facts(folder):
    about = json.loads((folder / "config.json").read_text())
    about.pop("facts")
    rewrite(folder, "config.json", json.dumps(about).encode())
    try:
        assert load(folder).facts == {}
    except UserError as error:
        assert "facts" in str(error)


def test_weights_that_do_not_fit_are_named(folder, tmp_path):
    file = folder / "model.safetensors"
    weights = load_file(file)
    for change, words in (
        (dict(mask_vector=None), ["missing: mask_vector"]),
        (dict(extra_thing=torch.zeros(2)), ["unused: extra_thing"]),
        (dict(mask_vector=torch.zeros(3)), ["size: mask_vector"]),
        (dict(mask_vector=None, other=torch.ones(1)), ["missing: mask_vector", "unused: other"]),
    ):
        changed = {k: v for k, v in {**weights, **change}.items() if v is not None}
        save_file(changed, tmp_path / "changed")
        rewrite(folder, file.name, (tmp_path / "changed").read_bytes())
        refused(folder, *words)
    rewrite(folder, file.name, b"\x80\x02pickle" * 40)
    refused(folder, str(folder))


# ---- unknown


def test_unknown_names_are_told_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for name in ("maskvlm-huge", "", ".", "empty", "file", "a/b/c", "/", "no-one/no-such-model"):
        refused(name, repr(name), *SHIPPED)
    refused("run", "holds no whole checkpoint")


def test_a_run_gives_its_newest_whole_checkpoint(model, tmp_path):
    for step in (5, 40, 300):
        save(model, TOKENIZER, tmp_path / "checkpoints" / f"step-{step:08}", dict(steps=step))
    assert load(tmp_path).facts["steps"] == 300
    for step, left in ((300, 40), (40, 5)):
        with open(
            tmp_path / "checkpoints" / f"step-{step:08}" / "model.safetensors", "r+b"
        ) as file:
            file.truncate(100)
        assert find(tmp_path).name == f"step-{left:08}" and load(tmp_path).facts["steps"] == left
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000005")
    assert newest(tmp_path) is None
    refused(tmp_path, "no whole checkpoint")


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
    ["save_file", "json.dumps", "os.fsync", "_hash", "os.replace", "Path.write_text", "Path.mkdir"],
)
def test_any_failing_write_leaves_the_old_checkpoint_whole(folder, model, monkeypatch, where):
    with monkeypatch.context() as patch:
        patch.setattr(f"mvl_bench.checkpoints.{where}", no_space)
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

    last, lots = 0, random.Random(3)
    for _ in range(12):
        assert in_a_child(keep_saving, lots.uniform(0.01, 0.25)) == signal.SIGKILL
        found = load(tmp_path)
        assert found.facts["steps"] >= last and same(model, found)
        last = found.facts["steps"]
    assert last > 5, "hardly anything was saved: the kills proved nothing"


def killed_at(number, name):
    "A function of `os` that ends its process before or after its call with this number."
    calls, original = [], getattr(os, name)

    def call(*args):
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    return call


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
        patch.setattr(f"mvl_bench.checkpoints.os.{name}", killed_at(number, name))
        assert in_a_child(lambda: save(model, TOKENIZER, folder, dict(steps=8))) == signal.SIGKILL
    assert load(folder).facts["steps"] in (7, 8)


def test_a_save_that_is_not_atomic_is_found(folder, model, monkeypatch):
    "The kill test is not blind: writing straight into the folder leaves a broken checkpoint."

    def careless(target, fill):
        shutil.rmtree(target)
        target.mkdir()
        fill(target)
        checkpoints._flush(target)

    with monkeypatch.context() as patch:
        patch.setattr("mvl_bench.checkpoints.write_folder", careless)
        patch.setattr("mvl_bench.checkpoints.os.fsync", killed_at(1, "fsync"))
        assert in_a_child(lambda: save(model, TOKENIZER, folder)) == signal.SIGKILL
    refused(folder)


def test_what_a_kill_left_does_not_hinder_the_next_save(folder, model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mvl_bench.checkpoints.os.fsync", killed_at(3, "fsync"))
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


# ---- shipped, and without a network

LOAD_ALONE = """
import socket, sys
def refuse(*_, **__):
    raise SystemExit("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from mvl_bench.checkpoints import load
model = load(sys.argv[1])
print(model.facts["steps"], sum(p.numel() for p in model.parameters()))
"""


def test_loads_in_a_fresh_process_that_asks_no_network(folder, model):
    env = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_HUB_OFF", "HF_DATASETS_OFF"))
    }
    command = [sys.executable, "-c", LOAD_ALONE, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["7", str(sum(p.numel() for p in model.parameters()))]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped(name):
    if not SHIPPED[name].is_dir():
        pytest.skip(f"{name} is not in data/checkpoints yet")
    check_folder(SHIPPED[name])
    assert (SHIPPED[name] / "model.safetensors").stat().st_size <= 8 * 2**20
    model = load(name)
    for fact in ("command", "seed", "commit", "scores"):
        assert model.facts.get(fact) not in (None, "", {}), f"{name} does not say its {fact}"
    card = (SHIPPED[name] / "README.md").read_text()
    assert str(model.facts["command"]) in card
    assert str(ROOT) not in card + (SHIPPED[name] / "config.json").read_text()
