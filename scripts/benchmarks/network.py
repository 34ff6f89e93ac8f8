"""Sections ``model``, ``loss`` and ``growth``: the network's own time.

``model``: the training step and prediction latency, and whether the plain implementation is honest. ``loss``: assignment and
losses alone. ``growth``: how cost grows with batch, image, phrase and processes (rows of the data set: section ``data``).
"""

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.inputs import Options, batch_of, build, our_batch, plain_batch
from benchmarks.plain_loop import PlainTraining
from benchmarks.plain_loss import plain_losses
from benchmarks.plain_model import PlainSimREC
from benchmarks.timing import Row, Sides, check, interleave, median, ratio, ratios, single
from rec.cores import usable_cores
from rec.cuda_graphs import Replayed
from rec.inference.grounder import compile_network
from rec.models.heads import REChead
from rec.training.ema import EMA
from rec.training.update import Step, numbers_on_device, recorded

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


class OurTraining:
    """Our training step as ``scripts/train.py`` composes it, on one process; ``graphs``: with ``train.cuda_graphs.enabled``."""

    def __init__(self, options: Options, original_arithmetic: bool = False, graphs: bool = False) -> None:
        self.model = build(options, original_arithmetic).to(memory_format=torch.channels_last)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, 1e-4, (0.9, 0.98), 1e-9, fused=True)
        self.ema = EMA(self.model)
        clip = torch.nn.utils.clip_grad_norm_
        alone: Any = SimpleNamespace(clip_grad_norm_=clip, num_processes=1, scaler=None, is_fsdp2=False)
        self._whole_step = Step(alone, self.model, self.parameters, self.ema, 0.15, graphs)
        self._rates = torch.tensor([1e-4], device=options.device)
        self._graphs = graphs  # each update's gradients are written over those before
        self.forward_and_backward: Callable[..., Any] = self._forward_and_backward
        self._optimize: Callable[..., Any] = self._optimizer_alone
        if graphs:
            self.forward_and_backward = recorded(self._forward_and_backward, self.parameters)
            self._optimize = Replayed(self._optimizer_alone, copied=False)

    def step(self, batch: Any, bf16: bool = False) -> float:
        """One update from uint8 images; reads back one number, the gradient norm."""
        self.forward_and_backward(our_batch(batch), bf16)
        return self._whole_step(self.optimizer, False, lambda: None)[0]

    def bare(self, prepared: Any, optimizer: bool = False, bf16: bool = False) -> None:
        """Forward, loss, backward on a ready batch; with the optimizer's step where asked."""
        self.forward_and_backward(prepared, bf16)
        if optimizer:
            self._optimize(self._rates)
        if not self._graphs:
            self.optimizer.zero_grad()

    def _optimizer_alone(self, rates: torch.Tensor) -> None:
        with numbers_on_device(self.optimizer, rates.unbind()):
            self.optimizer.step()

    def _forward_and_backward(self, prepared: Any, bf16: bool) -> None:
        with torch.autocast(self.parameters[0].device.type, torch.bfloat16, enabled=bf16):
            losses = self.model(prepared)
        losses["loss"].backward()


def plain_twin(options: Options, original_arithmetic: bool = False) -> PlainSimREC:
    """The plain network of :func:`build`."""
    plain = PlainSimREC(build(options, original_arithmetic), frozen_statistics=not original_arithmetic)
    return plain.to(options.device)


def as_the_original_runs(run: Callable[[], Any]) -> Callable[[], Any]:
    """``run`` without cuDNN, which the original switches off."""

    def switched_off() -> Any:
        with torch.backends.cudnn.flags(enabled=False):
            return run()

    return switched_off


