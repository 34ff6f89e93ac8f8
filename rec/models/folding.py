"""Convolution, BatchNorm and activation in one operation, on CPUs, where no gradient is wanted and statistics stand still.

In evaluation BatchNorm is a scale and a shift per channel: ``norm(conv(x)) = conv'(x)`` with
``weight' = weight * s``, ``bias' = norm.bias + (conv.bias - running_mean) * s``, ``s = norm.weight / sqrt(running_var + eps)``.
oneDNN then applies the activation as it writes the convolution's result, and finds the weights in the order its kernels
read them. Layers ask :func:`foldable` and keep the plain mathematics beside the call.
"""

import functools
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# Name in rec.models.layers.ACTIVATIONS to oneDNN's name and arguments.
_FUSED: dict[str | None, tuple[str, list[float]]] = {
    None: ("none", []), "silu": ("swish", []), "relu": ("relu", []), "lrelu": ("leaky_relu", [0.1])
}  # fmt: skip
_folded: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Tensor, Tensor]] = WeakKeyDictionary()


def foldable(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> bool:
    """Whether :func:`folded` may stand for ``norm(conv(x))`` here: CPU, float32 or bfloat16, no gradient, fixed statistics."""
    return (
        not (norm.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        and x.device.type == "cpu"
        and _dtype(x) in _dtypes()
        and type(norm) is nn.BatchNorm2d
        and not conv.weight.is_inference()
    )


def folded(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d, act: str | None) -> Tensor:
    """``act(norm(conv(x)))``, in channels-last memory; ``(B, in, H, W)`` to ``(B, out, H', W')``.

    Args:
        act: name in :data:`rec.models.layers.ACTIVATIONS`, or None.
    """
    x = x.to(_dtype(x), memory_format=torch.channels_last)
    weight, bias = _weights(conv, norm, x)
    name, arguments = _FUSED[act]
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, conv.padding, conv.stride, conv.dilation, conv.groups, name, arguments, ""
    )


@functools.cache
def _dtypes() -> tuple[torch.dtype, ...]:
    if not torch.backends.mkldnn.is_available():
        return ()
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


def _dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


@torch.no_grad()
def _weights(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Folded weights in oneDNN's order and bias, in x's dtype; kept until one of the tensors they come from changes."""
    sources = [conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    key = (x.dtype, *((0, 0) if t is None else (t.data_ptr(), t._version) for t in sources))
    kept = _folded.get(conv)
    if kept is None or kept[0] != key:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None, "a BatchNorm layer out of training without statistics"
        scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
        shift = 0.0 if conv.bias is None else conv.bias.double()
        bias = norm.bias.double() + (shift - mean.double()) * scale
        weight = (conv.weight.float() * scale.float().view(-1, 1, 1, 1)).to(x.dtype, memory_format=torch.channels_last)
        # Without x's shape oneDNN chooses an order that its kernels then have to undo in every call.
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight, conv.padding, conv.stride, conv.dilation, conv.groups, list(x.shape)
        )
        kept = _folded[conv] = key, weight, bias.to(x.dtype)
    return kept[1], kept[2]
