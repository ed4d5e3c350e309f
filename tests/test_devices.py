"""Every entry point with the model on another device than the CPU gives what it gives on the CPU; planted faults are found.

The device is CUDA where there is one, else the stand-in of `devices`, which refuses what CUDA refuses.
"""

import json
import shutil
import tempfile
from dataclasses import is_dataclass, replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from contract import (  # noqa: F401
    CASES,
    SMALL,
    SQUARE,
    TOKENIZER,
    VARIANTS,
    odd_views,
    one_thread,
    small,
    some_batch,
)
from devices import NAME, device
from PIL import Image

from mvl_bench import api
from mvl_bench.apps.board.events import examples
from mvl_bench.apps.board.quiz import answer, riddle
from mvl_bench.apps.board.respond import opening, react, settle
from mvl_bench.apps.cli.main import main
from mvl_bench.apps.panels.base import last_answer
from mvl_bench.apps.panels.compare import COMPARE
from mvl_bench.apps.panels.decoding import DECODING
from mvl_bench.apps.panels.influence import INFLUENCE
from mvl_bench.apps.panels.masking import MASKING
from mvl_bench.apps.panels.quiz import QUIZ
from mvl_bench.apps.panels.uncertainty import UNCERTAINTY, measure_calibration
from mvl_bench.core import Batch, Masks, Output, UserError, pick_device, view
from mvl_bench.data.finite_worlds import KnownWorld
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.task_tables import open_task
from mvl_bench.evaluation import baselines, painted_colours
from mvl_bench.evaluation.attribution import score_influence
from mvl_bench.evaluation.decoding import score_decoding, score_spread
from mvl_bench.evaluation.item_matching import score_pairs
from mvl_bench.evaluation.retrieval import gallery, matches
from mvl_bench.inference.attribution import (
    attention_gradient,
    deletion,
    influence,
    noise_floor,
    word_gains,
)
from mvl_bench.inference.decoding import Plan, alternate, first_step
from mvl_bench.inference.reconstruction import reconstruct_pair
from mvl_bench.inference.training_distance import training_distance
from mvl_bench.inference.uncertainty import spread
from mvl_bench.models.base import ImageConfig, save
from mvl_bench.models.ideal_observer import IdealConfig, IdealObserver
from mvl_bench.models.registry import load, untrained_copy
from mvl_bench.models.task_heads import TaskConfig, TaskModel
from mvl_bench.training import finetune as finetuning
from mvl_bench.training import race, runner
from mvl_bench.training.config import DataConfig, RunConfig, with_settings
from mvl_bench.training.doctor import EARLY, diagnose
from mvl_bench.training.finetune import FinetuneConfig, run_finetuning
from mvl_bench.training.loop import NotFinite, find_lr
from mvl_bench.training.nan_debug import keep_failure, replay
from mvl_bench.training.optim import TrainConfig
from mvl_bench.viz.masking import show_lab_of

WORLD = Scenes("shapes", "val", 0, (24, 32))
PAIR = WORLD.pair(1)
PATCHES, WORDS = (1, 2, 5, 6), (1, 3)
SIZES = "precision=fp32 batch_size=6 embed_dim=32 num_heads=2 img_size=32 warmup=1".split()


def model_on(where, name="maskvlm", **changes):
    "A small model with random weights and all four losses."
    losses = dict(itc=1.0, itm=1.0, proj_dim=16, momentum=0.5) if name == "maskvlm" else {}
    model = small(name, **losses | changes).to(where)
    model.facts = dict(data="scenes:shapes")
    return model


# ---- what is compared


def plain(value):
    "A result as lists and dictionaries of arrays, numbers and texts; what depends on time is left out."
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if is_dataclass(value):
        return plain(vars(value))
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in ("seconds", "checkpoint", "minutes")}
    if isinstance(value, list | tuple | set | range):
        return [plain(v) for v in value]
    return value


