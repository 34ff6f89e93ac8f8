"""Masks as COCO run-length encodings (RLE): ``{"size": [height, width], "counts": str}``, column-major runs.

Format: compressed RLE of the COCO API (https://github.com/cocodataset/cocoapi, ``common/maskApi.c``): the first run is
background, a run from the fourth on is stored as the difference to the run two before, in groups of five bits, lowest
first, each written as one ASCII character from 48 on, bit 5 telling that more follow.
"""

import io
import math
import os
from typing import Any

import numpy as np

from rec import trust
from rec.data.images import decode_image, exif_orientation, open_image, upright
from rec.errors import UntrustedError


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Encodes a ``(H, W)`` array; every value that is not 0 belongs to the object."""
    from pycocotools import mask as coco

    if mask.ndim != 2:
        raise ValueError(f"a mask is a 2-D array, got shape {mask.shape}")
    return _as_text(coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8)))


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Decodes to uint8 ``(H, W)`` of 0 and 1, in column-major (Fortran) memory; a quarter of pycocotools' time.

    Raises:
        ValueError: the runs do not add up to the mask's size, or it is larger than any image may be.
    """
    runs = _runs(rle)
    values = np.zeros(len(runs), np.uint8)
    values[1::2] = 1
    height, width = rle["size"]
    return np.repeat(values, runs).reshape(width, height).T


def union(rles: list[dict[str, Any]], height: int, width: int) -> dict[str, Any]:
    """The mask of all objects together; of none, one that covers nothing.

    Raises:
        ValueError: too many of them, or too large.
    """
    from pycocotools import mask as coco

    if not rles:
        return encode(np.zeros((height, width), np.uint8))
    _check_work(len(rles), sum(len(rle["counts"]) for rle in rles))
    return _as_text(coco.merge(rles))


def read(mask: str | os.PathLike[str] | bytes, height: int, width: int) -> np.ndarray:
    """The mask of an image of ``height`` x ``width``: a ``.npy`` file, or a picture or its bytes. The object is what is to
    be seen of a picture that is transparent elsewhere (a cut-out), of a JPEG what is at least half as bright as its brightest
    pixel, of any other all but black.

    Returns:
        ``(height, width)``; every value that is not 0 belongs to the object.

    Raises:
        ValueError: no such file, not regular, of another size, or broken; nothing larger than the image's size allows is
            read.
    """
    if not isinstance(mask, bytes) and str(mask).endswith(".npy"):
        return _read_npy(mask, height, width)
    limit, array = max(height * width, 1 << 20), None
    data, name = (mask, f"of {len(mask)} bytes") if isinstance(mask, bytes) else (_content(mask), os.fspath(mask))
    opened = open_image(data, name, limit)
    try:
        if opened.mode.startswith("I"):  # a photograph's rule cuts 16-bit samples, and with them objects' numbers
            array = np.asarray(opened)
        elif opened.has_transparency_data:
            alpha = np.asarray(opened.convert("RGBA"))[..., 3]
            array = alpha if alpha.min() == 0 < alpha.max() else None
    except Exception as error:  # as in rec.data.images.rgb_from_pil
        raise ValueError(f"the mask {name} is truncated or broken: {error}") from None
    if array is None:
        array = decode_image(data, name, limit).max(axis=2)
        if opened.format == "JPEG":  # its compression leaves marks around the object that are not quite black
            array = array * (array > array.max() // 2)
    else:
        array = upright(array, exif_orientation(opened.info.get("exif")))
    if array.shape != (height, width):
        raise ValueError(
            f"the mask {name} is {array.shape[0]} rows x {array.shape[1]} columns, its image {height} x {width}"
        )
    return array


def _content(path: str | os.PathLike[str], max_bytes: int = trust.MAX_IMAGE_BYTES) -> bytes:
    try:
        return trust.read_bytes(path, "mask", max_bytes)
    except (OSError, UntrustedError) as error:
        raise ValueError(f"cannot read the mask {path}: {error}") from None


def _read_npy(path: str | os.PathLike[str], height: int, width: int) -> np.ndarray:
    """Reads ``.npy`` (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html): the library's own reader
    allocates what the header claims.
    """
    data = _content(path, 16 * height * width + (1 << 16))
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, in_columns, dtype = read(stream)
    except Exception as error:  # the header is a Python literal: parsing a stranger's raises anything
        raise ValueError(f"{path} is not a .npy file: {str(error)[:80]}") from None
    if dtype.kind not in "biuf" or shape[:2] != (height, width) or math.prod(shape) != height * width:
        raise ValueError(
            f"the mask {path} is {dtype} of shape {shape}, its image {height} x {width}; expected a number for each pixel"
        )
    content = data[stream.tell() :]
    if len(content) != height * width * dtype.itemsize:
        raise ValueError(f"{path} is cut short, or longer than its header says")
    return np.frombuffer(content, dtype).reshape(height, width, order="F" if in_columns else "C")


def from_coco(segmentation: object, height: int, width: int) -> dict[str, Any]:
    """A COCO ``segmentation`` as one RLE: uncompressed or compressed RLE, or the union of a list of them or of polygons.

    What pycocotools would crash on, or take memory and time without end for, does not reach it.

    Raises:
        ValueError: no polygon, rows of pixels in place of polygons, a polygon of fewer than three points, with odd or non-finite
            numbers, or far outside the image; broken RLE; more than the limits of :mod:`rec.trust`.
    """
    from pycocotools import mask as coco

    if isinstance(segmentation, dict):
        rle = dict(segmentation)
        if isinstance(rle.get("counts"), list):
            _check_counts(rle["counts"], height, width)
            rle["counts"] = coco.frPyObjects(rle | {"size": [height, width]}, height, width)["counts"]
        check(rle, height, width)
        return _as_text(rle)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"the segmentation holds no polygon: {str(segmentation)[:80]}")
    if isinstance(segmentation[0], int | float):
        segmentation = [segmentation]  # one polygon, without the list of polygons around it, as VIA writes it
    if isinstance(segmentation[0], dict):  # RefClef
        return union([from_coco(part, height, width) for part in segmentation], height, width)
    if len(segmentation) == height and all(isinstance(row, list) and len(row) == width for row in segmentation):
        raise ValueError(f"the segmentation is {height} rows of {width} pixels; expected RLE or polygons")
    _check_work(len(segmentation), 0)
    _check_work(len(segmentation), sum(_outline(polygon, height, width) for polygon in segmentation))
    return _as_text(coco.merge(coco.frPyObjects(segmentation, height, width)))


