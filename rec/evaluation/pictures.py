"""Boxes, masks and phrases drawn on images; grids of predictions."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rec.contracts import DataSet
from rec.data.masks import decode
from rec.errors import InputError
from rec.files import user_path, whole_file

Colour = tuple[int, int, int]
TRUE, PREDICTED = (46, 160, 67), (218, 54, 51)  # green: the truth; red: the answer
_PALETTE = (PREDICTED, (9, 105, 218), (154, 103, 0), (130, 80, 223), (27, 124, 131), (207, 34, 142))
_CAPTION_LINES = 3


def colour(number: int) -> Colour:
    """The colour of the n-th of several answers on one image."""
    return _PALETTE[number % len(_PALETTE)]


def data_address(picture: Image.Image) -> str:
    """A picture as a ``data:`` address: JPEG, or PNG where it has transparency."""
    buffer = io.BytesIO()
    kind = "png" if picture.mode == "RGBA" else "jpeg"
    (picture if kind == "png" else picture.convert("RGB")).save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def shrunk(pixels: np.ndarray, scale: float) -> np.ndarray:
    """An image uint8 ``(H, W, 3)`` at ``scale`` of its size, no side below one pixel; itself from 1 on."""
    if scale >= 1:
        return pixels
    height, width = pixels.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def annotate(
    image: np.ndarray,
    marks: Sequence[tuple[Sequence[float] | np.ndarray | None, Colour, str]] = (),
    masks: Sequence[tuple[np.ndarray, Colour]] = (),
    caption: str = "",
) -> Image.Image:
    """A copy of an image with boxes, labels, half-transparent masks, and a caption on a strip below.

    Args:
        image: uint8 ``(H, W, 3)`` RGB.
        marks: ``(box xyxy in pixels or None, colour, label)`` each.
        masks: ``(bool (H, W), colour)`` each.
        caption: Wrapped to the image's width.
    """
    pixels = image
    for mask, tint in masks:
        pixels = np.where(mask[..., None], pixels // 2 + np.array(tint, np.uint8) // 2, pixels)
    picture = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
    draw = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 200))
    font = ImageFont.load_default(max(10, round(max(picture.size) / 32)))
    for box, tint, label in marks:
        if box is None:
            continue
        left, right = (min(max(float(v), 0), picture.width - 1) for v in (box[0], box[2]))
        top, bottom = (min(max(float(v), 0), picture.height - 1) for v in (box[1], box[3]))
        # Pillow refuses a rectangle whose corners are in the wrong order.
        x0, y0, x1, y1 = min(left, right), min(top, bottom), max(left, right), max(top, bottom)
        draw.rectangle([x0 - 1, y0 - 1, x1 + 1, y1 + 1], outline="white", width=line + 2)  # red on red would not show
        draw.rectangle([x0, y0, x1, y1], outline=tint, width=line)
        if label:
            size = draw.textbbox((0, 0), label, font=font)
            x, y = max(0, min(left, picture.width - size[2] - 4)), max(0, top - size[3] - 4)
            draw.rectangle([x, y, x + size[2] + 4, y + size[3] + 4], fill=tint)
            draw.text((x + 2, y + 1), label, fill="white", font=font)
    return _with_caption(picture, caption) if caption else picture


def _with_caption(picture: Image.Image, caption: str) -> Image.Image:
    font = ImageFont.load_default(13)
    rows, row = [], ""
    for word in caption.split():
        if row and font.getlength(f"{row} {word}") > picture.width - 8:
            rows.append(row)
            row = word
        else:
            row = f"{row} {word}".strip()
    rows = [*rows, row][:_CAPTION_LINES]
    strip = Image.new("RGB", (picture.width, picture.height + 17 * _CAPTION_LINES + 4), "white")
    strip.paste(picture)
    ImageDraw.Draw(strip).multiline_text((4, picture.height + 1), "\n".join(rows), fill="black", font=font, spacing=3)
    return strip


def check_ending(path: str | os.PathLike[str]) -> None:
    """Makes sure that pictures can be written in the format of the path's ending.

    Raises:
        InputError: they cannot.
    """
    ending = os.path.splitext(path)[1]
    Image.init()
    if Image.registered_extensions().get(ending.lower()) not in Image.SAVE:
        raise InputError(
            f"{os.fspath(path)}: pictures cannot be written as {ending or 'a file without ending'}; use .png or .jpg"
        )


def save(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture in the format of the path's ending, whole or not at all.

    Raises:
        InputError: there is no such format.
        OSError: it cannot be written.
    """
    check_ending(path)
    with whole_file(user_path(path)) as temporary:
        picture.save(temporary)


class Shown(NamedTuple):
    """A prediction's image, small, with what is drawn on it.

    Attributes:
        image: uint8 ``(h, w, 3)`` RGB.
        size: height and width of the original, in whose pixels boxes are.
        masks: ``(bool (h, w), colour)``, the true one first.
    """

    image: np.ndarray
    size: tuple[int, int]
    masks: list[tuple[np.ndarray, Colour]]


