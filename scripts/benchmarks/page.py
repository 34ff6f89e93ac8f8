"""Writes ``docs/performance.md`` from the JSON files that the sections leave."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bounds import BOUNDS
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

DEVICES = {
    "cpu": "2 CPU cores",
    "cuda": "GPU (H200 class, `--device cuda`; plain in float32 with cuDNN off, as the original runs)",
}


def write_page(folder: Path) -> Path:
    """Writes the page beside ``folder`` of JSON files; returns its path."""
    found: dict[str, dict[str, Any]] = {device: {} for device in DEVICES}
    for section in TITLES:
        for device, ending in (("cpu", ""), ("cuda", "_cuda")):
            file = folder / f"{section}{ending}.json"
            if file.exists():
                found[device][section] = json.loads(file.read_text(encoding="utf-8"))
    parts = [INTRODUCTION, "## Bounds\n"]
    parts += [f"### {title}\n\n{against_bounds(device, found[device])}" for device, title in DEVICES.items()]
    for section, title in TITLES.items():
        tables = [table(contents[section]) for contents in found.values() if section in contents]
        parts.append(f"## {title}\n\n" + ("\n".join(tables) or "Not run.\n"))
    path = folder.parent / "performance.md"
    path.write_text("\n".join([*parts, LIMITS.lstrip("\n")]), encoding="utf-8")
    return path


def against_bounds(device: str, found: dict[str, Any]) -> str:
    """Every number of a device that has a bound, measured or not."""
    rows = {row.what: row for content in found.values() for row in map(row_of, content["rows"])}
    bounds = {row.what: row.bound for row in rows.values() if row.bound} | BOUNDS[device]
    lines = ["| what | bound | measured | kept |", "|---|---|---|---|"]
    for what in [*BOUNDS[device], *(name for name in bounds if name not in BOUNDS[device])]:
        row = rows.get(what)
        if row is None:
            lines.append(f"| {what} | {bounds[what]} | not run | |")
        else:
            kept = replace(row, bound=bounds[what]).kept
            lines.append(f"| {what} | {bounds[what]} | {value_of(row)} | {'yes' if kept else '**no**'} |")
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
