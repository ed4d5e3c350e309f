"Data of tasks: other people's tables, a person's own, and that nothing scored was trained on."

import json
from importlib import invalidate_caches
from importlib.util import find_spec

import numpy as np
import pytest
from contract import TOKENIZER, small
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from lookalikes import HUB, picture
from samples import SHARED

from mvl_bench.core import UserError
from mvl_bench.data.pairs import open_pairs
from mvl_bench.data.task_tables import digest, open_task, user_columns
from mvl_bench.data.tasks import CLASSES, collate_examples
from mvl_bench.evaluation.tasks import class_probabilities
from mvl_bench.models.task_heads import TaskConfig, TaskModel
from mvl_bench.training.finetune import FinetuneConfig, TaskDataConfig, apart

# ---- other people's tables, as small look-alikes


@pytest.mark.parametrize("name", HUB)
def test_a_known_data_set_by_its_columns(home, name):
    task, features, row, count, labels = HUB[name]
    (home / "set").mkdir()
    Dataset.from_list([row(i) for i in range(12)], Features(features)).to_parquet(
        "set/train.parquet"
    )
    for spec in ("set/train.parquet", f"hf:{home / 'set'}"):  # as a file, and in the Hub's layout
        source = open_task(task, spec, (16, 24))
        assert len(source) == 12 and source.count == count
        assert {source.text_of(i).label for i in range(12)} == labels
        example = source.example(5)
        assert [p.shape for p in example.pictures] == [(16, 24, 3)] * count
        assert example.text.texts[0].endswith("5")
        batch = collate_examples([example] * 2, TOKENIZER, 24, sorted(labels), (16, 24))
        assert len(batch.batch) == 2 * count and (batch.labels >= 0).all()
    groups = [source.text_of(i).group for i in range(12)]
    if name in ("vqav2", "snli_ve", "easy"):  # questions about one picture stay together
        assert groups[0] == groups[1] and len(set(groups)) in (4, 6)


