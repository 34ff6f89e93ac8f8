"""How other models write a box: corner formats, coordinate conventions, and boxes inside a text.

A convention is declared, never chosen by what scores best against the truth: harnesses that try two readings and keep the
better one report a number nobody can reproduce. What can be said without the truth is said by :func:`suspicion`.
"""

import contextlib
import json
import math
import re
from dataclasses import dataclass

import numpy as np

from rec import boxes
from rec.errors import InputError

# Declared as ``WIDTHxHEIGHT`` and ``letterboxed:SIDE`` besides these. Florence-2's bins are read at their centres.
NAMES = ("pixel", "0-1", "0-999", "0-1000", "florence")
MAX_TEXT = 100_000  # characters of one answer that are looked at
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_PAIR = rf" ?({_NUMBER}) ?, ?({_NUMBER}) ?"
_FLAT = rf"[\[(]{_PAIR},{_PAIR}[\])]"
# Two corners, which no comma joins to a further point: those of an outline are not boxes.
_CORNERS = rf"(?<!\d[\])],)(?<!\d[\])], )[\[(]{_PAIR}[\])] ?,? ?[\[(]{_PAIR}[\])](?! ?, ?[\[(] ?[-+.\d])"
_FOUR = re.compile(f"{_FLAT}|{_CORNERS}")
_ROW = " ?, ?".join([_NUMBER] * 4)
_ROWS = re.compile(rf"[\[(] ?{_ROW}(?: ?; ?{_ROW})+ ?[\])]")  # CogVLM's and Shikra's several boxes
_TAGGED = re.compile(rf"<box> ?({_NUMBER}(?:(?: ?, ?| ){_NUMBER}){{3}}) ?</box>")  # MiniCPM-V's <box>10 20 30 40</box>
_BINS = re.compile(r"(?:<loc_?\d{1,4}>)+")  # PaliGemma writes <loc0123>
# Around what a model thinks before it answers: most models', Kimi-VL's, Magistral's.
_THINK, _THOUGHT = (re.compile(rf"<{end}think(?:ing)?>|◁{end}think▷|\[{end}THINK\]") for end in ("", "/"))
_TAGS = re.compile(r"<\|[^<>| ]+\|>|</?answer>")  # around what is said
_IS_SCORE = re.compile("score|conf|prob|logit", re.IGNORECASE)  # names of numbers in JSON, of which four are not a box


