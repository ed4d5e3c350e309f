"Painted colours on a folder of photographs as the research data is laid out, made here."

import json
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from contract import small
from datasets import Dataset
from PIL import Image
from skimage.color import rgb2lab

from mvl_bench.core import Output, UserError
from mvl_bench.evaluation.painted_colours import (
    COLOURS,
    centre_colour,
    colours_table,
    evaluate_painted_colours,
    inner_patches,
    main,
    nearest_prototype,
    read_photographs,
    score_colour_words,
)

RGB = (
    (220, 20, 20),
    (255, 140, 0),
    (250, 230, 30),
    (110, 30, 160),
    (250, 150, 200),
    (250, 250, 250),
    (40, 60, 220),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Three photographs of each colour to train on, and two to validate on, in noise and a green rim."

    from PIL import Image

    path, chance, listed = tmp_path_factory.mktemp("flowers"), np.random.default_rng(0), []
    for part, each in (("train", 3), ("val", 2)):
        rows = []
        for colour, rgb in zip(COLOURS, RGB):
            for k in range(each):
                image = np.full((64, 64, 3), (30, 120, 40)) + chance.integers(-20, 20, (64, 64, 3))
                image[12:52, 12:52] = rgb + chance.integers(-20, 20, (40, 40, 3))
                file = BytesIO()
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, "PNG")
                source = f"{part}-{colour}-{k}"
                rows.append(
                    dict(
                        image=file.getvalue(),
                        captions=[f"the petals are {colour}"] * 5,
                        source_id=source,
                    )
                )
                if part == "val":
                    listed.append(
                        dict(
                            source_id=source,
                            colour=colour,
                            caption=f"the petals are {colour}",
                            rim_silent=k == 0,
                        )
                    )
        Dataset.from_list(rows).to_parquet(path / f"{part}-00-of-01.parquet")
    (path / "colour_val.json").write_text(json.dumps(dict(items=listed)))
    return path


def test_what_is_read_and_scored(folder):
    model = small()
    items, prototypes = read_photographs(folder, model.cfg.image.img_size)
    assert len(items) == 14 and prototypes.shape == (7, 3)
    scores = evaluate_painted_colours(model, items, prototypes)
    whole, inner = scores["whole"], scores["inner"]
    assert whole["n"] == 14 and inner["n"] == 7
    assert whole["colours"]["true_pixels"]["mean"] == 1.0  # the instrument reads the pixels
    assert abs(whole["colours"]["without"]["mean"] - 1 / 7) < 1e-9  # one colour for all
    assert whole["detail"] > 0 and whole["seams"] > 0
    assert inner["patches"] == len(inner_patches(model.cfg.image.grid))
    low, high = whole["without_minus_with"]["ci"]
    assert low <= whole["without_minus_with"]["mean"] <= high
    text = colours_table(scores)
    assert "untrained, inner" in text and "95 %" in text
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_a_painter_that_knows_all_scores_all(folder, monkeypatch):
    "A model that paints the named colour flat: right colours, and no detail."
    from mvl_bench.evaluation import painted_colours as module

    model = small()
    items, prototypes = read_photographs(folder, model.cfg.image.img_size)
    flat = dict(zip(COLOURS, np.array(RGB) / 255.0))

    def paint(model, images, captions, patches, batch_size=50):
        named = [next((c for c in COLOURS if text and c in text), "yellow") for text in captions]
        return np.stack([np.broadcast_to(flat[c], images[0].shape) for c in named])

    monkeypatch.setattr(module, "paint_masked", paint)
    scores = evaluate_painted_colours(model, items, prototypes, twin=False)["whole"]
    means = {name: score["mean"] for name, score in scores["colours"].items()}
    assert means["with_caption"] == means["edited"] == 1.0 and means["shuffled"] == 0.0
    assert scores["detail"] == 0.0 and scores["without_minus_with"]["mean"] > 0