def bfloat16_is_fast(device: str) -> bool:
    """Whether the device computes bf16 convolutions itself rather than in software."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def model(options: Options) -> Iterator[Row]:
    for count in options.batches:
        yield from training_step(options, count)
    yield from latency(options)
    if (options.config, options.overrides, options.size, options.device) == (Options.config, (), 416, "cpu"):
        yield from honesty(options)


def training_step(options: Options, count: int) -> list[Row]:
    """One update of ``count`` samples: ours in float32 and bf16, plain in float32, and the floor."""
    ours, plain, batch = OurTraining(options), PlainTraining(plain_twin(options)), batch_of(count, options)
    sides: Sides = {
        "ours": partial(ours.step, batch),
        "plain": as_the_original_runs(partial(plain.step, plain_batch(batch))),
        "floor": partial(ours.bare, our_batch(batch)),
    }
    if bfloat16_is_fast(options.device):
        # A model of its own: the frozen backbone's folded weights are kept in the dtype of the last step.
        sides["ours bf16"] = partial(OurTraining(options).step, batch, bf16=True)
    if options.device == "cuda":
        sides["graphs"] = partial(OurTraining(options, graphs=True).step, batch, bf16=True)
    name = f"training step, batch {count}"
    return ratios(
        interleave(sides, options.rounds, options.device),
        (f"{name}, float32", "plain", "ours"),
        (f"{name}, bf16", "plain", "ours bf16"),
        (f"{name}, bf16, CUDA graphs", "plain", "graphs"),
        (f"{name}, ours over the floor", "ours", "floor"),
    )


def latency(options: Options) -> Iterator[Row]:
    """One image, one phrase, from uint8 pixels to a box on the host."""
    plain, batch = plain_twin(options).eval(), batch_of(1, options)
    ready = plain_batch(batch)

    def ours(bf16: bool, compiled: bool = False) -> Callable[[], Any]:
        # A model of its own: folded weights are kept in the dtype of the last call, and nobody changes it between calls.
        network = build(options).to(memory_format=torch.channels_last).eval()
        if compiled:
            compile_network(network)

        def predict() -> None:
            ready = our_batch(batch)
            with torch.inference_mode(), torch.autocast(options.device, torch.bfloat16, enabled=bf16):
                network.ground(network.encode_image(ready["image"]), ready["tokens"])["box"].tolist()

        return predict

    @as_the_original_runs
    @torch.no_grad()
    def plain_predict() -> None:
        plain(ready["image"], ready["tokens"])["box"].tolist()

    sides: Sides = {"ours": ours(bf16=False), "plain": plain_predict}
    if bfloat16_is_fast(options.device):
        sides["ours bf16"] = ours(bf16=True)
    if options.device == "cuda":
        sides["compiled"] = ours(bf16=True, compiled=True)
    times, name = interleave(sides, 3 * options.rounds, options.device), "prediction latency, batch 1"
    yield from ratios(times, (f"{name}, float32", "plain", "ours"), (f"{name}, bf16", "plain", "ours bf16"))
    if "compiled" in times:
        yield single("prediction latency in ms, batch 1, bf16, compiled", 1000 * median(times["compiled"]), "ms")


def honesty(options: Options) -> Iterator[Row]:
    """The plain implementation, in the original's arithmetic, against the original's recorded figures."""
    plain = plain_twin(options, original_arithmetic=True)
    training = PlainTraining(plain)
    ready = {count: plain_batch(batch_of(count, options)) for count in (1, 8, 32)}

    def forward(count: int) -> Any:
        return plain(ready[count]["image"], ready[count]["tokens"], ready[count]["label"])

    @torch.no_grad()
    def evaluate(count: int) -> None:
        plain.eval()
        plain(ready[count]["image"], ready[count]["tokens"])
        plain.train()

    sides: Sides = {
        "forward 8": partial(forward, 8), "step 8": partial(training.step, ready[8]),
        "EMA 8": partial(training.ema.update, plain), "evaluation 1": partial(evaluate, 1),
        "evaluation 8": partial(evaluate, 8),
    }  # fmt: skip
    times = interleave(sides, options.rounds) | interleave({"step 32": partial(training.step, ready[32])}, 2)
    seconds = {name: median(each) for name, each in times.items()}
    raw = plain.raw(ready[32]["image"], ready[32]["tokens"])
    of_loss = count_operations(partial(plain_losses, raw, ready[32]["label"], plain.head.stride))
    yield check(
        "operations of a forward pass, batch 32", count_operations(partial(forward, 32)), ORIGINAL["operations"]
    )
    yield check("operations of loss and assignment, batch 32", of_loss, ORIGINAL["loss operations"])
    for name, over, under in SHARES:
        yield check(name, seconds[over] / seconds[under], ORIGINAL[over] / ORIGINAL[under])
    for count in (8, 32):
        yield check(f"seconds of a step, batch {count}", seconds[f"step {count}"], ORIGINAL[f"step {count}"])
    ours, batch = OurTraining(options, original_arithmetic=True), batch_of(8, options)
    times = interleave({"ours": partial(ours.step, batch), "plain": partial(training.step, ready[8])}, options.rounds)
    yield ratio("training step, batch 8, float32, original arithmetic on both sides", times, "plain", "ours")


def count_operations(run: Callable[[], Any]) -> int:
    """Tensor operations of ``run``, views not counted."""

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Counter.total += function.__name__.partition(".")[0] not in VIEWS
            return function(*args, **(kwargs or {}))

    with Counter():
        run()
    return Counter.total


def loss(options: Options) -> Iterator[Row]:
    count = max(options.batches)
    head = REChead(strides=[32]).to(options.device)
    raw, box = (tensor.to(options.device) for tensor in raw_outputs(count, options.size // 32))
    sides: dict[str, Callable[[Any], Any]] = {
        "ours": lambda x: head.losses(x, box),
        "plain": lambda x: plain_losses(x, box[:, None], 32),
    }

    def backward(losses: Callable[[Any], Any]) -> None:
        losses(raw.detach().requires_grad_())["loss"].backward()

    rounds, ours, plain = 4 * options.rounds, partial(sides["ours"], raw), partial(sides["plain"], raw)
    forward = interleave({"ours": lambda: [ours() for _ in range(10)], "plain": plain}, rounds, options.device)
    forward["ours"] = [seconds / 10 for seconds in forward["ours"]]
    both = interleave({name: partial(backward, side) for name, side in sides.items()}, rounds, options.device)
    name = f"loss with assignment alone, batch {count}"
    yield ratio(name, forward, "plain", "ours")
    yield ratio(f"{name}, with backward", both, "plain", "ours")
    yield single("tensor operations, ours", count_operations(ours), "operations")
    yield single("tensor operations, plain", count_operations(plain), "operations")
    if options.device == "cuda":
        yield single("host synchronisations of loss and assignment", host_synchronisations(ours), "times")


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


def growth(options: Options) -> Iterator[Row]:
    """Milliseconds of a training step by batch and by image size, and of a phrase by tokens; images/s by processes."""
    ours, device, few = OurTraining(options), options.device, min(options.batches)

    def milliseconds(run: Callable[[], Any], rounds: int) -> float:
        return 1000 * median(interleave({"run": run}, max(1, rounds), device)["run"])

    for count in (n for n in BATCHES if n <= 2 * max(options.batches)):
        took = milliseconds(partial(ours.step, batch_of(count, options)), options.rounds // 2)
        yield single(f"training step, batch {count}, {options.size} px", took / count, "ms per image")
    for size in (224, 320, 416, 512, 608) if options.size >= 416 else (options.size,):  # of multi-scale training
        took = milliseconds(partial(ours.step, batch_of(few, replace(options, size=size))), options.rounds // 2) / few
        name, unit = f"training step, {size} px, batch {few}", "ms per cell of stride 32"
        yield single(name, took / (size / 32) ** 2, unit, note=f"{took:.0f} ms per image")
    network = build(options).eval()
    with torch.inference_mode():
        features = network.encode_image(batch_of(few, options)["image"].float() / 255)
        for length in (5, 15, 40):
            ground = partial(network.ground, features, batch_of(few, options, length=length)["tokens"])
            took = milliseconds(ground, options.rounds) / few
            yield single(f"answering a phrase of {length} tokens, image encoded", took, "ms")
    if device == "cpu":
        yield from processes(options)


def processes(options: Options) -> Iterator[Row]:
    """Images per second of one process with all cores, and of two processes (gloo) with half of them each."""
    cores, count = usable_cores(), max(4, min(options.batches))
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    for number in (1, 2):
        threads = max(1, cores // number)
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(number), "--master_port", "29617"]
        settings = json.dumps(asdict(replace(options, batches=(count // number,))), default=str)
        command = [sys.executable, *launcher, "-m", "benchmarks.network", settings, str(threads)]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        rate = count / json.loads(done.stdout.strip().splitlines()[-1])
        name = f"training, {number} process{'es' if number > 1 else ''} of {threads} thread(s), batch {count} in all"
        yield single(name, rate, "images/s")


def train_on_one_process(settings: str, threads: str) -> None:
    """Prints the median seconds of a training step under Accelerate, as one of the processes of :func:`processes`."""
    from accelerate import Accelerator

    from rec.training.process import end_together

    accelerator, options = Accelerator(cpu=True), Options(**json.loads(settings))
    torch.set_num_threads(int(threads))
    training = OurTraining(options)
    network, optimizer = accelerator.prepare(training.model, training.optimizer)
    batch, seconds = our_batch(batch_of(options.batches[0], options)), []
    for _ in range(options.rounds + 1):
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
