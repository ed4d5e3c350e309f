"A study: paired arms, killed and gone on with, the same by several workers, and mistakes in one line."

import json
import os
import signal
import sys
import time
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from processes import start, wait
from samples import one_sentence
from scipy.stats import ttest_rel

from mvl_bench.apps.cli.main import main
from mvl_bench.core import UserError
from mvl_bench.experiments.cells import CellFiles, fingerprints, run_cell
from mvl_bench.experiments.declared import STUDIES, joint_or_apart
from mvl_bench.experiments.design import SHUFFLED, UNTRAINED, Arm, Study, quick_study, run_of
from mvl_bench.experiments.grid import progress_table, run_study
from mvl_bench.experiments.results import compare_arms, least_visible
from mvl_bench.training.runner import Stopped, _batches_of, setup_run

JOINT, WORDS = Arm("joint", "both losses"), Arm("words", "words only", ("losses.recon=0",))
TINY = (
    "masking.full_mask_steps=0", "image.img_size=32", "embed_dim=48", "image_depth=1", "text_depth=1", "training.batch_size=8",
    "training.warmup=2", "save_every=4",
)  # fmt: skip
SMALL = Study("small", "Does it run?", (JOINT, WORDS), ("reconstruction",), settings=TINY, steps=12, seeds=1, limit=20)


def setup_of(study: Study, arm: Arm, seed: int):
    "The model, tokenizer and data of a cell before its first step."
    return setup_run(run_of(study, arm, seed, "unused"), resume=False)


def batches_and_masks(study: Study, arm: Arm, seed: int, count: int = 3) -> list:
    "Pictures, captions and masks of the first batches of a cell, as its training reads them."
    context = setup_of(study, arm, seed)
    found = []
    with closing(_batches_of(context, (0, 1))) as stream:
        for step, (batch, epoch) in enumerate(islice(stream, count)):
            views = context.model.cfg.at_step(step).build_masking()(batch, (context.run.training.seed, epoch))
            masks = [torch.stack([getattr(view, name) for view in views]).any(0) for name in ("image_mask", "text_mask")]
            found += [batch.ids, batch.images, batch.input_ids, *masks]
    return found


def test_arms_of_a_seed_see_the_same_pairs_masks_and_first_weights():
    study = quick_study(joint_or_apart)
    first, *others = (arm for arm in study.arms if arm.trained and arm != SHUFFLED)
    expected, weights = batches_and_masks(study, first, 1), setup_of(study, first, 1).model.state_dict()
    for arm in others:
        assert all(map(torch.equal, expected, batches_and_masks(study, arm, 1))), arm.name
        if arm.name != "cut":
            assert all(torch.equal(weights[n], w) for n, w in setup_of(study, arm, 1).model.state_dict().items()), arm.name
    assert not torch.equal(expected[1], batches_and_masks(study, first, 0)[1])
    shuffled = batches_and_masks(study, SHUFFLED, 1)
    assert torch.equal(expected[1], shuffled[1]) and not torch.equal(expected[2], shuffled[2])


def test_an_arm_with_other_masks_is_found():
    prints = []
    for arm in (JOINT, WORDS, Arm("more", "more hidden", ("masking.image_ratio=0.9",))):
        context = setup_of(SMALL, arm, 0)
        context.model.tokenizer = context.tokenizer
        prints.append(fingerprints(context.model, context.run))
    assert prints[0] == prints[1]
    assert prints[0]["order"] == prints[2]["order"] and prints[0]["text_masks"] == prints[2]["text_masks"]
    assert prints[0]["image_masks"] != prints[2]["image_masks"]


def run_here(study: Study, out: str) -> None:
    "Run a study in a process of its own; leave what a stop says."
    try:
        run_study(study, out)
    except Stopped as error:
        Path(f"{out}.said").write_text(str(error))
        sys.exit(error.code)


def interrupted(study: Study, out: Path, number: int) -> int:
    "Send a signal to a study that has done its first cell and saved a part of the second; return its exit code."
    process, second = start(run_here, study, str(out)), CellFiles(out, WORDS, 0)
    end = time.monotonic() + 120
    while not list(second.run.glob("checkpoints/step-*")) and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, number)
    return wait([process])[0]


@pytest.mark.slow
def test_killed_and_gone_on_with_it_finds_the_same(tmp_path):
    study = replace(SMALL, steps=60)
    whole = run_study(study, tmp_path / "whole", tell=str)
    out = tmp_path / "killed"
    assert interrupted(study, out, signal.SIGKILL) == -signal.SIGKILL
    first, second = (CellFiles(out, arm, 0) for arm in study.arms)
    assert first.state(60) == "done" and second.state(60).endswith("%") and not second.result.exists()
    assert "1 of 2 cells done, about" in progress_table(study, out, 1)
    before = first.result.stat().st_mtime_ns
    again = run_study(study, out, tell=str)
    assert first.result.stat().st_mtime_ns == before and not second.run.exists()
    assert again["values"] == whole["values"] and again["cells"] == 2
    assert json.loads((out / "study-small.json").read_text()) == json.loads(json.dumps(again))


def test_stopped_it_saves_and_says_so(tmp_path):
    out, long = tmp_path / "stopped", replace(WORDS, settings=(*WORDS.settings, "training.steps=5000"))
    assert interrupted(replace(SMALL, arms=(JOINT, long)), out, signal.SIGTERM) == 128 + signal.SIGTERM
    assert "the same command goes on" in Path(f"{out}.said").read_text()
    assert CellFiles(out, WORDS, 0).state(5000).endswith("%")


