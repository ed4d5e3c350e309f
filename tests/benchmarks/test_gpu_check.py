"The GPU check runs from end to end on a CPU at small sizes, and a part that fails does not stop the others; waits are counted."

import json
from pathlib import Path

import pytest
import torch
from contract import small, some_batch
from devices import device

from mvl_bench.apps.cli.main import main
from mvl_bench.benchmarks import gpu_check
from mvl_bench.benchmarks.gpu_check import Setup, Trial, random_batch, run_gpu_check
from mvl_bench.benchmarks.timing import count_waits, warned_waits
from mvl_bench.core import Masks, UserError
from mvl_bench.training.loop import LossPass, train_step
from mvl_bench.training.optim import TrainConfig, make_optimizer

HERE = Path(__file__).parent
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_a_small_run_reports_every_part_and_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    path, kept = tmp_path / "gpu.json", []

    def no_kernel(setup):
        kept.append(sorted(json.loads(path.read_text())))  # what the parts before left
        raise RuntimeError("no kernel for this\nand more")

    monkeypatch.setattr(gpu_check, "ddp_of_one", no_kernel)
    assert main(["bench", "--gpu", "--small", "--json", str(path)]) == 1
    out, err = capsys.readouterr()
    found = json.loads(path.read_text())
    assert list(found) == [*gpu_check.gpu_parts(small=True)]
    failed = found.pop("ddp_of_one")
    assert failed["status"] == "failed" and failed["error"] == "RuntimeError: no kernel for this"
    assert "in no_kernel" in failed["traceback"]
    assert {name: part["status"] for name, part in found.items()} == dict.fromkeys(found, "done")
    assert kept == [sorted(["machine", "resume_as_it_is", "resume_deterministic", "same_as_cpu", "waits"])]
    lines = err.splitlines()
    assert "machine, same_as_cpu" in lines[0] and "half a minute" in lines[0]
    told = [line for line in lines if line.startswith("[")]
    assert len(told) == len(found) + 1 and any("ddp_of_one" in x and "no kernel for this" in x for x in told)
    assert lines[-1] == "mvl-bench bench: 1 of 9 parts did not pass: ddp_of_one (failed)"
    assert "waits tiny update counted" in out and "speed tiny 32 pairs per s" in out
    assert "by line update counted models/momentum_contrast.py:" in out
    same = found["same_as_cpu"]
    assert same["tiny fp32"]["same_masks"] and same["tiny bf16"]["gradient"] < 0.1
    assert found["resume_deterministic"]["repeats"] and found["resume_deterministic"]["resumes"]
    assert found["compiled"]["graphs"] > 0 and found["profile"]["longest_ms"]


def test_ddp_over_one_process_changes_nothing():
    assert gpu_check.ddp_of_one(Setup(torch.device("cpu"), small=True))["ok"]


def test_a_difference_is_reported(monkeypatch):
    "Another precision on the other device, and weights that are not those saved."
    setup = Setup(torch.device("cpu"), small=True)
    monkeypatch.setattr(gpu_check, "CLOSE", dict(bf16=1e-7))
    assert gpu_check.attempt(gpu_check.same_as_cpu, setup)["status"] == "differs"
    load = torch.nn.Module.load_state_dict
    monkeypatch.setattr(Trial, "digest", lambda trial: id(trial))
    assert gpu_check.attempt(gpu_check.gpu_parts(True)["resume_deterministic"], setup)["status"] == "differs"
    assert torch.nn.Module.load_state_dict is load and not torch.are_deterministic_algorithms_enabled()


def test_no_part_begins_after_the_limit(monkeypatch):
    monkeypatch.setattr(gpu_check, "LIMIT", -1.0)
    assert {part["status"] for part in run_gpu_check(small=True).values()} == {"left out"}


