"The board of a pair that a user brings: what is hidden of it, and what its sentence says."

import io

import numpy as np
import pytest
from PIL import Image

import mvl_bench as mvl
from mvl_bench.apps.board.codec import Board
from mvl_bench.apps.board.events import open_uploaded
from mvl_bench.apps.board.session import session_of
from mvl_bench.data.images import photograph


@pytest.fixture(scope="module")
def flowers():
    return mvl.load("maskvlm-flowers")


def brought(model, caption):
    file = io.BytesIO()
    Image.fromarray(np.asarray(photograph("dahlia"))).save(file, "PNG")
    first = Board(np.zeros((96, 96, 3), np.uint8), "a flower")
    return open_uploaded({"maskvlm-flowers": model}, first, file.getvalue(), caption)


@pytest.mark.parametrize(
    "caption, masked",
    [
        ("this flower has orange petals and red center", "red"),  # the edit is of the first colour
        ("orange flower", "flower"),  # never the colour that the edit replaces
        ("orange", ""),
        ("a rose, pale.", "pale"),  # no comma and no full stop
        ("a xylophonically red rose", "rose"),  # no word of several pieces
    ],
)
def test_half_of_the_picture_and_the_word_it_tells_most_about_are_hidden(flowers, caption, masked):
    board, story, notes = brought(flowers, caption)
    words = [w.text for w in session_of(flowers, board).words if w.position in board.words]
    assert words == [masked] * bool(masked) and len(board.patches) == flowers.num_patches // 2
    assert (f"“{masked}”" in story) == bool(masked) and story.startswith("Half of your picture")


def test_a_model_without_words_hides_none():
    painter = mvl.load("vitmae-tiny")
    assert not brought(painter, "a red circle")[0].words
