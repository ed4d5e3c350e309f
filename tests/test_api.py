"The public API: the lines of the documentation, every kind of input, and one sentence for every mistake."

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from notebooks import ROOT
from samples import drawing, one_sentence
from test_import import UI, imported

import mvl_bench as mvl
from mvl_bench import api
from mvl_bench.apps.cli.main import main
from mvl_bench.models.task_heads import TaskConfig, TaskModel

CAPTION = "a red ball on grass"
SIZES = dict(
    embed_dim=32, num_heads=2, image_depth=1, text_depth=1, cross_depth=1, img_size=32, batch_size=2
)


@pytest.fixture(scope="module")
def model():
    return mvl.load("maskvlm-tiny")


@pytest.fixture(scope="module")
def task_model(model):
    "The shipped model with a head for questions, not trained."
    return TaskModel(model, TaskConfig("vqa", ("red", "green"), 1)).eval()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A folder with an image and a dataset of three images, where relative paths begin."
    monkeypatch.chdir(tmp_path)
    drawing("red", (96, 96)).save("me.png")
    Path("broken.png").write_bytes(Path("me.png").read_bytes()[:150])
    Path("my_pictures").mkdir()
    for colour in ("red", "green", "blue"):
        drawing(colour, (96, 80)).save(f"my_pictures/{colour}.png")
        Path(f"my_pictures/{colour}.txt").write_text(f"a {colour} half\nhalf is {colour}\n")
    return tmp_path


# ---- the documentation


PRINTED = """
import mvl_bench as mvl
model = mvl.load("maskvlm-tiny")
result = mvl.reconstruct(model, "me.png", "a red ball on grass", patches=range(20, 44), words=["red"], edit="a blue ball on grass")
result.columns["edited"].image          # PIL image; also .tokens with their probabilities, and .error
result.plot()                           # the four-column figure
source = mvl.open_dataset("my_pictures/", 64)   # len(source), source.pair(i), source.all_captions(i)
"""


def lines_of(name):
    "The Python block of a page of the documentation that uses the public API."
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".ipynb"):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (block,) = [block for block in blocks if "mvl.reconstruct(" in block]
    return block


@pytest.mark.parametrize("name", ["", "README.md", "nbs/index.ipynb", "nbs/04_api.ipynb"])
def test_the_printed_lines_work(folder, name):
    names = {}
    exec(lines_of(name) if name else PRINTED, names)  # noqa: S102
    column = names["result"].columns["edited"]
    assert column.image.size == names["model"].cfg.image.img_size and column.image.mode == "RGB"
    assert 0 <= column.error <= 1 and len(column.tokens) == 1
    assert all(0 <= p <= 1 for token in column.tokens for p in dict(token.top).values())
    assert len(names["source"]) == 3 and names["source"].pair(0).image.shape == (64, 64, 3)
    assert all("half" in text for text in names["source"].all_captions(1))


# ---- reconstruct


def channels_first(pixels):
    return torch.tensor(pixels).permute(2, 0, 1)


IMAGES = dict(
    path=lambda image: "me.png",
    Path=lambda image: Path("me.png"),
    bytes=lambda image: Path("me.png").read_bytes(),
    pillow=lambda image: image,
    transparent=lambda image: image.convert("RGBA"),
    uint8=lambda image: np.asarray(image),
    float=lambda image: np.asarray(image) / 255,
    float32=lambda image: (np.asarray(image) / 255).astype(np.float32),
    chw_array=lambda image: np.asarray(image).transpose(2, 0, 1),
    chw_uint8=lambda image: channels_first(np.asarray(image)),
    chw_float=lambda image: channels_first(np.asarray(image) / 255),
)


@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_of_image_gives_the_same_answer(model, folder, kind):
    image = IMAGES[kind](drawing("red", (96, 96)))
    result = mvl.reconstruct(model, image, CAPTION, range(20, 44))
    expected = mvl.reconstruct(model, "me.png", CAPTION, range(20, 44))
    np.testing.assert_array_equal(result.pair.image, expected.pair.image)
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(result.columns[name].raw, column.raw)


def test_bfloat16_and_grey_images_are_read(model):
    grey = torch.linspace(0, 1, 64)[:, None].expand(64, 64)
    for image in (grey.bfloat16().expand(3, 64, 64), grey, grey[None]):
        pixels = mvl.reconstruct(model, image, CAPTION).pair.image
        assert np.abs(pixels.astype(float) - 255 * grey.numpy()[..., None]).max() < 2


