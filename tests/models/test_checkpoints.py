"Checkpoints that are damaged or unknown; and the shipped ones."

import json
import os
import random
import shutil
import subprocess
import sys

import pytest
import torch
from contract import TOKENIZER, one_thread, small  # noqa: F401  one_thread is a fixture
from safetensors.torch import load_file, save_file
from samples import ROOT

from mvl_bench import storage as folders
from mvl_bench.core import UserError
from mvl_bench.models.base import save
from mvl_bench.models.registry import load
from mvl_bench.storage import MANIFEST, SHIPPED, check_folder, find, newest


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture
def folder(model, tmp_path):
    "A checkpoint."
    return save(model, TOKENIZER, tmp_path / "one", dict(steps=7))


def refused(name, *words):
    "The one line with which a checkpoint is refused; it has all the words."
    with pytest.raises(UserError) as caught:
        load(name)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600, text
    assert all(word in text for word in words), text
    return text


def rewrite(folder, name, content):
    "Replace a file and its hash, as a person would who edits a checkpoint."
    (folder / name).write_bytes(content)
    hashes = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(hashes | {name: folders._hash(folder / name)}))


def same(a, b):
    "Whether two models hold the same weights."
    return all(v.equal(b.state_dict()[k]) for k, v in a.state_dict().items())


# ---- damaged


