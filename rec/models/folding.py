"""Convolution and BatchNorm in one operation, on CPUs, where statistics are fixed.

BatchNorm is then a scale and a shift per channel: ``norm(conv(x)) = conv'(x)`` with
``weight' = weight * s``, ``bias' = norm.bias + (conv.bias - running_mean) * s``, ``s = norm.weight / sqrt(running_var + eps)``.
Where no gradient is wanted (:func:`foldable`) oneDNN also applies the activation as it writes the convolution's result, and
finds the weights in the order its kernels read them. Where one is (:func:`trainable`) scale and shift are trained through
the convolution's weights, and no pass over the map is BatchNorm's. Layers keep the plain mathematics beside the calls.
"""

import functools
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Name in rec.models.layers.ACTIVATIONS to oneDNN's name and arguments.
_FUSED: dict[str | None, tuple[str, list[float]]] = {
    None: ("none", []), "silu": ("swish", []), "relu": ("relu", []), "lrelu": ("leaky_relu", [0.1])
}  # fmt: skip
_folded: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Tensor, Tensor]] = WeakKeyDictionary()


def foldable(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> bool:
    """Whether :func:`folded` may stand for ``norm(conv(x))`` here: CPU, float32 or bfloat16, no gradient, fixed statistics."""
    return not torch.is_grad_enabled() and _fits(x, norm) and not conv.weight.is_inference()


def folded(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, act: str | None) -> Tensor:
    """``act(norm(conv(x)))``, in channels-last memory; ``(B, in, H, W)`` to ``(B, out, H', W')``.

    Args:
        act: name in :data:`rec.models.layers.ACTIVATIONS`, or None.
    """
    x = x.to(_dtype(x), memory_format=torch.channels_last)
    weight, bias = _kept_weights(conv, norm, x)
    name, arguments = _FUSED[act]
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, conv.padding, conv.stride, conv.dilation, conv.groups, name, arguments, ""
    )


def _fits(x: Tensor, norm: nn.Module) -> bool:
    return (
        not (norm.training or torch.compiler.is_compiling())
        and x.device.type == "cpu"
        and _dtype(x) in _dtypes()
        and type(norm) is nn.BatchNorm2d
    )


@functools.cache
def _dtypes() -> tuple[torch.dtype, ...]:
    if not torch.backends.mkldnn.is_available():
        return ()
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


def _dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


@torch.no_grad()
def _kept_weights(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Folded weights in oneDNN's order and bias, in x's dtype; kept until one of the tensors they come from changes."""
    sources = [conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    key = (x.dtype, *((0, 0) if t is None else (t.data_ptr(), t._version) for t in sources))
    kept = _folded.get(conv)
    if kept is None or kept[0] != key:
        weight, bias = _weights(conv, norm, torch.float64)
        # Without x's shape oneDNN chooses an order that its kernels then have to undo in every call.
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight.to(x.dtype, memory_format=torch.channels_last),
            conv.padding, conv.stride, conv.dilation, conv.groups, list(x.shape),
        )  # fmt: skip
        kept = _folded[conv] = key, weight, bias.to(x.dtype)
    return kept[1], kept[2]


def _weights(conv: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Weight (float32) and bias (``dtype``) of a convolution that is ``norm(conv(x))``, with gradients where they are wanted."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None, "a BatchNorm layer out of training without statistics"
    scale = norm.weight.to(dtype) / (variance.to(dtype) + norm.eps).sqrt()
    shift = -mean.to(dtype) if conv.bias is None else conv.bias.to(dtype) - mean.to(dtype)
    return conv.weight.float() * scale.float().view(-1, 1, 1, 1), norm.bias.to(dtype) + shift * scale


def trainable(x: Tensor, norm: nn.Module) -> bool:
    """Whether :func:`scaled` may stand for ``norm(conv(x))`` here: CPU, float32 or bfloat16, gradients, fixed statistics."""
    return torch.is_grad_enabled() and _fits(x, norm)


def scaled(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """``norm(conv(x))`` with gradients of x, the convolution's weights, and BatchNorm's scale and shift."""
    weight, bias = _weights(conv, norm)
    dtype = _dtype(x)
    return convolved(x.to(dtype), weight.to(dtype), bias.to(dtype), conv)


def convolved(x: Tensor, weight: Tensor, bias: Tensor, conv: nn.Conv2d) -> Tensor:
    """``conv(x)`` with these weights in place of its own, all of one dtype."""
    if x.dtype == torch.bfloat16 and conv.groups == conv.in_channels > 1 and conv.stride != (1, 1):
        return _StridedDepthwise.apply(x, weight, bias, conv)
    return _conv2d(x, weight, bias, conv)


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor, conv: nn.Conv2d) -> Tensor:
    padding: Any = conv.padding
    return F.conv2d(x, weight, bias, conv.stride, padding, conv.dilation, conv.groups)


class _StridedDepthwise(torch.autograd.Function):
    """A convolution whose gradient of x is computed in float32: oneDNN's bfloat16 kernel takes up to twenty times as long where
    a depthwise convolution has a stride."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.conv = conv
        return _conv2d(x, weight, bias, conv)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), conv = ctx.saved_tensors, ctx.conv
        how = conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups
        of_x, of_weights = ctx.needs_input_grad[0], ctx.needs_input_grad[1:3]
        like = torch.empty_like(x, dtype=torch.float32)  # for its shape
        backward = torch.ops.aten.convolution_backward
        pixels = backward(grad.float(), like, weight.float(), None, *how, (of_x, False, False))[0] if of_x else None
        others = backward(grad, x, weight, [weight.shape[0]], *how, (False, *of_weights))[1:]
        return None if pixels is None else pixels.to(x.dtype), *others, None
