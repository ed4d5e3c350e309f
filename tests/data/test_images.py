"Any picture a person may bring: every mode and format, hostile files, one sentence for each that cannot be read."

import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from samples import ROOT, drawing, encoded, one_sentence
from skimage.color import rgb2lab

from mvl_bench.core import UserError
from mvl_bench.data.images import (
    FORMATS,
    MAX_SCANS,
    PHOTOGRAPHS,
    count_scans,
    edge_colour,
    eight_bits,
    fetch,
    open_header,
    open_picture,
    photograph,
    placed,
    read_bytes,
    resize,
    shift_colour,
    shrunk,
    to_rgb,
)
from mvl_bench.data.pairs import collate
from mvl_bench.data.scenes import Scenes
from mvl_bench.data.tokenizers import word_tokenizer


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "PA", "La"])
def test_every_mode_becomes_rgb(mode):
    source = Image.new(mode, (9, 9)) if mode in ("PA", "La") else drawing(mode=mode)
    picture = open_picture(source)
    assert picture.image.mode == "RGB" and picture.note == ""
    assert open_picture(picture.image).image.tobytes() == picture.image.tobytes()


@pytest.mark.parametrize("kind", [f.upper().replace(" ", "") for f in FORMATS])
def test_every_kind_of_file_is_read_the_same_from_path_bytes_and_file(kind, tmp_path):
    path = tmp_path / f"it.{kind.lower()}"
    try:
        path.write_bytes(encoded(drawing(size=(32, 32)), kind))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {kind}")
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


def large_png(side):
    "A PNG of `side` x `side` white pixels in some hundred kilobytes, written without holding them."
    packer, data = zlib.compressobj(9), b""
    for _ in range(side):
        data += packer.compress(b"\0" + b"\xff" * 3 * side)
    data += packer.flush()
    chunks = (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", data)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (*chunks, (b"IEND", b""))
    )


def in_ico(png):
    "A PNG inside an ICO that claims 32 x 32 pixels."
    head = struct.pack("<HHHBBBBHHII", 0, 1, 1, 32, 32, 0, 0, 1, 32, len(png), 22)
    return head + png


def in_icns(png):
    "A PNG inside an ICNS that claims 16 x 16 pixels."
    block = b"icp4" + struct.pack(">I", len(png) + 8) + png
    return b"icns" + struct.pack(">I", len(block) + 8) + block


