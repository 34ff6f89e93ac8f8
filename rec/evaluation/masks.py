"""Masks and heat maps on their way back from the letterboxed square to the image, and masks' overlap with the truth."""

import cv2
import numpy as np


def to_image(
    probability: np.ndarray, geometry: np.ndarray, threshold: float = 0.5, any_overlap: bool = False
) -> np.ndarray:
    """A mask predicted on the letterboxed square, as a mask of the original image.

    Args:
        probability: float ``(S, S)``, 0-1 for each letterboxed pixel.
        geometry: ``(6,)`` letterbox record (see :mod:`rec.boxes`).
        threshold: A pixel is on where its probability is above this.
        any_overlap: SimREC's arithmetic: threshold first, resize the 0/1 mask, and count every value above 0 as on,
            which grows the mask by part of a pixel. Published mask figures need it.

    Returns:
        bool ``(h, w)`` at the original image's size.
    """
    h, w = (int(v) for v in geometry[:2])
    kept = inside(probability, geometry)
    if any_overlap:
        return cv2.resize((kept > threshold).astype(np.float32), (w, h), interpolation=cv2.INTER_LINEAR) > 0
    return cv2.resize(kept, (w, h), interpolation=cv2.INTER_LINEAR) > threshold


def heat_map(scores: np.ndarray, geometry: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Where a head looked: its cells' scores as a map of the image.

    Args:
        scores: float ``(N,)``, 0-1, of the cells as (anchors, rows, columns); of a place the best anchor counts.
        geometry: ``(6,)`` letterbox record (see :mod:`rec.boxes`).
        size: S, side of the letterboxed square.
        stride: pixels of the square that a cell spans.

    Returns:
        float32 ``(nh, nw)``: the image as large as it is in the square; between the middles of cells it is bilinear.
    """
    side = size // stride
    square = cv2.resize(scores.astype(np.float32).reshape(-1, side, side).max(0), (size, size))
    return inside(square, geometry)


def inside(square: np.ndarray, geometry: np.ndarray) -> np.ndarray:
    """The part ``(nh, nw)`` of a square ``(S, S)`` that the image covers, float32, contiguous."""
    _, _, nh, nw, dx, dy = (int(v) for v in geometry)
    return np.ascontiguousarray(square[dy : dy + nh, dx : dx + nw], np.float32)


def overlap(predicted: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two ``(h, w)`` masks.

    Raises:
        ValueError: the masks are of different sizes.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted mask is {predicted.shape}, target mask is {target.shape}; sizes must be equal")
    predicted, target = predicted.astype(bool), target.astype(bool)
    return int(np.count_nonzero(predicted & target)), int(np.count_nonzero(predicted | target))
