"Tables of pictures with captions, well and badly made: folders, CSV, Parquet, WebDataset, the Hub's layout."

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from samples import COLOURS, ROOT, drawing, encoded, one_sentence, rows_of, write_tar

from mvl_bench.core import UserError
from mvl_bench.data.pairs import Pairs, StreamedPairs, open_pairs


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


# ---- tars as WebDataset has them


def drawn(shard, told="txt", kind="png"):
    "Samples of five colours, each with its caption in a text or in a record."
    for i, colour in enumerate(COLOURS[5 * shard : 5 * shard + 5]):
        yield f"{i:04}.{kind}", encoded(drawing(colour), "JPEG" if kind == "jpg" else "PNG")
        caption = f"half {colour}"
        record = json.dumps(dict(url="http://x", caption=caption, width=3)).encode()
        yield f"{i:04}.{told}", record if told == "json" else caption.encode()


def all_of(pairs):
    "Every pair that can be read, stand-ins left out."
    if isinstance(pairs, StreamedPairs):
        return pairs.first(10**6)
    found = [pairs.pair(i) for i in range(len(pairs))]
    return [pair for i, pair in enumerate(found) if i not in dict(pairs.bad)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("told", ["txt", "json"])
@pytest.mark.parametrize("spec", ["part-*.tar", "part-{000..001}.tar", "part-{000,001}.tar"])
def test_webdataset_shards(home, streaming, told, spec):
    write_tar("part-000.tar", drawn(0, told))
    write_tar("part-001.tar", drawn(1, told, "jpg"))  # of another kind than the first
    pairs = open_pairs(spec, 16, streaming=streaming)
    assert isinstance(pairs, StreamedPairs if streaming else Pairs)
    found = all_of(pairs)
    assert sorted(pair.caption for pair in found) == sorted(f"half {c}" for c in COLOURS)
    assert sorted(pairs.captions()) == sorted(f"half {c}" for c in COLOURS) and not pairs.bad
    for pair in found:
        assert (pair.image[8, 13] > 200).all()  # the ivory half
    if streaming:
        assert pairs.table.rows.num_shards == 2 and len(list(pairs.pairs())) == 10


@pytest.mark.parametrize("streaming", [False, True])
def test_broken_members_of_tars_are_counted(home, streaming):
    first, second, third = ([*drawn(k % 2, "json")] for k in range(3))
    first += [(f"1{name}", data) for name, data in drawn(1, "json")]
    first[0] = (first[0][0], first[0][1][:60])  # a picture cut in half, in the very first sample
    first[3] = (first[3][0], first[3][1].replace(b"half", b"h\xffalf"))  # not UTF-8
    del first[5]  # no caption
    second[3] = (second[3][0], b"{torn")  # no JSON
    second[4] = (second[4][0], b"")  # no bytes
    write_tar("s-0.tar", first)
    write_tar("s-1.tar", second)
    write_tar("s-2.tar", third)
    data = Path("s-2.tar").read_bytes()
    Path("s-2.tar").write_bytes(data[: data.index(third[6][1]) + 30])  # in the fourth picture
    pairs = open_pairs("s-*.tar", 16, streaming=streaming)
    found = all_of(pairs)
    assert len(found) == (10 - 3) + (5 - 2) + 3
    reasons = sorted(why for _, why in pairs.bad)
    said = ["s-0.tar: 0000.png", "s-0.tar: 0001.png has no caption"]
    said += ["s-0.tar: 0002.png has no caption", "s-1.tar: 0001.png has no caption"]
    said += ["s-1.tar: 0002.png", "s-2.tar from sample 4 on (unexpected end of data)"]
    assert len(reasons) == 6 and all(sum(one in r for r in reasons) == 1 for one in said), reasons
    assert "6 rows of s-*.tar" in pairs.report()


def test_columns_of_tars(home):
    record = json.dumps(dict(title="other", notes=["one", "two"], n=3)).encode()
    write_tar("c.tar", [("a.jpg", encoded(drawing(), "JPEG")), ("a.txt", b"first"), ("a.json", record)])  # fmt: skip
    assert (
        open_pairs("c.tar", 16, streaming=True).first(1)[0].caption == "other"
    )  # a title, by name
    chosen = open_pairs("c.tar", 16, caption_column="json.notes", streaming=True)
    assert list(chosen.captions()) == ["one", "two"]
    with pytest.raises(UserError) as caught:
        open_pairs("c.tar", 16, caption_column="json.n", streaming=True)
    one_sentence(caught, "'json.n'", "image, txt, json.title, json.notes")


@pytest.mark.parametrize("streaming", [False, True])
def test_tars_that_cannot_be_used_get_one_sentence(home, streaming):
    write_tar("bare.tar", [("a.txt", b"a caption")])
    write_tar("mute.tar", [("a.png", encoded(drawing()))])
    write_tar("empty.tar", [])
    Path("junk.tar").write_bytes(b"junk" * 999)
    write_tar("t-000.tar", drawn(0))
    write_tar("dots.tar", ((f"img.{name}", data) for name, data in drawn(0)))
    for spec, word in {
        "dots.tar": "a sample's name ends at its first dot",
        "bare.tar": "no pictures",
        "mute.tar": "caption",
        "empty.tar": "no pictures",
        "junk.tar": "junk.tar",
        "t-{000..002}.tar": "t-001.tar",
    }.items():
        with pytest.raises(UserError) as caught:
            open_pairs(spec, 16, streaming=streaming)
        one_sentence(caught, word)


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
    code = "from mvl_bench.data.pairs import open_pairs\nopen_pairs('hf:no-one/no-such-set', 16)"
    begun = time.perf_counter()
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].count(
        "UserError: the Hub cannot be reached for 'no-one/no-such-set'"
    )
    assert "Retrying" not in done.stderr and time.perf_counter() - begun < 20
