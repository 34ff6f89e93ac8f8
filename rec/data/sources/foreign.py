"""Tables of other people: Hub data sets, parquet, ``datasets.save_to_disk`` folders, with a column map."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rec import boxes
from rec.data.schema import BadRecord, attempt, is_missing, shown
from rec.data.sources import Source, SourceError, given
from rec.data.sources.tabular import numbers_of

if TYPE_CHECKING:
    import datasets

# Our column to the names it goes by in published tables, most telling first.
KNOWN_COLUMNS = {
    "image": ("image", "img", "image_path", "file_name"),
    "bbox": ("bbox", "box", "gt_bbox"),
    "sentences": (
        *("sentences", "answer", "captions", "expressions", "phrases", "phrase", "expression", "caption", "sentence"),
        *("ref", "refer", "text", "question"),
    ),
    "mask": ("mask", "segmentation"),
    "image_id": ("image_id", "iid", "file_name"),
    "ref_id": ("ref_id", "question_id", "id"),
    "ann_id": ("ann_id",),
    "category": ("category", "category_name"),
}
_NEEDED = ("image", "bbox", "sentences")


def open_foreign(
    tables: Mapping[str, "datasets.Dataset"],
    name: str,
    image_root: str | None = None,
    columns: Mapping[str, str] | None = None,
    bbox_format: str | None = None,
    folder: str | None = None,
) -> Source:
    """Opens tables of other columns than the schema's.

    Args:
        tables: split to table.
        name: of the data set, for the rows' ``source``.
        image_root: folder of the images, where the image column holds file names.
        columns: schema column to the table's column, for example ``{"sentences": "answer"}``; what it leaves out is
            recognised by :data:`KNOWN_COLUMNS`.
        bbox_format: ``xywh`` (the default), ``xyxy`` or ``cxcywh``, in pixels.
        folder: of the tables; None for those that came over the network.

    Raises:
        SourceError: a column that is not there or not recognised; lists those there are.
    """
    bbox_format = bbox_format or "xywh"
    if bbox_format not in boxes.FORMATS:
        raise SourceError(f"{name}: bbox_format is {bbox_format!r}; expected one of {', '.join(boxes.FORMATS)}")
    found = {split: _find_columns(table.features, columns or {}, name) for split, table in tables.items()}

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        names = found[split]
        # As they are stored: the library would decode pictures (and sounds, and documents) by its own rule.
        table = tables[split].select_columns(sorted(set(names.values()))).with_format("arrow")

        def row_of(number: int) -> dict[str, Any]:
            return _row(table[number].to_pylist()[0], names, f"{split}-{number}", name, image_root, bbox_format)

        for number in range(len(table)):
            yield attempt(row_of, number, where=f"row {number} of split {split}")

    prints = {split: table._fingerprint for split, table in tables.items()}
    options = {"kind": "foreign", "columns": dict(columns or {}), "bbox_format": bbox_format, "tables": prints}
    folders = (folder,) if folder else ()
    return Source(name, tuple(tables), read, (), image_root or "", options, folders, is_foreign=folder is None)


def _find_columns(features: "datasets.Features", columns: Mapping[str, str], name: str) -> dict[str, str]:
    from datasets import ClassLabel, Value

    there = list(features)
    unknown = [
        f"{ours} = {theirs}" for ours, theirs in columns.items() if ours not in KNOWN_COLUMNS or theirs not in there
    ]
    if unknown:
        raise SourceError(
            f"{name}: columns {', '.join(unknown)}: expected {', '.join(KNOWN_COLUMNS)} = one of {', '.join(there)}"
        )
    plain = {column for column, feature in features.items() if isinstance(feature, Value | ClassLabel)}
    fitting = {ours: there if ours in (*_NEEDED, "mask") else plain for ours in KNOWN_COLUMNS}
    names = {ours: next((n for n in known if n in fitting[ours]), None) for ours, known in KNOWN_COLUMNS.items()}
    names |= columns
    missing = [ours for ours in _NEEDED if names[ours] is None]
    if missing:
        raise SourceError(
            f"{name}: which columns hold {', '.join(missing)}? The table has {', '.join(there)}; say so with columns "
            f"(--columns {missing[0]}=… of `rec prepare`)"
        )
    return {ours: theirs for ours, theirs in names.items() if theirs is not None}


def _row(
    row: Mapping[str, Any], names: Mapping[str, str], place: str, name: str, image_root: str | None, bbox_format: str
) -> dict[str, Any]:
    values = {ours: row[theirs] for ours, theirs in names.items()}
    image, sentences = _picture(values["image"], image_root), values["sentences"]
    if image is None and not is_missing(values["image"]):
        raise BadRecord("no image", f"column {names['image']} holds {shown(values['image'])}")
    if isinstance(sentences, list):
        sentences = [s.get("sent") or s.get("raw") if isinstance(s, dict) else s for s in sentences]
    content = (image or {}).get("bytes") or str((image or {}).get("path")).encode("utf-8", "replace")
    return {
        "image": image,
        "image_id": given(values.get("image_id"), hashlib.sha1(content).hexdigest()[:16]),
        "ref_id": given(values.get("ref_id"), place),
        "ann_id": given(values.get("ann_id")),
        "bbox": numbers_of(values["bbox"]),
        "bbox_format": bbox_format,
        "sentences": sentences,
        "category": given(values.get("category")),
        "source": name,
    } | _mask(values.get("mask"), names.get("mask"), image_root)


def _picture(value: object, image_root: str | None) -> dict[str, Any] | None:
    """A path, encoded bytes, or the library's own struct of both, as that struct; None for anything else."""
    if isinstance(value, str) and value:
        return {"path": os.path.join(image_root or "", value), "bytes": None}
    if isinstance(value, bytes):
        return {"path": None, "bytes": value}
    if isinstance(value, dict) and value.keys() == {"path", "bytes"}:
        # The library keeps a picture's former path beside its bytes; alone it is a file like any other.
        return value if value["bytes"] is not None else _picture(value["path"], image_root)
    return None


def _mask(value: object, column: str | None, image_root: str | None) -> dict[str, Any]:
    """A mask of any kind that tables hold: a picture, an array of the image's size, polygons, RLE."""
    if is_missing(value) or value == []:
        return {}
    if (picture := _picture(value, image_root)) is not None:
        return {"mask_picture": picture["bytes"] if picture["bytes"] is not None else picture["path"]}
    if isinstance(value, dict) and "counts" in value:
        return {"segmentation": value}
    if isinstance(value, list) and isinstance(value[0], int | float):
        return {"segmentation": [value]}  # one polygon, without the list of polygons around it
    if isinstance(value, list):
        return {"segmentation": value}
    raise BadRecord("bad mask", f"column {column} holds {shown(value)}; expected a picture, COCO polygons or COCO RLE")
