"""Kill a run again and again, go on each time, and compare it with one that was never stopped, byte by byte.

python tests/certificate.py [--kills 20] [--json FILE]      every case; the tests run a short version
"""

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import processes
import torch
from datasets import Dataset
from safetensors.torch import load_file

from mvl_bench.core import update
from mvl_bench.data.scenes import Scenes
from mvl_bench.training.config import DataConfig, RunConfig, with_settings
from mvl_bench.training.resume import commit
from mvl_bench.training.runner import run_training

SIZES = ["embed_dim=24", "num_heads=2", "precision=fp32", "batch_size=6", "warmup=2", "lr=3e-3"]
MASKVLM = ["image_depth=1", "text_depth=1", "cross_depth=1", "full_mask_steps=4", "accumulate=2"]
MASKVLM += ["itc=1", "itm=1", "queue_size=18", "momentum=0.9", "modality_dropout=0.2"]
MLIM = ["depth=1", "itm=1", "joint_strategy=mam"]
RATES = {"minutes", "pairs_per_second"}  # what two runs of the same need not share


def case(name: str, folder: Path, steps: int, make: bool = True) -> RunConfig:
    "A small run: MaskVLM or MLIM with all their losses, on drawn scenes or on a stream of files."
    asked = [*SIZES, *(MLIM if name == "mlim" else MASKVLM), f"steps={steps}"]
    data = "scenes:shapes"
    if streaming := name.startswith("stream"):
        data = str(folder / "*.parquet")
        for part in range(3 * make):
            pairs = [Scenes("shapes", seed=part, img_size=16).pair(i) for i in range(20)]
            rows = dict(image=[png(p.image) for p in pairs], caption=[p.caption for p in pairs])
            Dataset.from_dict(rows).to_parquet(str(folder / f"{part}.parquet"))
        asked += ["img_size=16", "patch_size=4", "mask_size=4", "shuffle_window=8"]
        asked += ["group_by_length=true"] * name.endswith("by length")
    often = dict(save_every=3, log_every=1, probe_every=7, trackers="tensorboard")
    model = "mlim" if name == "mlim" else "maskvlm"
    return with_settings(
        RunConfig(
            str(folder / "run"),
            model,
            data=DataConfig(data, streaming=streaming, workers=0),
            **often,
        ),
        asked,
    )


def png(image) -> bytes:
    "The bytes of a picture."
    from io import BytesIO

    from PIL import Image

    Image.fromarray(image).save(buffer := BytesIO(), "png")
    return buffer.getvalue()


def killed_at(number: int, name: str):
    "A function of `os` that ends its process before its call with this number."
    calls, original = [], getattr(os, name)

    def call(*args):
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    return call


def sitting(run: RunConfig, resume: bool, dies_at: tuple[str, int] | None = None) -> None:
    "Train in this process; where asked, it ends itself at its n-th call of `fsync` or `replace`."
    sys.stderr = sys.stdout = open(os.devnull, "w")
    if dies_at is None:
        return run_training(run, resume, quiet=True)
    name, number = dies_at
    with patch(f"mvl_bench.storage.os.{name}", killed_at(number, name)):
        run_training(run, resume, quiet=True)


