"""One rule for every image file, and the letterbox of the original."""

import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rec import boxes
from rec.data import masks
from rec.data.images import (
    ImageError,
    decode_image,
    exif_orientation,
    image_size,
    letterbox,
    letterbox_mask,
    rgb_from_array,
    rgb_from_pil,
)
from rec.inference.inputs import to_pixels

FIXTURES = Path(__file__).parents[1] / "fixtures"
UTILS = json.loads((FIXTURES / "utils.json").read_text(encoding="utf-8"))
GRIDS = np.load(FIXTURES / "utils.npz")


def picture(width=64, height=48):
    small = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sixteen_bit(channels):
    pixels = np.random.default_rng(1).integers(0, 65536, (48, 64, channels)).astype(np.uint16)
    return pixels, cv2.imencode(".png", pixels[..., ::-1] if channels == 3 else pixels)[1].tobytes()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def kinds():
    image = picture()
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray((np.arange(48 * 64).reshape(48, 64) % 256).astype(np.uint8)))
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    yield "jpeg", encoded(image, "JPEG")
    yield "progressive", encoded(image, "JPEG", progressive=True)
    yield "gray jpeg", encoded(image.convert("L"), "JPEG")
    yield "cmyk", encoded(image.convert("CMYK"), "JPEG")
    yield "png", encoded(image, "PNG")
    yield "rgba", encoded(rgba, "PNG")
    yield "gray alpha", encoded(rgba.convert("LA"), "PNG")
    yield "palette", encoded(palette, "PNG")
    yield "palette with transparency", encoded(palette, "PNG", transparency=3)
    yield "one bit", encoded(image.convert("1"), "PNG")
    yield "16-bit gray", sixteen_bit(1)[1]
    yield "16-bit", sixteen_bit(3)[1]
    yield "webp", encoded(image, "WEBP", lossless=True)
    yield "bmp", encoded(image, "BMP")
    yield "gif", encoded(palette, "GIF")
    yield "tiff", encoded(image, "TIFF")
    for orientation in range(2, 9):
        yield f"exif {orientation}", encoded(image, "JPEG", exif=exif(orientation))
        yield f"exif {orientation} png", encoded(image, "PNG", exif=exif(orientation))