def _check_counts(counts: list[Any], height: int, width: int) -> None:
    """Checks uncompressed runs.

    Raises:
        ValueError: they are not whole numbers from 0 on that add up to the image.
    """
    whole = all(type(count) is int and count >= 0 for count in counts)
    if not whole or len(counts) > trust.MAX_RLE or sum(counts) != height * width:
        raise ValueError(
            f"the runs of a mask, {str(counts[:10])[:80]}, are not whole numbers that add up to its {height} x {width} pixels"
        )


def _outline(polygon: object, height: int, width: int) -> float:
    """Length of a polygon's outline in pixels, the steps that drawing it takes.

    Raises:
        ValueError: it is not a polygon, or a point is further from the image than the image is large.
    """
    try:
        points = np.asarray(polygon if bool not in map(type, polygon) else None, np.float64)  # type: ignore[call-overload]
    except (TypeError, ArithmeticError):
        points = np.empty(0)
    if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
        raise ValueError(f"polygon {str(polygon)[:80]} is not a list x1, y1, x2, y2, … of at least three points")
    side = max(height, width)
    if points.min() < -side or points.max() > 2 * side:
        raise ValueError(
            f"polygon {str(polygon)[:80]} goes from {points.min():g} to {points.max():g}, far out of the image of "
            f"{height} rows x {width} columns"
        )
    corners = points.reshape(-1, 2)
    return float(np.abs(corners - np.roll(corners, 1, 0)).max(1).sum())


def _check_work(parts: int, length: float) -> None:
    length = max(length, 10 * parts)  # no part costs nothing
    if length > trust.MAX_OUTLINE or parts * length > trust.MAX_JOINS:
        raise ValueError(
            f"a mask of {parts:,} parts with outlines (or runs) of {length:,.0f} pixels in all; the limits are "
            f"{trust.MAX_OUTLINE:,} pixels, and {trust.MAX_JOINS:,} for parts times pixels"
        )


def check(rle: dict[str, Any], height: int, width: int) -> int:
    """Checks that an RLE is whole and of the size ``height`` x ``width``; returns its area in pixels.

    Raises:
        ValueError: no RLE, wrong size, or runs that do not add up to it (pycocotools decodes those into uninitialised
            memory).
    """
    size = rle.get("size") if isinstance(rle, dict) else None
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise ValueError(
            f"expected a COCO RLE of {height} rows x {width} columns, the image's size, got {str(rle)[:80]}"
        )
    return int(_runs(rle)[1::2].sum())


def _runs(rle: dict[str, Any]) -> np.ndarray:
    """Lengths of the runs, background first, that fill ``rle["size"]``."""
    counts, size = rle.get("counts"), rle.get("size")
    data = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
    numbers = (
        isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(s, int | float) and s > 0 for s in size)
    )
    height, width = (size[0], size[1]) if numbers and size else (0, 0)
    if not isinstance(data, bytes) or len(data) > trust.MAX_RLE or not 0 < height * width <= trust.MAX_PIXELS:
        raise ValueError(f"a mask of size {size} with runs {str(counts)[:40]!r} is broken or too large")
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    whole = len(codes) and codes.min() >= 0 and codes.max() <= 63 and not codes[-1] & 32
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1) if whole else np.array([99])
    if place.max() <= 6:  # 35 bits: no image is so large, and shifts would overflow
        values = np.add.reduceat((codes & 31) << (5 * place), starts)
        values -= np.where(codes[ends] & 16, np.int64(32) << (5 * place[ends]), 0)
        values[1::2] = np.cumsum(values[1::2])
        values[2::2] = np.cumsum(values[2::2])
        if values.min() >= 0 and values.sum() == height * width:
            return values
    raise ValueError(f"the runs of a mask do not add up to its {height} x {width} pixels: it is cut short or broken")


def _as_text(rle: dict[str, Any]) -> dict[str, Any]:
    counts = rle["counts"]
    return {
        "size": [int(value) for value in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
