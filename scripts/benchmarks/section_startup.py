"""Section ``startup``: imports, help texts, building the model, the first batch."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.inputs import Options, build
from benchmarks.timing import Row, single

ROOT = Path(__file__).resolve().parents[2]


def run(options: Options) -> list[Row]:
    rows = []
    commands = {
        "import rec": ("-c", "import rec"),
        "scripts/train.py --help": ("scripts/train.py", "--help"),
        "scripts/benchmark.py --help": ("scripts/benchmark.py", "--help"),
        "every package training imports": (
            "-c", "import torch, datasets, cv2, rec.data.dataset, rec.data.loader, rec.training.checkpoint",
        ),
    }  # fmt: skip
    bare = fastest(("-c", "pass"), options.rounds)
    for name, arguments in commands.items():
        note = f"Python itself: {bare:.2f} s" if name == "import rec" else ""
        rows.append(single(name, fastest(arguments, options.rounds), "s", note))
    started = time.perf_counter()
    build(options)
    rows.append(single("building the model and settling its statistics", time.perf_counter() - started, "s"))
    return rows


def fastest(arguments: tuple[str, ...], rounds: int) -> float:
    """Seconds of the fastest of a few starts of Python, the first one not counted."""
    seconds = []
    for _ in range(max(2, rounds)):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