def test_easy_vqa_comes_with_its_package(home, monkeypatch):
    monkeypatch.syspath_prepend(home)
    if find_spec("easy_vqa") is None:
        with pytest.raises(UserError, match=r"pip install 'mvl_bench\[easy-vqa\]'"):
            open_task("vqa", "easy-vqa", 16)
    for split in ("train", "test"):  # as the package lies on disk
        images = home / "easy_vqa" / "data" / split / "images"
        images.mkdir(parents=True)
        for i in range(3):
            (images / f"{i}.png").write_bytes(picture(i)["bytes"])
        asked = [[f"is it {i}", ["yes", "no"][i % 2], i // 2] for i in range(6)]
        (images.parent / "questions.json").write_text(json.dumps(asked))
    (home / "easy_vqa" / "__init__.py").touch()
    invalidate_caches()
    train, scored = (open_task("vqa", "easy-vqa", 16, split) for split in ("train", "test"))
    assert len(train) == 6 and train.example(5).text.texts == ("is it 5",)
    assert train.text_of(0).group == train.text_of(1).group != train.text_of(2).group
    assert train.example(0).pictures[0].shape == (16, 16, 3) and train.report() == ""
    assert not train.hashes(0) & scored.hashes(0)  # files of their own
    with pytest.raises(UserError, match="neither train nor test"):
        open_task("vqa", "easy-vqa", 16, "val")


@pytest.mark.parametrize("columns", ["coco", "flickr30k"])
def test_captions_for_retrieval_are_found_by_name(home, columns):
    coco = dict(
        image=ImageFeature(),
        imgid=Value("int64"),
        sentences=List(dict(raw=Value("string"), sentid=Value("int64"))),
    )
    flickr = dict(
        image=ImageFeature(),
        caption=List(Value("string")),
        sentids=List(Value("string")),
        img_id=Value("string"),
    )
    said = [[f"a dog {i} {k}" for k in range(5)] for i in range(4)]
    rows = dict(
        coco=[dict(image=picture(i), imgid=i, sentences=[dict(raw=t, sentid=k) for k, t in enumerate(s)]) for i, s in enumerate(said)],
        flickr30k=[dict(image=picture(i), caption=s, sentids=["1"] * 5, img_id=str(i)) for i, s in enumerate(said)],
    )[columns]  # fmt: skip
    Dataset.from_list(rows, Features(coco if columns == "coco" else flickr)).to_parquet("a.parquet")
    pairs = open_pairs("a.parquet", 16)
    assert [pairs.all_captions(i) for i in range(4)] == [tuple(s) for s in said]


def test_a_persons_own_two_pictures_and_titles(home):
    (home / "photos" / "mine.csv").write_text(
        "one,other,first,second,same\ndeep/red.png,deep/blue.png,a hat,a cap,0\ndeep/red.png,,a hat,a hat,1\n"
    )
    own = user_columns("one,other", "first,second", "same")
    source = open_task("pairs", "photos/mine.csv", 16, chosen_columns=own)
    assert source.count == 2 and [source.text_of(i).label for i in (0, 1)] == ["other", "match"]
    assert source.text_of(0).texts == ("a hat", "a cap")
    lacking = source.example(1)  # its second picture is missing: an absent modality, not an error
    assert lacking.pictures[1] is None and lacking.pictures[0].shape == (16, 16, 3)
    model = TaskModel(small(img_size=(16, 16)), TaskConfig("pairs", CLASSES["pairs"], 2))
    labels, chances = class_probabilities(model, source, [0, 1], ("", "image", "text"))
    assert labels.tolist() == [0, 1] and all(np.isfinite(p).all() for p in chances.values())


# ---- leaks


SETS = dict(
    nlvr=("nlvr", "nlvr_v1/*.parquet", None, "train", "dev"),
    daquar=("vqa", "daquar_128/train.parquet", None, "hash:train", "hash:val"),
    entailment=("entailment", "flickr8k_entailment/entailment.parquet", "flickr8k_128/*.parquet", "train", "val"),
    fashion=("pairs", "fashion_60x80/pairs.parquet", "fashion_60x80/items-*.parquet", "train", "val"),
)  # fmt: skip


def both(name):
    "Training and scored part of a data set."
    task, data, items, *splits = SETS[name]
    if not (SHARED / data.split("/")[0]).is_dir():
        pytest.skip(f"{data.split('/')[0]} is not beside the project")
    items = items and str(SHARED / items)
    return [open_task(task, str(SHARED / data), 32, split, items) for split in splits]


@pytest.mark.parametrize("name", SETS)
def test_nothing_that_is_scored_was_trained_on(name):
    train, scored = both(name)
    ids = range(len(train))
    if name == "nlvr":  # a few box pictures of train stand in dev too
        run = FinetuneConfig(
            "x", "nlvr", TaskDataConfig(str(SHARED / SETS[name][1]), "train", apart_from="dev")
        )
        ids = apart(run, train, list(ids))
        assert 0.95 * len(train) < len(ids) < len(train)
    seen = set().union(*(train.hashes(i) for i in ids))
    assert not any(seen & scored.hashes(i) for i in range(len(scored)))
    if name != "nlvr":  # whose directories are numbered in each split anew
        groups = {train.text_of(i).group for i in range(len(train))}
        assert not groups & {scored.text_of(i).group for i in range(len(scored))}


def test_no_caption_or_photo_of_val_in_training():
    if not (SHARED / "flickr8k_128").is_dir():
        pytest.skip("flickr8k_128 is not beside the project")
    found = {}
    for split in ("train", "val"):
        rows = open_pairs(str(SHARED / "flickr8k_128" / f"{split}-*.parquet"), 16).table.rows
        found[split] = [
            set(rows["image"]),
            {" ".join(t.lower().split()) for c in rows["captions"] for t in c},
        ]
    assert not found["train"][0] & found["val"][0]
    if (
        SHARED / "flickr8k_entailment"
    ).is_dir():  # whoever trains on its photos may fine-tune on the sentences
        asked = both("entailment")[1]
        trained = {digest(image) for image in found["train"][0]}
        assert not any(asked.hashes(i) & trained for i in range(len(asked)))
    shared = (
        found["train"][1] & found["val"][1]
    )  # short sentences that people write again and again
    assert len(shared) < 0.02 * len(found["val"][1]), sorted(shared)[:5]


def test_a_leak_is_found(home):
    rows = [HUB["easy"][2](i) | dict(split="train" if i % 2 else "val") for i in range(12)]
    Dataset.from_list(rows, Features(HUB["easy"][1] | dict(split=Value("string")))).to_parquet(
        "a.parquet"
    )
    train, scored = (open_task("vqa", "a.parquet", 16, split) for split in ("train", "val"))
    assert set().union(*(train.hashes(i) for i in range(6))) & scored.hashes(0)
    assert (
        apart(
            FinetuneConfig("x", "vqa", TaskDataConfig("a.parquet", "train", apart_from="val")),
            train,
            list(range(6)),
        )
        == []
    )
