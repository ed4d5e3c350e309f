"A model divided among processes (FSDP2) learns what DDP learns, goes on bit by bit, and saves what one process loads."

import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import test_distributed as ddp
import torch
from test_processes import ASKED, MLIM, check_same_log, ended, launched, started, wait_for, weights_of

from mvl_bench import distributed
from mvl_bench.core import UserError
from mvl_bench.data.factory import open_data
from mvl_bench.masking.base import without_image, without_text
from mvl_bench.models.registry import load
from mvl_bench.training.loop import prepared, train_step
from mvl_bench.training.monitor import look, probes_of, read_looks
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


@pytest.mark.parametrize("count", [2, 3])  # 9 rows: uneven
@pytest.mark.parametrize("how", [dict(), dict(passes=2), dict(optimizer="adamw", checkpoint_activations=True)])
def test_shards_do_what_one_process_does(tmp_path, count, how):
    results = ddp.in_processes(partial(of_rank, count=count, **how), tmp_path, count)
    alone = updates(ddp.BATCH, shard=False, **how)
    ddp.check_like_one(results, alone)
    assert max(held for *_, held in results) < 1.2 * alone[2] / count