def test_a_reader_of_the_centre_reads_all_with_the_photograph_only(folder):
    "A model that names the colour of the centre: right with the photograph, wrong with another's."
    model = small()
    items, prototypes = read_photographs(folder, model.cfg.image.img_size)
    ids = torch.tensor(model.tokenizer.convert_tokens_to_ids(COLOURS))
    known = [
        item for item in items if ids[COLOURS.index(item.colour)] != model.tokenizer.unk_token_id
    ]
    assert len({item.colour for item in known}) >= 5

    def read(batch, masks, requested):
        centre = centre_colour(batch.images.permute(0, 2, 3, 1).numpy())
        named = ids[nearest_prototype(centre, prototypes)]
        named = torch.where(masks.has_image, named, ids[COLOURS.index("yellow")])
        logits = torch.zeros(*batch.input_ids.shape, model.cfg.text.vocab_size)
        return Output(
            None, logits.scatter(2, named[:, None, None].expand(-1, logits.shape[1], 1), 20.0)
        )

    for name in ("cfg", "tokenizer", "num_patches", "device"):
        setattr(read, name, getattr(model, name))
    scores = score_colour_words(read, items)
    assert scores["n"] == len(known)
    assert scores["right"]["with_photograph"]["mean"] == 1.0
    assert scores["right"]["shuffled"]["mean"] == 0.0
    kinds = len({item.colour for item in known})
    assert abs(scores["right"]["without"]["mean"] - 1 / kinds) < 1e-9
    assert scores["nats"]["with_photograph"] < 0.1 < 5 < scores["nats"]["shuffled"]


def test_a_mistake_is_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="colour_val.json"):
        read_photographs(tmp_path, 32)
    command = [
        sys.executable,
        "-m",
        "mvl_bench.evaluation.painted_colours",
        "--checkpoint",
        "nothing",
    ]
    done = subprocess.run(
        [*command, "--data", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nothing" in done.stderr


def flower(colour, ground):
    "A flat flower of a colour's hue on a ground, with some noise, as PNG."
    image = np.full((96, 96, 3), ground, np.uint8)
    rows, columns = np.mgrid[:96, :96] - 47.5
    petals = np.hypot(rows, columns) < 34 + 6 * np.sin(5 * np.arctan2(rows, columns))
    noise = np.random.default_rng(0).integers(-12, 12, image.shape)
    image[petals] = (np.array(SHADES[colour]) + noise[petals]).clip(0, 255)
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


SHADES = dict(
    red=(190, 25, 35), orange=(235, 130, 30), yellow=(235, 210, 40), purple=(130, 60, 160),
    pink=(235, 120, 170), white=(235, 235, 230), blue=(60, 80, 200),
)  # fmt: skip


def test_copies_in_other_colours(tmp_path):
    rows = [
        dict(
            image=flower(colour, ground),
            captions=[f"a {colour} flower"] * 5 + ["red and blue", "a flower"],
            source_id=f"{colour}{ground[0]}",
        )
        for colour in SHADES
        for ground in ((30, 90, 30), (60, 70, 40))
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "train-0.parquet")
    out = tmp_path / "copies.parquet"
    main(["--data", str(tmp_path), "--recolour", str(out)])
    copies = Dataset.from_parquet(str(out))
    assert len(copies) == 5 * len(rows) and len({*copies["source_id"]}) == len(copies)
    reference = {c: centre(flower(c, (30, 90, 30))) for c in SHADES}
    right = 0
    for copy in copies:
        old, new = copy["captions"][0].split()[1], copy["source_id"].rpartition("-")[2]
        assert copy["captions"] == [f"a {new} flower"] * 5 and old == new
        near = min(SHADES, key=lambda c: np.linalg.norm(centre(copy["image"]) - reference[c]))
        right += near == new
    assert right >= 0.9 * len(copies), right
    again = tmp_path / "again.parquet"
    main(["--data", str(tmp_path), "--recolour", str(again)])
    assert Dataset.from_parquet(str(again))["image"][:] == copies["image"][:]


def centre(encoded):
    image = np.asarray(Image.open(BytesIO(encoded)))[36:60, 36:60]
    return rgb2lab(image / 255).mean((0, 1))


def test_copies_of_photographs_that_are_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--data", str(tmp_path), "--recolour", str(tmp_path / "x.parquet")])
    assert stopped.value.code == 2 and "train-*.parquet" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path)])
