"""Writes ``docs/performance.md`` from the JSON files that the sections leave."""

import json
from pathlib import Path
from typing import Any

from benchmarks.timing import Row, number, spell

TITLES = {
    "model": "Training step and prediction latency",
    "loss": "Loss and assignment",
    "data": "Data",
    "loop": "Training loop",
    "eval": "Evaluation",
    "checkpoint": "Checkpoints",
    "startup": "Startup",
    "growth": "How cost grows",
    "predict": "Prediction",
}

INTRODUCTION = """# Performance

Written by `scripts/benchmark.py page` from `docs/performance/*.json`; do not edit.

```bash
.venv/bin/python scripts/benchmark.py all        # or one section: model, loss, data, loop, eval, …
```

Every ratio is measured in one process, the sides in turn (A, B, A, B, …), with glibc's allocator set alike for both. The
number is the median of the rounds' ratios, in brackets the smallest and largest round. "Plain" is a straightforward
implementation of the same mathematics in the original SimREC's manner (`scripts/benchmarks/plain_*.py`): contiguous
layout, loss image by image, every scale's projection computed, images normalised to float32 on the host, dense masks,
averages tensor by tensor, one pass of the network per sentence. `tests/test_benchmark_plain.py` holds it to our losses,
gradients and boxes; the rows "plain / original" hold it to what the original was measured to take. The floor is forward,
loss and backward of our network on ready tensors.
"""

LIMITS = """
## What limits each path now, and what would lift it

- **Training step, CPU.** Convolutions, which oneDNN computes near the cores' peak: the frozen trunk's forward pass, and both
  passes of the last trunk stages and the fusion. Lifted by bf16 (`--mixed_precision bf16`) on CPUs that have it, by
  `train.data.share_images=true` where objects have several phrases, by more cores.
- **Loss and assignment.** The number of small operations. Fusing them would not be seen: it is a thousandth of the step.
- **Evaluation and prediction, CPU.** The trunk, once per image; the fusion's convolutions behind it, once per phrase.
  Lifted by bf16.
- **One sample.** JPEG decoding. Lifted by `prepare_data.py --store letterboxed` or `--store raw`; a decoder that scales while
  it decodes would change the pixels.
- **Training loop.** On a CPU the loader's workers take their time from the cores that train: set
  `train.data.num_workers=0` there. A stored size (above) costs least.
- **Checkpoint.** The copy of the state in memory; the disk works beside training.
- **Startup.** Importing torch and the libraries around it.

Fast paths and where the mathematics they replace is held to them: convolution, BatchNorm and activation in one operation
(`rec/models/folding.py`, `tests/models/test_folding.py`); assignment without a loop (`rec/models/assignment.py`,
`tests/models/test_assignment_and_losses.py`); 1x1 convolutions before upsampling, averages before joining, attention
without convolutions over the map, EMA by `torch._foreach_lerp_`, one backbone pass per image
(`tests/test_benchmark_plain.py`).
"""

GPU_BOUNDS = """On a GPU (H200 class, bf16; `--device cuda`) nothing was run. Wanted there: training step >= 4 x plain in float32
with cuDNN off, loss >= 50 x without a host synchronisation, evaluation >= 90 % of the loader's rate, loop <= 1.05 x, prediction
<= 4 ms."""


def write_page(folder: Path) -> Path:
    """Writes the page beside ``folder`` of JSON files; returns its path."""
    found = {}
    for section in TITLES:
        file = folder / f"{section}.json"
        if file.exists():
            found[section] = json.loads(file.read_text(encoding="utf-8"))
    parts = [INTRODUCTION, against_bounds(found)]
    for section, title in TITLES.items():
        parts.append(f"## {title}\n\n" + (table(found[section]) if section in found else "Not run.\n"))
    path = folder.parent / "performance.md"
    path.write_text("\n".join([*parts, LIMITS.lstrip("\n")]), encoding="utf-8")
    return path


def against_bounds(found: dict[str, Any]) -> str:
    """Every number that has a bound, CPU and GPU."""
    lines = ["## Bounds", "", "| what | bound | CPU | kept | GPU |", "|---|---|---|---|---|"]
    for content in found.values():
        on_gpu = "gpu" in content["machine"]
        for row in map(row_of, content["rows"]):
            if row.kept is not None:
                measured = value_of(row)
                cpu, gpu = ("not run", measured) if on_gpu else (measured, "not run")
                lines.append(f"| {row.what} | {row.bound} | {cpu} | {'yes' if row.kept else '**no**'} | {gpu} |")
    if not any("gpu" in content["machine"] for content in found.values()):
        lines += ["", GPU_BOUNDS]
    return "\n".join(lines) + "\n"


def table(content: dict[str, Any]) -> str:
    """One section's rows, and what they were measured on."""
    machine, options = content["machine"], content["options"]
    where = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']}"
    lines = [
        f"{where}, {machine['threads']} thread(s), torch {machine['torch']}, {options['config']} at {options['size']} px,"
        f" {content['date']} ({content['seconds']:.0f} s). "
        + (
            ""
            if options["clock"] == "wall"
            else "CPU time of the process, while others used the machine (`--clock cpu`)."
        ),
        "",
        "| what | value | seconds of each side | note |",
        "|---|---|---|---|",
    ]
    for row in map(row_of, content["rows"]):
        sides = ", ".join(f"{side} {spell(seconds)}" for side, seconds in row.seconds.items())
        lines.append(f"| {row.what} | {value_of(row)} | {sides} | {row.note} |")
    return "\n".join(lines) + "\n"


def row_of(values: dict[str, Any]) -> Row:
    """A row from its JSON."""
    return Row(**{name: value for name, value in values.items() if name != "kept"})


def value_of(row: Row) -> str:
    """Value, unit and spread."""
    spread = f" [{number(row.low)} to {number(row.high)}]" if row.low != row.high else ""
    return f"{number(row.value)} {row.unit}{spread}".strip()
