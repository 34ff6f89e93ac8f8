"""A picture in HTML with boxes, masks and heat maps laid over it: sharp at every width, told apart by more than colour."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from rec.evaluation.pictures import Colour, data_address

ROW = 5.5  # per cent of a picture's height that a label takes
STYLE = """
.picture { position: relative; margin: 0; overflow: hidden; background: #7f7f7f }
.picture img { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; max-width: none; border-radius: 0 }
.picture .mark { position: absolute; box-sizing: border-box; border: 3px solid var(--tint); outline: 1px solid #fff }
.picture .dashed { border-style: dashed } .picture .dotted { border-style: dotted }
.picture .name { position: absolute; max-width: 100%; padding: 0 .4em; background: var(--tint); color: #fff; font-size: 12px;
  font-weight: 600; line-height: 18px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
"""


@dataclass(frozen=True)
class Mark:
    """A box on a picture.

    Attributes:
        box: xyxy, as fractions of the picture's width and height.
        tint: its colour.
        label: stands at its upper edge; "" for none.
        line: ``solid``, ``dashed`` or ``dotted``.
    """

    box: Sequence[float]
    tint: Colour
    label: str = ""
    line: str = "solid"


def picture(pixels: np.ndarray, marks: Sequence[Mark], layers: Sequence[tuple[str, Image.Image]], alt: str) -> str:
    """HTML of a picture that is as wide as its place is.

    Args:
        pixels: uint8 ``(H, W, 3)`` RGB.
        marks: boxes, the last one on top.
        layers: ``(CSS classes, RGBA picture)`` between the picture and the boxes, each stretched over all of it.
        alt: what a screen reader says.
    """
    height, width = pixels.shape[:2]
    base = f'<img alt="{html.escape(alt)}" src="{data_address(Image.fromarray(pixels))}">'
    over = "".join(f'<img alt="" class="{names}" src="{data_address(layer)}">' for names, layer in layers)
    drawn = "".join(map(_box, marks)) + "".join(_labels([mark for mark in marks if mark.label]))
    return f'<div class="picture" style="--ratio: {width / height:.4f}; aspect-ratio: {width} / {height}">{base}{over}{drawn}</div>'


def _percent(mark: Mark) -> list[float]:
    return [min(max(100 * float(value), 0), 100) for value in mark.box]


def _box(mark: Mark) -> str:
    left, top, right, bottom = _percent(mark)
    place = f"left: {left:.2f}%; top: {top:.2f}%; width: {right - left:.2f}%; height: {bottom - top:.2f}%"
    return f'<span class="mark {mark.line}" style="--tint: rgb{mark.tint}; {place}"></span>'


def _labels(marks: Sequence[Mark]) -> Iterator[str]:
    """Labels above their boxes, those of the topmost first; one that would hide another goes below it."""
    taken: list[tuple[float, float, float]] = []  # left, right and top of the others
    for mark in reversed(marks):
        left, top, right, _ = _percent(mark)
        width = min(100, 2.2 * len(mark.label) + 2)  # about that in a picture of some 350 pixels
        is_left = left + width <= 100 or left < 100 - right
        begin, end = (left, left + width) if is_left else (right - width, right)
        level = max(top - ROW, 0)
        while any(
            begin < other_end and other < end and abs(level - other_top) < ROW for other, other_end, other_top in taken
        ):
            level += ROW
        level = min(level, 100 - ROW)
        taken.append((begin, end, level))
        side = (
            f"left: {left:.2f}%; max-width: {100 - left:.2f}%"
            if is_left
            else f"right: {100 - right:.2f}%; max-width: {right:.2f}%"
        )
        yield f'<span class="name" style="--tint: rgb{mark.tint}; {side}; top: {level:.2f}%">{html.escape(mark.label)}</span>'


def veil(mask: np.ndarray, tint: Colour) -> Image.Image:
    """A mask, bool ``(H, W)``, as a half-transparent layer."""
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask] = (*tint, 120)
    return Image.fromarray(layer, "RGBA")


def heat(values: np.ndarray) -> Image.Image:
    """A heat map, float ``(h, w)``, as a layer: dark where nothing is, brightest at its highest value, however high that is."""
    share = np.clip(values / max(float(values.max()), 1e-12), 0, 1)
    layer = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    alpha = (140 + 60 * share).astype(np.uint8)
    return Image.fromarray(np.dstack([layer, alpha]), "RGBA")
