"""SimREC: one-stage referring expression comprehension, with an optional mask branch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rec.models.assembly import connect, head_level, mask_of
from rec.models.backbones.base import Backbone
from rec.models.fusion import MultiScaleFusion
from rec.models.language_encoders import check_width


class SimREC(nn.Module):
    """Image and phrase to a box, and to a mask where a mask head is given.

    Luo et al., "What Goes beyond Multi-modal Fusion in One-stage Referring Expression Comprehension: An Empirical
    Study", 2022: backbone maps, a :class:`~rec.models.fusion.SimpleFusion` with the phrase on every scale,
    :class:`~rec.models.fusion.MultiScaleFusion` across scales, :class:`~rec.models.fusion.GaranAttention`, anchor-free
    head.

    The image half (:meth:`encode_image`) does not see the phrase: :meth:`ground` answers any number of phrases from
    one pass over each image.

    Args:
        visual_backbone: gives maps, finest first; has ``strides`` and ``channels``.
        language_encoder: gives one vector per phrase.
        multi_scale_manner: mixes the scales.
        fusion_manner: one fusion per map of the backbone.
        attention_manner: attends on the head's map.
        head: box head; it sits on the map of its own stride. None for segmentation alone.
        mask_attention: attends on the mask head's map.
        mask_head: mask head; it sits on the map of its own stride. None for boxes alone.

    Raises:
        ValueError: parts that do not fit each other, naming both.
    """

    weighted = True  # the batch's ``weight`` counts

    def __init__(
        self,
        visual_backbone: Backbone,
        language_encoder: nn.Module,
        multi_scale_manner: MultiScaleFusion,
        fusion_manner: nn.ModuleList,
        attention_manner: nn.Module | None,
        head: nn.Module | None,
        mask_attention: nn.Module | None = None,
        mask_head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.visual_backbone = visual_backbone
        self.language_encoder = language_encoder
        self.multi_scale_manner = multi_scale_manner
        self.fusion_manner: Any = fusion_manner
        self.attention_manner: Any = attention_manner
        self.head: Any = head
        self.mask_attention: Any = mask_attention
        self.mask_head: Any = mask_head
        fusions: Any = list(fusion_manner)
        connect(visual_backbone, fusions, multi_scale_manner, every_map=True)
        for fusion in fusions:
            check_width(language_encoder, fusion.q_planes, "fusion_manner (q_planes)")
        if head is None and mask_head is None:
            raise ValueError("SimREC needs a head, a mask_head, or both")
        levels = {}
        branches: Any = (("head", head, attention_manner), ("mask_head", mask_head, mask_attention))
        for name, branch, attention in branches:
            if (branch is None) != (attention is None):
                raise ValueError(f"SimREC's {name} and its attention come together: give both or neither")
            if branch is not None:
                check_width(language_encoder, attention.d_q, f"the attention of {name} (d_q)")
                levels[name] = head_level(
                    name, branch.stride, branch.in_channels, attention, visual_backbone, multi_scale_manner
                )
        self.levels = levels
        multi_scale_manner.keep_outputs(set(levels.values()))

    @property
    def several(self) -> bool | str:
        """True where it can learn from phrases of none, one or several objects, else the reason why not."""
        return True if self.head is None else getattr(self.head, "several", False)

    def enable_activation_checkpointing(self) -> None:
        """Trains with less memory and one more forward pass of the backbone (``train.activation_checkpoint.enabled``)."""
        self.visual_backbone.checkpoint_stages = True

    def encode_image(self, image: Tensor) -> list[Tensor]:
        """Normalised images ``(N, 3, S, S)`` to the image half of every fusion, ``(N, C_i, S / s_i, S / s_i)``."""
        maps = self.visual_backbone(image)
        return [fusion.project_image(v) for fusion, v in zip(self.fusion_manner, maps, strict=True)]

    def forward_features(
        self, features: Sequence[Tensor], tokens: Tensor, image_index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Raw outputs of the heads for phrases on encoded images.

        Args:
            features: from :meth:`encode_image`, N images.
            tokens: int64 ``(B, L)``.
            image_index: int64 ``(B,)``: the image each phrase is about; absent, phrase i is about image i.

        Returns:
            ``head`` raw box outputs and ``mask_head`` mask logits, those of the two that exist.
        """
        phrase = self.language_encoder(tokens)
        if image_index is not None:
            features = [feature[image_index] for feature in features]
        pairs = zip(self.fusion_manner, features, strict=True)
        maps = self.multi_scale_manner([fusion.fuse(projected, phrase) for fusion, projected in pairs])
        raw = {}
        if self.head is not None:
            raw["head"] = self.head(self.attention_manner(phrase, maps[self.levels["head"]])[0])
        if self.mask_head is not None:
            raw["mask_head"] = self.mask_head(self.mask_attention(phrase, maps[self.levels["mask_head"]])[0])
        return raw

    def ground(
        self,
        features: Sequence[Tensor],
        tokens: Tensor,
        image_index: Tensor | None = None,
        candidates: bool = False,
    ) -> dict[str, Tensor]:
        """Predictions for phrases on encoded images; arguments as for :meth:`forward_features`.

        Returns:
            ``box`` float32 ``(B, 4)`` xyxy in letterboxed pixels and ``score`` ``(B,)``; ``mask`` logits
            ``(B, 1, S, S)``; with ``candidates`` every cell's ``candidate_boxes`` ``(B, N, 4)``, xyxy in letterboxed pixels,
            and ``candidate_scores`` ``(B, N)``.
        """
        raw = self.forward_features(features, tokens, image_index)
        predictions = {}
        if self.head is not None:
            predictions.update(self.head.predict(raw["head"]))
            if candidates:
                found = self.head.candidates(raw["head"])
                predictions.update(zip(("candidate_boxes", "candidate_scores"), found, strict=True))
        if self.mask_head is not None:
            predictions.update(self.mask_head.predict(raw["mask_head"]))
        return predictions

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A prepared batch to losses (training) or predictions (evaluation).

        Args:
            batch: ``image`` float ``(N, 3, S, S)``, ``tokens`` int64 ``(B, L)``, optionally ``image_index`` int64
                ``(B,)``; in training also ``box`` ``(B, 4)`` cxcywh fractions, in its place ``boxes`` ``(B, T, 4)`` where
                phrases name any number of objects, and, for a mask head, ``mask`` uint8 ``(B, 1, S, S)``; optionally ``weight``
                ``(B,)``, which multiplies the losses of each phrase. Where there is a ``box_count``, predictions hold every
                cell's.
        """
        features = self.encode_image(batch["image"])
        if not self.training:
            any_number = "box_count" in batch and self.several is True
            return self.ground(features, batch["tokens"], batch.get("image_index"), candidates=any_number)
        raw = self.forward_features(features, batch["tokens"], batch.get("image_index"))
        losses, weight = {}, [batch["weight"]] if "weight" in batch else []
        total = torch.zeros((), device=batch["image"].device)
        if self.head is not None:
            target = batch["boxes"] if "boxes" in batch else batch["box"]
            losses.update(self.head.losses(raw["head"], target, *weight))
            total = losses["loss"]
        if self.mask_head is not None:
            mask_losses = self.mask_head.losses(raw["mask_head"], mask_of(batch), *weight)
            total = total + mask_losses.pop("loss")
            losses.update(mask_losses)
        return {**losses, "loss": total}
