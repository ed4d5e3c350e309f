"The configuration of a run: rejected values, settings by name, their meanings, and the command that repeats it."

import shlex
from dataclasses import replace

import pytest

from mvl_bench.core import UserError
from mvl_bench.models.registry import MODELS
from mvl_bench.training.config import (
    PAIR_LOSSES,
    DataConfig,
    RunConfig,
    command,
    for_retrieval,
    image_size,
    list_settings,
    parse,
    settings_of_run,
    with_settings,
)

SMALL = {"image.img_size": (32, 32), "masking.mask_size": 32}
CHANGED = """embed_dim=48 batch_size=4 img_size=32,64 mismatched_captions=true group_by_length=true
    hf_model='my bert'"""


@pytest.fixture
def run():
    "A run with the default settings."
    return RunConfig("somewhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(shuffle_window=0), "shuffle_window 0 is under 1"),
        (dict(fraction=0.0), "fraction 0.0 is not above 0 and at most 1"),
        (dict(fraction=0.5, streaming=True), "a stream does not know its size"),
        (dict(val_frac=0.6), "val_frac 0.6 is not from 0 to 0.5"),
        (dict(workers=-1), "workers -1 is not from 0 to 256"),
        (dict(workers=100_000), "workers 100000 is not from 0 to 256"),
        (dict(scale_jitter=1.0), "scale_jitter 1.0 is not from 0 to under 1"),
    ],
)
def test_impossible_data_are_rejected(settings, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(model="gpt"), "model 'gpt' is not one of maskvlm, mlim"),
        (dict(preset="huge"), "preset 'huge' is not one of mini, tiny"),
        (dict(save_every=0), "save_every 0 is under 1"),
        (dict(probe_every=-1), "probe_every -1 is under 0"),
    ],
)
def test_an_impossible_run_is_rejected(settings, message):
    with pytest.raises(UserError, match=message):
        RunConfig("somewhere", **settings)


def test_each_model_has_presets_of_its_own():
    assert RunConfig("somewhere", model="mlim", preset="paper").preset == "paper"
    with pytest.raises(UserError, match="preset 'paper' is not one of"):
        RunConfig("somewhere", model="maskvlm", preset="paper")


def test_the_image_size_is_that_of_the_checkpoint_unless_it_is_set():
    base = RunConfig("somewhere", preset="base")
    assert image_size(base) == (224, 224)
    assert image_size(replace(base, init_from="maskvlm-tiny")) == (64, 64)
    small = replace(base, init_from="maskvlm-tiny", model_overrides=SMALL)
    assert image_size(small) == (32, 32)


@pytest.mark.parametrize(
    ("text", "like", "value"),
    [
        ("3", 1, 3),
        ("1e-3", 0.5, 0.001),
        ("false", True, False),
        ("0", True, False),
        ("a b", "", "a b"),
        ("32", (1, 1), (32, 32)),
        ("32, 64", (1, 1), (32, 64)),
        ("x", None, "x"),
    ],
)
def test_text_becomes_a_value_of_the_type_of_the_default(text, like, value):
    parsed = parse(text, like)
    assert parsed == value and type(parsed) is type(value)


def test_settings_reach_the_run_its_training_and_its_model(run):
    names = (
        "training.lr=2e-3 embed_dim=96 masking.image_strategy=block save_every=50 img_size=32,64"
    )
    changed = with_settings(run, names.split())
    assert changed.training.lr == 0.002 and changed.save_every == 50
    overrides = {"masking.image_strategy": "block", "image.img_size": (32, 64)}
    assert changed.model_overrides == {"embed_dim": 96} | overrides
    assert changed.model_config.image.img_size == (32, 64)
    assert run == RunConfig("somewhere")  # the original is unchanged


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rat=1", "there is no setting 'learning_rat'"),
        ("lr=fast", "'lr=fast': 'fast' is no float"),
        ("augment=maybe", "'augment=maybe': 'maybe' is no bool"),
        ("embed_dim=97", "embed_dim 97 is not a multiple of num_heads 3"),
        ("image_ratio=2", "image_ratio 2.0 is not between 0 and 1"),
        ("image_rato=0.5", "did you mean masking.image_ratio?"),
        ("lr", "setting 'lr' has no value: write name=value"),
        ("vocab_size=500", "text.vocab_size follows from the tokenizer: it cannot be set"),
        ("recon_area=whole", "losses.recon_area has no effect: maskvlm does not use it"),
    ],
)
def test_a_wrong_setting_is_rejected_and_named(run, setting, message):
    with pytest.raises(UserError) as error:
        with_settings(run, [setting])
    assert message in str(error.value)


def test_a_queue_must_fit_the_batch_size_of_the_run(run):
    with pytest.raises(UserError, match="queue_size 100 is not a multiple of batch_size 32"):
        with_settings(run, ["itc=1", "queue_size=100"])


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_of_every_model_has_a_meaning(model):
    run = RunConfig("somewhere", model)
    rows = list_settings(run)
    assert all(meaning for _, _, meaning in rows), [row for row in rows if not row[2]]
    assert [name for name, _, _ in rows] == list(settings_of_run(run))
    assert len({name for name, _, _ in rows}) == len(rows)


def test_the_printed_command_leads_back_to_the_run():
    data = DataConfig("my pictures/*.parquet")
    run = with_settings(RunConfig("runs/mine", data=data), shlex.split(CHANGED))
    text = command(run)
    assert "--data 'my pictures/*.parquet'" in text and "embed_dim=48" in text
    assert "lr=" not in text
    words = shlex.split(text.partition(" --set ")[2])
    again = with_settings(RunConfig("runs/mine", data=run.data), words)
    assert replace(again, data=run.data) == run


def test_fine_tuning_for_retrieval_trains_contrast_and_matching_alone():
    run = for_retrieval("somewhere", "maskvlm-tiny", DataConfig("scenes:shapes"))
    assert run.init_from == "maskvlm-tiny" and run.model_overrides == PAIR_LOSSES
    assert run.model_config.losses.weights == dict(itc=1.0, itm=1.0)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [("mlim-tiny", "retrieval ranks by vectors, and mlim makes none"), ("nowhere", "nowhere")],
)
def test_retrieval_needs_a_checkpoint_of_a_model_with_vectors(checkpoint, message):
    with pytest.raises(UserError, match=message):
        for_retrieval("somewhere", checkpoint, DataConfig())
