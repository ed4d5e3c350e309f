"Tables of pictures with captions, well and badly made: folders, CSV, Parquet, WebDataset, the Hub's layout."

import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from samples import COLOURS, ROOT, drawing, encoded, one_sentence, rows_of

from mvl_bench.core import UserError
from mvl_bench.pairs import Pairs, StreamedPairs, open_pairs


def test_a_folder_with_texts_and_one_picture_without(home):
    (home / "photos" / "deep" / "red.txt").unlink()
    (home / "photos" / "notes.md").write_text("not a picture")
    pairs = open_pairs("photos", (16, 32))
    assert len(pairs) == 10 and pairs.pair(0).image.shape == (16, 32, 3)
    drawn = [pairs.pair(i) for i in range(10)]
    assert [why for _, why in pairs.bad] == [f"{Path('deep/red.png')} has no caption"]
    assert all(pair.caption for pair in drawn)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_csv_beside_the_pictures(home, mark):
    lines = [f"deep/{c}.png{mark}{n}{mark}half {n} is {c}" for c in COLOURS for n in range(3)]
    text = "\ufeff" + "\n".join([f"File_Name{mark}n{mark} Caption", *lines])
    (home / "photos" / "captions.csv").write_text(text, encoding="utf-8")
    for spec in ("photos", "photos/captions.csv"):
        pairs = open_pairs(spec, 16)
        assert len(pairs) == 10 and pairs.all_captions(0)[2] == "half 2 is red"
        assert len({pairs.pair(0, epoch).caption for epoch in range(30)}) == 3


def test_a_csv_in_which_the_data_is_poor(home):
    rows = ["red.png,one, two", "blue.png", ",a caption", "gone.png,it is gone", 'cyan.png,"a, b"']
    (home / "photos" / "deep" / "t.csv").write_text("image,text\n" + "\n".join(rows))
    pairs = open_pairs("photos/deep/t.csv", 16)
    for i in range(len(pairs)):
        pairs.pair(i)
    reasons = dict(pairs.bad)
    assert len(pairs) == 5 and reasons.keys() == {1, 2, 3} and "gone.png" in reasons[3]
    assert pairs.all_captions(0) == ("one, two",) and pairs.all_captions(4) == ("a, b",)
    assert "3 rows of photos/deep/t.csv" in pairs.report() and "\n" not in pairs.report()


