"Long jobs: one at a time, one per session, few wait, and what nobody watches ends."

import threading
import time
from types import SimpleNamespace

import pytest

from mvl_bench.apps.web.jobs import STREAMS, Jobs, is_watched
from mvl_bench.core import UserError


def ended(log, name, steps="abc"):
    "Build a job that notes that it was closed."

    def job():
        try:
            yield from steps
        finally:
            log.append(name)

    return job


def test_jobs_run_in_the_order_of_their_arrival():
    jobs = Jobs(waiting=2, pause=0.001)
    runs = [jobs.run(name, lambda name=name: iter([name] * 2), lambda place: place) for name in "abc"]
    assert [next(run) for run in runs] == ["a", 1, 2]
    assert list(runs[0]) == ["a"] and next(runs[1]) == "b" and next(runs[2]) == 1
    assert list(runs[1]) == ["b"] and list(runs[2]) == ["c", "c"] and len(jobs) == 0


def test_a_full_line_refuses_at_once_and_has_room_again():
    jobs = Jobs(waiting=4, pause=0.001)
    runs = [jobs.run(str(n), lambda: iter("abc"), str) for n in range(70)]
    busy = 0
    for run in runs:
        try:
            next(run)
        except UserError as error:
            busy += "busy: 5 others" in str(error)
    assert busy == 65 and len(jobs) == 5
    for run in runs:
        run.close()
    assert len(jobs) == 0 and next(jobs.run("late", lambda: iter("x"), str)) == "x"


def test_a_new_job_of_a_session_ends_its_older_one():
    log, jobs = [], Jobs(pause=0.001)
    old = jobs.run("ann", ended(log, "old"), str)
    assert next(old) == "a"
    new = jobs.run("ann", ended(log, "new"), str)
    assert next(new) == "1" and list(old) == [] and log == ["old"]
    assert next(new) == "a" and len(jobs) == 1


def test_a_session_cannot_fill_the_line():
    jobs = Jobs(pause=0.001)
    runs = [jobs.run("ann", lambda: iter("abc"), str) for _ in range(3)]
    next(runs[0]), next(runs[1])
    with pytest.raises(UserError, match="busy"):
        next(runs[2])


@pytest.mark.parametrize("step", ["running", "waiting"])
def test_an_unwatched_job_ends(step):
    jobs, seen, log = Jobs(grace=0.05, pause=0.01), [True], []
    first = jobs.run("first", ended([], "first", iter(int, 1)), str)
    if step == "waiting":
        next(first)
    run = jobs.run("ann", ended(log, "ann", iter(int, 1)), str, watched=lambda: seen[0])
    next(run), next(run)
    seen[0] = False
    begun = time.monotonic()
    for _ in run:
        assert time.monotonic() - begun < 2
    assert len(jobs) == (step == "waiting") and log == ["ann"] * (step == "running")


def test_a_job_that_takes_no_step_leaves_the_line():
    jobs = Jobs(pause=0.001, stale=0.05)
    abandoned = jobs.run("gone", lambda: iter("abc"), str)
    next(abandoned)
    time.sleep(0.1)
    assert next(jobs.run("ann", lambda: iter("x"), str)) == "x"
    abandoned.close()


def test_a_job_that_fails_leaves_the_line():
    def fails():
        yield 1
        raise UserError("the race cannot run")

    jobs = Jobs()
    with pytest.raises(UserError, match="cannot run"):
        list(jobs.run("ann", fails, str))
    assert len(jobs) == 0


def test_threads_share_a_line():
    jobs, together, most = Jobs(waiting=20, pause=0.001), [], [0]

    def job():
        together.append(1)
        most[0] = max(most[0], len(together))
        time.sleep(0.005)
        together.pop()
        yield 1

    threads = [threading.Thread(target=lambda n=n: list(jobs.run(str(n), job, str))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most[0] == 1 and len(jobs) == 0


def test_a_session_with_an_open_stream_is_watched():
    def request(**scope):
        return SimpleNamespace(session_hash="ann", request=SimpleNamespace(scope=scope))

    assert is_watched(None) and is_watched(request())
    assert is_watched(request(**{STREAMS: {"ann": 1}})) and not is_watched(request(**{STREAMS: {}}))
