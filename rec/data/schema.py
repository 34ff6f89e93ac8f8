"""The one row schema of all annotation sources, and what makes a row fit to train on.

One row is what some phrases name in one image: one object, several, or none. Readers yield rows as plain dicts;
:func:`clean_rows` is the gate every row passes before it is written to a table.
"""

import logging
import math
import numbers
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from datasets import Features, Image, List, Value

from rec import boxes, trust
from rec.data import masks
from rec.data.images import picture_key
from rec.errors import InputError, RecError

logger = logging.getLogger(__name__)
Made = TypeVar("Made")

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
        # Every object. Tables of 0.1 have `bbox` alone; it stays, the only or first of them, null where there is none.
        "boxes": List(List(Value("float32"), length=4)),
    }
)

# Annotators' boxes end a fraction of a pixel outside the image (COCO rounds to 0.01); more than one pixel is a mistake.
BOX_TOLERANCE = 1.0
# Share of boxes that must not fit their image before another box format is suspected, and that must fit it in that format.
FORMAT_SUSPICION, FORMAT_FITS = 0.2, 0.99
# Four numbers of at most this are no box in pixels; cxcywh of rounded fractions ends a little above 1.
_FRACTIONS = 1.01
MANY, LISTED = 1000, 20  # bad records of one kind after which no more are looked for; numbers of them that are told
ALIKE = 20  # so many records may fail alike, whatever their share
EXCLUDED = "image of an evaluation split"  # records that are left out on purpose
_LONGEST = 1000  # characters of a message: a record's own content is in it
# What to do about rows that do not name one object each.
ONE_ONLY = (
    "dataset.targets=any trains and evaluates models that answer with none, one or several boxes; for the others, leave "
    "such rows out"
)
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother, _SHOWN.maxlong = 3, 80, 80, 40


class BadRecord(InputError, ValueError):
    """A record that cannot be used.

    Attributes:
        reason: short name of the fault, by which skipped records are counted.
        detail: what is wrong with this one; printable, and of bounded length.
    """

    def __init__(self, reason: str, detail: str) -> None:
        short = detail if len(detail) <= _LONGEST else f"{detail[:_LONGEST]}…"
        detail = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in short)
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@contextmanager
def faults_as(reason: str) -> Iterator[None]:
    """Whatever the block raises becomes a :class:`BadRecord` of that reason; one raised on purpose keeps its own.

    What a single record holds may raise anything in any library it passes through, and must not end the work on the
    others. The cause's name is in the text, and its traceback in the log at level DEBUG.
    """
    try:
        yield
    except BadRecord:
        raise
    except Exception as error:
        logger.debug("a %s", reason, exc_info=True)
        if isinstance(error, KeyError) and reason == "broken record":
            raise BadRecord("incomplete record", f"it has no {error}") from error
        kind = "" if isinstance(error, RecError | ValueError) else f"{type(error).__name__}: "
        raise BadRecord(reason, f"{kind}{error}") from error


def attempt(make: Callable[..., Made], *arguments: Any, where: str = "") -> Made | BadRecord:
    """``make(*arguments)``, or the :class:`BadRecord` that stands for whatever it raised (:func:`faults_as`).

    ``where`` tells which record it is, in front of the detail.
    """
    try:
        with faults_as("broken record"):
            return make(*arguments)
    except BadRecord as error:
        placed = BadRecord(error.reason, f"{where}: {error.detail}" if where else error.detail)
        placed.__cause__ = error.__cause__
        return placed


def shown(value: object) -> str:
    """The ``repr`` of anything a record may hold, short enough for a message."""
    try:
        return _SHOWN.repr(value)
    except Exception:  # a number of 5,000 digits has no text
        return f"<{type(value).__name__}>"


def is_missing(value: object) -> bool:
    """Whether a field of a record says nothing: null, an empty text, or the NaN that stands for null in tables."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def boxes_of(row: Mapping[str, Any]) -> list[list[float]]:
    """The boxes of a table's row, xywh in pixels; of a table of 0.1, which has no ``boxes``, the one in ``bbox``."""
    several = row.get("boxes")
    return [row["bbox"]] if several is None else several


