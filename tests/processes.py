"""Processes of their own for tests, with a time limit.

They come from a fork server that has imported the library and has no threads. A fork of pytest's own process, with the
threads of web servers and readers in it, now and then waits for ever on a lock that one of them held.
"""

import multiprocessing
import socket

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["accelerate", "mvl_bench.apps.cli.main", "mvl_bench.models.maskvlm", "mvl_bench.models.mlim", "mvl_bench.training.runner"]
)
LIMIT = 240  # seconds; the longest takes some ten


def start(function, *args):
    "Start a process of one thread that calls a function of a module; function and arguments are pickled."
    process = SERVER.Process(target=_one_thread, args=(function, *args))
    process.start()
    return process


def _one_thread(function, *args):
    torch.set_num_threads(1)
    function(*args)


def wait(processes: list, limit: float = LIMIT) -> list[int]:
    "Exit codes of processes, when all have ended; one that does not is killed, and the test fails."
    try:
        for process in processes:
            process.join(limit)
        running = [process.pid for process in processes if process.is_alive()]
        assert not running, f"processes {running} still run after {limit} s"
    finally:
        for process in processes:
            process.kill()
    return [process.exitcode for process in processes]


def addresses(count: int) -> list[dict[str, str]]:
    "Variables by which each of `count` processes finds the others, as torchrun sets them."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = dict(WORLD_SIZE=f"{count}", MASTER_ADDR="127.0.0.1", MASTER_PORT=f"{port}")
    return [where | dict(RANK=f"{rank}", LOCAL_RANK=f"{rank}") for rank in range(count)]
