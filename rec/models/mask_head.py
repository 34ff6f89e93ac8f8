"""Mask decoder: a map and its context at several dilations to mask logits."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rec.models.layers import ConvBlock, PredictionConv, upsample
from rec.models.losses import dice_loss, mask_cross_entropy


class MaskHead(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al., DeepLab v3, 2017), one logit per cell, bilinear upsampling.

    Branches: 1x1, 3x3 at each dilation, and the mean of the map repeated; concatenated, then a 1x1 convolution.

    Args:
        in_channels: channels of the map.
        hidden_channels: channels of each branch.
        stride: pixels per cell of the map: the level the head sits on, and the factor of the upsampling.
        dilations: of the 3x3 branches.
        dice_weight: weight of the Dice loss beside cross-entropy.
    """

    def __init__(
        self,
        in_channels: int = 512,
        hidden_channels: int = 256,
        stride: int = 8,
        dilations: Sequence[int] = (6, 12, 18),
        dice_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.stride, self.dice_weight = in_channels, stride, dice_weight
        self.branches = nn.ModuleList(
            [
                ConvBlock(in_channels, hidden_channels),
                *(ConvBlock(in_channels, hidden_channels, 3, dilation=dilation) for dilation in dilations),
                ConvBlock(in_channels, hidden_channels),
            ]
        )
        self.logits = PredictionConv(hidden_channels * len(self.branches), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits, float32 ``(B, 1, H, W)``."""
        *local, context = self.branches
        mean = context(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.logits(torch.cat([*(branch(x) for branch in local), mean], 1))

    def predict(self, logits: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, 1, H, W)`` to ``mask`` logits ``(B, 1, H * stride, W * stride)``."""
        return {"mask": upsample(logits, self.stride)}

    def losses(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Losses of logits ``(B, 1, H, W)`` against a soft uint8 mask 0-255 ``(B, 1, H * stride, W * stride)``.

        Returns:
            ``loss_mask`` (cross-entropy), ``loss_dice``, and ``loss``, their weighted total.
        """
        logits = upsample(logits, self.stride)
        losses = {"loss_mask": mask_cross_entropy(logits, mask), "loss_dice": dice_loss(logits, mask)}
        return {"loss": losses["loss_mask"] + self.dice_weight * losses["loss_dice"], **losses}
