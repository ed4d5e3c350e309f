"Runs broken on purpose are named, healthy ones are not accused."

import json
from dataclasses import replace

import pytest
import torch
from contract import one_thread, small, some_batch  # noqa: F401

from mvl_bench.apps.cli.main import main
from mvl_bench.core import UserError, view
from mvl_bench.data.scenes import Scenes
from mvl_bench.models.maskvlm import MaskVLM
from mvl_bench.training import doctor
from mvl_bench.training.config import DataConfig, RunConfig, with_settings
from mvl_bench.training.doctor import (
    check_data,
    check_leaks,
    check_loss_curves,
    comparable,
    diagnose,
    recent_mean,
)
from mvl_bench.training.runner import run_training

LINES = {
    "mlm unigram": 4.0,
    "recon mean": 0.2,
    "recon background": 0.1,
    "itc chance": 3.4,
    "itm chance": 0.64,
}


def log_of(**losses):
    "A log of twenty lines in which each loss goes evenly from one value to another, and stays there."
    rows = [dict(step=20 * (i + 1)) for i in range(20)]
    for name, (first, last) in losses.items():
        for i, row in enumerate(rows):
            row[name] = first + (last - first) * min(1, i / 9)
    return rows


def verdicts(found):
    return {one.about: one.verdict for one in found}


HEALTHY = dict(mlm=(5.0, 1.2), recon=(0.3, 0.05), itc=(3.5, 1.0), itm=(0.7, 0.3))


def test_a_healthy_log_is_not_accused():
    assert set(verdicts(check_loss_curves(log_of(**HEALTHY), LINES, 400)).values()) == {"well"}
    assert len(check_loss_curves(log_of(**HEALTHY), LINES, 400)) == 4


@pytest.mark.parametrize(
    "name, path, words",
    [
        ("itm", (0.7, 0.637), "random_negative_frac"),
        ("itc", (3.5, 3.39), "not told apart"),
        ("mlm", (5.0, 3.99), "how common"),
        ("recon", (0.3, 0.097), "mean colour of what is visible"),
        ("mlm", (5.0, 4.7), "learning rate may be too low"),
        ("recon", (0.4, 0.35), "learning rate may be too low"),
    ],
)
def test_a_loss_on_its_baseline_is_named(name, path, words):
    found = check_loss_curves(log_of(**HEALTHY | {name: path}), LINES, 400)
    told = {one.about: one for one in found}
    assert told[name].verdict == "trouble" and words in told[name].text
    assert {v for about, v in verdicts(found).items() if about != name} == {"well"}
    early = check_loss_curves(log_of(**HEALTHY | {name: path}), LINES, 40)
    assert verdicts(early)[name] == "note"
    falling = log_of(**HEALTHY | {name: path})
    for i, row in enumerate(falling):
        row[name] = path[1] * (1 + 0.02 * (19 - i))
    (told,) = (one for one in check_loss_curves(falling, LINES, 400) if one.about == name)
    assert told.verdict == "note" and "still falling" in told.text


def test_a_loss_that_rises_again_is_named():
    log = log_of(**HEALTHY)
    for i, row in enumerate(log[10:]):
        row["mlm"] = 1.5 + 0.2 * i
    (found,) = (one for one in check_loss_curves(log, LINES, 400) if "rose again" in one.text)
    assert found.about == "mlm" and found.verdict == "trouble" and "too high" in found.text


def test_a_run_without_baselines_or_with_a_loss_of_its_own():
    assert check_loss_curves(log_of(mlm=(5.0, 1.0)), {}, 400) == []
    assert recent_mean([dict(step=1, mlm=4.0), dict(step=2), dict(step=3, mlm=2.0)], "mlm") == 2.0


class Leaky(MaskVLM):
    "Sees the whole picture, whatever is hidden."

    def encode_image(self, batch, masks):
        return super().encode_image(batch, view(batch, self.num_patches))


@torch.no_grad()
def test_a_leak_is_found():
    batch = some_batch()
    for model, verdict in ((small("maskvlm"), "well"), (small("maskvlm", Leaky), "trouble")):
        masks = model.cfg.build_masking().plain()(batch, (0, 0))
        assert {check_leaks(model, batch, masks=one).verdict for one in masks} >= {verdict}


def test_data_that_is_all_alike_and_false_negatives():
    batch = some_batch()
    assert verdicts(check_data(batch, True)) == dict(negatives="well")
    grey = replace(batch, images=torch.full_like(batch.images, 0.5))
    assert verdicts(check_data(grey, False)) == dict(pictures="trouble")
    same = replace(batch, input_ids=batch.input_ids[:1].expand_as(batch.input_ids))
    assert verdicts(check_data(same, True)) == dict(captions="trouble", negatives="trouble")
    assert "30 of 30" in check_data(same, True)[1].text
    item = replace(same, item=torch.zeros_like(batch.item))  # the same thing: no negatives
    assert "0 of 0" in check_data(item, True)[1].text