def as_single(row: dict[str, Any]) -> dict[str, Any]:
    """A row as 0.1 knew it, for digests: without ``boxes``; where they are not one, they stand in the place of ``bbox``."""
    several = row.get("boxes")
    bbox = {} if several is None else {"bbox": several[0] if len(several) == 1 else several}
    return {key: row[key] for key in row if key != "boxes"} | bbox


def columns_of(table: Iterable[str]) -> list[str]:
    """The columns of :data:`FEATURES` that a table is read by: all of them, or but one of ``bbox`` and ``boxes``.

    Raises:
        KeyError: it lacks another one, or both; lists those it lacks.
    """
    missing = set(FEATURES) - set(table)
    if missing - {"bbox", "boxes"} or len(missing) > 1:
        raise KeyError(sorted(missing - {"boxes"}))
    return [name for name in FEATURES if name not in missing]


def validate_row(row: dict[str, Any]) -> dict[str, Any]:
    """Checks one row and brings it into the form of :data:`FEATURES`.

    Args:
        row: see ``docs/architecture.md``; ``bbox``, or each of ``boxes``, is in pixels of the oriented image, xywh or what
            ``bbox_format`` says; ``mask`` is a COCO RLE of the image's size or None. ``ann_id``, ``mask``, ``category``,
            ``bbox_format`` may be missing, and of ``bbox`` and ``boxes`` one: where both are given they say the same.

    Returns:
        A new row of the schema's columns and types, which can be written.

    Raises:
        BadRecord: no image, size not positive, a box not four finite numbers, empty, fractions, outside the image by more
            than :data:`BOX_TOLERANCE` pixels or with nothing in it, more than :data:`rec.trust.MAX_OBJECTS` boxes, no
            phrase or an empty one, a text that is no Unicode, an id that is none, mask broken, of another size, empty
            where there is a box or not empty where there is none.
    """
    image = image_of(row)
    if not (image["path"] or image["bytes"]):
        raise BadRecord("no image", "the record names no image file and holds no image bytes")
    width, height = _size(row, "width"), _size(row, "height")
    several = _boxes(row, width, height)
    sentences = row.get("sentences")
    sentences = [sentences] if isinstance(sentences, str) else sentences
    if sentences is not None and not (
        isinstance(sentences, list | tuple) and all(isinstance(s, str) for s in sentences)
    ):
        raise BadRecord("bad phrase", f"sentences are {shown(sentences)}; expected a text or a list of texts")
    if sentences and (len(sentences) > trust.MAX_SENTENCES or max(map(len, sentences)) > trust.MAX_SENTENCE):
        raise BadRecord(
            "too many phrases",
            f"{len(sentences):,} phrases of up to {max(map(len, sentences)):,} characters; a record has at most "
            f"{trust.MAX_SENTENCES:,} of at most {trust.MAX_SENTENCE:,}",
        )
    if not sentences or not all(sentence.strip() for sentence in sentences):
        raise BadRecord(
            "empty phrase", f"sentences are {shown(sentences)}; each must be a text with at least one character"
        )
    mask = row.get("mask")
    if mask is not None:
        with faults_as("bad mask"):
            area = masks.check(mask, height, width)
        if area == 0 and several:
            raise BadRecord("empty mask", "the mask covers no pixel")
        if area and not several:
            raise BadRecord(
                "mask of nothing", f"boxes is empty, so nothing is named, but the mask covers {area} pixels"
            )
        mask = {"size": [height, width], "counts": _unicode(mask["counts"], "mask")}
    ids = {key: _name(row, key, needed=True) for key in ("image_id", "ref_id", "source")}
    ids |= {key: _name(row, key, needed=False) for key in ("ann_id", "category")}
    said = [_unicode(sentence, "sentence") for sentence in sentences]
    named = {"bbox": several[0] if several else None, "boxes": several, "mask": mask, "sentences": said}
    return {"image": image} | ids | {"width": width, "height": height} | named


def image_of(row: dict[str, Any]) -> dict[str, Any]:
    """The ``image`` of a row as ``{"path": text or None, "bytes": bytes or None}``.

    Raises:
        BadRecord: it is something else.
    """
    image = row.get("image")
    path, data = (image.get("path"), image.get("bytes")) if isinstance(image, dict) else (image, None)
    if not isinstance(path, str | None) or not isinstance(data, bytes | None):
        raise BadRecord("no image", f"the image is {shown(image)}; expected the name of a file, or an image's bytes")
    return {"path": path and _unicode(path, "image"), "bytes": data}


