"""The one row schema of all annotation sources, and what makes a row fit to train on.

One row is what some phrases name in one image: one object, several, or none. Readers yield rows as plain dicts;
:mod:`rec.data.cleaning` is the gate every row passes before it is written to a table.
"""

import datetime
import logging
import math
import numbers
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from datasets import Features, Image, List, Value

from rec import boxes, trust
from rec.data import masks
from rec.data.text import is_blank
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
        # What the row's loss is multiplied by in training; null is 1. Tables made before it was known lack the column.
        "weight": Value("float32"),
    }
)

# Annotators' boxes end a fraction of a pixel outside the image (COCO rounds to 0.01); more than one pixel is a mistake.
BOX_TOLERANCE = 1.0
# Four numbers of at most this are not a box in pixels; cxcywh of rounded fractions ends a little above 1.
_FRACTIONS = 1.01
MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000.0  # of a row's loss; others vanish or drown the rest
_LONGEST = 1000  # characters of a message: a record's own content is in it
# What to do about rows that do not name one object each.
ONE_ONLY = (
    "dataset.targets=any, in training with train.evaluation.eval_metric=Pr@F1, is for models that answer with none, one or "
    "several boxes; for the others, leave such rows out"
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

    def at(self, where: str) -> "BadRecord":
        """The same fault, with ``where``, which tells the record, in front of the detail."""
        placed = BadRecord(self.reason, f"{where}: {self.detail}" if where else self.detail)
        placed.__cause__ = self.__cause__
        return placed


class LeftOut(BadRecord):
    """How much of a split its reader has left out, told behind the last row: no fault, but counted.

    Attributes:
        reason: what it is.
        count: how many.
    """

    def __init__(self, what: str, count: int) -> None:
        super().__init__(what, str(count))
        self.count = count


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
    """``make(*arguments)``, or the :class:`BadRecord` that is one of the arguments, or stands for whatever it raised
    (:func:`faults_as`); ``where`` as of :meth:`BadRecord.at`.
    """
    try:
        with faults_as("broken record"):
            for argument in arguments:
                if isinstance(argument, BadRecord):
                    raise argument
            return make(*arguments)
    except BadRecord as error:
        return error.at(where)


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
    """A row as 0.1 knew it, for digests: without ``boxes``; where they are not one, they stand in the place of ``bbox``; with
    ``weight`` only where there is one."""
    several = row.get("boxes")
    bbox = {} if several is None else {"bbox": several[0] if len(several) == 1 else several}
    known = {key: row[key] for key in row if key != "boxes" and not (key == "weight" and row[key] is None)}
    return known | bbox


def columns_of(table: Iterable[str]) -> list[str]:
    """The columns of :data:`FEATURES` that a table is read by: all of them, or but one of ``bbox`` and ``boxes``; it may lack
    ``weight``.

    Raises:
        KeyError: it lacks another one, or both; lists those it lacks.
    """
    missing = set(FEATURES) - set(table)
    if missing - {"bbox", "boxes", "weight"} or {"bbox", "boxes"} <= missing:
        raise KeyError(sorted(missing - {"boxes", "weight"}))
    return [name for name in FEATURES if name not in missing]


def validate_row(row: dict[str, Any]) -> dict[str, Any]:
    """Checks one row and brings it into the form of :data:`FEATURES`.

    Args:
        row: see ``docs/architecture.md``; ``bbox``, or each of ``boxes``, is in pixels of the oriented image, xywh or what
            ``bbox_format`` says; ``mask`` is a COCO RLE of the image's size or None. ``ann_id``, ``mask``, ``category``,
            ``weight``, ``bbox_format`` may be missing, and of ``bbox`` and ``boxes`` one: where both are given they say the same.

    Returns:
        A new row of the schema's columns and types, which can be written.

    Raises:
        BadRecord: no image, size not positive, a box not four finite numbers, empty, fractions, outside the image by more
            than :data:`BOX_TOLERANCE` pixels or with nothing in it, more than :data:`rec.trust.MAX_OBJECTS` boxes, no
            phrase or an empty one, a text that is not Unicode, an id that is none, mask broken, of another size, empty
            where there is a box or not empty where there is none, a weight that is none.
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
    if not sentences or any(map(is_blank, sentences)):
        raise BadRecord(
            "empty phrase",
            f"sentences are {shown(sentences)}; each must be a text with at least one character that can be seen",
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
    return {"image": image} | ids | {"width": width, "height": height} | named | {"weight": weight_of(row)}


def weight_of(row: Mapping[str, Any]) -> float | None:
    """What the row's loss is multiplied by in training; None where it does not say, which is 1.

    Raises:
        BadRecord: it is not a number above 0 and at most :data:`MAX_WEIGHT`.
    """
    weight: Any = row.get("weight")
    if is_missing(weight):
        return None
    is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    if not is_number or not MIN_WEIGHT <= weight <= MAX_WEIGHT:
        raise BadRecord(
            "bad weight",
            f"weight is {shown(weight)}; expected a number from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}, which the row's loss is "
            "multiplied by: leave out a row that is to count for nothing",
        )
    return float(weight)


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
    if not isinstance(value, str | numbers.Number | datetime.date) or isinstance(value, bool):
        raise BadRecord("bad id", f"{key} is {shown(value)}; expected a text or a number")
    return _unicode(str(whole(value)), key)


def whole(value: object) -> object:
    """A whole number that a table keeps as a float, as pandas does in a column with gaps, as such; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unicode(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(
            "broken text",
            f"{what} {shown(text)} holds {text[error.start]!r} at character {error.start}: half of a pair, or bytes that "
            "are not UTF-8; save the file as UTF-8",
        ) from None
    return text


def _boxes(row: dict[str, Any], width: int, height: int) -> list[list[float]]:
    """The row's boxes as xywh."""
    several, single, box_format = row.get("boxes"), row.get("bbox"), row.get("bbox_format") or "xywh"
    if several is None and single is None:
        raise BadRecord(
            "bad box",
            f"bbox is None and there are no boxes; expected four numbers, {box_format} in pixels, or a list of those, which is "
            "empty where nothing is named",
        )
    alone = None if single is None else _box(single, "bbox", box_format, width, height)
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
            f"bbox is {shown(single)}, boxes {shown(several)}; bbox is the only or first of boxes, or null: give one of the two "
            "(of a table, --columns bbox=… or boxes=…)",
        )
    return checked


def _box(given: object, name: str, box_format: str, width: int, height: int) -> list[float]:
    """One box as xywh; messages show the numbers as they were given."""
    told = f"{name} {shown(given)} ({box_format})"
    four = [] if isinstance(given, str | bytes) else floats_of(given)
    if len(four) != 4:
        raise BadRecord("bad box", f"{name} is {shown(given)}; expected four numbers, {box_format} in pixels")
    if not all(math.isfinite(value) for value in four):
        raise BadRecord("bad box", f"{name} is {shown(given)}; expected finite numbers")
    if are_fractions(four) and max(width, height) > 1:
        raise BadRecord(
            "box in fractions",
            f"{told} lies within one pixel, so it holds fractions of the image; boxes are in pixels: say --coordinates 0-1 "
            f"(coordinates: 0-1 in ann_path), or multiply x by the image's width, {width}, and y by its height, {height}",
        )
    fault = misfit(four, box_format, width, height)
    if fault is not None:
        others = [other for other in boxes.GUESSED if misfit(four, other, width, height) is None]
        hint = f" (it would fit as {' or '.join(others)})" if others else ""
        raise BadRecord(fault[0], f"{told} {fault[1]}{hint}")
    return boxes.xywh_of(four, box_format)


def floats_of(given: object) -> list[float]:
    """The numbers of a box, also where they are written as texts; none where one of them is something else, such as true."""
    try:
        values = list(given)  # type: ignore[call-overload]
        return [] if bool in map(type, values) else [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return []


def are_fractions(four: list[float]) -> bool:
    """Whether four numbers lie within one pixel, as a box's do that are fractions of its image."""
    unit = any(misfit(four, box_format, 1, 1) is None for box_format in boxes.FORMATS)
    return max(map(abs, four)) <= _FRACTIONS and unit


def misfit(four: list[float], box_format: str, width: int, height: int) -> tuple[str, str] | None:
    """Why four numbers, read in a format, are not a box in an image of that size: reason and detail; None if they are."""
    x, y, w, h = boxes.xywh_of(four, box_format)
    if w <= 0 or h <= 0:
        return "empty box", f"has width {w:g} and height {h:g}; both must be positive"
    if x < -BOX_TOLERANCE or y < -BOX_TOLERANCE or x + w > width + BOX_TOLERANCE or y + h > height + BOX_TOLERANCE:
        return "box outside image", f"leaves the image of {width}x{height} pixels"
    if not boxes.is_visible([x, y, x + w, y + h], height, width):
        return "box outside image", f"only touches the image of {width}x{height} pixels: nothing of it is in it"
    return None
