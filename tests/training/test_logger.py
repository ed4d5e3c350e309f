"A log survives the kill that tore its last line, and says what it cannot read."

import json
from types import SimpleNamespace

import pytest

from mvl_bench.core import UserError
from mvl_bench.training.config import RunConfig
from mvl_bench.training.logger import Log, read_baselines, read_log
from mvl_bench.training.optim import TrainConfig


def step(number):
    return SimpleNamespace(
        step=number, losses=dict(mlm=1.0 * number), lr=0.1, grad_norm=1.0, seconds=1.0
    )


def test_a_torn_line_is_passed_over_and_the_next_sitting_begins_a_new_one(tmp_path):
    run = RunConfig(str(tmp_path), training=TrainConfig(steps=4), log_every=1)
    first = Log(run, 0)
    for number in (1, 2, 3):
        first.add(step(number))
    first.close()
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-30])  # killed while the third was written
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]
    second = Log(run, 2)
    for number in (3, 4):
        second.add(step(number))
    second.close()
    assert [(row["step"], row["mlm"]) for row in read_log(tmp_path)] == [
        (n, n) for n in (1, 2, 3, 4)
    ]
    assert second.minutes >= read_log(tmp_path)[1]["minutes"]


@pytest.mark.parametrize("line", ["3", "[]", '{"mlm": 1.0}', '{"step": "one"}'])
def test_a_line_of_something_else_is_named(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(json.dumps(dict(step=1)) + "\n" + line + "\n")
    with pytest.raises(UserError, match="line 2 is no line of a run's log"):
        read_log(tmp_path)


def test_broken_baselines_are_named(tmp_path):
    assert read_baselines(tmp_path) == {}
    (tmp_path / "baselines.json").write_text("{")
    with pytest.raises(UserError, match="baselines.json is broken"):
        read_baselines(tmp_path)
