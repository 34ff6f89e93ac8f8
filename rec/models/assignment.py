"""Dynamic assignment: which cells of an anchor-free head are to predict which object.

SimOTA (Ge et al., "YOLOX: Exceeding YOLO Series in 2021") without classes. For each object G, cells with centre c and predicted
boxes P:

1. candidates: c inside G, or within 2.5 strides of G's centre on both axes;
2. cost(P) = -3 ln(IoU(P, G) + 1e-8), plus 100,000 where c is not both inside G and near its centre;
3. k = max(1, floor(sum of the 10 largest candidate IoUs));
4. the k candidates of lowest cost are positive;
5. a cell that several objects want goes to the one that its box overlaps most.

The logarithm stays below 56, so the cost orders candidates by (both inside and near, IoU): IoU + 2 [both], largest
first, is the same order. All images at once, without a loop and without waiting for a device: k <= 10, so positives
are among the first 10.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CENTRE_RADIUS = 2.5  # strides
MAX_POSITIVES = 10


class Assignment(NamedTuple):
    """Positive cells of objects; of one per image without the dimension T.

    Attributes:
        cells: int64 ``(B, T, K)`` cell numbers, cheapest first, K <= 10.
        positive: bool ``(B, T, K)``: the first k of each row, less those that went to another object; none where there is no
            object. Where an object has not so many, ``cells`` repeats the first entry of its row: gathering is always safe.
    """

    cells: Tensor
    positive: Tensor


def cell_numbers(like: Tensor) -> Tensor:
    """``(H * W, 2)`` column and row of the cells of ``like`` ``(B, C, H, W)``, row by row, in its dtype and place."""
    height, width = like.shape[2:]
    rows = torch.arange(height, dtype=like.dtype, device=like.device)
    columns = torch.arange(width, dtype=like.dtype, device=like.device)
    # expand, not repeat_interleave: ONNX export fixes the latter's count to the example's
    return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1).flatten(0, 1)


@torch.no_grad()
def dynamic_assignment(iou: Tensor, targets: Tensor, centres: Tensor, stride: int) -> Assignment:
    """Assigns the cells of every image to its objects, or to its one object where there is no dimension T.

    Args:
        iou: ``(B, T, N)`` or ``(B, N)`` IoU of the box each cell predicts with the objects of its image.
        targets: ``(B, T, 4)`` or ``(B, 4)`` cxcywh, pixels; a row of zeros means no object.
        centres: ``(N, 2)`` cell centres, pixels.
        stride: pixels per cell.
    """
    targets = targets[..., None, :]
    offset = (centres - targets[..., :2]).abs()
    inside = (offset < targets[..., 2:] / 2).all(-1)
    near = (offset < CENTRE_RADIUS * stride).all(-1)
    candidate = (inside | near) & (targets.sum(-1) > 0)

    limit = min(MAX_POSITIVES, iou.shape[-1])
    count = (iou * candidate).topk(limit).values.sum(-1, keepdim=True).clamp(min=1)
    merit, cells = torch.where(candidate, iou + 2 * (inside & near), -1).topk(limit)
    rank = torch.arange(1, limit + 1, device=iou.device)
    positive = (rank <= count) & (merit >= 0)
    cells = cells.where(positive, cells[..., :1])
    if iou.dim() == 3 and iou.shape[1] > 1:
        # What each object wants; where it wants nothing, -1, so that the cell's owner is among those that do.
        overlap = iou.gather(2, cells).where(positive, -1)
        wanted = torch.full_like(iou, -1).scatter_reduce(2, cells, overlap, "amax")
        owner = wanted.max(1, keepdim=True).indices.expand_as(iou).gather(2, cells)  # argmax takes ten times as long
        positive &= owner == torch.arange(iou.shape[1], device=iou.device)[:, None]
    return Assignment(cells, positive)