@pytest.mark.parametrize(("name", "data"), list(kinds()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_reader_gives_the_same_pixels(tmp_path, name, data):
    (tmp_path / "file").write_bytes(data)
    pixels = decode_image(tmp_path / "file")
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels.shape[1::-1] == image_size(data)
    assert (decode_image(data) == pixels).all()
    difference = np.abs(rgb_from_pil(Image.open(tmp_path / "file")).astype(int) - pixels).max()
    assert difference <= (1 if name == "cmyk" else 0)


def test_what_each_kind_becomes():
    image = picture()
    rgb = np.asarray(image)
    assert (decode_image(encoded(image, "PNG")) == rgb).all()
    assert (decode_image(encoded(image, "PNG", exif=exif(6))) == np.rot90(rgb, -1)).all()
    gray = np.asarray(image.convert("L"))
    assert (decode_image(encoded(image.convert("L"), "PNG")) == gray[..., None]).all()
    transparent = image.convert("RGBA")
    transparent.putalpha(0)
    assert (decode_image(encoded(transparent, "PNG")) == rgb).all()
    premultiplied = image.convert("LA").convert("La")
    assert (rgb_from_pil(premultiplied) == gray[..., None]).all()
    pixels, data = sixteen_bit(3)
    assert (decode_image(data) == pixels >> 8).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_a_truncated_image_is_named_and_never_filled_with_gray(tmp_path, kind, share):
    data = encoded(picture(), kind)
    file = tmp_path / "cut.img"
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"cut\.img"):
        decode_image(file)
    with pytest.raises(ImageError, match=r"cut\.img"):
        image_size(file)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(ImageError, match=r"none\.jpg: No such file"):
        decode_image(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("hello", encoding="utf-8")
    with pytest.raises(ImageError, match=r"text\.jpg is not an image"):
        decode_image(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match=r"^the image of 5 bytes is not an image in"):
        decode_image(b"hello")


# --- one reader decides -----------------------------------------------------------------------------------------------


def exif_block(order="little", kind=3, value=6, entries=1):
    """An EXIF block with an orientation of a TIFF type, and how many entries it claims."""
    number = lambda n, size: n.to_bytes(size, order)  # noqa: E731
    size = {1: 1, 3: 2, 4: 4, 2: 1}[kind]
    entry = number(0x0112, 2) + number(kind, 2) + number(1, 4) + number(value, size).ljust(4, b"\0")
    head = (b"II*\0" if order == "little" else b"MM\0*") + number(8, 4)
    return b"Exif\0\0" + head + number(entries, 2) + entry + bytes(4)


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
    b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def readings(data, file):
    """Height and width by every way in: header, file, bytes, PIL object."""
    file.write_bytes(data)
    width, height = image_size(file)
    with Image.open(file) as opened:
        pixels = [decode_image(file), decode_image(data), rgb_from_pil(opened), to_pixels(data)[0], to_pixels(file)[0]]
    assert all((other == pixels[0]).all() for other in pixels)
    assert pixels[0].shape[:2] == (height, width)
    return height, width


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("options", "upright"),
    [
        ({"exif": exif_block()}, (64, 48)),
        ({"exif": exif_block("big")}, (64, 48)),
        ({"exif": exif_block("big", kind=4)}, (64, 48)),
        ({"exif": exif_block("little", kind=4)}, (64, 48)),
        ({"exif": exif_block("big", kind=1)}, (64, 48)),
        ({"exif": exif_block(entries=900)}, (64, 48)),  # the block is cut, the entry is whole
        ({"exif": exif_block()[:-6]}, (48, 64)),  # the entry is cut
        ({"exif": exif_block(kind=2)}, (48, 64)),  # a text
        ({"exif": exif_block(value=9)}, (48, 64)),
        ({"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"}, (48, 64)),
        ({"xmp": XMP}, (48, 64)),
        ({"xmp": XMP, "exif": exif_block(value=3)}, (48, 64)),
    ],
)
def test_orientation_is_the_same_by_every_way_in(tmp_path, kind, options, upright):
    if kind == "PNG" and "xmp" in options:
        from PIL import PngImagePlugin

        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", options["xmp"].decode())
        options = {**options, "pnginfo": info}
    lossless = {"lossless": True} if kind == "WEBP" else {}
    assert readings(encoded(picture(), kind, **options, **lossless), tmp_path / "x") == upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_once(tmp_path, orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = encoded(picture(), "TIFF", exif=tags)
    assert readings(data, tmp_path / "x") == ((64, 48) if orientation >= 5 else (48, 64))


@given(st.binary(max_size=60), st.sampled_from([b"II*\0", b"MM\0*"]), st.integers(0, 30))
def test_any_exif_block_gives_an_orientation(rest, order, start):
    block = order + start.to_bytes(4, "little" if order[:1] == b"I" else "big") + rest
    assert 1 <= exif_orientation(block) <= 8
    assert exif_orientation(b"Exif\0\0" + block) == exif_orientation(block)


def deep_pictures():
    """The same four samples as 16-bit, as floats, as 32-bit integers, as bools."""
    sixteen = np.array([[0, 300], [40000, 65535]], np.uint16)
    yield "uint16", sixteen, [[0, 1], [156, 255]]
    yield "dark uint16", np.array([[0, 100], [200, 255]], np.uint16), [[0, 0], [0, 0]]
    yield "float", np.array([[0, 0.25], [0.5, 1]], np.float32), [[0, 64], [128, 255]]
    yield "rounding", np.array([[-1e-5, 0], [1, 1 + 1e-5]], np.float32), [[0, 0], [255, 255]]
    yield "0-255 float", np.array([[0, 300], [255, 20]], np.float32), "divide by"
    yield "normalised", np.array([[-2.1, 0], [1, 2]], np.float32), "divide by"
    yield "NaN", np.array([[np.nan, 0], [0, 0]], np.float32), "floats from nan"
    yield "int32", sixteen.astype(np.int32), "convert it to uint8"


@pytest.mark.parametrize(
    ("name", "samples", "expected"), list(deep_pictures()), ids=lambda v: v if type(v) is str else ""
)
def test_samples_of_other_depths_are_read_by_one_rule(tmp_path, name, samples, expected):
    import torch

    image = Image.fromarray(samples)
    ways = {
        "array": samples,
        "gray array": samples[..., None],
        "rgb array": np.repeat(samples[..., None], 3, axis=2),
        "tensor": torch.from_numpy(samples)[None],
        "PIL": image,
        "TIFF": encoded(image, "TIFF"),
    }
    if samples.dtype == np.uint16:
        ways["PNG"] = encoded(image, "PNG")
        ways["PIL from PNG"] = Image.open(io.BytesIO(ways["PNG"]))
        ways["PPM"] = encoded(image, "PPM")
    for way, given_image in ways.items():
        if isinstance(expected, str):
            with pytest.raises(ImageError, match=expected):
                to_pixels(given_image)
        else:
            assert to_pixels(given_image)[0].tolist() == np.repeat(np.array(expected)[..., None], 3, axis=2).tolist(), (
                way
            )


def test_bools_are_black_and_white():
    assert rgb_from_array(np.array([[False, True]])).tolist() == [[[0] * 3, [255] * 3]]
    assert to_pixels(Image.fromarray(np.array([[False, True]])))[0].tolist() == [[[0] * 3, [255] * 3]]


# --- what is not a picture -----------------------------------------------------------------------------------------------


def test_formats_that_start_other_programs_are_refused(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    started = []

    def start(*arguments, **_):
        started.append(arguments)
        return Image.new("RGB", (40, 30)).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n"
    )
    Image.open(tmp_path / "x.png").load()
    assert started, "Pillow reads EPS: the test tests something"
    started.clear()
    for read in (decode_image, image_size, to_pixels):
        with pytest.raises(ImageError, match=r"x\.png is not an image in a known format"):
            read(tmp_path / "x.png")
    assert not started


@pytest.mark.parametrize("damage", ["IDAT", "IHDR", "cut in IDAT", "zlib"])
def test_a_damaged_png_is_an_image_error(tmp_path, damage):
    import zlib

    data = bytearray(encoded(picture(), "PNG"))
    place = data.index(b"IDAT")
    if damage == "cut in IDAT":
        data = data[: place + 300] + data[-12:]
    elif damage == "zlib":  # the check sum is right, the content is not
        length = int.from_bytes(data[place - 4 : place], "big")
        data[place + 14 : place + 4 + length] = bytes(length - 10)
        data[place + 4 + length : place + 8 + length] = zlib.crc32(data[place : place + 4 + length]).to_bytes(4, "big")
    else:
        data[data.index(damage.encode()) + 9] ^= 1
    (tmp_path / "x.png").write_bytes(data)
    for read in (decode_image, image_size, to_pixels) if damage != "zlib" else (decode_image, to_pixels):
        with pytest.raises(ImageError, match=r"x\.png"):
            read(tmp_path / "x.png")
    if damage in ("IDAT", "zlib"):
        with pytest.raises(ImageError):
            rgb_from_pil(Image.open(tmp_path / "x.png"))


def enlarged(kind, side=60_000):
    """A small picture whose header claims an enormous one."""
    import struct
    import zlib

    data = bytearray(encoded(picture(), kind))
    if kind == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    elif kind == "JPEG":
        place = data.index(b"\xff\xc0")
        data[place + 5 : place + 9] = struct.pack(">HH", side, side)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
def test_enormous_pictures_are_refused_by_their_header(tmp_path, kind):
    import resource

    (tmp_path / "huge").write_bytes(enlarged(kind))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (decode_image, image_size, to_pixels):
        with pytest.raises(ImageError, match=r"huge.*(60000 x 60000 pixels|too large)"):
            read(tmp_path / "huge")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for path, kind in ((tmp_path / "pipe.jpg", "FIFO"), (tmp_path / "folder.jpg", "folder"), ("/dev/zero", "device")):
        for read in (decode_image, image_size, to_pixels):
            with pytest.raises(ImageError, match=kind):
                read(path)
    for name in ("a\0b.jpg", "x" * 300, "\ud83d.jpg"):
        with pytest.raises(ImageError, match="cannot read the image"):
            decode_image(str(tmp_path / name))


@pytest.mark.parametrize("case", UTILS["letterbox_boxes"], ids=lambda case: f"{case['h']}x{case['w']}")
def test_letterboxed_labels_are_the_originals_and_lead_back(case):
    geometry = boxes.letterbox_geometry(case["h"], case["w"], 416)
    assert geometry.tolist() == [case[key] for key in ("h", "w", "nh", "nw", "dx", "dy")]
    corners = boxes.xywh_to_xyxy(np.array(case["box_xywh"]))
    inside = boxes.to_letterbox(corners, geometry.astype(float))
    label = boxes.xyxy_to_cxcywh(inside) / 416
    assert label.clip(0, 0.99) == pytest.approx(case["label_cxcywh"], abs=1e-6)
    assert boxes.from_letterbox(inside, geometry.astype(float)) == pytest.approx(corners, abs=1e-3)


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9, 3), np.float32), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 1), np.uint8)]
)
def test_what_is_no_picture_is_not_letterboxed(image):
    with pytest.raises(ImageError, match=r"expected uint8 \(H, W, 3\)"):
        letterbox(image, boxes.letterbox_geometry(9, 9, 9), 9)


