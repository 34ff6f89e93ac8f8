"""Section ``model``: the training step and prediction latency, and whether the plain implementation is honest."""

import contextlib
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.inputs import Options, batch_of, build, our_batch, plain_batch
from benchmarks.timing import Row, check, interleave, ratio, single

# Measured of the original code: seconds on two cores at 416 x 416, float32, allocator pinned; operations at batch 32.
ORIGINAL = {"step 8": 1.83, "forward 8": 1.16, "step 32": 7.0, "evaluation 1": 0.13, "evaluation 8": 0.97,
            "EMA 8": 0.024, "operations": 4408, "loss operations": 3595}  # fmt: skip


def run(options: Options) -> list[Row]:
    rows = [row for count in options.batches for row in training_step(options, count)]
    rows += latency(options)
    if (options.config, options.overrides, options.size, options.device) == (Options.config, (), 416, "cpu"):
        rows += honesty(options)
    return rows


def training_step(options: Options, count: int) -> list[Row]:
    """One update of ``count`` samples: ours in float32 and bf16, plain in float32, and the floor."""
    import torch

    from benchmarks.plain_loop import PlainTraining
    from benchmarks.plain_model import PlainSimREC

    device = torch.device(options.device)
    training = OurTraining(options)
    plain = PlainTraining(PlainSimREC(build(options)).to(device))
    batch = batch_of(count, options)
    ready, prepared = plain_batch(batch), our_batch(batch)

    def plain_step() -> None:
        with as_the_original_runs(device):
            plain.step(ready)

    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: training.step(batch),
        "plain": plain_step,
        "floor": lambda: training.bare(prepared),
    }
    if bfloat16_is_fast(device):
        # A model of its own: the frozen trunk's folded weights are kept in the dtype of the last step.
        in_bf16 = OurTraining(options)
        sides["ours bf16"] = lambda: in_bf16.step(batch, bf16=True)
    times = interleave(sides, options.rounds, device)
    name = f"training step, batch {count}"
    rows = [ratio(f"{name}, float32", times, "plain", "ours")]
    if "ours bf16" in times:
        rows.append(ratio(f"{name}, bf16", times, "plain", "ours bf16"))
    return [*rows, ratio(f"{name}, ours over the floor", times, "ours", "floor")]


class OurTraining:
    """Our training step as ``scripts/train.py`` composes it, on one process."""

    def __init__(self, options: Options, original_arithmetic: bool = False) -> None:
        import torch

        from rec.training.ema import EMA

        self.model = build(options, original_arithmetic).to(memory_format=torch.channels_last)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, 1e-4, (0.9, 0.98), 1e-9, fused=True)
        self.ema = EMA(self.model)

    def step(self, batch: Any, bf16: bool = False) -> float:
        """One update from uint8 images; reads back one number, the gradient norm."""
        import torch

        with torch.autocast(self.parameters[0].device.type, torch.bfloat16, enabled=bf16):
            losses = self.model(our_batch(batch))
        losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 0.15)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)
        return norm.item()

    def bare(self, prepared: Any, optimizer: bool = False, bf16: bool = False) -> None:
        """Forward, loss, backward on a ready batch; with the optimizer's step where asked."""
        import torch

        with torch.autocast(self.parameters[0].device.type, torch.bfloat16, enabled=bf16):
            losses = self.model(prepared)
        losses["loss"].backward()
        if optimizer:
            self.optimizer.step()
        self.optimizer.zero_grad()


def latency(options: Options) -> list[Row]:
    """One image, one phrase, from uint8 pixels to a box on the host."""
    import torch

    from benchmarks.plain_model import PlainSimREC
    from rec.inference.grounder import compile_network

    device = torch.device(options.device)
    plain = PlainSimREC(build(options)).to(device).eval()
    batch = batch_of(1, options)
    ready = plain_batch(batch)

    def ours(bf16: bool, compiled: bool = False) -> Callable[[], Any]:
        # A model of its own: folded weights are kept in the dtype of the last call, and nobody changes it between calls.
        model = build(options).to(memory_format=torch.channels_last).eval()
        if compiled:
            compile_network(model)

        def predict() -> None:
            ready = our_batch(batch)
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                model.ground(model.encode_image(ready["image"]), ready["tokens"])["box"].tolist()

        return predict

    def plain_predict() -> None:
        with torch.no_grad(), as_the_original_runs(device):
            plain(ready["image"], ready["tokens"])["box"].tolist()

    sides: dict[str, Callable[[], Any]] = {"ours": ours(bf16=False), "plain": plain_predict}
    if bfloat16_is_fast(device):
        sides["ours bf16"] = ours(bf16=True)
    if device.type == "cuda":
        sides["ours bf16, compiled"] = ours(bf16=True, compiled=True)
    times = interleave(sides, 3 * options.rounds, device)
    rows = [ratio("prediction latency, batch 1, float32", times, "plain", "ours")]
    if "ours bf16" in times:
        rows.append(ratio("prediction latency, batch 1, bf16", times, "plain", "ours bf16"))
    if "ours bf16, compiled" in times:
        milliseconds = 1000 * statistics.median(times["ours bf16, compiled"])
        rows.append(single("prediction latency in ms, batch 1, bf16, compiled", milliseconds, "ms"))
    return rows


