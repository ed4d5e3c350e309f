"A run that is killed at any moment and goes on ends with the same bytes as one that was never stopped."

import threading
from dataclasses import replace
from pathlib import Path

import certificate
import processes
import pytest
import torch
from contract import one_thread  # noqa: F401  a fixture
from datasets.packaged_modules.parquet.parquet import Parquet
from samples import one_sentence

from mvl_bench.core import UserError
from mvl_bench.models import base
from mvl_bench.storage import newest
from mvl_bench.training import runner as runs
from mvl_bench.training.config import DataConfig, RunConfig
from mvl_bench.training.resume import changed_settings

LONGER = [pytest.param(name, marks=pytest.mark.slow) for name in ("mlim", "maskvlm", "stream", "stream by length")]


@pytest.mark.parametrize("name", LONGER)
def test_killed_and_gone_on_with_it_ends_with_the_same_bytes(name, tmp_path, one_thread):  # noqa: F811
    found = certificate.certify(name, kills=4, steps=30, folder=tmp_path, seed=1)
    assert found["unlike"] == [] and found["tensors"] > 20
    assert found["kills"] == 4 and found["inside_a_save"] == 1


@pytest.mark.slow
def test_a_stream_that_goes_on_reads_one_window(tmp_path, one_thread, monkeypatch):  # noqa: F811
    "Rows are counted where pyarrow gives them out: looks at the data and all else that a run reads are among them."
    for part in range(40):  # 1,600 rows in groups of 20
        pairs = [certificate.Scenes("shapes", seed=part, img_size=16).pair(i) for i in range(40)]
        told = dict(image=[certificate.png(p.image) for p in pairs], caption=[p.caption for p in pairs])  # fmt: skip
        certificate.Dataset.from_dict(told).to_parquet(
            str(tmp_path / f"{part:02}.parquet"), batch_size=20
        )
    run = certificate.case("stream", tmp_path, 100, make=False)
    processes.wait([processes.start(certificate.sitting, run, False, ("replace", 260))])
    before = int(newest(Path(run.out)).name.removeprefix("step-"))
    assert before > 40  # steps of twelve rows
    read, tables = [], Parquet._generate_tables

    def counted(builder, **files):
        for key, table in tables(builder, **files):
            read.append(len(table))
            yield key, table

    monkeypatch.setattr(Parquet, "_generate_tables", counted)
    goes_on = replace(run, training=replace(run.training, steps=before + 2))
    runs.run_training(goes_on, resume=True, quiet=True, changed=True)
    assert sum(read) < 200 < 12 * before
    read.clear()
    monkeypatch.setattr(runs, "read_mark", lambda path: None)
    goes_on = replace(run, training=replace(run.training, steps=before + 4))
    runs.run_training(goes_on, resume=True, quiet=True, changed=True)
    assert sum(read) > 12 * before  # without its mark it reads all that went before


@pytest.mark.slow
def test_a_run_that_forgets_something_is_found(tmp_path, one_thread, monkeypatch):  # noqa: F811
    "The certificate is not blind: going on without the optimiser's memory, or one batch further, shows."
    for way in ("straight", "forgetful", "ahead"):
        (tmp_path / way).mkdir()
    straight, forgetful, ahead = (
        certificate.case("maskvlm", tmp_path / way, 9) for way in ("straight", "forgetful", "ahead")
    )
    runs.run_training(straight, quiet=True)
    for run in (forgetful, ahead):
        processes.wait([processes.start(certificate.sitting, run, False, ("replace", 7))])
        assert newest(Path(run.out)) is not None
    with monkeypatch.context() as patched:
        patched.setattr(runs, "load_state", lambda path, optimizer: None)
        runs.run_training(forgetful, resume=True, quiet=True)
    assert certificate.unlike(straight, forgetful)
    with monkeypatch.context() as patched:
        real = runs.Steps
        patched.setattr(runs, "Steps", lambda *args: real(*args[:3], args[3] + 1, *args[4:]))
        runs.run_training(ahead, resume=True, quiet=True)
    assert certificate.unlike(straight, ahead)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, one_thread, capsys):  # noqa: F811
    run = certificate.case("mlim", tmp_path, 9)
    runs.run_training(run, quiet=True)
    last = newest(Path(run.out))
    weights = last / "model.safetensors"
    bits = bytearray(weights.read_bytes())
    bits[-1] ^= 1
    weights.write_bytes(bits)
    runs.run_training(run, resume=True, quiet=True)
    told = capsys.readouterr().err
    assert "passed over" in told and last.name in told
    assert newest(Path(run.out)).name == last.name  # written again, whole


