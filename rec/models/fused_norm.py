"""BatchNorm and the activation behind it as one operation, on GPUs: half of a training step's time is theirs otherwise.

torch computes statistics, normalises and activates one after the other, and each reads and writes the whole map. Here the forward
pass reads it twice and writes it once; the backward pass, which computes the activation again instead of keeping its input, reads
map and gradient twice and writes once. With ``xhat = (x - mean) / sqrt(var + eps)``, ``z = weight xhat + bias``, ``y = act(z)`` and
``g = dL/dy act'(z)`` over n values to a channel (Ioffe and Szegedy, 2015, section 3.1):
``dL/dx = weight / sqrt(var + eps) (g - sum g / n - xhat sum(g xhat) / n)``, its last two terms with statistics of the batch only.

Sums are made in a fixed order, so the same input gives the same bits. Kernels are Triton's, compiled when first called, for maps in
channels-last memory: rows of channels. Launching one takes Python longer than torch's own, so they are for work that is recorded
(:mod:`rec.cuda_graphs`).
"""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Fastest of a dozen tried on an H200: values that a program holds, the warps that share them; among how many programs a map is
# divided where they sum, and how many tiles such a program has on their way.
TILE, WARPS, PROGRAMS, UNROLL = 2048, 4, 1024, 4
ACTIVATIONS = ("silu", "relu", "lrelu", "none")


def fits(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether :func:`norm_act` may stand for ``act(norm(x))`` here."""
    return (
        x.is_cuda
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.running_mean is not None
        and norm.momentum is not None
        and norm.weight.dtype is torch.float32
        and works(x.device)
    )


@functools.cache
def works(device: torch.device) -> bool:
    """Whether kernels can be compiled here: that takes a C compiler, and an NVIDIA GPU not older than Turing."""
    norm = nn.BatchNorm2d(1, device=device)
    try:
        norm_act(torch.zeros(1, 1, 2, 2, device=device, dtype=torch.float16), norm, "silu")
    except Exception:  # whatever a toolchain that is not whole raises
        return False
    return True


def norm_act(x: Tensor, norm: nn.BatchNorm2d, act: str, added: Tensor | None = None) -> Tensor:
    """``act(norm(x)) + added`` of a map ``(B, C, H, W)``, statistics of ``norm`` followed as it does; same shape, dtype and memory.

    Args:
        act: one of :data:`ACTIVATIONS`.
        added: another map of that shape and dtype.
    """
    added = None if added is None else added.contiguous(memory_format=torch.channels_last)
    result: Tensor = NormAct.apply(x, norm.weight, norm.bias, added, norm, act)
    return result


class NormAct(torch.autograd.Function):
    """:func:`norm_act` with its gradients of map, weight, bias and what is added."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, norm: nn.BatchNorm2d, act: str
    ) -> Tensor:
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None and norm.num_batches_tracked is not None
        shape = _Shape(x)
        if norm.training:
            sums = shape.sums(x)
            kept, (mean, variance) = (mean, variance), x.new_empty(2, shape.channels, dtype=torch.float32)
            _sums[shape.summing](x, sums, *shape.sizes, UNROLL=UNROLL, **shape.tile)
            _statistics[shape.ending](
                x, sums, mean, variance, *kept, norm.num_batches_tracked, norm.momentum, *shape.sizes, **shape.end
            )
        y = torch.empty_like(x)
        _forward[shape.writing](
            x, y, x if added is None else added, mean, variance, weight, bias, norm.eps, *shape.sizes,
            act=act, adding=added is not None, **shape.tile,
        )  # fmt: skip
        ctx.save_for_backward(x, mean, variance, weight, bias)
        ctx.how = norm.training, norm.eps, act
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None, None]:
        x, mean, variance, weight, bias = ctx.saved_tensors
        of_batch, eps, act = ctx.how
        shape, (dy, pitch) = _Shape(x), _in_rows(dy)
        sums, gradients = shape.sums(x), torch.empty(2, shape.channels, device=x.device)
        given = x, dy, pitch, mean, variance, weight, bias
        _gradient_sums[shape.summing](*given, sums, eps, *shape.sizes, act=act, UNROLL=UNROLL, **shape.tile)
        _gradients[shape.ending](sums, gradients, *shape.sizes, **shape.end)
        dx = torch.empty_like(x)
        _backward[shape.writing](*given, gradients, dx, eps, *shape.sizes, act=act, of_batch=of_batch, **shape.tile)
        return dx, gradients[1], gradients[0], dy if ctx.needs_input_grad[3] else None, None, None


