"""Sections ``model``, ``loss`` and ``growth``: the network's own time.

``model``: the training step and prediction latency, and whether the plain implementation is honest. ``loss``: assignment and
losses alone. ``growth``: how cost grows with batch, image, phrase and processes (rows of the data set: section ``data``).
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import plain_model
from benchmarks.inputs import Options, batch_of, build, our_batch, plain_batch
from benchmarks.plain_loop import PlainTraining
from benchmarks.plain_loss import plain_losses
from benchmarks.plain_model import PlainSimREC
from benchmarks.timing import Row, Sides, check, interleave, median, ratio, ratios, single
from rec.inference.grounder import compile_network
from rec.models.heads import REChead
from rec.training.ema import EMA

# Measured of the original code: seconds on two cores at 416 x 416, float32, allocator pinned; operations at batch 32.
ORIGINAL = {"step 8": 1.83, "forward 8": 1.16, "step 32": 7.0, "evaluation 1": 0.13, "evaluation 8": 0.97,
            "EMA 8": 0.024, "operations": 4408, "loss operations": 3595}  # fmt: skip
# What of them is compared: (name, seconds of, over seconds of).
SHARES = (
    ("forward's share of the step, batch 8", "forward 8", "step 8"),
    ("step of batch 32 over step of batch 8", "step 32", "step 8"),
    ("evaluation of batch 8 over step of batch 8", "evaluation 8", "step 8"),
    ("evaluation of batch 1 over evaluation of batch 8", "evaluation 1", "evaluation 8"),
)
# Operations that move no number: new shapes and places of the same memory.
VIEWS = ("alias", "detach", "expand", "permute", "reshape", "select", "slice", "split", "t", "transpose", "unbind",
         "unsafe_split", "unsqueeze", "view", "_unsafe_view")  # fmt: skip
BATCHES = (2, 4, 8, 16, 32, 64)  # of section growth; BatchNorm over the phrases needs two


def model(options: Options) -> list[Row]:
    rows = [row for count in options.batches for row in training_step(options, count)] + latency(options)
    if (options.config, options.overrides, options.size, options.device) == (Options.config, (), 416, "cpu"):
        rows += honesty(options)
    return rows


class OurTraining:
    """Our training step as ``scripts/train.py`` composes it, on one process."""

    def __init__(self, options: Options, original_arithmetic: bool = False) -> None:
        self.model = build(options, original_arithmetic).to(memory_format=torch.channels_last)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, 1e-4, (0.9, 0.98), 1e-9, fused=True)
        self.ema = EMA(self.model)

    def step(self, batch: Any, bf16: bool = False) -> float:
        """One update from uint8 images; reads back one number, the gradient norm."""
        self._backward(our_batch(batch), bf16)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 0.15)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)
        return norm.item()

    def bare(self, prepared: Any, optimizer: bool = False, bf16: bool = False) -> None:
        """Forward, loss, backward on a ready batch; with the optimizer's step where asked."""
        self._backward(prepared, bf16)
        if optimizer:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def _backward(self, prepared: Any, bf16: bool) -> None:
        with torch.autocast(self.parameters[0].device.type, torch.bfloat16, enabled=bf16):
            losses = self.model(prepared)
        losses["loss"].backward()


def training_step(options: Options, count: int) -> list[Row]:
    """One update of ``count`` samples: ours in float32 and bf16, plain in float32, and the floor."""
    device = torch.device(options.device)
    training = OurTraining(options)
    plain = PlainTraining(PlainSimREC(build(options)).to(device))
    batch = batch_of(count, options)
    ready, prepared = plain_batch(batch), our_batch(batch)

    def plain_step() -> None:
        with as_the_original_runs(device):
            plain.step(ready)

    sides: Sides = {
        "ours": partial(training.step, batch),
        "plain": plain_step,
        "floor": partial(training.bare, prepared),
    }
    if bfloat16_is_fast(device):
        # A model of its own: the frozen trunk's folded weights are kept in the dtype of the last step.
        sides["ours bf16"] = partial(OurTraining(options).step, batch, bf16=True)
    name = f"training step, batch {count}"
    return ratios(
        interleave(sides, options.rounds, device),
        (f"{name}, float32", "plain", "ours"),
        (f"{name}, bf16", "plain", "ours bf16"),
        (f"{name}, ours over the floor", "ours", "floor"),
    )


