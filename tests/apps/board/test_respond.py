"What the board answers: the wrong column never wins in the examples, and elsewhere says what was measured; words that a model lacks."

from types import SimpleNamespace

import numpy as np
import pytest
from boards import shipped
from PIL import Image
from skimage import data

from mvl_bench.apps.board import respond
from mvl_bench.apps.board.codec import Board, unpack
from mvl_bench.apps.board.events import EXAMPLES, BoardUpdate, example_board, examples, set_caption
from mvl_bench.apps.board.respond import opening, react
from mvl_bench.apps.board.session import distance_note, outside_training
from mvl_bench.apps.widgets.board import MaskBoard
from mvl_bench.data.images import resize
from mvl_bench.inference.reconstruction import Column, Guess
from mvl_bench.models.registry import load
from mvl_bench.storage import SHIPPED


@pytest.fixture(scope="module")
def models():
    return {name: load(name) for name in ("maskvlm-tiny", "vilt-tiny", "vitmae-tiny")}


def scores(models, posed, names=("with", "wrong")):
    "The error and the nats of some columns of a board."
    columns = opening(models, posed)["shown"]["columns"]
    return [[columns[name][score] for name in names] for score in ("error", "nats")]


def test_the_untrained_twin_of_a_model_with_pretrained_encoders_answers():
    models = {"maskvlm-photos": load("maskvlm-photos")}
    ask = dict(state=opening(models)["state"], kind="view", given=dict(on=["untrained"]))
    assert react(models, ask)["shown"]["columns"]["with"]["guesses"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_wrong_caption_never_wins_in_the_examples(name):
    models = {name: load(name)}
    offered, scored = examples(models), 0
    for build in offered:
        found = [pair for pair in scores(models, build()) if pair[0] is not None]
        assert found, "an example hides nothing that the model fills in"
        for right, wrong in found:
            scored += 1
            assert right <= wrong, build()
        shown = opening(models, build())["shown"]
        assert shown["columns"]["wrong"]["why"] == ""
        assert shown["next"] == (
            "Next pair" if models[name].facts["data"] != "scenes" else "Next scene"
        )
    assert scored >= len(offered) >= 3


def painted(plain: float, shift: float) -> Column:
    "A column that paints every pixel around the middle, and is off by `shift` and some noise."
    raw = 0.5 + plain * np.random.default_rng(0).standard_normal((8, 8, 3))
    off = np.random.default_rng(1).standard_normal(16) * 0.01 + shift
    return Column("", "", None, raw, off)


def why(right: Column, wrong: Column, masked=range(16)) -> str:
    "What is said of a wrong column."
    image = np.full((8, 8, 3), 128, np.uint8)
    model = SimpleNamespace(cfg=SimpleNamespace(image=SimpleNamespace(patch_size=2)))
    session = SimpleNamespace(model=model, pair=SimpleNamespace(image=image))
    return respond._why_pixels(session, SimpleNamespace(patches=tuple(masked)), right, wrong)


def test_what_is_said_of_a_smaller_error_is_measured():
    right = painted(0.2, 0.3)
    noisy = right.errors + np.where(np.arange(16) % 2, 0.1, -0.104)
    said = why(right, Column("", "", None, right.raw, noisy))
    assert said.startswith("Error lower by 0.002 than with the right caption: within noise (±0.05")
    said = why(right, painted(0.02, 0.2))
    assert said.startswith("Error lower by 0.1 than with the right caption: it painted flatter")
    assert "deviation 0.02, 0.19 with the right caption, 0.00 in the picture" in said
    assert "not because it painted flatter" in why(right, painted(0.2, 0.2))
    assert "painted flatter" in why(right, painted(0.02, 0.2), [3])  # one patch has no noise


def word_columns(right, wrong, alone, truth="red"):
    "The columns of one hidden word, by the probabilities of the true one."
    named = dict({"with": right, "wrong": wrong}, without=alone)
    return {
        name: dict(error=None, nats=-np.log(p), guesses=[dict(truth=truth, probability=p)])
        for name, p in named.items()
    }


@pytest.mark.parametrize(
    "right, wrong, caption, said",
    [
        (
            0.5,
            0.6,
            "a red cat",
            "The wrong picture's own caption contains “red” too: 60 % here, 50 %",
        ),
        (0.96, 0.999, "a cat", "“red” is predicted in both columns: >99 % here, 96 %"),
        (0.002, 0.02, "a cat", "“red” is predicted in neither column: 2 % here, <1 %"),
        (
            0.02,
            0.4,
            "a scared cat",
            "“red” gets 40 % here, 2 % with the right picture, 13 % without",
        ),
        (0.4, 0.02, "a red cat", ""),
    ],
)
def test_what_is_said_of_a_smaller_surprise_is_measured(right, wrong, caption, said):
    session = SimpleNamespace(wrong=SimpleNamespace(caption=caption))
    found = respond.why_wrong_wins(session, None, {}, word_columns(right, wrong, 0.13))
    assert found.startswith(said) and bool(found) == bool(said)


@pytest.mark.parametrize("name, example", [("vilt-tiny", 0), ("vitmae-tiny", 1)])
def test_a_model_that_lacks_what_is_hidden_stays_selected(models, name, example):
    posed = example_board(models["maskvlm-tiny"], *EXAMPLES[example])
    first = opening(models, posed)
    reply = react(models, dict(state=first["state"], kind="model", given=dict(name=name)))
    assert "error" not in reply and reply["state"]["model"] == name
    masked = first["state"]["patches"], first["state"]["words"]
    assert (reply["state"]["patches"], reply["state"]["words"]) == masked
    (note,) = reply["shown"]["notes"]
    assert note.startswith(models[name].lacks) and note.endswith("to see what it fills in.")
    for column in filter(None, reply["shown"]["columns"].values()):
        assert column["raw"] is None and column["guesses"] == [] and column["error"] is None
    widget = MaskBoard(models, board=posed.board)
    widget.set_state(dict(ask=dict(state=widget.state, kind="model", given=dict(name=name))))
    assert widget.state["model"] == name and widget.answer["shown"]["notes"] == [note]
    assert "hide some" in str(widget._repr_mimebundle_())  # no figure, and no traceback
    both = dict(patches=masked[0] or "0-9", words=masked[1] or "5")
    reply = react(models, dict(state=reply["state"], kind="hide", given=both))
    assert reply["shown"]["notes"][0] == models[name].lacks


def test_the_true_word_is_the_typed_one(models):
    model = models["maskvlm-tiny"]
    board = set_caption(model, example_board(model, *EXAMPLES[1]).board, "a Zebra and a cat").board
    state = opening(models, BoardUpdate(board))["state"]
    shown = react(models, dict(state=state, kind="hide", given=dict(words="2,5")))["shown"]
    guesses = shown["columns"]["with"]["guesses"]
    assert [(g["truth"].lower(), g["known"]) for g in guesses] == [("zebra", False), ("cat", True)]


def test_the_widget_has_the_gallery():
    model = shipped()
    board = MaskBoard({"maskvlm-tiny": model})
    cards = board.options["examples"]
    assert len(cards) == len(EXAMPLES) and all(image.startswith("data:image") for image, _ in cards)
    ask = dict(state=board.state, kind="example", given=dict(number=1), seq=1, source="a view")
    board.set_state(dict(ask=ask))
    assert cards[1][1].replace("▢▢▢", "sun") == board.caption and board.words and not board.patches
    before = board.caption
    board.set_state(dict(ask=dict(state=board.state, kind="another", given={}, seq=2, source="a")))
    assert board.caption != before and unpack(board.state, (64, 64)).scene


@pytest.mark.parametrize("name", ["page", "text", "moon", "colorwheel", "checkerboard", "grass", "coffee", "cat"])
def test_a_picture_unlike_the_training_photographs_lies_outside(name):
    model = load("maskvlm-photos")
    pixels = np.asarray(getattr(data, name)())
    pixels = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    picture = resize(Image.fromarray(pixels), model.cfg.image.img_size)
    board = Board(picture, "two people on a street", brought=True)
    assert outside_training(model, board) == (name not in ("coffee", "cat"))
    assert "Compared with the training data" in distance_note(model, board)


def test_a_guessed_end_of_a_word_is_shown_without_the_tokenizers_marker():
    guess = Guess(3, "cat", 0.1, (("##d", 0.5), ("##", 0.2), ("#", 0.1), ("cat", 0.1)))
    shown = respond._guess(guess, known=True)
    assert [text for text, _ in shown["top"]] == ["…d", "##", "#", "cat"]