SCHEMAS = {
    "bytes": (Value("binary"), lambda data, i: data),
    "struct": (
        {"bytes": Value("binary"), "path": Value("string")},
        lambda d, i: {"bytes": d, "path": None},
    ),
    "feature": (ImageFeature(), lambda data, i: {"bytes": data, "path": f"{i}.png"}),
    "list": (List(Value("binary")), lambda data, i: [data]),
    "path": (Value("string"), lambda data, i: f"photos/deep/{COLOURS[i]}.png"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("schema", SCHEMAS)
def test_parquet_of_any_schema(home, schema, streaming):
    kind, cell = SCHEMAS[schema]
    data = [encoded(drawing(c)) for c in COLOURS]
    columns = {
        "photo": [cell(d, i) for i, d in enumerate(data)],
        "Title": [f"half {c}" for c in COLOURS],
    }
    features = Features({"photo": kind, "Title": Value("string")})
    Dataset.from_dict(columns, features=features).to_parquet("a-0.parquet")
    pairs = open_pairs("a-*.parquet", 16, streaming=streaming)
    assert isinstance(pairs, StreamedPairs if streaming else Pairs)
    found = list(pairs.pairs()) if streaming else [pairs.pair(i) for i in range(10)]
    assert {pair.caption for pair in found} == {f"half {c}" for c in COLOURS} and not pairs.bad
    assert len({pair.item for pair in found}) == 10


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_shards(home, streaming):
    for shard in range(2):
        with tarfile.open(f"part-{shard}.tar", "w") as archive:
            for i, colour in enumerate(COLOURS[5 * shard : 5 * shard + 5]):
                for ending, data in (
                    ("png", encoded(drawing(colour))),
                    ("txt", f"half {colour}".encode()),
                ):
                    info = tarfile.TarInfo(f"{i:04}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    pairs = open_pairs("part-*.tar", 16, streaming=streaming)
    found = list(pairs.pairs()) if streaming else [pairs.pair(i) for i in range(10)]
    assert sorted(pair.caption for pair in found) == sorted(f"half {c}" for c in COLOURS)
    assert sorted(pairs.captions()) == sorted(f"half {c}" for c in COLOURS)


def test_columns_given_unknown_and_numbered(home):
    table = {
        "image": [encoded(drawing())],
        "other": [encoded(drawing("blue"))],
        "caption": ["first"],
    }
    table |= {"notes": ["second"], "list": [["a", "b"]]}
    Dataset.from_dict(table).to_parquet("t.parquet")
    assert open_pairs("t.parquet", 16).pair(0).caption == "first"
    chosen = open_pairs("t.parquet", 16, image_column="other", caption_column="notes").pair(0)
    assert chosen.caption == "second" and chosen.image[8, 8, 2] > 200
    assert open_pairs("t.parquet", 16, caption_column="list").all_captions(0) == ("a", "b")
    for option in ("image_column", "caption_column"):
        with pytest.raises(UserError) as caught:
            open_pairs("t.parquet", 16, **{option: "titel"})
        one_sentence(caught, "titel", "image, other, caption, notes, list")
    Dataset.from_dict({"image": table["image"], "caption_0": ["x"], "caption_1": ["y"]}).to_parquet(
        "n.parquet"
    )
    assert open_pairs("n.parquet", 16).all_captions(0) == ("x", "y")
    Dataset.from_dict({"image": table["image"], "label": [3]}).to_parquet("l.parquet")
    with pytest.raises(UserError, match="--caption-column"):
        open_pairs("l.parquet", 16)


@pytest.mark.parametrize("streaming", [False, True])
def test_split_filters_rows(home, streaming):
    rows = rows_of(10).add_column("split", ["train"] * 7 + ["val"] * 3)
    rows.to_parquet("s.parquet")
    for split, number in (("train", 7), ("val", 3), (None, 10)):
        pairs = open_pairs("s.parquet", 16, split=split, streaming=streaming)
        assert (len(list(pairs.pairs())) if streaming else len(pairs)) == number
    with pytest.raises(UserError, match="'test'"):
        open_pairs("s.parquet", 16, split="test", streaming=streaming)
    rows.remove_columns("split").to_parquet("none.parquet")
    with pytest.raises(UserError, match="no column 'split'"):
        open_pairs("none.parquet", 16, split="val", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_in_the_hubs_layout(home, streaming):
    (home / "set").mkdir()
    rows_of(10).to_parquet("set/train.parquet")
    rows_of(4).to_parquet("set/test.parquet")
    for split, number in (("test", 4), (None, 10), ("train", 10)):
        pairs = open_pairs("hf:set", 16, split=split, streaming=streaming)
        assert (len(list(pairs.pairs())) if streaming else len(pairs)) == number
    with pytest.raises(UserError) as caught:
        open_pairs("hf:set", 16, split="val", streaming=streaming)
    one_sentence(caught, "'val'", "train", "test")


def mistakes(home):
    "Names of data sets that cannot be used, with a word of what must be said."
    (home / "bare").mkdir()
    (home / "mute").mkdir()
    drawing().save(home / "mute" / "a.png")
    (home / "empty.csv").touch()
    (home / "head.csv").write_text("image,caption\n")
    (home / "junk.parquet").write_bytes(b"junk" * 99)
    (home / "none.parquet").touch()
    (home / "file.xyz").write_text("what")
    (home / "loop").symlink_to(home / "loop")
    Dataset.from_dict({"image": [], "caption": []}).to_parquet(home / "zero.parquet")
    return {
        "nowhere": "nowhere",
        "no-*.parquet": "no-*.parquet",
        "bare": "no pictures",
        "mute": "captions.csv",
        "empty.csv": "empty.csv",
        "head.csv": "no rows",
        "junk.parquet": "junk.parquet",
        "none.parquet": "none.parquet",
        "zero.parquet": "zero.parquet",
        "file.xyz": ".xyz",
        "*.parquet": "parquet",
        "loop": "loop",
        "hf:": "'hf:'",
        "hf:one/two/three": "one/two/three",
        "": "''",
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_a_mistake_gets_one_sentence(home, streaming, capfd, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wrong = mistakes(home)
    capfd.readouterr()
    for spec, word in wrong.items():
        with pytest.raises(UserError) as caught:
            open_pairs(spec, 16, streaming=streaming)
        one_sentence(caught, word)
    assert capfd.readouterr().err == ""


def test_an_unknown_name_is_told_fast_without_a_network():
    code = "from mvl_bench.pairs import open_pairs\nopen_pairs('hf:no-one/no-such-set', 16)"
    begun = time.perf_counter()
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].count(
        "UserError: the Hub cannot be reached for 'no-one/no-such-set'"
    )
    assert "Retrying" not in done.stderr and time.perf_counter() - begun < 20