def many_scans(count, side=2000):
    "A progressive JPEG with `count` scans more, each of which visits every block and changes none."
    data = encoded(Image.new("RGB", (side, side), "gray"), "JPEG", progressive=True)
    blocks, bits = ((side + 7) // 8) ** 2, ""
    table = b"\xff\xc4" + struct.pack(">HB", 20, 0x13) + bytes([1] + [0] * 15 + [0xE0])
    for _ in range(-(-blocks // 32767)):
        bits += "0" + "1" * 14  # a run of 32,767 blocks without coefficients
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 3, 1, 63, 0) + coded
    return data[:-2] + table + count * scan + b"\xff\xd9"


def many_frames(count):
    "A TIFF of 16 x 16 pixels whose directory has `count` further frames of the same pixels."
    data = bytearray(encoded(drawing(size=(16, 16), mode="L"), "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    link = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    tags = ((256, 16), (257, 16), (262, 1), (273, 8))
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start, size = len(data), 6 + len(body)
    struct.pack_into("<I", data, link, start)
    for k in range(1, count + 1):
        data += struct.pack("<H", 4) + body + struct.pack("<I", k < count and start + k * size)
    return bytes(data)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("kind", ["EPS", "ICNS", "ICO", "PSD", "PCX", "SGI", "DDS"])
def test_other_formats_are_refused_and_the_known_ones_named(kind):
    data = {"EPS": EPS, "PSD": b"8BPS" + struct.pack(">H6xHIIHH14x", 1, 3, 32, 32, 8, 3)}.get(kind)
    data = data or encoded(drawing(size=(32, 32)), kind)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == kind  # Pillow would read it
    with pytest.raises(UserError) as caught:
        open_picture(data, "it")
    one_sentence(caught, "it", *FORMATS)


def test_four_large_pictures_at_once_take_little_memory(tmp_path):
    png = large_png(13_000)
    assert len(png) < 700_000
    for name, data in dict(png=png, ico=in_ico(png), icns=in_icns(png)).items():
        (tmp_path / f"large.{name}").write_bytes(data)
    code = f"""
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from mvl_bench.core import UserError
from mvl_bench.data.images import open_picture
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 if sys.platform != "darwin" else 1024)
def attempt(path):
    try:
        return str(open_picture(path).image.size)
    except UserError as error:
        return str(error)
before = peak()
with ThreadPoolExecutor(4) as pool:
    messages = list(pool.map(attempt, 4 * sorted(Path({str(tmp_path)!r}).iterdir())))
print(peak() - before, *messages, sep="\\n")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    kilobytes, *messages = done.stdout.splitlines()
    assert len(messages) == 12 and all("picture" in message for message in messages), messages
    assert sum("169,000,000 pixels" in message for message in messages) == 4
    assert int(kilobytes) < 100_000, kilobytes  # decoded, one of them takes 500 to 1300 MB


def test_scans_of_a_jpeg_are_counted_and_bounded():
    begun = time.perf_counter()
    with pytest.raises(UserError) as caught:
        open_picture(many_scans(10_000), "slow.jpg")
    one_sentence(caught, "slow.jpg", f"{MAX_SCANS} scans")
    assert time.perf_counter() - begun < 2
    usual = encoded(drawing(size=(200, 200)), "JPEG", progressive=True)
    assert count_scans(usual) == 10 and count_scans(many_scans(3, 64)) == 13
    assert count_scans(encoded(drawing(), "JPEG")) == 1
    assert open_picture(usual).image.size == (200, 200)
    many = many_scans(MAX_SCANS - 10, 64)
    assert count_scans(many) == MAX_SCANS and open_picture(many).image.size == (64, 64)


def test_what_looks_like_a_scan_inside_a_segment_is_none():
    exif = b"Exif\0\0" + 200 * b"\xff\xda\0\x08"
    data = encoded(drawing(), "JPEG", exif=exif)
    assert data.count(b"\xff\xda") > MAX_SCANS and count_scans(data) == 1
    assert open_picture(data).image.size == (40, 24)


@pytest.mark.parametrize("count, note", [(4, "the first of 5 frames"), (20_000, "over 1,000")])
def test_the_frames_of_a_tiff_are_counted_in_bounded_time(count, note):
    begun = time.perf_counter()
    picture = open_picture(many_frames(count), "stack.tiff")
    assert note in picture.note and picture.image.size == (16, 16)
    assert time.perf_counter() - begun < 4


def test_a_header_is_read_without_its_pixels():
    cut = encoded(drawing(size=(300, 300)))[:150]
    assert open_header(cut, "cut.png").size == (300, 300)
    with pytest.raises(UserError, match="90,000 pixels, more than 80,000"):
        open_header(cut, "cut.png", 80_000)


def test_a_pair_of_pictures_in_one_file_is_read(tmp_path):
    data = encoded(drawing(), "MPO", save_all=True, append_images=[drawing("blue")])
    assert open_picture(data).note == "the first of 2 frames"


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
from mvl_bench.core import UserError
from mvl_bench.data.images import open_picture
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


# ---- sources and pixels


@pytest.mark.parametrize("source", ["no/such.png", "..", b""])
def test_a_source_without_bytes_is_rejected(source):
    with pytest.raises(UserError):
        read_bytes(source, repr(source))


def test_pixels_take_the_smallest_usual_range_that_holds_them():
    assert eight_bits(np.array([True, False])).tolist() == [255, 0]
    assert eight_bits(np.array([0.0, np.nan, np.inf, 200.0])).tolist() == [0, 0, 0, 200]
    assert eight_bits(np.array([0, 5], np.uint8)).tolist() == [0, 5]


def test_sixteen_bit_white_is_white():
    assert to_rgb(Image.new("I;16", (8, 8), 65535)).getpixel((0, 0)) == (255, 255, 255)


def disc(mode="RGB"):
    "A red disc in the upper left part of an ivory square."
    image = Image.new(mode, (96, 96), "ivory" if mode == "RGB" else 0)
    ImageDraw.Draw(image).ellipse([12, 12, 60, 60], "red")
    return image


@pytest.fixture
def unusual(tmp_path):
    "A folder with the disc in eight unusual kinds of file."
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    disc().rotate(90).save(tmp_path / "sideways.jpg", exif=exif)
    disc().quantize(16).save(tmp_path / "palette.png", transparency=0)
    disc("RGBA").save(tmp_path / "transparent.png")
    disc().convert("CMYK").save(tmp_path / "cmyk.jpg")
    disc().convert("1").save(tmp_path / "one-bit.png")
    deep = np.asarray(disc().convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "16-bit.png")
    Image.fromarray(deep.astype(np.float32) / 65535).save(tmp_path / "float.tiff")
    frames = [disc(), disc().rotate(90), disc().rotate(180)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    return tmp_path


def test_unusual_files_become_upright_rgb(unusual):
    pictures = {path.name: open_picture(path, path.name) for path in unusual.iterdir()}
    assert len(pictures) == 8
    assert all(p.image.mode == "RGB" and p.image.size == (96, 96) for p in pictures.values())
    assert pictures["moving.gif"].note == "the first of 3 frames"
    assert not pictures["cmyk.jpg"].note
    upright = np.asarray(pictures["sideways.jpg"].image).astype(int)
    assert abs(upright - np.asarray(disc())).mean() < 3


@pytest.mark.parametrize("size", [9_000, 60_000])
def test_a_header_without_pixels_is_rejected_by_its_size(size):
    data = png_claiming(size, size)[:33] + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    assert len(data) == 45
    with pytest.raises(UserError, match="64,000,000"):
        open_picture(data, "header")


def test_arrays_and_tensors_of_either_order_are_pictures():
    pixels = np.asarray(disc())
    for same in (pixels / 255, pixels.transpose(2, 0, 1), torch.tensor(pixels).permute(2, 0, 1)):
        assert (np.asarray(open_picture(same).image) == pixels).all()


def test_an_image_of_the_target_size_stays_exact():
    wide = Image.new("RGB", (192, 96), "ivory")
    wide.paste(disc(), (0, 0))
    assert (resize(wide, (96, 192)) == np.asarray(wide)).all()


def test_a_web_address_is_never_fetched():
    with pytest.raises(UserError, match="is on the web"):
        fetch("https://example.com/a.png")


# ---- shrinking


@pytest.fixture(scope="module")
def many():
    "A batch of 200 scenes with boxes."
    scenes = Scenes()
    tokenizer = word_tokenizer(scenes.captions(500))
    return collate([scenes.pair(i) for i in range(200)], tokenizer, 24)


def rows_unchanged(before, after):
    return (before.images == after.images).flatten(1).all(1)


def test_half_of_the_rows_shrink_and_stay_inside_the_frame(many):
    small = shrunk(many, (0, 0), 0.25)
    assert 0.4 < rows_unchanged(many, small).double().mean() < 0.6
    assert small.images.min() >= -1e-5 and small.images.max() <= 1 + 1e-5
    assert small.boxes.min() >= 0 and small.boxes.max() <= 1 + 1e-6
    assert (small.boxes.any(2) == many.boxes.any(2)).all()


def test_sides_shrink_by_at_most_the_given_fraction(many):
    def sides(boxes):
        return boxes[:, 0, 2:] - boxes[:, 0, :2]

    ratio = (sides(shrunk(many, (0, 0), 0.25).boxes) / sides(many.boxes)).mean(1)
    assert 0.75 <= ratio.min() < 0.77 and ratio.max() == 1
    assert shrunk(many, (0, 0), 0.0) is many


def test_shrinking_depends_on_key_and_sample_alone(many):
    small = shrunk(many, (0, 0), 0.25)
    few = shrunk(many.rows([7, 3]), (0, 0), 0.25)
    assert few.images.equal(small.images[[7, 3]]) and few.boxes.equal(small.boxes[[7, 3]])
    assert not shrunk(many, (0, 1), 0.25).images.equal(small.images)
    rows = [many.rows([i]) for i in range(8)]
    alone = [shrunk(row, (0, 0), 0.25).images.equal(row.images) for row in rows]
    assert alone == rows_unchanged(many, small)[:8].tolist()


def test_an_image_of_one_colour_keeps_it():
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert edge_colour(flat).allclose(torch.tensor(0.3))
    assert placed(flat, torch.tensor([0.7]), torch.zeros(1, 2)).allclose(torch.tensor(0.3))


# ---- photographs and colours


def test_photographs_are_square():
    assert all(photograph(name).width == photograph(name).height for name in PHOTOGRAPHS)


@pytest.mark.parametrize("target", [(52, 22, -18), (67, 1, 63), (80, -4, 8), (47, 10, -28)])
def test_a_flower_takes_the_target_colour(target):
    dahlia = np.asarray(photograph("dahlia").resize((128, 128)))
    orange = np.median(rgb2lab(dahlia[44:84, 44:84]), (0, 1))
    shifted, _ = shift_colour(dahlia, orange, np.array(target))
    painted = np.median(rgb2lab(shifted[44:84, 44:84]), (0, 1))
    assert np.linalg.norm(painted - target) < 25, painted


def test_only_the_middle_of_a_flower_turns_blue():
    dahlia = np.asarray(photograph("dahlia").resize((128, 128)))
    orange = np.median(rgb2lab(dahlia[44:84, 44:84]), (0, 1))
    inner, weight = shift_colour(dahlia, orange, np.array((47, 10, -28)), middle=0.5)
    assert (inner[:16] == dahlia[:16]).all()
    assert np.abs(inner[64].astype(int) - dahlia[64]).max() > 60
    assert weight[50:80, 50:80].mean() > 0.6 > 0.2 > weight[:10].mean()
