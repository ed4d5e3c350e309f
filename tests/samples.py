"What the tests of data share: drawings, their bytes, tables of them, and what a good message is."

import io
import tarfile
from pathlib import Path

from datasets import Dataset
from PIL import Image

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


def write_tar(path, samples):
    "A tar of (name, bytes)."
    with tarfile.open(path, "w") as archive:
        for name, data in samples:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
