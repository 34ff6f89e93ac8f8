"""SimREC's loss the way the original computes it: image by image, with boolean masks and numbers read back.

The mathematics is that of :mod:`rec.models.assignment` and :class:`rec.models.heads.REChead`, after YOLOX (Ge et al.,
2021), for any number of objects per image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rec.models.losses import BOX_LOSSES


def plain_losses(
    raw: Tensor, label: Tensor, stride: int, box_weight: float = 5.0, box_loss: str = "iou"
) -> dict[str, Tensor]:
    """Losses of raw outputs ``(B, 5, H, W)`` against ``label`` ``(B, N, 4)`` cxcywh fractions; zero rows: no object."""
    batch, _, height, width = raw.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack((columns, rows), 2).view(1, -1, 2).type(raw.dtype).to(raw.device)
    outputs = raw.flatten(2).permute(0, 2, 1)
    boxes = torch.cat([(outputs[..., :2] + grid) * stride, torch.exp(outputs[..., 2:4]) * stride], -1)
    objectness = outputs[..., 4:5]
    label = label * (width * stride)
    counts = (label.sum(2) > 0).sum(1)
    box_targets, object_targets, positives, total = [], [], [], 0.0
    for image in range(batch):
        count = int(counts[image])
        if count == 0:
            box_target = outputs.new_zeros((0, 4))
            object_target = outputs.new_zeros((height * width, 1))
            positive = outputs.new_zeros(height * width).bool()
        else:
            truth = label[image, :count]
            positive, matched, found = assign(truth, boxes[image], grid[0, :, 0], grid[0, :, 1], stride)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            total += found
            object_target = positive.unsqueeze(-1).to(outputs.dtype)
            box_target = truth[matched]
        box_targets.append(box_target)
        object_targets.append(object_target)
        positives.append(positive)
    targets, wanted, positive = torch.cat(box_targets), torch.cat(object_targets), torch.cat(positives)
    number = max(total, 1)
    answers = boxes.reshape(-1, 4)[positive]
    loss_iou = BOX_LOSSES[box_loss](elementwise_iou(answers, targets), answers, targets).sum() / number
    loss_obj = F.binary_cross_entropy_with_logits(objectness.reshape(-1, 1), wanted, reduction="none").sum() / number
    return {"loss": box_weight * loss_iou + loss_obj, "loss_iou": loss_iou, "loss_obj": loss_obj}


@torch.no_grad()
def assign(truth: Tensor, boxes: Tensor, columns: Tensor, rows: Tensor, stride: int) -> tuple[Tensor, Tensor, float]:
    """Dynamic assignment of one image.

    Returns:
        bool ``(cells,)`` positives, the object of each positive, their number.
    """
    count, cells = len(truth), len(boxes)
    positive, both = candidates(truth, columns, rows, stride)
    boxes = boxes[positive]
    ious = pairwise_iou(truth, boxes)
    cost = 3.0 * -torch.log(ious + 1e-8) + 100000.0 * (~both)
    matching = torch.zeros_like(cost)
    best, _ = torch.topk(ious, min(10, ious.size(1)), dim=1)
    wanted = torch.clamp(best.sum(1).int(), min=1)
    for object_number in range(count):
        _, places = torch.topk(cost[object_number], k=int(wanted[object_number].item()), largest=False)
        matching[object_number][places] = 1.0
    owners = matching.sum(0)
    if (owners > 1).sum() > 0:
        _, cheapest = torch.min(cost[:, owners > 1], dim=0)
        matching[:, owners > 1] *= 0.0
        matching[cheapest, owners > 1] = 1.0
    chosen = matching.sum(0) > 0.0
    found = chosen.sum().item()
    positive[positive.clone()] = chosen
    matched = matching[:, chosen].argmax(0)
    _ = (matching * ious).sum(0)[chosen]  # the original keeps the overlaps for a class target that it does not have
    assert positive.shape == (cells,)
    return positive, matched, found


def candidates(truth: Tensor, columns: Tensor, rows: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Cells inside an object or near its centre: bool ``(cells,)``; and of those which are both: ``(objects, n)``."""
    count = len(truth)
    x = ((columns * stride) + 0.5 * stride).unsqueeze(0).repeat(count, 1)
    y = ((rows * stride) + 0.5 * stride).unsqueeze(0).repeat(count, 1)
    cells = x.shape[1]
    left = (truth[:, 0] - 0.5 * truth[:, 2]).unsqueeze(1).repeat(1, cells)
    right = (truth[:, 0] + 0.5 * truth[:, 2]).unsqueeze(1).repeat(1, cells)
    top = (truth[:, 1] - 0.5 * truth[:, 3]).unsqueeze(1).repeat(1, cells)
    bottom = (truth[:, 1] + 0.5 * truth[:, 3]).unsqueeze(1).repeat(1, cells)
    inside = torch.stack([x - left, y - top, right - x, bottom - y], 2).min(dim=-1).values > 0.0
    inside_any = inside.sum(dim=0) > 0
    radius = 2.5 * stride
    left = truth[:, 0].unsqueeze(1).repeat(1, cells) - radius
    right = truth[:, 0].unsqueeze(1).repeat(1, cells) + radius
    top = truth[:, 1].unsqueeze(1).repeat(1, cells) - radius
    bottom = truth[:, 1].unsqueeze(1).repeat(1, cells) + radius
    near = torch.stack([x - left, y - top, right - x, bottom - y], 2).min(dim=-1).values > 0.0
    near_any = near.sum(dim=0) > 0
    either = inside_any | near_any
    return either, inside[:, either] & near[:, either]


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """``(n, m)`` IoU of cxcywh boxes; 0 where they do not overlap."""
    low = torch.max(first[:, None, :2] - first[:, None, 2:] / 2, second[:, :2] - second[:, 2:] / 2)
    high = torch.min(first[:, None, :2] + first[:, None, 2:] / 2, second[:, :2] + second[:, 2:] / 2)
    overlapping = (low < high).type(low.type()).prod(dim=2)
    overlap = torch.prod(high - low, 2) * overlapping
    return overlap / (torch.prod(first[:, 2:], 1)[:, None] + torch.prod(second[:, 2:], 1) - overlap)


def elementwise_iou(boxes: Tensor, targets: Tensor) -> Tensor:
    """``(n,)`` IoU of cxcywh boxes with their targets."""
    low = torch.max(boxes[:, :2] - boxes[:, 2:] / 2, targets[:, :2] - targets[:, 2:] / 2)
    high = torch.min(boxes[:, :2] + boxes[:, 2:] / 2, targets[:, :2] + targets[:, 2:] / 2)
    overlapping = (low < high).type(low.type()).prod(dim=1)
    overlap = torch.prod(high - low, 1) * overlapping
    area, other = torch.prod(boxes[:, 2:], 1), torch.prod(targets[:, 2:], 1)
    return overlap / (area + other - overlap + 1e-16)
