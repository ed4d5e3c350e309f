"Annotation files as people bring them: encodings, spreadsheets, JSON, token files, folders, and names of pictures."

import base64
import json
import os
import unicodedata

import pytest
from datasets import Dataset, DatasetDict
from samples import drawing, encoded, one_sentence, write_tar

from mvl_bench.core import UserError
from mvl_bench.data.pairs import open_pairs

BALLS = ("red", "green", "blue")
RIGHT = {colour: (f"a {colour} ball",) for colour in BALLS}


@pytest.fixture
def balls(tmp_path, monkeypatch):
    "A folder with three pictures, the current one."
    monkeypatch.chdir(tmp_path)
    for colour in BALLS:
        (tmp_path / f"{colour}.png").write_bytes(encoded(drawing(colour)))
    return tmp_path


def read(spec, **options):
    "Captions by the colour of the picture, of all readable pairs, and the report."
    pairs, found = open_pairs(spec, 16, **options), {}
    for i in range(len(pairs)):
        pair = pairs.pair(i)
        if i not in dict(pairs.bad):
            colour = max(BALLS, key=lambda c: (pair.image == drawing_pixels(c)).mean())
            found[colour] = pairs.all_captions(i)
    return found, pairs.report()


def drawing_pixels(colour):
    from mvl_bench.data.images import open_picture, resize

    return resize(open_picture(encoded(drawing(colour)), "x").image, (16, 16))


def table(mark=",", ending=".png", head=("image", "caption")):
    return "\n".join(
        mark.join(row) for row in (head, *((c + ending, f"a {c} ball") for c in BALLS))
    )


BODY = table().partition("\n")[2]
OBJECTS = [dict(image=f"{c}.png", caption=f"a {c} ball") for c in BALLS]
COCO = dict(
    images=[dict(id=7 + i, file_name=f"{c}.png") for i, c in enumerate(BALLS)],
    annotations=[dict(id=i, image_id=7 + i, caption=f"a {c} ball") for i, c in enumerate(BALLS)],
    info={},
)
KARPATHY = dict(
    images=[
        dict(filename=f"{c}.png", filepath="val2014", split="restval", sentences=[dict(raw=f"a {c} ball")])
        for c in BALLS
    ]
)  # fmt: skip
FILES = {
    "utf-16": ("a.csv", table().encode("utf-16")),
    "utf-16 without a mark": ("a.csv", table().encode("utf-16-le")),
    "utf-8 with a mark": ("a.csv", table().encode("utf-8-sig")),
    "blank lines first": ("a.csv", b"\r\n\r\n" + table().replace("\n", "\r\n").encode()),
    "old Mac lines": ("a.csv", table().replace("\n", "\r").encode()),
    "sep=;": ("a.csv", b"sep=;\n" + table(";").encode()),
    "a comment first": ("a.csv", b"# exported on Monday\n" + table().encode()),
    "no header": ("a.csv", BODY.encode()),
    "no header, caption first": ("a.tsv", "\n".join(f"a {c} ball\t{c}.png" for c in BALLS).encode()),
    "token file": ("Some.token.txt", "\n".join(f"{c}.png#0\ta {c} ball" for c in BALLS).encode()),
    "results.csv of Flickr30k": ("results.csv", table("| ", head=("image_name", " comment")).encode()),
    "backslashes": ("a.csv", table().replace("\n", "\nsub\\").encode()),
    "other machine": ("a.csv", table().replace("\n", "\n/home/me/images/").encode()),
    "no ending": ("a.csv", table(ending="", head=("image_id", "caption")).encode()),
    "another case": ("a.csv", table(ending=".PNG").encode()),
    "file addresses": ("a.csv", table().replace("\n", "\nfile://./").encode()),
    "list of objects": ("a.json", json.dumps(OBJECTS).encode()),
    "JSON lines": ("a.jsonl", "\n".join(map(json.dumps, OBJECTS)).encode()),
    "COCO": ("captions_val2014.json", json.dumps(COCO).encode()),
    "Karpathy": ("dataset_coco.json", json.dumps(KARPATHY).encode()),
    "captions by name": ("a.json", json.dumps({f"{c}.png": f"a {c} ball" for c in BALLS}).encode()),
    "list in a cell": ("a.csv", b"image,captions\n" + "\n".join(f"""{c}.png,"['a {c} ball']" """ for c in BALLS).encode()),
    "base64": ("a.tsv", b"image\tcaption\n" + b"\n".join(base64.b64encode(encoded(drawing(c))) + f"\ta {c} ball".encode() for c in BALLS)),
    "data addresses": ("a.csv", b"image,caption\n" + b"\n".join(b'"data:image/png;base64,' + base64.b64encode(encoded(drawing(c))) + f'",a {c} ball'.encode() for c in BALLS)),
    "metadata.jsonl": ("metadata.jsonl", "\n".join(json.dumps(dict(file_name=f"{c}.png", text=f"a {c} ball")) for c in BALLS).encode()),
    "quoted lines": ("a.csv", b"image,caption\n" + "\n".join(f'{c}.png,"a {c}\nball"' for c in BALLS).encode()),
}  # fmt: skip
NOTED = {"no header", "no header, caption first", "token file", "utf-16 without a mark"}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("by", ["file", "folder"])
def test_files_of_all_kinds_are_the_same_pairs(balls, kind, by):
    name, content = FILES[kind]
    (balls / name).write_bytes(content)
    if by == "folder" and kind == "data addresses":
        (balls / "a.csv").rename(balls / "captions.csv")
    found, report = read(name if by == "file" else ".") if (balls / name).exists() else read(".")
    assert found == RIGHT and bool(report) == (kind in NOTED), report


