"What several processes do together, where one of them has nothing to add; each check is shown failing on a planted fault."

import os
import socket
import traceback
from dataclasses import replace

import pytest
import torch
from accelerate import PartialState
from torch import nn

from mvl_bench import distributed
from mvl_bench.core import UserError, update
from mvl_bench.data.factory import make_tokenizer, open_data
from mvl_bench.data.loader import first_pairs
from mvl_bench.data.pairs import collate
from mvl_bench.masking.base import without_image, without_text
from mvl_bench.models.maskvlm import MaskVLM, maskvlm_mini
from mvl_bench.training import loop
from mvl_bench.training.loop import LossPass, train_step
from mvl_bench.training.optim import TrainConfig, make_optimizer

SOURCE = open_data("scenes:shapes", 64)
TOKENIZER = make_tokenizer(SOURCE)
BATCH = collate(first_pairs(SOURCE, 9), TOKENIZER, 24)


def in_processes(work, folder, count=2):
    "The results of `work(rank)` in forked processes that can talk to each other; the traceback of one that failed."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [os.fork() or _child(work, rank, count, port, folder) for rank in range(count)]
    for child in children:
        os.waitpid(child, 0)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _child(work, rank, count, port, folder):
    "Join the others, work, store the result; does not come back."
    try:
        names = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=count, MASTER_PORT=port)
        os.environ |= {name: str(value) for name, value in names.items()} | dict(MASTER_ADDR="127.0.0.1")
        PartialState._reset_state()
        torch.set_num_threads(1)
        distributed.rank_and_world_size()
        result = work(rank)
    except BaseException:
        result = traceback.format_exc()
    torch.save(result, folder / f"{rank}.pt")
    os._exit(0)


def new_model(**changes):
    words = dict(vocab_size=len(TOKENIZER), pad_id=TOKENIZER.pad_token_id, mask_id=TOKENIZER.mask_token_id)
    cfg = update(maskvlm_mini(), embed_dim=24, num_heads=2, itc=1.0, itm=1.0, queue_size=0, **words)
    torch.manual_seed(0)
    return MaskVLM(update(cfg, momentum=0.5, **changes))


def rows_of(rank, count=2):
    return BATCH.rows(torch.arange(rank, len(BATCH), count))


def two_updates(batch, absent=None, passes=1, bucket_mb=25.0):
    "Losses, gradient norms and weights of two updates on this process's rows, in one or several passes."
    model, cfg = new_model(), TrainConfig(precision="fp32", warmup=1, batch_size=9)
    optimizer, found = make_optimizer(model, cfg), []
    loss_pass = distributed.data_parallel(LossPass(model), bucket_mb)
    for step in range(2):
        parts = [(batch, model.cfg.build_masking()(batch, (0, step + 10 * i))) for i in range(passes)]
        if absent:
            parts = [(batch, tuple(absent(view) for view in views)) for batch, views in parts]
        found += train_step(model, optimizer, parts, cfg, model.cfg.step_key(0, step), loss_pass)
    return found, {name: value.detach() for name, value in model.state_dict().items()}


def check_like_one(results, alone):
    "The same losses as one process, and the same weights in every process, bit for bit."
    for result in results:
        assert not isinstance(result, str), result
        for name, value in alone[0][0].items():
            assert result[0][0][name] == pytest.approx(value, rel=1e-6), name
        assert result[0][1] == pytest.approx(alone[0][1], rel=1e-6)  # the first gradient
        assert all(value.equal(result[1][name]) for name, value in results[0][1].items())
        apart = max((value - alone[1][name]).abs().max() for name, value in result[1].items() if value.numel())
        assert apart < 1e-4  # rounding; the two updates move a number by up to 2e-3


@pytest.mark.parametrize("count", [2, 4])  # 9 rows: uneven
@pytest.mark.parametrize("how", [dict(), dict(passes=2), dict(bucket_mb=0.001)])
def test_processes_do_what_one_does(tmp_path, count, how):
    alone = two_updates(BATCH, **how)
    check_like_one(in_processes(lambda rank: two_updates(rows_of(rank, count), **how), tmp_path, count), alone)


