"First speed figures: `python tests/bench.py [--json FILE]`. Medians of interleaved rounds, with their spread."

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

os.environ |= dict(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import torch
from chromium import CHROMIUM, FLAGS, tab
from playwright.sync_api import sync_playwright
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mvl_bench import app
from mvl_bench.batches import batches
from mvl_bench.checkpoints import load
from mvl_bench.doctor import ceiling
from mvl_bench.losses import weigh
from mvl_bench.maskvlm import MaskVLM, maskvlm_tiny
from mvl_bench.optim import TrainConfig, make_optimizer
from mvl_bench.reconstruct import nearby, reconstruct
from mvl_bench.scenes import WORLDS, Scenes, caption, edit
from mvl_bench.text import word_tokenizer
from mvl_bench.things import COLOURS
from mvl_bench.training import update

ROOT = Path(__file__).parents[1]
BATCH, PRECISIONS = 32, dict(fp32=torch.float32, bf16=torch.bfloat16)


def seconds(work, *args) -> float:
    "How long one call takes."
    begun = time.perf_counter()
    work(*args)
    return time.perf_counter() - begun


def spread(values) -> dict:
    "Median, and the middle half of the values."
    low, middle, high = statistics.quantiles(values, n=4)
    return dict(median=middle, low=low, high=high)


def rounds(most: int, limit: float):
    "Numbers of rounds: `most`, fewer (but 3) where `limit` seconds have passed."
    begun = time.perf_counter()
    for i in range(most):
        if i >= 3 and time.perf_counter() - begun > limit:
            return
        yield i


def tiny(source):
    "The preset `tiny` with random weights and the words of drawn worlds."
    tokenizer = word_tokenizer(source.captions(5000))
    torch.manual_seed(0)
    model = MaskVLM(replace(maskvlm_tiny(), vocab_size=len(tokenizer)))
    model.tokenizer = tokenizer
    return model


def useful_flops(model, passes) -> float:
    "FLOPs of `losses` and its gradients, a mean over some batches; the counter knows only plain attention."
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for batch, views in passes:
            weigh(model.losses(batch, views).parts, model.cfg.loss_weights).backward()
    model.zero_grad()
    return counter.get_total_flops() / len(passes)


def bench_steps(model, source) -> dict:
    "Training steps in fp32 and bf16, and the machine's matrix products, in turn."
    taken = islice(batches(source, model.tokenizer, BATCH, max_words=model.cfg.max_words), 2)
    passes = [(b, model.cfg.masking()(b, (0, i))) for i, (b, _) in enumerate(taken)]
    flops, n = useful_flops(model, passes), len(passes)
    cfgs = {name: TrainConfig(batch_size=BATCH, precision=name) for name in PRECISIONS}
    optimizer, found = make_optimizer(model, cfgs["fp32"]), {name: {} for name in PRECISIONS}
    for cfg in cfgs.values():
        update(model, optimizer, passes[:1], cfg, 0)
    for _ in rounds(10, 25):
        top = {name: ceiling(kind) for name, kind in PRECISIONS.items()}
        for name, cfg in cfgs.items():
            took = sum(seconds(update, model, optimizer, [one], cfg, 0) for one in passes) / n
            row = dict(step_ms=1e3 * took, pairs_per_s=BATCH / took, gflops=flops / took / 1e9)
            row |= dict(ceiling_gflops=top[name] / 1e9, utilisation=flops / took / top["fp32"])
            for key, value in row.items():
                found[name].setdefault(key, []).append(value)
    result = {name: {k: spread(v) for k, v in rows.items()} for name, rows in found.items()}
    return dict(**result, gflop_per_step=flops / 1e9)


def rate(work, share: float = 0.6) -> float:
    "Calls a second of a function of 0, 1, 2 ..., tried for a share of a second."
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < share:
        work(count)
        count += 1
    return count / (time.perf_counter() - begun)


def bench_data(model) -> dict:
    "Scenes a second on one core for each world, and batched pairs a second."
    worlds = {name: Scenes(name, img_size=model.cfg.img_size) for name in WORLDS}
    loader = batches(worlds["all"], model.tokenizer, BATCH, workers=1)
    scenes, pairs = {name: [] for name in worlds}, []
    for source in worlds.values():
        rate(source.pair, 1.0)  # the sprites are drawn once and kept
    for _ in rounds(3, 12):
        for name, source in worlds.items():
            scenes[name].append(rate(lambda i, source=source: source.pair(50_000 + i)))
        pairs.append(BATCH * rate(lambda _: next(loader)))
    loader.close()
    drawn = {name: spread(values) for name, values in scenes.items()}
    return dict(scenes_per_s=drawn, loader_pairs_per_s=spread(pairs))


def bench_latency(model, runs: int = 100) -> dict:
    "Four columns of one pair: hidden patches only, and hidden patches and words."
    source = Scenes("shapes", "val", img_size=model.cfg.img_size)
    model.eval()
    found = dict(pixels_words=[], pixels=[])
    for i in rounds(runs + 10, 15):
        scene, pair = source.scene(i), source.pair(i)
        taken = {thing.colour for thing in scene.things}
        told = caption(edit(scene, 0, colour=next(c for c in COLOURS if c not in taken)))
        for name, values in found.items():
            words = (2, 3) if name == "pixels_words" else ()
            patches = range(i % 8, model.num_patches, 2)
            took = seconds(reconstruct, model, pair, patches, words, nearby(model, pair), told)
            values.append(1e3 * took)
    result = {}
    for name, values in found.items():
        cut = statistics.quantiles(values[len(values) // 10 :], n=20)  # the first warm it up
        result[name] = dict(p50=cut[9], p95=cut[18], runs=len(values))
    return result


CLICK = """place => new Promise(done => {
  const look = () => [...document.querySelectorAll('.mb-pic img')].map(e => e.complete && e.src).join();
  const before = look(), begun = performance.now();
  const wait = () => look() === before || look().includes('false') ? requestAnimationFrame(wait) : done(performance.now() - begun);
  document.querySelector(`[data-patch='${place}']`).click();
  wait();
})"""


def bench_clicks(clicks: int = 40) -> dict:
    "From a click on a patch of the page to the new pictures, in headless Chromium with the shipped model."
    if CHROMIUM is None:
        return dict(runs=0, note="needs Chromium")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with tab(chromium) as page:
            page.goto(app.open_page(app.build(load("maskvlm-tiny"), "maskvlm-tiny")))
            page.locator(".mb-column").nth(3).wait_for()
            took = []
            for i in range(
                clicks + 4
            ):  # the first few warm up; a person looks before the next click
                took.append(page.evaluate(CLICK, str(7 * i % 64)))
                page.wait_for_timeout(500)
            took = took[4:]
        chromium.close()
    cut = statistics.quantiles(took, n=20)
    return dict(p50=cut[9], p95=cut[18], runs=len(took))


def bench_starts() -> dict:
    "Seconds until a fresh process has imported the package, or shown the command's help."
    timed = "import time; t = time.perf_counter(); import mvl_bench; print(time.perf_counter() - t)"
    show = "from mvl_bench.cli import main; main(['--help'])"
    found = dict(import_mvl_bench=[], help=[])

    def fresh(code):
        return subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)

    for _ in range(3):
        found["import_mvl_bench"].append(float(fresh(timed)))
        found["help"].append(seconds(fresh, show))
    return {name: spread(values) for name, values in found.items()}


def lines(found: dict, name: str = ""):
    "Each figure with its name and spread, as lines of text."
    for key, value in found.items():
        label = f"{name} {key.replace('_', ' ')}".strip()
        if isinstance(value, dict) and "median" in value:
            yield f"{label:44}{value['median']:12.4g}   {value['low']:.4g} to {value['high']:.4g}"
        elif isinstance(value, dict):
            yield from lines(value, label)
        else:
            text = f"{value:.4g}" if isinstance(value, float) else value
            yield f"{label:44}{text:>12}"


def main() -> None:
    "Measure, print a table, write JSON."
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--json", type=Path, help="write the same as JSON")
    asked = asked.parse_args()
    begun, source = time.perf_counter(), Scenes()
    model = tiny(source)
    machine = dict(processor=platform.machine(), cores=os.cpu_count(), threads=torch.get_num_threads(),
                   torch=torch.__version__, load_before=os.getloadavg()[0])  # fmt: skip
    found = dict(machine=machine, tiny=bench_steps(model, source))
    found |= dict(data=bench_data(model), latency_ms=bench_latency(model), starts_s=bench_starts())
    found["click_ms"] = bench_clicks()
    found["seconds"] = time.perf_counter() - begun
    print(f"{'':44}{'median':>12}   middle half", *lines(found), sep="\n")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