def test_what_was_assumed_is_a_note(balls):
    (balls / "a.csv").write_bytes(table().replace("a green", "a café’s green").encode("cp1252"))
    found, report = read("a.csv")
    assert found["green"] == ("a café’s green ball",) and "Windows-1252" in report
    (balls / "a.csv").write_bytes(
        "image,caption\nred.png,né é è\ngreen.png,n\xe9".encode("latin-1")
    )
    (balls / "b.csv").write_bytes(
        "image,caption\nred.png,é è ü ö ä\ngreen.png,".encode() + b"n\xe9"
    )
    assert "Windows-1252" in read("a.csv")[1] and "1 characters" in read("b.csv")[1]
    assert read("b.csv")[0]["red"] == ("é è ü ö ä",)


def test_an_open_quote_costs_its_own_row(balls):
    (balls / "a.csv").write_text(table().replace(",a red", ',"a red'))
    found, report = read("a.csv")
    assert found == {c: RIGHT[c] for c in ("green", "blue")} and "line 2 opens a quote" in report
    closed_later = table().replace(",a red", ',"a red').replace("a blue ball", '"a blue ball"')
    (balls / "a.csv").write_text(closed_later)
    assert read("a.csv")[0] == {c: RIGHT[c] for c in ("green", "blue")}


def test_words_for_nothing_are_no_captions(balls):
    for nothing in ("nan", "None", "NULL", "<NA>", "  "):
        (balls / "a.csv").write_text(table().replace("a red ball", nothing))
        found, report = read("a.csv")
        assert (
            found == {c: RIGHT[c] for c in ("green", "blue")} and "red.png has no caption" in report
        )


def test_two_columns_of_one_name_are_two_captions(balls):
    (balls / "a.csv").write_text("image,caption,caption\nred.png,a red ball,red\n")
    assert read("a.csv")[0] == dict(red=("a red ball", "red"))


def test_a_name_for_several_pictures_is_not_guessed(balls):
    for place in ("x", "y"):
        (balls / place).mkdir()
        (balls / place / "deep.png").write_bytes(encoded(drawing("red")))
    (balls / "a.csv").write_text("image,caption\ndeep.png,one\nx/deep,two\ngreen.png,a\n")
    found, report = read("a.csv")
    assert "deep.png stands for 2 files" in report and found == dict(red=("two",), green=("a",))


