"""The backbone of YOLOX, and its neck (Ge et al., "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430)."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rec.models.backbones.base import Backbone
from rec.models.layers import ConvBlock
from rec.models.original_weights import load_backbone

EPSILON, MOMENTUM = 1e-3, 0.03  # of YOLOX's BatchNorm
# Where YOLOX's own state dict has the stages: its backbone is backbone.backbone, its neck backbone, the rest a detector's head.
_STEM = "stages.0.conv.conv.weight"
_TRUNK = ("stem", "dark2.0", "dark2.1", "dark3.0", "dark3.1", "dark4.0", "dark4.1", "dark5.0", "dark5.1", "dark5.2")


def block(channels: int, out: int, kernel_size: int = 1, stride: int = 1, depthwise: bool = False) -> nn.Module:
    """A convolution block with SiLU; ``depthwise`` divides it into one per channel and a 1x1 block."""
    if not depthwise:
        return ConvBlock(channels, out, kernel_size, stride, act="silu")
    parts = OrderedDict[str, nn.Module](
        dconv=ConvBlock(channels, channels, kernel_size, stride, groups=channels, act="silu"),
        pconv=ConvBlock(channels, out, act="silu"),
    )
    return nn.Sequential(parts)


class Focus(nn.Module):
    """Every 2 x 2 pixels become 12 channels of one cell, then a 3x3 block: ``(B, 3, H, W)`` to ``(B, out, H / 2, W / 2)``."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv = block(12, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(corners, 1))


class Bottleneck(nn.Module):
    """1x1 then 3x3 block, plus identity with ``shortcut``; ``(B, C, H, W)`` kept."""

    def __init__(self, channels: int, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = block(channels, channels)
        self.conv2 = block(channels, channels, 3, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return y + x if self.shortcut else y


class CSPLayer(nn.Module):
    """Half the channels go through ``depth`` bottlenecks, half past them: ``(B, C, H, W)`` to ``(B, out, H, W)``."""

    def __init__(self, channels: int, out: int, depth: int, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        half = out // 2
        self.conv1, self.conv2 = block(channels, half), block(channels, half)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut, depthwise) for _ in range(depth)))
        self.conv3 = block(2 * half, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], 1))


class SpatialPyramidPooling(nn.Module):
    """Max-pools over 5, 9 and 13 cells beside the map itself; ``(B, C, H, W)`` kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = block(channels, channels // 2), block(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(F.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13))], 1))


class Neck(nn.Module):
    """YOLOX's PAFPN: maps of strides 8, 16, 32 to maps of the same shapes, coarse to fine and back."""

    def __init__(self, channels: Sequence[int], depth: int, depthwise: bool) -> None:
        super().__init__()
        fine, middle, coarse = channels

        def csp(inward: int, out: int) -> CSPLayer:
            return CSPLayer(inward, out, depth, False, depthwise)

        self.lateral_conv0, self.C3_p4 = block(coarse, middle), csp(2 * middle, middle)
        self.reduce_conv1, self.C3_p3 = block(middle, fine), csp(2 * fine, fine)
        self.bu_conv2, self.C3_n3 = block(fine, fine, 3, 2, depthwise), csp(2 * fine, middle)
        self.bu_conv1, self.C3_n4 = block(middle, middle, 3, 2, depthwise), csp(2 * middle, coarse)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = maps
        down = self.lateral_conv0(coarse)
        middle = self.C3_p4(torch.cat([F.interpolate(down, scale_factor=2.0), middle], 1))
        half = self.reduce_conv1(middle)
        fine = self.C3_p3(torch.cat([F.interpolate(half, scale_factor=2.0), fine], 1))
        middle = self.C3_n3(torch.cat([self.bu_conv2(fine), half], 1))
        return [fine, middle, self.C3_n4(torch.cat([self.bu_conv1(middle), down], 1))]


