"Tasks: exact truth that words alone do not give away, learning, the command line."

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from contract import TOKENIZER, small
from datasets import Dataset, Features, Value
from lookalikes import HUB
from samples import one_sentence

from mvl_bench.apps.cli.main import main
from mvl_bench.core import UserError
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.task_tables import open_task
from mvl_bench.data.tasks import CLASSES, DrawnTask, collate_examples
from mvl_bench.evaluation.tasks import Words, accuracy, evaluate_task, without
from mvl_bench.models import registry as checkpoints
from mvl_bench.models.base import save
from mvl_bench.models.task_heads import TaskConfig, TaskModel, load_task
from mvl_bench.training import finetune
from mvl_bench.training.config import with_settings
from mvl_bench.training.finetune import FinetuneConfig, TaskDataConfig, prepare_finetuning

SIZES = "embed_dim=32 num_heads=2 image_depth=1 text_depth=1 cross_depth=1 decoder_depth=1".split()
SIZES += "img_size=32 batch_size=4 steps=2 eval_every=1 precision=fp32".split()


@pytest.fixture(autouse=True)
def one_thread():
    "Small matrices are quickest on one thread."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- truth


@pytest.mark.parametrize("split", ["val", "novel"])
@pytest.mark.parametrize("task", ["nlvr", "entailment"])
def test_words_alone_tell_nothing(task, split):
    source = DrawnTask(task, Scenes("shapes", split))
    told = [source.text_of(i) for i in range(3000)]
    words = Words(told[:2000], CLASSES[task])
    labels = np.array([CLASSES[task].index(t.label) for t in told[2000:]])
    chance = 1 / len(CLASSES[task])
    score = accuracy(labels, words.chances(told[2000:]))
    assert abs(score - chance) < 3.5 * (chance * (1 - chance) / 1000) ** 0.5, score


def test_a_statement_that_leans_would_be_found():
    source = DrawnTask("nlvr", Scenes("shapes"))
    told = [source.text_of(i) for i in range(3000)]
    told = [
        t for i, t in enumerate(told) if t.label == "true" or "every" not in t.texts[0] or i % 4
    ]
    told = [t for t in told if t.label == "false" or "only" not in t.texts[0]]
    labels = np.array([CLASSES["nlvr"].index(t.label) for t in told])
    half = len(told) // 2
    assert accuracy(labels[half:], Words(told[:half], CLASSES["nlvr"]).chances(told[half:])) > 0.55


@pytest.mark.parametrize("task", ["vqa", "nlvr", "entailment", "pairs", "probe"])
def test_splits_show_other_scenes(task):
    shown = {}
    for split in ("train", "val", "novel"):
        source = DrawnTask(task, Scenes("shapes", split))
        shown[split] = {str(source.asked(i).scenes) for i in range(150)}
    assert not shown["train"] & shown["val"] and not shown["train"] & shown["novel"]


def test_a_probe_needs_examples(capsys):
    command = "evaluate --task probe --checkpoint maskvlm-tiny --data scenes --limit"
    assert main([*command.split(), "9"]) == 2
    assert "gives 9 examples to train a probe on, it needs 10 or more" in capsys.readouterr().err
    assert main([*command.split(), "10"]) == 0


# ---- learning


def examples(task, count=8, size=(24, 32), tokenizer=TOKENIZER):
    "A batch of a drawn task."
    source = DrawnTask(task, Scenes("shapes", img_size=size))
    some = [source.example(i) for i in range(count)]
    return collate_examples(some, tokenizer, 24, CLASSES[task], size), source.count


@pytest.mark.parametrize("name", checkpoints.MODELS)
@pytest.mark.parametrize("task", ["nlvr", "pairs"])
def test_a_batch_is_learnt_by_heart(name, task):
    body = small(name)
    batch, count = examples(task, size=body.cfg.image.img_size)
    model = TaskModel(body, TaskConfig(task, CLASSES[task], count, 32))
    run = with_settings(
        FinetuneConfig("x", task), ["lr=3e-3", "warmup=3", "steps=60", "precision=fp32"]
    )
    optimizer = finetune.task_optimizer(model, run)
    before = [p.clone() for p in body.parameters()]
    for step in range(60):
        loss = finetune.task_step(model, optimizer, batch, run.training, step)
        if loss < 0.1:
            break
    assert loss < 0.3, loss
    assert sum(not p.equal(old) for p, old in zip(body.parameters(), before)) > len(before) / 3


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_what_is_absent_is_not_looked_at(name):
    body = small(name)
    batch, count = examples("pairs", size=body.cfg.image.img_size)
    model = TaskModel(body, TaskConfig("pairs", CLASSES["pairs"], count)).eval()
    other = dict(
        image=dict(images=1 - batch.batch.images),
        text=dict(input_ids=batch.batch.input_ids.flip(0)),
    )
    with torch.no_grad():
        for side, changed in other.items():
            gone = without(batch.batch, side)
            assert model(gone).equal(model(replace(gone, **changed)))
        assert not model(batch.batch).equal(model(without(batch.batch, "image")))


