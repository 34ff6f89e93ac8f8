"""One rule for every image file, and the letterbox of the original."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rec import boxes
from rec.data import masks
from rec.data.images import ImageError, decode_image, image_size, letterbox, letterbox_mask, rgb_from_pil

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
    with pytest.raises(ImageError, match=r"text\.jpg is no image"):
        decode_image(tmp_path / "text.jpg")


@pytest.mark.parametrize("case", UTILS["letterbox_boxes"], ids=lambda case: f"{case['h']}x{case['w']}")
def test_letterboxed_labels_are_the_originals_and_lead_back(case):
    geometry = boxes.letterbox_geometry(case["h"], case["w"], 416)
    assert geometry.tolist() == [case[key] for key in ("h", "w", "nh", "nw", "dx", "dy")]
    corners = boxes.xywh_to_xyxy(np.array(case["box_xywh"]))
    inside = boxes.to_letterbox(corners, geometry.astype(float))
    label = boxes.xyxy_to_cxcywh(inside) / 416
    assert label.clip(0, 0.99) == pytest.approx(case["label_cxcywh"], abs=1e-6)
    assert boxes.from_letterbox(inside, geometry.astype(float)) == pytest.approx(corners, abs=1e-3)


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
