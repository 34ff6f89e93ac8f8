"""Losses the heads share, all in float32 (float64 stays) whatever the autocast dtype."""

from collections.abc import Callable

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from rec.boxes import cxcywh_to_xyxy


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_pixels(boxes: Tensor, width: int, height: int) -> Tensor:
    """``(B, 4)`` cxcywh boxes from fractions to pixels; plain numbers, so that a device is not waited for."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx * width, cy * height, w * width, h * height], -1)


def squared_iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - IoU^2`` of ``(..., 4)`` cxcywh boxes, any unit; the loss of YOLOX and SimREC."""
    overlap, union, _, _ = _overlap(boxes, targets)
    return 1 - (overlap / (union + 1e-16)) ** 2


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - GIoU`` of ``(..., 4)`` cxcywh boxes: Rezatofighi et al., "Generalized IoU", CVPR 2019."""
    overlap, union, hull, _ = _overlap(boxes, targets)
    area = hull.prod(-1)
    return 1 - overlap / (union + 1e-16) + (area - union) / area.clamp(min=1e-16)


def diou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - DIoU`` of ``(..., 4)`` cxcywh boxes: Zheng et al., "Distance-IoU Loss", AAAI 2020."""
    overlap, union, hull, offset = _overlap(boxes, targets)
    return 1 - overlap / (union + 1e-16) + offset.square().sum(-1) / hull.square().sum(-1).clamp(min=1e-16)


def _overlap(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Intersection area, union area, size of the enclosing box, distance of the centres."""
    corners, others = cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets)
    size = torch.minimum(corners[..., 2:], others[..., 2:]) - torch.maximum(corners[..., :2], others[..., :2])
    hull = torch.maximum(corners[..., 2:], others[..., 2:]) - torch.minimum(corners[..., :2], others[..., :2])
    overlap = size.clamp(min=0).prod(-1)
    union = boxes[..., 2:].prod(-1) + targets[..., 2:].prod(-1) - overlap
    return overlap, union, hull, boxes[..., :2] - targets[..., :2]


BOX_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": squared_iou_loss,
    "giou": giou_loss,
    "diou": diou_loss,
}


def mean_over_processes(count: Tensor) -> Tensor:
    """Mean of a 0-dimensional ``count`` over the processes of a data-parallel run; itself in a single process.

    Data parallelism averages the gradients of per-process losses. A loss divided by this mean adds up to what one
    process would compute on the whole batch; divided by its own count it weights processes with few objects more.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    count = count.clone()
    torch.distributed.all_reduce(count)
    return count / torch.distributed.get_world_size()


def mask_cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean binary cross-entropy of ``(B, 1, S, S)`` logits against a soft uint8 mask 0-255 of the same shape."""
    return F.binary_cross_entropy_with_logits(logits, mask.to(logits.dtype) / 255)


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """``1 - Dice`` per image, averaged; arguments as for :func:`mask_cross_entropy`.

    Milletari et al., "V-Net", 3DV 2016. Cross-entropy alone is content with small objects left out; Dice counts
    overlap, whatever the size.
    """
    probability, target = logits.sigmoid().flatten(1), mask.to(logits.dtype).flatten(1) / 255
    overlap = (probability * target).sum(1)
    return (1 - (2 * overlap + 1) / (probability.sum(1) + target.sum(1) + 1)).mean()
