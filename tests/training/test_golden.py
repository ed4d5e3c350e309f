"""Twenty steps of each model from a fixed seed: the losses are those that were written down.

python tests/test_golden.py writes them anew, when a formula was meant to change.
"""

import json
from pathlib import Path

import pytest
import torch

from mvl_bench.data.factory import make_tokenizer
from mvl_bench.data.loader import batches
from mvl_bench.training.config import DataConfig, RunConfig, with_settings
from mvl_bench.training.loop import train_steps
from mvl_bench.training.runner import new_model, open_source

KEPT = Path(__file__).with_name("golden.json")
SMALL = ["precision=fp32", "steps=20", "batch_size=8", "warmup=5", "embed_dim=32", "num_heads=2"]
MODELS = dict(
    maskvlm=["image_depth=1", "text_depth=1", "full_mask_steps=5", "itc=1", "itm=1", "queue_size=16"],
    mlim=["depth=2", "itm=1", "joint_strategy=mam"],
    vitmae=["depth=2"],
    vilt=["depth=2"],
)  # fmt: skip


def losses_of(name: str) -> list[dict[str, float]]:
    "Losses and norm of the gradient of twenty steps, on one thread."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = with_settings(RunConfig("", name, data=DataConfig("scenes:shapes")), SMALL + MODELS[name])
    source = open_source(run)
    model, tokenizer = new_model(run, source)
    assert len(tokenizer) == len(make_tokenizer(source))
    stream = batches(
        source, tokenizer, run.training.batch_size, max_text_len=model.cfg.text.max_text_len
    )
    steps = [s.losses | dict(grad=s.grad_norm) for s in train_steps(model, stream, run.training)]
    torch.set_num_threads(threads)
    return steps


def apart(found: list[dict], kept: list[dict]) -> float:
    "The largest relative difference between two records."
    assert [*map(sorted, found)] == [*map(sorted, kept)], "other losses than before"
    pairs = [(a[name], b[name]) for a, b in zip(found, kept) for name in a]
    return max(abs(a - b) / max(abs(b), 1e-3) for a, b in pairs)


@pytest.mark.parametrize("name", MODELS)
def test_the_losses_are_those_that_were_written_down(name):
    kept = json.loads(KEPT.read_text())[name]
    assert len(kept) == 20 and apart(losses_of(name), kept) < 2e-3


def test_a_formula_that_is_a_hundredth_off_is_noticed(monkeypatch):
    from mvl_bench.models import mlim

    real = mlim.mlm
    monkeypatch.setattr(mlim, "mlm", lambda *args: 1.01 * real(*args))
    assert apart(losses_of("mlim"), json.loads(KEPT.read_text())["mlim"]) > 5e-3


if __name__ == "__main__":
    KEPT.write_text(json.dumps({name: losses_of(name) for name in MODELS}, indent=1))
