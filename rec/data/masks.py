"""Masks as COCO run-length encodings (RLE): ``{"size": [height, width], "counts": str}``, column-major runs.

Format: compressed RLE of the COCO API (https://github.com/cocodataset/cocoapi, ``common/maskApi.c``): the first run is
background, a run from the fourth on is stored as the difference to the run two before, in groups of five bits, lowest
first, each written as one ASCII character from 48 on, bit 5 telling that more follow.
"""

from typing import Any

import numpy as np


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Encodes a ``(H, W)`` array; every value that is not 0 belongs to the object."""
    from pycocotools import mask as coco

    if mask.ndim != 2:
        raise ValueError(f"a mask is a 2-D array, got shape {mask.shape}")
    return _as_text(coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8)))


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Decodes to uint8 ``(H, W)`` of 0 and 1, in column-major (Fortran) memory; a quarter of pycocotools' time.

    Raises:
        ValueError: the runs do not add up to the mask's size.
    """
    runs = _runs(rle)
    values = np.zeros(len(runs), np.uint8)
    values[1::2] = 1
    height, width = rle["size"]
    return np.repeat(values, runs).reshape(width, height).T


def from_coco(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A COCO ``segmentation`` as one RLE: uncompressed or compressed RLE, or the union of a list of them or of polygons.

    Raises:
        ValueError: no polygon, a polygon of fewer than three points or with odd or non-finite numbers, broken RLE.
    """
    from pycocotools import mask as coco

    if isinstance(segmentation, dict):
        if isinstance(segmentation.get("counts"), list):
            rle = _as_text(coco.frPyObjects(segmentation, *segmentation["size"]))
        else:
            rle = _as_text(segmentation)
        check(rle, height, width)
        return rle
    if not segmentation:
        raise ValueError("the segmentation holds no polygon")
    if isinstance(segmentation[0], dict):  # RefClef
        return _as_text(coco.merge([from_coco(part, height, width) for part in segmentation]))
    for polygon in segmentation:
        points = np.asarray(polygon, np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError(f"polygon {str(polygon)[:80]} is not a list x1, y1, x2, y2, … of at least three points")
    return _as_text(coco.merge(coco.frPyObjects(segmentation, height, width)))


def check(rle: dict[str, Any], height: int, width: int) -> int:
    """Checks that an RLE is whole and of the size ``height`` x ``width``; returns its area in pixels.

    Raises:
        ValueError: no RLE, wrong size, or runs that do not add up to it (pycocotools decodes those into uninitialised
            memory).
    """
    if not isinstance(rle, dict) or list(rle.get("size", ())) != [height, width]:
        raise ValueError(
            f"expected a COCO RLE of {height} rows x {width} columns, the image's size, got {str(rle)[:80]}"
        )
    return int(_runs(rle)[1::2].sum())


def _runs(rle: dict[str, Any]) -> np.ndarray:
    """Lengths of the runs, background first, that fill ``rle["size"]``."""
    counts = rle.get("counts")
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    codes = np.frombuffer(data if isinstance(data, bytes) else b"", np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    whole = len(codes) and codes.min() >= 0 and codes.max() <= 63 and ends[-1:] == len(codes) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1) if whole else np.array([99])
    if place.max() <= 6:  # 35 bits: no image is so large, and shifts would overflow
        values = np.add.reduceat((codes & 31) << (5 * place), starts)
        values -= np.where(codes[ends] & 16, np.int64(32) << (5 * place[ends]), 0)
        values[1::2] = np.cumsum(values[1::2])
        values[2::2] = np.cumsum(values[2::2])
        if values.min() >= 0 and values.sum() == rle["size"][0] * rle["size"][1]:
            return values
    raise ValueError(f"the runs of a mask do not add up to its {rle['size']} pixels: it is cut short or broken")


def _as_text(rle: dict[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {
        "size": [int(value) for value in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
