"Pictures that are held out: whole pictures only, the same ones whatever their order, names and copies."

import shutil

import numpy as np
import pytest
from contract import small
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from mvl_bench.core import UserError
from mvl_bench.data.factory import hold_out, own_pairs, picture_digest
from mvl_bench.data.loader import sample_ids
from mvl_bench.data.pairs import open_pairs
from mvl_bench.training.config import DataConfig, RunConfig
from mvl_bench.training.runner import open_parts, run_facts


def picture(folder, name, seed, caption):
    "Write a picture of noise, and its caption."
    noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    Pillow.fromarray(noise).save(folder / f"{name}.png")
    if caption:
        (folder / f"{name}.txt").write_text(caption)


@pytest.fixture
def folder(tmp_path):
    "Forty pictures with captions."
    for number in range(40):
        picture(tmp_path, f"{number:02}", number, f"picture number {number}")
    return tmp_path


def captions(pairs):
    "The captions of all rows."
    return {text for i in range(len(pairs)) for text in pairs.all_captions(i)}


def test_copies_of_a_picture_are_on_one_side(folder):
    for name in sorted(captions(hold_out(open_pairs(folder, 16), 0.1).held_out)):
        number = name.split()[-1]
        shutil.copy(folder / f"{int(number):02}.png", folder / f"copy-{number}.png")
        (folder / f"copy-{number}.txt").write_text(f"a copy of {number}")
    split = hold_out(open_pairs(folder, 16), 0.1)
    assert len(split.held_out) == 8 and len(split.train) == 36
    assert not any("copy" in text for text in captions(split.train))


def test_the_same_pictures_under_other_names_and_in_another_order(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for number in range(40):
        picture(other, f"z{97 * number % 40:02}", number, f"picture number {number}")
    both = [captions(hold_out(open_pairs(f, 16), 0.25).held_out) for f in (folder, other)]
    assert both[0] == both[1] and len(both[0]) == 10
    assert captions(hold_out(open_pairs(folder, 16), 0.25, seed=1).held_out) != both[0]


def test_five_rows_of_one_picture_stay_together(folder, tmp_path):
    rows = [
        dict(
            image=dict(bytes=(folder / f"{number:02}.png").read_bytes(), path=None),
            caption=[f"{number} {k}"],
        )
        for k in range(5)
        for number in range(20)
    ]
    features = Features(image=Image(), caption=List(Value("string")))
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    split = hold_out(open_pairs(tmp_path / "rows.parquet", 16), 0.1)
    numbers = [{text.split()[0] for text in captions(part)} for part in split[:2]]
    assert len(split.held_out) == 10 and len(numbers[1]) == 2 and not numbers[0] & numbers[1]
    assert split.captions == 100 and "100 captions" in split.report()


def test_what_cannot_be_read_is_skipped_and_named(folder):
    (folder / "07.png").write_bytes(b"nothing")
    (folder / "08.txt").write_text("  \n")
    picture(folder, "lone", 99, "")
    split = hold_out(open_pairs(folder, 16), 0.1)
    assert len(split.skipped) == 3 and "3 rows skipped" in split.report()
    assert "07.png" in split.report() and "38 pictures" in split.report()
    seen = {split.train.pair(i).caption for i in range(len(split.train))}
    assert seen == {f"picture number {i}" for i in range(40)} - captions(split.held_out) - {
        "picture number 7",
        "picture number 8",
    }


@pytest.mark.parametrize(
    "count, frac, held", [(3, 0.1, 0), (4, 0.1, 2), (40, 0.0, 0), (40, 0.5, 20)]
)
def test_how_many(folder, count, frac, held):
    for number in range(count, 40):
        (folder / f"{number:02}.png").unlink()
    split = hold_out(open_pairs(folder, 16), frac)
    assert (len(split.held_out) if split.held_out else 0) == held
    assert len(split.train) == count - held


def test_data_that_was_moved(folder):
    facts = dict(data=str(folder / "gone"), split=None, seed=0, val_frac=0.1)
    with pytest.raises(UserError, match="gone"):
        own_pairs(facts, 16)


def test_a_stream_holds_out_nothing_and_its_card_says_so(folder, tmp_path):
    rows = [
        dict(image=(folder / f"{i:02}.png").read_bytes(), caption=f"number {i}") for i in range(12)
    ]
    path = str(tmp_path / "rows.parquet")
    Dataset.from_list(rows).to_parquet(path)
    for streaming, frac in ((True, 0.0), (False, 0.2)):
        run = RunConfig("out", data=DataConfig(path, streaming=streaming, val_frac=0.2))
        notes = []
        train, held = open_parts(run, notes.append)
        assert run_facts(run, small(), train)["val_frac"] == frac
        assert ("read as a stream" in notes[0]) == streaming
        assert (held.length, train.length) == ((None, None) if streaming else (2, 10))


def digests(pairs):
    return {picture_digest(pairs, row, "x") for row in pairs.table.rows}


def test_a_smaller_fraction_is_part_of_a_larger_one(folder):
    pairs = open_pairs(str(folder), 16)
    sizes, before = [], set()
    for use in (0.1, 0.3, 0.7, 1.0):
        split = hold_out(pairs, 0.1, 0, use)
        trained, held = digests(split.train), digests(split.held_out)
        assert before < trained and not trained & held
        assert held == digests(hold_out(pairs, 0.1, 0).held_out)
        sizes.append(len(trained))
        before = trained
    assert sizes[-1] == len(digests(hold_out(pairs, 0.1, 0).train))
    assert [round(size / sizes[-1], 1) for size in sizes] == [0.1, 0.3, 0.7, 1.0]
    other = digests(hold_out(pairs, 0.1, 1, 0.3).train)
    assert other != digests(hold_out(pairs, 0.1, 0, 0.3).train)  # another seed


def test_a_fraction_of_the_scenes(tmp_path):
    run = RunConfig(str(tmp_path / "run"), data=DataConfig("scenes:shapes", fraction=0.0002))
    train, held_out = open_parts(run)
    assert train.length == 20 and held_out.length is None
    seen = {i for step in range(50) for i in sample_ids(step, 4, train.length, 0)[0]}
    assert seen == {*range(20)}
    for wrong in (dict(fraction=0.0), dict(fraction=1.5), dict(fraction=0.5, streaming=True)):
        with pytest.raises(UserError, match="fraction"):
            DataConfig("scenes", **wrong)