@pytest.mark.slow
def test_two_workers_find_the_same(tmp_path):
    one, lines = run_study(SMALL, tmp_path / "one", tell=str), []
    two = run_study(SMALL, tmp_path / "two", workers=2, tell=lines.append)
    assert one["values"] == two["values"] and "0 of 2 cells done" in lines[0]
    assert {line.split()[0] for line in lines[1:]} == {"joint-0", "words-0"}
    failing = replace(SMALL, measures=("shares",))
    for workers in (1, 2):
        with pytest.raises(UserError) as caught:
            run_study(failing, tmp_path / f"failing-{workers}", workers=workers, tell=str)
        one_sentence(caught, "-0: ", "no ideal observer")


def test_more_seeds_go_on_and_another_declaration_does_not(tmp_path):
    study = replace(SMALL, arms=(JOINT, UNTRAINED), steps=3)
    run_study(study, tmp_path, tell=str)
    result = run_study(study, tmp_path, seeds=2, tell=str)
    assert result["cells"] == 4 and result["seeds"] == [0, 1]
    row = next(row for row in result["differences"] if row["number"] == "mlm.own")
    values = [[result["values"]["mlm.own"][arm][seed] for seed in "01"] for arm in ("untrained", "joint")]
    assert row["mean"] == pytest.approx(sum(values[0]) / 2 - sum(values[1]) / 2)
    with pytest.raises(UserError) as caught:
        run_study(replace(study, steps=4), tmp_path, tell=str)
    one_sentence(caught, "joint-0.json", "command", "give --out a new folder")
    CellFiles(tmp_path, JOINT, 1).result.write_text("{")
    with pytest.raises(UserError) as caught:
        run_study(study, tmp_path, seeds=2, tell=str)
    one_sentence(caught, "joint-1.json", "delete it")


def test_the_interval_is_that_of_a_paired_t_test():
    values = dict(enumerate(torch.rand(5, generator=torch.Generator().manual_seed(0)).tolist()))
    other = dict(enumerate(torch.rand(6, generator=torch.Generator().manual_seed(1)).tolist()))
    compared = compare_arms(values, other)
    expected = ttest_rel([*values.values()], [*other.values()][:5]).confidence_interval(0.95)
    assert compared["ci"] == pytest.approx([expected.low, expected.high])
    assert compared["least_visible"] == pytest.approx(least_visible([*compared["per_seed"].values()]))
    assert [compare_arms({0: 1.0, 1: 1.1}, {0: 2.0, 1: 2.11}, way)["verdict"] for way in ("lower", "higher", "")] == ["better", "worse", "lower"]


def test_mistakes_are_one_line(home, capsys):
    Path("file").write_text("")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("other").mkdir()
    Path("other/study.json").write_text('{"study": "limited_data"}')
    mistakes = {
        ("joint",): "no study 'joint': there are joint_or_apart",
        ("joint_or_apart", "--out", "file"): "cannot write to file",
        ("joint_or_apart", "--out", "full"): "full is not empty and holds no study",
        ("joint_or_apart", "--out", "other"): "holds the study limited_data, not joint_or_apart",
        ("joint_or_apart", "--seeds", "0"): "seeds 0 is under 1",
        ("joint_or_apart", "--workers", "0"): "workers 0 is under 1",
        ("joint_or_apart", "--json", "none/a.json"): "there is no folder none",
        ("speed", "--seeds", "2"): "--seeds is for declared studies, and speed is none",
    }
    for words, message in mistakes.items():
        assert main(["study", *words]) == 2, words
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and "Traceback" not in error, error
    assert Path("full/mine.txt").read_text() == "mine" and not Path("runs").exists()


def test_an_impossible_arm_is_found_before_anything_is_trained(tmp_path):
    study = replace(SMALL, arms=(JOINT, Arm("typo", "a typing error", ("masking.image_rato=0.5",))))
    with pytest.raises(UserError) as caught:
        run_study(study, tmp_path / "out", tell=str)
    one_sentence(caught, "arm typo of study small", "image_rato")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError) as caught:
        run_study(replace(SMALL, measures=("beauty",)), tmp_path / "out", tell=str)
    one_sentence(caught, "beauty", "reconstruction")


def test_a_cell_keeps_its_origin(tmp_path):
    result = run_cell(replace(SMALL, steps=2), JOINT, 0, tmp_path)
    assert result["command"].startswith("mvl-bench train --model maskvlm") and "--steps 2" in result["command"]
    assert {"commit", "code", "order", "image_masks", "gflop_per_update", "parameters", "minutes"} <= result.keys()
    assert (tmp_path / "models/joint-0/model.safetensors").is_file() and not (tmp_path / "runs/joint-0").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_declared_study_takes_its_path(name, home, capsys):
    assert main(["study", name, "--quick", "--seeds", "1", "--json", "here.json"]) == 0
    out, results = capsys.readouterr().out, json.loads(Path("here.json").read_text())
    assert results["cells"] == results["cells_declared"] == len(STUDIES[name].arms)
    assert all(-1e9 < value < 1e9 for arms in results["values"].values() for row in arms.values() for value in row.values())
    assert {arm for arms in results["values"].values() for arm in arms} == {arm.name for arm in STUDIES[name].arms}
    assert f"runs/studies/{name}-quick/study-{name}.json" in out