@dataclass(frozen=True)
class Convention:
    """A declared way to write boxes.

    Attributes:
        coordinates: one of :data:`NAMES`, ``"640x480"`` (pixels of the image resized to that) or ``"letterboxed:416"``
            (pixels of SimREC's square, see :func:`rec.boxes.letterbox_geometry`).
        box_format: one of :data:`rec.boxes.FORMATS`.

    Raises:
        InputError: neither is known.
    """

    coordinates: str = "pixel"
    box_format: str = "xyxy"

    def __post_init__(self) -> None:
        sized = re.fullmatch(r"letterboxed:[1-9]\d{1,4}|[1-9]\d{0,4}x[1-9]\d{0,4}", self.coordinates)
        if self.coordinates not in NAMES and not sized:
            raise InputError(
                f"coordinates {self.coordinates!r} are not known; expected one of {', '.join(NAMES)}, WIDTHxHEIGHT such as "
                "640x480 (100x100 is percent), or letterboxed:SIDE such as letterboxed:416"
            )
        if self.box_format not in boxes.FORMATS:
            raise InputError(f"box format {self.box_format!r} is not known; expected one of {', '.join(boxes.FORMATS)}")

    def __str__(self) -> str:
        return f"--coordinates {self.coordinates} --box-format {self.box_format}"

    def to_pixels(self, values: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Boxes in pixels of the original images.

        Args:
            values: float64 ``(N, 4)``, as written.
            width, height: float64 ``(N,)`` or ``()`` of the original images, in pixels.

        Returns:
            float64 ``(N, 4)`` xyxy, not clipped.
        """
        values = boxes.to_xyxy(values, self.box_format)
        if self.coordinates.startswith("letterboxed:"):
            side = int(self.coordinates.partition(":")[2])
            sizes = np.broadcast_arrays(np.atleast_1d(height), np.atleast_1d(width))
            each = [boxes.letterbox_geometry(int(h), int(w), side) for h, w in zip(*sizes, strict=True)]
            return boxes.from_letterbox(values, np.array(each, np.float64).reshape(-1, 6))
        scale = np.stack(np.broadcast_arrays(width, height, width, height), -1).astype(np.float64)
        if self.coordinates == "0-1":
            return values * scale
        if self.coordinates == "0-999":
            return values / 999 * scale
        if self.coordinates == "0-1000":
            return values / 1000 * scale
        if self.coordinates == "florence":
            return (values + 0.5) / 1000 * scale
        if self.coordinates == "pixel":
            return values
        w, h = map(int, self.coordinates.split("x"))
        return values / np.array([w, h, w, h], np.float64) * scale


def four_numbers(box: object) -> list[float] | None:
    """A box as four finite numbers; None where it is anything else."""
    if not isinstance(box, list | tuple) or len(box) != 4:
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in box):
        return None
    try:
        numbers = [float(value) for value in box]
    except OverflowError:
        return None
    return numbers if all(math.isfinite(value) and abs(value) < 1e9 for value in numbers) else None


def boxes_in_text(text: str) -> list[list[float]]:
    """The boxes that a chat model's answer names, in order.

    Read are JSON with lists of four numbers (``{"bbox_2d": [10, 20, 30, 40]}``, also in fenced blocks), ``[10, 20, 30, 40]``,
    ``[10, 20, 30, 40; 50, 60, 70, 80]``, ``(10, 20), (30, 40)`` and ``<box>10 20 30 40</box>`` in running text, and bins,
    ``<loc_10><loc_20><loc_30><loc_40>`` of Florence-2, ``<loc0010><loc0020><loc0030><loc0040>`` of PaliGemma. Outlines are not
    boxes, and where something stands in JSON in the place of a box and is none, the answer has none.
    """
    text = _ROWS.sub(lambda rows: rows[0].replace(";", "], ["), _told(text))
    text = _TAGGED.sub(lambda box: f"[{', '.join(box[1].replace(',', ' ').split())}]", text)
    if runs := _BINS.findall(text):
        return [box for run in runs for box in _boxes_of_bins([float(value) for value in re.findall(r"\d+", run)])]
    in_json, is_whole = _boxes_of(_json_in(text))
    if in_json:
        return in_json if is_whole else []
    found = [[float(value) for value in match if value] for match in _FOUR.findall(text)]
    return [box for numbers in found if (box := four_numbers(numbers))]


def says_none(text: str) -> bool:
    """Whether a chat model says in JSON that it is not there: ``null`` or something empty, with no number beside it but a score."""
    waiting, empty = [_json_in(_told(text), unreadable="")], False
    while waiting:
        value = waiting.pop()
        if value is None or value == [] or value == {}:
            empty = True
        elif isinstance(value, dict):
            waiting += [one for key, one in value.items() if not _IS_SCORE.search(key)]
        elif isinstance(value, list):
            waiting += value
        elif not isinstance(value, str | bool):  # a label, a remark
            return False
    return empty


def _told(text: str) -> str:
    """An answer in one line, without what its model thought before it; a thought that is cut off has no answer behind it."""
    return " ".join(_THINK.split(_THOUGHT.split(text)[-1])[0][:MAX_TEXT].split())


def _json_in(text: str, unreadable: object = None) -> object:
    """The JSON of a text, or a list of that of the fenced blocks in it; other blocks, such as of code, are passed over."""
    blocks, found = re.findall(r"```(?i:json)? ?(.+?)```", text), list[object]()
    for block in blocks or [text]:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(_TAGS.sub("", block)))
    return found or unreadable


def _boxes_of(value: object) -> tuple[list[list[float]], bool]:
    """The lists of four numbers in JSON, in order, however deep it is, and whether no other numbers stand where they do."""
    found, waiting = list[list[float]](), [("", value)]
    boxed, others = set[str](), set[str]()
    while waiting:
        name, value = waiting.pop()
        if (box := four_numbers(value)) is not None:
            found.append(box)
            boxed.add(name)
        elif isinstance(value, dict):
            waiting += [(key, one) for key, one in reversed(value.items()) if not _IS_SCORE.search(key)]
        elif isinstance(value, list):
            if any(isinstance(one, int | float) for one in value):
                others.add(name)
            waiting += [(name, one) for one in reversed(value)]
    return found, not boxed & others


def _boxes_of_bins(values: list[float]) -> list[list[float]]:
    """Boxes of bins in a row; none where the corners are an outline's: not in fours, or the second before the first."""
    found = [values[start : start + 4] for start in range(0, len(values), 4)]
    if len(values) % 4 or (len(found) > 1 and any(box[0] > box[2] or box[1] > box[3] for box in found)):
        return []
    return found


# A suspicion needs numbers: a few boxes may well lie in one corner of their images.
_ENOUGH, _MARGIN, _SHARE = 30, 0.02, 0.02
_THOUSANDTHS = ("0-999", "0-1000", "florence")


def suspicion(
    declared: Convention, values: np.ndarray, width: np.ndarray, height: np.ndarray, asked: bool = False
) -> str | None:
    """What is odd about boxes under the declared convention, and which other one they look like; None where nothing is.

    The truth is not asked. Boxes are taken to be mostly inside their images, with corners in order, and among many some
    reach close to every edge.

    Args:
        declared: how they are read.
        values: float64 ``(N, 4)``, as written.
        width, height: float64 ``(N,)``, of the original images in pixels.
        asked: a model was asked for them, and what it wrote was turned into pixels already.
    """
    if len(values) < _ENOUGH:
        return None
    faults = _faults(declared, values, width, height)
    if not faults:
        return None
    if asked:
        told = "; ".join(faults)
        return f"{told}: a chat model may write boxes in other --coordinates than its answers were read in"
    sides = sorted(
        {2 ** math.ceil(math.log2(max(2.0, float(values.max())))), math.ceil(values.max())} & set(range(10, 10_000))
    )
    candidates = [
        Convention(coordinates, box_format)
        for coordinates in (declared.coordinates, *NAMES, *(f"letterboxed:{side}" for side in sides))
        for box_format in (declared.box_format, *boxes.FORMATS)
    ]
    fitting = [other for other in dict.fromkeys(candidates) if not _faults(other, values, width, height)]
    remedy = (
        f"they would fit {fitting[0]}"
        if fitting
        else "no convention known here fits better; pixels of a resized image are --coordinates WIDTHxHEIGHT"
    )
    if fitting and fitting[0].coordinates in _THOUSANDTHS:
        remedy += f" ({', '.join(_THOUSANDTHS)} differ by a thousandth of a side, which numbers alone seldom tell)"
    return f"read as {declared}, {'; '.join(faults)}: {remedy}"


def _faults(convention: Convention, values: np.ndarray, width: np.ndarray, height: np.ndarray) -> list[str]:
    found, count = [], len(values)
    relative = convention.to_pixels(values, width, height) / np.stack([width, height, width, height], -1)
    inverted = np.mean((relative[:, 2] <= relative[:, 0]) | (relative[:, 3] <= relative[:, 1]))
    if inverted > _SHARE:
        found.append(f"{inverted:.0%} of {count} boxes have their corners in the wrong order or no size")
    outside = np.mean((relative < -_MARGIN).any(1) | (relative > 1 + _MARGIN).any(1))
    if outside > _SHARE:
        found.append(f"{outside:.0%} of {count} boxes leave their image by more than {_MARGIN:.0%} of its side")
    if convention.coordinates not in ("0-1", "pixel") and (np.abs(values) <= 1).mean() > 1 - _SHARE:
        found.append("nearly all values are at most 1")
    if not found:
        # Apart for smaller and larger images: pixels of one resized size look right where the images happen to have it.
        halves = [half for side in (width, height) for half in (side <= np.median(side), side > np.median(side))]
        halves = [half for half in halves if half.sum() >= _ENOUGH] or [width > 0]
        far = min(np.quantile(relative[half, 2:], 0.99, axis=0).min() for half in halves)
        near = max(np.quantile(relative[half, :2], 0.01, axis=0).max() for half in halves)
        if far < 0.9 or near > 0.1:
            edge = "right or lower" if far < 0.9 else "left or upper"
            found.append(f"hardly any of {count} boxes comes near the {edge} edge of its image")
    return found or _off_by_one(convention, values)


def _off_by_one(convention: Convention, values: np.ndarray) -> list[str]:
    """Scales that differ by a thousandth give themselves away by their largest and by broken numbers."""
    corners = boxes.to_xyxy(values, convention.box_format)
    largest, whole = corners.max(), bool((values == np.round(values)).all())
    if convention.coordinates == "florence" and (
        largest > 999 or (convention.box_format in ("xyxy", "yxyx") and not whole)
    ):
        return [f"the values go up to {largest:g}" if largest > 999 else "values are not whole, as bins are"]
    if convention.coordinates == "0-999" and largest > 999:
        return [f"the values go up to {largest:g}"]
    if convention.coordinates == "0-1000" and largest == 999 and (corners == 999).sum() >= 3:
        return [f"{(corners == 999).sum()} corners lie at exactly 999 and none beyond"]
    return []