def test_a_model_may_be_given_by_name(model, folder):
    by_name = mvl.reconstruct("maskvlm-tiny", "me.png", CAPTION, [27])
    assert by_name.columns["with"].error == mvl.reconstruct(model, "me.png", CAPTION, [27]).columns["with"].error  # fmt: skip


@pytest.mark.parametrize(
    "words, positions",
    [
        (["red"], [2, 8]),
        (["RED", "Grass."], [2, 5, 8]),
        ("red ball", [2, 3, 8]),
        (["red ball"], [2, 3, 8]),
        ([2], [2]),
        (2, [2]),
        (["ball", 8, 3], [3, 8]),
        (np.array([2, 8]), [2, 8]),
        (torch.tensor([8, 2]), [2, 8]),
        (range(1, 4), [1, 2, 3]),
        ([], []),
        (("red", 3), [2, 3, 8]),
    ],
)
def test_words_are_names_or_positions(model, words, positions):
    caption = CAPTION + " and a red circle"
    image = drawing("red", (64, 64))
    result = mvl.reconstruct(model, image, caption, [0], words)
    assert list(result.hidden_words) == positions
    if positions:
        tokens = result.columns["with"].tokens
        assert [token.position for token in tokens] == positions
        assert all(caption.split()[token.position - 1] == token.truth for token in tokens)


def test_a_column_shows_visible_patches_as_they_are(model):
    pair = mvl.Scenes(split="val").pair(3)
    result = mvl.reconstruct(model, pair.image, pair.caption, range(20, 44))
    np.testing.assert_array_equal(result.pair.image, pair.image)  # nothing to resize, nothing lost
    for column in result.columns.values():
        assert (np.asarray(column.image)[:16] == pair.image[:16]).all()
    assert list(result.columns) == ["with", "without", "wrong"]


def test_a_result_draws_and_prints_itself(model, folder):
    result = mvl.reconstruct(model, "me.png", CAPTION, range(20, 44), ["red"], "a blue ball on grass")  # fmt: skip
    assert isinstance(result.plot(), Figure) and len(result.plot(errors=True)._repr_png_()) > 1000
    lines = repr(result).splitlines()
    assert CAPTION in lines[0] and "24 patches" in lines[0] and len(lines) == 5
    assert all(re.search(r"error 0\.\d{3}, (red|blue): ", line) for line in lines[1:])


def test_a_model_without_pixels_has_no_image(folder):
    column = mvl.reconstruct("vilt-tiny", "me.png", CAPTION, [27], ["red"]).columns["with"]
    assert column.image is None and np.isnan(column.error) and len(column.tokens) == 1


def test_the_wrong_pair_shares_few_words_or_is_given(model, folder):
    def wrong(pair=None, caption="a small red circle at the left"):
        result = mvl.reconstruct(model, "me.png", caption, [27], [], None, pair)
        return result.columns["wrong"].beside

    assert not {"a", "small", "red", "circle", "left"} & {*wrong().partition(": ")[2].split()}
    pair = mvl.Scenes(split="val").pair(3)
    assert wrong(pair).endswith(pair.caption)
    assert wrong(("me.png", "a green cup")).endswith("a green cup")


def test_warnings_name_what_the_model_does_not_see(model, folder):
    frames = [drawing(colour, (40, 40)) for colour in ("red", "blue", "green")]
    frames[0].save("moving.gif", save_all=True, append_images=frames[1:])
    caption = CAPTION + " beside a red circle" * 6 + " the end"
    result = mvl.reconstruct(
        model, "moving.gif", caption, [0], [2], caption.replace("red", "blue", 1)
    )
    for words, text in zip(("3 frames", "the end", "ball, grass", "masked"), result.warnings):
        assert words in text
    assert len(result.warnings) == 4 and result.warnings[3].endswith(": blue")
    assert mvl.reconstruct(model, "me.png", "a red circle", [0]).warnings == ()


def test_a_model_of_other_data_asks_for_a_wrong_pair(model, folder, monkeypatch):
    monkeypatch.setitem(model.facts, "data", "my_pictures/")
    (text,) = mvl.reconstruct(model, "me.png", "a red circle", [0]).warnings
    assert "my_pictures/" in text and "wrong=" in text
    pair = mvl.open_dataset("my_pictures/").pair(1)
    assert mvl.reconstruct(model, "me.png", "a red circle", [0], wrong=pair).warnings == ()


# ---- mistakes


def mistake(call, *words):
    "A call of the API that is wrong, and what its sentence must hold."
    return pytest.param(call, words, id=" ".join(words))


