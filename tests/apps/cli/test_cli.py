"The command line: what works from end to end, and one clear line for every mistake."

import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import TOKENIZER, small
from PIL import Image
from samples import ROOT

from mvl_bench.apps.cli.main import main
from mvl_bench.core import update
from mvl_bench.evaluation.reconstruction import CONDITIONS
from mvl_bench.models.base import save
from mvl_bench.models.registry import load
from mvl_bench.training.config import DataConfig, RunConfig, command
from mvl_bench.training.runner import open_source

COMMAND = Path(sys.executable).with_name("mvl-bench")
SIZES = "embed_dim=32 num_heads=2 image_depth=1 text_depth=1 cross_depth=1 img_size=32 batch_size=2"
TRAIN = [
    "train",
    "--out",
    "run",
    "--data",
    "scenes:shapes",
    "--steps",
    "2",
    "--set",
    *SIZES.split(),
]
MLIM_SIZES = "embed_dim=32 num_heads=2 depth=1 decoder_dim=16 img_size=32 batch_size=2"
MLIM = [*TRAIN[: TRAIN.index("--set")], "--model", "mlim", "--set", *MLIM_SIZES.split()]
EVALUATE = ["evaluate", "--checkpoint", "ck", "--data", "scenes", "--limit", "4"]
RECONSTRUCT = [
    "reconstruct",
    "--checkpoint",
    "ck",
    "--image",
    "pics/0.png",
    "--out",
    "o.png",
    "--caption",
] + ["a red circle"]