def assert_alike(first, second, where="result"):
    "Two results are the same up to the rounding of another order of sums."
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_alike(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for i, pair in enumerate(zip(first, second)):
            assert_alike(*pair, f"{where}[{i}]")
    elif isinstance(first, float | np.ndarray | np.generic):
        np.testing.assert_allclose(first, second, 2e-2, 2e-3, err_msg=where)
    elif not isinstance(first, str):  # sentences and pictures hold rounded numbers
        assert first == second, where


# ---- the entry points: where the model is, a folder -> a result


def run_of(where, out, *settings):
    run = RunConfig(str(out), "maskvlm", "mini", DataConfig("scenes:shapes"), device=where, trackers="")
    return with_settings(run, [*SIZES, *settings])


def train(where, tmp):
    "Train with probes, baselines, all losses and masks by score; save; go on with the run."
    how = ("itc=1", "itm=1", "queue_size=12", "image_strategy=score", "full_mask_steps=0", "log_every=1", "probe_every=2")
    runner.run_training(run_of(where, tmp / "run", *how, "steps=1"), quiet=True)
    runner.run_training(run_of(where, tmp / "run", *how, "steps=2"), True, True, changed=True)
    rows = [json.loads(line) for line in (tmp / "run" / "log.jsonl").read_text().splitlines()]
    probes = [json.loads(p.read_text()) for p in sorted((tmp / "run" / "probes").glob("*.json"))]
    keys = "step", "mlm", "recon", "itc", "itm"
    rows = [{k: row[k] for k in keys} for row in rows]
    return rows, json.loads((tmp / "run" / "baselines.json").read_text()), [p["score"] for p in probes]


def baselines_known(where, tmp):
    "Baselines of a model of a known world, which masks by its own scores."
    model = small(img_size=(48, 48), mask_size=8, image_strategy="score", full_mask_steps=0).to(where)
    return baselines.baselines_of(model, KnownWorld("one", img_size=48), TOKENIZER, TrainConfig(steps=1))


def finetune(where, tmp):
    "Fine-tune on questions from random weights, then for retrieval."
    start = FinetuneConfig(str(tmp / "vqa"), "vqa", device=where, preset="mini")
    run = with_settings(start, [*SIZES, "steps=2", "eval_every=1", "max_answers=20"])
    looks = json.loads((run_finetuning(run, True) / "config.json").read_text())["facts"]["looks"]
    return [{k: look[k] for k in ("step", "loss", "nats", "score")} for look in looks]


def learning_rate(where, tmp):
    model, cfg = model_on(where), TrainConfig(batch_size=6, precision="fp32")
    batch = some_batch()
    return find_lr(model, [(batch, 0)] * 3, cfg, steps=3)


def evaluate(task, where, **options):
    "Evaluate a small model, or one with a head."
    model = model_on(where)
    if task in api.LABEL_TASKS and task != "probe":
        source = open_task(task, "scenes:shapes", (24, 32), "train")
        labels = [source.text_of(i).label for i in range(300)]
        classes = tuple(dict.fromkeys(["no", "match"] if task == "pairs" else labels))
        body = model_on("cpu")
        facts = dict(image_column=None, caption_column=None, label_column=None, split="train", items=None)
        facts |= dict(seed=0, labels=dict.fromkeys(classes, 1), data="nowhere.csv")
        torch.manual_seed(0)
        model = TaskModel(body, TaskConfig(task, classes, source.count, hidden=16)).to(where).eval()
        body.facts = facts
        if task == "pairs":
            return score_pairs(model, "scenes:shapes", limit=12)
    scores = api.evaluate(model, task, options.pop("data", "scenes:shapes"), split="val", quiet=True, **options)
    scores.pop("finetuned", None)
    return scores


def reconstruct(where, tmp):
    model = model_on(where)
    shown = api.reconstruct(model, PAIR.image, PAIR.caption, PATCHES, WORDS, edit="a red circle")
    return {name: (c.picture, c.raw, c.errors, c.tokens) for name, c in shown.columns.items()}


def other_models(where, tmp):
    "Reconstruct with each kind of model, and with the ideal observer."
    filled = [reconstruct_pair(small(n).to(where), _pair(n), PATCHES, () if n == "vitmae" else WORDS)
              for n in ("mlim", "vitmae", "vilt", "reader")]  # fmt: skip
    scene = KnownWorld("one", "val", 0, 48).pair(0)
    ideal = IdealObserver(IdealConfig("one", ImageConfig((48, 48), 8))).to(where)
    filled.append(reconstruct_pair(ideal, scene, PATCHES, (1,)))
    return [[(c.raw, c.errors, c.tokens) for c in one.columns.values()] for one in filled]


def _pair(name):
    return Scenes("shapes", "val", 0, (24, 24) if name == "vitmae" else (24, 32)).pair(1)


def decode(where, tmp):
    model = model_on(where)
    plan = Plan(3, temperature=0.7)
    steps = [*alternate(model, first_step(model, PAIR, PATCHES, WORDS), plan)]
    return [(s.ids, s.hidden_patches, s.guesses, s.entropy, s.spread) for s in steps]


def influences(where, tmp):
    model = model_on(where)
    curves = deletion(model, PAIR, 1, dict(first=np.arange(12.0)), levels=4)
    floor = noise_floor(model, [WORLD.pair(i) for i in range(3)])
    looks = attention_gradient(model, PAIR)
    shown = influence(model, PAIR)
    gains = word_gains(model, PAIR, PATCHES)[1]
    return shown.to_patches, shown.to_words, gains, looks.to_patches, looks.to_words, curves, floor


def uncertainty(where, tmp):
    model, batch = model_on(where), some_batch()
    masks = view(batch, 12, torch.arange(12).expand(6, 12) < 5)
    return spread(model, batch, masks), measure_calibration(model, WORLD)


def distance(where, tmp):
    return training_distance(model_on(where), PAIR.image, PAIR.caption)


def scores_on_scenes(where, tmp):
    model = model_on(where)
    scored = score_spread(model, WORLD, 6, (2, 4)), score_influence(model, WORLD, 1)
    return *scored, score_decoding(model, WORLD, 1, ("thing", "words"))


def colours(where, tmp):
    "Photographs of two colours."
    chance = np.random.default_rng(0)
    items = [
        painted_colours.Item(chance.integers(0, 255, (24, 32, 3)).astype(np.uint8), f"a {c} circle", c, True)
        for c in ("red", "blue") * 2
    ]
    prototypes = chance.uniform(0, 50, (7, 3))
    return painted_colours.evaluate_painted_colours(model_on(where), items, prototypes)


def board(where, tmp):
    "Open the board, show influence, and put a user's pair on it."
    models = dict(one=model_on(where), other=model_on(where, "mlim"))
    first = opening(models)
    request = dict(state=first["state"], kind="view", given=dict(on=["influence", "untrained"]), seq=1)
    replies = [react(models, request)]
    replies.append(react(models, request | dict(kind="hide", given=dict(patches=[1, 2, 3]))))
    replies.append(react(models, request | dict(kind="card", given={})))
    assert not any("error" in reply for reply in replies[:1]), replies
    columns = [reply["shown"]["columns"] for reply in [first, *replies] if "shown" in reply]
    return columns, [reply["shown"]["influence"] for reply in replies if "shown" in reply]


def panels(where, tmp):
    "Answer on every panel that asks a model."
    models = dict(one=model_on(where), other=model_on(where, "mlim"))
    posed, _ = settle(models, examples(models)[0]().board)
    posed = replace(posed, patches=(1, 2, 5), words=(2,))
    shown = [last_answer(panel, models, posed, dict(settings={}))
             for panel in (DECODING, INFLUENCE, MASKING, COMPARE, UNCERTAINTY)]  # fmt: skip
    shown.append(last_answer(QUIZ, models, None, dict(settings=dict(guess=0))))
    assert not any("error" in one for one in shown), [one.get("error") for one in shown]
    picture = show_lab_of(models["one"], PAIR, draws=4)
    assert picture is not None
    quiz = answer(models["one"], riddle(models["one"], 0, 0, 1))
    return [{k: v for k, v in one["shown"].items() if k != "strategies"} for one in shown], quiz


def held_out_race(where, tmp):
    cfg = race.racing_cfg(TOKENIZER)
    torch.manual_seed(0)
    return race.score(race.MaskVLM(cfg).to(where), race.held_out(TOKENIZER, cfg, 8))


def whole_pairs(where, tmp):
    "Rank by a model that reads only whole pairs."
    model = model_on(where, "mlim", itm=1.0)
    pool = gallery(model, WORLD, 4)
    return matches(model, pool, torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0]))