def as_the_original_runs(device: Any) -> Any:
    """The original switches cuDNN off."""
    import torch

    return torch.backends.cudnn.flags(enabled=False) if device.type == "cuda" else contextlib.nullcontext()


def honesty(options: Options) -> list[Row]:
    """The plain implementation, in the original's arithmetic, against the original's recorded figures."""
    import torch

    from benchmarks.plain_loop import PlainTraining
    from benchmarks.plain_model import PlainSimREC

    device = torch.device(options.device)
    model = PlainSimREC(build(options, original_arithmetic=True), frozen_statistics=False).to(device)
    training = PlainTraining(model)
    ready = {count: plain_batch(batch_of(count, options)) for count in (1, 8, 32)}

    def forward(count: int) -> Any:
        return model(ready[count]["image"], ready[count]["tokens"], ready[count]["label"])

    def evaluate(count: int) -> None:
        model.eval()
        with torch.no_grad():
            model(ready[count]["image"], ready[count]["tokens"])
        model.train()

    sides: dict[str, Callable[[], Any]] = {
        "forward 8": lambda: forward(8), "step 8": lambda: training.step(ready[8]),
        "EMA 8": lambda: training.ema.update(model), "evaluation 1": lambda: evaluate(1),
        "evaluation 8": lambda: evaluate(8),
    }  # fmt: skip
    seconds = {name: statistics.median(times) for name, times in interleave(sides, options.rounds, device).items()}
    sides = {"step 32": lambda: training.step(ready[32])}
    seconds |= {name: statistics.median(times) for name, times in interleave(sides, 2, device).items()}
    operations, of_loss = count_operations(lambda: forward(32))
    rows = [
        check("operations of a forward pass, batch 32", operations, ORIGINAL["operations"]),
        check("operations of loss and assignment, batch 32", of_loss, ORIGINAL["loss operations"]),
    ]
    for name, part, whole in (
        ("forward's share of the step, batch 8", "forward 8", "step 8"),
        ("step of batch 32 over step of batch 8", "step 32", "step 8"),
        ("evaluation of batch 8 over step of batch 8", "evaluation 8", "step 8"),
        ("evaluation of batch 1 over evaluation of batch 8", "evaluation 1", "evaluation 8"),
    ):
        rows.append(check(name, seconds[part] / seconds[whole], ORIGINAL[part] / ORIGINAL[whole]))
    rows.append(check("seconds of a step, batch 8", seconds["step 8"], ORIGINAL["step 8"]))
    rows.append(check("seconds of a step, batch 32", seconds["step 32"], ORIGINAL["step 32"]))
    ours = OurTraining(options, original_arithmetic=True)
    batch = batch_of(8, options)
    times = interleave(
        {"ours": lambda: ours.step(batch), "plain": lambda: training.step(ready[8])}, options.rounds, device
    )
    rows.append(ratio("training step, batch 8, float32, original arithmetic on both sides", times, "plain", "ours"))
    return rows


# Operations that move no number: new shapes and places of the same memory.
VIEWS = ("alias", "detach", "expand", "permute", "reshape", "select", "slice", "split", "t", "transpose", "unbind",
         "unsafe_split", "unsqueeze", "view", "_unsafe_view")  # fmt: skip


def count_operations(run: Callable[[], Any]) -> tuple[int, int]:
    """Tensor operations of ``run``, views not counted: all, and those of the plain loss with its assignment."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from benchmarks import plain_model

    class Counter(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Counter.total += function.__name__.partition(".")[0] not in VIEWS
            return function(*args, **(kwargs or {}))

    inside = 0
    plain_losses = plain_model.plain_losses

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


def bfloat16_is_fast(device: Any) -> bool:
    """Whether the device computes bf16 convolutions itself rather than in software."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