def bomb():
    "A PNG that says it has 3.6 thousand million pixels."

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "Small matrices are quickest on one thread, and sums are the same on as many."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A folder with a checkpoint, pictures with captions, and things that are wrong."
    home = tmp_path_factory.mktemp("home")
    (home / "pics").mkdir()
    (home / "folder.png").mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 30 + i, 3), np.uint8)
        Image.fromarray(pixels).save(home / "pics" / f"{i}.png")
        (home / "pics" / f"{i}.txt").write_text(f"a red thing with number {i}")
    save(small(), TOKENIZER, home / "ck", dict(steps=1))
    shutil.copytree(home / "ck", home / "damaged")
    with open(home / "damaged" / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    (home / "cut.png").write_bytes((home / "pics" / "0.png").read_bytes()[:300])
    (home / "bomb.png").write_bytes(bomb())
    Image.new("RGB", (1, 1)).save(home / "one.png")
    for name in ("file", "no.png"):
        (home / name).write_text("x")
    return home


@pytest.fixture
def home(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def tree(folder):
    "Every file with its content's length."
    return {str(f.relative_to(folder)): f.is_file() and f.stat().st_size for f in folder.rglob("*")}


def changed(words, more):
    "A command with some flags changed or added: `--flag=value`, or `key=value` for `--set`."
    words = list(words)
    for part in more:
        flag, _, value = part.partition("=")
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += ["--set", part] if not flag.startswith("--") else [flag, value]
    return words


def refused(capfd, home, words):
    "The one line that a mistake gets: exit code 2, nothing else said, nothing written."
    before = tree(home)
    capfd.readouterr()
    assert main(words) == 2
    out, err = capfd.readouterr()
    lines = [
        line for line in err.replace("\r", "\n").splitlines() if line and "step/s]" not in line
    ]
    assert out == "" and len(lines) == 1, err
    assert lines[0].startswith(f"mvl-bench {words[0]}: ") and len(lines[0]) < 500
    assert tree(home) == before, "something was left behind"
    return lines[0]


def bad(base, more, *words):
    "A mistake, and what its line must say."
    return pytest.param(base, more.split(" & "), words, id=f"{base[0]} {more}")


MISTAKES = [
    bad(TRAIN, "--model=mlmi", "mlmi", "maskvlm"),
    bad(TRAIN, "--preset=tniy", "tniy", "mini, tiny, photo, small, base"),
    bad(TRAIN, "--data=nowhere", "nowhere"),
    bad(TRAIN, "--data=no-*.parquet", "no-*.parquet"),
    bad(TRAIN, "--data=scenes:x", "scenes:x", "shapes"),
    bad(TRAIN, "--data=hf:no-one/no-such-set", "no-one/no-such-set"),
    bad(TRAIN, "--split=x", "split x", "novel"),
    bad(TRAIN, "--data=pics & --image-column=x", "'x'", "image, captions"),
    bad(TRAIN, "--data=pics & --caption-column=x", "'x'", "image, captions"),
    bad(TRAIN, "--data=pics & batch_size=99", "batch_size 99", "4",),
    bad(TRAIN, "--out=file", "file"),
    bad(TRAIN, "--out=file/x", "file/x"),
    bad(TRAIN, "--steps=-1", "steps -1"),
    bad(TRAIN, "lrr=1", "lrr", "did you mean training.lr"),
    bad(TRAIN, "embed_dimm=32", "did you mean embed_dim"),
    bad(TRAIN, "zzz=1", "'zzz'"),
    bad(TRAIN, "lr", "'lr'"),
    bad(TRAIN, "lr=fast", "fast", "float"),
    bad(TRAIN, "lr=-1", "lr -1"),
    bad(TRAIN, "streaming=maybe", "maybe", "bool"),
    bad(TRAIN, "image_strategy=blocks", "image_strategy 'blocks'", "random, block, grid, score"),
    bad(TRAIN, "text_strategy=nouns", "text_strategy 'nouns'", "whole_word"),
    bad(TRAIN, "joint_strategy=all", "joint_strategy 'all'", "alternating, joint, mam, pooled, dirichlet"),
    bad(TRAIN, "seed=x", "int"),
    bad(TRAIN, "img_size=", "img_size="),
    bad(TRAIN, "img_size=30", "30", "patch_size 8"),
    bad(TRAIN, "patch_size=7", "32", "patch_size 7"),
    bad(TRAIN, "patch_size=0", "patch_size 0"),
    bad(TRAIN, "mask_size=12", "mask_size 12"),
    bad(TRAIN, "num_heads=5", "embed_dim 32", "num_heads 5"),
    bad(TRAIN, "image_ratio=1.5", "image_ratio 1.5"),
    bad(TRAIN, "scale_jitter=1", "scale_jitter 1.0", "under 1"),
    bad(TRAIN, "augment=True", "augment cuts photographs", "scenes:shapes"),
    bad(TRAIN, "text_ratio=-1", "text_ratio -1"),
    bad(TRAIN, "modality_dropout=nan", "modality_dropout nan"),
    bad(TRAIN, "mask_token_at=x", "'x'"),
    bad(TRAIN, "precision=fp8", "fp8", "bf16"),
    bad(TRAIN, "device=tpu", "tpu"),
    bad(TRAIN, "device=meta", "meta"),
    bad(TRAIN, "save_every=0", "save_every 0"),
    bad(TRAIN, "mlm=0 & recon=0", "all 0"),
    bad(TRAIN, "recon_kind=l9", "l9", "l1",),
    bad(TRAIN, "num_heads=0", "num_heads",),
    bad(TRAIN, "embed_dim=0", "embed_dim",),
    bad(TRAIN, "image_depth=-1", "image_depth",),
    bad(TRAIN, "vocab_size=5", "vocab_size",),
    bad(TRAIN, "max_text_len=-1", "max_text_len",),
    bad(TRAIN, "img_size=1,2,3", "img_size",),
    bad(TRAIN, "workers=-1", "workers",),
    bad(TRAIN, "beta2=2", "beta2",),
    bad(TRAIN, "recon=nan", "recon nan",),
    bad(TRAIN, "recon_saliency_weight=-1", "recon_saliency_weight",),
    bad(TRAIN, "lr=inf", "lr",),
    bad(TRAIN, "image_ratio=0 & text_ratio=0 & random_ratio_prob=0", "ratio",),
    bad(TRAIN, "arch=abacus", "arch",),
    bad(MLIM, "decoder_dim=6", "decoder_dim 6", "multiple of 4"),
    bad(MLIM, "patch_size=12 & mask_size=12 & img_size=36", "patch_size 12", "power of two"),
    bad(MLIM, "recon_area=half", "'half'"),
    bad(MLIM, "cross_depth=1", "'cross_depth'"),
    bad(MLIM, "arch=gpt2", "'gpt2'"),
    bad(EVALUATE, "--checkpoint=maskvlm-huge", "maskvlm-huge", "maskvlm-tiny"),
    bad(EVALUATE, "--checkpoint=damaged", "damaged", "model.safetensors"),
    bad(EVALUATE, "--checkpoint=pics", "'pics'"),
    bad(EVALUATE, "--data=nowhere", "nowhere"),
    bad(EVALUATE, "--split=x", "split x"),
    bad(EVALUATE, "--data=pics & --caption-column=x", "'x'"),
    bad(EVALUATE, "--limit=1", "limit 1"),
    bad(RECONSTRUCT, "--checkpoint=maskvlm-huge", "maskvlm-huge", "maskvlm-tiny"),
    bad(RECONSTRUCT, "--checkpoint=damaged", "damaged", "model.safetensors"),
    bad(RECONSTRUCT, "--image=none.png", "none.png", "not there"),
    bad(RECONSTRUCT, "--out=out.jpg", "out.jpg", ".png"),
    bad(RECONSTRUCT, "--image=pics", "pics", "not a file"),
    bad(RECONSTRUCT, "--image=cut.png", "cut.png", "truncated"),
    bad(RECONSTRUCT, "--image=no.png", "no.png", "not a readable picture"),
    bad(RECONSTRUCT, "--image=one.png", "one.png", "1x1"),
    bad(RECONSTRUCT, "--image=bomb.png", "bomb.png", "64,000,000"),
    bad(RECONSTRUCT, "--caption=", "caption is empty"),
    bad(RECONSTRUCT, "--caption=   ", "caption is empty"),
    bad(RECONSTRUCT, "--hide-image=1.5", "1.5", "between 0 and 1"),
    bad(RECONSTRUCT, "--hide-image=-0.1", "-0.1", "between 0 and 1"),
    bad(RECONSTRUCT, "--hide-image=nan", "nan", "between 0 and 1"),
    bad(RECONSTRUCT, "--hide-words=green", "'green'", "a red circle"),
    bad(RECONSTRUCT, "--hide-words=red,green", "'green'"),
    bad(RECONSTRUCT, "--out=nodir/o.png", "nodir/o.png"),
    bad(RECONSTRUCT, "--out=pics", "pics", ".png"),
    bad(RECONSTRUCT, "--out=folder.png", "folder.png", "directory"),
    bad(RECONSTRUCT, "--out=file/o.png", "file/o.png",),
    bad(RECONSTRUCT, "--edit=", "edit",),
]  # fmt: skip


@pytest.mark.parametrize("base, more, said", MISTAKES)
def test_a_mistake_gets_one_line(home, capfd, monkeypatch, base, more, said):
    monkeypatch.setattr(
        "mvl_bench.training.runner.make_tokenizer", lambda source: TOKENIZER
    )  # to save time
    try:
        line = refused(capfd, home, changed(base, more))
    finally:
        shutil.rmtree(home / "run", ignore_errors=True)
        (home / "o.png").unlink(missing_ok=True)
    assert all(word in line for word in said), line


@pytest.mark.parametrize(
    "words, said",
    [
        (["train"], "--out"),
        (["trian"], "trian"),
        ([], "COMMAND"),
        ([*TRAIN, "--steps", "many"], "many"),
        ([*EVALUATE, "--task", "vqa2"], "vqa2"),
        ([*RECONSTRUCT, "--hide-image", "half"], "half"),
        ([*RECONSTRUCT, "--colour"], "--colour"),
    ],
)
def test_a_flag_that_is_none(home, capfd, words, said):
    with pytest.raises(SystemExit) as caught:
        main(words)
    out, err = capfd.readouterr()
    assert caught.value.code == 2 and out == "" and "Traceback" not in err
    (line,) = err.splitlines()  # one, and it says where to look
    assert said in line and "--help" in line


def test_a_check_that_passes_on_anything_is_no_check(home, capfd):
    for words in (["reconstruct", *RECONSTRUCT[1:]], [*EVALUATE, "--json", "e.json"]):
        with pytest.raises(AssertionError):
            refused(capfd, home, words)
    (home / "o.png").unlink()
    (home / "e.json").unlink()


# ---- what works


@pytest.fixture(scope="module")
def run(made):
    "A run of four steps, trained once."
    cwd = os.getcwd()
    os.chdir(made)
    try:
        assert (
            main(changed(TRAIN, ["--out=whole", "--steps=4", "save_every=2", "log_every=1"])) == 0
        )
    finally:
        os.chdir(cwd)
    return made / "whole"


def test_a_run_folder_holds_what_is_needed(run):
    assert {"run.json", "log.jsonl", "checkpoints", "tensorboard"} <= {
        f.name for f in run.iterdir()
    }
    assert sorted(f.name for f in (run / "checkpoints").iterdir()) == [
        "step-00000002",
        "step-00000004",
    ]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    assert all(np.isfinite([row["mlm"], row["recon"], row["grad_norm"]]).all() for row in log)
    assert load(run).facts["steps"] == 4


def test_a_run_that_exists_is_not_overwritten(home, run, capfd):
    again = changed(TRAIN, ["--out=whole", "--steps=4", "save_every=2"])
    assert "--resume" in refused(capfd, home, again)
    assert "lr" in refused(capfd, home, [*changed(again, ["lr=0.5"]), "--resume"])
    assert "nowhere" in refused(capfd, home, [*changed(again, ["--out=nowhere"]), "--resume"])


def test_a_run_begins_from_what_fits_of_another(home, run, capfd):
    given = [f"init_from={run}", "--out=grown", "--steps=1", "pixel_head_dim=24"]
    assert main(changed(TRAIN, given)) == 0
    new = [f"to_pixels.{name}" for name in ("1.weight", "1.bias", "3.weight")]
    assert f"begun at random, not from {run}: {', '.join(new)}" in capfd.readouterr().err
    grown = load(home / "grown")
    assert grown.facts["began_at_random"] == new and grown.cfg.pixel_head_dim == 24
    old, now = load(run).state_dict(), grown.state_dict()
    assert max((old[k] - now[k]).abs().max() for k in now if k not in new) < 0.01  # one step on
    wider = changed(TRAIN, [*given, "--out=other", "embed_dim=48", "num_heads=3"])
    assert f"weights of {run} do not fit" in refused(capfd, home, wider)


def test_resumed_it_ends_with_the_same_weights(home, run):
    whole = load(run / "checkpoints" / "step-00000004").state_dict()
    shutil.copytree(run, home / "again")
    shutil.rmtree(home / "again" / "checkpoints" / "step-00000004")
    words = changed(TRAIN, ["--out=again", "--steps=4", "save_every=2", "log_every=1"])
    assert main([*words, "--resume"]) == 0
    resumed = load(home / "again").state_dict()
    assert all(value.equal(resumed[name]) for name, value in whole.items())


def check_scores(scores, drawn):
    "The keys that DESIGN promises, with numbers in them."
    assert scores["task"] == "reconstruction" and scores["n"] > 1
    for key in ["recon", "mlm"] + ["recon_object"] * drawn:
        row = scores[key]
        shown = [*CONDITIONS] if key != "recon_object" else ["with", "without", "wrong"]
        assert all(0 <= row[name] < 100 for name in shown), key
        for name in [*shown, *(f"{name}_minus_with" for name in shown[1:])]:
            low, high = row["ci"][name]
            assert low <= high
            assert name not in row or low <= row[name] <= high
        assert all(np.isfinite(list(row["baselines"].values())))
    assert ("recon_object" in scores) == drawn


@pytest.mark.parametrize(
    "setting, part", [("mismatched_captions=True", "to_words"), ("scale_jitter=0.25", "to_pixels")]
)
def test_a_run_that_is_shown_other_pairs_learns_other_weights(home, run, setting, part):
    assert main(changed(TRAIN, [f"--out={part}", setting])) == 0
    model = load(home / part)
    assert setting in model.facts["command"]
    true = load(run / "checkpoints" / f"step-{model.facts['steps']:08}")
    assert not getattr(model, part)[-1].weight.equal(getattr(true, part)[-1].weight)


def test_photographs_are_cut_anew_in_each_epoch_where_asked(home):
    asked = RunConfig("run", data=DataConfig("pics", val_frac=0.0))
    plain, cut = (open_source(update(asked, augment=way)) for way in (False, True))
    seen = [[source.pair(0, epoch).image for epoch in (0, 1)] for source in (plain, cut)]
    assert np.array_equal(*seen[0]) and not np.array_equal(*seen[1])
    held = open_source(update(asked, augment=True), held_out=True)
    assert np.array_equal(held.pair(0, 1).image, seen[0][0])
    assert "augment=True" in command(update(asked, augment=True))


def test_bf16_where_there_is_none_in_hardware_is_said(home, capfd, monkeypatch):
    monkeypatch.setattr("mvl_bench.training.runner.fastest_precision", lambda: "fp32")
    assert main(changed(TRAIN, ["--out=slow", "--steps=1", "precision=bf16"])) == 0
    assert "note: this machine has no bf16 in hardware" in capfd.readouterr().err
    assert main(changed(TRAIN, ["--out=quick", "--steps=1", "precision=fp32"])) == 0
    assert "note" not in capfd.readouterr().err


@pytest.mark.parametrize("data", ["scenes", "scenes:shapes:2", "pics"])
def test_evaluate(home, run, capfd, data):
    words = [
        "evaluate",
        "--checkpoint",
        "whole",
        "--data",
        data,
        "--limit",
        "6",
        "--json",
        "e.json",
    ]
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert "hidden pixels" in out and "hidden words, nats" in out and "Traceback" not in err
    scores = json.loads((home / "e.json").read_text())
    check_scores(scores, data != "pics")
    assert scores["data"] == data
    with pytest.raises(AssertionError):
        check_scores({**scores, "mlm": {**scores["mlm"], "without": float("nan")}}, data != "pics")
    (home / "e.json").unlink()


def test_the_novel_split_is_evaluated(home, run):
    assert main(["evaluate", "--checkpoint", "whole", "--data", "scenes", "--split", "novel",
                 "--limit", "5", "--json", "n.json"]) == 0  # fmt: skip
    scores = json.loads((home / "n.json").read_text())
    check_scores(scores, True)
    assert scores["split"] == "novel"
    (home / "n.json").unlink()


def test_reconstruct(home, run, capfd):
    words = changed(
        RECONSTRUCT, ["--checkpoint=whole", "--hide-words=red,circle", "--edit=a blue circle"]
    )
    before = tree(home)
    assert main([*words, "--hide-image", "0.5", "--json", "o.json"]) == 0
    out, err = capfd.readouterr()
    assert out.strip() == "o.png" and "Traceback" not in err
    assert set(tree(home)) - set(before) == {"o.png", "o.json"}
    picture = Image.open("o.png")
    assert picture.format == "PNG" and min(picture.size) > 100
    told = json.loads(Path("o.json").read_text())
    assert list(told["columns"]) == ["with", "without", "wrong", "edited"]
    assert len(told["hidden_patches"]) == 8 and told["hidden_words"] == [
        2,
        3,
    ]  # of 4x4, of [CLS] a red circle
    for column in told["columns"].values():
        assert 0 <= column["error"] <= 1 and len(column["error_of_patch"]) == 8
        assert [len(word["top"]) for word in column["words"]] == [5, 5]
        assert all(0 <= word["probability"] <= 1 for word in column["words"])
    for name in ("o.png", "o.json"):
        (home / name).unlink()


def test_export_says_which_models_it_knows(home, capfd):
    assert main(["export", "--checkpoint", "ideal", "--out", "page"]) == 2
    err = capfd.readouterr().err
    assert "cannot be exported" in err and len(err.splitlines()) == 1 and not (home / "page").exists()


def test_reconstruct_says_what_it_left_out(home, capfd):
    assert main(changed(RECONSTRUCT, ["--caption=" + "a red circle " * 12 + "and the end"])) == 0
    assert "the end" in capfd.readouterr().err
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    assert main(changed(RECONSTRUCT, ["--image=moving.gif"])) == 0
    err = capfd.readouterr().err
    assert "the first of 3 frames" in err and len(err.splitlines()) == 1
    (home / "o.png").unlink()


def test_reconstruct_says_that_it_knows_no_word(home, capfd):
    assert main(changed(RECONSTRUCT, ["--caption=красный круг"])) == 0
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("share, count", [("0", 0), ("1", 12), ("0.001", 1)])
def test_reconstruct_at_every_ratio(home, share, count):
    assert (
        main(
            [*changed(RECONSTRUCT, ["--hide-words=red"]), "--hide-image", share, "--json", "o.json"]
        )
        == 0
    )
    text = Path("o.json").read_text()
    assert len(json.loads(text)["hidden_patches"]) == count and "NaN" not in text
    (home / "o.json").unlink()
    (home / "o.png").unlink()


def test_own_pictures_are_learnt_from_and_bad_ones_named(home, capfd):
    shutil.copytree(home / "pics", home / "mine")
    (home / "mine" / "3.png").write_bytes((home / "cut.png").read_bytes())
    assert main(changed(TRAIN, ["--data=mine", "--out=own", "--steps=5"])) == 0
    out = capfd.readouterr().out
    assert (
        "1 row of mine left out" in out
        and "3.png" in out
        and "own/checkpoints/step-00000005" in out
    )
    assert main(["evaluate", "--checkpoint", "own", "--data", "mine"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("held-out pairs of mine") and "2 pairs" in out
    assert main(["evaluate", "--checkpoint", "own", "--limit", "2"]) == 0  # its own data again
    assert capfd.readouterr().out.startswith("held-out pairs of mine")
    whole = ["--data=mine", "--out=all", "--steps=5", "--val=0"]
    assert main(changed(TRAIN, whole)) == 0
    assert "0 pictures held out" in capfd.readouterr().err
    assert main(["evaluate", "--checkpoint", "all", "--data", "mine"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("training pairs of mine") and "5 pairs" in out
    assert main(changed(TRAIN, ["--data=mine", "--out=half", "--steps=5", "--val=0.5"])) == 0
    for name, what in dict(half="3 held-out pairs", all="6 training pairs").items():
        capfd.readouterr()
        assert main(["doctor", name]) == 0
        assert f"{what} of mine" in capfd.readouterr().out
    first = load("own").tokenizer
    assert {"red", "thing", "number"} <= set(first.get_vocab())


def test_mlim_from_training_to_a_picture(home, capfd):
    assert main(changed(MLIM, ["--out=m", "--steps=4", "save_every=2", "log_every=1"])) == 0
    whole = load(home / "m")
    assert type(whole).__name__ == "MLIM" and whole.facts["steps"] == 4
    log = [json.loads(line) for line in (home / "m" / "log.jsonl").read_text().splitlines()]
    found = {name for row in log for name in row}
    assert {"mlm", "recon"} <= found and all(np.isfinite(list(row.values())).all() for row in log)
    shutil.rmtree(home / "m" / "checkpoints" / "step-00000004")
    again = changed(MLIM, ["--out=m", "--steps=4", "save_every=2", "log_every=1"])
    assert main([*again, "--resume"]) == 0
    resumed = load(home / "m").state_dict()
    assert all(value.equal(resumed[name]) for name, value in whole.state_dict().items())
    words = ["evaluate", "--task", "reconstruction", "--data", "scenes:shapes", "--limit", "6"]
    assert main([*words, "--checkpoint", "m", "--json", "e.json"]) == 0
    check_scores(json.loads((home / "e.json").read_text()), True)
    words = changed(RECONSTRUCT, ["--checkpoint=m", "--hide-words=red", "--hide-image=0.5"])
    assert main([*words, "--json", "o.json"]) == 0
    told = json.loads((home / "o.json").read_text())
    assert len(told["hidden_patches"]) == 8 and told["hidden_words"] == [2]
    assert min(Image.open(home / "o.png").size) > 100
    assert "Traceback" not in capfd.readouterr().err
    for name in ("e.json", "o.json", "o.png"):
        (home / name).unlink()
    shutil.rmtree(home / "m")


# ---- fresh processes


def shell(*words, **env):
    "What a real command gives, and how long it takes."
    begun = time.perf_counter()
    done = subprocess.run(
        [str(COMMAND), *words],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, time.perf_counter() - begun


def test_help_is_quick_and_loads_nothing_heavy():
    times = []
    for _ in range(3):
        done, seconds = shell("--help")
        times.append(seconds)
        assert done.returncode == 0 and done.stderr == ""
    for name in ("demo", "lab", "train", "evaluate", "reconstruct"):
        assert name in done.stdout
    assert min(times) < 2, f"--help took {min(times):.1f} s"
    code = """
import sys
from mvl_bench.apps.cli.main import main
try:
    main(["train", "--help"])
except SystemExit:
    print("LOADED", sorted({"torch", "gradio", "numpy", "transformers", "matplotlib"} & set(sys.modules)))
"""
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "LOADED []" in told.stdout


def test_a_mistake_in_a_real_shell(home):
    done, _ = shell("reconstruct", *changed(RECONSTRUCT, ["--image=cut.png"])[1:])
    assert done.returncode == 2 and done.stdout == "" and not Path("o.png").exists()
    assert done.stderr.splitlines() == [
        "mvl-bench reconstruct: " + done.stderr.partition(": ")[2].strip()
    ]
    assert "cut.png" in done.stderr
