"""From raw rows to complete ones: what readers leave open is looked up in the image and mask files."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rec.data import masks
from rec.data.images import ImageError, decode_image, image_size
from rec.data.schema import BadRecord


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
    last: tuple[Any, Any] = (None, None)
    for row in rows:
        if isinstance(row, BadRecord):
            yield row
            continue
        row = dict(row)
        image = row["image"] if isinstance(row["image"], dict) else {"path": row["image"], "bytes": None}
        try:
            key = image["path"], len(image["bytes"] or b"")
            if image["bytes"] or last[0] != key:
                last = (key, _look(image, embed))
            (width, height), data = last[1]
            if (row.get("width") or width, row.get("height") or height) != (width, height):
                raise BadRecord(
                    "wrong image size",
                    f"the record says {row['width']}x{row['height']}, {image['path']} is {width}x{height} with its "
                    "EXIF orientation applied",
                )
            path = image["path"]
            if data is not None:
                path = path and os.path.basename(path)
            elif root and Path(path).is_relative_to(root):
                path = str(Path(path).relative_to(root))
            row |= {"width": width, "height": height, "image": {"path": path, "bytes": data}}
            row["mask"] = _mask(row, width, height) if with_masks else None
        except BadRecord as error:
            yield BadRecord(error.reason, f"ref_id {row.get('ref_id')}, image_id {row.get('image_id')}: {error.detail}")
            continue
        yield row


def _look(image: dict[str, Any], embed: bool) -> tuple[tuple[int, int], bytes | None]:
    path, data = image["path"], image["bytes"]
    if not (path or data):
        raise BadRecord("no image", "the record names no image file and holds no image bytes")
    try:
        if data is None and not os.path.isfile(path):
            raise BadRecord("missing image", f"there is no file {path}")
        size = image_size(data or path, path)
        return size, data if data or not embed else Path(path).read_bytes()
    except ImageError as error:
        raise BadRecord("unreadable image", str(error)) from None


def _mask(row: dict[str, Any], width: int, height: int) -> dict[str, Any] | None:
    segmentation, file = row.pop("segmentation", None), row.pop("mask_file", None)
    try:
        if file is not None:
            array = np.load(file, allow_pickle=False) if str(file).endswith(".npy") else decode_image(file)[..., 0]
            if array.shape[:2] != (height, width):
                raise ValueError(
                    f"{file} is {array.shape[0]} rows x {array.shape[1]} columns, its image {height} x {width}"
                )
            return masks.encode(array.reshape(height, width))
        if segmentation is not None:
            return masks.from_coco(segmentation, height, width)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRecord("bad mask", str(error)) from None
    return row.get("mask")