def _size(row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise BadRecord("bad image size", f"{key} is {shown(value)}; expected a positive number of pixels")
    return value


def _name(row: dict[str, Any], key: str, needed: bool) -> str | None:
    value = row.get(key)
    if is_missing(value):
        if needed:
            raise BadRecord("no id", f"{key} is {shown(value)}; expected a text or a number")
        return None
    if not isinstance(value, str | numbers.Real) or isinstance(value, bool):
        raise BadRecord("bad id", f"{key} is {shown(value)}; expected a text or a number")
    return _unicode(str(value), key)


def _unicode(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(
            "broken text",
            f"{what} {shown(text)} holds {text[error.start]!r} at character {error.start}: half of a pair, or bytes that "
            "are no UTF-8; save the file as UTF-8",
        ) from None
    return text


def _boxes(row: dict[str, Any], width: int, height: int) -> list[list[float]]:
    """The row's boxes as xywh."""
    several, single, box_format = row.get("boxes"), row.get("bbox"), row.get("bbox_format") or "xywh"
    alone = None if several is not None and single is None else _box(single, "bbox", box_format, width, height)
    if several is None:
        return [alone] if alone is not None else []
    if not isinstance(several, list | tuple):
        raise BadRecord("bad box", f"boxes is {shown(several)}; expected a list of boxes, empty where nothing is named")
    if len(several) > trust.MAX_OBJECTS:
        raise BadRecord("too many boxes", f"{len(several):,} boxes; a record has at most {trust.MAX_OBJECTS:,}")
    checked = [_box(given, f"boxes[{number}]", box_format, width, height) for number, given in enumerate(several)]
    if alone is not None and checked[:1] != [alone]:  # one of the two was edited
        raise BadRecord(
            "two different boxes",
            f"bbox is {shown(single)}, boxes {shown(several)}; bbox is the only or first of boxes, or null: give one of the two",
        )
    return checked


def _box(given: object, name: str, box_format: str, width: int, height: int) -> list[float]:
    """One box as xywh; messages show the numbers as they were given."""
    told = f"{name} {shown(given)} ({box_format})"
    try:
        four = [float(value) for value in given]  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        four = []
    if len(four) != 4 or isinstance(given, str | bytes):
        raise BadRecord("bad box", f"{name} is {shown(given)}; expected four numbers, {box_format} in pixels")
    if not all(math.isfinite(value) for value in four):
        raise BadRecord("bad box", f"{name} is {shown(given)}; expected finite numbers")
    if _are_fractions(four) and max(width, height) > 1:
        raise BadRecord(
            "box in fractions",
            f"{told} lies within one pixel, so it holds fractions of the image; boxes are in pixels: multiply x by the "
            f"image's width, {width}, and y by its height, {height}",
        )
    fault = _misfit(four, box_format, width, height)
    if fault is not None:
        others = [other for other in boxes.FORMATS if _misfit(four, other, width, height) is None]
        hint = f" (it would fit as {' or '.join(others)})" if others else ""
        raise BadRecord(fault[0], f"{told} {fault[1]}{hint}")
    return boxes.xywh_of(four, box_format)


def _are_fractions(four: list[float]) -> bool:
    unit = any(_misfit(four, box_format, 1, 1) is None for box_format in boxes.FORMATS)
    return max(map(abs, four)) <= _FRACTIONS and unit


def _misfit(four: list[float], box_format: str, width: int, height: int) -> tuple[str, str] | None:
    """Why four numbers, read in a format, are no box in an image of that size: reason and detail; None if they are."""
    x, y, w, h = boxes.xywh_of(four, box_format)
    if w <= 0 or h <= 0:
        return "empty box", f"has width {w:g} and height {h:g}; both must be positive"
    if x < -BOX_TOLERANCE or y < -BOX_TOLERANCE or x + w > width + BOX_TOLERANCE or y + h > height + BOX_TOLERANCE:
        return "box outside image", f"leaves the image of {width}x{height} pixels"
    if not boxes.is_visible([x, y, x + w, y + h], height, width):
        return "box outside image", f"only touches the image of {width}x{height} pixels: nothing of it is in it"
    return None


@dataclass
class Report:
    """Counts of one preparation: rows and sentences kept, sentences that name no object or several, records skipped and
    parts of records left out by reason, and signs of a wrong box format."""

    rows: int = 0
    sentences: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    boxes: int = 0
    box_format: str = "xywh"
    fits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(boxes.FORMATS, 0))
    none: int = 0
    several: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def keep(self, row: dict[str, Any], count: int = 1) -> None:
        """Counts a row that is kept; with ``count=-1`` takes it back."""
        sentences, objects = count * len(row["sentences"]), len(boxes_of(row))
        self.rows += count
        self.sentences += sentences
        self.none += sentences if objects == 0 else 0
        self.several += sentences if objects > 1 else 0

    def skip(self, error: BadRecord, where: str) -> None:
        """Counts a skipped record and remembers the first of each reason."""
        self.skipped[error.reason] = self.skipped.get(error.reason, 0) + 1
        self.examples.setdefault(error.reason, f"{where}: {error.detail}")

    def refuse_alike(self, where: str) -> None:
        """Makes sure that no single fault costs most of the records: then something else is wrong.

        Raises:
            BadRecord: it does; names the first.
        """
        faults = {reason: count for reason, count in self.skipped.items() if reason != EXCLUDED}
        total = self.rows + sum(faults.values())
        reason = max(faults, key=faults.__getitem__, default="")
        if faults and faults[reason] >= ALIKE and faults[reason] > total / 2:
            raise BadRecord(
                reason,
                f"{where}: {faults[reason]} of {total} records fail alike, which is no matter of single records, so they are "
                f"not left out; the first is {self.examples[reason]}. Look for the cause: "
                + (self._box_format() or "another --images, --bbox-format, --columns or --source?"),
            )

    def drop(self, row: dict[str, Any], error: BadRecord) -> None:
        """Takes back a row that was counted as kept."""
        self.keep(row, -1)
        self.skip(error, ids_of(row))

    def see_boxes(self, row: dict[str, Any]) -> None:
        """Counts the formats in which each box fits its image, and what the reader left out of the record."""
        for reason, count in (row.get("left_out") or {}).items():
            self.left_out[reason] = self.left_out.get(reason, 0) + count
        try:
            all_fits = [
                [name for name in boxes.FORMATS if _misfit(four, name, int(row["width"]), int(row["height"])) is None]
                for four in ([float(value) for value in given] for given in boxes_of(row)[: trust.MAX_OBJECTS])
            ]
        except (TypeError, ValueError, KeyError, OverflowError):
            return
        self.boxes += len(all_fits)
        self.box_format = row.get("bbox_format") or "xywh"
        for name in (name for fits in all_fits for name in fits):
            self.fits[name] += 1

    def warnings(self) -> list[str]:
        """One line for each thing a user should look at."""
        lines = [
            f"skipped {count} records: {reason} (first: {self.examples[reason]})"
            for reason, count in sorted(self.skipped.items(), key=lambda item: -item[1])
        ]
        lines += [f"left out {count} {what}" for what, count in sorted(self.left_out.items())]
        return [*lines, told] if (told := self._box_format()) else lines

    def _box_format(self) -> str:
        """What there is to say when boxes look like another format than they are read in; "" where they do not."""
        misfits = self.boxes - self.fits[self.box_format]
        others = [name for name in boxes.FORMATS if self.boxes and self.fits[name] >= FORMAT_FITS * self.boxes]
        if self.boxes and misfits >= FORMAT_SUSPICION * self.boxes and others:
            return (
                f"{misfits} of {self.boxes} boxes do not fit their image when read as {self.box_format}, and "
                f"{self.fits[others[0]]} do when read as {others[0]}: the source probably holds {' or '.join(others)} "
                f"(say so with --bbox-format {others[0]}, or convert them where the layout knows xywh only)"
            )
        return ""


class SeenIds:
    """Ref ids with their splits and images, and image ids with their files, over all splits of a source."""

    def __init__(self) -> None:
        self._refs: dict[str, tuple[str, str]] = {}
        self._images: dict[tuple[str, str], str] = {}

    def add(self, row: dict[str, Any], split: str) -> None:
        """Notes a row.

        Raises:
            BadRecord: its ref was met in this split, or in another one unless both are test splits (RefClef's testA,
                testB and testC overlap); or its image id belongs to another image file.
        """
        earlier, image = self._refs.get(row["ref_id"], (None, ""))
        if earlier == split:
            raise BadRecord(
                "duplicate id",
                f"an earlier record, of image_id {image}, has the same ref_id: put all phrases of one object into one record, give "
                "every object a ref_id of its own, or leave ref_id out",
            )
        if earlier is not None and not (earlier.startswith("test") and split.startswith("test")):
            raise BadRecord("ref in two splits", f"a record of image_id {image} in split {earlier} has the same ref_id")
        picture = picture_key(row["image"])
        other = self._images.setdefault((row["source"], row["image_id"]), picture)
        if other != picture:  # leaks are found by id, and results are told by it
            raise BadRecord("two images of one id", f"image_id {row['image_id']} is {picture} here and {other} before")
        self._refs[row["ref_id"]] = split, row["image_id"]


def clean_rows(
    rows: Iterable[dict[str, Any] | BadRecord],
    on_bad_record: str = "raise",
    report: Report | None = None,
    where: str = "table",
    split: str = "",
    seen: SeenIds | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the valid rows in their order.

    Args:
        rows: rows as readers make them; a reader puts a :class:`BadRecord` in place of a row it could not make.
        on_bad_record: ``"raise"`` yields nothing after a bad record, ``"skip"`` counts it in ``report``.
        report: counts are added to it.
        where: what the rows are called in messages, for example a data set and its split.
        split, seen: name of this split, and the ids met so far in it and in others; added to.

    Raises:
        BadRecord: with ``on_bad_record="raise"``, after the rest was looked at too: names ``where``, the record's number
            and its ids, and how many others there are.
    """
    if on_bad_record not in ("raise", "skip"):
        raise ValueError(f"on_bad_record is {on_bad_record!r}; expected 'raise' or 'skip'")
    report, seen = report or Report(), seen or SeenIds()
    first: BadRecord | None = None
    numbers: dict[str, list[int]] = {}

    def checked(row: dict[str, Any]) -> dict[str, Any]:
        report.see_boxes(row)
        valid = validate_row(row)
        seen.add(valid, split)
        return valid

    for number, row in enumerate(rows):
        result = row if isinstance(row, BadRecord) else attempt(checked, row)
        if not isinstance(result, BadRecord):
            if first is None:  # afterwards the rest is only looked at, to tell all that is wrong at once
                report.keep(result)
                yield result
            continue
        ids = "" if isinstance(row, BadRecord) else f" ({ids_of(row)})"
        place = f"{where}, record {number}{ids}"
        report.skip(result, place)
        numbers.setdefault(result.reason, []).append(number)
        if on_bad_record == "raise":
            first = first or _placed(result, place)
            if report.skipped[result.reason] == MANY:
                break
    if first is not None:
        raise _told(first, numbers, report, where) from first.__cause__


def _placed(error: BadRecord, place: str) -> BadRecord:
    placed = BadRecord(error.reason, f"{place}: {error.detail}")
    placed.__cause__ = error.__cause__
    return placed


def _told(first: BadRecord, numbers: Mapping[str, list[int]], report: Report, where: str) -> BadRecord:
    """The first bad record as the error that ends the work. Where there are more, a line of the log for each kind has
    the first in full and the numbers of the others."""
    bad = sum(map(len, numbers.values()))
    if bad == 1:
        return BadRecord(first.reason, f"{first.detail}. Mend it, or leave such records out (--on-bad-record skip)")
    for reason, found in numbers.items():
        listed = ", ".join(map(str, found[:LISTED])) + (", …" if len(found) > LISTED else "")
        logger.error(
            "%s: %d x %s, records %s; the first: %s", where, len(found), reason, listed, report.examples[reason]
        )
    kinds = ", ".join(f"{len(found)} x {reason}" for reason, found in numbers.items())
    return BadRecord(
        first.reason,
        f"{first.detail}. In all {bad} records are bad: {kinds}. Mend them, or leave such records out "
        "(--on-bad-record skip)",
    )


def ids_of(row: dict[str, Any]) -> str:
    """A row's ids for messages."""
    told = {key: row.get(key) for key in ("ref_id", "image_id")}
    plain = {
        key: value if isinstance(value, str) and value.isprintable() else shown(value) for key, value in told.items()
    }
    return ", ".join(f"{key} {value[:80]}" for key, value in plain.items())
