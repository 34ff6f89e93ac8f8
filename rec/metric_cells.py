"""Metrics of several splits or groups as the cells of a table, however that is drawn."""

from collections.abc import Mapping
from typing import Any


def metric_cells(rows: Mapping[Any, Mapping[str, float]], percent: bool = True) -> list[list[str]]:
    """The head, then a line per row: its name and one cell per metric, ``-`` where it has none.

    Args:
        rows: ``{name: metrics}``, fractions 0-1; whole numbers are counts, and a ``threshold`` is shown as it is.
        percent: fractions as per cent with two decimals, or as they are with four.
    """

    def shown(name: str, value: float | None) -> str:
        if value is None or value != value:  # of no phrases
            return "-"
        if isinstance(value, int):
            return str(value)
        if name == "threshold":
            return f"{value:g}"
        return f"{100 * value:.2f}" if percent else f"{value:.4f}"

    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    lines = [[str(row), *(shown(name, metrics.get(name)) for name in names)] for row, metrics in rows.items()]
    return [["", *names], *lines]