def _in_rows(x: Tensor) -> tuple[Tensor, int]:
    """A map whose places are rows of channels at equal distances, and that distance: as it is where it is a part of the channels of
    one in channels-last memory, which is what joining maps gives for a gradient.

    The stride of an axis of one place says nothing: of maps of 1x1, the phrase's, neither of the two sides has one to read.
    """
    count, channels, height, width = x.shape
    axes = ((width, 1, 3), (height, width, 2), (count, height * width, 0))
    steps = [(rows, x.stride(axis)) for size, rows, axis in axes if size > 1]
    pitch = steps[0][1] // steps[0][0] if steps else channels
    regular = pitch >= channels and all(stride == rows * pitch for rows, stride in steps)
    if regular and (channels == 1 or x.stride(1) == 1):
        return x, pitch
    return x.contiguous(memory_format=torch.channels_last), channels


class _Shape:
    """How a map is divided among programs."""

    def __init__(self, x: Tensor) -> None:
        self.channels = x.shape[1]
        rows = x.numel() // max(1, self.channels)
        columns = min(64, triton.next_power_of_2(self.channels))
        self.tile = {"ROWS": TILE // columns, "COLUMNS": columns, "num_warps": WARPS}
        tiles, across = triton.cdiv(rows, TILE // columns), triton.cdiv(self.channels, columns)
        turns = max(1, tiles * across // PROGRAMS)  # tiles that a program sums
        parts = triton.cdiv(tiles, turns)
        self.sizes = rows, self.channels, parts, turns
        self.summing, self.writing = (parts, across), (tiles, across)
        self.ending, self.end = (triton.cdiv(self.channels, 8),), {"ROWS": 128, "COLUMNS": 8, "num_warps": 4}

    def sums(self, x: Tensor) -> Tensor:
        return torch.empty(2, self.sizes[2], self.channels, device=x.device)


@triton.jit
def _sigmoid(z, half: tl.constexpr):
    """To 2.5e-4 where values have half precision: by the one instruction for tanh, of which a GPU has few a second."""
    if half:
        asm: tl.constexpr = "tanh.approx.f32 $0, $1;"
        return 0.5 + 0.5 * tl.inline_asm_elementwise(asm, "=f,f", [0.5 * z], dtype=tl.float32, is_pure=True, pack=1)
    return tl.sigmoid(z)


@triton.jit
def _activated(z, act: tl.constexpr, half: tl.constexpr):
    if act == "silu":
        z = z * _sigmoid(z, half)
    elif act == "relu":
        z = tl.maximum(z, 0.0)
    elif act == "lrelu":
        z = tl.where(z > 0, z, 0.1 * z)
    return z


@triton.jit
def _slope(z, act: tl.constexpr, half: tl.constexpr):
    slope = tl.full(z.shape, 1.0, tl.float32)
    if act == "silu":
        s = _sigmoid(z, half)
        slope = s * (1 + z * (1 - s))
    elif act == "relu":
        slope = tl.where(z > 0, 1.0, 0.0)
    elif act == "lrelu":
        slope = tl.where(z > 0, 1.0, 0.1)
    return slope


@triton.jit
def _place(tile, column, rows, channels, ROWS: tl.constexpr):
    """Rows of a tile, offsets of its values, and which exist."""
    row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    return row, row * channels + column[None, :], (row < rows) & (column < channels)[None, :]


@triton.jit(do_not_specialize=["parts", "turns"])
def _sums(x, sums, rows, channels, parts, turns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNROLL: tl.constexpr):
    """Sums of each channel and of its squares, less its first value: so that no digits are lost where the mean is large."""
    part = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < channels
    first = tl.load(x + column, exists, 0.0).to(tl.float32)
    total, squares = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    for turn in tl.range(turns, loop_unroll_factor=UNROLL):
        _row, offset, there = _place(part * turns + turn, column, rows, channels, ROWS)
        value = tl.where(there, tl.load(x + offset, there, 0.0).to(tl.float32) - first[None, :], 0.0)
        total += value
        squares += value * value
    tl.store(sums + part * channels + column, tl.sum(total, 0), exists)
    tl.store(sums + (parts + part) * channels + column, tl.sum(squares, 0), exists)


@triton.jit
def _added(sums, which, parts, column, exists, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One of two sums over all parts."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, parts, ROWS):
        part = start + tl.arange(0, ROWS)
        there = (part < parts)[:, None] & exists[None, :]
        total += tl.load(sums + (which * parts + part)[:, None] * channels + column[None, :], there, 0.0)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["parts", "turns"])
def _statistics(x, sums, mean, variance, running_mean, running_variance, count, momentum, rows, channels, parts, turns,
                ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < channels
    n = rows * 1.0
    less = _added(sums, 0, parts, column, exists, channels, ROWS, COLUMNS) / n
    squares = _added(sums, 1, parts, column, exists, channels, ROWS, COLUMNS) / n
    average = tl.load(x + column, exists, 0.0).to(tl.float32) + less
    spread = tl.maximum(squares - less * less, 0.0)
    tl.store(mean + column, average, exists)
    tl.store(variance + column, spread, exists)
    before = tl.load(running_mean + column, exists, 0.0)
    tl.store(running_mean + column, before + momentum * (average - before), exists)
    before = tl.load(running_variance + column, exists, 0.0)
    tl.store(running_variance + column, before + momentum * (spread * (n / tl.maximum(n - 1, 1.0)) - before), exists)
    if tl.program_id(0) == 0:
        tl.store(count, tl.load(count) + 1)


@triton.jit
def _normalised(x, mean, variance, weight, bias, eps, column, exists, offset, there):
    """``xhat`` of a tile, ``weight / sqrt(var + eps)`` of its channels, and ``z``."""
    rate = tl.rsqrt(tl.load(variance + column, exists, 1.0) + eps)
    scale = tl.load(weight + column, exists, 0.0)
    value = tl.load(x + offset, there, 0.0).to(tl.float32)
    xhat = (value - tl.load(mean + column, exists, 0.0)[None, :]) * rate[None, :]
    return xhat, scale * rate, xhat * scale[None, :] + tl.load(bias + column, exists, 0.0)[None, :]


@triton.jit(do_not_specialize=["parts", "turns"])
def _forward(x, y, added, mean, variance, weight, bias, eps, rows, channels, parts, turns, act: tl.constexpr,
             adding: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < channels
    _row, offset, there = _place(tl.program_id(0), column, rows, channels, ROWS)
    _xhat, _scale, z = _normalised(x, mean, variance, weight, bias, eps, column, exists, offset, there)
    value = _activated(z, act, y.dtype.element_ty != tl.float32)
    if adding:
        value += tl.load(added + offset, there, 0.0).to(tl.float32)
    tl.store(y + offset, value.to(y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["parts", "turns"])
def _gradient_sums(x, dy, pitch, mean, variance, weight, bias, sums, eps, rows, channels, parts, turns, act: tl.constexpr,
                   ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    part = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < channels
    total, products = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    for turn in tl.range(turns, loop_unroll_factor=UNROLL):
        row, offset, there = _place(part * turns + turn, column, rows, channels, ROWS)
        xhat, _scale, z = _normalised(x, mean, variance, weight, bias, eps, column, exists, offset, there)
        g = tl.load(dy + row * pitch + column[None, :], there, 0.0).to(tl.float32) * _slope(
            z, act, x.dtype.element_ty != tl.float32
        )
        total += g
        products += g * xhat
    tl.store(sums + part * channels + column, tl.sum(total, 0), exists)
    tl.store(sums + (parts + part) * channels + column, tl.sum(products, 0), exists)


@triton.jit(do_not_specialize=["parts", "turns"])
def _gradients(sums, gradients, rows, channels, parts, turns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < channels
    for which in range(2):
        total = _added(sums, which, parts, column, exists, channels, ROWS, COLUMNS)
        tl.store(gradients + which * channels + column, total, exists)


@triton.jit(do_not_specialize=["parts", "turns"])
def _backward(x, dy, pitch, mean, variance, weight, bias, gradients, dx, eps, rows, channels, parts, turns, act: tl.constexpr,
              of_batch: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = column < channels
    row, offset, there = _place(tl.program_id(0), column, rows, channels, ROWS)
    xhat, scale, z = _normalised(x, mean, variance, weight, bias, eps, column, exists, offset, there)
    g = tl.load(dy + row * pitch + column[None, :], there, 0.0).to(tl.float32) * _slope(
        z, act, x.dtype.element_ty != tl.float32
    )
    if of_batch:
        n = rows * 1.0
        total = tl.load(gradients + column, exists, 0.0) / n
        products = tl.load(gradients + channels + column, exists, 0.0) / n
        g = g - total[None, :] - xhat * products[None, :]
    tl.store(dx + offset, (g * scale[None, :]).to(dx.dtype.element_ty), there)
