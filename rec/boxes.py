"""Box formats and letterbox coordinates: the one place that converts boxes.

Every function takes NumPy arrays or torch tensors of shape ``(..., 4)`` and returns the same kind, dtype and device.

Formats: ``xyxy`` = left, top, right, bottom; ``xywh`` = left, top, width, height (COCO); ``cxcywh`` = centre, size;
``yxyx`` = top, left, bottom, right (Gemini, PaliGemma, TensorFlow).

``geometry`` is the letterbox record of one image, float ``(..., 6)``: ``h, w`` of the original image, ``nh, nw`` of the
resized image inside the square, ``dx, dy`` of its top-left corner in the square, all in pixels. It is made by
:func:`letterbox_geometry` (SimREC's rule: long side equal to the square, other side truncated, centred by floor).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

FORMATS = ("xywh", "xyxy", "cxcywh", "yxyx")
GUESSED = FORMATS[:3]  # what boxes of a wrong format are said to look like; the last one fits wherever xyxy does
MIN_VISIBLE = 0.01  # pixels of width and of height that must lie in the image: the precision of COCO's boxes


def _stack(parts: list[Any]) -> Any:
    if isinstance(parts[0], np.ndarray | np.generic):
        # np.stack costs a single box ten times as much.
        return np.stack(parts, -1) if parts[0].ndim else np.array(parts)
    import torch

    return torch.stack(parts, -1)


def xywh_to_xyxy(boxes: Array) -> Array:
    """``(..., 4)`` xywh to xyxy, same units."""
    x, y, w, h = (boxes[..., i] for i in range(4))
    return _stack([x, y, x + w, y + h])


def xyxy_to_xywh(boxes: Array) -> Array:
    """``(..., 4)`` xyxy to xywh, same units."""
    left, top, right, bottom = (boxes[..., i] for i in range(4))
    return _stack([left, top, right - left, bottom - top])


def cxcywh_to_xyxy(boxes: Array) -> Array:
    """``(..., 4)`` cxcywh to xyxy, same units."""
    cx, cy, w, h = (boxes[..., i] for i in range(4))
    left, top = cx - w / 2, cy - h / 2
    return _stack([left, top, left + w, top + h])


def xyxy_to_cxcywh(boxes: Array) -> Array:
    """``(..., 4)`` xyxy to cxcywh, same units."""
    left, top, right, bottom = (boxes[..., i] for i in range(4))
    return _stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])


def to_xyxy(boxes: Array, box_format: str) -> Array:
    """``(..., 4)`` of any of :data:`FORMATS` to xyxy, same units."""
    if box_format == "yxyx":
        return boxes[..., [1, 0, 3, 2]]
    return {"xywh": xywh_to_xyxy, "cxcywh": cxcywh_to_xyxy}[box_format](boxes) if box_format != "xyxy" else boxes


def xywh_of(box: Sequence[float], box_format: str) -> list[float]:
    """One box of any of :data:`FORMATS` as xywh: four plain numbers, as annotation files hold them."""
    a, b, c, d = box
    if box_format == "cxcywh":
        left, top = a - c / 2, b - d / 2
        return [left, top, (left + c) - left, (top + d) - top]
    if box_format == "yxyx":
        return [b, a, d - b, c - a]
    return [a, b, c - a, d - b] if box_format == "xyxy" else [a, b, c, d]


def is_visible(box: Sequence[float] | np.ndarray, height: int, width: int) -> bool:
    """Whether at least :data:`MIN_VISIBLE` pixels of a box's width and height, xyxy, lie in an image of that size."""
    left, top, right, bottom = (float(value) for value in box)
    return min(right, width) - max(left, 0) >= MIN_VISIBLE and min(bottom, height) - max(top, 0) >= MIN_VISIBLE


def letterbox_geometry(height: int, width: int, size: int) -> np.ndarray:
    """Letterbox record for an image of ``height`` x ``width`` pixels in a square of ``size`` pixels.

    Returns:
        float32 ``(6,)``: h, w, nh, nw, dx, dy.
    """
    # SimREC truncates in floating point; integer arithmetic is one pixel off for e.g. 624 x 360.
    aspect = width / height
    new_height, new_width = (size, int(size * aspect)) if aspect < 1 else (int(size / aspect), size)
    new_height, new_width = max(1, new_height), max(1, new_width)
    dx, dy = (size - new_width) // 2, (size - new_height) // 2
    return np.array([height, width, new_height, new_width, dx, dy], np.float32)