def lines_of(run: RunConfig) -> int:
    "Lines of its log so far."
    path = Path(run.out) / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_and_go_on(run: RunConfig, kills: int, rng: random.Random, workers=(0,)) -> dict:
    "Kill the run at random moments, every third time within a save, until it is through; what happened."
    done = dict(kills=0, inside_a_save=0)
    reach = max(6, 2 * run.training.steps // kills)
    while True:
        resume, begun = (Path(run.out) / "run.json").exists(), lines_of(run)
        asked = update(run, workers=rng.choice(workers))
        if done["kills"] >= kills:
            assert processes.wait([processes.start(sitting, asked, resume)]) == [0], "the last sitting failed"
            return done
        inside = done["kills"] % 3 == 2
        at = (rng.choice(["fsync", "replace"]), rng.randrange(1, 30)) if inside else None
        process, wanted = processes.start(sitting, asked, resume, at), begun + rng.randrange(2, reach)
        while process.is_alive():
            time.sleep(rng.uniform(0, 0.01))
            if not inside and lines_of(run) >= wanted:
                process.kill()
        done["kills"] += 1
        done["inside_a_save"] += inside


def unlike(one: RunConfig, other: RunConfig) -> list[str]:
    "What differs between the ends of two runs: tensors, every other file of the checkpoint, every logged number."
    found, folders = [], []
    for run in (one, other):
        folders.append(sorted((Path(run.out) / "checkpoints").glob("step-*"))[-1])
    if folders[0].name != folders[1].name:
        return [f"{folders[0].name} is not {folders[1].name}"]
    for name in ("model.safetensors", "optimizer.safetensors"):
        a, b = (load_file(folder / name) for folder in folders)
        same = {k for k in a.keys() & b.keys() if bytes_of(a[k]) == bytes_of(b[k])}
        found += sorted((a.keys() | b.keys()) - same)
    texts = [texts_of(folder, run) for folder, run in zip(folders, (one, other))]
    both = texts[0].keys() | texts[1].keys()
    found += sorted(name for name in both if texts[0].get(name) != texts[1].get(name))
    logs = [
        {row["step"]: {k: v for k, v in row.items() if k not in RATES} for row in rows(run)}
        for run in (one, other)
    ]
    return found + [f"log, step {step}" for step in logs[0] if logs[0][step] != logs[1].get(step)]


def texts_of(folder: Path, run: RunConfig) -> dict[str, str]:
    "The files of a checkpoint without tensors, by name; times, workers, the version of the code and the run's own folders are left out."
    texts = {}
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            continue
        text = path.read_text()
        if path.name == "manifest.json":  # hashes of files that hold times
            text = "\n".join(json.loads(text))
        for own in (run.out, str(run.data.source)):
            text = text.replace(own, "")
        text = re.sub(r" data\.workers=\d", "", text)  # each sitting has its own number
        texts[path.name] = re.sub(r".*\b(minutes|code_fingerprint|commit)\b.*\n", "", text)
    return texts


def rows(run: RunConfig) -> list[dict]:
    "The lines of a log that were not torn."
    from mvl_bench.training.logger import read_log

    return read_log(run.out)


def bytes_of(tensor: torch.Tensor) -> bytes:
    "The bits of a tensor, for comparison."
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def certify(name: str, kills: int, steps: int, folder: Path, seed: int = 0) -> dict:
    "One case: the straight run, the killed one, and what is unlike."
    (folder / "straight").mkdir(parents=True)
    (folder / "killed").mkdir()
    straight, killed = (case(name, folder / way, steps) for way in ("straight", "killed"))
    if name.startswith("stream"):  # both read the same files
        killed = replace(killed, data=straight.data)
    run_training(straight, quiet=True)
    workers = (0, 1, 2) if name == "maskvlm" else (0,)
    happened = kill_and_go_on(killed, kills, random.Random(seed), workers)
    tensors = len(load_file(next((Path(straight.out) / "checkpoints").glob("*/model.safetensors"))))
    return dict(
        case=name, steps=steps, **happened, tensors=tensors, unlike=unlike(straight, killed)
    )


def main() -> None:
    "All cases with many kills, as a table and as JSON."
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--kills", type=int, default=20)
    asked.add_argument("--json", type=Path)
    asked = asked.parse_args()
    torch.set_num_threads(1)
    found = []
    for name in ("maskvlm", "mlim", "stream"):
        with tempfile.TemporaryDirectory() as folder:
            found.append(certify(name, asked.kills, 12 * asked.kills, Path(folder)))
        print({k: v if k != "unlike" else v[:3] for k, v in found[-1].items()}, flush=True)
    about = dict(command=f"python tests/certificate.py --kills {asked.kills}", commit=commit())
    about |= dict(torch=torch.__version__, seed=0)
    if asked.json:
        asked.json.write_text(json.dumps(dict(about, cases=found), indent=1))
    sys.exit(any(one["unlike"] for one in found))


if __name__ == "__main__":
    main()
