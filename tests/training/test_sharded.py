"A model divided among processes (FSDP2) learns what DDP learns, goes on bit by bit, and saves what one process loads."

import json
import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import test_distributed as ddp
import torch
from test_processes import (
    ASKED,
    MLIM,
    check_same_log,
    ended,
    launched,
    started,
    wait_for,
    weights_of,
)

from mvl_bench import distributed
from mvl_bench.core import UserError
from mvl_bench.data.factory import open_data
from mvl_bench.masking.base import without_image, without_text
from mvl_bench.models.registry import load
from mvl_bench.training.loop import prepared, train_step
from mvl_bench.training.monitor import look, probes_of, read_looks
from mvl_bench.training.nan_debug import failures, replay
from mvl_bench.training.optim import TrainConfig, make_optimizer


def updates(batch, absent=None, passes=1, shard=True, **how):
    "Losses, gradient norms and weights of three updates on this process's rows, and how many numbers it holds of each weight."
    model = ddp.new_model(queue_size=18)
    cfg = TrainConfig(precision="fp32", warmup=1, batch_size=9, shard=shard, **how)
    loss_pass, found = prepared(model, cfg), []
    optimizer = make_optimizer(model, cfg)
    for step in range(3):
        parts = [(batch, model.cfg.build_masking()(batch, (0, step + 10 * i))) for i in range(passes)]
        if absent:
            parts = [(batch, tuple(absent(view) for view in views)) for batch, views in parts]
        found += train_step(model, optimizer, parts, cfg, model.cfg.step_key(0, step), loss_pass)
    state = {name: distributed.whole(value.detach()) for name, value in model.state_dict().items()}
    held = [p.to_local().numel() if distributed.is_sharded(p) else p.numel() for p in model.parameters()]
    return found, state, sum(held)


def of_rank(rank, count=2, **how):
    return updates(ddp.rows_of(rank, count), **how)


@pytest.mark.parametrize(
    "count, how", [(2, dict(passes=2)), pytest.param(3, dict(), marks=pytest.mark.slow), (3, dict(optimizer="adamw", checkpoint_activations=True))]
)  # 9 rows: uneven
def test_shards_do_what_one_process_does(tmp_path, count, how):
    results = ddp.in_processes(partial(of_rank, count=count, **how), tmp_path, count)
    alone = updates(ddp.BATCH, shard=False, **how)
    ddp.check_like_one(results, alone)
    assert max(held for *_, held in results) < 1.2 * alone[2] / count


def whole_blocks(rank):
    "How many cross blocks are whole while one of them runs."
    model, cfg = ddp.new_model(cross_depth=3), TrainConfig(precision="fp32", shard=True)
    loss_pass, batch, found = prepared(model, cfg), ddp.rows_of(rank), []
    blocks = [*model.image_cross, *model.text_cross]
    for block in blocks:
        block.mlp.register_forward_hook(lambda *_: found.append(sum(not distributed.is_sharded(b.norm1.weight) for b in blocks)))
    parts = [(batch, model.cfg.build_masking()(batch, (0, 0)))]
    train_step(model, make_optimizer(model, cfg), parts, cfg, model.cfg.step_key(0, 0), loss_pass)
    return found


def test_one_block_is_whole_at_a_time(tmp_path):
    for found in ddp.in_processes(whole_blocks, tmp_path):
        assert not isinstance(found, str), found
        assert found and {*found} == {1}


def even_captions(rank):
    "The process of rows 1, 3, 5, 7 has no caption: no pair, and nothing to match or to fill in."
    batch = ddp.SOME_CAPTIONS.rows(torch.arange(rank, len(ddp.BATCH), 2))
    return updates(batch, lambda view: without_text(view, ~batch.has_text))


def even_images(rank):
    "The other has no masked patch."
    batch = ddp.rows_of(rank)
    batch = replace(batch, has_image=torch.full_like(batch.has_image, not rank))
    return updates(batch, lambda view: without_image(view, ~batch.has_image))


@pytest.mark.slow
def test_a_process_without_rows_of_a_kind_gathers_what_the_others_need(tmp_path):
    alone = updates(ddp.SOME_CAPTIONS, lambda view: without_text(view, ddp.ODD), shard=False)
    ddp.check_like_one(ddp.in_processes(even_captions, tmp_path), alone)
    batch = replace(ddp.BATCH, has_image=~ddp.ODD)
    alone = updates(batch, lambda view: without_image(view, ddp.ODD), shard=False)
    ddp.check_like_one(ddp.in_processes(even_images, tmp_path), alone)
    assert alone[0][0]["recon"] > 0  # there was something to learn from


def nothing(rank):
    "No process has anything to learn from, then all have."
    before = ddp.new_model(**ddp.RECON)
    batch, cfg = ddp.rows_of(rank), TrainConfig(precision="fp32", warmup=1, shard=True)
    loss_pass, key = prepared(before, cfg), before.cfg.step_key(0, 0)
    optimizer, means = make_optimizer(before, cfg), []
    for absent in (without_image, lambda view: view):
        views = tuple(absent(view) for view in before.cfg.build_masking()(batch, (0, 0)))
        means.append(train_step(before, optimizer, [(batch, views)], cfg, key, loss_pass)[0])
    return means


