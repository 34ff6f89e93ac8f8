"""Your own data: JSONL or CSV beside a folder of images.

Columns: ``image`` (file below the image folder), ``phrase`` (a text, or in JSONL a list of them), ``bbox`` (four
numbers in pixels; in CSV separated by spaces or commas) and, as wanted, ``split``, ``mask`` (a mask image or ``.npy``;
in JSONL also COCO polygons or RLE), ``ref_id``, ``image_id``, ``category``. One line is one object.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rec import boxes
from rec.data.schema import BadRecord
from rec.data.sources import Source, SourceError

BBOX_FORMATS = ("xywh", "xyxy", "cxcywh")
SUFFIXES = (".jsonl", ".csv")


def to_xywh(bbox: Any, bbox_format: str) -> Any:
    """Four numbers of a named format as ``[x, y, w, h]``; what is no four numbers is returned as it is, for the "
    "checks."""
    if isinstance(bbox, str):
        bbox = re.split(r"[\s,;]+", bbox.strip(" \t[](){}"))
    try:
        numbers = np.array([float(value) for value in bbox])
    except (TypeError, ValueError):
        return bbox
    if numbers.shape != (4,) or bbox_format == "xywh":
        return numbers.tolist()
    corners = boxes.cxcywh_to_xyxy(numbers) if bbox_format == "cxcywh" else numbers
    return boxes.xyxy_to_xywh(corners).tolist()


def check_bbox_format(bbox_format: str | None, what: str) -> str:
    """Returns the format.

    Raises:
        SourceError: none or an unknown one is named.
    """
    if bbox_format not in BBOX_FORMATS:
        raise SourceError(
            f"{what}: name the format of its boxes, bbox_format = {', '.join(BBOX_FORMATS[:-1])} or {BBOX_FORMATS[-1]} "
            f"(pixels; --bbox-format of scripts/prepare_data.py); got {bbox_format!r}"
        )
    return bbox_format


def open_tabular(path: Path, name: str, image_root: str | None, bbox_format: str | None) -> Source:
    """Opens a JSONL or CSV file, or a folder with one such file per split (``train.jsonl``, ``val.jsonl``, …).

    Args:
        path: file or folder. A single file's ``split`` column names the splits; without one all is ``train``.
        name: of the data set, for the rows' ``source``.
        image_root: folder of the images; by default that of the file.
        bbox_format: ``xywh``, ``xyxy`` or ``cxcywh``, in pixels; must be named.

    Raises:
        SourceError: no format named, no such file, or not UTF-8.
    """
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES) if path.is_dir() else [path]
    boxes_as = check_bbox_format(bbox_format, str(path))
    root = Path(image_root) if image_root else files[0].parent
    if path.is_dir():
        by_split = {file.stem: file for file in files}
    else:
        by_split = dict.fromkeys(dict.fromkeys(_split_of(row) for _, row in _lines(path)), path)

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        file = by_split[split]
        for number, row in _lines(file):
            if path.is_dir() or _split_of(row) == split:
                yield row if isinstance(row, BadRecord) else _row(row, file, number, name, root, boxes_as)

    return Source(name, tuple(by_split), read, tuple(files), str(root), {"kind": "tabular", "bbox_format": boxes_as})


def _split_of(row: Mapping[str, Any] | BadRecord) -> str:
    return "train" if isinstance(row, BadRecord) else str(row.get("split") or "train")


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    """Line numbers and records."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            if file.suffix == ".csv":
                reader = csv.DictReader(stream)
                for row in reader:
                    yield reader.line_num, row
                return
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, _parse(line, file, number)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"cannot read {file}: {error}") from None


def _parse(line: str, file: Path, number: int) -> dict[str, Any] | BadRecord:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return BadRecord("broken line", f"{file}, line {number}: {error}")
    return row if isinstance(row, dict) else BadRecord("broken line", f"{file}, line {number} is no object {{…}}")


def _row(
    row: Mapping[str, Any], file: Path, number: int, name: str, root: Path, bbox_format: str
) -> dict[str, Any] | BadRecord:
    missing = [key for key in ("image", "phrase", "bbox") if row.get(key) in (None, "")]
    if missing:
        return BadRecord("incomplete record", f"{file}, line {number} has no {', '.join(missing)}")
    mask = row.get("mask") or None
    return {
        "image": str(root / row["image"]),
        "image_id": row.get("image_id") or row["image"],
        "ref_id": row.get("ref_id") or f"{file.stem}-{number}",
        "ann_id": row.get("ann_id") or None,
        "bbox": to_xywh(row["bbox"], bbox_format),
        "mask_file": str(root / mask) if isinstance(mask, str) else None,
        "segmentation": None if isinstance(mask, str) else mask,
        "sentences": row["phrase"],
        "category": row.get("category") or None,
        "source": row.get("source") or name,
    }
