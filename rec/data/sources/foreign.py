"""Tables of other people: Hub data sets, parquet, ``datasets.save_to_disk`` folders, with a column map."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rec.data.schema import BadRecord
from rec.data.sources import Source, SourceError
from rec.data.sources.tabular import BBOX_FORMATS, to_xywh

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
) -> Source:
    """Opens tables of other columns than the schema's.

    Args:
        tables: split to table.
        name: of the data set, for the rows' ``source``.
        image_root: folder of the images, where the image column holds file names.
        columns: schema column to the table's column, for example ``{"sentences": "answer"}``; what it leaves out is
            recognised by :data:`KNOWN_COLUMNS`.
        bbox_format: ``xywh`` (the default), ``xyxy`` or ``cxcywh``, in pixels.

    Raises:
        SourceError: a column that is not there or not recognised; lists those there are.
    """
    bbox_format = bbox_format or "xywh"
    if bbox_format not in BBOX_FORMATS:
        raise SourceError(f"{name}: bbox_format is {bbox_format!r}; expected one of {', '.join(BBOX_FORMATS)}")
    found = {split: _find_columns(table.column_names, columns or {}, name) for split, table in tables.items()}

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        table, names = _undecoded(tables[split], found[split]["image"]), found[split]
        for number, row in enumerate(table.select_columns(sorted(set(names.values())))):
            yield _row(row, names, f"{split}-{number}", name, image_root, bbox_format)

    prints = {split: table._fingerprint for split, table in tables.items()}
    options = {"kind": "foreign", "columns": dict(columns or {}), "bbox_format": bbox_format, "tables": prints}
    return Source(name, tuple(tables), read, (), image_root or "", options)


def _find_columns(there: list[str], columns: Mapping[str, str], name: str) -> dict[str, str]:
    unknown = [
        f"{ours} = {theirs}" for ours, theirs in columns.items() if ours not in KNOWN_COLUMNS or theirs not in there
    ]
    if unknown:
        raise SourceError(
            f"{name}: columns {', '.join(unknown)}: expected {', '.join(KNOWN_COLUMNS)} = one of {', '.join(there)}"
        )
    names = {ours: next((n for n in known if n in there), None) for ours, known in KNOWN_COLUMNS.items()} | dict(
        columns
    )
    missing = [ours for ours in _NEEDED if names[ours] is None]
    if missing:
        raise SourceError(
            f"{name}: which columns hold {', '.join(missing)}? The table has {', '.join(there)}; say so with columns "
            f"(--columns {missing[0]}=… of scripts/prepare_data.py)"
        )
    return {ours: theirs for ours, theirs in names.items() if theirs is not None}


def _undecoded(table: "datasets.Dataset", column: str) -> "datasets.Dataset":
    from datasets import Image

    return table.cast_column(column, Image(decode=False)) if isinstance(table.features[column], Image) else table


def _row(
    row: Mapping[str, Any], names: Mapping[str, str], place: str, name: str, image_root: str | None, bbox_format: str
) -> dict[str, Any] | BadRecord:
    values = {ours: row[theirs] for ours, theirs in names.items()}
    image, mask = values["image"], values.get("mask")
    if isinstance(image, str):
        image = f"{image_root}/{image}" if image_root else image
    elif image is not None and not isinstance(image, dict):
        return BadRecord("no image", f"row {place}: column {names['image']} holds {type(image).__name__}")
    if isinstance(mask, list) and mask and isinstance(mask[0], int | float):
        mask = [mask]  # one polygon, without the list of polygons around it
    sentences = values["sentences"]
    if isinstance(sentences, list):
        sentences = [s.get("sent") or s.get("raw") if isinstance(s, dict) else s for s in sentences]
    path = image.get("path") if isinstance(image, dict) else image
    content = (image.get("bytes") if isinstance(image, dict) else None) or str(path).encode()
    return {
        "image": image,
        "image_id": values.get("image_id") or hashlib.sha1(content).hexdigest()[:16],
        "ref_id": values.get("ref_id", place),
        "ann_id": values.get("ann_id"),
        "bbox": to_xywh(values["bbox"], bbox_format),
        "segmentation": mask if isinstance(mask, list | dict) and mask else None,
        "sentences": sentences,
        "category": values.get("category"),
        "source": name,
    }
