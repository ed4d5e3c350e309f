"What a notebook cannot check about real data: hostile files, odd tables, fresh processes, and the data sets at hand."

import io
import json
import os
import subprocess
import sys
import tarfile
import time
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from mvl_bench.core import Pair, UserError
from mvl_bench.pairs import Pairs, StreamedPairs, batches, collate, open_pairs, sample_ids
from mvl_bench.pictures import open_picture, resize
from mvl_bench.text import word_tokenizer

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"
COLOURS = ["red", "green", "blue", "yellow", "black", "gray", "purple", "orange", "cyan", "brown"]


def drawing(colour="red", size=(40, 24), mode="RGB"):
    "A picture whose left half has a colour and whose right half is ivory."
    image = Image.new("RGB", size, "ivory")
    image.paste(colour, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def encoded(image, kind="PNG", **options):
    "A picture as the bytes of a file."
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def one_sentence(caught, *words):
    "The message of an error is one line that has all the words."
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    for word in words:
        assert word in text, text


def rows_of(count, broken=()):
    "Rows of pictures and two captions each; some of them cut in half."
    data = [encoded(drawing(COLOURS[i % 10], (40 + i, 24))) for i in range(count)]
    data = [d[: len(d) // 2] if i in broken else d for i, d in enumerate(data)]
    captions = [[f"a {COLOURS[i % 10]} half", f"half is {COLOURS[i % 10]}"] for i in range(count)]
    return Dataset.from_dict({"image": data, "captions": captions, "n": range(count)})


# ---- any picture


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "PA", "La"])
def test_every_mode_becomes_rgb(mode):
    source = Image.new(mode, (9, 9)) if mode in ("PA", "La") else drawing(mode=mode)
    picture = open_picture(source)
    assert picture.image.mode == "RGB" and picture.note == ""
    assert open_picture(picture.image).image.tobytes() == picture.image.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO"])
def test_every_kind_of_file_is_read_the_same_from_path_bytes_and_file(kind, tmp_path):
    path = tmp_path / f"it.{kind.lower()}"
    path.write_bytes(encoded(drawing(size=(32, 32)), kind))
    whole = [open_picture(s).image for s in (path, str(path), path.read_bytes(), path.open("rb"))]
    assert len({image.tobytes() for image in whole}) == 1
    assert np.abs(np.asarray(whole[0])[16, 4].astype(int) - (255, 0, 0)).max() < 40


@pytest.mark.parametrize(
    "data",
    [
        encoded(drawing(mode="CMYK"), "JPEG"),
        encoded(drawing(mode="LA")),
        encoded(drawing().quantize(8), transparency=3),
        encoded(drawing(mode="L"), transparency=0),
        encoded(drawing(), transparency=(255, 0, 0)),
        encoded(drawing(mode="1"), "TIFF"),
        encoded(drawing(mode="RGBA"), "WEBP"),
    ],
)
def test_odd_encodings_become_rgb(data):
    assert open_picture(data).image.mode == "RGB" and open_picture(data).image.size == (40, 24)


def test_transparent_parts_are_white():
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    palette = encoded(drawing(size=(16, 16)).quantize(2), transparency=bytes([0, 0]))
    for source in (clear, encoded(clear), palette):
        assert np.asarray(open_picture(source).image).min() == 255


def test_sixteen_bits_keep_their_scale():
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    image = open_picture(encoded(Image.fromarray(ramp))).image
    assert (np.asarray(image)[..., 0].ravel() == np.arange(256)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_picture(encoded(drawing(), "PNG", exif=exif)).image
    assert image.size == ((40, 24) if orientation < 5 else (24, 40))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_lose_the_picture():
    data = encoded(drawing(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\1" * 40)
    assert open_picture(data).image.size == (40, 24)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_taken_and_said(kind):
    frames = [drawing("red"), drawing("blue"), drawing("black")]
    picture = open_picture(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert picture.note == "the first of 3 frames" and picture.image.getpixel((3, 3))[0] > 240


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1), (16, 16, 3), (16, 16, 4)])
def test_arrays(dtype, shape):
    top = {"uint8": 255, "uint16": 65535, "int64": 255}.get(dtype, 1)
    image = open_picture(np.full(shape, top, dtype)).image
    assert image.size == (16, 16) and np.asarray(image).min() == 255


def png_claiming(width, height):
    "The header of a PNG of any size, with nothing behind it."
    whole = encoded(drawing())
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = b"IHDR" + size + whole[24:29]
    import zlib

    return whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]


HOSTILE = {
    "cut.jpg": encoded(drawing(size=(300, 300)), "JPEG")[:700],
    "cut.png": encoded(drawing(size=(300, 300)))[:150],
    "cut.gif": encoded(drawing(size=(300, 300)), "GIF")[:120],
    "cut.webp": encoded(drawing(size=(300, 300)), "WEBP")[:60],
    "header.png": encoded(drawing())[:20],
    "noise.png": np.random.default_rng(0).bytes(3000),
    "noise.jpg": b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(3000),
    "text.png": b"<html>404 not found</html>",
    "empty.png": b"",
    "tiny.png": encoded(Image.new("RGB", (1, 1))),
    "flat.png": encoded(Image.new("RGB", (500, 2))),
    "big.png": png_claiming(9000, 9000),
    "bomb.png": png_claiming(60_000, 60_000),
    "claims.png": png_claiming(4000, 4000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_gets_one_sentence_with_its_name(name, tmp_path, capfd):
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for source in (path, HOSTILE[name]):
            with pytest.raises(UserError) as caught:
                open_picture(source, None if source is path else name)
            one_sentence(caught, name)
    assert time.perf_counter() - begun < 5
    assert capfd.readouterr().err == ""


def test_nothing_is_written_to_standard_error(tmp_path):
    for name, data in HOSTILE.items():
        (tmp_path / name).write_bytes(data)
    exif = b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\1" * 40
    (tmp_path / "odd.jpg").write_bytes(encoded(drawing(), "JPEG", exif=exif))
    code = f"""
from pathlib import Path
from mvl_bench.pictures import UserError, open_picture
for path in sorted(Path({str(tmp_path)!r}).iterdir()):
    try:
        print(open_picture(path))
    except UserError as error:
        print(error)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "" and len(done.stdout.splitlines()) == len(HOSTILE) + 1


def test_the_rule_is_named():
    for name, rule in [
        ("tiny.png", "8 pixels"),
        ("big.png", "64,000,000"),
        ("empty.png", "0 bytes"),
    ]:
        with pytest.raises(UserError, match=rule):
            open_picture(HOSTILE[name], name)
    with pytest.raises(UserError, match="960 pixels, more than 900"):
        open_picture(drawing(), limit_pixels=900)


def test_things_that_are_not_files(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("loop.png", "gone.png", "pipe.png", "missing.png", ".", "x" * 300 + ".png"):
        with pytest.raises(UserError) as caught:
            open_picture(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_no_file_is_left_open(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(drawing()))
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    kept = [open_picture(path) for _ in range(20)]
    after = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    assert len(kept) == 20 and after <= before


@pytest.mark.parametrize("img_size", [16, 64, (16, 48), (48, 16), (7, 3)])
@pytest.mark.parametrize("fit", ["crop", "squeeze"])
@pytest.mark.parametrize("size", [(40, 24), (24, 40), (9, 500), (64, 64)])
def test_any_size_from_any_size(img_size, fit, size):
    image = resize(drawing(size=size), img_size, fit)
    wanted = (img_size, img_size) if isinstance(img_size, int) else img_size
    assert image.shape == (*wanted, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("img_size", [0, -3, (3,), (4, 0), (1.5, 2)])
def test_an_impossible_size_is_told(img_size):
    with pytest.raises(UserError, match="img_size"):
        resize(drawing(), img_size)


# ---- tables


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A folder of ten pictures with texts, where relative paths begin; the cache of `datasets` is there too."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    for colour in COLOURS:
        drawing(colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"a {colour} half\n\n  half {colour}\n")
    return tmp_path


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


# ---- pairs


def test_five_percent_broken_rows_are_named_and_training_goes_on(home):
    broken = {3, 40, 41, 77, 99}
    rows_of(100, broken).to_parquet("b.parquet")
    pairs, whole = (
        open_pairs("b.parquet", 16),
        rows_of(100).to_parquet("w.parquet") and open_pairs("w.parquet", 16),
    )
    tokenizer = word_tokenizer(pairs.captions())
    seen = [batch for batch, _ in islice(batches(pairs, tokenizer, 10), 10)]
    assert {row for row, _ in pairs.bad} == broken and "row 40" in pairs.report()
    assert sorted(torch.cat([batch.ids for batch in seen]).tolist()) == list(range(100))
    again = open_pairs("b.parquet", 16)
    for i in (99, 3, 41, 40, 77):  # in any order, with or without knowing the others
        a, b = pairs.pair(i, 2), again.pair(i, 2)
        assert a.id == i and a.item == b.item and a.caption == b.caption
    for i in sorted(set(range(100)) - broken):
        assert (pairs.pair(i, 1).image == whole.pair(i, 1).image).all()
        assert pairs.pair(i, 1)[1:] == whole.pair(i, 1)[1:]


def test_nothing_readable_is_told_at_once(home):
    rows_of(30, range(30)).to_parquet("b.parquet")
    with pytest.raises(UserError) as caught:
        open_pairs("b.parquet", 16)
    one_sentence(caught, "b.parquet", "no readable pair", "row 0")
    with pytest.raises(UserError, match="no readable pair"):
        list(open_pairs("b.parquet", 16, streaming=True).pairs())


def test_a_stream_is_the_same_set_in_an_order_that_resumes(home):
    for shard in range(4):
        rows_of(50, {7}).select(range(shard, 50, 4)).to_parquet(f"s-{shard}.parquet")
    stream = open_pairs("s-*.parquet", 16, seed=3, streaming=True)
    stream.window = 8
    first, second = list(stream.pairs(0)), list(stream.pairs(1))
    assert len({p.id for p in first}) == len(first) == 50 == stream.rows_seen
    assert {p.id for p in first} == {p.id for p in second}
    assert [p.id for p in first] != [p.id for p in second]
    assert len(stream.bad) == 1 and "of shard 3" in stream.report()
    for start in (0, 1, 7, 8, 31, 41, 49, 50, 80):
        fresh = open_pairs("s-*.parquet", 16, seed=3, streaming=True)
        fresh.window = 8
        rest = list(fresh.pairs(1, start))
        assert [p.id for p in rest] == [p.id for p in second[start:]]
        assert [p.caption for p in rest] == [p.caption for p in second[start:]]
        assert all((a.image == b.image).all() for a, b in zip(rest, second[start:]))


def test_batches_of_a_stream_resume_in_any_epoch(home):
    for shard in range(3):
        rows_of(30).select(range(shard, 30, 3)).to_parquet(f"s-{shard}.parquet")
    stream = open_pairs("s-*.parquet", 16, streaming=True)
    tokenizer = word_tokenizer(stream.captions())
    steps = list(islice(batches(stream, tokenizer, 7), 10))
    assert [epoch for _, epoch in steps] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    for start in (1, 4, 9):
        fresh = open_pairs("s-*.parquet", 16, streaming=True)
        batch, epoch = next(batches(fresh, tokenizer, 7, start=start, workers=3))
        assert batch.ids.equal(steps[start][0].ids) and epoch == steps[start][1]
        assert batch.images.equal(steps[start][0].images)
    with pytest.raises(UserError, match="batch_size 31"):
        next(batches(stream, tokenizer, 31))


@pytest.mark.parametrize("ending", ["pass", "raise KeyError"])
def test_a_half_read_stream_lets_the_process_end(home, ending):
    for shard in range(3):
        rows_of(40).to_parquet(f"s-{shard}.parquet")
    code = f"""
from mvl_bench.pairs import batches, open_pairs
from mvl_bench.text import word_tokenizer
source = open_pairs({str(home / "s-*.parquet")!r}, 16, streaming=True)
source.window = 4
stream = batches(source, word_tokenizer(["a"]), 4, workers=1)
next(stream)
{ending}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == ("KeyError" in ending), done.stderr
    assert "terminate" not in done.stderr and "ignored" not in done.stderr


def test_a_shard_that_breaks_off_is_named(home):
    for shard in range(2):
        rows_of(400).to_parquet(f"s-{shard}.parquet", batch_size=50)
    data = bytearray(Path("s-1.parquet").read_bytes())
    data[2000 : len(data) // 2] = bytes(len(data) // 2 - 2000)
    Path("s-1.parquet").write_bytes(data)
    stream = open_pairs("s-*.parquet", 16, streaming=True)
    with pytest.raises(UserError, match="shard 1 of s-"):
        list(stream.pairs())


def test_captions_are_a_pure_function_of_seed_epoch_and_id(home):
    rows_of(40).to_parquet("c.parquet")
    one, two = open_pairs("c.parquet", 16, seed=5), open_pairs("c.parquet", 16, seed=5)
    forward = [one.pair(i, 3).caption for i in range(40)]
    assert forward == [two.pair(i, 3).caption for i in reversed(range(40))][::-1]
    assert forward != [one.pair(i, 4).caption for i in range(40)]
    assert forward != [open_pairs("c.parquet", 16, seed=6).pair(i, 3).caption for i in range(40)]


def test_the_same_picture_is_the_same_item(home):
    data = encoded(drawing())
    table = {"image": [data, encoded(drawing("blue")), data], "caption": ["a", "b", "c"]}
    Dataset.from_dict(table).to_parquet("i.parquet")
    items = [open_pairs("i.parquet", 16).pair(i).item for i in range(3)]
    assert items[0] == items[2] != items[1]
    assert torch.tensor(items).dtype == torch.int64 and min(items) >= 0


# ---- batches


def test_an_epoch_is_a_permutation_and_steps_know_no_past():
    for length, batch_size in ((100, 7), (64, 64), (5, 2), (1, 1)):
        per_epoch = length // batch_size
        for epoch in range(3):
            steps = [
                sample_ids(epoch * per_epoch + k, batch_size, length, 9) for k in range(per_epoch)
            ]
            ids = np.concatenate([ids for ids, _ in steps])
            assert len(set(ids.tolist())) == len(ids) and ids.max() < length
            assert {e for _, e in steps} == {epoch}
    assert (sample_ids(123, 7, 100, 9)[0] == sample_ids(123, 7, 100, 9)[0]).all()
    assert (sample_ids(0, 50, 100, 1)[0] != sample_ids(0, 50, 100, 2)[0]).any()
    assert (sample_ids(0, 50, 100, 1)[0] != sample_ids(2, 50, 100, 1)[0]).any()
    assert sample_ids(7, 3, None)[0].tolist() == [21, 22, 23]
    for batch_size in (0, 101):
        with pytest.raises(UserError, match=f"batch_size {batch_size}"):
            sample_ids(0, batch_size, 100)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_are_the_same_for_any_number_of_workers(home, workers):
    rows_of(30, {4}).to_parquet("w.parquet")
    pairs = open_pairs("w.parquet", (16, 24))
    tokenizer = word_tokenizer(pairs.captions())
    alone = islice(batches(pairs, tokenizer, 4, start=5), 12)
    helped = islice(
        batches(open_pairs("w.parquet", (16, 24)), tokenizer, 4, start=5, workers=workers), 12
    )
    for (a, first), (b, second) in zip(alone, helped, strict=True):
        assert first == second and a.images.equal(b.images) and a.input_ids.equal(b.input_ids)
        assert a.ids.equal(b.ids) and a.item.equal(b.item) and a.images.shape == (4, 3, 16, 24)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_out_where_it_belongs(workers):
    class Sour:
        def pair(self, i, epoch):
            if i == 9:
                raise OSError("disk gone")
            return Pair(np.zeros((8, 8, 3), np.uint8), "a", i, i)

    stream = batches(Sour(), word_tokenizer(["a"]), 2, workers=workers)
    assert [next(stream)[0].ids[0].item() for _ in range(4)] == [0, 2, 4, 6]
    with pytest.raises(OSError, match="disk gone"):
        next(stream)


def test_collate_tells_what_is_absent():
    picture = np.full((8, 8, 3), 255, np.uint8)
    given = [Pair(picture, " ", 1, 1), Pair(None, "a b", 2, 2), Pair(picture, None, 3, 3)]
    batch = collate(given, word_tokenizer(["a b"]), 8)
    assert batch.has_image.tolist() == [True, False, True] and batch.images.dtype == torch.float32
    assert batch.has_text.tolist() == [False, True, False] and batch.maskable.sum(1).tolist() == [
        0,
        2,
        0,
    ]
    assert batch.images.amax((1, 2, 3)).tolist() == [1, 0, 1] and batch.images.is_contiguous()
    with pytest.raises(UserError, match="one size"):
        collate(
            [given[0], Pair(np.zeros((9, 8, 3), np.uint8), "a", 1, 1)], word_tokenizer(["a"]), 8
        )


# ---- the data at hand

ODD = {
    "flickr8k_128/val-*.parquet": (1000, 5, {}),
    "fashion_60x80/items-val.parquet": (1825, 1, {}),
    "daquar_128/train.parquet": (794, 1, dict(caption_column="questions")),
}


@pytest.mark.parametrize("spec", ODD)
@pytest.mark.parametrize("streaming", [False, True])
def test_real_data(spec, streaming):
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}")
    number, captions, options = ODD[spec]
    pairs = open_pairs(str(SHARED / spec), (64, 64), streaming=streaming, **options)
    if streaming:
        assert len({pair.id for pair in pairs.pairs()}) == number
    else:
        assert len(pairs) == number and len(pairs.all_captions(3)) >= captions
        assert len({pairs.pair(i).item for i in range(0, number, 10)}) > 0.09 * number
    assert not pairs.bad
    batch, _ = next(batches(pairs, word_tokenizer(pairs.captions(500)), 16))
    assert batch.images.shape == (16, 3, 64, 64) and batch.images.std() > 0.1


def test_real_tables_without_one_picture_a_row_are_told():
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}")
    for spec in ("flickr8k_entailment/entailment.parquet", "fashion_60x80/pairs.parquet"):
        with pytest.raises(UserError, match="column"):
            open_pairs(str(SHARED / spec), 64)


def test_memory_stays_flat_when_streaming(home):
    noise = np.random.default_rng(0)
    data = [
        encoded(Image.fromarray(noise.integers(0, 255, (64, 64, 3), np.uint8))) for _ in range(300)
    ]
    part = Dataset.from_dict({"image": data, "caption": ["noise"] * 300})
    for shard in range(40):
        part.to_parquet(f"m-{shard:02}.parquet", batch_size=50)
    code = f"""
import json, resource
from mvl_bench.pairs import open_pairs
stream = open_pairs({str(home / "m-*.parquet")!r}, 32, streaming=True)
stream.window = 100
peaks = []
for n, _ in enumerate(stream.pairs()):
    if n in (1500, 11500):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    early, late = json.loads(done.stdout.splitlines()[-1])
    assert late - early < 60, f"{early:.0f} MB grew to {late:.0f} MB over 150 MB of data"
