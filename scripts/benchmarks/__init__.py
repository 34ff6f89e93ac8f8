"""Sections of ``scripts/benchmark.py`` and the plain implementation they measure against."""

from typing import Any, NamedTuple

QUICKSTART = "configs/simrec_small_scenes_quickstart.py"


class Section(NamedTuple):
    """A section: the module with its function, its title on the page, and options of its own where they are not given."""

    module: str
    title: str
    options: dict[str, Any] = {}  # noqa: RUF012 - a tuple's default, changed by nobody


SECTIONS = {
    "model": Section("network", "Training step and prediction latency"),
    "loss": Section("network", "Loss and assignment"),
    "data": Section("pipeline", "Data"),
    "loop": Section("pipeline", "Training loop"),
    "eval": Section("pipeline", "Evaluation"),
    "checkpoint": Section("process", "Checkpoints"),
    "startup": Section("process", "Startup"),
    "growth": Section("network", "How cost grows"),
    "predict": Section("pipeline", "Prediction"),
    "time_to_accuracy": Section(
        "accuracy", "Time to accuracy", {"rounds": 3, "images": 11_000, "config": QUICKSTART, "size": 96}
    ),
    "gpu": Section("gpu", "On a GPU", {"rounds": 3, "images": 64}),
}