@cache
def trained() -> str:
    "A short run on the CPU."
    out = tempfile.mkdtemp()
    settings = "itc=1", "itm=1", "queue_size=12", "steps=2", "log_every=1", "probe_every=0"
    runner.run_training(run_of("cpu", out, *settings), quiet=True)
    return out


def doctor(where, tmp):
    "Look into a run, and go again through an update that failed."
    out = shutil.copytree(trained(), tmp / "run")
    batch, model = some_batch(), model_on("cpu")
    masks = model.cfg.build_masking()(batch, (0, 0))
    failed = NotFinite("loss mlm", float("nan"), 3, [(batch, masks)], 1.0)
    cfg = TrainConfig(precision="fp32")
    lines = replay(keep_failure(out, model, TOKENIZER, cfg, failed), where)
    assert "pass 0 again" in lines[1]
    return [f.about for f in diagnose(out, 4, where)[2]], len(lines)


ENTRIES = dict(
    train=train, baselines=baselines_known, finetune=finetune, find_lr=learning_rate,
    reconstruct=reconstruct, other_models=other_models, decode=decode, influence=influences,
    uncertainty=uncertainty, training_distance=distance, scores_on_scenes=scores_on_scenes,
    painted_colours=colours, board=board, panels=panels, race=held_out_race,
    retrieval_of_whole_pairs=whole_pairs, doctor=doctor,
)  # fmt: skip
LIMITS = dict(reconstruction=6, retrieval=6, information=2, vqa=8, nlvr=8, entailment=8, pairs=8, probe=24)
ENTRIES |= {
    f"evaluate {task}": lambda where, tmp, task=task, limit=limit: evaluate(task, where, limit=limit)
    for task, limit in LIMITS.items()
}


