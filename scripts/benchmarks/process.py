"""Sections ``startup`` (imports, help texts, building the model) and ``checkpoint`` (how long training waits for a save)."""

import shutil
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.inputs import Options, build
from benchmarks.network import OurTraining
from benchmarks.timing import Row, fastest, interleave, ratio, single

COMMANDS = {
    "import rec": ("-c", "import rec"),
    "scripts/train.py --help": ("scripts/train.py", "--help"),
    "scripts/benchmark.py --help": ("scripts/benchmark.py", "--help"),
    "every package training imports": (
        "-c", "import torch, datasets, cv2, rec.data.dataset, rec.data.loader, rec.training.checkpoint",
    ),
}  # fmt: skip


def startup(options: Options) -> Iterator[Row]:
    note = f"Python itself: {fastest(('-c', 'pass'), options.rounds):.2f} s"
    for name, arguments in COMMANDS.items():
        yield single(name, fastest(arguments, options.rounds), "s", note)
        note = ""
    started = time.perf_counter()
    build(options)
    yield single("building the model and settling its statistics", time.perf_counter() - started, "s")


def checkpoint(options: Options) -> Iterator[Row]:
    """Against saving in the loop, as the original does."""
    from accelerate import Accelerator

    from rec.training.checkpoint import CheckpointWriter
    from rec.training.resume import TrainerState

    training = OurTraining(options)
    for parameter in training.parameters:
        parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()
    accelerator = Accelerator(cpu=options.device == "cpu")
    folder = options.work / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    writer = CheckpointWriter(folder / "ours", 2, lambda _: None)
    state, waits = TrainerState(), list[float]()

    def ours() -> None:
        writer.wait()  # the writing goes on beside training, an epoch long: the last save's is not part of this one
        started = time.perf_counter()
        state.update += 1
        writer.save(accelerator, training.model, training.optimizer, training.ema, state)
        waits.append(time.perf_counter() - started)

    def until_on_disk() -> None:
        ours()
        writer.wait()

    def plain() -> None:
        """One epoch's end of the original: the same state up to three times under two names each, in the loop."""
        content: Any = {
            "epoch": 0, "state_dict": training.ema.shadow, "optimizer": training.optimizer.state_dict(), "lr": 1e-4,
        }  # fmt: skip
        (folder / "plain").mkdir(parents=True, exist_ok=True)
        for name in ("ckpt_epoch_1", "last_checkpoint") * 2 + ("det_best_model",):
            torch.save(content, folder / "plain" / f"{name}.pth")

    sides = {"training waits, ours": ours, "training waits, plain": plain}
    times = interleave(sides, options.rounds, clock="wall")
    times["training waits, ours"] = waits[-options.rounds :]
    yield ratio("training waits for an epoch's save, plain over ours", times, *reversed(sides))
    whole = interleave({"whole": until_on_disk}, max(1, options.rounds // 2), clock="wall")["whole"]
    yield single("until the checkpoint is complete on the disk", min(whole), "s")
    files = [path for path in (folder / "ours" / "checkpoints").glob("step_*/*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / max(1, len({path.parent for path in files})) / 1e6
    yield single("a checkpoint: raw and EMA weights, optimizer", size, "MB")
    shutil.rmtree(folder, ignore_errors=True)