def test_an_update_without_losses_changes_nothing(tmp_path):
    for means in ddp.in_processes(nothing, tmp_path):
        assert not isinstance(means, str), means
        assert means[0] == {} and means[1]["recon"] > 0


def nan_in_the_second(rank):
    batch = ddp.rows_of(rank)
    if rank:
        batch = replace(batch, images=batch.images.clone().fill_(torch.nan))
    try:
        updates(batch)
    except UserError as error:
        return str(error)


def test_a_loss_that_is_no_number_stops_all(tmp_path):
    messages = ddp.in_processes(nan_in_the_second, tmp_path)
    assert messages[0] == messages[1] and "stopped before the update" in messages[0]


def averaged(rank):
    "Gradients as FSDP leaves them without our factor."
    from torch.distributed.fsdp import FSDPModule

    FSDPModule.set_gradient_divide_factor = lambda *how: None
    return of_rank(rank)


def test_faults_are_found(tmp_path):
    with pytest.raises(AssertionError):
        ddp.check_like_one(ddp.in_processes(averaged, tmp_path), updates(ddp.BATCH, shard=False))


# ---- whole runs


def kill_second(out, lines: int, *more: str, requested):
    "Start two processes and kill the second when so many lines are in the log: what the first says then."
    running = started(out, 2, *more, requested=requested)
    wait_for(out, lines)
    os.kill(running[1].pid, signal.SIGKILL)
    return ended(running, out)


@pytest.fixture
def threads():
    "Afterwards as many threads as before."
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [ASKED, MLIM], ids=["maskvlm", "mlim"])
def test_a_sharded_run_is_like_one_of_ddp_and_goes_on_after_a_kill(tmp_path, asked, threads):
    more = ["save_every=5", "probe_every=10", "--steps", "20"]
    plain, straight, killed = (tmp_path / name for name in ("plain", "straight", "killed"))
    runs = [(out, launched(out, 2, *how, *more, requested=asked)) for out, how in ((plain, []), (straight, ["shard=true"]))]
    check_same_log(runs, 20, ["mlm", "recon", "itm"], later=1e-6)
    check_same_log(runs, 20, ["grad_norm"])
    done = kill_second(killed, 12, "shard=true", *more, requested=asked)
    assert "another process of this run is gone" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (killed / "checkpoints" / "step-00000020").exists()
    done = launched(killed, 2, "shard=true", *more, "--resume", requested=asked)
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (out / "checkpoints" / "step-00000020" for out in (straight, killed))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    model = load(one)  # in one process: the reconstructions that the run itself has written
    assert {name: x.shape for name, x in weights_of(plain).items()} == {name: x.shape for name, x in weights_of(straight).items()}
    (last,) = (about for about in read_looks(straight) if about["step"] == 20)
    torch.set_num_threads(1)  # as in the run: sums in another order differ in the last digits
    again = look(model, probes_of(model, open_data("scenes:shapes", model.cfg.image.img_size, split="val")), 20).about
    assert json.loads(json.dumps(again)) == {name: value for name, value in last.items() if name != "picture"}


@pytest.mark.slow
def test_one_process_goes_on_with_a_sharded_run_and_two_with_its(tmp_path):
    out, more = tmp_path / "run", ["--resume", "--allow-changes", "--steps"]
    for count, how in ((2, ["shard=true", "--steps", "4"]), (1, [*more, "5"]), (2, ["shard=true", *more, "6"])):
        done = launched(out, count, *how)
        assert done.returncode == 0, done.stderr[-2000:]
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "count, how, message",
    [
        (1, [], "this is one alone: launch several with torchrun"),
        (2, ["image_strategy=score"], "image_strategy 'score' asks the whole model"),
    ],
)
def test_what_cannot_be_divided_is_refused(tmp_path, count, how, message):
    done = launched(tmp_path / "run", count, "shard=true", *how)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "run").exists()
    assert message in done.stderr, done.stderr


def test_another_model_is_refused(tmp_path):
    asked = ["train", "--model", "vitmae", "--data", "scenes:shapes", "--set", "shard=true"]
    done = launched(tmp_path / "run", 2, requested=asked)
    assert done.returncode == 2 and "runs the same parts in every process: vitmae does not" in done.stderr


def test_a_signal_saves_the_whole_of_a_sharded_run(tmp_path):
    out, asked = tmp_path / "run", ["shard=true", "save_every=99999", "probe_every=0", "--steps", "9999"]
    running = started(out, 2, *asked)
    wait_for(out, 3)
    for process in running:
        os.kill(process.pid, signal.SIGTERM)
    done = ended(running, out)
    assert done.returncode == 128 + signal.SIGTERM and "Traceback" not in done.stderr
    (path,) = (out / "checkpoints").iterdir()
    assert load(path).facts["steps"] == int(path.name.removeprefix("step-"))


def test_a_failed_update_is_kept_whole_by_each_process(tmp_path):
    out = tmp_path / "run"
    done = launched(out, 2, "shard=true", "lr=1e30", "warmup=0", "optimizer=adamw", "probe_every=0")
    assert done.returncode == 2 and "stopped before the update" in done.stderr and "Traceback" not in done.stderr
    assert len(failures(out)) == 2
    for path in failures(out):
        assert any("no number" in line for line in replay(path))