def fill(**changes):
    "A reconstruction with one argument replaced."
    arguments = dict(image="me.png", caption=CAPTION, patches=[27], words=["red"]) | changes
    return lambda model, task_model: mvl.reconstruct(model, **arguments)


MISTAKES = [
    mistake(fill(image="no.png"), "no.png", "not there"),
    mistake(fill(image="broken.png"), "broken.png", "truncated"),
    mistake(fill(image=None), "NoneType", "path"),
    mistake(fill(image=5), "int", "path"),
    mistake(fill(image=np.zeros((2, 3, 64, 64))), "(2, 3, 64, 64)", "(3 h w)"),
    mistake(fill(image=np.zeros((4, 4, 3))), "4x4", "8"),
    mistake(fill(caption=""), "caption is empty"),
    mistake(fill(caption=" \n"), "caption is empty"),
    mistake(fill(caption=None), "caption is a NoneType"),
    mistake(fill(edit=""), "edit is empty"),
    mistake(fill(patches=[64]), "patch 64", "0..63"),
    mistake(fill(patches=[-1]), "patch -1", "0..63"),
    mistake(fill(patches=[1.5]), "patch 1.5", "whole number"),
    mistake(fill(patches=torch.ones(64).bool()), "patch True", "whole number"),
    mistake(fill(words=["green"]), "'green'", "red", "grass"),
    mistake(fill(words=["!"]), "'!'", "letters"),
    mistake(fill(words=""), "''", "letters"),
    mistake(fill(words=None), "token position None"),
    mistake(fill(words=torch.ones(7).bool()), "token position True", "whole"),
    mistake(fill(patches=None), "patch None"),
    mistake(fill(caption="\u200b", words=[1]), "token position 1 is out of range"),
    mistake(fill(words=[0]), "token position 0", "1 to 5"),
    mistake(fill(words=[6]), "token position 6", "1 to 5"),
    mistake(fill(words=[-1]), "token position -1", "1 to 5"),
    mistake(fill(words=[1.5]), "token position 1.5", "whole number"),
    mistake(fill(words=[True]), "token position True", "whole number"),
    mistake(fill(wrong="a green cup"), "wrong is a str", "(image, caption)"),
    mistake(fill(wrong=(np.zeros((64, 64)),)), "wrong is a tuple", "(image, caption)"),
    mistake(fill(wrong=("me.png", " ")), "caption is empty"),
    mistake(lambda m, t: mvl.reconstruct("huge", "me.png", CAPTION), "huge", "maskvlm-tiny"),
    mistake(lambda m, t: mvl.reconstruct(object(), "me.png", CAPTION), "object", "tokenizer"),
    mistake(lambda m, t: mvl.open_dataset("nowhere/"), "nowhere"),
    mistake(lambda m, t: mvl.open_dataset("my_pictures", caption_column="x"), "'x'"),
    mistake(lambda m, t: mvl.open_dataset("scenes", split="x"), "split x", "novel"),
    mistake(lambda m, t: mvl.train(out="run", lrr=1), "'lrr'", "training.lr?"),
    mistake(lambda m, t: mvl.train(out="run", lr="fast"), "'fast'", "float"),
    mistake(lambda m, t: mvl.train("nowhere", out="run"), "nowhere"),
    mistake(lambda m, t: mvl.train(out="run", model="mlmi"), "'mlmi'", "maskvlm"),
    mistake(lambda m, t: mvl.finetune("vqa2", out="run"), "'vqa2'", "nlvr"),
    mistake(lambda m, t: mvl.finetune("retrieval", "vilt-tiny", out="run"), "vilt"),
    mistake(lambda m, t: mvl.evaluate(m, "vqa2"), "'vqa2'", "nlvr"),
    mistake(lambda m, t: mvl.evaluate("maskvlm-flowers"), "flowers102", "does not come with it", "--data"),
    mistake(lambda m, t: mvl.evaluate(m, limit=1), "limit 1"),
    mistake(lambda m, t: mvl.evaluate(m, colour_column="x"), "'colour_column'", "items"),
    mistake(lambda m, t: mvl.evaluate(m, "vqa"), "no head", "finetune('vqa'"),
    mistake(lambda m, t: mvl.evaluate(t, "nlvr"), "a model for vqa", "finetune('nlvr'"),
    mistake(lambda m, t: mvl.evaluate(t, "vqa", streaming=True), "streaming"),
]  # fmt: skip


