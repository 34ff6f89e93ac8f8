"""Heads: feature maps to boxes and masks, with their losses. SimREC's box head is here, the others are re-exported."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rec.boxes import cxcywh_to_xyxy
from rec.models.anchor_head import MCNhead
from rec.models.assignment import cell_numbers, dynamic_assignment
from rec.models.layers import ConvBlock, PredictionConv, check_sizes, logit
from rec.models.losses import BOX_LOSSES, centred_iou, mean_over_processes, to_pixels, weighted
from rec.models.mask_head import MaskHead

__all__ = ["MCNhead", "MaskHead", "REChead"]

VOTED = 100  # answers with a vote where there may be several: a phrase names fewer objects


class REChead(nn.Module):
    """SimREC's head: anchor-free (YOLOX, Ge et al. 2021), no classes; trained on one object per phrase, or on any number.

    A 1x1 stem and two 3x3 blocks; from there every cell predicts a box ``(tx, ty, tw, th)`` and an objectness logit.
    Cell (x, y) of stride s means cx = (tx + x) s, cy = (ty + y) s, w = s exp(tw), h = s exp(th); the box of the cell
    with the highest objectness is the answer. Positive cells are found by
    :func:`~rec.models.assignment.dynamic_assignment`.

    Args:
        label_smooth: objectness targets are clamped to [label_smooth, 1 - label_smooth].
        num_classes: 0; kept for SimREC's configs.
        width: of the tower, times 256 channels.
        strides: one stride: the level the head sits on.
        in_channels: channels of its map, one number.
        act: ``silu``, ``relu`` or ``lrelu``.
        depthwise: tower of depthwise and pointwise blocks.
        use_l1: add an L1 loss on the raw box outputs.
        box_loss: ``iou`` (1 - IoU^2, SimREC's), ``giou`` or ``diou``. ``iou`` gives no gradient to a box that misses
            the object, so a small or new model may stay stuck on a cell beside it; the other two pull it in.
        box_loss_weight: its weight in the total.
        objectness_loss: ``bce``, every cell by itself (SimREC's), or ``softmax``, cross-entropy over the cells of an
            image with the positives sharing the probability: cells compete, as they do for the answer. So there is always
            one, and it cannot be trained on phrases of none or several.
        prior_probability: objectness every cell starts with, instead of one half: without it the first updates go into
            learning that most cells are empty (Lin et al., "Focal Loss", 2017). None leaves torch's initial values.
        normalize_by: the positive cells the losses are divided by: those of the process's ``batch`` (SimREC's); of the
            batches of all data-parallel ``processes`` together, so that the loss is that of the whole; or of each
            ``image`` by itself, then averaged: exact under processes and accumulation alike.
        box_voting: an answer is the mean, weighted by score, of all cells' boxes whose IoU with the best cell's is above
            this (0.5 in "Object detection via a multi-region & semantic segmentation-aware CNN model", Gidaris and
            Komodakis, ICCV 2015). None answers with the best cell's box, as SimREC does. It needs no training: it may be
            set in the config of a trained model.
        iou_aware: a positive cell's objectness is to be the IoU of its box with the object, without a gradient to the
            box, in place of 1: the best score is that of the box that fits best ("IoU-aware single-stage object
            detector", Wu et al., 2020). Scores are lower. Only for ``bce``.

    Raises:
        ValueError: classes, several levels, an unknown loss, activation or ``normalize_by``, a ``box_voting`` outside 0
            to 1, or ``iou_aware`` with softmax objectness are asked for.
    """

    def __init__(
        self,
        label_smooth: float = 0.0,
        num_classes: int = 0,
        width: float = 1.0,
        strides: Sequence[int] = (32,),
        in_channels: Sequence[int] = (512,),
        act: str = "silu",
        depthwise: bool = False,
        use_l1: bool = False,
        box_loss: str = "iou",
        box_loss_weight: float = 5.0,
        objectness_loss: str = "bce",
        prior_probability: float | None = None,
        normalize_by: str = "batch",
        box_voting: float | None = None,
        iou_aware: bool = False,
    ) -> None:
        super().__init__()
        if num_classes:
            raise ValueError(
                f"REChead finds what a phrase names, without classes: num_classes must be 0, not {num_classes}"
            )
        if len(strides) != 1 or len(in_channels) != 1:
            raise ValueError(
                f"REChead sits on one level: strides={list(strides)} and in_channels={list(in_channels)} must have one"
                " entry each"
            )
        if objectness_loss not in ("bce", "softmax"):
            raise ValueError(f"unknown objectness_loss {objectness_loss!r}: expected bce or softmax")
        if box_loss not in BOX_LOSSES:
            raise ValueError(f"unknown box_loss {box_loss!r}: expected one of {', '.join(BOX_LOSSES)}")
        if normalize_by not in ("batch", "processes", "image"):
            raise ValueError(f"unknown normalize_by {normalize_by!r}: expected batch, processes or image")
        if box_voting is not None and (isinstance(box_voting, bool) or not 0 <= box_voting < 1):
            raise ValueError(f"box_voting is an IoU from 0 to below 1, or None, not {box_voting!r}")
        if iou_aware and objectness_loss != "bce":
            raise ValueError("iou_aware scores each cell by itself: it needs objectness_loss=bce, not softmax")
        self.label_smooth, self.use_l1, self.normalize_by = label_smooth, use_l1, normalize_by
        self.box_loss, self.box_loss_weight = box_loss, box_loss_weight
        self.objectness_loss, self.box_voting, self.iou_aware = objectness_loss, box_voting, iou_aware
        self.stride, self.in_channels = strides[0], in_channels[0]
        hidden = int(256 * width)
        check_sizes(strides=self.stride, in_channels=self.in_channels, **{"width times 256": hidden})

        def block() -> nn.Module:
            if depthwise:
                return nn.Sequential(
                    ConvBlock(hidden, hidden, 3, groups=hidden, act=act), ConvBlock(hidden, hidden, act=act)
                )
            return ConvBlock(hidden, hidden, 3, act=act)

        self.stem = ConvBlock(self.in_channels, hidden, act=act)
        self.tower = nn.Sequential(block(), block())
        self.box = PredictionConv(hidden, 4, 1)
        self.objectness = PredictionConv(hidden, 1, 1)
        if prior_probability is not None and self.objectness.bias is not None:
            nn.init.constant_(self.objectness.bias, logit(prior_probability))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to raw outputs, float32 ``(B, 5, H, W)``: tx, ty, tw, th, objectness logit."""
        x = self.tower(self.stem(x))
        return torch.cat([self.box(x), self.objectness(x)], 1)

    def decode(self, raw: Tensor) -> Tensor:
        """Raw outputs ``(B, 5, H, W)`` to boxes ``(B, H * W, 4)``, cxcywh in pixels, cells row by row."""
        return self._boxes(raw.flatten(2).transpose(1, 2), cell_numbers(raw))

    def _boxes(self, values: Tensor, cells: Tensor) -> Tensor:
        """Outputs ``(B, N, 5)`` of the cells at columns and rows ``(N, 2)`` to cxcywh in pixels."""
        # A side of e^20 cells is in no image; larger ones overflow, and their gradient of 0 would become NaN.
        sizes = values[..., 2:4].clamp(max=20).exp()
        return torch.cat([values[..., :2] + cells, sizes], -1) * self.stride

    def predict(self, raw: Tensor) -> dict[str, Tensor]:
        """Raw outputs to ``box`` ``(B, 4)`` xyxy in letterboxed pixels and ``score`` ``(B,)``, 0-1.

        The score is the best cell's objectness; with softmax objectness, the probability of all cells whose boxes overlap
        its box by more than half, since they name the same object.
        """
        logit, cell = raw[:, 4].flatten(1).max(1)
        boxes = self.decode(raw)
        best = boxes.gather(1, cell[:, None, None].expand(-1, 1, 4))
        if self.objectness_loss == "softmax":
            score = (raw[:, 4].flatten(1).softmax(1) * (centred_iou(boxes, best) > 0.5)).sum(1)
        else:
            score = logit.sigmoid()
        return {"box": cxcywh_to_xyxy(self._voted(best, boxes, raw)[:, 0]), "score": score}

    def candidates(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Every cell's answer: boxes ``(B, H * W, 4)`` xyxy in letterboxed pixels, scores ``(B, H * W)``, 0-1.

        With ``box_voting`` the boxes of the :data:`VOTED` best cells are the means of what overlaps them.
        """
        boxes, scores = self.decode(raw), self._scores(raw)
        if self.box_voting is not None:
            cells = scores.topk(min(VOTED, scores.shape[1])).indices[..., None].expand(-1, -1, 4)
            boxes = boxes.scatter(1, cells, self._voted(boxes.gather(1, cells), boxes, raw))
        return cxcywh_to_xyxy(boxes), scores

    def _scores(self, raw: Tensor) -> Tensor:
        """``(B, H * W)``, 0-1."""
        logits = raw[:, 4].flatten(1)
        return logits.softmax(1) if self.objectness_loss == "softmax" else logits.sigmoid()

    def _voted(self, best: Tensor, boxes: Tensor, raw: Tensor) -> Tensor:
        """What stands for cells' boxes ``(B, K, 4)`` among those of all, ``(B, N, 4)`` cxcywh: with ``box_voting`` a mean."""
        if self.box_voting is None:
            return best
        votes = self._scores(raw)[:, None] * (centred_iou(best[:, :, None], boxes[:, None]) > self.box_voting)
        # A vote of its own for the cell, which decides where a box without area overlaps nothing, itself included. Sums and not a
        # matrix product, which autocast would take in half precision.
        own, votes = 1e-30, votes[..., None]
        return ((votes * boxes[:, None]).sum(2) + own * best) / (votes.sum(2) + own)

    @property
    def several(self) -> bool | str:
        """True where it can learn from phrases of none, one or several objects, else the reason why not."""
        if self.objectness_loss != "softmax":
            return True
        return (
            "objectness_loss=softmax shares one probability among the cells of an image, so that a phrase always has exactly "
            "one answer: set model.head.objectness_loss=bce"
        )

    def losses(self, raw: Tensor, box: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Losses of raw outputs ``(B, 5, H, W)`` against the one object of each phrase, or any number of objects.

        Args:
            raw: of :meth:`forward`.
            box: ``(B, 4)`` or ``(B, T, 4)``, cxcywh as fractions of the image. A row of zeros means no object; where a phrase
                has none, all cells of its image are negative.
            weight: ``(B,)``, multiplies the losses of each phrase; what they are divided by does not change.

        Returns:
            ``loss_iou``, ``loss_obj``, with ``use_l1`` ``loss_l1``, and ``loss``, their weighted total. Each is a sum
            over cells divided by the number of positive cells (softmax objectness: of objects), counted as
            ``normalize_by`` says.

        Raises:
            ValueError: several objects for a head with softmax objectness.
        """
        if box.dim() == 3 and self.several is not True:
            raise ValueError(f"REChead cannot learn from phrases of none or several objects: {self.several}")
        target = to_pixels(box.to(raw.dtype), raw.shape[3] * self.stride, raw.shape[2] * self.stride)
        values, numbers = raw.flatten(2).transpose(1, 2), cell_numbers(raw)
        # Taken from the same transposed map as the boxes: gradients of another memory format would change the weights' last bits.
        logits, facing = values[..., 4], target[..., None, :]
        with torch.no_grad():
            everywhere = self._boxes(values, numbers)
            iou = centred_iou(everywhere if box.dim() == 2 else everywhere[:, None], facing)
            cells, positive = dynamic_assignment(iou, target, (numbers + 0.5) * self.stride, self.stride)
        # Only boxes of the cells that were chosen are learnt from, ten of an object at most.
        rows = cells.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
        values, numbers = values.gather(1, rows).unflatten(1, cells.shape[1:]), numbers[cells]
        boxes = self._boxes(values, numbers)
        iou = centred_iou(boxes, facing)
        count = self._count(positive.flatten(1).sum(1, dtype=raw.dtype))
        losses = {"loss_iou": self._total(BOX_LOSSES[self.box_loss](iou, boxes, facing) * positive, count, weight)}

        # An entry that is not positive repeats a cell; adding 0 to it changes nothing, and no cell is positive twice.
        worth = positive * iou.detach() if self.iou_aware else positive.to(logits.dtype)
        is_object = torch.zeros_like(logits).scatter_add(1, cells.flatten(1), worth.flatten(1))
        if self.label_smooth:
            is_object = is_object.clamp(self.label_smooth, 1 - self.label_smooth)
        if self.objectness_loss == "softmax":
            share = is_object / is_object.sum(1, keepdim=True).clamp(min=1)
            entropy = F.cross_entropy(logits, share, reduction="none")[:, None]
            losses["loss_obj"] = self._total(entropy, self._count(positive[:, 0].to(raw.dtype)), weight)
        else:
            entropy = F.binary_cross_entropy_with_logits(logits, is_object, reduction="none")
            losses["loss_obj"] = self._total(entropy, count, weight)
        total = self.box_loss_weight * losses["loss_iou"] + losses["loss_obj"]
        if self.use_l1:
            facing = facing / self.stride
            place = facing[..., :2] - numbers
            wanted = torch.cat([place, (facing[..., 2:] + 1e-8).log().expand_as(place)], -1)
            losses["loss_l1"] = self._total((values[..., :4] - wanted).abs().sum(-1) * positive, count, weight)
            total = total + losses["loss_l1"]
        return {"loss": total, **losses}

    def _count(self, positives: Tensor) -> Tensor:
        """What to divide by, at least 1, for the positives ``(B,)`` of each image: a scalar, or ``(B,)`` by image."""
        if self.normalize_by != "image":
            positives = positives.sum()
        return (mean_over_processes(positives) if self.normalize_by == "processes" else positives).clamp(min=1)

    @staticmethod
    def _total(values: Tensor, count: Tensor, weight: Tensor | None) -> Tensor:
        """Weighted sum of ``values`` ``(B, ..., K)`` divided by ``count``; by image, the mean over images."""
        values = weighted(values, weight)
        return (values.flatten(1).sum(1) / count).mean() if count.dim() else values.sum() / count