def to_letterbox(boxes: Array, geometry: Array) -> Array:
    """``(..., 4)`` xyxy in original pixels to xyxy in letterboxed pixels; ``geometry`` is ``(..., 6)``."""
    h, w, nh, nw, dx, dy = (geometry[..., i] for i in range(6))
    left, top, right, bottom = (boxes[..., i] for i in range(4))
    return _stack([left * nw / w + dx, top * nh / h + dy, right * nw / w + dx, bottom * nh / h + dy])


def from_letterbox(boxes: Array, geometry: Array) -> Array:
    """``(..., 4)`` xyxy in letterboxed pixels back to xyxy in original pixels; the inverse of :func:`to_letterbox`."""
    h, w, nh, nw, dx, dy = (geometry[..., i] for i in range(6))
    left, top, right, bottom = (boxes[..., i] for i in range(4))
    return _stack([(left - dx) * w / nw, (top - dy) * h / nh, (right - dx) * w / nw, (bottom - dy) * h / nh])


def flip_left_right(boxes: Array, width: float | Array) -> Array:
    """``(..., 4)`` xyxy mirrored in an image (or square) of ``width`` pixels."""
    left, top, right, bottom = (boxes[..., i] for i in range(4))
    return _stack([width - right, top, width - left, bottom])


def box_iou(boxes: Array, others: Array) -> Array:
    """Element-wise intersection over union of two ``(..., 4)`` xyxy sets; 0 where they do not overlap or are empty."""
    overlap, union = _overlap_and_union(boxes, others)
    return overlap / (union + (union <= 0))


def box_giou(boxes: Array, others: Array) -> Array:
    """Element-wise generalised IoU of two ``(..., 4)`` xyxy sets, -1 to 1 (Rezatofighi et al., CVPR 2019)."""
    overlap, union = _overlap_and_union(boxes, others)
    width = _maximum(boxes[..., 2], others[..., 2]) - _minimum(boxes[..., 0], others[..., 0])
    height = _maximum(boxes[..., 3], others[..., 3]) - _minimum(boxes[..., 1], others[..., 1])
    hull = width * height
    return overlap / (union + (union <= 0)) - (hull - union) / (hull + (hull <= 0))


def _overlap_and_union(boxes: Array, others: Array) -> tuple[Array, Array]:
    left = _maximum(boxes[..., 0], others[..., 0])
    top = _maximum(boxes[..., 1], others[..., 1])
    right = _minimum(boxes[..., 2], others[..., 2])
    bottom = _minimum(boxes[..., 3], others[..., 3])
    overlap = (right - left).clip(0) * (bottom - top).clip(0)
    return overlap, _area(boxes) + _area(others) - overlap


def _area(boxes: Array) -> Array:
    """0 where corners are in the wrong order: two negative sides must not make an area."""
    return (boxes[..., 2] - boxes[..., 0]).clip(0) * (boxes[..., 3] - boxes[..., 1]).clip(0)


def suppress(found: np.ndarray, scores: np.ndarray, most: int, iou: float, threshold: float = -np.inf) -> list[int]:
    """Greedy non-maximum suppression, best first; equal scores in their order.

    Args:
        found: ``(N, 4)`` xyxy.
        scores: ``(N,)``.
        most: how many are kept.
        iou: a box that overlaps a better one by more than this is left out.
        threshold: so is one whose score is below this.

    Returns:
        The numbers of those that are kept.
    """
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if len(kept) == most or not scores[i] >= threshold:  # one that is not a number is below every threshold
            break
        if not kept or box_iou(found[kept], found[i]).max() <= iou:
            kept.append(int(i))
    return kept


def _maximum(a: Array, b: Array) -> Array:
    return np.maximum(a, b) if isinstance(a, np.ndarray | np.generic) else a.maximum(b)


def _minimum(a: Array, b: Array) -> Array:
    return np.minimum(a, b) if isinstance(a, np.ndarray | np.generic) else a.minimum(b)