@pytest.mark.parametrize("fault", ["averages", "in each pass"])
def test_faulty_sums_are_found(tmp_path, fault, monkeypatch):
    alone = two_updates(BATCH, passes=2)
    if fault == "averages":
        averaged = nn.parallel.DistributedDataParallel
        monkeypatch.setattr(averaged, "register_comm_hook", lambda *hook: None)
    else:
        twice = distributed.exchange
        monkeypatch.setattr(loop, "exchange", lambda module, last: twice(module, True) if last else _silent(module))
    results = in_processes(lambda rank: two_updates(rows_of(rank), passes=2), tmp_path)
    with pytest.raises(AssertionError):
        check_like_one(results, alone)


def _silent(module):
    "A pass whose gradients are thrown away."
    return torch.no_grad()


def without_captions(batch):
    return replace(batch, has_text=torch.zeros_like(batch.has_text))


def test_a_process_without_complete_pairs_adds_nothing(tmp_path):
    "Rows 1, 3, 5, 7 have no caption: their process has no pair for ITC and ITM, and no masked word."
    odd = torch.arange(len(BATCH)) % 2 == 1
    whole = replace(BATCH, has_text=~odd)

    def work(rank):
        batch = whole.rows(torch.arange(rank, len(whole), 2))
        return two_updates(batch, lambda view: without_text(view, ~batch.has_text))

    alone = two_updates(whole, lambda view: without_text(view, odd))
    check_like_one(in_processes(work, tmp_path), alone)


def test_a_process_without_losses_waits_for_the_others(tmp_path):
    "Its images are absent and its captions unmasked: no loss applies to its rows."
    def work(rank):
        batch = rows_of(rank)
        if rank:
            batch = replace(batch, has_image=torch.zeros_like(batch.has_image))
        model, cfg = new_model(mlm=0.0, itc=0.0, itm=0.0), TrainConfig(precision="fp32", warmup=1)
        views = tuple(without_image(v, ~batch.has_image) for v in model.cfg.build_masking()(batch, (0, 0)))
        means, norm = train_step(model, make_optimizer(model, cfg), [(batch, views)], cfg, model.cfg.step_key(0, 0))
        return means, norm, torch.cat([p.detach().flatten() for p in model.parameters()])

    one, two = in_processes(work, tmp_path)
    assert not isinstance(one, str), one
    assert one[:2] == two[:2] and one[2].equal(two[2]) and one[0]["recon"] > 0


def test_nothing_to_learn_from_changes_no_weight(tmp_path):
    def work(rank):
        batch = rows_of(rank)
        model, cfg = new_model(mlm=0.0, itc=0.0, itm=0.0), TrainConfig(precision="fp32", warmup=1)
        views = tuple(without_image(v) for v in model.cfg.build_masking()(batch, (0, 0)))
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        means, _ = train_step(model, make_optimizer(model, cfg), [(batch, views)], cfg, model.cfg.step_key(0, 0))
        return means, before.equal(torch.cat([p.detach().flatten() for p in model.parameters()]))

    assert in_processes(work, tmp_path) == [({}, True)] * 2


def test_a_loss_that_is_no_number_stops_all(tmp_path):
    def work(rank):
        batch, model, cfg = rows_of(rank), new_model(), TrainConfig(precision="fp32", warmup=1)
        if rank:
            batch = replace(batch, images=batch.images.clone().fill_(torch.nan))
        views = model.cfg.build_masking()(batch, (0, 0))
        try:
            train_step(model, make_optimizer(model, cfg), [(batch, views)], cfg, model.cfg.step_key(0, 0))
        except UserError as error:
            return str(error)

    messages = in_processes(work, tmp_path)
    assert messages[0] == messages[1] and "stopped before the update" in messages[0]


@pytest.mark.parametrize("name", distributed.OTHER_LAUNCHERS)
def test_processes_that_would_train_alone_are_refused(monkeypatch, name):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(name, "1")
    assert distributed.rank_and_world_size() == (0, 1)
    monkeypatch.setenv(name, "2")
    with pytest.raises(UserError, match=f"{name} is 2.*train alone.*torchrun"):
        distributed.rank_and_world_size()


def test_processes_that_did_not_join_are_refused(monkeypatch):
    PartialState._reset_state()
    monkeypatch.setenv("WORLD_SIZE", "2")
    joined = type("Joined", (), dict(num_processes=1, process_index=0))
    monkeypatch.setattr("accelerate.PartialState", lambda **how: joined)
    with pytest.raises(UserError, match="1 process joined.*train alone"):
        distributed.rank_and_world_size()
