"What several processes do together, where one of them has nothing to add; each check is shown failing on a planted fault."

import os
import traceback
from dataclasses import replace
from functools import partial

import processes
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
    "Results of `work(rank)` in processes that can talk to each other; the traceback of one that failed."
    rows = enumerate(processes.addresses(count))
    processes.wait([processes.start(_in_process, work, rank, where, folder) for rank, where in rows])
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _in_process(work, rank, where, folder):
    "Join the others, work, store the result."
    try:
        os.environ |= where
        distributed.rank_and_world_size()
        result = work(rank)
    except BaseException:
        result = traceback.format_exc()
    torch.save(result, folder / f"{rank}.pt")


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


def two_updates_of(rank, count=2, **how):
    return two_updates(rows_of(rank, count), **how)


@pytest.mark.parametrize("count", [2, 4])  # 9 rows: uneven
@pytest.mark.parametrize("how", [dict(), dict(passes=2), dict(bucket_mb=0.001)])
def test_processes_do_what_one_does(tmp_path, count, how):
    results = in_processes(partial(two_updates_of, count=count, **how), tmp_path, count)
    check_like_one(results, two_updates(BATCH, **how))


def averaged(rank):
    "Gradients as DDP leaves them without our hook."
    nn.parallel.DistributedDataParallel.register_comm_hook = lambda *hook: None
    return two_updates_of(rank, passes=2)


def last_pass_only(rank):
    "Gradients of all passes but the last are thrown away."
    exchange = distributed.exchange
    loop.exchange = lambda module, last: exchange(module, True) if last else torch.no_grad()
    return two_updates_of(rank, passes=2)


@pytest.mark.parametrize("fault", [averaged, last_pass_only])
def test_faulty_sums_are_found(tmp_path, fault):
    results = in_processes(fault, tmp_path)
    with pytest.raises(AssertionError):
        check_like_one(results, two_updates(BATCH, passes=2))


ODD = torch.arange(len(BATCH)) % 2 == 1
SOME_CAPTIONS = replace(BATCH, has_text=~ODD)


def even_captions(rank):
    "Rows 1, 3, 5, 7 have no caption: their process has no pair for ITC and ITM, and no masked word."
    batch = SOME_CAPTIONS.rows(torch.arange(rank, len(BATCH), 2))
    return two_updates(batch, lambda view: without_text(view, ~batch.has_text))


def test_a_process_without_complete_pairs_adds_nothing(tmp_path):
    alone = two_updates(SOME_CAPTIONS, lambda view: without_text(view, ODD))
    check_like_one(in_processes(even_captions, tmp_path), alone)


def one_update(batch, absent, **changes):
    "Losses, gradient norm, weights before and after one update."
    model, cfg = new_model(**changes), TrainConfig(precision="fp32", warmup=1)
    views = tuple(absent(view) for view in model.cfg.build_masking()(batch, (0, 0)))
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    means, norm = train_step(model, make_optimizer(model, cfg), [(batch, views)], cfg, model.cfg.step_key(0, 0))
    return means, norm, before, torch.cat([p.detach().flatten() for p in model.parameters()])


RECON = dict(mlm=0.0, itc=0.0, itm=0.0)


def no_image_in_the_second(rank):
    "No loss applies to the second's rows: their images are absent and their captions unmasked."
    batch = rows_of(rank)
    if rank:
        batch = replace(batch, has_image=torch.zeros_like(batch.has_image))
    return one_update(batch, lambda view: without_image(view, ~batch.has_image), **RECON)


def test_a_process_without_losses_waits_for_the_others(tmp_path):
    one, two = in_processes(no_image_in_the_second, tmp_path)
    assert not isinstance(one, str), one
    assert one[:2] == two[:2] and one[3].equal(two[3]) and one[0]["recon"] > 0


def no_image(rank):
    return one_update(rows_of(rank), without_image, **RECON)


def test_nothing_to_learn_from_changes_no_weight(tmp_path):
    for result in in_processes(no_image, tmp_path):
        assert not isinstance(result, str), result
        assert result[0] == {} and result[2].equal(result[3])


def nan_in_the_second(rank):
    batch = rows_of(rank)
    if rank:
        batch = replace(batch, images=batch.images.clone().fill_(torch.nan))
    try:
        one_update(batch, lambda view: view)
    except UserError as error:
        return str(error)


def test_a_loss_that_is_no_number_stops_all(tmp_path):
    messages = in_processes(nan_in_the_second, tmp_path)
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