def shown(dataset: DataSet, record: Mapping[str, Any], side: int) -> Shown:
    """The letterboxed image of a line of ``predictions.jsonl`` without its padding, its longer side of ``side`` pixels."""
    sample = dataset[record["index"]]
    h, w, nh, nw, dx, dy = (int(v) for v in sample["geometry"])
    scale = side / max(nh, nw)
    size = max(1, round(nw * scale)), max(1, round(nh * scale))
    image = np.ascontiguousarray(sample["image"].permute(1, 2, 0).numpy()[dy : dy + nh, dx : dx + nw])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    masks = []
    if record.get("mask") is not None:
        for mask, tint in ((dataset.target_mask(record["index"]), TRUE), (decode(record["mask"]), PREDICTED)):
            if mask is not None:
                masks.append((cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0, tint))
    return Shown(image, (h, w), masks)


def marked_boxes(record: Mapping[str, Any]) -> list[tuple[list[float], Colour]]:
    """The true boxes of a record, then those of its answer, xyxy in pixels of the original, with their colours."""
    found: list[tuple[list[float], Colour]] = []
    for one, many, tint in (("target", "targets", TRUE), ("box", "boxes", PREDICTED)):
        found += [(box, tint) for box in record.get(many) or [record.get(one)] if box is not None]
    return found


def picture_of(dataset: DataSet, record: Mapping[str, Any], side: int = 320) -> Image.Image:
    """One prediction on its image: true box and mask green, predicted ones red, phrase and IoU below.

    Args:
        dataset: The data set the record is from; its letterboxed image is drawn on.
        record: A line of ``predictions.jsonl``.
        side: Length of the image's longer side in the picture.
    """
    image, (h, w), masks = shown(dataset, record, side)
    factors = np.array([image.shape[1] / w, image.shape[0] / h] * 2)
    marks = [(np.array(box) * factors, tint, "") for box, tint in marked_boxes(record)]
    iou = "" if record.get("iou") is None else f"  (IoU {record['iou']:.2f})"
    return annotate(image, marks, masks, f"{record.get('sentence') or ''}{iou}")


def grid(pictures: Sequence[Image.Image], columns: int = 6, gap: int = 8) -> Image.Image:
    """Pictures in rows that they fill: about ``columns`` in each, in their order, none smaller than it was.

    Raises:
        ValueError: no picture.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture; no predictions were made")
    # Rows of about the same width at one height; as wide as the widest, the others then grow a little.
    aspects = np.array([picture.width / picture.height for picture in pictures])
    count = max(1, round(len(pictures) / columns))
    row_of = np.minimum(((aspects.cumsum() - aspects / 2) / aspects.sum() * count).astype(int), count - 1)
    rows = [np.flatnonzero(row_of == row) for row in range(count) if (row_of == row).any()]
    # What no caption of a row needs of its strip is left out.
    pictures = list(pictures)
    for row in rows:
        spare = min(_white_below(pictures[i]) for i in row)
        for i in row:
            pictures[i] = pictures[i].crop((0, 0, pictures[i].width, pictures[i].height - max(spare - gap, 0)))
            aspects[i] = pictures[i].width / pictures[i].height
    width = round(max(aspects[row].sum() * max(pictures[i].height for i in row) + gap * (len(row) - 1) for row in rows))
    heights = [round((width - gap * (len(row) - 1)) / aspects[row].sum()) for row in rows]
    sheet = Image.new("RGB", (width + 2 * gap, sum(heights) + gap * (len(rows) + 1)), "white")
    top = gap
    for row, height in zip(rows, heights, strict=True):
        edges = np.round(
            np.append(0, aspects[row].cumsum() / aspects[row].sum()) * (width - gap * (len(row) - 1))
        ).astype(int)
        for place, i in enumerate(row):
            size = (int(edges[place + 1] - edges[place]), height)
            tile = pictures[i] if pictures[i].size == size else pictures[i].resize(size, Image.Resampling.LANCZOS)
            sheet.paste(tile, (gap + int(edges[place]) + gap * place, top))
        top += height + gap
    return sheet


def _white_below(picture: Image.Image) -> int:
    """How many of the lowest lines are white."""
    coloured = np.flatnonzero(np.asarray(picture.convert("L")).min(1) < 250)
    return picture.height - 1 - int(coloured[-1]) if len(coloured) else 0


def prediction_grid(dataset: DataSet, records: Sequence[Mapping[str, Any]], count: int = 24) -> Image.Image:
    """A grid of ``count`` predictions, evenly spaced through the split, so that it shows hits and misses alike."""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return grid([picture_of(dataset, records[i], side=256) for i in chosen])
