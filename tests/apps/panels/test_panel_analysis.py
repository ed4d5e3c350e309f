"The panels that analyse one pair: influence, decoding and uncertainty agree with the library, keep to one scale, and claim nothing outside the training data."

from dataclasses import replace

import numpy as np
import orjson
import pytest
import torch
from PIL import Image
from skimage import data

from mvl_bench.apps.board.codec import Board, from_url
from mvl_bench.apps.panels.base import last_answer
from mvl_bench.apps.panels.decoding import DECODING
from mvl_bench.apps.panels.influence import INFLUENCE
from mvl_bench.apps.panels.uncertainty import UNCERTAINTY
from mvl_bench.apps.web import app
from mvl_bench.core import by_hand
from mvl_bench.data.scenes import Scenes
from mvl_bench.inference.attribution import SCALE, one_row
from mvl_bench.models.registry import load
from mvl_bench.patches import patchify

NAME, SCENES = "maskvlm-tiny", Scenes("shapes", "val")
PATCHES, WORDS = tuple(range(32)), (3,)


@pytest.fixture(scope="module")
def models():
    return {name: load(name) for name in (NAME, "mlim-tiny", "vilt-tiny")}


@pytest.fixture(scope="module")
def board():
    pair = SCENES.pair(2)
    return Board(pair.image, pair.caption, PATCHES, WORDS, SCENES.scene(2), model=NAME)


def shown(panel, models, board, /, **settings):
    reply = last_answer(panel, models, board, dict(settings=settings))
    assert "error" not in reply, reply["error"]
    return reply["shown"]


def error(panel, models, board, /, **settings):
    return last_answer(panel, models, board, dict(settings=settings))["error"]


def test_influence_is_how_much_worse_a_patch_gets_without_a_word(models, board):
    model, every = models[NAME], tuple(range(64))
    way = shown(INFLUENCE, models, replace(board, patches=every))["to_patches"]
    batch, words = one_row(model, SCENES.pair(2))
    truth, errors = patchify(batch.images, model.cfg.image.patch_size), []
    for gone in ((), *(word.pieces for word in words)):  # the board's mask, then one word more
        masks = by_hand(batch, model.num_patches, every, sorted({*WORDS, *gone}))
        with torch.inference_mode():
            painted = model(batch, masks).pixels.clamp(0, 1)
        errors.append((painted - truth).abs().mean(-1)[0])
    expected = torch.stack(errors[1:]) - errors[0]
    helped = torch.tensor(np.array(way["helped"], float))
    seen = [i for i, word in enumerate(words) if not {*word.pieces} & {*WORDS}]
    assert torch.allclose(helped[seen].float(), expected[seen], atol=2e-4)
    assert helped[seen].max() > way["floor"] == model.facts["influence_floor"]["to_patches"]
    assert way["measured"] and not way["all"]


def test_nothing_hidden_and_nothing_predicted_are_one_sentence(models, board):
    bare = replace(board, patches=(), words=())
    assert "nothing is hidden" in error(DECODING, models, bare)
    assert "no patch is hidden" in error(UNCERTAINTY, models, replace(board, patches=()))
    assert "spread of pixels" in error(UNCERTAINTY, models, replace(board, model="vilt-tiny"))


def test_decoding_fills_in_everything_and_keeps_what_is_pinned(models, board):
    steps = shown(DECODING, models, board, steps=4)["steps"]
    masked = [len(step["hidden_patches"]) for step in steps]
    assert len(steps) == 5 and masked[0] == 32 and masked[-1] == 0 and masked == sorted(masked)[::-1]
    assert sorted(i for step in steps for i in step["new_patches"]) == [*PATCHES]
    pinned = shown(DECODING, models, board, steps=4, patches=[0, 1])["steps"]
    assert pinned[0]["hidden_patches"] == [*range(2, 32)]
    for settings, rule in ((dict(steps=0), "steps"), (dict(patches="0"), "pins"), (dict(order="x"), "order")):
        assert rule in error(DECODING, models, board, **settings)


def test_decoding_scores_what_is_filled_in_so_far(models, board):
    steps = shown(DECODING, models, board, steps=4)["steps"]
    scores = [step["score"] for step in steps]
    assert scores[0] == dict(error=None, patches=0, right=0, words=0)
    assert scores[-1]["patches"] == 32 and scores[-1]["words"] == 1
    assert scores[-1]["right"] == (steps[-1]["words"][2][2] == "right")
    apart = np.abs(from_url(steps[-1]["picture"], (64, 64)).astype(float) - board.image)[:32] / 255  # the upper half
    assert scores[-1]["error"] == pytest.approx(apart.mean(), abs=1e-3)
    one = shown(DECODING, models, replace(board, words=()), steps=4, patches=[0, 1])["steps"][-1]["score"]
    assert one["patches"] == 30 and one["words"] == 0  # what is pinned is given


@pytest.mark.parametrize("panel", (*app.PANELS, *app.SCENE_PANELS), ids=lambda panel: panel.name)
@pytest.mark.parametrize("masked", [dict(patches=()), dict(words=()), {}], ids=["words", "patches", "both"])
def test_the_page_can_send_every_answer(models, board, panel, masked):
    reply = last_answer(panel, models, replace(board, **masked))
    assert orjson.loads(orjson.dumps(reply))["title"] == panel.title  # gradio's encoder takes no number as a key


def test_spread_and_error_are_of_the_hidden_patches_only(models, board):
    content = shown(UNCERTAINTY, models, board)
    for name in ("spread", "error"):
        values = np.array(content[name], float)
        assert np.isnan(values[32:]).all() and not np.isnan(values[:32]).any()
        assert content["mean"][name] == pytest.approx(np.nanmean(values), abs=1e-3)
    assert content["check"]["bins"] and "rank correlation" in content["check"]["about"]


def test_outside_the_training_data_no_spread_is_judged(models, board):
    photo = np.asarray(Image.fromarray(data.cat()).resize((64, 64)))
    content = shown(UNCERTAINTY, models, replace(board, image=photo, caption="a cat", words=(), scene=None))
    assert "lies outside the training data" in content["verdict"] and "held-out patches have" not in content["verdict"]


def test_all_models_share_one_scale(models, board):
    scales = [
        shown(INFLUENCE, models, replace(board, model=name))["to_patches"]["scale"] for name in (NAME, "mlim-tiny")
    ]
    assert scales == [SCALE["to_patches"]] * 2
    spreads = [shown(UNCERTAINTY, models, replace(board, model=name))["scale"] for name in (NAME, "mlim-tiny")]
    assert spreads[0] == spreads[1]