SMALL = "embed_dim=16 num_heads=2 img_size=32 mask_size=8 batch_size=8 full_mask_steps=0 log_every=1 precision=fp32 steps=3"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor") / "run"
    asked = RunConfig(str(folder), preset="mini", data=DataConfig("scenes:shapes"))
    run_training(with_settings(asked, [*SMALL.split(), "itc=1", "itm=1"]), quiet=True)
    return folder


def test_a_run_from_the_command_line(run, tmp_path, capfd):
    assert main(["doctor", str(run), "--json", str(tmp_path / "found.json")]) == 0
    out, told = capfd.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    assert out.startswith("maskvlm mini on scenes:shapes, 3 of 3 steps")
    abouts = {one["about"]: one["verdict"] for one in told["findings"]}
    assert {*abouts} == {
        "mlm",
        "recon",
        "itc",
        "itm",
        "negatives",
        "leak",
        "mlm gap",
        "recon gap",
        "caption read",
        "picture read",
        "scored on",
        "mlm validation",
        "recon validation",
    }
    assert abouts["leak"] == "well" and abouts["mlm"] == "note"  # three steps are few
    assert abouts["mlm gap"] == "note"  # it has learnt nothing yet
    lines = [line.split()[0] for line in out.splitlines()[2:]]
    assert lines == sorted(lines, key=("trouble", "note", "well").index)


def test_a_picture_that_is_used_is_seen(monkeypatch):
    "The shipped model on its own scenes, and the same without what the picture says."
    from mvl_bench.models.registry import load

    model, source = load("maskvlm-tiny"), Scenes(split="val")
    assert verdicts(doctor.check_generalization_gap(model, source, 1000, 30)) == {
        "mlm gap": "well",
        "recon gap": "well",
    }
    monkeypatch.setattr(model, "fuse_text", lambda image, text, weights=None: text[0])
    assert verdicts(doctor.check_generalization_gap(model, source, 1000, 30))["mlm gap"] == "trouble"


def test_a_control_and_a_run_without_checkpoint_are_said_to_be_so(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("log.jsonl", "baselines.json"):
        (other / name).write_text((run / name).read_text())
    asked = json.loads((run / "run.json").read_text())
    (other / "run.json").write_text(
        json.dumps(asked | dict(data=asked["data"] | dict(mismatched_captions=True)))
    )
    found = verdicts(diagnose(other)[2])
    assert found["control"] == found["checkpoint"] == "note" and "leak" not in found


def test_what_is_no_run(run, tmp_path, capfd):
    assert main(["doctor", str(tmp_path)]) == 2
    assert main(["doctor", str(tmp_path / "nothing")]) == 2
    (tmp_path / "run.json").write_text((run / "run.json").read_text())
    (tmp_path / "log.jsonl").write_text("")
    assert main(["doctor", str(tmp_path)]) == 2
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 3 and all(line.startswith("mvl-bench doctor: ") for line in err)
    assert "nothing was trained yet" in err[2]
    with pytest.raises(UserError, match="no run folder"):
        diagnose(tmp_path / "nothing")


def test_the_machine(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda tool: None)
    assert main(["doctor", "--json", str(tmp_path / "machine.json")]) == 0
    told = json.loads((tmp_path / "machine.json").read_text())
    assert torch.__version__.split("+")[0] in told["packages"] and "quarto" in told["missing"]
    assert capfd.readouterr().out.startswith("python")
    assert doctor.matmul_speed(torch.float32, 256) > doctor.matmul_speed(torch.float32, 8)


def test_squared_errors_of_the_masked_phase_are_no_rise():
    "While everything is masked, pixel errors are squared: the first absolute error after it is larger, and no trouble."
    log = [dict(step=i, recon=0.05 if i <= 100 else 0.15, mlm=1.0) for i in range(10, 201, 10)]
    run = RunConfig("out", preset="photo", model_overrides={"masking.full_mask_steps": 100})
    lines = {"recon neighbour": 0.3, "mlm unigram": 3.0}
    assert "rose" in str(check_loss_curves(log, lines, 200))
    assert "rose" not in str(check_loss_curves(comparable(log, run), lines, 200))
    assert comparable(log[:10], run) == log[:10]
    assert [row["mlm"] for row in comparable(log, run)] == [1.0] * 20
