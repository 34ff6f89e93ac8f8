"""CSPDarknet, the backbone of YOLOv5 (Wang et al., CSPNet, CVPRW 2020; Ultralytics YOLOv5 v6 layout)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rec.models.backbones.base import Backbone
from rec.models.layers import ConvBlock
from rec.models.original_weights import load_backbone


class Stem(ConvBlock):
    """The 6x6 block of stride 2: ``(B, 3, H, W)`` to ``(B, channels, H / 2, W / 2)``."""

    def __init__(self, channels: int) -> None:
        super().__init__(3, channels, 6, 2, padding=2, act="silu")

    def convolved(self, x: Tensor) -> Tensor:
        return self.side_by_side(x) if x.is_cuda and not torch.compiler.is_compiling() else self.conv(x)

    def side_by_side(self, x: Tensor) -> Tensor:
        """``conv(x)`` as a 3x3 convolution of 2x2 pixels together, in 16 channels: for three GPUs have no fast kernels."""
        count, _, height, width = x.shape
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        cells = x.new_zeros(count, height // 2, width // 2, 16, dtype=dtype).permute(0, 3, 1, 2)
        pixels = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4)
        cells.unflatten(1, (4, 2, 2))[:, :3].copy_(pixels)
        weight = F.pad(F.pixel_unshuffle(self.conv.weight, 2), (0, 0, 0, 0, 0, 4))
        return F.conv2d(cells, weight, padding=1)


class Bottleneck(nn.Module):
    """1x1 then 3x3 block plus identity, ``(B, C, H, W)`` kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvBlock(channels, channels, act="silu")
        self.expand = ConvBlock(channels, channels, 3, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.reduce(x), x)


class CSPStage(nn.Module):
    """ "C3": half the channels go through ``depth`` bottlenecks, half go past them; ``(B, C, H, W)`` kept."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        half = channels // 2
        self.main = ConvBlock(channels, half, act="silu")
        self.bypass = ConvBlock(channels, half, act="silu")
        self.bottlenecks = nn.Sequential(*[Bottleneck(half) for _ in range(depth)])
        self.merge = ConvBlock(2 * half, channels, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(torch.cat([self.bottlenecks(self.main(x)), self.bypass(x)], 1))


class PyramidPooling(nn.Module):
    """ "SPPF": three chained 5x5 max-pools see 5, 9 and 13 cells; ``(B, C, H, W)`` kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvBlock(channels, channels // 2, act="silu")
        self.merge = ConvBlock(4 * (channels // 2), channels, act="silu")

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
        return self.merge(torch.cat(maps, 1))


class CspDarkNet(Backbone):
    """CSPDarknet in YOLOv5-L's layout, as SimREC uses it: 256, 512 and 1024 channels at strides 8, 16 and 32.

    Args:
        pretrained: load ``pretrained_weight_path``.
        pretrained_weight_path: SimREC's ``cspdarknet_coco.pth``, a YOLOv5-L state dict or one of ours
            (``.pth`` or ``.safetensors``).
        freeze_backbone: freeze everything before the last stage; that one (C3 and pooling) is trained, as in SimREC.
        multi_scale_outputs: return all ``out_strides``; otherwise only the last.
        width: multiplies all channel counts (rounded to multiples of 8).
        depth: multiplies the numbers of bottlenecks (3, 6, 9, 3; at least one each).
        out_strides: strides of the returned maps, out of 4, 8, 16, 32. Nothing is built beyond the last; pooling
            closes the backbone there.
        update_frozen_statistics, fixed_statistics: see :class:`~rec.models.backbones.base.Backbone`.

    Raises:
        ValueError: a stride that does not exist, or weights of another architecture.
        FileNotFoundError: ``pretrained_weight_path`` does not exist.
    """

    def __init__(
        self,
        pretrained: bool = False,
        pretrained_weight_path: str | None = None,
        freeze_backbone: bool = False,
        multi_scale_outputs: bool = True,
        width: float = 1.0,
        depth: float = 1.0,
        out_strides: Sequence[int] = (8, 16, 32),
        update_frozen_statistics: bool = False,
        fixed_statistics: bool = False,
    ) -> None:
        strides = sorted(out_strides)
        if not strides or not set(strides) <= {4, 8, 16, 32}:
            raise ValueError(f"CspDarkNet has maps of stride 4, 8, 16 and 32; out_strides asks for {list(out_strides)}")
        channels = {stride: max(8, round(32 * stride * width / 8) * 8) for stride in (2, 4, 8, 16, 32)}
        stages: list[nn.Module] = [Stem(channels[2])]
        stage_of = {}
        for stride, blocks in ((4, 3), (8, 6), (16, 9), (32, 3)):
            if stride > strides[-1]:
                break
            stages.append(ConvBlock(channels[stride // 2], channels[stride], 3, 2, act="silu"))
            stages.append(CSPStage(channels[stride], max(1, round(blocks * depth))))
            stage_of[stride] = len(stages) - 1
        stages.append(PyramidPooling(channels[strides[-1]]))
        stage_of[strides[-1]] = len(stages) - 1
        if not multi_scale_outputs:
            strides = strides[-1:]
        super().__init__(
            stages,
            {stage_of[stride]: (stride, channels[stride]) for stride in strides},
            frozen_stages=len(stages) - 2 if freeze_backbone else 0,
            update_frozen_statistics=update_frozen_statistics,
            fixed_statistics=fixed_statistics,
        )
        if pretrained:
            load_backbone(self, pretrained_weight_path)