def test_other_data_under_the_same_name_is_refused(tmp_path, one_thread):  # noqa: F811
    run = certificate.case("stream", tmp_path, 3)
    runs.run_training(run, quiet=True)
    more = replace(run, training=replace(run.training, steps=3))
    other = certificate.Scenes("shapes", seed=9, img_size=16)
    pairs = [other.pair(i) for i in range(20)]
    told = dict(image=[certificate.png(p.image) for p in pairs], caption=[p.caption for p in pairs])
    for part in range(3):
        certificate.Dataset.from_dict(told).to_parquet(str(tmp_path / f"{part}.parquet"))
    with pytest.raises(UserError, match="is not the data that .* was begun with"):
        runs.run_training(more, resume=True, quiet=True)
    runs.run_training(more, resume=True, quiet=True, changed=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    run = certificate.case("mlim", tmp_path, 3)
    Path(run.out).mkdir()
    (Path(run.out) / "letter.txt").write_text("dear")
    for resume, said in ((False, "is not empty and holds no run"), (True, "is not empty")):
        with pytest.raises(UserError, match=said):
            runs.run_training(run, resume=resume, quiet=True)
    assert [f.name for f in Path(run.out).iterdir()] == ["letter.txt"]


def test_a_run_stopped_before_its_first_save_begins_again_and_says_so(tmp_path, one_thread, capsys):  # noqa: F811
    run = replace(certificate.case("mlim", tmp_path, 4), save_every=99)
    processes.wait([processes.start(certificate.sitting, run, False, ("replace", 5))])
    assert newest(Path(run.out)) is None and (Path(run.out) / "run.json").exists()
    runs.run_training(run, resume=True, quiet=True)
    assert "begins again" in capsys.readouterr().err
    assert newest(Path(run.out)).name == "step-00000004"


def test_another_spelling_of_a_path_is_the_same_run(tmp_path, monkeypatch):
    (tmp_path / "pics").mkdir(), (tmp_path / "other").mkdir(), (tmp_path / "sub").mkdir()
    before = RunConfig("run", "maskvlm", data=DataConfig("pics"))

    def changes(path):
        return changed_settings(replace(before, data=DataConfig(path)), before)

    monkeypatch.chdir(tmp_path)
    for path in ("./pics", "pics/", str(tmp_path / "pics"), "other/../pics"):
        assert not changes(path)
    assert changes("other").keys() == changes("gone/pics").keys() == {"data.source"}
    monkeypatch.chdir(tmp_path / "sub")
    assert not changes("../pics")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee docs"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."),
        MemoryError(),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:20]}",
)  # fmt: skip
def test_missing_memory_is_one_line_and_keeps_what_was_saved(
    tmp_path, one_thread, monkeypatch, error
):  # noqa: F811
    run = certificate.case("mlim", tmp_path, 9)
    real = runs.train_steps

    def failing(*args):
        for done in real(*args):
            yield done
            if done.step == 7:
                raise error

    with monkeypatch.context() as patched:
        patched.setattr(runs, "train_steps", failing)
        with pytest.raises(UserError) as caught:
            runs.run_training(run, quiet=True)
    size = run.training.batch_size
    one_sentence(caught, f"batch_size {size}", "lower", "accumulate", run.out)
    assert newest(Path(run.out)) is not None
    runs.run_training(run, resume=True, quiet=True)
    assert newest(Path(run.out)).name == "step-00000009"


def test_other_errors_are_not_taken_for_missing_memory():
    with pytest.raises(RuntimeError, match="shapes"), runs.memory_guard("out", 8):
        raise RuntimeError("shapes cannot be multiplied")


# ---- written while training goes on


def slowly(write, started, may_end):
    "A writer of folders that waits until it may end."

    def wait(*args):
        started.set()
        assert may_end.wait(60)
        write(*args)

    return wait


def test_updates_go_on_while_a_checkpoint_is_written(tmp_path, monkeypatch, one_thread):  # noqa: F811
    "The checkpoint of step 3 holds step 3, though four updates came before it was on the disk."
    run = replace(certificate.case("maskvlm", tmp_path, 9), keep_checkpoints=9)
    started, may_end, logged = threading.Event(), threading.Event(), []
    monkeypatch.setattr(base, "write_folder", slowly(base.write_folder, started, may_end))
    add = runs.RunRecorder.add

    def added(recorder, done):
        add(recorder, done)
        logged.append(done.step)
        if done.step == 5:
            assert started.is_set() and newest(Path(run.out)) is None
            may_end.set()

    monkeypatch.setattr(runs.RunRecorder, "add", added)
    runs.run_training(run, quiet=True)
    assert logged == [*range(1, 10)]
    saved = sorted((Path(run.out) / "checkpoints").glob("step-*"))
    monkeypatch.undo()
    short = replace(run, out=str(tmp_path / "short"))
    steps = iter(range(1, 99))

    class Stops:
        "A view that stops after three updates."

        def __init__(self, *about): self.stopped = False
        def add(self, done, row): self.stopped = next(steps) == 3
        def end(self): pass

    runs.run_training(short, view=Stops)
    first = sorted((Path(short.out) / "checkpoints").glob("step-*"))
    assert first[-1].name == saved[0].name == "step-00000003"
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = (certificate.load_file(path / name) for path in (saved[0], first[-1]))
        assert all(one[key].equal(other[key]) for key in other)


def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_one_line(tmp_path, monkeypatch, one_thread):  # noqa: F811
    run = certificate.case("maskvlm", tmp_path, 30)

    def full(folder, fill):
        raise UserError(f"could not save to {folder}: No space left on device")

    monkeypatch.setattr(base, "write_folder", full)
    with pytest.raises(UserError, match="No space left"):
        runs.run_training(run, quiet=True)
    rows = certificate.rows(run)
    assert 3 <= len(rows) < 30 and newest(Path(run.out)) is None
