"""Images that training and evaluation share, over all sources of a mixture.

The RefCOCO family, Visual Genome and detectors pretrained on COCO draw on the same photographs: a model that was
trained on the images it is evaluated on reports too much.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rec.data.images import ImageError, image_bytes, picture_keys
from rec.data.schema import is_missing
from rec.data.tables import Table

# Sources whose image ids are COCO's.
_COCO_SOURCES = frozenset({"refcoco", "refcoco+", "refcocog", "grefcoco", "coco"})
_ALIASES = {"refclef": "referit"}
_COCO_NAME = re.compile(r"COCO_(?:train|val|test)2014_0*(\d+)")
_ENDING = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?|ppm)$", re.IGNORECASE)


def image_key(source: str, image_id: str) -> str:
    """A name of an image that is the same in every source that has it, as far as ids tell: ``coco/716``."""
    if match := _COCO_NAME.match(image_id):
        return f"coco/{match.group(1)}"
    if image_id.startswith("coco/"):
        return image_id
    source = "coco" if source in _COCO_SOURCES else _ALIASES.get(source, source)
    name = _ENDING.sub("", image_id)  # no more: "12.05.2024 10.30" and "12.05.2024 10.45" are two
    return f"{source}/{name.lstrip('0') if name.isdecimal() else name}"


class ImageIndex:
    """Images by id and by content."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        self._sizes: set[int] = set()

    def add(self, table: Table, where: str) -> None:
        """Adds all images of a table; ``where`` is what :meth:`find` answers for them."""
        for source, image_id, row in _images(table):
            self._keys.setdefault(image_key(source, image_id), where)
            if (data := _read(row["image"], table.image_root)) is not None:
                self._hashes.setdefault(hashlib.sha256(data).hexdigest(), where)
                self._sizes.add(len(data))

    def fingerprint(self) -> str:
        """Digest of all that was added."""
        return hashlib.sha256(repr((sorted(self._keys), sorted(self._hashes))).encode()).hexdigest()[:24]

    def find(self, row: Mapping[str, Any], image_root: str = "") -> str | None:
        """Where a row's image was seen, or None. Files are read only if one of their length was added."""
        image = row["image"] if isinstance(row["image"], Mapping) else {"path": row["image"], "bytes": None}
        named = not is_missing(row["image_id"])
        where = self._keys.get(image_key(str(row["source"]), str(row["image_id"]))) if named else None
        if where is not None:
            return f"{where}, by image id"
        if _length(image, image_root) in self._sizes and (data := _read(image, image_root)) is not None:
            where = self._hashes.get(hashlib.sha256(data).hexdigest())
        return None if where is None else f"{where}, by content"


def shared_images(
    training: Iterable[tuple[str, Table]], evaluation: Iterable[tuple[str, Table]]
) -> list[dict[str, str]]:
    """Images that occur in training and in evaluation.

    Args:
        training, evaluation: (name for messages, table).

    Returns:
        One dict per image of a training table: ``image_id``, ``source``, ``training`` and ``evaluation`` (where it is,
        and how it was recognised).
    """
    index = ImageIndex()
    for where, table in evaluation:
        index.add(table, where)
    found = []
    for where, table in training:
        for source, image_id, row in _images(table):
            if (seen := index.find(row, table.image_root)) is not None:
                found.append({"image_id": image_id, "source": source, "training": where, "evaluation": seen})
    return found


def _images(table: Table) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """(source, image_id, row) of the first row of each image."""
    seen = set()
    columns = (table.rows["source"], table.rows["image_id"], picture_keys(table.rows))
    for number, key in enumerate(zip(*columns, strict=True)):
        if key not in seen:
            seen.add(key)
            yield key[0], key[1], table.rows[number]


def _length(image: Mapping[str, Any], root: str) -> int | None:
    if image["bytes"] is not None:
        return len(image["bytes"])
    try:
        return os.path.getsize(os.path.join(root, image["path"]))
    except (OSError, TypeError, ValueError):  # not there, or no name of a file at all: the checks of rows say so
        return None


def _read(image: Mapping[str, Any], root: str) -> bytes | None:
    try:
        return image_bytes(image, root)
    except ImageError:  # a missing image, or one of a raw store, is known by its id alone
        return None
