"A command that a run records is read back as the same run."

import shlex

import pytest

from mvl_bench.apps.cli.arguments import parser
from mvl_bench.apps.cli.main import _data_config, _settings
from mvl_bench.training.config import RunConfig, command, with_settings

RUNS = [
    ("maskvlm", "tiny", "scenes", []),
    ("mlim", "small", "my pictures/*.parquet", ["lr=0.0025", "depth=4", "val_frac=0"]),
    ("vilt", "tiny", "scenes:shapes", ["optimizer=adamw", "seed=3", "precision=fp32"]),
    ("maskvlm", "photo", "a b.csv", ["img_size=96,128", "augment=true", "frozen=image", "mlm=0"]),
]


@pytest.mark.parametrize("model, preset, data, settings", RUNS)
def test_a_recorded_command_is_the_same_run(model, preset, data, settings):
    flags = ["train", "--model", model, "--preset", preset, "--data", data, "--steps", "7"]
    flags += ["--out", "DIR", *(["--set", *settings] if settings else [])]
    read = [_run(flags)]
    read.append(_run(shlex.split(command(read[0]))[1:]))
    assert read[0] == read[1]


def _run(flags: list[str]) -> RunConfig:
    args = parser().parse_args(flags)
    return with_settings(
        RunConfig(args.out, args.model, args.preset, _data_config(args)), _settings(args)
    )
