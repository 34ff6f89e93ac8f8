"""Charts of the report, as SVG in its colours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rec.evaluation import several

Record = Mapping[str, Any]

_WIDTH, _HEIGHT, _MARGIN = 380, 240, 38
_FIFTHS = tuple((k / 5, f"{k / 5:g}") for k in range(6))


def _chart(title: str, below: str, beside: str, inside: str, ticks_below: Sequence[tuple[float, str]] = _FIFTHS) -> str:
    """An SVG chart whose plotting area is the unit square, y upwards; below it are ticks, each a place in 0..1 and its text."""
    w, h, m = _WIDTH, _HEIGHT, _MARGIN
    ticks = ""
    for place, text in ticks_below:
        ticks += f'<text x="{m + (w - 2 * m) * place:.0f}" y="{h - m + 14}" text-anchor="middle">{text}</text>'
    for place, text in _FIFTHS:
        y = h - m - (h - 2 * m) * place
        ticks += f'<text x="{m - 5}" y="{y + 4:.0f}" text-anchor="end">{text}</text>'
        ticks += f'<line x1="{m}" x2="{w - m}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--rule)"/>'
    return (
        f'<svg width="{w}" height="{h}" viewBox="0 0 {w} {h}" font-size="11" fill="currentColor" role="img"><title>{title}</title>'
        f'<text x="{w / 2}" y="16" text-anchor="middle" font-size="13">{title}</text>{ticks}{inside}'
        f'<text x="{w / 2}" y="{h - 4}" text-anchor="middle">{below}</text>'
        f'<text transform="translate(10 {h / 2}) rotate(-90)" text-anchor="middle">{beside}</text></svg>'
    )


def _point(x: float, y: float) -> tuple[float, float]:
    return _MARGIN + (_WIDTH - 2 * _MARGIN) * x, _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * y


def threshold_curve(records: Sequence[Record]) -> str:
    """``Pr@F1`` over the threshold of the score, with the one that was used, if any."""
    shares, used = several.curve(records), records[0]["threshold"]
    path = " ".join("{:.1f},{:.1f}".format(*_point(x, y)) for x, y in zip(several.THRESHOLDS, shares, strict=True))
    marks = f'<polyline points="{path}" fill="none" stroke="var(--line)"/>'
    if used is None:
        return _chart("Pr@F1 over the threshold (used: none)", "threshold", "Pr@F1", marks)
    (x0, y0), (_, y1) = _point(used, 0), _point(used, 1)
    marks += f'<line x1="{x0:.1f}" y1="{y0}" x2="{x0:.1f}" y2="{y1}" stroke="var(--quiet)" stroke-dasharray="4"/>'
    return _chart(f"Pr@F1 over the threshold (used: {used:g})", "threshold", "Pr@F1", marks)


def histogram(values: np.ndarray, title: str) -> str:
    counts, edges = np.histogram(values.clip(0, 1), bins=20, range=(0, 1))
    bars = ""
    for count, left, right in zip(counts / len(values), edges[:-1], edges[1:], strict=True):
        (x0, y0), (x1, y1) = _point(left, 0), _point(right, count)
        tint = "var(--right)" if left >= 0.5 else "var(--wrong)"
        bars += f'<rect x="{x0 + 1:.1f}" y="{y1:.1f}" width="{x1 - x0 - 2:.1f}" height="{y0 - y1:.1f}" fill="{tint}"/>'
    return _chart(title, title.split()[0], "share of phrases", bars)


def reliability(scored: np.ndarray) -> list[tuple[int, float, float]]:
    """Ten equal bins of the score, those that are not empty: (answers, mean score, share right).

    Args:
        scored: ``(N, 2)``, score and whether it is right.
    """
    bins = np.minimum((scored[:, 0] * 10).astype(int), 9)
    found = [scored[bins == number] for number in range(10)]
    return [(len(inside), *inside.mean(0).tolist()) for inside in found if len(inside)]


def calibration(bins: Sequence[tuple[int, float, float]]) -> str:
    """Accuracy at IoU 0.5 against the score, by :func:`reliability`; the diagonal is perfect calibration.

    The title has the expected calibration error, ECE (Naeini et al., AAAI 2015): the mean distance from it.
    """
    (x0, y0), (x1, y1) = _point(0, 0), _point(1, 1)
    marks = f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="var(--quiet)" stroke-dasharray="4"/>'
    total, points = sum(count for count, _, _ in bins), []
    for count, score, accuracy in bins:
        x, y = _point(score, accuracy)
        points.append(f"{x:.1f},{y:.1f}")
        marks += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + 6 * np.sqrt(count / total):.1f}" fill="var(--line)"/>'
    marks += f'<polyline points="{" ".join(points)}" fill="none" stroke="var(--line)"/>'
    error = sum(count * abs(score - accuracy) for count, score, accuracy in bins) / total
    return _chart(f"Calibration (ECE {error:.3f})", "score", "share right at IoU 0.5", marks)


def curves(
    title: str,
    below: str,
    beside: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    ticks: Sequence[tuple[float, str]],
) -> str:
    """Named lines through points ``(x, y)``, both in 0..1, each name beside its last point.

    Args:
        title, below, beside: texts of the chart and its axes.
        lines: name to points, from left to right.
        ticks: place in 0..1 and text of each mark below.
    """
    marks = ""
    for number, (name, points) in enumerate(lines.items()):
        places = [_point(*point) for point in points]
        dash = f' stroke-dasharray="{6 - 2 * number} 3"' if number else ""
        marks += f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" fill="none" stroke="var(--line)"{dash}/>'
        marks += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="var(--line)"/>' for x, y in places)
        x, y = places[-1]
        marks += f'<text x="{x:.1f}" y="{y + (16 if number else -8):.1f}" text-anchor="end">{name}</text>'
    return _chart(title, below, beside, marks, ticks)


def as_file(chart: str) -> str:
    """A chart as an SVG file of its own, with the report's light colours on white."""
    style = "svg { --rule: #d0d7de; --quiet: #59636e; --line: #0969da; color: #1f2328; background: #fff; font-family: sans-serif }"
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        "<title>", f"<style>{style}</style><title>", 1
    )
