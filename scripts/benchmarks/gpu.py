"""Section ``gpu``: what matters on a GPU, in under two minutes, and beside it the floor that the network's layers set.

The floor is the sum over layers of max(operations / matrix rate, bytes / bandwidth), both rates measured in the same run: each
layer reads its input and weights once and writes its output once; each of its gradients (of input, of weights) costs the
same again. Losses, attention, optimizer and averages are left out of it: what they take is part of the gap.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks import network, pipeline
from benchmarks.inputs import Options, batch_of, our_batch
from benchmarks.timing import Row, interleave, median, single, spell

TRAINED = "model.visual_backbone.freeze_backbone=false"
# What is measured beside the floor: name, in times the largest batch, overrides.
CASES = (
    ("the published backbone frozen", 2, ()),
    ("the published backbone trained", 2, (TRAINED,)),
)
# What is in the names of kernels, first match first.
KERNELS = (
    ("^_(sums|statistics|forward|gradient_sums|gradients|backward)$", "batch normalisation with activation"),
    ("bn_|batch_?norm|batchnorm", "batch normalisation"),
    ("fprop|dgrad|wgrad|conv", "convolutions"),
    ("gemm|nvjet|cutlass", "matrix products and 1x1 convolutions"),
    ("upsample", "upsampling"),
    ("pool", "pooling"),
    ("multi_tensor|fused_adam|lpnorm", "optimizer, averages, clipping"),
    ("cat", "joining maps"),
    ("memcpy|memset|copy", "copies and conversions"),
    ("rnn|gru|lstm", "recurrent layers"),
    ("elementwise", "elementwise"),
    ("reduce", "sums"),
)
REFCOCO = 25 * 42_404  # samples of the published recipe: 25 epochs of RefCOCO's training objects
MATRIX = {
    nn.Conv2d: "convolutions",
    nn.Linear: "linear layers",
    nn.GRU: "recurrent layers",
    nn.LSTM: "recurrent layers",
}


def gpu(options: Options) -> Iterator[Row]:
    rates = measured_rates(options.device)
    yield single("matrix products, bf16", rates.operations / 1e12, "TFLOP/s")
    yield single("memory bandwidth, bytes read and written", rates.bytes / 1e9, "GB/s")
    for count in options.batches:
        yield from network.training_step(options, count)
    for case in CASES:
        yield from against_floor(options, rates, *case)
    for section in (network.latency, network.loss, pipeline.loop, pipeline.eval):
        yield from section(options)


@dataclass(frozen=True)
class Rates:
    """What a device can do in a second: operations of bf16 matrix products, bytes read and written."""

    operations: float
    bytes: float


def measured_rates(device: str) -> Rates:
    """Of a large product of random matrices, and of a large copy."""
    side, count = (8192, 2**28) if device == "cuda" else (768, 2**22)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    times = interleave({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, 10, device)
    return Rates(2 * side**3 / min(times["product"]), 2 * source.nbytes / min(times["copy"]))


@dataclass(frozen=True)
class Layer:
    """A layer's work in one pass: operations, values moved; and how many passes like it a training step makes."""

    kind: str
    operations: int
    values: int
    passes: int

    def seconds(self, rates: Rates, width: int) -> float:
        """At ``width`` bytes to a value."""
        return self.passes * max(self.operations / rates.operations, self.values * width / rates.bytes)


def layers(model: nn.Module, batch: Any) -> list[Layer]:
    """The layers that ``model(batch)`` goes through, without computing anything."""
    twin, found = copy.deepcopy(model).to("meta"), list[Layer]()

    def note(layer: nn.Module, inputs: Any, outputs: Any) -> None:
        x, y = inputs[0], outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
            return
        weights = sum(weight.numel() for weight in layer.parameters(recurse=False) if weight.dim() > 1)
        kind = next((name for cls, name in MATRIX.items() if isinstance(layer, cls)), "norms, activations, pooling")
        positions = y.numel() // (y.shape[1] if isinstance(layer, nn.Conv2d) else y.shape[-1])
        gradients = [x.requires_grad, any(weight.requires_grad for weight in layer.parameters(recurse=False))]
        passes = 1 + (sum(gradients) if kind in MATRIX.values() else any(gradients)) * y.requires_grad
        operations = 2 * weights * positions if kind in MATRIX.values() else 0
        found.append(Layer(kind, operations, x.numel() + y.numel() + weights, passes))

    for layer in twin.modules():
        if not list(layer.children()) and not isinstance(layer, nn.Identity | nn.Dropout | nn.Embedding):
            layer.register_forward_hook(note)
    twin({name: value.to("meta") for name, value in batch.items()})
    return found


def against_floor(options: Options, rates: Rates, name: str, times: int, overrides: tuple[str, ...]) -> Iterator[Row]:
    """A training step in bf16: its share of the floor and the gap's parts, images per second, memory, hours for RefCOCO."""
    count, on_gpu = times * max(options.batches), options.device == "cuda"
    options = replace(options, overrides=(*options.overrides, *overrides))
    training, batch = network.OurTraining(options, graphs=on_gpu), batch_of(count, options)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    step = partial(training.step, batch, bf16=True)
    took = median(interleave({"step": step}, options.rounds, options.device)["step"])
    parts: dict[str, float] = defaultdict(float)
    for layer in layers(training.model, our_batch(batch)):
        parts[layer.kind] += layer.seconds(rates, width=2)
    floor, of_floor = sum(parts.values()), ", ".join(f"{kind} {spell(part)}" for kind, part in parts.items())
    note = f"floor: {of_floor}; the step: {', '.join(shares_of_time(step, options.device))}"
    where = f"training step, batch {count}, bf16, {name}"
    share = single(f"{where}, share of the layer-wise floor", floor / took, "", note)
    yield replace(share, seconds={"floor": floor, "step": took})
    yield single(f"{where}, images/s", count / took, "images/s")
    yield single(f"{where}, RefCOCO's 25 epochs", REFCOCO / count * took / 3600, "hours")
    if on_gpu:
        yield single(f"{where}, memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")


def shares_of_time(run: Callable[[], Any], device: str) -> list[str]:
    """The six operations that take most of a call's time on the device, the others, and how long a GPU stood idle."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as recorded:
        took = interleave({"step": run}, 1, device)["step"][0]
    spent: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages():  # of three calls, in microseconds
        if on_gpu:  # kernels: a graph that is replayed calls no operations
            spent[kind_of(event.key)] += event.self_device_time_total / 3e6
        elif event.key.startswith("aten::"):
            spent[event.key.removeprefix("aten::")] += event.self_cpu_time_total / 3e6
    times = sorted(spent.items(), key=lambda item: -item[1])
    idle = [("nothing", max(0.0, took - sum(spent.values())))] if on_gpu else []
    rest = [("others", sum(each for _, each in times[6:]))]
    return [f"{key} {spell(each)}" for key, each in [*times[:6], *rest, *idle]]


def kind_of(kernel: str) -> str:
    """What a kernel of a GPU is for, by its name."""
    return next((kind for pattern, kind in KERNELS if re.search(pattern, kernel, re.IGNORECASE)), kernel[:60])