def easy(count=40):
    "A table of questions with as many yes as no."
    rows = [HUB["easy"][2](i) for i in range(count)]
    Dataset.from_list(rows, Features(HUB["easy"][1])).to_parquet("a.parquet")


def test_the_same_record_the_same_weights(home):
    easy()
    run = with_settings(FinetuneConfig("a", "vqa", TaskDataConfig("a.parquet")), SIZES)
    for out in ("a", "b"):
        finetune.run_finetuning(replace(run, out=out), quiet=True)
    one, other = (load_task(out, "vqa").state_dict() for out in ("a", "b"))
    assert all(value.equal(other[name]) for name, value in one.items())
    third = with_settings(replace(run, out="c"), ["seed=1"])
    changed = load_task(finetune.run_finetuning(third, quiet=True), "vqa").state_dict()
    assert not all(value.equal(changed[name]) for name, value in one.items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_keeps_the_best_moment(home, monkeypatch, number):
    step, steps = finetune.task_step, []

    def stopped(*given):
        steps.append(given[-1])
        if len(steps) == 3:
            signal.raise_signal(number)
        return step(*given)

    monkeypatch.setattr(finetune, "task_step", stopped)
    easy()
    run = with_settings(
        FinetuneConfig("a", "vqa", TaskDataConfig("a.parquet")),
        [*SIZES, "steps=50", "eval_every=40"],
    )
    with pytest.raises(UserError) as caught:
        finetune.run_finetuning(run, quiet=True)
    one_sentence(caught, "stopped at step 3", "a holds that of step 3")
    assert caught.value.code == 128 + number and len(steps) == 3
    assert load_task("a", "vqa").body.facts["steps"] == 3


def test_the_chosen_moment_is_not_the_first_rows(home):
    rows = [HUB["easy"][2](i) | dict(answer=["yes", "no"][i >= 100]) for i in range(200)]
    Dataset.from_list(rows, Features(HUB["easy"][1])).to_parquet("a.parquet")  # sorted by label
    begun = prepare_finetuning(
        with_settings(
            FinetuneConfig("x", "vqa", TaskDataConfig("a.parquet"), val_fraction=0.5), SIZES
        )
    )
    first = [begun.source.text_of(i).label for i in begun.held[:20]]
    assert set(first) == {"yes", "no"} and not set(begun.held) & set(begun.train)


# ---- the command line


FINETUNE = ["finetune", "--task", "vqa", "--data", "a.parquet", "--out", "tuned", "--set", *SIZES]
EVALUATE = ["evaluate", "--task", "vqa", "--checkpoint", "tuned", "--data", "a.parquet"]


@pytest.fixture
def tuned(home):
    "Two tables, a plain checkpoint and a fine-tuned one."
    easy = HUB["easy"]
    rows = [easy[2](i) | dict(split="train" if i < 24 else "val") for i in range(36)]
    Dataset.from_list(rows, Features(easy[1] | dict(split=Value("string")))).to_parquet("a.parquet")
    odd = [dict(row, answer="perhaps") for row in rows[:6]]
    Dataset.from_list(odd, Features(easy[1] | dict(split=Value("string")))).to_parquet(
        "odd.parquet"
    )
    save(small(), TOKENIZER, home / "plain", dict(steps=1))
    (home / "file").write_text("x")
    assert main([*FINETUNE, "--split", "train"]) == 0
    return home


def test_fine_tune_and_evaluate(tuned, capfd):
    assert main([*EVALUATE, "--split", "val", "--json", "score.json"]) == 0
    out, _ = capfd.readouterr()
    scored = json.loads((tuned / "score.json").read_text())
    assert {"task", "metric", "score", "chance", "n", "ci", "baselines"} <= scored.keys()
    assert (scored["task"], scored["metric"], scored["n"], scored["chance"]) == (
        "vqa",
        "accuracy",
        12,
        0.5,
    )
    assert {"text_only", "image_only", "majority", "bag_of_words"} == scored["baselines"].keys()
    assert f"{scored['score']:.3f}" in out and "commonest class" in out
    again = evaluate_task(load_task("tuned", "vqa"), open_task("vqa", "a.parquet", 32, "val"))
    assert again["score"] == scored["score"]
    assert checkpoints.load("tuned").kind == "maskvlm"  # and a checkpoint like any other
    assert main(["evaluate", "--task", "probe", "--checkpoint", "tuned", "--data", "a.parquet", "--split", "val",
                 "--label-column", "answer", "--json", "probe.json"]) == 0  # fmt: skip
    assert json.loads((tuned / "probe.json").read_text())["n"] == 12


def bad(base, said, *more, **changed):
    "A mistake, and what its line must say."
    words = list(base)
    for flag, value in changed.items():
        flag = "--" + flag.replace("_", "-")
        words = (
            [*words[: words.index(flag) + 1], value, *words[words.index(flag) + 2 :]]
            if flag in words
            else [*words, flag, value]
        )
    return pytest.param([*words, *more], said, id=f"{base[0]} {changed or more}")


MISTAKES = [
    bad(FINETUNE, "tuned is there already"),
    bad(FINETUNE, "cannot write to file/x", out="file/x"),
    bad(FINETUNE, "no columns for nlvr", task="nlvr", out="b"),
    bad(FINETUNE, "no column 'claim'", caption_column="claim", out="b"),
    bad(FINETUNE, "split 'dev'", data="odd.parquet", split="dev", out="b"),
    bad(FINETUNE, "too few", data="odd.parquet", out="b"),
    bad(FINETUNE, "nowhere", data="nowhere", out="b"),
    bad(FINETUNE, "embed_dim", checkpoint="plain", out="b"),
    bad(FINETUNE[: FINETUNE.index("--set")], "'huge'", checkpoint="huge", out="b"),
    bad(FINETUNE[: FINETUNE.index("--set")], "'ideal' has no weights", checkpoint="ideal", out="b"),
    bad(FINETUNE, "asked nothing", data="scenes:one", out="b"),
    bad(FINETUNE, "preset 'tniy'", preset="tniy", out="b"),
    bad(FINETUNE, "batch_size 999", "batch_size=999", out="b"),
    bad(FINETUNE, "input_dropout 2.0", "input_dropout=2", out="b"),
    bad(FINETUNE, "did you mean input_dropout", "input_dropuot=1", out="b"),
    bad(FINETUNE, "--streaming", "--streaming", out="b"),
    bad(EVALUATE, "was not fine-tuned for a task", checkpoint="plain"),
    bad(EVALUATE, "was not fine-tuned for a task", checkpoint="maskvlm-tiny"),
    bad(EVALUATE, "was fine-tuned for vqa, not for nlvr", task="nlvr"),
    bad(EVALUATE, "was seen in training, such as 'perhaps'", data="odd.parquet"),
    bad(EVALUATE, "no column 'x'", label_column="x"),
    bad(EVALUATE, "limit 1", limit="1"),
]


@pytest.mark.parametrize("words, said", MISTAKES)
def test_a_mistake_gets_one_line(tuned, capfd, words, said):
    before = sorted(map(str, tuned.rglob("*")))
    before = [name for name in before if "/cache" not in name]
    capfd.readouterr()
    flat = (
        [w for w in words if "=" not in w]
        if "--checkpoint" in words and words[0] == "evaluate"
        else words
    )
    assert main(flat) == 2
    _, err = capfd.readouterr()
    lines = [
        line for line in err.replace("\r", "\n").splitlines() if line and "step/s]" not in line
    ]
    assert (
        len(lines) == 1 and said in lines[0] and lines[0].startswith(f"mvl-bench {words[0]}: ")
    ), err
    after = [name for name in sorted(map(str, tuned.rglob("*"))) if "/cache" not in name]
    assert after == before, "something was left behind"


def test_a_label_that_training_has_not_seen(home):
    features = Features(HUB["snli_ve"][1] | dict(label=Value("string")))
    rows = [HUB["snli_ve"][2](i) | dict(label="unsure" if i == 7 else "neutral") for i in range(9)]
    Dataset.from_list(rows, features).to_parquet("a.parquet")
    with pytest.raises(UserError) as caught:
        open_task("entailment", "a.parquet", 16)
    one_sentence(caught, "'unsure'", "row 7", "entailment, neutral, contradiction")
    two = TaskModel(small(img_size=(16, 16)), TaskConfig("entailment", CLASSES["entailment"][:2]))
    two.body.facts = dict(labels={})
    Dataset.from_list([dict(r, label="contradiction") for r in rows], features).to_parquet(
        "b.parquet"
    )
    with pytest.raises(UserError) as caught:
        evaluate_task(two, open_task("entailment", "b.parquet", 16))
    one_sentence(caught, "'contradiction'", "not seen in training")