def test_a_whole_one_loads_wherever_it_is_moved(folder, model, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    again = load(moved)
    assert same(model, again) and again.cfg == model.cfg and again.facts["steps"] == 7
    half = save(model, TOKENIZER, tmp_path / "half", dtype=torch.float16)
    sizes = [(f / "model.safetensors").stat().st_size for f in (half, moved)]
    assert sizes[0] < 0.55 * sizes[1] and next(load(half).parameters()).dtype == torch.float32


def test_any_damage_names_the_file(folder):
    names = sorted(json.loads((folder / MANIFEST).read_text()))
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(names)
    assert set(names) == {f.name for f in folder.iterdir()} - {MANIFEST}
    for name in names:
        whole = (folder / name).read_bytes()
        place = random.Random(name).randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1
        for damaged in (whole[: len(whole) // 2], b"", whole + b" ", bytes(flipped)):
            (folder / name).write_bytes(damaged)
            refused(folder, name, "damaged")
        (folder / name).unlink()
        refused(folder, *[name] * (name != "config.json"))  # without it, a folder is no checkpoint
        (folder / name).write_bytes(whole)
        check_folder(folder)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_manifest(folder, content):
    (folder / MANIFEST).unlink()
    if content is not None:
        (folder / MANIFEST).write_bytes(content)
    refused(folder)


def test_a_config_of_another_kind(folder):
    about = json.loads((folder / "config.json").read_text())
    for wrong, word in (
        (about | {"model": "gpt"}, "gpt"),
        ({"architectures": ["BertModel"], "hidden_size": 768}, "model"),
        (about | {"config": about["config"] | {"width": 3}}, "width"),
        (about | {"config": about["config"] | {"image": {"patch_size": 7}}}, "patch_size 7"),
        (about | {"config": about["config"] | {"embed_dim": "wide"}}, "config"),
        ([], "config"),
    ):
        rewrite(folder, "config.json", json.dumps(wrong).encode())
        text = refused(folder)
        assert word in text or word == "config", text
    rewrite(folder, "config.json", b"not json")
    refused(folder)


def test_a_config_that_is_a_list(folder):
    about = json.loads((folder / "config.json").read_text())
    rewrite(folder, "config.json", json.dumps(about | {"config": [1]}).encode())
    refused(folder)


def test_a_config_without_facts(folder):
    about = json.loads((folder / "config.json").read_text())
    about.pop("facts")
    rewrite(folder, "config.json", json.dumps(about).encode())
    try:
        assert load(folder).facts == {}
    except UserError as error:
        assert "facts" in str(error)


def test_weights_that_do_not_fit_are_named(folder, tmp_path):
    file = folder / "model.safetensors"
    weights = load_file(file)
    for change, words in (
        (dict(mask_vector=None), ["missing: mask_vector"]),
        (dict(extra_thing=torch.zeros(2)), ["unused: extra_thing"]),
        (dict(mask_vector=torch.zeros(3)), ["size: mask_vector"]),
        (dict(mask_vector=None, other=torch.ones(1)), ["missing: mask_vector", "unused: other"]),
    ):
        changed = {k: v for k, v in {**weights, **change}.items() if v is not None}
        save_file(changed, tmp_path / "changed")
        rewrite(folder, file.name, (tmp_path / "changed").read_bytes())
        refused(folder, *words)
    rewrite(folder, file.name, b"\x80\x02pickle" * 40)
    refused(folder, str(folder))


# ---- hostile: whole folders that somebody made to hurt


def with_config(folder, **changes):
    "Change fields of the config of a checkpoint."
    about = json.loads((folder / "config.json").read_text())
    about["config"] |= changes
    rewrite(folder, "config.json", json.dumps(about).encode())


def with_json(folder, name, change):
    "Change a JSON file of a checkpoint by a function."
    values = json.loads((folder / name).read_text())
    rewrite(folder, name, json.dumps(change(values) or values).encode())


HUGE = [
    dict(embed_dim=10**9, num_heads=1),
    dict(embed_dim=40_000, num_heads=2),
    dict(embed_dim=float("inf")),
    dict(image_depth=10**9),
    dict(text_depth=10**9),
    dict(text=dict(vocab_size=10**12, pad_id=0, mask_id=4)),
    dict(image=dict(img_size=[2**20, 2**20], patch_size=8)),
    dict(refine_width=8, image=dict(img_size=[65_536, 65_536], patch_size=8)),
    dict(text=dict(hf_config=json.dumps(dict(model_type="bert", num_hidden_layers=10**9)))),
    dict(text=dict(hf_config=json.dumps(dict(model_type="bert", hidden_size=10**9)))),
]


def test_configs_that_ask_for_the_whole_memory_are_refused_at_once(folder, tmp_path):
    for number, changes in enumerate(HUGE):
        with_config(shutil.copytree(folder, tmp_path / f"huge-{number}"), **changes)
    code = f"""
import resource, time
from pathlib import Path
from mvl_bench.core import UserError
from mvl_bench.models.registry import load
load({str(folder)!r})
for path in sorted(Path({str(tmp_path)!r}).glob("huge-*")):
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        print("loaded", end=" ")
        load(path)
    except UserError as error:
        print("refused:", str(error).count(chr(10)), len(str(error)), end=" ")
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(round(time.process_time() - begun, 1), round(megabytes))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(HUGE)
    for line, changes in zip(lines, HUGE):
        assert line.startswith("loaded refused: 0"), (line, changes)
        length, seconds, megabytes = map(float, line.split()[3:])
        assert length < 600 and seconds < 10 and megabytes < 200, (line, changes)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"[" * 99_999, b'{"a":' * 99_999, b"", b"[]", b"{}", b"\xff"])
def test_nested_and_empty_files_are_refused_with_one_line(folder, name, content):
    if name == "tokenizer_config.json" and content == b"{}":
        pytest.skip("a tokenizer whose config says nothing")
    rewrite(folder, name, content)
    refused(folder)


def test_a_nested_manifest_and_nested_weights_are_refused(folder):
    header = b'{"a":' * 50_000
    rewrite(folder, "model.safetensors", len(header).to_bytes(8, "little") + header)
    refused(folder, str(folder))
    (folder / MANIFEST).write_bytes(b"[" * 99_999)
    refused(folder, MANIFEST)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_manifest_that_leaves_a_file_out_is_refused(folder, name):
    hashes = json.loads((folder / MANIFEST).read_text())
    del hashes[name]
    (folder / MANIFEST).write_text(json.dumps(hashes))
    refused(folder, "does not list", name)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
def test_code_of_a_checkpoint_is_never_run(folder, name, monkeypatch):
    code = folder / "evil.py"
    code.write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: pass\n")
    auto = dict(AutoTokenizer=["evil.Evil", "evil.Evil"], AutoConfig="evil.Evil")
    with_json(folder, name, lambda values: values | dict(auto_map=auto, tokenizer_class="Evil"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    refused(folder, "auto_map", name, "never run")
    assert not (folder / "ran").exists()


def test_a_tokenizer_with_other_ids_than_the_model_is_refused(folder):
    def more(values):
        values["model"]["vocab"]["zebra"] = 99_999

    def swap(values):
        vocab = values["model"]["vocab"]
        vocab["[MASK]"], vocab["[SEP]"] = vocab["[SEP]"], vocab["[MASK]"]
        for token in values["added_tokens"]:
            token["id"] = vocab[token["content"]]

    before = (folder / "tokenizer.json").read_bytes()
    with_json(folder, "tokenizer.json", more)
    refused(folder, "99999", "vocab_size")
    rewrite(folder, "tokenizer.json", before)
    with_json(folder, "tokenizer.json", swap)
    refused(folder, "mask id")


def test_a_hostile_tokenizer_of_a_checkpoint_is_refused(folder):
    def bomb(values):
        values["pre_tokenizer"]["pattern"]["Regex"] = r"(\w+\s?)+$"

    with_json(folder, "tokenizer.json", bomb)
    refused(folder, "may never end")


# ---- unknown


def test_unknown_names_are_told_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for name in ("maskvlm-huge", "", ".", "empty", "file", "a/b/c", "/", "no-one/no-such-model"):
        refused(name, repr(name), *SHIPPED)
    refused("run", "holds no whole checkpoint")


def test_a_run_gives_its_newest_whole_checkpoint(model, tmp_path):
    for step in (5, 40, 300):
        save(model, TOKENIZER, tmp_path / "checkpoints" / f"step-{step:08}", dict(steps=step))
    assert load(tmp_path).facts["steps"] == 300
    for step, left in ((300, 40), (40, 5)):
        with open(
            tmp_path / "checkpoints" / f"step-{step:08}" / "model.safetensors", "r+b"
        ) as file:
            file.truncate(100)
        assert find(tmp_path).name == f"step-{left:08}" and load(tmp_path).facts["steps"] == left
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000005")
    assert newest(tmp_path) is None
    refused(tmp_path, "no whole checkpoint")


# ---- shipped, and without a network

LOAD_ALONE = """
import socket, sys
def refuse(*_, **__):
    raise SystemExit("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from mvl_bench.models.registry import load
model = load(sys.argv[1])
print(model.facts["steps"], sum(p.numel() for p in model.parameters()))
"""


def test_loads_in_a_fresh_process_that_asks_no_network(folder, model):
    env = {
        k: v for k, v in os.environ.items() if not k.startswith(("HF_HUB_OFF", "HF_DATASETS_OFF"))
    }
    command = [sys.executable, "-c", LOAD_ALONE, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["7", str(sum(p.numel() for p in model.parameters()))]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped(name):
    if not SHIPPED[name].is_dir():
        pytest.skip(f"{name} is not in data/checkpoints yet")
    check_folder(SHIPPED[name])
    assert (SHIPPED[name] / "model.safetensors").stat().st_size <= (
        30 if name == "maskvlm-photos" else 16
    ) * 10**6
    model = load(name)
    for fact in ("command", "seed", "commit", "scores"):
        assert model.facts.get(fact) not in (None, "", {}), f"{name} does not say its {fact}"
    card = (SHIPPED[name] / "README.md").read_text()
    assert str(model.facts["command"]) in card
    assert str(ROOT) not in card + (SHIPPED[name] / "config.json").read_text()


def test_momentum_encoders_that_are_left_out_begin_as_copies(tmp_path):
    full = small(itc=1.0)
    with torch.no_grad():
        for parameter in full.contrast.slow.parameters():
            parameter.add_(1.0)  # as different as after training
    names = [name for name in full.state_dict() if name.startswith("contrast.slow.")]
    whole, lean = (
        save(full, TOKENIZER, tmp_path / str(way), momentum=way) for way in (True, False)
    )
    assert {*names} == load_file(whole / "model.safetensors").keys() - load_file(
        lean / "model.safetensors"
    ).keys()
    kept, copied = load(whole).state_dict(), load(lean)
    assert all(kept[name].equal(full.state_dict()[name]) for name in kept)
    assert all(copied.state_dict()[n].equal(v) for n, v in kept.items() if n not in names)
    current = [value for name, value in copied.state_dict().items() if name not in names]
    slow = list(copied.contrast.slow.parameters())
    assert slow and all(any(p.shape == q.shape and p.equal(q) for q in current) for p in slow)
