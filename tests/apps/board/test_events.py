"The board of a pair that a user brings: what is hidden of it, and what its sentence says."

import io

import numpy as np
import pytest
from PIL import Image

import mvl_bench as mvl
from mvl_bench.apps.board.codec import Board
from mvl_bench.apps.board.events import bring
from mvl_bench.apps.board.session import session_of
from mvl_bench.data.images import photograph


@pytest.fixture(scope="module")
def flowers():
    return mvl.load("maskvlm-flowers")


def brought(model, caption):
    file = io.BytesIO()
    Image.fromarray(np.asarray(photograph("dahlia"))).save(file, "PNG")
    first = Board(np.zeros((96, 96, 3), np.uint8), "a flower")
    return bring({"maskvlm-flowers": model}, first, file.getvalue(), caption)


@pytest.mark.parametrize(
    "caption, hidden",
    [
        ("this flower has orange petals", "flower"),  # the longest one of one piece, the first
        ("orange flower", "flower"),  # never the colour that the edit replaces
        ("orange", ""),
        ("a zxqwvy rose", "rose"),  # a name that the model knows as one token
    ],
)
def test_half_of_the_picture_and_a_word_to_guess_are_hidden(flowers, caption, hidden):
    board, story, notes = brought(flowers, caption)
    words = [w.text for w in session_of(flowers, board).words if w.position in board.words]
    assert words == [hidden] * bool(hidden) and len(board.patches) == flowers.num_patches // 2
    assert (f"“{hidden}”" in story) == bool(hidden) and story.startswith("Half of your picture")
