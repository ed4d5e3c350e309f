"Thirty-two people at once: `python tests/bench_load.py [--seconds 60] [--json FILE]`, on a quiet machine."

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import socket
from threading import Barrier

from bench_clicks import clicks
from chromium import CHROMIUM, FLAGS, tab
from gradio_client import Client
from playwright.sync_api import sync_playwright

from mvl_bench.apps.board.codec import read_places, write_places

PEOPLE = 31  # and one in a real browser
PAUSE = 1.0  # seconds that a person looks at an answer, on average


def memory(pid: int) -> float:  # megabytes
    "What a process holds."
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def person(url: str, number: int, seconds: float, arrived: Barrier) -> dict:
    "One person on a scene of their own, who hides this and that; what went wrong is counted."
    chance, told = random.Random(number), dict(took=[], failed=[], strange=0)
    client = Client(url, verbose=False)
    own = client.predict(api_name="/start")["state"] | dict(seed=1000 * number)
    own = client.predict(own, api_name="/another_scene")["state"]  # that nobody else has
    arrived.wait()
    until = time.time() + seconds
    while time.time() < until:
        time.sleep(chance.uniform(0, 2 * PAUSE))
        masked = sorted(chance.sample(range(64), chance.randint(1, 30)))
        request = dict(state=own, kind="hide", given=dict(patches=write_places(masked), words=""))
        begun = time.perf_counter()
        try:
            answer = client.predict(request, api_name="/board")
        except Exception as error:  # anything that a person would see fail
            told["failed"].append(f"{type(error).__name__}: {error}")
            continue
        told["took"].append(1000 * (time.perf_counter() - begun))
        if "error" in answer:
            told["failed"].append(answer["error"])
            continue
        now, errors = answer["state"], answer["shown"]["columns"]["with"]["errors"]
        mine = now["caption"] == own["caption"] and now.get("scene") == own.get("scene")
        painted = [i for i, e in enumerate(errors) if e is not None]
        right = list(read_places(now["patches"], 64)) == painted == masked
        told["strange"] += not (mine and right)
    return told


def bench_load(seconds: float) -> dict:
    "Failed requests, answers that were another's, memory, and how long people wait."
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mvl_bench", "demo", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split(" is at ")[1].split()[0]
        person(url, 0, 5, Barrier(1))  # warm
        held, arrived = [memory(server.pid)], Barrier(PEOPLE + 1)
        with ThreadPoolExecutor(PEOPLE) as pool, sync_playwright() as play:
            there = [pool.submit(person, url, n + 1, seconds, arrived) for n in range(PEOPLE)]
            chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            with tab(chromium) as page:
                page.goto(url, timeout=60_000)
                page.locator(".mb[data-answered]").wait_for(timeout=60_000)
                arrived.wait()
                held.append(memory(server.pid))
                seen = clicks(page, round(seconds))
            chromium.close()
            found = [one.result() for one in there]
        held.append(memory(server.pid))
    finally:
        server.terminate()
        server.wait()
    took = [t for one in found for t in one["took"]]
    cut = statistics.quantiles(took, n=20)
    return dict(
        people=PEOPLE + 1,
        seconds=seconds,
        answers=len(took),
        failed=[text for one in found for text in one["failed"]],
        another_persons=sum(one["strange"] for one in found),
        milliseconds=dict(p50=round(cut[9]), p95=round(cut[18]), longest=round(max(took))),
        in_a_browser=seen,
        megabytes=dict(zip(("before", "all there", "after"), map(round, held))),
    )


def main() -> None:
    "Measure, print, write JSON."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = bench_load(asked.seconds)
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
