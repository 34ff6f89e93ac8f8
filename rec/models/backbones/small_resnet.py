"""A narrow residual network that learns from scratch in minutes on a CPU."""

from collections.abc import Sequence

from torch import Tensor, nn

from rec.models.backbones.base import Backbone
from rec.models.layers import ConvBlock

MAX_STAGES = 12  # a cell of 4,096 pixels


class ResidualBlock(nn.Module):
    """Two 3x3 blocks plus identity, ``(B, C, H, W)`` kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels, 3, act="relu")
        self.second = ConvBlock(channels, channels, 3, act="relu")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class SmallResNet(Backbone):
    """Per stride one 3x3 convolution of step 2 and, from stride 4 on, one residual block (He et al., 2015).

    For small images and models without pretrained weights: few, plain operations, and plain convolutions on the fine
    maps, where small shapes are told apart.

    Args:
        channels: of the maps at stride 2, 4, 8, ...; as many as there are stages.
        out_strides: strides of the returned maps.
        freeze_backbone: freeze everything before the last stage.
        multi_scale_outputs: return all ``out_strides``; otherwise only the last.
        fixed_statistics: see :class:`~rec.models.backbones.base.Backbone`.

    Raises:
        ValueError: a stride that ``channels`` does not reach, or more channels than any image has strides.
    """

    def __init__(
        self,
        channels: Sequence[int] = (24, 48, 96, 128, 192),
        out_strides: Sequence[int] = (8, 16, 32),
        freeze_backbone: bool = False,
        multi_scale_outputs: bool = True,
        fixed_statistics: bool = False,
    ) -> None:
        if len(channels) > MAX_STAGES:
            raise ValueError(f"SmallResNet has at most {MAX_STAGES} stages; channels has {len(channels)} numbers")
        strides = [2 ** (number + 1) for number in range(len(channels))]
        if not out_strides or not set(out_strides) <= set(strides):
            raise ValueError(
                f"SmallResNet with channels={list(channels)} has maps of stride {strides};"
                f" out_strides asks for {list(out_strides)}"
            )
        wanted = sorted(out_strides)[0 if multi_scale_outputs else -1 :]
        stages: list[nn.Module] = []
        for number, width in enumerate(channels[: strides.index(wanted[-1]) + 1]):
            step = ConvBlock(channels[number - 1] if number else 3, width, 3, 2, act="relu")
            stages.append(nn.Sequential(step, ResidualBlock(width)) if number else step)
        super().__init__(
            stages,
            {strides.index(stride): (stride, channels[strides.index(stride)]) for stride in wanted},
            frozen_stages=len(stages) - 1 if freeze_backbone else 0,
            fixed_statistics=fixed_statistics,
        )
