"""Interleaved timing: A, B, A, B, … in one process, medians and spread; ratios and the bounds they are to keep."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

WITHIN = "within 15 %"
ROOT = Path(__file__).resolve().parents[2]
Sides = dict[str, Callable[[], Any]]
# What interleave reads: wall-clock time, or the CPU time of this process, which others on the machine disturb less.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Row:
    """One line of a result.

    Attributes:
        what: what was measured.
        value: the ratio or number.
        low, high: smallest and largest of the rounds.
        bound: what it is to reach, e.g. ``>= 1.35`` (:mod:`benchmarks.bounds` has them); empty for information.
        unit: of ``value``; ``x`` is a ratio.
        seconds: median seconds of each side.
        note: what else to know.
    """

    what: str
    value: float
    low: float
    high: float
    bound: str = ""
    unit: str = "x"
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def kept(self) -> bool | None:
        """Whether the bound holds; None without one."""
        if not self.bound:
            return None
        if self.bound == WITHIN:
            return abs(self.value - 1) <= 0.15
        sign, _, limit = self.bound.partition(" ")
        return self.value >= float(limit) if sign == ">=" else self.value <= float(limit)

    @property
    def cells(self) -> list[str]:
        """What; value, unit and spread; seconds of each side; note: as a table shows them."""
        spread = f" [{number(self.low)} to {number(self.high)}]" if self.low != self.high else ""
        sides = ", ".join(f"{side} {spell(seconds)}" for side, seconds in self.seconds.items())
        return [self.what, f"{number(self.value)} {self.unit}{spread}".strip(), sides, self.note]

    def line(self) -> str:
        """For the terminal."""
        what, value, *rest = self.cells
        verdict = {None: "", True: f"  (bound {self.bound}: kept)", False: f"  (bound {self.bound}: MISSED)"}[self.kept]
        return "  ".join([f"  {what}: {value}{verdict}", *filter(None, rest)])

    def to_json(self) -> dict[str, Any]:
        """Plain types, with ``kept``."""
        return asdict(self) | {"kept": self.kept}


def interleave(
    sides: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu", clock: str | None = None
) -> dict[str, list[float]]:
    """Seconds of every side in every round; two unmeasured rounds come first, and odd rounds run backwards.

    The environment variable ``REC_BENCHMARK_CLOCK`` chooses among :data:`CLOCKS` where ``clock`` does not.
    """
    now = CLOCKS[clock or os.environ.get("REC_BENCHMARK_CLOCK", "wall")]
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-2, rounds):
        for name in sorted(sides, reverse=bool(turn % 2)):
            synchronize(device)
            started = now()
            sides[name]()
            synchronize(device)
            if turn >= 0:
                times[name].append(now() - started)
    return times


def synchronize(device: str) -> None:
    """Waits for an accelerator; nothing on a CPU."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


@contextmanager
def clocked(parts: Iterable[tuple[Any, str, str]], spent: dict[str, float]) -> Iterator[None]:
    """In the block, the seconds that each (object, its function, part) takes are added to ``spent[part]``."""

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - started

        return call

    with ExitStack() as stack:
        for place, name, part in parts:
            stack.enter_context(mock.patch.object(place, name, timed(getattr(place, name), part)))
        yield


def ratio(what: str, times: Mapping[str, list[float]], over: str, under: str) -> Row:
    """Row of ``over / under``, computed round by round."""
    each = [a / b for a, b in zip(times[over], times[under], strict=True)]
    seconds = {side: median(times[side]) for side in (over, under)}
    return Row(what, median(each), min(each), max(each), seconds=seconds)


def ratios(times: Mapping[str, list[float]], *wanted: tuple[str, str, str]) -> list[Row]:
    """Rows of ``(what, over, under)``; those with a side that was not measured are left out."""
    return [ratio(what, times, over, under) for what, over, under in wanted if {over, under} <= set(times)]


def single(what: str, value: float, unit: str, note: str = "") -> Row:
    """Row of one number."""
    return Row(what, value, value, value, unit=unit, note=note)


def check(what: str, value: float, recorded: float) -> Row:
    """Row that holds a number of the plain implementation against the original's, within 15 %."""
    share = value / recorded
    note = f"plain {number(value)}, original {number(recorded)}"
    return Row(f"plain / original: {what}", share, share, share, WITHIN, note=note)


def fastest(arguments: Sequence[str], rounds: int) -> float:
    """Wall-clock seconds of the fastest of a few starts of Python in the repository's root, the first one not counted."""
    seconds = []
    for _ in range(max(3, rounds)):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def number(value: float) -> str:
    """Three significant digits, whole numbers as they are."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def spell(seconds: float) -> str:
    """Seconds in a fitting unit."""
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
