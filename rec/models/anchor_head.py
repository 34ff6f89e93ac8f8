"""MCN's head: anchor-based boxes, a mask, and the energy that keeps the two consistent."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rec.boxes import cxcywh_to_xyxy
from rec.models.assignment import cell_numbers
from rec.models.layers import PredictionConv, check_sizes, logit
from rec.models.losses import full_precision, mask_cross_entropy, overlap_and_union, to_pixels, weighted
from rec.models.mask_head import MaskHead

# Pixels / 640 at 416 x 416: the weight the original's summed mask loss has there against the box losses.
MASK_LOSS_WEIGHT = 416 * 416 / 640


class MCNhead(nn.Module):
    """Box branch of YOLOv3 (Redmon and Farhadi, 2018), mask branch, consistency energy maximisation.

    Luo et al., "Multi-task Collaborative Network for Joint Referring Expression Comprehension and Segmentation",
    CVPR 2020. Cell (x, y) and anchor (a, b) predict centre (x + sigmoid(tx), y + sigmoid(ty)) cells, size (a exp(tw),
    b exp(th)) pixels and an objectness logit; the highest one is the answer.

    Args:
        in_channels: channels of both maps.
        hidden_channels: of each branch of the mask decoder.
        anchors: width, height of each anchor, pixels of the network's input.
        strides: of the box map and of the mask map.
        ignore_threshold: cells whose box overlaps the object by more are not negatives.
        dilations, sub_cells: of the mask decoder, see :class:`~rec.models.mask_head.MaskHead`.
        summed_losses: original arithmetic: the consistency loss is summed over the batch instead of averaged, and
            the mask loss over pixels (/ 640), so that their weight grows with batch and image size.
        mask_loss_weight: of the mask loss against the others, where it is averaged over pixels. The default is the
            weight the original's sum has at 416 x 416.
        prior_probability: objectness every cell and anchor starts with, as of :class:`~rec.models.heads.REChead`.
    """

    anchor_sizes: Tensor

    def __init__(
        self,
        in_channels: int = 512,
        hidden_channels: int = 256,
        anchors: Sequence[Sequence[float]] = ((137, 256), (248, 272), (386, 271)),
        strides: Sequence[int] = (32, 8),
        ignore_threshold: float = 0.5,
        dilations: Sequence[int] = (6, 12, 18),
        summed_losses: bool = False,
        sub_cells: int = 1,
        mask_loss_weight: float = MASK_LOSS_WEIGHT,
        prior_probability: float | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_channels=in_channels, strides=min(strides))
        self.mask_loss_weight = mask_loss_weight
        self.in_channels = in_channels
        self.stride, self.mask_stride = strides
        self.ignore_threshold, self.summed_losses = ignore_threshold, summed_losses
        # Not in the state dict: the original's checkpoints carry no anchors.
        self.register_buffer("anchor_sizes", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.anchors = PredictionConv(in_channels, 5 * len(self.anchor_sizes), 1)
        if prior_probability is not None and self.anchors.bias is not None:
            with torch.no_grad():
                self.anchors.bias.view(-1, 5)[:, 4] = logit(prior_probability)
        self.mask = MaskHead(in_channels, hidden_channels, self.mask_stride, dilations, sub_cells=sub_cells)
        self.box_energy = PredictionConv(in_channels, 1, 3, padding=1)
        self.mask_energy = PredictionConv(in_channels, 1, 3, padding=1)

    def forward(self, box_map: Tensor, mask_map: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(B, in_channels, h, w)`` and ``(B, in_channels, H, W)`` to raw outputs, float32.

        Returns:
            ``(B, anchors, h, w, 5)``: tx, ty, tw, th, objectness logit; and mask logits ``(B, 1, H, W)``.
        """
        raw = self.anchors(box_map).unflatten(1, (len(self.anchor_sizes), 5))
        return raw.permute(0, 1, 3, 4, 2), self.mask(mask_map)

    def decode(self, raw: Tensor) -> Tensor:
        """Raw boxes ``(B, anchors, h, w, 5)`` to cxcywh ``(B, anchors, h, w, 4)`` in pixels."""
        height, width = raw.shape[2:4]
        cells = cell_numbers(raw[..., 4]).view(height, width, 2)
        anchors = self.anchor_sizes.to(raw.dtype)[:, None, None]
        return torch.cat([(raw[..., :2].sigmoid() + cells) * self.stride, raw[..., 2:4].exp() * anchors], -1)

    def candidates(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Raw boxes to all boxes ``(B, N, 4)``, xyxy in letterboxed pixels, and their scores ``(B, N)``, 0-1."""
        return cxcywh_to_xyxy(self.decode(raw)).flatten(1, 3), raw[..., 4].flatten(1).sigmoid()

    def predict(self, raw: Tensor, mask_logits: Tensor) -> dict[str, Tensor]:
        """Raw outputs to ``box`` ``(B, 4)`` xyxy in letterboxed pixels, ``score`` ``(B,)``, ``mask`` logits."""
        boxes, scores = self.candidates(raw)
        best = raw[..., 4].flatten(1).argmax(1, keepdim=True)
        box = boxes.gather(1, best[..., None].expand(-1, -1, 4))[:, 0]
        return {"box": box, "score": scores.gather(1, best)[:, 0], **self.mask.predict(mask_logits)}

    def losses(
        self,
        raw: Tensor,
        mask_logits: Tensor,
        box_attended: Tensor,
        mask_attended: Tensor,
        box: Tensor,
        mask: Tensor,
        weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of raw outputs.

        Args:
            raw: ``(B, anchors, h, w, 5)``.
            mask_logits: ``(B, 1, H, W)``.
            box_attended: ``(B, in_channels, h, w)``, what the box attention adds to its map.
            mask_attended: ``(B, in_channels, H, W)``, the same for the mask.
            box: ``(B, 4)`` cxcywh as fractions of the image; a row of zeros means no object.
            mask: uint8 ``(B, 1, S, S)``, soft 0-255.
            weight: ``(B,)``, multiplies the losses of each phrase.

        Returns:
            ``loss_xy``, ``loss_wh``, ``loss_obj`` (sums over cells, averaged over images), ``loss_seg``, ``loss_cem``
            and ``loss``, their sum.
        """
        losses = self._box_losses(raw, box.to(raw.dtype), weight)
        seg = mask_cross_entropy(upsampled := self.mask.predict(mask_logits)["mask"], mask, weight)
        losses["loss_seg"] = seg * (upsampled[0].numel() / 640 if self.summed_losses else self.mask_loss_weight)
        energy = weighted(self.consistency(box_attended, mask_attended), weight)
        losses["loss_cem"] = energy.sum() if self.summed_losses else energy.mean()
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def consistency(self, box_attended: Tensor, mask_attended: Tensor) -> Tensor:
        """``-ln(sum_lk p_l r_k (cos(a_l, e_k) + 1) / 2)`` per image, ``(B,)``: do both branches look at one thing?

        a_l, e_k are the cells of the two maps, p and r softmax weights over each. As the weights of a map sum to one,
        the double sum over cell pairs is the product of two weighted means of unit vectors.
        """
        box_mean = self._mean_direction(box_attended, self.box_energy)
        mask_mean = self._mean_direction(mask_attended, self.mask_energy)
        return -(((box_mean * mask_mean).sum(1) + 1) / 2 + 1e-6).log()

    @staticmethod
    def _mean_direction(attended: Tensor, energy: nn.Module) -> Tensor:
        weights = energy(attended).flatten(1).softmax(1)
        directions = F.normalize(full_precision(attended).flatten(2), dim=1)
        return (directions * weights[:, None]).sum(2)

    def assign(self, raw: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """Where each object belongs, and which cells are not negatives; no gradients.

        The object's cell holds its centre; its anchor overlaps it best when both are centred.

        Args:
            raw: ``(B, anchors, h, w, 5)``.
            box: ``(B, 4)`` cxcywh, pixels.

        Returns:
            int64 ``(B,)`` number of the cell, flat over (anchors, h, w); bool ``(B, anchors * h * w)``, True where the
            predicted box overlaps the object by more than ``ignore_threshold``.
        """
        height, width = raw.shape[2:4]
        anchors = self.anchor_sizes.to(raw.dtype)
        # Boxes without a place are all centred on 0.
        overlap, union = overlap_and_union(F.pad(box[:, None, 2:], (2, 0)), F.pad(anchors, (2, 0)))
        anchor = (overlap / union).argmax(1)
        column = (box[:, 0] / self.stride).long().clamp(0, width - 1)
        row = (box[:, 1] / self.stride).long().clamp(0, height - 1)
        overlap, union = overlap_and_union(self.decode(raw.detach()).flatten(1, 3), box[:, None])
        close = overlap > self.ignore_threshold * union
        return (anchor * height + row) * width + column, close

    def _box_losses(self, raw: Tensor, box: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
        count, _, height, width, _ = raw.shape
        target = to_pixels(box, width * self.stride, height * self.stride)
        present = (box.sum(1) > 0).to(raw.dtype)
        cell, close = self.assign(raw, target)
        predicted = raw.flatten(1, 3).gather(1, cell[:, None, None].expand(-1, 1, 5))[:, 0]

        scale = weighted(present * (2 - box[:, 2] * box[:, 3]), weight)  # small objects count up to twice
        offset = (target[:, :2] / self.stride).frac()
        xy = F.binary_cross_entropy_with_logits(predicted[:, :2], offset, reduction="none").sum(1)
        anchor = self.anchor_sizes.to(raw.dtype)[cell // (height * width)]
        wh = (predicted[:, 2:4] - (target[:, 2:] / anchor + 1e-16).log()).square().sum(1) / 2

        logits = raw[..., 4].flatten(1)
        is_object = torch.zeros_like(logits).scatter(1, cell[:, None], present[:, None])
        objectness = F.binary_cross_entropy_with_logits(logits, is_object, reduction="none")
        kept = ~close | (is_object > 0)
        return {
            "loss_xy": (scale * xy).sum() / count,
            "loss_wh": (scale * wh).sum() / count,
            "loss_obj": weighted(objectness * kept, weight).sum() / count,
        }
