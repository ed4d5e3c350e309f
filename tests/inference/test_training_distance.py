"How far a pair is from a model's training data: drawn scenes, photographs, captions of other words."

import numpy as np
import pytest
from contract import small
from samples import drawing

import mvl_bench as mvl
from mvl_bench.data.factory import open_data
from mvl_bench.data.images import photograph
from mvl_bench.inference.training_distance import (
    REFERENCE_PAIRS,
    caption_nats,
    fitting_model,
    make_reference,
    reference_of,
    training_distance,
)


@pytest.fixture(scope="module")
def models():
    return {name: mvl.load(name) for name in ("maskvlm-flowers", "maskvlm-tiny")}


def test_scenes_and_photographs_find_their_model(models):
    scenes = open_data("scenes", 128, "val")
    pairs = [(scenes.pair(i).image, scenes.pair(i).caption) for i in range(8)]
    assert [fitting_model(models, *pair) for pair in pairs] == ["maskvlm-tiny"] * 8
    flower = np.asarray(photograph("dahlia"))
    for caption in ("this flower has long orange petals", "a red car on a street"):
        assert fitting_model(models, flower, caption) == "maskvlm-flowers"


def test_a_strange_caption_is_harder_than_a_usual_one(models):
    model, flower = models["maskvlm-flowers"], np.asarray(photograph("dahlia"))
    usual = training_distance(model, flower, "this flower has orange petals and a red center")
    strange = training_distance(model, flower, "two men repair a bicycle in the street")
    assert usual.caption < 0.9 < strange.caption and usual.picture == strange.picture
    assert usual.excess < strange.excess


def test_the_shipped_references_are_of_this_data(models):
    stored = models["maskvlm-tiny"].facts["reference"]
    scenes = open_data("scenes", models["maskvlm-tiny"].cfg.image.img_size, "val")
    again = make_reference(models["maskvlm-tiny"], [scenes.pair(i) for i in range(stored["n"])])
    assert np.allclose(again["centre"], stored["centre"], atol=1e-3)
    assert np.allclose(again["caption"], stored["caption"], atol=0.02)


def test_a_model_without_a_reference(tmp_path):
    model = small()
    model.facts = dict(data="gone.parquet")
    assert reference_of(model) is None
    assert training_distance(model, np.asarray(drawing()), "a red half") is None
    assert fitting_model(dict(a=model, b=model), np.asarray(drawing()), "a") == "a"
    model.facts = dict(data="scenes")
    assert reference_of(model)["n"] == REFERENCE_PAIRS


def test_captions_without_words_and_of_other_lengths():
    nats = caption_nats(small(), ["a red circle", "", "a red circle"])
    assert nats[0] == nats[2] and np.isnan(nats[1])
