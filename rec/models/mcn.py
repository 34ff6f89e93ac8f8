"""MCN: box and mask of the object a phrase names, from one network."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rec.models.anchor_head import MCNhead
from rec.models.assembly import connect, head_level, mask_of
from rec.models.backbones.base import Backbone
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.language_encoders import check_width

SUPPRESSIONS = (None, "soft", "hard")


class MCN(nn.Module):
    """Image and phrase to a box and a mask that agree.

    Luo et al., "Multi-task Collaborative Network for Joint Referring Expression Comprehension and Segmentation",
    CVPR 2020: the phrase is fused into the coarsest map, :class:`~rec.models.fusion.MultiScaleFusion` carries it to
    the others, and each branch of :class:`~rec.models.anchor_head.MCNhead` has its own attention.

    Args:
        visual_backbone: gives maps, finest first; has ``strides`` and ``channels``.
        language_encoder: gives one vector per phrase.
        multi_scale_manner: mixes the scales.
        fusion_manner: fusion on the coarsest map.
        det_attention: attends on the box map.
        seg_attention: attends on the mask map.
        head: boxes, masks and losses.
        suppression: what the box does to the mask in evaluation (the paper's adaptive non-located suppression; off
            in the original code): ``soft`` multiplies probabilities by 2 - score inside the box and by score
            outside, ``hard`` by 0 outside.
        mask_threshold: probability above which a pixel belongs to the mask; read by evaluation and prediction.
        mask_any_overlap: original arithmetic, read by evaluation and prediction: the mask is thresholded before it is
            resized to the image, and every pixel it touches counts.

    Raises:
        ValueError: parts that do not fit each other, naming both.
    """

    weighted = True  # the batch's ``weight`` counts

    def __init__(
        self,
        visual_backbone: Backbone,
        language_encoder: nn.Module,
        multi_scale_manner: MultiScaleFusion,
        fusion_manner: SimpleFusion,
        det_attention: GaranAttention,
        seg_attention: GaranAttention,
        head: MCNhead,
        suppression: str | None = None,
        mask_threshold: float = 0.35,
        mask_any_overlap: bool = False,
    ) -> None:
        super().__init__()
        if suppression not in SUPPRESSIONS:
            raise ValueError(f"unknown suppression {suppression!r}: expected one of {SUPPRESSIONS}")
        self.visual_backbone = visual_backbone
        self.language_encoder = language_encoder
        self.multi_scale_manner = multi_scale_manner
        self.fusion_manner = fusion_manner
        self.det_attention = det_attention
        self.seg_attention = seg_attention
        self.head = head
        self.suppression = suppression
        self.mask_threshold, self.mask_any_overlap = mask_threshold, mask_any_overlap
        connect(visual_backbone, [fusion_manner], multi_scale_manner, every_map=False)
        check_width(language_encoder, fusion_manner.q_planes, "fusion_manner (q_planes)")
        for what, attention in (("det_attention", det_attention), ("seg_attention", seg_attention)):
            check_width(language_encoder, attention.d_q, f"{what} (d_q)")
        place: Any = (visual_backbone, multi_scale_manner)
        self.box_level = head_level("head (boxes)", head.stride, head.in_channels, det_attention, *place)
        self.mask_level = head_level("head (masks)", head.mask_stride, head.in_channels, seg_attention, *place)
        multi_scale_manner.keep_outputs({self.box_level, self.mask_level})

    def enable_activation_checkpointing(self) -> None:
        """Trains with less memory and one more forward pass of the backbone (``train.activation_checkpoint.enabled``)."""
        self.visual_backbone.checkpoint_stages = True

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """Normalised images ``(N, 3, S, S)`` to their maps, the coarsest as the image half of the fusion."""
        *maps, top = self.visual_backbone(image)
        return [*maps, self.fusion_manner.project_image(top)]

    def forward_features(
        self, features: Sequence[Tensor], tokens: Tensor, image_index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Raw outputs for phrases on encoded images.

        Args:
            features: from :meth:`encode_image`, N images.
            tokens: int64 ``(B, L)``.
            image_index: int64 ``(B,)``: the image each phrase is about; absent, phrase i is about image i.

        Returns:
            ``head`` raw boxes ``(B, anchors, h, w, 5)``, ``mask_head`` mask logits ``(B, 1, H, W)``, and what the two
            attentions add to their maps, ``box_attended`` and ``mask_attended``.
        """
        if image_index is not None:
            features = [feature[image_index] for feature in features]
        phrase = self.language_encoder(tokens)
        maps = self.multi_scale_manner([*features[:-1], self.fusion_manner.fuse(features[-1], phrase)])
        box_map, box_attended = self.det_attention(phrase, maps[self.box_level])
        mask_map, mask_attended = self.seg_attention(phrase, maps[self.mask_level])
        raw, mask_logits = self.head(box_map, mask_map)
        return {"head": raw, "mask_head": mask_logits, "box_attended": box_attended, "mask_attended": mask_attended}

    def ground(
        self,
        features: Sequence[Tensor],
        tokens: Tensor,
        image_index: Tensor | None = None,
        candidates: bool = False,
    ) -> dict[str, Tensor]:
        """Predictions for phrases on encoded images; arguments as for :meth:`forward_features`.

        Returns:
            ``box`` float32 ``(B, 4)`` xyxy in letterboxed pixels, ``score`` ``(B,)``, ``mask`` logits ``(B, 1, S, S)``; with
            ``candidates`` also every cell's, as :meth:`rec.models.simrec.SimREC.ground`.
        """
        raw = self.forward_features(features, tokens, image_index)
        predictions = self.head.predict(raw["head"], raw["mask_head"])
        if candidates:
            found = self.head.candidates(raw["head"])
            predictions.update(zip(("candidate_boxes", "candidate_scores"), found, strict=True))
        if self.suppression:
            predictions["mask"] = weigh_by_box(predictions, hard=self.suppression == "hard")
        return predictions

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A prepared batch to losses (training) or predictions (evaluation); keys as for SimREC, ``mask`` required."""
        features = self.encode_image(batch["image"])
        if not self.training:
            return self.ground(features, batch["tokens"], batch.get("image_index"))
        raw = self.forward_features(features, batch["tokens"], batch.get("image_index"))
        weight = [batch["weight"]] if "weight" in batch else []
        maps = raw["box_attended"], raw["mask_attended"]
        return self.head.losses(raw["head"], raw["mask_head"], *maps, batch["box"], mask_of(batch), *weight)


def weigh_by_box(predictions: Mapping[str, Tensor], hard: bool) -> Tensor:
    """Mask logits ``(B, 1, S, S)`` weighted by the box: the paper's non-located suppression, soft or hard."""
    logits, box, score = predictions["mask"], predictions["box"], predictions["score"][:, None, None]
    rows = torch.arange(logits.shape[2], device=logits.device) + 0.5
    columns = torch.arange(logits.shape[3], device=logits.device) + 0.5
    inside_rows = (rows > box[:, 1:2]) & (rows < box[:, 3:4])
    inside_columns = (columns > box[:, 0:1]) & (columns < box[:, 2:3])
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    weight = torch.where(inside, 1.0 if hard else 2 - score, 0.0 if hard else score)
    return (logits.sigmoid() * weight[:, None]).logit(eps=1e-6)
