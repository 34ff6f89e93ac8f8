"""The one row schema of all annotation sources, and what makes a row fit to train on.

One row is one referred object. Readers yield rows as plain dicts; :func:`clean_rows` is the gate every row passes
before it is written to a table.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from datasets import Features, Image, List, Value

from rec.data import masks
from rec.data.images import picture_key
from rec.errors import InputError

logger = logging.getLogger(__name__)

FEATURES = Features(
    {
        "image": Image(decode=False),
        "image_id": Value("string"),
        "ref_id": Value("string"),
        "ann_id": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "bbox": List(Value("float32"), length=4),
        "mask": {"size": List(Value("int32"), length=2), "counts": Value("string")},
        "sentences": List(Value("string")),
        "category": Value("string"),
        "source": Value("string"),
    }
)

# Annotators' boxes end a fraction of a pixel outside the image (COCO rounds to 0.01); more than one pixel is a mistake.
BOX_TOLERANCE = 1.0
# Share of boxes that must leave the image as xywh before a source is suspected of holding xyxy.
XYXY_SUSPICION = 0.2


class BadRecord(InputError, ValueError):
    """A record that cannot be used.

    Attributes:
        reason: short name of the fault, by which skipped records are counted.
        detail: what is wrong with this one.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def validate_row(row: dict[str, Any]) -> dict[str, Any]:
    """Checks one row and brings it into the form of :data:`FEATURES`.

    Args:
        row: see ``docs/architecture.md``; ``bbox`` is xywh in pixels of the oriented image; ``mask`` is a COCO RLE of
            the image's size or None. ``ann_id``, ``mask``, ``category`` may be missing.

    Returns:
        A new row of the schema's columns and types.

    Raises:
        BadRecord: no image, size not positive, box not four finite numbers, empty, negative or outside the image by
            more than :data:`BOX_TOLERANCE` pixels, no phrase or an empty one, mask broken, empty or of another size.
    """
    image = row["image"] if isinstance(row.get("image"), dict) else {"path": row.get("image"), "bytes": None}
    if not (image.get("path") or image.get("bytes")):
        raise BadRecord("no image", "the record names no image file and holds no image bytes")
    width, height = _positive_int(row, "width"), _positive_int(row, "height")
    bbox = _box(row.get("bbox"), width, height)
    sentences = [row["sentences"]] if isinstance(row.get("sentences"), str) else list(row.get("sentences") or ())
    if not sentences or not all(isinstance(sentence, str) and sentence.strip() for sentence in sentences):
        raise BadRecord("empty phrase", f"sentences are {sentences!r}; each must be a text with at least one character")
    mask = row.get("mask")
    if mask is not None:
        try:
            area = masks.check(mask, height, width)
        except ValueError as error:
            raise BadRecord("bad mask", str(error)) from None
        if area == 0:
            raise BadRecord("empty mask", "the mask covers no pixel")
    text = {key: None if row.get(key) is None else str(row[key]) for key in ("ann_id", "category")}
    ids = {key: str(row[key]) for key in ("image_id", "ref_id", "source")}
    image = {"bytes": image.get("bytes"), "path": image.get("path")}
    sized = {"width": width, "height": height, "bbox": bbox, "mask": mask, "sentences": sentences}
    return {"image": image} | ids | text | sized