def known_world(where, tmp):
    "Evaluate a reader of a known world: with nats of patches and beside the ideal observer."
    model = small("reader", img_size=(48, 48), mask_size=8).to(where)
    model.facts = dict(data="scenes:one")
    how = dict(data="scenes:one", split="val", quiet=True)
    return [api.evaluate(model, task, limit=2, **how) for task in ("information", "reconstruction")]


ENTRIES["evaluate a known world"] = known_world


@pytest.fixture(autouse=True)
def few_examples(monkeypatch):
    "Few examples where an entry point takes many."
    monkeypatch.setattr(finetuning, "LOOK", 8)
    monkeypatch.setitem(EARLY, "rate", 1)
    monkeypatch.setattr(runner, "probes_of", partial(runner.probes_of, count=2))
    monkeypatch.setattr(baselines, "floor_losses", lambda world, tokenizer, batch, views, cfg: dict(views=len(views)))
    monkeypatch.setattr("mvl_bench.apps.panels.uncertainty.HELD_OUT", 6)
    monkeypatch.setattr("mvl_bench.inference.training_distance.REFERENCE_PAIRS", 4)
    monkeypatch.setattr("mvl_bench.evaluation.item_matching.some_ids", lambda source, limit: list(range(limit)))


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_point_gives_the_same_on_another_device(name, tmp_path):
    expected = plain(ENTRIES[name]("cpu", tmp_path / "cpu"))
    with device() as where:
        found = plain(ENTRIES[name](where, tmp_path / "there"))
    assert_alike(expected, found)