@pytest.mark.parametrize("case", UTILS["letterbox_pixels"], ids=lambda case: case["name"])
def test_letterboxed_pixels_are_the_originals(case):
    h, w = case["h"], case["w"]
    i, j, c = np.ogrid[:h, :w, :3]
    image = ((3 * i + 5 * j + 40 * c + (i * j) // 97) % 256).astype(np.uint8)
    geometry = boxes.letterbox_geometry(h, w, 416)
    square = letterbox(image, geometry, 416).transpose(1, 2, 0)
    assert np.abs(square[3::13, 3::13].astype(int) - GRIDS[f"{case['name']}/image_grid"]).max() <= 1
    mask = (((i - h / 2) / (h / 3)) ** 2 + ((j - w / 2) / (w / 4)) ** 2 < 1)[..., 0]
    soft = letterbox_mask(masks.decode(masks.encode(mask)), geometry, 416)
    assert np.abs(soft[0, 3::13, 3::13] / 255 - GRIDS[f"{case['name']}/mask_grid"].squeeze()).max() < 0.005
    assert soft.sum() / 255 == pytest.approx(case["mask_sum"], rel=1e-3)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([64, 128, 416, 608]), st.data())
def test_the_letterbox_of_a_box_can_be_undone(height, width, size, data):
    geometry = boxes.letterbox_geometry(height, width, size).astype(float)
    left, right = sorted(data.draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    top, bottom = sorted(data.draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    box = np.array([left, top, right, bottom])
    inside = boxes.to_letterbox(box, geometry)
    assert (inside >= -1e-6).all()
    assert (inside <= size + 1e-6).all()
    assert boxes.from_letterbox(inside, geometry) == pytest.approx(box, abs=1e-3)
