"""Section ``growth``: how cost grows with batch, image, phrase and processes (rows of the data set: section ``data``)."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.inputs import Options, batch_of, build
from benchmarks.section_model import OurTraining
from benchmarks.timing import Row, interleave, single

BATCHES = (2, 4, 8, 16, 32, 64)  # BatchNorm over the phrases needs two


def run(options: Options) -> list[Row]:
    rows = [*training(options), *phrase_length(options)]
    return rows if options.device != "cpu" else [*rows, *processes(options)]


def training(options: Options) -> list[Row]:
    """Milliseconds per image of the training step, by batch and by image size."""
    import torch

    ours = OurTraining(options)
    rows = []
    largest, device = max(options.batches) * 2, torch.device(options.device)
    rounds = max(1, options.rounds // 2)
    for count in (n for n in BATCHES if n <= largest):
        batch = batch_of(count, options)
        seconds = middle(interleave({"step": partial(ours.step, batch)}, rounds, device)["step"])
        rows.append(single(f"training step, batch {count}, {options.size} px", seconds / count * 1000, "ms per image"))
    count = min(options.batches)
    for size in sides_of(options):
        batch = batch_of(count, replace(options, size=size))
        seconds = middle(interleave({"step": partial(ours.step, batch)}, rounds, device)["step"])
        rows.append(single(f"training step, {size} px, batch {count}", seconds / (size / 32) ** 2 / count * 1000,
                           "ms per cell of stride 32", note=f"{seconds / count * 1000:.0f} ms per image"))  # fmt: skip
    return rows


def sides_of(options: Options) -> tuple[int, ...]:
    """Image sizes of multi-scale training; fewer for a small run."""
    return (224, 320, 416, 512, 608) if options.size >= 416 else (options.size,)


def phrase_length(options: Options) -> list[Row]:
    """A phrase on an encoded image, by tokens."""
    import torch

    model = build(options).eval()
    batch = batch_of(min(options.batches), options)
    rows = []
    with torch.inference_mode():
        features = model.encode_image(batch["image"].float() / 255)
        for length in (5, 15, 40):
            tokens = batch_of(min(options.batches), options, length=length)["tokens"]
            sides = {"ground": partial(model.ground, features, tokens)}
            seconds = middle(interleave(sides, options.rounds, batch["image"].device)["ground"]) / len(tokens)
            rows.append(single(f"answering a phrase of {length} tokens, image encoded", seconds * 1000, "ms"))
    return rows


TRAIN_ON_ONE_PROCESS = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import torch
from dataclasses import replace
from accelerate import Accelerator
from benchmarks.inputs import Options, batch_of, our_batch
from benchmarks.section_model import OurTraining
from rec.training.process import end_together
accelerator = Accelerator(cpu=True)
torch.set_num_threads(int(sys.argv[5]))
options = Options(config=sys.argv[2], overrides=tuple(json.loads(sys.argv[6])), size=int(sys.argv[3]))
training = OurTraining(options)
model, optimizer = accelerator.prepare(training.model, training.optimizer)
batch = our_batch(batch_of(int(sys.argv[4]), options))
def step():
    accelerator.backward(model(batch)["loss"])
    accelerator.clip_grad_norm_(model.parameters(), 0.15)
    optimizer.step()
    optimizer.zero_grad()
step()
seconds = []
for _ in range(int(sys.argv[7])):
    accelerator.wait_for_everyone()
    started = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - started)
if accelerator.is_main_process:
    print(json.dumps(sorted(seconds)[len(seconds) // 2]), flush=True)
end_together(accelerator)
"""


def processes(options: Options) -> list[Row]:
    """Images per second of one process with all cores, and of two processes (gloo) with half of them each."""
    script = options.work / "train_on_one_process.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(TRAIN_ON_ONE_PROCESS, encoding="utf-8")
    cores, count = len(os.sched_getaffinity(0)), max(4, min(options.batches))
    rate = {}
    for number in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(number), "--master_port", "29617"]
        arguments = [Path(__file__).parents[1], options.config, options.size, count // number, max(1, cores // number),
                     json.dumps(options.overrides), options.rounds]  # fmt: skip
        done = subprocess.run(
            [sys.executable, *launcher, str(script), *map(str, arguments)], capture_output=True, text=True, check=True,
            env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        )  # fmt: skip
        rate[number] = count / json.loads(done.stdout.strip().splitlines()[-1])
    return [
        single(f"training, {number} process{'es' if number > 1 else ''} of {max(1, cores // number)} thread(s), batch "
               f"{count} in all", rate[number], "images/s")
        for number in rate
    ]  # fmt: skip


def middle(values: list[float]) -> float:
    """Median."""
    return sorted(values)[len(values) // 2]