@pytest.mark.parametrize("case", CASES, ids=[" ".join(case) for case in CASES])
def test_a_model_gives_the_same_on_another_device(case, monkeypatch):
    "Predictions, features, losses and gradients of every kind and variant."
    name, variant = case
    monkeypatch.setitem(SMALL, "img_size", SQUARE.get(name, SMALL["img_size"]))
    changes = VARIANTS.get(name, {}).get(variant, {})

    def answers(where) -> list:
        model, batch = small(name, **changes).to(where), some_batch(4)
        views = [masks.to(where) for masks in odd_views(model, batch)[:2]]
        views += model.cfg.build_masking()(batch.to(where), (0, 0))
        batch = batch.to(where)
        found = [model(batch, masks)[:2] for masks in views] + [model.features(batch)]
        losses = model.losses(batch, tuple(views))
        sum(losses.parts.values()).backward()
        model.after_step(losses.carry)
        size = sum(p.grad.double().abs().sum().item() for p in model.parameters() if p.grad is not None)
        return plain([found, losses.parts, losses.counts, size])

    expected = answers("cpu")
    with device() as where:
        assert_alike(expected, answers(where))


# ---- planted faults


def stays(self, device):
    "Not move."
    return self


def masks_on_the_cpu(self, image_mask, text_mask, *args, init=Masks.__init__, **kwargs):
    "Make masks where they were drawn."
    init(self, image_mask.cpu(), text_mask.cpu(), *args, **kwargs)


READ_ONCE = ["reconstruct", "other_models", "decode", "board", "panels"]
NO_MASK_MEETS = ["retrieval_of_whole_pairs", *(f"evaluate {t}" for t in ("retrieval", "probe", *api.LABEL_TASKS))]
FAULTS = [("batch", name) for name in ENTRIES]
FAULTS += [("masks", name) for name in ENTRIES if name not in NO_MASK_MEETS]
FAULTS += [("output", name) for name in READ_ONCE]


@pytest.mark.parametrize("fault, name", FAULTS)
def test_a_planted_fault_is_found(fault, name, tmp_path, monkeypatch):
    "Batches that do not move, masks on the CPU, or predictions that are read where they are stop every entry point."
    plant = dict(
        batch=lambda: monkeypatch.setattr(Batch, "to", stays),
        masks=lambda: monkeypatch.setattr(Masks, "__init__", masks_on_the_cpu),
        output=lambda: monkeypatch.setattr(Output, "to", stays),
    )
    with device() as where, pytest.raises((RuntimeError, TypeError), match="device|numpy"):
        plant[fault]()
        ENTRIES[name](where, tmp_path / "there")


# ---- the command line


@pytest.fixture
def checkpoint(tmp_path):
    "A folder with a small model."
    return str(save(model_on("cpu"), TOKENIZER, tmp_path / "model", dict(data="scenes:shapes")))


def commands(checkpoint, tmp) -> dict[str, list[str]]:
    "A short call of each command that computes with a model."
    image, run = tmp / "image.png", str(tmp / "run")
    Image.fromarray(PAIR.image).save(image)
    few = ["--data", "scenes:shapes", "--steps", "1", "--preset", "mini", "--set", *SIZES, "trackers="]
    task = ["--task", "vqa", *few[:-1], "max_answers=9"]
    picture = ["--image", str(image), "--caption", PAIR.caption]
    return dict(
        train=["train", "--out", run, *few],
        finetune=["finetune", "--out", str(tmp / "vqa"), *task],
        evaluate=["evaluate", "--checkpoint", checkpoint, "--limit", "4"],
        reconstruct=["reconstruct", "--checkpoint", checkpoint, *picture, "--out", str(tmp / "out.png")],
        doctor=["doctor", run],
    )


