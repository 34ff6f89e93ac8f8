"""Run-length masks are the COCO API's, whole or refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from pycocotools import mask as coco

from rec.data import masks

some_masks = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda size: arrays(np.uint8, size, elements=st.integers(0, 1))
)


@given(some_masks)
def test_round_trip_equals_the_coco_api(mask):
    rle = masks.encode(mask)
    assert rle["counts"] == coco.encode(np.asfortranarray(mask))["counts"].decode()
    assert (masks.decode(rle) == mask).all()
    assert masks.check(rle, *mask.shape) == mask.sum()


def test_a_large_mask_round_trips():
    mask = np.zeros((3000, 2500), np.uint8)
    mask[100:2900, 40:2400] = 1
    mask[500:600] = 0
    assert (masks.decode(masks.encode(mask)) == mask).all()


@given(some_masks, st.binary(max_size=12), st.integers(0, 30))
def test_a_damaged_encoding_is_decoded_whole_or_refused(mask, junk, at):
    rle = masks.encode(mask)
    counts = rle["counts"].encode()
    damaged = {"size": rle["size"], "counts": counts[:at] + junk + counts[at + len(junk) :]}
    try:
        decoded = masks.decode(damaged)
    except ValueError:
        return
    assert decoded.shape == mask.shape
    assert decoded.max(initial=0) <= 1


@pytest.mark.parametrize(("dtype", "ending"), [(np.uint16, "png"), (np.int32, "png"), (np.int32, "tif")])
def test_a_mask_of_small_numbers_in_many_bits_covers_what_is_not_black(tmp_path, dtype, ending):
    mask = np.zeros((6, 9), dtype)
    mask[1:4, 2:5] = 1
    Image.fromarray(mask).save(tmp_path / f"m.{ending}")
    assert np.array_equal(masks.read(tmp_path / f"m.{ending}", 6, 9) != 0, mask != 0)
    (tmp_path / f"cut.{ending}").write_bytes((tmp_path / f"m.{ending}").read_bytes()[:-30])
    with pytest.raises(ValueError, match="cut"):
        masks.read(tmp_path / f"cut.{ending}", 6, 9)
    np.save(tmp_path / "m.npy", mask[..., None])
    assert np.array_equal(masks.read(tmp_path / "m.npy", 6, 9), mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_mask_picture_stands_upright_whatever_its_bits(tmp_path, dtype):
    mask = np.zeros((6, 9), np.uint8)
    mask[0, 1:4] = mask[2, 0] = 5
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(mask).save(tmp_path / "photo.png", exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "photo.png"))) != 0
        Image.fromarray(mask.astype(dtype)).save(tmp_path / "m.png", exif=exif)
        assert np.array_equal(masks.read(tmp_path / "m.png", *upright.shape) != 0, upright), orientation


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_the_object_of_a_cut_out_is_what_is_not_transparent(tmp_path, mode):
    shown = np.zeros((6, 9), bool)
    shown[1:4, 2:5] = True
    for ground, object_ in ((255, 255), (0, 0), (255, 0)):
        if mode == "P":
            picture = Image.fromarray(shown.astype(np.uint8))
            picture.putpalette([ground] * 3 + [object_] * 3)
            picture.save(tmp_path / "m.png", transparency=0)
        else:
            colours = np.where(shown, object_, ground).astype(np.uint8)
            planes = [colours] * (len(mode) - 1) + [shown * np.uint8(255)]
            Image.fromarray(np.dstack(planes), mode).save(tmp_path / "m.png")
        assert np.array_equal(masks.read(tmp_path / "m.png", 6, 9) != 0, shown), (ground, object_)


@pytest.mark.parametrize("bright", [255, 100])
def test_the_marks_of_jpeg_around_an_object_are_none_of_it(tmp_path, bright):
    shown = np.zeros((60, 90), np.uint8)
    shown[11:33, 22:51] = bright
    Image.fromarray(shown).save(tmp_path / "m.jpg", quality=75)
    assert np.array_equal(masks.read(tmp_path / "m.jpg", 60, 90) != 0, shown != 0)


def test_of_a_picture_that_is_all_opaque_all_but_black_is_the_object(tmp_path):
    mask = np.zeros((6, 9), np.uint8)
    mask[1:4, 2:5] = 200
    Image.fromarray(np.dstack([mask] * 3 + [np.full_like(mask, 255)])).save(tmp_path / "m.png")
    assert np.array_equal(masks.read(tmp_path / "m.png", 6, 9) != 0, mask != 0)


def test_parts_of_a_polygon_object_are_united():
    parts = [[10, 10, 30, 10, 30, 30, 10, 30], [20, 20, 40, 20, 40, 40, 20, 40]]
    both = masks.decode(masks.from_coco(parts, 50, 60))
    assert both.max() == 1
    assert both[15, 15] and both[35, 35] and both[25, 25] and not both[5, 5]
    assert masks.from_coco(parts[0], 50, 60) == masks.from_coco(parts[:1], 50, 60)


def test_parts_of_an_rle_object_are_united():
    left, right = np.zeros((2, 9, 8), np.uint8)
    left[2:5, 1:4], right[4:8, 3:7] = 1, 1
    both = masks.from_coco([masks.encode(left), masks.encode(right)], 9, 8)
    assert (masks.decode(both) == (left | right)).all()
    with pytest.raises(ValueError, match="9 rows x 9 columns"):
        masks.from_coco([masks.encode(left)], 9, 9)


def test_uncompressed_rle_is_read():
    rle = masks.from_coco({"size": [3, 2], "counts": [1, 2, 3]}, 3, 2)
    assert masks.decode(rle).T.ravel().tolist() == [0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "polygons",
    [[], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, float("nan"), 6]], [[True, 2, 30, 4, 9, 6]], None],
)
def test_what_is_no_polygon_is_refused(polygons):
    with pytest.raises(ValueError, match="polygon"):
        masks.from_coco(polygons, 50, 60)


@pytest.mark.parametrize("counts", ["abc", "", "n", "~~"])
def test_runs_that_are_none_are_told_as_such(counts):
    with pytest.raises(ValueError, match="runs of a mask do not add up to its 5 x 6 pixels"):
        masks.from_coco({"size": [5, 6], "counts": counts}, 5, 6)


def test_rows_of_pixels_are_no_polygons():
    rows = np.zeros((50, 60), int).tolist()
    with pytest.raises(ValueError, match="50 rows of 60 pixels; expected RLE or polygons"):
        masks.from_coco(rows, 50, 60)


def test_rle_of_another_size_is_refused():
    rle = masks.encode(np.ones((4, 6), np.uint8))
    with pytest.raises(ValueError, match="4 rows x 5 columns"):
        masks.check(rle, 4, 5)


def test_masks_take_a_hundredth_of_dense_files(tmp_path):
    mask = np.zeros((480, 640), np.uint8)
    grid = np.mgrid[:480, :640]
    mask[((grid[0] - 240) / 150) ** 2 + ((grid[1] - 300) / 100) ** 2 < 1 + 0.1 * np.sin(grid[1] / 9)] = 1
    np.save(tmp_path / "dense.npy", mask)
    assert (tmp_path / "dense.npy").stat().st_size > 100 * len(masks.encode(mask)["counts"])


def zigzag(points, side):
    return [value for n in range(points) for value in (n % 2 * side, n * side / points)]


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far out of the image"),
        ([[-1e9, -1e9, 5, 0, 5, 5]], "far out of the image"),
        ([[10**400, 0, 5, 0, 5, 5]], "at least three points"),
        ([["a", 0, 5, 0, 5, 5]], "at least three points|could not convert"),
        ([zigzag(1_000_000, 60)], "limits are"),
        ([[0, 0, 50, 0, 50, 50]] * 200_000, "limits are"),
        ({"size": [50, 60], "counts": [-3000, 6000]}, "whole numbers"),
        ({"size": [50, 60], "counts": [1.5, 2998.5]}, "whole numbers"),
        ({"size": [50, 60], "counts": [3001]}, "whole numbers"),
        ({"size": [50, 60], "counts": [2**70]}, "whole numbers"),
        ({"size": [10**6, 10**7], "counts": [3000]}, "50 rows x 60 columns"),
        ({"size": 3, "counts": "x"}, "50 rows x 60 columns"),
        ({"counts": "x"}, "50 rows x 60 columns"),
        ("PP", "no polygon"),
        (7, "no polygon"),
    ],
    ids=range(15),
)
def test_segmentations_that_would_crash_or_take_all_memory_are_refused(segmentation, words):
    with pytest.raises(ValueError, match=words):
        masks.from_coco(segmentation, 50, 60)


def test_polygons_that_leave_the_image_a_little_are_cut_at_its_border():
    mask = masks.decode(masks.from_coco([[-5, -5, 70, -5, 70, 20, -5, 20]], 50, 60))
    assert mask[:20].all() and not mask[21:].any()


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [10**5, 10**5], "counts": "PPo2"},
        {"size": [-4, -4], "counts": "@"},
        {"size": None, "counts": "@"},
        {"size": [4, 4], "counts": None},
        {"size": [4, 4], "counts": "0" * (9 << 20)},
        {"size": [4, 4], "counts": "\u20ac"},
    ],
)
def test_broken_and_enormous_encodings_are_refused_before_memory_is_taken(rle):
    with pytest.raises(ValueError, match=r"broken|cut short"):
        masks.decode(rle)
