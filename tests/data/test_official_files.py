"The papers' tasks from their files as downloaded: VQA v2, NLVR2, SNLI-VE, COCO captions, Flickr30k; three records of each."

import json

import numpy as np
import pytest
from samples import drawing, encoded, one_sentence

from mvl_bench.core import UserError
from mvl_bench.data.pairs import open_pairs
from mvl_bench.data.task_tables import open_task
from mvl_bench.evaluation.tasks import soft_accuracy

COLOURS = ("red", "green", "blue")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(drawing(colour)))


def write(path, value, lines=False):
    path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value))


def vqa(home):
    about = dict(info={}, license={}, data_subtype="val2014", data_type="mscoco")
    questions, annotations = [], []
    for i, colour in enumerate(COLOURS):
        picture(home / "val2014" / f"COCO_val2014_{40 + i:012d}.jpg", colour)
        answers = [colour] * 8 + ["dark " + colour] * 2
        people = [
            dict(answer=a, answer_confidence="yes", answer_id=k + 1) for k, a in enumerate(answers)
        ]
        ids = dict(question_id=400 + i, image_id=40 + i)
        questions.append(ids | dict(question="What colour is the ball?"))
        more = dict(question_type="what color is the", answer_type="other", answers=people)
        annotations.append(ids | more | dict(multiple_choice_answer=colour))
    write(
        home / "v2_OpenEnded_mscoco_val2014_questions.json",
        about | dict(questions=questions, task_type="Open-Ended"),
    )
    write(home / "v2_mscoco_val2014_annotations.json", about | dict(annotations=annotations))
    other = about | dict(data_subtype="train2014", questions=[])
    write(home / "v2_OpenEnded_mscoco_train2014_questions.json", other)


@pytest.mark.parametrize(
    "half", ["v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"]
)
def test_vqa_v2_from_either_half(home, half):
    vqa(home)
    task = open_task("vqa", half, 16)
    assert len(task) == 3 and [task.text_of(i).label for i in range(3)] == list(COLOURS)
    example = task.example(1)
    assert example.text.texts == ("What colour is the ball?",) and example.text.kind == "other"
    assert example.pictures[0] is not None and not task.report()
    assert example.text.answers == ("green",) * 8 + ("dark green",) * 2
    texts = [task.text_of(i) for i in range(3)]
    assert np.allclose(soft_accuracy(texts, COLOURS), 1)
    # two of ten said it: left out one of them, 1/3; otherwise 2/3
    assert np.allclose(soft_accuracy(texts[1:2], ["dark green"]), (2 * 1 / 3 + 8 * 2 / 3) / 10)


def test_vqa_without_its_other_half(home):
    vqa(home)
    (home / "v2_mscoco_val2014_annotations.json").unlink()
    with pytest.raises(UserError) as caught:
        open_task("vqa", "v2_OpenEnded_mscoco_val2014_questions.json", 16)
    one_sentence(caught, "annotations", "val2014", "beside it")


def test_nlvr2(home):
    rows = []
    for i, colour in enumerate(COLOURS):
        for k in (0, 1):
            picture(home / "images" / f"dev-850-{i}-img{k}.png", (colour, "yellow")[k])
        rows.append(dict(
            sentence=f"The left picture shows a {colour} ball.", identifier=f"dev-850-{i}-0", label=["True", "False"][i % 2],
            left_url="http://x", right_url="http://y", directory="12", synset="ball", query="balls", validation={"1": "True"},
        ))  # fmt: skip
    write(home / "dev.json", rows, lines=True)
    task = open_task("nlvr", "dev.json", 16)
    assert [task.text_of(i).label for i in range(3)] == ["true", "false", "true"]
    left, right = task.example(2).pictures
    assert task.count == 2 and left is not None and (left != right).any() and not task.report()


def snli(home, label):
    rows = []
    for i, colour in enumerate(COLOURS):
        picture(home / "flickr30k_images" / f"{4553348560 + i}.jpg", colour)
        sentences = dict(sentence1="Something round.", sentence2=f"A {colour} ball.")
        names = dict(Flickr30K_ID=str(4553348560 + i), pairID=f"{i}#0r1n", captionID=f"{i}#0", annotator_labels=["neutral"])  # fmt: skip
        rows.append(names | sentences | dict(gold_label=label[i]))
    return rows


def test_snli_ve(home):
    write(home / "snli_ve_dev.jsonl", snli(home, ("entailment", "neutral", "-")), lines=True)
    task = open_task("entailment", "snli_ve_dev.jsonl", 16)
    assert [task.text_of(i).label for i in range(len(task))] == ["entailment", "neutral"]
    assert (
        task.example(0).text.texts == ("A red ball.",) and task.example(0).pictures[0] is not None
    )
    assert task.report().startswith("1 rows") and "majority" in task.report()


def test_snli_ve_in_parquet_with_numbers(home):
    from datasets import Dataset

    snli(home, COLOURS)
    cells = dict(
        image=[encoded(drawing(c)) for c in COLOURS], premise=["x"] * 3, filename=list("abc")
    )
    cells |= dict(hypothesis=[f"A {c} ball." for c in COLOURS], label=[2, 0, 1])
    Dataset.from_dict(cells).to_parquet("snli.parquet")
    task = open_task("entailment", "snli.parquet", 16)
    assert [task.text_of(i).label for i in range(3)] == ["contradiction", "entailment", "neutral"]


def test_coco_and_flickr30k(home):
    for i, colour in enumerate(COLOURS):
        picture(home / "val2014" / f"COCO_val2014_{i:012d}.jpg", colour)
        picture(home / "flickr30k-images" / f"{100 + i}.jpg", colour)
    images = [dict(id=i, file_name=f"COCO_val2014_{i:012d}.jpg") for i in range(3)]
    notes = [dict(id=k, image_id=k % 3, caption=f"caption {k}") for k in range(15)]
    write(home / "captions_val2014.json", dict(images=images, annotations=notes, licenses=[]))
    pairs = open_pairs("captions_val2014.json", 16)
    assert len(pairs) == 3 and pairs.all_captions(1) == tuple(
        f"caption {k}" for k in range(1, 15, 3)
    )
    sentences = [
        [dict(raw=f"{c} {k}", imgid=i, sentid=5 * i + k) for k in range(5)]
        for i, c in enumerate(COLOURS)
    ]
    rows = [dict(filename=f"{100 + i}.jpg", imgid=i, sentids=[], split=("train", "val", "test")[i], sentences=s) for i, s in enumerate(sentences)]  # fmt: skip
    write(home / "dataset_flickr30k.json", dict(images=rows, dataset="flickr30k"))
    val = open_pairs("dataset_flickr30k.json", 16, split="val")
    assert len(val) == 1 and val.all_captions(0) == tuple(f"green {k}" for k in range(5))
    lines = ["image_name| comment_number| comment"]
    lines += [
        f"{100 + i}.jpg| {k}| A {c} ball , number {k} ."
        for i, c in enumerate(COLOURS)
        for k in range(5)
    ]
    (home / "results.csv").write_text("\n".join(lines))
    assert open_pairs("results.csv", 16).all_captions(2)[4] == "A blue ball , number 4 ."
    tokens = [f"{100 + i}.jpg#{k}\tA {c} ball ." for i, c in enumerate(COLOURS) for k in range(5)]
    (home / "results_20130124.token").write_text("\n".join(tokens))
    assert len(open_pairs("results_20130124.token", 16).all_captions(0)) == 5
