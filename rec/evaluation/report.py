"""One self-contained HTML report of predictions: where the model is good, where it fails, and what that looks like."""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rec.contracts import DataSet
from rec.evaluation import several
from rec.evaluation.metrics import mask_iou, summarize_records
from rec.files import user_path, write_text
from rec.metric_cells import metric_cells

Record = Mapping[str, Any]

# Words that show what a phrase leans on; a phrase may be in several of these groups.
WORDS = {
    "spatial words": (
        "left right top bottom middle center centre upper lower leftmost rightmost topmost bottommost front back corner "
        "side far first second third last highest lowest"
    ),
    "attribute words": (
        "red green blue yellow orange purple pink brown black white gray grey cyan dark light small big large tiny little "
        "tall short long old young striped dotted spotted checkered plain wooden bald blond blonde"
    ),
    "relational words": (
        "above below under over behind beside near next between with holding wearing of on in closest nearest facing"
    ),
}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 1em; color: #1f2328 }
table { border-collapse: collapse; margin: .5em 0 } td, th { padding: .2em .8em; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #d0d7de }
.charts, .gallery { display: flex; flex-wrap: wrap; gap: 14px } figure { margin: 0 } figcaption { font-size: 13px }
.gallery img { width: 240px; max-width: 100% } svg { max-width: 100% } .scroll { overflow-x: auto }
.true { color: #2ea043 } .predicted { color: #da3633 }
"""


def write_report(
    path: str | Path, datasets: Mapping[str, Any], records: Mapping[str, Sequence[Record]], title: str
) -> None:
    """Write the report, replaced in one move.

    Args:
        path: The HTML file.
        datasets: ``{split: data set}``, for the pictures.
        records: ``{split: lines of predictions.jsonl}``.
        title: What was evaluated.
    """
    parts = [
        f"<h1>{_text(title)}</h1>",
        _table({split: summarize_records(list(rows)) for split, rows in records.items()}),
    ]
    for split, rows in records.items():
        if rows:
            parts += [f"<h2>{_text(split)}</h2>", *_split(datasets[split], list(rows))]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    write_text(user_path(path), page)


def _split(dataset: DataSet, records: list[Record]) -> list[str]:
    quality = np.array([overlap(record) for record in records])
    any_number = "targets" in records[0]
    parts = [
        '<div class="charts">',
        _histogram(quality, "F1 of the phrase" if any_number else "IoU with the true object"),
    ]
    if any_number and records[0].get("candidates") is not None:
        parts.append(_threshold_curve(records))
    scored = (
        []
        if any_number
        else [
            (record["score"], value > 0.5)
            for record, value in zip(records, quality, strict=True)
            if record["score"] is not None
        ]
    )
    if scored:
        parts.append(_calibration(np.array(scored, np.float64)))
    parts.append("</div>")
    for name, group_of in groupings(records).items():
        groups: dict[str, list[Record]] = {}
        for record in records:
            for group in group_of(record):
                groups.setdefault(group, []).append(record)
        if len(groups) > 1:
            rows = {group: summarize_records(groups[group]) for group in sorted(groups, key=_natural)}
            parts += [f"<h3>By {_text(name)}</h3>", _table(rows)]
    if any_number:
        rows = {name.partition("/")[2]: row for name, row in several.rows("", records).items()}
        parts += ["<h3>By number of objects, and to compare with</h3>", _table(rows)]
    surest = np.array([-(record["score"] or 0) for record in records], np.float64)
    order = np.lexsort([surest, quality])
    middle = len(order) // 2
    for name, chosen in (
        ("Worst (the surest first)", order[:12]),
        ("Median", order[max(0, middle - 6) : middle + 6]),
        ("Best", order[::-1][:12]),
    ):
        pictures = "".join(_figure(dataset, records[i]) for i in chosen)
        legend = '<span class="true">true</span>, <span class="predicted">predicted</span>'
        parts.append(f'<h3>{name}: {legend}</h3><div class="gallery">{pictures}</div>')
    return parts


def overlap(record: Record) -> float:
    """A record's box IoU, or its mask IoU where the model gives no box; 0 where it has neither. Of a phrase of none, one or
    several objects, its F1, or its mask's IoU.
    """
    if record.get("boxes") is not None:
        return several.f1_of(record)
    if record.get("iou") is not None:
        return float(record["iou"])
    if record.get("mask_union") is not None:
        return float(mask_iou(record["mask_intersection"], record["mask_union"]))
    return 0.0


def groupings(records: Sequence[Record]) -> dict[str, Callable[[Record], list[str]]]:
    """How the report breaks results down: by name, a function from a record to the groups it is in."""
    sides = [np.sqrt(_area(record)) for record in records if record.get("target")]
    cuts = np.quantile(sides, [0.25, 0.5, 0.75]) if sides else np.zeros(3)

    def by_length(record: Record) -> list[str]:
        count = len(_words(record))
        for most, name in ((2, "1-2 words"), (4, "3-4 words"), (7, "5-7 words"), (12, "8-12 words")):
            if count <= most:
                return [name]
        return ["13 or more words"]

    def by_size(record: Record) -> list[str]:
        if not record.get("target"):
            return []
        number = int(np.searchsorted(cuts, np.sqrt(_area(record))))
        edge = f"up to {cuts[number]:.0f} px" if number < 3 else f"above {cuts[2]:.0f} px"
        return [f"quarter {number + 1}, {edge}"]

    def by_words(record: Record) -> list[str]:
        words = set(_words(record))
        found = [name for name, listed in WORDS.items() if words & set(listed.split())]
        return found or ["none of these"]

    return {
        "phrase length": by_length,
        "object size (square root of the box area)": by_size,
        "kind of words": by_words,
        "source": lambda record: [str(record.get("source"))],
    }


def _words(record: Record) -> list[str]:
    return re.findall(r"[a-z0-9]+", str(record.get("sentence") or "").lower())


def _area(record: Record) -> float:
    left, top, right, bottom = record["target"]
    return max(0.0, right - left) * max(0.0, bottom - top)


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    head, *lines = metric_cells(rows)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in line)}</tr>" for line in lines)
    names = "".join(f"<th>{_text(name)}</th>" for name in head)
    return f'<div class="scroll"><table><tr>{names}</tr>{body}</table></div>'


def _figure(dataset: DataSet, record: Record) -> str:
    from rec.evaluation.pictures import data_address, picture_of

    address = data_address(picture_of(dataset, record, side=240))
    label = _text(f"{record.get('ref_id')} {record.get('sentence')}")
    score = "" if record.get("score") is None else f"score {record['score']:.2f}"
    image = f'<img loading="lazy" alt="{label}" src="{address}">'
    return f"<figure>{image}<figcaption>{score}</figcaption></figure>"


_WIDTH, _HEIGHT, _MARGIN = 380, 240, 38


def _chart(title: str, below: str, beside: str, inside: str) -> str:
    """An SVG chart whose plotting area is the unit square, y upwards."""
    w, h, m = _WIDTH, _HEIGHT, _MARGIN
    ticks = ""
    for k in range(6):
        x, y = m + (w - 2 * m) * k / 5, h - m - (h - 2 * m) * k / 5
        ticks += f'<text x="{x:.0f}" y="{h - m + 14}" text-anchor="middle">{k / 5:g}</text>'
        ticks += f'<text x="{m - 5}" y="{y + 4:.0f}" text-anchor="end">{k / 5:g}</text>'
        ticks += f'<line x1="{m}" x2="{w - m}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>'
    return (
        f'<svg width="{w}" height="{h}" viewBox="0 0 {w} {h}" font-size="11" role="img"><title>{title}</title>'
        f'<text x="{w / 2}" y="16" text-anchor="middle" font-size="13">{title}</text>{ticks}{inside}'
        f'<text x="{w / 2}" y="{h - 4}" text-anchor="middle">{below}</text>'
        f'<text transform="translate(10 {h / 2}) rotate(-90)" text-anchor="middle">{beside}</text></svg>'
    )


def _point(x: float, y: float) -> tuple[float, float]:
    return _MARGIN + (_WIDTH - 2 * _MARGIN) * x, _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * y


def _threshold_curve(records: Sequence[Record]) -> str:
    """``Pr@F1`` over the threshold of the score, with the one that was used."""
    shares, used = several.curve(records), records[0]["threshold"]
    path = " ".join("{:.1f},{:.1f}".format(*_point(x, y)) for x, y in zip(several.THRESHOLDS, shares, strict=True))
    (x0, y0), (_, y1) = _point(used, 0), _point(used, 1)
    marks = f'<line x1="{x0:.1f}" y1="{y0}" x2="{x0:.1f}" y2="{y1}" stroke="#57606a" stroke-dasharray="4"/>'
    marks += f'<polyline points="{path}" fill="none" stroke="#0969da"/>'
    return _chart(f"Pr@F1 over the threshold (used: {used:g})", "threshold", "Pr@F1", marks)


def _histogram(values: np.ndarray, title: str) -> str:
    counts, edges = np.histogram(values.clip(0, 1), bins=20, range=(0, 1))
    bars = ""
    for count, left, right in zip(counts / len(values), edges[:-1], edges[1:], strict=True):
        (x0, y0), (x1, y1) = _point(left, 0), _point(right, count)
        tint = "#2ea043" if left >= 0.5 else "#da3633"
        bars += f'<rect x="{x0 + 1:.1f}" y="{y1:.1f}" width="{x1 - x0 - 2:.1f}" height="{y0 - y1:.1f}" fill="{tint}"/>'
    return _chart(title, title.split()[0], "share of phrases", bars)


def _calibration(scored: np.ndarray) -> str:
    """Accuracy at IoU 0.5 against the score, in ten bins; the diagonal is perfect calibration."""
    bins = np.minimum((scored[:, 0] * 10).astype(int), 9)
    (x0, y0), (x1, y1) = _point(0, 0), _point(1, 1)
    marks = f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" stroke="#57606a" stroke-dasharray="4"/>'
    error, points = 0.0, []
    for number in range(10):
        inside = scored[bins == number]
        if len(inside):
            score, accuracy = inside.mean(0)
            error += abs(score - accuracy) * len(inside) / len(scored)
            x, y = _point(score, accuracy)
            points.append(f"{x:.1f},{y:.1f}")
            marks += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2 + 6 * np.sqrt(len(inside) / len(scored)):.1f}" fill="#0969da"/>'
    marks += f'<polyline points="{" ".join(points)}" fill="none" stroke="#0969da"/>'
    return _chart(f"Calibration (mean error {error:.3f})", "score", "share right at IoU 0.5", marks)