def latency(options: Options) -> list[Row]:
    """One image, one phrase, from uint8 pixels to a box on the host."""
    device = torch.device(options.device)
    plain = PlainSimREC(build(options)).to(device).eval()
    batch = batch_of(1, options)
    ready = plain_batch(batch)

    def ours(bf16: bool, compiled: bool = False) -> Callable[[], Any]:
        # A model of its own: folded weights are kept in the dtype of the last call, and nobody changes it between calls.
        network = build(options).to(memory_format=torch.channels_last).eval()
        if compiled:
            compile_network(network)

        def predict() -> None:
            ready = our_batch(batch)
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                network.ground(network.encode_image(ready["image"]), ready["tokens"])["box"].tolist()

        return predict

    def plain_predict() -> None:
        with torch.no_grad(), as_the_original_runs(device):
            plain(ready["image"], ready["tokens"])["box"].tolist()

    sides: Sides = {"ours": ours(bf16=False), "plain": plain_predict}
    if bfloat16_is_fast(device):
        sides["ours bf16"] = ours(bf16=True)
    if device.type == "cuda":
        sides["ours bf16, compiled"] = ours(bf16=True, compiled=True)
    times = interleave(sides, 3 * options.rounds, device)
    rows = ratios(
        times,
        ("prediction latency, batch 1, float32", "plain", "ours"),
        ("prediction latency, batch 1, bf16", "plain", "ours bf16"),
    )
    if compiled := times.get("ours bf16, compiled"):
        rows.append(single("prediction latency in ms, batch 1, bf16, compiled", 1000 * median(compiled), "ms"))
    return rows


def honesty(options: Options) -> list[Row]:
    """The plain implementation, in the original's arithmetic, against the original's recorded figures."""
    device = torch.device(options.device)
    plain = PlainSimREC(build(options, original_arithmetic=True), frozen_statistics=False).to(device)
    training = PlainTraining(plain)
    ready = {count: plain_batch(batch_of(count, options)) for count in (1, 8, 32)}

    def forward(count: int) -> Any:
        return plain(ready[count]["image"], ready[count]["tokens"], ready[count]["label"])

    def evaluate(count: int) -> None:
        plain.eval()
        with torch.no_grad():
            plain(ready[count]["image"], ready[count]["tokens"])
        plain.train()

    sides: Sides = {
        "forward 8": partial(forward, 8), "step 8": partial(training.step, ready[8]),
        "EMA 8": partial(training.ema.update, plain), "evaluation 1": partial(evaluate, 1),
        "evaluation 8": partial(evaluate, 8),
    }  # fmt: skip
    seconds = {name: median(times) for name, times in interleave(sides, options.rounds, device).items()}
    seconds["step 32"] = median(interleave({"step 32": partial(training.step, ready[32])}, 2, device)["step 32"])
    operations, of_loss = count_operations(partial(forward, 32))
    ours, batch = OurTraining(options, original_arithmetic=True), batch_of(8, options)
    sides = {"ours": partial(ours.step, batch), "plain": partial(training.step, ready[8])}
    times = interleave(sides, options.rounds, device)
    return [
        check("operations of a forward pass, batch 32", operations, ORIGINAL["operations"]),
        check("operations of loss and assignment, batch 32", of_loss, ORIGINAL["loss operations"]),
        *(check(name, seconds[a] / seconds[b], ORIGINAL[a] / ORIGINAL[b]) for name, a, b in SHARES),
        *(check(f"seconds of a step, batch {n}", seconds[f"step {n}"], ORIGINAL[f"step {n}"]) for n in (8, 32)),
        ratio("training step, batch 8, float32, original arithmetic on both sides", times, "plain", "ours"),
    ]


def as_the_original_runs(device: torch.device) -> Any:
    """The original switches cuDNN off."""
    return torch.backends.cudnn.flags(enabled=False) if device.type == "cuda" else contextlib.nullcontext()


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device computes bf16 convolutions itself rather than in software."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def count_operations(run: Callable[[], Any]) -> tuple[int, int]:
    """Tensor operations of ``run``, views not counted: all, and those of the plain loss with its assignment."""

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Counter.total += function.__name__.partition(".")[0] not in VIEWS
            return function(*args, **(kwargs or {}))

    inside = 0

    def counted(*arguments: Any) -> Any:
        nonlocal inside
        before = Counter.total
        result = plain_losses(*arguments)
        inside += Counter.total - before
        return result

    plain_model.plain_losses = counted  # type: ignore[assignment]
    try:
        with Counter():
            run()
    finally:
        plain_model.plain_losses = plain_losses
    return Counter.total, inside