def test_each_command_computes_where_it_is_told(checkpoint, tmp_path, monkeypatch, capsys):
    seen, move, look = set(), Batch.to, partial(diagnose, limit=4)
    monkeypatch.setattr("mvl_bench.training.doctor.diagnose", look)
    monkeypatch.setattr(Batch, "to", lambda self, where: (seen.add(str(where)), move(self, where))[1])
    with device() as where:
        expected = str(torch.zeros(1, device=where).device)
        for name, words in commands(checkpoint, tmp_path).items():
            seen.clear()
            assert main([*words, "--device", where]) == 0, capsys.readouterr().err
            assert expected in seen, name


def test_an_unknown_device_is_one_sentence(checkpoint, tmp_path, capsys):
    calls = commands(checkpoint, tmp_path) | dict(demo=["demo", "--checkpoint", checkpoint])
    for name, words in calls.items():
        capsys.readouterr()
        assert main([*words, "--device", "nowhere"]) == 2, name
        text = capsys.readouterr().err
        assert "device 'nowhere' is not to be had here; try cpu" in text and text.count("\n") <= 2, text
    with pytest.raises(SystemExit) as end:
        painted_colours.main(["--checkpoint", checkpoint, "--data", str(tmp_path), "--device", "nowhere"])
    assert end.value.code == 2


def test_the_page_has_its_models_where_it_is_told(checkpoint, monkeypatch):
    from mvl_bench.apps.web import server

    class Stop(Exception):
        pass

    def build(models):
        assert len(models) == 2 and all(str(m.device) == expected for m in models.values())
        raise Stop

    monkeypatch.setattr(server, "build", build)
    with device() as where:
        expected = str(torch.zeros(1, device=where).device)
        with pytest.raises(Stop):
            server.serve(checkpoint, also=["vilt-tiny"], device=where)


def test_a_device_without_float64_is_none(monkeypatch):
    "As MPS: masks are drawn with float64."
    zeros = torch.zeros

    def refuse(*size, dtype=None, device=None):
        if device == "mps" and dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return zeros(*size, dtype=dtype, device=device)

    monkeypatch.setattr(torch, "zeros", refuse)
    with pytest.raises(UserError, match="'mps' is not to be had"):
        pick_device("mps")
    assert pick_device().type in ("cuda", "cpu")


def test_a_loaded_model_knows_its_device(checkpoint):
    with device() as where:
        model = load(checkpoint, where)
        expected = torch.zeros(1, device=where).device
        assert model.device == untrained_copy(model).device == expected
        assert TaskModel(model, TaskConfig("vqa", ("a", "b"))).device == expected
    assert load(checkpoint).device == torch.device("cpu")


@pytest.mark.skipif(NAME != "meta", reason="CUDA itself refuses")
def test_the_stand_in_refuses_what_cuda_refuses():
    with device() as where:
        there, here = torch.arange(6.0, device=where).view(2, 3), torch.ones(2, 3)
        refused = [
            lambda: there + here, lambda: here + there, lambda: torch.cat([there, here]), lambda: there.numpy(),
            lambda: np.asarray(there), lambda: there[0].masked_fill(here[0] > 0, 0), lambda: here[there.long() > 1],
            lambda: there.gather(1, here.long()), lambda: here.masked_scatter(there > 1, there),
            lambda: there.index_select(0, torch.tensor([1])), lambda: torch.where(there > 1, here, 0),
            lambda: torch.rand(2, generator=torch.Generator(), device=where), lambda: there.equal(here),
        ]  # fmt: skip
        for number, call in enumerate(refused):
            with pytest.raises((RuntimeError, TypeError)):
                call()
                pytest.fail(f"call {number} was not refused")
        assert there[torch.tensor([1])].tolist() == there[[1]].tolist() == [[3, 4, 5]]  # indices may be on the CPU
        assert (there * torch.tensor(2.0)).sum() == 30 and here.copy_(there)[1, 2] == 5  # and single numbers, and copies
        there[1, [0, 2]] = 0
        assert there.cpu().tolist() == [[0, 1, 2], [0, 4, 0]] and there.to("cpu").device.type == "cpu"
