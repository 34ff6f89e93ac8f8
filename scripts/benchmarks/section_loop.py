"""Section ``loop``: the whole training loop over bare forward, backward and optimizer on one batch in memory.

On a CPU also what share of the loop's own step lies outside those three, by the clock inside the loop: that is not disturbed by
how long the same convolutions take from one turn to the next.

The loop is composed of the parts of ``scripts/train.py``: loader with workers, transfer, normalisation, Accelerator,
clipping, finite check, optimizer, EMA, loss window.
"""

import itertools
import math
import statistics
import time
from typing import Any

from benchmarks.generated import our_dataset, prepared, refer_files
from benchmarks.inputs import Options, batch_of, our_batch
from benchmarks.section_model import OurTraining
from benchmarks.timing import Row, interleave, ratio

# On a CPU the loader's workers take their time from the cores that train, and a batch of eight decodes in a hundredth of a step:
# without workers the loop is fastest. The last rows show what two of them cost.
CPU_SIDES = (("letterboxed", 0), ("plain", 0), ("plain", 2))
GPU_SIDES = (("letterboxed", 8), ("plain", 8))


def run(options: Options) -> list[Row]:
    import torch
    from accelerate import Accelerator
    from accelerate.utils import send_to_device

    from rec.data.loader import TrainingBatches, training_loader
    from rec.training.run_log import Window

    device = torch.device(options.device)
    count = min(options.batches)
    work = options.work / "data"
    source = refer_files(work, options.images, 3 * options.images)
    rows = []
    on_gpu = device.type == "cuda"  # in bf16 there
    accelerator = Accelerator(mixed_precision="bf16") if on_gpu else Accelerator(cpu=True)
    for store, workers in GPU_SIDES if on_gpu else CPU_SIDES:
        dataset = our_dataset(
            prepared(source, work / store, store=store, size=options.size), options.size, training=True
        )
        batches = TrainingBatches(len(dataset), count, processes=1, rank=0, accumulation=1, seed=0)
        loader = training_loader(dataset, batches, num_workers=workers)
        training = OurTraining(options)
        model, optimizer = accelerator.prepare(training.model, training.optimizer)
        window = Window()
        iterator = [iter(loader)]
        shares: list[float] = []

        def update(
            loader: Any = loader, training: Any = training, model: Any = model, optimizer: Any = optimizer,
            window: Any = window, iterator: Any = iterator, shares: Any = shares,
        ) -> None:  # fmt: skip
            marks = [time.perf_counter()]
            batch = next(iterator[0], None)
            if batch is None:
                iterator[0] = iter(loader)
                batch = next(iterator[0])
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            ready = our_batch(batch)
            marks.append(time.perf_counter())
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    losses = model(ready)
                accelerator.backward(losses["loss"])
            marks.append(time.perf_counter())
            window.add(losses)
            norm = accelerator.clip_grad_norm_(model.parameters(), 0.15).item()
            marks.append(time.perf_counter())
            if math.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad()
            marks.append(time.perf_counter())
            training.ema.update(training.model)
            marks.append(time.perf_counter())
            fetched, computed, clipped, stepped, averaged = (b - a for a, b in itertools.pairwise(marks))
            shares.append((fetched + clipped + averaged) / (fetched + computed + clipped + stepped + averaged))

        bare = OurTraining(options)
        prepared_batch = our_batch(batch_of(count, options))
        sides = {"loop": update, "bare": lambda bare=bare, ready=prepared_batch: bare.bare(ready, True, on_gpu)}
        times = interleave(sides, 3 * options.rounds, device, clock="wall")  # the workers' time counts
        where = f"batch {count}, {workers} workers, store {store}"
        rows.append(ratio(f"whole loop over bare forward + backward + optimizer, {where}", times, "loop", "bare"))
        if not on_gpu:
            del shares[:2]  # imports and first allocations
            rows.append(
                Row(f"share of the loop outside forward, backward and optimizer, {where}", statistics.median(shares),
                    min(shares), max(shares), unit="")
            )  # fmt: skip
    return rows