@NO_GPU
def test_without_a_gpu_it_is_one_sentence(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    assert main(["bench", "--gpu", "--json", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not path.exists()
    assert "needs a CUDA device, and this machine has none" in err and "--gpu --small" in err
    with pytest.raises(UserError, match="CUDA"):
        run_gpu_check()


@pytest.mark.parametrize("words", [["--small"], ["--gpu", "--quick"], ["--gpu", "--full"], ["--quick", "--full"]])
def test_flags_that_do_not_go_together(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", *words])
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_file_that_cannot_be_written_is_noticed_after_the_first_part(tmp_path, capsys):
    assert main(["bench", "--gpu", "--small", "--json", str(tmp_path / "none" / "gpu.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_batches_depend_on_their_number_only():
    cfg = gpu_check.four_loss_config("tiny", 512)
    one, again, other = (random_batch(cfg, 6, number) for number in (3, 3, 4))
    assert torch.equal(one.images, again.images) and torch.equal(one.input_ids, again.input_ids)
    assert not torch.equal(one.images, other.images) and not set(one.ids.tolist()) & set(other.ids.tolist())
    assert torch.equal(one.attention_mask.sum(1), torch.tensor([20, 19, 18, 17, 16, 20]))
    assert (one.input_ids[one.attention_mask == 0] == cfg.text.pad_id).all()
    assert not (one.maskable & (one.attention_mask == 0)).any() and not one.maskable[:, 0].any()


# ---- waits


def waits_of_each_kind(x, mask):
    "Wait once in each line."
    x.sum().item()
    bool(x.any())
    x[mask]
    x.masked_select(mask)
    mask.nonzero()
    torch.equal(x, x)
    torch.repeat_interleave(x, mask.long())
    x.unique()
    x[mask] = x[mask]  # twice


def no_waits(x, mask):
    "Know every size before."
    x[1:], x[torch.tensor([0, 1], device=x.device)], x.masked_fill(mask, 0)
    x[mask] = 0
    torch.repeat_interleave(x, mask.long(), output_size=2)
    x.to(x.device), x.to(torch.float64), x.copy_(x + 1)


def test_waits_are_counted_by_line():
    x, mask = torch.arange(4.0), torch.tensor([True, False, True, False])
    counts = count_waits(lambda: waits_of_each_kind(x, mask), root=HERE)
    first = waits_of_each_kind.__code__.co_firstlineno + 2
    kinds = ["item", "item", "boolean index", "masked select", "nonzero", "equal", "repeat interleave", "unique"]
    expected = {f"{Path(__file__).name}:{first + i}: {kind}": 1 for i, kind in enumerate(kinds)}
    assert counts == expected | {f"{Path(__file__).name}:{first + 8}: boolean index": 2}
    assert [*counts.values()][0] == 2  # most first
    assert not count_waits(lambda: no_waits(x, mask), root=HERE)
    assert count_waits(lambda: x.sum().item()) == {"elsewhere: item": 1}


def test_the_backward_pass_counts_too():
    x = torch.ones(3, requires_grad=True)
    y = x[torch.tensor([True, False, True])].sum()
    assert sum(count_waits(y.backward).values()) == 1


def test_on_another_device_copies_count_and_the_processors_own_work_does_not():
    with device() as where:
        there, mask = torch.arange(4.0, device=where), torch.tensor([True, False] * 2).to(where)
        counts = count_waits(lambda: waits_of_each_kind(there, mask), where, HERE)
        assert sum(counts.values()) == 10
        here = torch.arange(4.0)
        assert not count_waits(lambda: waits_of_each_kind(here, here > 1), where, HERE)
        copies = count_waits(lambda: [there.cpu(), here.to(where)], where, HERE)
        assert sum(n for place, n in copies.items() if place.endswith(": copy")) == 2


def test_the_census_of_an_update_names_lines():
    found = gpu_check.waits(Setup(torch.device("cpu"), small=True))["tiny"]
    lines = found["by_line"]["update_counted"]
    assert found["update_counted"] == sum(lines.values()) <= 8
    assert any(place.startswith("models/encoders.py:") for place in lines) and "elsewhere: item" not in lines


def waits_of_an_update(kind: str, **changes) -> dict:
    "Waits of masking and of one update of a small model on the stand-in, by line."
    with device() as where:
        model = small(kind, **changes).to(where).train()
        cfg = TrainConfig(steps=9, batch_size=6, precision="fp32", warmup=1)
        optimizer, loss_pass = make_optimizer(model, cfg), LossPass(model)
        batch, key = some_batch(6).to(where), model.cfg.step_key(0, 0)

        def step():
            views = model.cfg.build_masking()(batch, (0, 0))
            train_step(model, optimizer, [(batch, views)], cfg, key, loss_pass)

        step()  # the optimizer's state and the queue are there
        return count_waits(step, where)


LOSSES = dict(itc=1.0, itm=1.0, momentum=0.5, modality_dropout=0.3)


@pytest.mark.parametrize(
    "kind, changes, most",
    [
        ("maskvlm", LOSSES | dict(queue_size=0), 1),
        ("maskvlm", LOSSES | dict(queue_size=12), 2),
        ("maskvlm", LOSSES | dict(queue_size=0, corruption_ratio=0.2, object_mask_prob=0.5), 1),
        ("maskvlm", dict(texture=1.0, refine_width=4, mask_token_at="input"), 1),
        ("mlim", dict(itm=1.0), 2),
        ("mlim", dict(recon_area="whole"), 1),
    ],
)
def test_an_update_waits_for_its_losses_and_for_little_else(kind, changes, most):
    found = waits_of_an_update(kind, **changes)
    assert sum(found.values()) <= most, found
    assert any(place.startswith("training/loop.py:") for place in found)  # the losses are read, once


def test_masks_that_are_looked_at_on_the_device_are_found(monkeypatch):
    monkeypatch.setattr(Masks, "any_word_masked", property(lambda self: bool(self.text_mask.any())))
    assert sum(waits_of_an_update("maskvlm").values()) > 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch warns on CUDA only")
def test_torch_warns_of_the_same():
    there = torch.arange(4.0, device="cuda")
    assert sum(warned_waits(lambda: there.sum().item()).values()) == 1
