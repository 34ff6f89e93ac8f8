"""What the tests of this folder measure, as functions of a device."""

import contextlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rec.config import LazyConfig
from rec.training.ema import EMA
from rec.training.feed import Feed
from rec.training.launch import build_accelerator, prepare_model
from rec.training.run_log import Window
from rec.training.update import Step, recorded

ROOT = Path(__file__).parents[2]
for folder in ("models", "inference", "training"):
    sys.path.insert(0, str(ROOT / "tests" / folder))
import small  # noqa: E402

QUICKSTART = ROOT / "configs" / "simrec_small_scenes_quickstart.py"
# Operations whose result, or whose shape, the host has to know; lift_fresh: numbers of Python's that become a tensor.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "lift_fresh"}


class _NoWait(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.partition(".")[0]
        chosen = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in chosen)
        if name in WAITS or by_mask:
            raise RuntimeError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """In the block, what makes the host wait for a GPU raises: on a GPU by torch itself, on a CPU by its operations' names."""
    if device.type == "cpu":
        with _NoWait():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cache
def train_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "scripts" / "train.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def set_tf32(products: bool, convolutions: bool) -> None:
    """Whether float32 matrix products and convolutions may be computed in TF32."""
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def on(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to(device) for name, value in batch.items()}


def loaded(count: int = 4, size: int = 64, pinned: bool = False) -> dict[str, Any]:
    """A batch as a loader gives it, with a bright rectangle in each image."""
    batch = small.batch(count, size)
    batch["image"] = (batch["image"] * 255).to(torch.uint8)
    return {name: value.pin_memory() for name, value in batch.items()} if pinned else batch


def asked_apart(count: int = 16) -> Iterator[dict[str, Any]]:
    """Batches of two bright squares in each image, one left, one right, and a phrase that alone says which is meant."""
    generator, side = torch.Generator().manual_seed(0), 20
    while True:
        image = torch.full((count, 3, 64, 64), 40, dtype=torch.uint8)
        right = torch.randint(2, (count,), generator=generator)
        corners = torch.stack(
            [torch.tensor([4, 40]).expand(count, 2), torch.randint(4, 40, (count, 2), generator=generator)], 2
        )
        for one, places in zip(image, corners.tolist(), strict=True):
            for channel, (x, y) in enumerate(places):
                one[channel, y : y + side, x : x + side] = 230
        centre = corners[torch.arange(count), right] + side / 2
        tokens = torch.stack([torch.full((count,), 3), 4 + right], 1)
        made = {"image": image, "tokens": tokens, "box": torch.cat([centre, torch.full((count, 2), side)], 1) / 64}
        yield {name: value.pin_memory() for name, value in made.items()} if torch.cuda.is_available() else made


def training(
    device: torch.device,
    precision: str,
    *overrides: str,
    updates: int = 6,
    sizes: Sequence[int | None] = (None,),
    batch: dict[str, Any] | None = None,
    model: Any = None,
    rates: Sequence[float] = (3e-3,),
    spoilt: int = -1,
    averages: list[EMA] | None = None,
    batches: Iterator[dict[str, Any]] | None = None,
) -> Iterator[float]:
    """The loss of each update of ``scripts/train.py``'s own step, on one batch again and again or on ``batches`` like it, sizes and
    rates in turn.

    The gradient of update ``spoilt`` is not finite. The model's average is put into ``averages``.
    """
    os.environ["ACCELERATE_MIXED_PRECISION"] = precision  # as the launch profile says; the fixture puts it back
    batch = loaded(pinned=device.type == "cuda") if batch is None else batch
    given = ["train.trackers=[]", "train.output_dir=outputs/none", "train.data.share_images=false", *overrides]
    cfg = LazyConfig.apply_overrides(LazyConfig.load(str(QUICKSTART)), given)
    accumulation = cfg.train.num_accumulation_steps
    cfg.train.batch_size = len(batch["image"]) * accumulation
    accelerator, _, _ = build_accelerator(cfg)
    assert accelerator.device.type == device.type and accelerator.mixed_precision == precision
    torch.manual_seed(0)
    model = small.simrec() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), rates[0], fused=True)
    model, optimizer = prepare_model(cfg, accelerator, model, optimizer)
    feed = Feed(itertools.repeat(batch) if batches is None else batches, accumulation, accelerator.device)
    ema = EMA(model)
    compute: Any = partial(train_script().forward_and_backward, accelerator, cfg.train.data)
    graphs, weights = cfg.train.cuda_graphs.enabled, list(model.parameters())
    step = Step(accelerator, model, weights, ema, cfg.train.clip_grad_norm, graphs)

    done = itertools.count()

    def spoiling(*how: Any) -> tuple[float, bool]:
        if next(done) == spoilt:
            next(weight.grad for weight in weights if weight.grad is not None).fill_(torch.nan)
        return step(*how)

    run = SimpleNamespace(
        accelerator=accelerator, window=Window(), stop=SimpleNamespace(requested=False), step=spoiling,
        compute=recorded(compute, weights, accumulation) if graphs else compute,
    )  # fmt: skip
    if averages is not None:
        averages.append(ema)
    for size, rate, _ in zip(itertools.cycle(sizes), itertools.cycle(rates), range(updates), strict=False):
        optimizer.param_groups[0]["lr"] = rate
        feed.take()
        train_script().one_update(run, model, optimizer, feed, size)
        yield run.window.means(accelerator)["loss"]


def graphs() -> int:
    """How many graphs torch.compile has made."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def overlaps(trace: dict[str, Any]) -> int:
    """How many copies to the device ran while a kernel ran on another stream, in a trace of torch's profiler."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    copies = [e for e in events if e.get("cat") == "gpu_memcpy" and "HtoD" in e["name"].replace(" -> ", "to")]
    kernels = [e for e in events if e.get("cat") == "kernel"]

    def beside(copy: dict[str, Any]) -> bool:
        begin, end = copy["ts"], copy["ts"] + copy["dur"]
        return any(
            e["ts"] < end and begin < e["ts"] + e["dur"] and e["args"]["stream"] != copy["args"]["stream"]
            for e in kernels
        )

    return sum(map(beside, copies))
