"""Ten runs broken on purpose and ten healthy ones, each shown to the doctor.

python tests/sick_runs.py [--json FILE] [NAME ...]      some minutes; a shorter version is among the tests
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from mvl_bench.core import view
from mvl_bench.data.scenes import Scenes
from mvl_bench.models.maskvlm import MaskVLM
from mvl_bench.models.momentum_contrast import Contrast
from mvl_bench.training.config import DataConfig, RunConfig, with_settings
from mvl_bench.training.doctor import diagnose
from mvl_bench.training.resume import commit
from mvl_bench.training.runner import run_training

SMALL = ["precision=fp32", "batch_size=32", "warmup=20", "embed_dim=48", "lr=4e-3", "steps=260"]
PAIRS = ["itc=1", "itm=1"]


def plain(*changes: str) -> RunConfig:
    "A small run that learns something in half a minute."
    run = RunConfig(
        "",
        preset="mini",
        data=DataConfig("scenes:shapes"),
        probe_every=0,
        log_every=5,
        save_every=9999,
    )
    return with_settings(run, [*SMALL, *changes])


def everything(*ignored):
    "Nothing is hidden after all."


ENCODE, FUSE = MaskVLM.encode_image, MaskVLM.fuse_image
leak = patch.object(
    MaskVLM,
    "encode_image",
    lambda self, batch, masks: ENCODE(self, batch, view(batch, self.num_patches)),
)


def swapped(self, batch, masks):
    "What is hidden is shown, and what is visible is not: the mask means the opposite."
    return ENCODE(
        self,
        batch,
        replace(
            masks, image_mask=~masks.image_mask if masks.image_mask.any() else masks.image_mask
        ),
    )


def deaf(self, masks, image, text, *rest):
    "The caption is not read in painting."
    return FUSE(self, masks, image, (torch.zeros_like(text[0]), text[1]), *rest)


class Alike(Scenes):
    "Every picture is the same grey field."

    def pair(self, i, epoch=0):
        pair = super().pair(i, epoch)
        return pair._replace(image=pair.image * 0 + 128)


class Doubles(Scenes):
    "Many items share a caption."

    def pair(self, i, epoch=0):
        other = super().pair(i % 4, epoch)
        return super().pair(i, epoch)._replace(caption=other.caption, image=other.image)


def scenes(cls):
    "The drawn world by another class."
    return patch("mvl_bench.data.factory.Scenes", cls)


def cut_match(self, *sides):
    "Matching from which no gradient comes and that says the same of all."
    rows = sides[2]
    return torch.zeros(len(rows), 2) + 0 * self.to_match[1].bias


SICK = dict(
    dead_itm=(plain(*PAIRS), [patch.object(MaskVLM, "match", cut_match)], "itm"),
    swapped_mask=(plain(), [patch.object(MaskVLM, "encode_image", swapped)], "leak"),
    leaking_mask=(plain(), [leak], "leak"),
    false_negatives=(plain(*PAIRS), [scenes(Doubles)], "negatives"),
    rate_x100=(plain("lr=0.4"), [], "learning rate"),
    rate_over_100=(plain("lr=4e-5"), [], "learning rate"),
    text_ignored=(
        plain("decoder_depth=0"),
        [patch.object(MaskVLM, "fuse_image", deaf)],
        "caption read",
    ),
    constant_images=(plain(), [scenes(Alike)], "pictures"),
    frozen_encoder=(plain(), ["freeze"], "frozen"),
    stale_queue=(
        plain(*PAIRS, "queue_size=64", "momentum=0.9"),
        [patch.object(Contrast, "after_step", everything)],
        "queue",
    ),
)
HEALTHY = dict(
    plain=plain(),
    adamw=plain("optimizer=adamw"),
    pairs=plain(*PAIRS),
    queue=plain(*PAIRS, "queue_size=64", "momentum=0.9"),
    frozen_on_purpose=plain("frozen=text"),
    words_only=plain("recon=0"),
    pixels_only=plain("mlm=0"),
    both_at_once=plain("joint_strategy=joint", "text_ratio=0.15", "image_ratio=0.4"),
    other_seed=plain("seed=5"),
    mlim=with_settings(
        replace(plain(), model="mlim", preset="tiny", changes={}),
        [
            "depth=2",
            "embed_dim=48",
            "object_mask_prob=0.5",
            "random_ratio_prob=0.2",
            "full_mask_steps=0",
        ],
    ),
)


def freeze(model):
    "The text encoder learns nothing, and no config says so."
    for parameter in model.text_encoder.parameters():
        parameter.requires_grad_(False)
    return model


def shown_to_the_doctor(run: RunConfig, wounds: list, steps: int | None = None) -> dict[str, str]:
    "Findings by what they are about, of a run that is trained with the wounds and examined with them."
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        run = replace(run, out=f"{folder}/run")
        run = run if steps is None else with_settings(run, [f"steps={steps}"])
        for wound in wounds:
            if wound != "freeze":
                stack.enter_context(wound)
        with ExitStack() as training:
            if "freeze" in wounds:
                from mvl_bench.training import runner as runs

                real = runs.new_model
                training.enter_context(
                    patch.object(
                        runs, "new_model", lambda *a: (lambda m, t: (freeze(m), t))(*real(*a))
                    )
                )
            run_training(run, quiet=True)
        found = diagnose(run.out, 60)[2]
    worst = {}
    for one in found:
        if worst.get(one.about, ("well",))[0] != "trouble":
            worst[one.about] = (one.verdict, one.text)
    return worst


def main() -> None:
    "All of them, as a table and as JSON."
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("names", nargs="*")
    asked.add_argument("--json", type=Path)
    asked = asked.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (run, wounds, about) in SICK.items():
        if not asked.names or name in asked.names:
            found = shown_to_the_doctor(run, wounds)
            verdict, text = found.get(about, ("not looked at", ""))
            named = verdict == "trouble"
            others = [a for a, (v, _) in found.items() if v == "trouble" and a != about]
            rows.append(
                dict(run=name, sick=True, right=named, about=about, said=text, others=others)
            )
            print(rows[-1], flush=True)
    for name, run in HEALTHY.items():
        if not asked.names or name in asked.names:
            found = shown_to_the_doctor(run, [])
            accused = {a: text for a, (v, text) in found.items() if v == "trouble"}
            rows.append(dict(run=name, sick=False, right=not accused, accused=accused))
            print(rows[-1], flush=True)
    print(sum(row["right"] for row in rows), "of", len(rows), "right")
    if asked.json:
        about = dict(command="python tests/sick_runs.py", commit=commit(), seed=0)
        asked.json.write_text(json.dumps(dict(about, runs=rows), indent=1))


if __name__ == "__main__":
    main()
