"Scenes: what words mean in pixels, what training never shows, and that a sample never changes."

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvl_bench.core import UserError
from mvl_bench.data.scenes import (
    COLOURS,
    GROUNDS,
    PLACES,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    Scenes,
    Thing,
    box,
    caption,
    draw,
    edit,
    kept_out,
    nearest_colour,
    object_masks,
    sprite,
    stickers,
    word_position,
    words_of,
)
from mvl_bench.models.registry import load

BALL = Thing("circle", "red", "big", (0, 0))
CAT = Thing("cat", None, "small", (2, 1))
SCENE = Scene((BALL, CAT), "white", wording=3)


# ---- objects and sprites


def test_no_word_has_two_meanings():
    assert len(COLOURS) == len(SHAPES) == 8
    assert not set(stickers()) & {*SHAPES, *COLOURS, *GROUNDS, *SIZES}


@pytest.mark.parametrize(
    "wrong", [dict(colour="beige"), dict(name="unicorns"), dict(size="huge"), dict(place=(3, 0))]
)
def test_an_attribute_that_does_not_exist_is_rejected(wrong):
    with pytest.raises(UserError):
        replace(BALL, **wrong)


def test_a_sprite_has_the_area_and_colour_of_its_shape():
    paint, coverage = sprite("circle", "red", 20)
    assert paint.shape == (20, 20, 3)
    assert abs(coverage.mean() - np.pi / 4) < 0.02  # a disc covers pi/4 of its box
    assert np.abs(paint[10, 10] - COLOURS["red"]).max() < 1


def test_no_two_stickers_look_the_same_at_14_pixels():
    pixels = [np.concatenate(sprite(name, None, 14), -1).ravel() for name in stickers()]
    flat = np.stack(pixels)
    distance = ((flat[:, None, :400] - flat[None, :, :400]) ** 2).mean(-1) ** 0.5
    assert (distance > 0).sum() == len(flat) * (len(flat) - 1)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shift", [(-1.0, -1.0), (1.0, 1.0)])
def test_a_box_stays_inside_its_place(place, shift):
    left, top, right, bottom = box(replace(BALL, place=place, shift=shift))
    assert 64 / 3 * place[1] - 1 < left and right < 64 / 3 * (place[1] + 1) + 1
    assert 0 <= top and bottom <= 64


# ---- one scene


def test_equal_scenes_have_equal_hashes():
    assert replace(SCENE) == SCENE and hash(SCENE) == hash(replace(SCENE))


def test_masks_are_disjoint_and_inside_their_boxes():
    masks = object_masks(SCENE)
    left, top, right, bottom = box(BALL)
    assert not (masks[0] & masks[1]).any()
    assert masks[0, top:bottom, left:right].sum() == masks[0].sum()


def test_pixels_under_a_mask_have_the_colour_of_the_object():
    mean = draw(SCENE)[object_masks(SCENE)[0]].mean(0)
    assert np.abs(mean - COLOURS["red"]).max() < 12


def test_an_object_covers_the_same_fraction_of_a_larger_image():
    larger, masks = object_masks(SCENE, (192, 192)), object_masks(SCENE)
    assert np.abs(larger.mean((1, 2)) / masks.mean((1, 2)) - 1).max() < 0.15


def test_words_name_their_object_and_attribute():
    named = [w.text for w in words_of(SCENE) if w.thing == 0 and w.attribute == "colour"]
    assert named == ["red"]


def test_an_edit_changes_one_object_and_one_word():
    blue = edit(SCENE, 0, colour="blue")
    differs = (draw(SCENE) != draw(blue)).any(-1)
    left, top, right, bottom = box(BALL)
    differs[top:bottom, left:right] = False
    assert not differs.any()
    words = zip(caption(SCENE).split(), caption(blue).split())
    assert [(a, b) for a, b in words if a != b] == [("red", "blue")]


# ---- the data set


def test_each_colour_lacks_exactly_one_shape_in_training():
    lacks = [
        [all(kept_out(Thing(s, c, "big", p)) for p in PLACES) for s in SHAPES] for c in COLOURS
    ]
    assert (np.sum(lacks, 0) == 1).all() and (np.sum(lacks, 1) == 1).all()


def test_captions_have_6_to_14_words():
    counts = [len(c.replace(",", "").split()) for c in Scenes().captions(3000)]
    assert min(counts) >= 6 and max(counts) <= 14


def test_a_sample_is_a_function_of_seed_and_number():
    world = Scenes()
    assert world.caption_at(5) == world.pair(5).caption
    assert (Scenes().pair(5).image == world.pair(5).image).all()
    assert Scenes(seed=1).scene(5) != world.scene(5)


@pytest.mark.parametrize("split", SPLITS)
def test_only_the_novel_split_has_combinations_held_out_of_training(split):
    scenes = map(Scenes(split=split).scene, range(500))
    novel = [any(kept_out(thing) for thing in scene.things) for scene in scenes]
    assert all(novel) if split == "novel" else not any(novel)


def test_objects_of_a_scene_differ_and_never_overlap():
    for scene in map(Scenes().scene, range(500)):
        names, places = {t.name for t in scene.things}, {t.place for t in scene.things}
        assert len(names) == len(places) == len(scene.things)
        assert object_masks(scene).sum(0).max() <= 1


# ---- a model's answer


def test_the_nearest_colour_of_true_pixels_is_the_true_colour():
    for scene in map(Scenes("shapes").scene, range(100)):
        image = torch.tensor(draw(scene)).permute(2, 0, 1)[None] / 255
        images = image.expand(len(scene.things), -1, -1, -1)
        nearest = nearest_colour(images, torch.tensor(object_masks(scene)))
        assert [list(COLOURS)[c] for c in nearest] == [thing.colour for thing in scene.things]


def test_the_token_of_an_attribute_is_its_word():
    model = load("maskvlm-tiny")
    for scene in map(Scenes("shapes").scene, range(100)):
        ids = model.tokenizer(caption(scene)).input_ids
        for k, thing in enumerate(scene.things):
            place = word_position(model, scene, k, "colour")
            assert place is None or model.tokenizer.decode(ids[place]) == thing.colour


def test_a_sticker_has_no_colour_word():
    single = next(s for s in map(Scenes("stickers").scene, range(50)) if len(s.things) == 1)
    assert word_position(load("maskvlm-tiny"), single, 0, "colour") is None
