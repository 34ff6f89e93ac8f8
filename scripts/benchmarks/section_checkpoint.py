"""Section ``checkpoint``: how long training waits for a save, against saving in the loop as the original does."""

import shutil
import time
from typing import Any

from benchmarks.inputs import Options
from benchmarks.section_model import OurTraining
from benchmarks.timing import Row, interleave, ratio, single


def run(options: Options) -> list[Row]:
    import torch
    from accelerate import Accelerator

    from rec.training.checkpoint import Writer
    from rec.training.resume import TrainerState

    training = OurTraining(options)
    for parameter in training.parameters:
        parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()
    accelerator = Accelerator(cpu=options.device == "cpu")
    folder = options.work / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    writer = Writer(folder / "ours", 2, lambda _: None)
    state = TrainerState()

    waits: list[float] = []

    def ours() -> None:
        writer.wait()  # the writing goes on beside training, an epoch long: the last save's is no part of this one
        started = time.perf_counter()
        state.update += 1
        writer.save(accelerator, training.model, training.optimizer, training.ema, state)
        waits.append(time.perf_counter() - started)

    def plain() -> None:
        """One epoch's end of the original: the same state up to three times under two names each, in the loop."""
        content: Any = {
            "epoch": 0, "state_dict": training.ema.shadow, "optimizer": training.optimizer.state_dict(), "lr": 1e-4,
        }  # fmt: skip
        (folder / "plain").mkdir(parents=True, exist_ok=True)
        for name in ("ckpt_epoch_1", "last_checkpoint") * 2 + ("det_best_model",):
            torch.save(content, folder / "plain" / f"{name}.pth")

    def timed_wait() -> None:
        ours()
        writer.wait()

    times = interleave({"training waits, ours": ours, "training waits, plain": plain}, options.rounds, clock="wall")
    times["training waits, ours"] = waits[-options.rounds :]
    whole = interleave({"until on the disk": timed_wait}, max(1, options.rounds // 2), clock="wall")
    files = [path for path in (folder / "ours" / "checkpoints").glob("step_*/*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / max(1, len({path.parent for path in files})) / 1e6
    shutil.rmtree(folder, ignore_errors=True)
    return [
        ratio(
            "training waits for an epoch's save, plain over ours",
            times,
            "training waits, plain",
            "training waits, ours",
        ),
        single("until the checkpoint is complete on the disk", sorted(whole["until on the disk"])[0], "s"),
        single("a checkpoint: raw and EMA weights, optimizer", size, "MB"),
    ]
