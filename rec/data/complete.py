"""From raw rows to complete ones: what readers leave open is looked up in the image and mask files."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rec.data import masks
from rec.data.images import decode_image, image_size
from rec.data.schema import BadRecord, attempt, faults_as, ids_of, image_of


def complete_rows(
    rows: Iterable[Any], root: str, with_masks: bool, embed: bool
) -> Iterator[dict[str, Any] | BadRecord]:
    """Fills in image size, mask and bytes; makes image paths relative to ``root``, so that images can move.

    Neighbouring rows of one image share the look at its file.

    Args:
        rows: raw rows, see :mod:`rec.data.sources`; a :class:`~rec.data.schema.BadRecord` passes through.
        root: folder of the images, or "".
        with_masks: encode masks; without, they become None.
        embed: put the encoded image files into the rows.

    Yields:
        Rows of the schema's columns, not checked yet, or a :class:`~rec.data.schema.BadRecord` where the image is
        missing, unreadable or of another size than the record says, or the mask cannot be encoded.
    """
    last: list[Any] = [None, None]  # the image looked at last: its key, and what was found

    def look(image: dict[str, Any]) -> tuple[tuple[int, int], bytes | None]:
        key = image["path"], len(image["bytes"] or b"")
        if image["bytes"] or last[0] != key:
            last[:] = key, _look(image, embed)
        return last[1]

    def complete(row: dict[str, Any]) -> dict[str, Any]:
        image = image_of(row)
        (width, height), data = look(image)
        said = [actual if row.get(key) is None else row[key] for key, actual in (("width", width), ("height", height))]
        if said != [width, height]:
            raise BadRecord(
                "wrong image size",
                f"the record says {said[0]}x{said[1]}, {image['path']} is {width}x{height} with its EXIF orientation applied",
            )
        path = image["path"]
        if data is not None:
            path = path and os.path.basename(path)
        elif root and Path(path).is_relative_to(root):
            path = str(Path(path).relative_to(root))
        mask = _mask(row, width, height) if with_masks else None
        done = {"width": width, "height": height, "image": {"path": path, "bytes": data}, "mask": mask}
        return {key: row[key] for key in row if key not in ("segmentation", "mask_picture")} | done

    for row in rows:
        yield row if isinstance(row, BadRecord) else attempt(complete, row, where=ids_of(row))


def _look(image: dict[str, Any], embed: bool) -> tuple[tuple[int, int], bytes | None]:
    path, data = image["path"], image["bytes"]
    if not (path or data):
        raise BadRecord("no image", "the record names no image file and holds no image bytes")
    if data is None and not os.path.isfile(path):
        raise BadRecord("missing image", f"there is no file {path}")
    with faults_as("unreadable image"):
        size = image_size(data or path, path)
        return size, data if data or not embed else Path(path).read_bytes()


def _mask(row: dict[str, Any], width: int, height: int) -> dict[str, Any] | None:
    picture, segmentation = row.get("mask_picture"), row.get("segmentation")
    with faults_as("bad mask"):
        if _is_dense(segmentation, height, width):
            return masks.encode(np.array(segmentation))
        if segmentation is not None:
            return masks.from_coco(segmentation, height, width)
        if picture is None:
            return row.get("mask")
        array = _array_of(picture)
        if array.shape[:2] != (height, width):
            name = f"of {len(picture)} bytes" if isinstance(picture, bytes) else f"{picture}"
            raise BadRecord(
                "bad mask",
                f"the mask {name} is {array.shape[0]} rows x {array.shape[1]} columns, its image {height} x {width}",
            )
        return masks.encode(array.reshape(height, width))


def _is_dense(segmentation: Any, height: int, width: int) -> bool:
    """Whether it is the rows of the image's pixels rather than polygons."""
    rows = segmentation if isinstance(segmentation, list) else []
    return len(rows) == height and all(isinstance(row, list) and len(row) == width for row in rows)


def _array_of(picture: str | bytes) -> np.ndarray:
    """``(H, W)``, not 0 where the object is: of an ``.npy`` file, or of a picture in which everything black is not it."""
    if isinstance(picture, str) and picture.endswith(".npy"):
        return np.load(picture, allow_pickle=False)
    return decode_image(picture).max(axis=2)
