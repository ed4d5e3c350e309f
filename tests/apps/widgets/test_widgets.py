"`MaskBoard` without a browser: `set_state` plays the browser's part."

import numpy as np
import pytest
from boards import untrained
from PIL import Image
from samples import drawing, encoded

from mvl_bench.apps.widgets.board import MaskBoard
from mvl_bench.core import UserError


@pytest.fixture(scope="module")
def model():
    return untrained()


def test_a_link_opens_the_same_board(model):
    board = MaskBoard({"one": model}, patches=[1, 2, 63], words=[5], edit="a dog")
    again = MaskBoard.from_link(board.link, {"one": model})
    assert again.state == board.state and again.edit == "a dog"
    assert again.answer["shown"]["columns"] == board.answer["shown"]["columns"]
    with pytest.raises(UserError, match="no board"):
        MaskBoard.from_link("http://127.0.0.1/#b=AAAA", model)


@pytest.mark.parametrize("kind", ["array", "pillow", "bytes"])
def test_own_pictures(model, kind):
    image = drawing(size=(90, 120))
    given = dict(array=np.asarray(image), pillow=image.convert("L"), bytes=encoded(image))[kind]
    board = MaskBoard(model, given, "a red thing")
    assert board.caption == "a red thing" and board.edit == "a blue thing"
    assert board.state["picture"].startswith("data:image/png") and len(board.patches) == 32
    assert board.figure().get_figwidth() > 1


def test_mistakes_are_one_sentence(model):
    for wrong in (
        dict(image=b"no picture", caption="a"),
        dict(image=Image.new("RGB", (9, 9))),
        dict(caption=" "),
        dict(patches=[64]),
        dict(words=[0]),
        dict(state=dict(v=1)),
    ):
        with pytest.raises(UserError) as caught:
            MaskBoard(model, **wrong)
        assert "\n" not in str(caught.value)


def test_views_and_python_stay_in_step(model):
    board = MaskBoard({"one": model, "two": untrained()})
    seen = []
    board.observe(lambda change: seen.append((change["name"], change["new"])), ["patches", "edit"])
    ask = dict(
        state=board.state, kind="hide", given=dict(patches="0-3", words=""), seq=1, source="a"
    )
    board.set_state(dict(ask=ask))
    assert board.patches == [0, 1, 2, 3] and seen == [("patches", [0, 1, 2, 3])]
    assert (board.answer["seq"], board.answer["source"]) == (1, "a")
    board.set_state(dict(ask=ask | dict(kind="model", given=dict(name="two"), seq=2)))
    assert board.state["model"] == "two"
    board.set_state(dict(ask=dict(ask, given=dict(patches="x"), seq=3)))
    assert board.answer["error"] and board.answer["shown"] and board.answer["seq"] == 3
    board.edit = "a dog"  # a setting of Python's is nobody's answer: every view takes it
    assert "source" not in board.answer and board.answer["state"]["edit"] == "a dog"
    with pytest.raises(UserError, match="64"):
        board.patches = [64]
    assert 64 not in board.patches
    assert board.state["edit"] == "a dog"


def test_the_untrained_twin_and_the_figure(model):
    board = MaskBoard({"one": model})
    before = board.answer["shown"]["columns"]["with"]["error"]
    board.state = board.state | dict(view=["untrained", "numbers"])
    assert board.answer["shown"]["columns"]["with"]["error"] != before
    assert "untrained_copy(load('one'))" in board.as_python()