@pytest.mark.parametrize("call, words", MISTAKES)
def test_a_mistake_is_one_sentence(model, task_model, folder, call, words):
    with pytest.raises(mvl.UserError) as caught:
        call(model, task_model)
    one_sentence(caught, *words)
    assert not Path("run").exists()


# ---- data, training, evaluation


def test_datasets_have_pairs_and_captions(folder):
    source = mvl.open_dataset(folder / "my_pictures", (32, 64))
    assert len(source) == 3 and source.pair(2).image.shape == (32, 64, 3)
    texts = {text for i in range(3) for text in source.all_captions(i)}
    assert texts == {f"a {c} half" for c in COLOURS} | {f"half is {c}" for c in COLOURS}
    scenes = mvl.open_dataset("scenes:shapes:2", 64, "novel")
    assert isinstance(scenes, mvl.Scenes) and scenes.split == "novel"
    assert scenes.pair(7).caption in scenes.all_captions(7)


COLOURS = ("red", "green", "blue")


def test_training_fine_tuning_and_evaluation_follow_one_another(folder, capsys):
    run = dict(out="run", quiet=True, save_every=1, keep_checkpoints=9, **SIZES)
    path = mvl.train("scenes:shapes", steps=2, **run)
    assert path == Path("run/checkpoints/step-00000002")
    assert mvl.load(path).cfg.image.img_size == (32, 32)
    with pytest.raises(mvl.UserError, match="holds a run already"):
        mvl.train("scenes:shapes", steps=2, **run)
    assert mvl.train("scenes:shapes", steps=2, resume=True, **run) == path
    assert mvl.finetune("retrieval", path, "scenes:shapes", 1, out="ranks", quiet=True, batch_size=2).parent.parent == Path("ranks")  # fmt: skip
    answers = mvl.finetune("vqa", path, "scenes:shapes", 2, out="vqa", quiet=True, batch_size=2)
    capsys.readouterr()
    scores = mvl.evaluate(answers, "vqa", "scenes:shapes", limit=8, quiet=True)
    assert capsys.readouterr().out == "" and scores["task"] == "vqa" and scores["n"] == 8
    assert scores["checkpoint"] == "vqa" and scores["split"] is None


@pytest.mark.parametrize("task, data", [("reconstruction", "my_pictures"), ("retrieval", "scenes")])
def test_evaluate_returns_what_the_command_writes(folder, capsys, task, data):
    assert main(["evaluate", "--task", task, "--data", data, "--limit", "3", "--json", "e.json"]) == 0  # fmt: skip
    table = capsys.readouterr().out
    scores = mvl.evaluate("maskvlm-tiny", task, data, limit=3)
    assert scores == json.loads(Path("e.json").read_text())
    assert capsys.readouterr().out == table


def test_a_model_in_memory_has_no_checkpoint(model, folder):
    scores = mvl.evaluate(model, data="my_pictures", limit=3, quiet=True)
    assert scores["checkpoint"] is None and "recon_object" not in scores
    json.dumps(scores)


def test_settings_are_written_as_runs_read_them():
    settings = dict(lr=1e-3, img_size=(64, 32), streaming=True, split=None)
    assert api.as_settings(settings) == ["lr=0.001", "img_size=64,32", "streaming=True"]


# ---- the package


def test_importing_the_package_is_quick_and_light():
    seconds, packages = min(imported("mvl_bench") for _ in range(3))
    assert seconds < 0.05
    assert not packages & (UI | {"torch", "numpy", "transformers", "matplotlib", "PIL"})


PROGRAM = """
import sys
import mvl_bench
assert {*mvl_bench.__all__} <= {*dir(mvl_bench)} and "__version__" in dir(mvl_bench)
assert "torch" not in sys.modules
for name in ("laod", "core", "_x", "__wrapped__"):
    try:
        getattr(mvl_bench, name)
    except AttributeError as error:
        assert f"module 'mvl_bench' has no attribute '{name}'" in str(error)
    else:
        raise AssertionError(name)
assert not hasattr(mvl_bench, "laod") and "torch" not in sys.modules
from mvl_bench import core  # a module, not a name of the API
assert core.UserError is mvl_bench.UserError
from mvl_bench import *
assert load is mvl_bench.load and Scenes(split="val").pair(0).caption
assert all(name in globals() for name in mvl_bench.__all__)
assert "gradio" not in sys.modules
import mvl_bench.api
assert mvl_bench.reconstruct is mvl_bench.api.reconstruct
print("done")
"""


def test_names_are_imported_at_their_first_use():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr


def test_every_public_name_says_what_it_does():
    assert all(getattr(mvl, name).__doc__ for name in mvl.__all__)