def test_both_unicode_forms_name_a_picture(balls):
    composed, apart = (unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD"))
    os.rename("red.png", apart)
    (balls / "a.csv").write_text(f"image,caption\n{composed},a red ball\n", encoding="utf-8")
    assert read("a.csv")[0] == dict(red=RIGHT["red"])


def test_splits(balls):
    rows = [dict(row, split=split) for row, split in zip(OBJECTS, ("train", "val", "val"))]
    (balls / "a.json").write_text(json.dumps(rows))
    assert read("a.json", split="val")[0].keys() == {"green", "blue"}
    one_split = dict(KARPATHY["images"][0], split="test")
    (balls / "k.json").write_text(json.dumps(dict(images=[one_split, *KARPATHY["images"][1:]])))
    assert read("k.json", split="train")[0].keys() == {"green", "blue"}  # restval
    with pytest.raises(UserError) as caught:
        read("k.json", split="dev")
    one_sentence(caught, "'dev'", "test, train")


def test_folders_of_splits_and_of_shards(balls):
    for split, part in (("train", BALLS[:2]), ("val", BALLS[2:])):
        (balls / "set" / split).mkdir(parents=True)
        lines = [json.dumps(dict(file_name=f"{c}.png", text=f"a {c} ball")) for c in part]
        (balls / "set" / split / "metadata.jsonl").write_text("\n".join(lines))
        for c in part:
            (balls / "set" / split / f"{c}.png").write_bytes(encoded(drawing(c)))
    assert read("set")[0].keys() == {"red", "green"} and read("set", split="val")[0].keys() == {
        "blue"
    }
    cells = dict(image=[encoded(drawing(c)) for c in BALLS], caption=[f"a {c} ball" for c in BALLS])
    rows = Dataset.from_dict(cells)
    (balls / "hub" / "data").mkdir(parents=True)
    rows.to_parquet(balls / "hub" / "data" / "train-00000-of-00001.parquet")
    rows.save_to_disk(balls / "disk")
    DatasetDict(train=rows, val=rows.select([2])).save_to_disk(balls / "both")
    for spec in ("hub", "disk", "both", "hub/data"):
        assert read(spec)[0] == RIGHT, spec
    assert read("both", split="val")[0].keys() == {"blue"}


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_tars(balls, ending):
    samples = [(f"{c}.{kind}", data) for c in BALLS for kind, data in (
        ("png", encoded(drawing(c))), ("json", json.dumps(dict(meta=dict(caption=f"a {c} ball"))).encode())
    )]  # fmt: skip
    write_tar("a.tar", samples)
    if ending != "tar":
        import gzip

        (balls / f"a.{ending}").write_bytes(gzip.compress((balls / "a.tar").read_bytes()))
    assert read(f"a.{ending}")[0] == RIGHT
    first = open_pairs(f"a.{ending}", 16, streaming=True).first(3)
    assert [pair.caption for pair in first] == [f"a {c} ball" for c in BALLS]


def test_streaming_leaves_the_module_as_it_is(balls):
    import glob
    from pathlib import Path

    from mvl_bench.data import formats

    write_tar(
        "a.tar", [(f"red.{k}", d) for k, d in (("png", encoded(drawing("red"))), ("txt", b"red"))]
    )
    assert open_pairs("a.tar", 16, streaming=True).first(1)[0].caption == "red"
    assert formats.Path is Path and formats.glob is glob


def test_a_tar_whose_samples_are_torn_apart(balls):
    pictures = [(f"{c}.png", encoded(drawing(c))) for c in BALLS]
    write_tar("a.tar", [*pictures, *((f"{c}.txt", b"a ball") for c in BALLS)])
    with pytest.raises(UserError) as caught:
        open_pairs("a.tar", 16)
    one_sentence(caught, "a.tar", "must follow each other", "--sort=name")


def cells(**columns):
    return lambda: Dataset.from_dict(columns).to_parquet("a.parquet")


PICTURE = [encoded(drawing("red"))]
REFUSED = {
    "on the web": (cells(URL=["http://x.org/a.jpg"], TEXT=["a ball"]), {}, "URL", "img2dataset"),
    "on the web, with ids": (cells(image_id=[7], url=["http://x.org/a.jpg"], caption=["a"]), {}, "url", "img2dataset"),
    "numbers": (cells(image=PICTURE, caption=[3]), {}, "'caption'", "numbers", "3"),
    "records": (cells(image=PICTURE, caption=[dict(en="a", de="b")]), {}, "en, de", "caption.en"),
    "no field": (
        cells(image=PICTURE, caption=[dict(en="a")]), dict(caption_column="caption.fr"), "'fr'", "en"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_short_line(balls, case):
    make, options, *words = REFUSED[case]
    make()
    with pytest.raises(UserError) as caught:
        open_pairs("a.parquet", 16, **options)
    one_sentence(caught, *words)
    assert len(str(caught.value)) <= 200


def test_a_field_of_a_record_is_a_caption(balls):
    cells(image=PICTURE, caption=[dict(en="a red ball", de="rot")])()
    assert read("a.parquet", caption_column="caption.de")[0] == dict(red=("rot",))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "no JSON", "[1, 2]", '{"images": 3}', '[{"a": 1}]']
)
def test_json_without_pairs(balls, text):
    (balls / "a.json").write_text(text)
    with pytest.raises(UserError) as caught:
        open_pairs("a.json", 16)
    one_sentence(caught, "a.json" if text != '[{"a": 1}]' else "image column")
    assert len(str(caught.value)) <= 200


def test_no_message_quotes_a_whole_cell(balls):
    (balls / "a.csv").write_text(f"image,caption\n{'x' * 5000}.png,a ball\nred.png,{'y' * 5000}\n")
    _, report = read("a.csv")
    assert len(report) <= 250 and "is not there" in report