class YOLOX(Backbone):
    """YOLOX's CSPDarknet; the defaults are YOLOX-Nano: 64, 128 and 256 channels at strides 8, 16 and 32.

    Pixels are RGB, 0 to 1, mean 0 and std 1; weights published for BGR, 0 to 255, are converted while they are read.

    Args:
        pretrained: load ``pretrained_weight_path``.
        pretrained_weight_path: a state dict of a YOLOX detector (Megvii's ``yolox_nano.pth``, or safetensors, BatchNorm
            folded or not) or one of ours. Its head, and without ``neck`` its neck, is left out.
        freeze_backbone: freeze everything.
        multi_scale_outputs: return all ``out_strides``; otherwise only the last.
        width, depth: of YOLOX's configs: 0.25 and 0.33 for Nano, 0.375 and 0.33 for Tiny, 0.5 and 0.33 for S.
        depthwise: as in Nano; the others have plain convolutions.
        neck: let the maps pass YOLOX's own PAFPN first.
        out_strides: strides of the returned maps, out of 8, 16, 32. Nothing is built beyond the last, but for the neck.
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
        width: float = 0.25,
        depth: float = 0.33,
        depthwise: bool = True,
        neck: bool = False,
        out_strides: Sequence[int] = (8, 16, 32),
        update_frozen_statistics: bool = False,
        fixed_statistics: bool = False,
    ) -> None:
        strides = sorted(out_strides)
        if not strides or not set(strides) <= {8, 16, 32}:
            raise ValueError(f"YOLOX has maps of stride 8, 16 and 32; out_strides asks for {list(out_strides)}")
        base, repeats = int(width * 64), max(round(depth * 3), 1)
        channels = {stride: base * stride // 2 for stride in (2, 4, 8, 16, 32)}
        stages: list[nn.Module] = [Focus(base)]
        for stride, blocks in ((4, repeats), (8, 3 * repeats), (16, 3 * repeats), (32, repeats)):
            if stride > strides[-1] and not neck:
                break
            stages.append(block(channels[stride // 2], channels[stride], 3, 2, depthwise))
            if stride == 32:
                stages.append(SpatialPyramidPooling(channels[32]))
            stages.append(CSPLayer(channels[stride], channels[stride], blocks, stride < 32, depthwise))
        stage_of = {8: 4, 16: 6, 32: 9}
        super().__init__(
            stages,
            {stage_of[stride]: (stride, channels[stride]) for stride in ((8, 16, 32) if neck else strides)},
            update_frozen_statistics=update_frozen_statistics,
            fixed_statistics=fixed_statistics,
        )
        self.neck = Neck([channels[8], channels[16], channels[32]], repeats, depthwise) if neck else None
        wanted = strides if multi_scale_outputs else strides[-1:]
        self.returned = [self.strides.index(stride) for stride in wanted]
        self.strides, self.channels = tuple(wanted), tuple(channels[stride] for stride in wanted)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = EPSILON, MOMENTUM
        if pretrained:
            load_backbone(self, pretrained_weight_path)
        self.freeze(len(stages) if freeze_backbone else 0)

    def freeze(self, stages: int) -> None:
        super().freeze(stages)
        neck = getattr(self, "neck", None)
        if neck is not None:
            neck.requires_grad_(stages < len(self.stages))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        neck = getattr(self, "neck", None)
        if neck is not None and self.frozen_stages == len(self.stages) and not self.update_frozen_statistics:
            neck.eval()
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = super().forward(image)
        if self.neck is not None:
            maps = self.run_stage(self.neck, maps)
        return [maps[number] for number in self.returned]

    def from_original(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
        """YOLOX's tensors under our names; anything else as it is.

        BatchNorm that was folded into its convolution becomes one that changes nothing but the shift. BatchNorm with
        statistics gets convolutions of unit variance, which is the same function and better scaled for Adam.

        Args:
            metadata: of the file; its ``input`` is ``RGB 0..1`` or ``BGR 0..255``, as in Megvii's own ``.pth`` files. The stem
                is converted.

        Raises:
            ValueError: ``input`` is neither.
        """
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        if not any(name.startswith("backbone.backbone.") for name in state):
            return dict(state)
        trained_on = metadata.get("input", "BGR 0..255" if metadata.get("format") == "pth" else "")
        if not trained_on.startswith(("RGB 0..1", "BGR 0..255")):
            raise ValueError(
                f"the file does not say which pixels its YOLOX was trained on (metadata {dict(metadata)}): save it as safetensors "
                "with the metadata input = 'RGB 0..1' or 'BGR 0..255' (as Megvii's are from version 0.1.1 on)"
            )
        # In float32: half precision has no number between 1 and the 1.0005 that undoes a folded BatchNorm's epsilon.
        ours = {_our_name(name): t.float() if t.is_floating_point() else t for name, t in state.items()}
        # Where a convolution has a bias, BatchNorm was folded in.
        for name in [name for name in ours if re.match(r"(stages|neck)\..*\.conv\.bias", name)]:
            shift = ours.pop(name)
            ones = torch.ones_like(shift)
            ours |= {_norm(name, "weight"): ones * (1 + EPSILON) ** 0.5, _norm(name, "bias"): shift}
            ours |= {_norm(name, "running_mean"): 0 * shift, _norm(name, "running_var"): ones}
        for name in [name for name in ours if re.match(r"(stages|neck)\..*\.conv\.weight", name)]:
            _to_unit_variance(ours, name)
        weight = ours.get(_STEM)
        if weight is not None and trained_on.startswith("BGR 0..255") and weight.shape[1] == 12:
            ours[_STEM] = weight.unflatten(1, (4, 3)).flip(2).flatten(1, 2) * 255
        return ours


def _our_name(name: str) -> str:
    ours = re.sub(r"\.bn\.", ".norm.", name)
    for number, theirs in enumerate(_TRUNK):
        if ours.startswith(prefix := f"backbone.backbone.{theirs}."):
            return f"stages.{number}.{ours.removeprefix(prefix)}"
    return re.sub(r"^backbone\.(?!backbone\.)", "neck.", ours)


def _norm(convolution: str, entry: str) -> str:
    """The name of an entry of the BatchNorm behind ``…conv.weight`` or ``…conv.bias``."""
    return f"{convolution.rpartition('.conv.')[0]}.norm.{entry}"


def _to_unit_variance(state: dict[str, Tensor], weight: str) -> None:
    """Divides the filters of a convolution by the deviation of what they give, and lets its BatchNorm undo it."""
    names = [_norm(weight, entry) for entry in ("running_mean", "running_var", "weight")]
    if not all(name in state for name in names):
        return
    mean, variance, scale = (state[name].double() for name in names)
    deviation = (variance + EPSILON).sqrt()
    smaller = variance / deviation.square()
    state[weight] = (state[weight].double() / deviation.view(-1, 1, 1, 1)).float()
    state[names[0]], state[names[1]] = (mean / deviation).float(), smaller.float()
    state[names[2]] = (scale * (smaller + EPSILON).sqrt()).float()
