"Optimisers and their settings: rejected values, the schedule, Muon beside AdamW and beside torch's Muon."

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mvl_bench.core import MaskedVLModel, UserError
from mvl_bench.training.optim import (
    MUON_SCALE,
    Muon,
    OptimizerGroup,
    TrainConfig,
    learning_rate,
    make_optimizer,
)

WRONG = [
    (dict(steps=0), "steps 0 is under 1"),
    (dict(batch_size=0), "batch_size 0 is under 1"),
    (dict(lr=-1.0), "lr -1.0 is not a number above 0"),
    (dict(lr=float("nan")), "lr nan is not a number above 0"),
    (dict(warmup=-1), "warmup -1 is under 0"),
    (dict(pretrained_lr_scale=1.5), "pretrained_lr_scale 1.5 is not between 0 and 1"),
    (dict(beta2=1.0), "beta2 1.0 is not between 0 and 1"),
    (dict(precision="fp8"), "precision 'fp8' is neither fp32 nor bf16"),
    (dict(optimizer="sgd"), "optimizer 'sgd' is neither muon nor adamw"),
]


class Layer(nn.Linear, MaskedVLModel):
    "A model of a single hidden matrix."

    cfg = SimpleNamespace(text=SimpleNamespace(vocab_size=400))

    def __init__(self):
        super().__init__(96, 96, bias=False)


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_an_impossible_setting_is_rejected_with_its_value(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)


def test_the_learning_rate_rises_linearly_and_falls_to_zero():
    cfg = TrainConfig(steps=1000)
    rates = [learning_rate(step, cfg) for step in range(cfg.steps)]
    assert max(rates) == cfg.lr and rates[0] == cfg.lr / cfg.warmup and rates[-1] < 1e-4 * cfg.lr
    top = rates.index(cfg.lr)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:])[::-1]


def test_muon_moves_a_weight_along_weak_directions_of_its_gradient_too_and_adamw_does_not():
    torch.manual_seed(0)
    before = torch.randn(96, 96)
    steep = torch.linalg.qr(torch.randn(96, 96))[0] * torch.logspace(0, -3, 96)
    gradient, typical = steep @ torch.linalg.qr(torch.randn(96, 96))[0], {}
    for name in ("adamw", "muon"):
        layer = Layer()
        layer.weight.data, layer.weight.grad = before.clone(), gradient.clone()
        make_optimizer(layer, TrainConfig(optimizer=name, weight_decay=0)).step()
        moved = torch.linalg.svdvals(layer.weight.data - before)
        typical[name] = (moved.median() / moved.max()).item()
    assert typical["muon"] > 0.5 > 0.3 > typical["adamw"]


def test_muon_in_bf16_is_that_of_torch_but_for_rounding():
    torch.manual_seed(0)
    shapes = ((96, 96), (384, 96), (96, 96), (96, 384))
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in weights]
    settings = dict(lr=0.01, weight_decay=0.1)
    ours = Muon(weights, dtype=torch.bfloat16, **settings)
    reference = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(3):
        for weight, other in zip(weights, theirs):
            weight.grad = torch.randn_like(weight)
            other.grad = weight.grad.clone()
        ours.step(), reference.step()
    difference = torch.cat([(a - b).flatten() for a, b in zip(weights, theirs)]).norm()
    assert difference / (0.01 * 0.2 * 384**0.5 * 96**0.5) < 0.05  # of one step of a large matrix


def test_hidden_matrices_go_to_muon_unless_adamw_is_requested():
    layer = Layer()
    adamw, muon = make_optimizer(layer, TrainConfig()).parts
    assert not any(group["params"] for group in adamw.param_groups)
    (group,) = muon.param_groups
    assert group["params"][0] is layer.weight and group["scale"] == MUON_SCALE
    (adamw,) = make_optimizer(layer, TrainConfig(optimizer="adamw")).parts
    assert [len(group["params"]) for group in adamw.param_groups] == [1, 0]


def test_a_restored_state_makes_the_same_update():
    torch.manual_seed(0)
    vector, matrix = torch.randn(8), torch.randn(8, 8)

    def build():
        weights = [nn.Parameter(vector.clone()), nn.Parameter(matrix.clone())]
        return OptimizerGroup(torch.optim.AdamW(weights[:1], lr=0.1), Muon(weights[1:], lr=0.1)), weights

    (first, ours), (second, theirs) = build(), build()
    for weight in ours:
        weight.grad = torch.randn_like(weight)
    first.step()
    second.load_state({name: value.clone() for name, value in first.state().items()})
    for weight, other in zip(ours, theirs):
        other.data, other.grad = weight.data.clone(), weight.grad.clone()
    first.step(), second.step()
    assert all(weight.equal(other) for weight, other in zip(ours, theirs))