def loss(options: Options) -> list[Row]:
    device = torch.device(options.device)
    count = max(options.batches)
    head = REChead(strides=[32]).to(device)
    raw, box = (tensor.to(device) for tensor in raw_outputs(count, options.size // 32))
    ours: Callable[[Any], Any] = lambda x: head.losses(x, box)  # noqa: E731
    plain: Callable[[Any], Any] = lambda x: plain_losses(x, box[:, None], 32)  # noqa: E731

    def backward(losses: Callable[[Any], Any]) -> None:
        losses(raw.detach().requires_grad_())["loss"].backward()

    rounds = 4 * options.rounds
    forward = interleave({"ours": lambda: [ours(raw) for _ in range(10)], "plain": partial(plain, raw)}, rounds, device)
    forward["ours"] = [seconds / 10 for seconds in forward["ours"]]
    both = interleave({"ours": partial(backward, ours), "plain": partial(backward, plain)}, rounds, device)
    name = f"loss with assignment alone, batch {count}"
    rows = [
        ratio(name, forward, "plain", "ours"),
        ratio(f"{name}, with backward", both, "plain", "ours"),
        single("tensor operations, ours", count_operations(partial(ours, raw))[0], "operations"),
        single("tensor operations, plain", count_operations(partial(plain, raw))[0], "operations"),
    ]
    if device.type == "cuda":
        waits = host_synchronisations(partial(ours, raw))
        rows.append(single("host synchronisations of loss and assignment", waits, "times"))
    return rows


def host_synchronisations(run: Callable[[], Any]) -> int:
    """How often ``run`` makes the host wait for the GPU, as torch reports it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in seen)


def raw_outputs(count: int, grid: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw outputs ``(B, 5, grid, grid)`` whose boxes are partly right, and targets ``(B, 4)`` as fractions."""
    generator = torch.Generator().manual_seed(3)
    raw = torch.randn(count, 5, grid, grid, generator=generator) * 0.3
    raw[:, 2:4] += 1.2
    centre = torch.rand(count, 2, generator=generator) * 0.6 + 0.2
    return raw, torch.cat([centre, torch.rand(count, 2, generator=generator) * 0.45 + 0.2], 1)


def growth(options: Options) -> list[Row]:
    rows = [*step_by_size(options), *phrase_length(options)]
    return rows if options.device != "cpu" else [*rows, *processes(options)]


def step_by_size(options: Options) -> list[Row]:
    """Milliseconds per image of the training step, by batch and by image size."""
    ours, rows = OurTraining(options), []

    def milliseconds(count: int, size: int) -> float:
        batch = batch_of(count, replace(options, size=size))
        sides = {"step": partial(ours.step, batch)}
        times = interleave(sides, max(1, options.rounds // 2), torch.device(options.device))
        return 1000 * median(times["step"]) / count

    for count in (n for n in BATCHES if n <= 2 * max(options.batches)):
        took = milliseconds(count, options.size)
        rows.append(single(f"training step, batch {count}, {options.size} px", took, "ms per image"))
    count = min(options.batches)
    for size in (224, 320, 416, 512, 608) if options.size >= 416 else (options.size,):  # of multi-scale training
        took = milliseconds(count, size)
        name, unit = f"training step, {size} px, batch {count}", "ms per cell of stride 32"
        rows.append(single(name, took / (size / 32) ** 2, unit, note=f"{took:.0f} ms per image"))
    return rows


def phrase_length(options: Options) -> list[Row]:
    """A phrase on an encoded image, by tokens."""
    network, count, rows = build(options).eval(), min(options.batches), []
    batch = batch_of(count, options)
    with torch.inference_mode():
        features = network.encode_image(batch["image"].float() / 255)
        for length in (5, 15, 40):
            sides = {"ground": partial(network.ground, features, batch_of(count, options, length=length)["tokens"])}
            seconds = median(interleave(sides, options.rounds, batch["image"].device)["ground"])
            rows.append(single(f"answering a phrase of {length} tokens, image encoded", 1000 * seconds / count, "ms"))
    return rows


def processes(options: Options) -> list[Row]:
    """Images per second of one process with all cores, and of two processes (gloo) with half of them each."""
    cores, count = len(os.sched_getaffinity(0)), max(4, min(options.batches))
    folder, rows = Path(__file__).parents[1], []
    for number in (1, 2):
        threads = max(1, cores // number)
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(number), "--master_port", "29617"]
        arguments = [
            options.config,
            options.size,
            count // number,
            threads,
            json.dumps(options.overrides),
            options.rounds,
        ]
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "benchmarks.network", *map(str, arguments)],
            capture_output=True, text=True, check=True,
            env=os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        )  # fmt: skip
        rate = count / json.loads(done.stdout.strip().splitlines()[-1])
        name = f"training, {number} process{'es' if number > 1 else ''} of {threads} thread(s), batch {count} in all"
        rows.append(single(name, rate, "images/s"))
    return rows


def train_on_one_process(config: str, size: str, count: str, threads: str, overrides: str, rounds: str) -> None:
    """Prints the median seconds of a training step under Accelerate, as one of the processes of :func:`processes`."""
    from accelerate import Accelerator

    from rec.training.process import end_together

    accelerator = Accelerator(cpu=True)
    torch.set_num_threads(int(threads))
    options = Options(config=config, overrides=tuple(json.loads(overrides)), size=int(size))
    training = OurTraining(options)
    network, optimizer = accelerator.prepare(training.model, training.optimizer)
    batch = our_batch(batch_of(int(count), options))
    seconds = []
    for _ in range(int(rounds) + 1):
        accelerator.wait_for_everyone()
        started = time.perf_counter()
        accelerator.backward(network(batch)["loss"])
        accelerator.clip_grad_norm_(network.parameters(), 0.15)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    if accelerator.is_main_process:
        print(json.dumps(median(seconds[1:])), flush=True)
    end_together(accelerator)


if __name__ == "__main__":
    train_on_one_process(*sys.argv[1:])
