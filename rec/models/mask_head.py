"""Mask decoder: a map and its context at several dilations to mask logits."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rec.models.layers import ConvBlock, PredictionConv, check_sizes, upsample
from rec.models.losses import dice_loss, mask_cross_entropy


class MaskHead(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., DeepLab v3, 2017), logits per cell, bilinear upsampling.

    Branches: 1x1, 3x3 at each dilation, and the mean of the map repeated; concatenated, then a 1x1 convolution.
    Upsampling rounds off everything smaller than a cell. With ``sub_cells`` r every cell predicts a patch of r x r
    logits (Shi et al., sub-pixel convolution, CVPR 2016): what objects of few cells need.

    Args:
        in_channels: channels of the map.
        hidden_channels: channels of each branch.
        stride: pixels per cell of the map: the level the head sits on.
        dilations: of the 3x3 branches.
        dice_weight: weight of the Dice loss beside cross-entropy.
        sub_cells: logits per cell along each axis; upsampling covers the rest of ``stride``.

    Raises:
        ValueError: a size is below 1; ``sub_cells`` does not divide ``stride``.
    """

    def __init__(
        self,
        in_channels: int = 512,
        hidden_channels: int = 256,
        stride: int = 8,
        dilations: Sequence[int] = (6, 12, 18),
        dice_weight: float = 1.0,
        sub_cells: int = 1,
    ) -> None:
        super().__init__()
        sizes = {
            "in_channels": in_channels,
            "hidden_channels": hidden_channels,
            "stride": stride,
            "sub_cells": sub_cells,
        }
        check_sizes(**sizes, dilations=min(dilations, default=1))
        if stride % sub_cells:
            raise ValueError(f"a mask head of stride {stride} cannot split its cells in {sub_cells}: it must divide it")
        self.in_channels, self.stride, self.dice_weight, self.sub_cells = in_channels, stride, dice_weight, sub_cells
        self.branches = nn.ModuleList(
            [
                ConvBlock(in_channels, hidden_channels),
                *(ConvBlock(in_channels, hidden_channels, 3, dilation=dilation) for dilation in dilations),
                ConvBlock(in_channels, hidden_channels),
            ]
        )
        self.logits = PredictionConv(hidden_channels * len(self.branches), sub_cells**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits, float32 ``(B, 1, H * sub_cells, W * sub_cells)``."""
        *local, context = self.branches
        mean = context(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        logits = self.logits(torch.cat([*(branch(x) for branch in local), mean], 1))
        return F.pixel_shuffle(logits, self.sub_cells)

    def predict(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits of :meth:`forward` to ``mask`` logits ``(B, 1, S, S)`` at the size of the image."""
        return {"mask": upsample(logits, self.stride // self.sub_cells)}

    def losses(self, logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Losses of logits of :meth:`forward` against a soft uint8 mask 0-255 ``(B, 1, S, S)``; ``weight`` ``(B,)`` multiplies
        those of each phrase.

        Returns:
            ``loss_mask`` (cross-entropy), ``loss_dice``, and ``loss``, their weighted total.
        """
        logits = self.predict(logits)["mask"]
        losses = {
            "loss_mask": mask_cross_entropy(logits, mask, weight),
            "loss_dice": dice_loss(logits, mask, weight),
        }
        return {"loss": losses["loss_mask"] + self.dice_weight * losses["loss_dice"], **losses}