def _positive_int(row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise BadRecord("bad image size", f"{key} is {value!r}; expected a positive number of pixels")
    return value


def _box(bbox: Any, width: int, height: int) -> list[float]:
    try:
        x, y, w, h = (float(value) for value in bbox)
    except (TypeError, ValueError):
        raise BadRecord("bad box", f"bbox is {bbox!r}; expected four numbers [x, y, width, height]") from None
    if not all(math.isfinite(value) for value in (x, y, w, h)):
        raise BadRecord("bad box", f"bbox is {bbox!r}; expected finite numbers")
    if w <= 0 or h <= 0:
        raise BadRecord("empty box", f"bbox {bbox!r} has width {w:g} and height {h:g}; both must be positive")
    if x < -BOX_TOLERANCE or y < -BOX_TOLERANCE or x + w > width + BOX_TOLERANCE or y + h > height + BOX_TOLERANCE:
        hint = " (it would fit as xyxy)" if _fits_as_xyxy(x, y, w, h, width, height) else ""
        raise BadRecord("box outside image", f"bbox {bbox!r} (xywh) leaves the image of {width}x{height} pixels{hint}")
    return [x, y, w, h]


def _fits_as_xyxy(x: float, y: float, right: float, bottom: float, width: int, height: int) -> bool:
    inside = x >= -BOX_TOLERANCE and y >= -BOX_TOLERANCE
    return inside and x < right <= width + BOX_TOLERANCE and y < bottom <= height + BOX_TOLERANCE


@dataclass
class Report:
    """Counts of one preparation: rows and sentences kept, records skipped by reason, and signs of a wrong box "
    "format."""

    rows: int = 0
    sentences: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    boxes: int = 0
    boxes_outside: int = 0
    boxes_not_xyxy: int = 0

    def skip(self, error: BadRecord, where: str) -> None:
        """Counts a skipped record and remembers the first of each reason."""
        self.skipped[error.reason] = self.skipped.get(error.reason, 0) + 1
        self.examples.setdefault(error.reason, f"{where}: {error.detail}")

    def see_box(self, row: dict[str, Any]) -> None:
        """Counts whether the box leaves the image as xywh, and whether it would fit as xyxy."""
        try:
            x, y, w, h = (float(value) for value in row["bbox"])
            width, height = int(row["width"]), int(row["height"])
        except (TypeError, ValueError, KeyError):
            return
        self.boxes += 1
        self.boxes_outside += x + w > width + BOX_TOLERANCE or y + h > height + BOX_TOLERANCE
        self.boxes_not_xyxy += not _fits_as_xyxy(x, y, w, h, width, height)

    def warnings(self) -> list[str]:
        """One line for each thing a user should look at."""
        lines = [
            f"skipped {count} records: {reason} (first: {self.examples[reason]})"
            for reason, count in sorted(self.skipped.items(), key=lambda item: -item[1])
        ]
        if self.boxes and self.boxes_outside >= XYXY_SUSPICION * self.boxes and self.boxes_not_xyxy == 0:
            lines.append(
                f"{self.boxes_outside} of {self.boxes} boxes leave their image when read as xywh, and every box fits "
                "when read as xyxy: the source probably holds xyxy (say so with --bbox-format xyxy)"
            )
        return lines


class Seen:
    """Ref ids with their splits, and image ids with their files, over all splits of a source."""

    def __init__(self) -> None:
        self._refs: dict[str, str] = {}
        self._images: dict[tuple[str, str], str] = {}

    def add(self, row: dict[str, Any], split: str) -> None:
        """Notes a row.

        Raises:
            BadRecord: its ref was met in this split, or in another one unless both are test splits (RefClef's testA,
                testB and testC overlap); or its image id belongs to another image file.
        """
        earlier = self._refs.get(row["ref_id"])
        if earlier == split:
            raise BadRecord("duplicate id", "an earlier record has the same ref_id")
        if earlier is not None and not (earlier.startswith("test") and split.startswith("test")):
            raise BadRecord("ref in two splits", f"the ref is in split {earlier} too")
        picture = picture_key(row["image"])
        other = self._images.setdefault((row["source"], row["image_id"]), picture)
        if other != picture:  # leaks are found by id, and results are told by it
            raise BadRecord("two images of one id", f"image_id {row['image_id']} is {picture} here and {other} before")
        self._refs[row["ref_id"]] = split


def clean_rows(
    rows: Iterable[dict[str, Any] | BadRecord],
    on_bad_record: str = "raise",
    report: Report | None = None,
    where: str = "table",
    split: str = "",
    seen: Seen | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the valid rows in their order.

    Args:
        rows: rows as readers make them; a reader puts a :class:`BadRecord` in place of a row it could not make.
        on_bad_record: ``"raise"`` stops at the first bad record, ``"skip"`` counts it in ``report``.
        report: counts are added to it.
        where: what the rows are called in messages, for example a data set and its split.
        split, seen: name of this split, and the ids met so far in it and in others; added to.

    Raises:
        BadRecord: with ``on_bad_record="raise"``; names ``where``, the record's number and its ids.
    """
    if on_bad_record not in ("raise", "skip"):
        raise ValueError(f"on_bad_record is {on_bad_record!r}; expected 'raise' or 'skip'")
    report, seen = report or Report(), seen or Seen()
    for number, row in enumerate(rows):
        try:
            if isinstance(row, BadRecord):
                raise row
            report.see_box(row)
            row = validate_row(row)
            seen.add(row, split)
        except BadRecord as error:
            ids = "" if isinstance(row, BadRecord) else f" (ref_id {row.get('ref_id')}, image_id {row.get('image_id')})"
            place = f"{where}, record {number}{ids}"
            if on_bad_record == "raise":
                raise BadRecord(
                    error.reason, f"{place}: {error.detail}. Mend it, or leave such records out (--on-bad-record skip)"
                ) from None
            report.skip(error, place)
            continue
        report.rows += 1
        report.sentences += len(row["sentences"])
        yield row
