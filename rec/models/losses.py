"""Losses the heads share, all in float32 (float64 stays) whatever the autocast dtype."""

from collections.abc import Callable

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_pixels(boxes: Tensor, width: int, height: int) -> Tensor:
    """``(B, 4)`` cxcywh boxes from fractions to pixels; by plain numbers, so that a device is not waited for."""
    if width == height:
        return boxes * width
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack([cx * width, cy * height, w * width, h * height], -1)


def overlap_and_union(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of ``(..., 4)`` cxcywh boxes, any unit.

    Written without ``prod``, whose backward pass reads a number back from the device.
    """
    low, high, other_low, other_high = *_edges(boxes), *_edges(targets)
    width, height = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0).unbind(-1)
    overlap = width * height
    area, other_area = (torch.mul(*box[..., 2:].unbind(-1)) for box in (boxes, targets))
    return overlap, area + other_area - overlap


def centred_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """IoU of ``(..., 4)`` cxcywh boxes with finite gradients, also of boxes without area."""
    overlap, union = overlap_and_union(boxes, targets)
    return overlap / (union + 1e-16)


def _edges(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Left and top, right and bottom of ``(..., 4)`` cxcywh boxes: two ``(..., 2)``."""
    centre, size = boxes.split(2, -1)
    half = size / 2
    return centre - half, centre + half


def _hull(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the smallest box around both."""
    low, high, other_low, other_high = *_edges(boxes), *_edges(targets)
    width, height = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).unbind(-1)
    return width, height


def squared_iou_loss(iou: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - IoU^2``, the loss of YOLOX and SimREC; arguments as for :data:`BOX_LOSSES`."""
    return 1 - iou**2


def giou_loss(iou: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - GIoU``: Rezatofighi et al., "Generalized IoU", CVPR 2019; arguments as for :data:`BOX_LOSSES`."""
    _, union = overlap_and_union(boxes, targets)
    width, height = _hull(boxes, targets)
    area = width * height
    return 1 - iou + (area - union) / area.clamp(min=1e-16)


def diou_loss(iou: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - DIoU``: Zheng et al., "Distance-IoU Loss", AAAI 2020; arguments as for :data:`BOX_LOSSES`."""
    width, height = _hull(boxes, targets)
    distance = (boxes[..., :2] - targets[..., :2]).square().sum(-1)
    return 1 - iou + distance / (width**2 + height**2).clamp(min=1e-16)


# (IoU of the pairs (...), boxes (..., 4), targets (..., 4)) to losses (...); boxes cxcywh, any unit.
BOX_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
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


def weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    """Losses ``(B, ...)`` times the weight ``(B,)`` of each phrase; None leaves them as they are."""
    return values if weight is None else values * weight.view(-1, *[1] * (values.dim() - 1))


def mask_cross_entropy(logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of ``(B, 1, S, S)`` logits against a soft uint8 mask 0-255 of the same shape; ``weight``
    ``(B,)`` multiplies the loss of each phrase.
    """
    target = mask.to(logits.dtype) / 255
    if weight is None:
        return F.binary_cross_entropy_with_logits(logits, target)
    return weighted(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), weight).mean()


def dice_loss(logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """``1 - Dice`` per image, averaged; arguments as for :func:`mask_cross_entropy`.

    Milletari et al., "V-Net", 3DV 2016. Cross-entropy alone is content with small objects left out; Dice counts
    overlap, whatever the size.
    """
    probability, target = logits.sigmoid().flatten(1), mask.to(logits.dtype).flatten(1) / 255
    overlap = (probability * target).sum(1)
    return weighted(1 - (2 * overlap + 1) / (probability.sum(1) + target.sum(1) + 1), weight).mean()
