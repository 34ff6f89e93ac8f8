"""Section ``loop``: the whole training loop over bare forward, backward and optimizer on one batch in memory.

The loop is composed of the parts of ``scripts/train.py``: loader with workers, transfer, normalisation, Accelerator,
clipping, finite check, optimizer, EMA, loss window.
"""

import math
from typing import Any

from benchmarks.generated import our_dataset, prepared, refer_files
from benchmarks.inputs import Options, batch_of, our_batch
from benchmarks.section_model import OurTraining
from benchmarks.timing import Row, interleave, ratio

# On a CPU the loader's workers take their time from the cores that train, and a batch of eight decodes in a hundredth of a step:
# without workers the loop is fastest. The last row shows what two of them cost.
CPU_SIDES = (("letterboxed", 0, "<= 1.03"), ("plain", 0, "<= 1.03"), ("plain", 2, ""))
GPU_SIDES = (("letterboxed", 8, "<= 1.05"), ("plain", 8, "<= 1.05"))


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
    accelerator = Accelerator(cpu=device.type == "cpu")
    for store, workers, bound in CPU_SIDES if device.type == "cpu" else GPU_SIDES:
        dataset = our_dataset(
            prepared(source, work / store, store=store, size=options.size), options.size, training=True
        )
        batches = TrainingBatches(len(dataset), count, processes=1, rank=0, accumulation=1, seed=0)
        loader = training_loader(dataset, batches, num_workers=workers)
        training = OurTraining(options)
        model, optimizer = accelerator.prepare(training.model, training.optimizer)
        window = Window()
        iterator = [iter(loader)]

        def update(
            loader: Any = loader, training: Any = training, model: Any = model, optimizer: Any = optimizer,
            window: Any = window, iterator: Any = iterator,
        ) -> None:  # fmt: skip
            batch = next(iterator[0], None)
            if batch is None:
                iterator[0] = iter(loader)
                batch = next(iterator[0])
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    losses = model(our_batch(batch))
                accelerator.backward(losses["loss"])
            window.add(losses)
            norm = accelerator.clip_grad_norm_(model.parameters(), 0.15).item()
            if math.isfinite(norm):
                optimizer.step()
            optimizer.zero_grad()
            training.ema.update(training.model)

        bare = OurTraining(options)
        prepared_batch = our_batch(batch_of(count, options))
        sides = {"loop": update, "bare": lambda bare=bare, ready=prepared_batch: bare.bare(ready, optimizer=True)}
        times = interleave(sides, 3 * options.rounds, device, clock="wall", calls=2)  # the workers' time counts
        rows.append(ratio(
            f"whole loop over bare forward + backward + optimizer, batch {count}, {workers} workers, store {store}",
            times, "loop", "bare", bound,
        ))  # fmt: skip
    return rows
