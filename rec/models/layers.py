"""Small layers the models share: convolution blocks, upsampling, and convolutions that keep predictions in float32."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rec.cuda_graphs import recording
from rec.models.folding import foldable, folded, scaled, trainable

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "relu": lambda: nn.ReLU(inplace=True),
    "lrelu": lambda: nn.LeakyReLU(0.1, inplace=True),
}


def check_sizes(**sizes: int) -> None:
    """Raises a ValueError that names the first of ``sizes`` below 1, of which torch builds layers without numbers."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; expected a whole number of at least 1")


def logit(probability: float) -> float:
    """The logit of a head's ``prior_probability``; a ValueError where that is not a probability between 0 and 1."""
    if not 0 < probability < 1:
        raise ValueError(f"prior_probability is {probability}; expected a number between 0 and 1")
    return math.log(probability / (1 - probability))


def channels_last(model: nn.Module) -> nn.Module:
    """``model`` in channels-last memory, which convolutions run on anyway; as it is where it holds tensors of five dimensions,
    such as a 3-D convolution's, of which torch refuses that."""
    if any(tensor.ndim == 5 for tensor in (*model.parameters(), *model.buffers())):
        return model
    return model.to(memory_format=torch.channels_last)


def activation(name: str) -> nn.Module:
    """The activation called ``name``: ``silu``, ``relu`` or ``lrelu`` (leaky, slope 0.1)."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


class ConvBlock(nn.Module):
    """Convolution without bias, BatchNorm, activation: ``(B, in, H, W)`` to ``(B, out, H / stride, W / stride)``.

    Called with a second map of the result's shape it gives the sum of both.

    Args:
        padding: pixels; by default what keeps the size at stride 1.
        act: name for :func:`activation`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        act: str = "lrelu",
    ) -> None:
        super().__init__()
        if padding is None:
            padding = (dilation * (kernel_size - 1) + 1) // 2
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = activation(act)
        self.act_name = act

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        if foldable(x, self.conv, self.norm):
            y = folded(x, self.conv, self.norm, self.act_name)
            return y if added is None else y.add_(added)
        if trainable(x, self.norm):
            return act_added(scaled(x, self.conv, self.norm), self.act, self.act_name, added)
        return norm_act(self.convolved(x), self.norm, self.act, self.act_name, added)

    def convolved(self, x: Tensor) -> Tensor:
        """``conv(x)``."""
        return self.conv(x)


class UpsampledConvBlock(ConvBlock):
    """A 1x1 :class:`ConvBlock` on the bilinearly doubled map: ``(B, in, H, W)`` to ``(B, out, 2H, 2W)``.

    Bilinear weights sum to one and act per channel, so they commute with a 1x1 convolution: convolving before
    upsampling gives the same result for a quarter of the work. BatchNorm stays behind, its statistics are those of
    the upsampled map.
    """

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        if foldable(x, self.conv, self.norm):
            y = self.act(upsample(folded(x, self.conv, self.norm, None), 2))
            return y if added is None else y + added
        if trainable(x, self.norm):
            return act_added(upsample(scaled(x, self.conv, self.norm), 2), self.act, self.act_name, added)
        return norm_act(upsample(self.conv(x), 2), self.norm, self.act, self.act_name, added)


class PredictionConv(nn.Conv2d):
    """A convolution that computes and answers in float32 (float64 stays) whatever autocast or the weights' dtype say.

    In bfloat16 the scores of two cells can tie, and a box edge at 400 px is known to 2 px only.
    """

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        device = "cpu" if x.device.type == "meta" else x.device.type  # autocast does not know tensors without memory
        with torch.autocast(device, enabled=False):
            return self._conv_forward(x.to(dtype), self.weight.to(dtype), bias)


class AveragePool(nn.AvgPool2d):
    """Means of 2x2 places: ``(B, C, H, W)`` to ``(B, C, H / 2, W / 2)``."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        even = x.shape[2] % 2 == x.shape[3] % 2 == 0
        return halved(x) if x.is_cuda and even and not torch.compiler.is_compiling() else super().forward(x)


def halved(x: Tensor) -> Tensor:
    """:class:`AveragePool` of even sides as a mean over an axis: on a GPU torch's pooling takes several times as long."""
    cells = x.permute(0, 2, 3, 1)  # the order in memory of a channels-last map
    return cells.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).mean((2, 4)).permute(0, 3, 1, 2)


def norm_act(
    x: Tensor, norm: nn.Module, act: Callable[[Tensor], Tensor], name: str, added: Tensor | None = None
) -> Tensor:
    """``act(norm(x)) + added``; ``name``: of ``act`` in :data:`ACTIVATIONS`."""
    if x.is_cuda and recording() and isinstance(norm, nn.BatchNorm2d):
        try:
            from rec.models import fused_norm
        except ImportError:  # torch for other GPUs brings no Triton
            pass
        else:
            if fused_norm.fits(x, norm):
                return fused_norm.norm_act(x, norm, name, added)
    return act_added(norm(x), act, name, added)


def act_added(x: Tensor, act: Callable[[Tensor], Tensor], name: str, added: Tensor | None) -> Tensor:
    """``act(x) + added``; ``name``: of ``act`` in :data:`ACTIVATIONS`."""
    y = act(x)
    if added is None:
        return y
    return y.add_(added) if name == "silu" else y + added  # SiLU's gradient does not read its result


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear upsampling of ``(B, C, H, W)`` by a whole factor, corners aligned as in SimREC and MCN."""
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        with torch.autocast("cuda", enabled=False):  # it would make the map float32
            return upsample(x, factor)
    if x.is_cuda and x.requires_grad:
        return Upsampled.apply(x, factor)
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


class Upsampled(torch.autograd.Function):
    """:func:`upsample` as two matrix products: on a GPU they are faster, and torch's own gradient adds up in an order that
    changes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        rows, columns = ctx.weights = [_bilinear_weights(factor * size, size, x) for size in x.shape[-2:]]
        return _in_two_products(rows, columns, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows, columns = ctx.weights
        return _in_two_products(rows.T, columns.T, grad), None


def _in_two_products(rows: Tensor, columns: Tensor, x: Tensor) -> Tensor:
    """Linear over rows, then columns, of ``(B, C, H, W)``: ``(H', H)`` and ``(W', W)`` make it ``(B, C, H', W')``."""
    cells = x.permute(0, 2, 3, 1)  # the order in memory of a channels-last map
    between = (rows @ cells.flatten(2)).unflatten(2, cells.shape[2:])
    return (columns @ between).permute(0, 3, 1, 2)


def _bilinear_weights(large: int, small: int, like: Tensor) -> Tensor:
    """``(large, small)``: how much of each of ``small`` places lies in each of ``large`` ones, corners aligned."""
    how: Any = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
    places = torch.arange(large, **how) * ((small - 1) / max(1, large - 1))
    return (1 - (places[:, None] - torch.arange(small, **how)).abs()).clamp(min=0).to(like.dtype)


def coordinate_channels(x: Tensor) -> Tensor:
    """``(B, 2, H, W)`` column and row of every cell of ``x``, from -1 to 1 (cell centres), in its dtype."""
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device, dtype=x.dtype) + 0.5) * (2 / height) - 1
    columns = (torch.arange(width, device=x.device, dtype=x.dtype) + 0.5) * (2 / width) - 1
    grid = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)])
    return grid.expand(x.shape[0], -1, -1, -1)
