"""One self-contained HTML report of predictions: where the model is good, where it fails, and what that looks like."""

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rec.contracts import DataSet
from rec.data.scenes import phrase_kind
from rec.evaluation import bootstrap, charts, overlay, several
from rec.evaluation.metrics import is_right, measure, overlap, summarize_records
from rec.evaluation.pictures import TRUE, Colour, marked_boxes, shown
from rec.evaluation.report_page import HEAD, SCRIPT
from rec.files import user_path, write_text
from rec.metric_cells import metric_cells

Record = Mapping[str, Any]
Groups = Mapping[str, Sequence[Record]]
# Heat maps of some samples of a split, float32 (h, w) by their index (:func:`rec.evaluation.run.heat_maps`).
Look = Callable[[str, Sequence[int]], Mapping[int, np.ndarray]]

OTHER: Colour = (9, 105, 218)
# What a table shows the interval of: the first that there is.
HEADLINES = ("Acc@0.5", "Pr@F1", "mask_mIoU", "gIoU")
SIDE, WORST, OTHERS = 320, 24, 12  # pixels of a picture; pictures of the worst, and of each other kind
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


@dataclass(frozen=True)
class Other:
    """Answers of somebody else to the same phrases.

    Attributes:
        name: what they are called.
        records: by split, as of :func:`write_report`.
    """

    name: str
    records: Mapping[str, Sequence[Record]]


def write_report(
    path: str | Path,
    datasets: Mapping[str, Any],
    records: Mapping[str, Sequence[Record]],
    title: str,
    about: Mapping[str, str] | None = None,
    other: Other | None = None,
    look: Look | None = None,
) -> None:
    """Write the report, replaced in one move.

    Args:
        path: The HTML file.
        datasets: ``{split: data set}``, for the pictures.
        records: ``{split: lines of predictions.jsonl}``.
        title: What was evaluated.
        about: Facts below the title, by name: data set, model, date, command, version.
        other: To compare with.
        look: Where the model looked, for the worst answers.
    """
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(fact)}</dd>" for name, fact in (about or {}).items())
    parts = [f"<h1>{_text(title)}</h1><dl>{facts}</dl>", _table(records)]
    for number, (split, rows) in enumerate(records.items()):
        if rows:
            compared = (other.name, other.records[split]) if other else None
            body = "".join(_split(datasets[split], list(rows), split, compared, look))
            parts.append(f'<section class="split" id="split-{number}"><h2>{_text(split)}</h2>{body}</section>')
    write_text(
        user_path(path),
        f'<!doctype html><html lang="en"><head><title>{_text(title)}</title>{HEAD}</head>'
        f"<body><main>{''.join(parts)}</main>{SCRIPT}</body></html>\n",
    )


def _split(
    dataset: DataSet, records: list[Record], split: str, other: tuple[str, Sequence[Record]] | None, look: Look | None
) -> list[str]:
    quality = np.array([overlap(record) for record in records])
    any_number = "targets" in records[0]
    parts = [
        '<div class="charts">',
        charts.histogram(quality, "F1 of the phrase" if measure(records[0]) == "F1" else "IoU with the true object"),
    ]
    if any_number and all(record.get("candidates") is not None for record in records):
        parts.append(charts.threshold_curve(records))
    if bins := charts.reliability(scored(records)):
        parts.append(charts.calibration(bins))
    parts.append("</div>")

    found = groupings(records)
    for name, group_of in found.items():
        groups: dict[str, list[Record]] = {}
        for record in records:
            for group in group_of(record):
                groups.setdefault(group, []).append(record)
        if len(groups) > 1:
            parts += [
                f"<h3>By {_text(name)}</h3>",
                _table({group: groups[group] for group in sorted(groups, key=_order)}),
            ]
    if any_number:
        rows = {name.partition("/")[2]: row for name, row in several.rows("", records).items()}
        parts += ["<h3>By number of objects, and to compare with</h3>", _cells_table(metric_cells(rows))]
    if other:
        parts += _comparison(dataset, records, *other)

    surest = np.array([-(record["score"] or 0) for record in records], np.float64)
    order = np.lexsort([surest, quality])
    middle = len(order) // 2
    worst = order[:WORST].tolist()
    heat = look(split, [records[i]["index"] for i in worst]) if look else {}
    galleries = ""
    for name, chosen in (
        ("Worst (the surest first)", worst),
        ("Median", order[max(0, middle - OTHERS // 2) : middle + OTHERS // 2].tolist()),
        ("Best", order[::-1][:OTHERS].tolist()),
    ):
        maps = heat if chosen is worst else {}
        galleries += _gallery(
            name, [_figure(dataset, records[i], i, heat=maps.get(records[i]["index"])) for i in chosen], bool(maps)
        )
    return [*parts, "<h3>Every phrase</h3>", _filters(records, quality, found), galleries]


def _comparison(dataset: DataSet, records: list[Record], name: str, others: Sequence[Record]) -> list[str]:
    """What differs from other answers: metrics with the interval of the difference, and the phrases won and lost."""
    mine, theirs = summarize_records(records), summarize_records(others)
    lines = [["", "here", "there", "difference", "95 % interval"]]
    for metric, (mean, low, high) in bootstrap.paired(records, others).items():
        if metric in mine and metric in theirs:
            shares = (f"{100 * part[metric]:.2f}" for part in (mine, theirs))
            lines.append([metric, *shares, f"{100 * mean:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}"])
    parts = [f"<h3>Compared with {_text(name)}</h3>", _cells_table(lines)]
    place = {record["index"]: number for number, record in enumerate(records)}
    changes = bootstrap.changed(records, others)
    for title, is_won in (("Won", True), ("Lost", False)):
        part = [change for change in changes if change["won"] == is_won]
        figures = []
        for change in part[:OTHERS]:
            row = place[change["index"]]
            found = change.get("other_boxes") or [change["other_box"]]
            figures.append(_figure(dataset, records[row], row, others=[box for box in found if box is not None]))
        parts.append(_gallery(f"{title}: {len(part)} phrases", figures, other=name))
    return parts


def scored(records: Sequence[Record]) -> np.ndarray:
    """``(N, 2)`` float64: score of each answer that has one, and whether it is right; none of phrases of any number of objects, or
    where the scores are not shares: somebody else's may be logits, or per cent."""
    pairs = [
        (record["score"], is_right(record))
        for record in records
        if record["score"] is not None and "targets" not in record
    ]
    found = np.array(pairs, np.float64).reshape(-1, 2)
    return found if ((found >= 0) & (found <= 1)).all() else found[:0]


def groupings(records: Sequence[Record]) -> dict[str, Callable[[Record], list[str]]]:
    """How the report breaks results down: by name, a function from a record to the groups it is in."""

    def by_length(record: Record) -> list[str]:
        count = len(_words(record))
        for most, name in ((2, "1-2 words"), (4, "3-4 words"), (7, "5-7 words"), (12, "8-12 words")):
            if count <= most:
                return [name]
        return ["13 or more words"]

    def by_size(record: Record) -> list[str]:
        size = bootstrap.size_class(record)
        return [SIZES[size]] if size else []

    def by_words(record: Record) -> list[str]:
        words = set(_words(record))
        found = [name for name, listed in WORDS.items() if words & set(listed.split())]
        return found or ["none of these"]

    found = {
        "phrase length": by_length,
        "object size (COCO's classes)": by_size,
        "kind of words": by_words,
        "source": lambda record: [str(record.get("source"))],
    }
    if any(str(record.get("source")).startswith("scenes") for record in records):
        found["kind of phrase"] = lambda record: [phrase_kind(record["sentence"])]
    return found


SIZES = {
    name: f"{name}, {'below' if np.isfinite(area) else 'from'} {round(min(area, 96.0**2) ** 0.5)}² px"
    for name, area in bootstrap.COCO_SIZES.items()
}


def _order(name: str) -> list[Any]:
    """Sizes as they grow, numbers by their value."""
    sizes = list(SIZES.values())
    parts = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    return ["", sizes.index(name)] if name in sizes else parts


def _words(record: Record) -> list[str]:
    return re.findall(r"[^\W_]+", str(record.get("sentence") or "").lower())


def _text(value: object) -> str:
    return html.escape(str(value))


def _table(groups: Groups) -> str:
    """Metrics of groups of records, each with how many they are and how surely its first metric is known."""
    rows = {name: summarize_records(list(records)) for name, records in groups.items()}
    head, *lines = metric_cells({name: {key: row[key] for key in row if key != "count"} for name, row in rows.items()})
    sure = {name: bootstrap.intervals(records) for name, records in groups.items()}
    first = next((name for name in HEADLINES if any(name in found for found in sure.values())), None)
    cells = [[head[0], "phrases", *head[1:]]]
    if first:
        cells[0].insert(2 + head[1:].index(first) + 1, "95 % interval")
    for (name, records), line in zip(groups.items(), lines, strict=True):
        cells.append([line[0], f"{len(records):,}", *line[1:]])
        if first:
            low, high = sure[name].get(first, (float("nan"),) * 2)
            interval = f"{100 * low:.1f} to {100 * high:.1f}" if low == low else "-"
            cells[-1].insert(2 + head[1:].index(first) + 1, interval)
    return _cells_table(cells)


def _cells_table(cells: Sequence[Sequence[str]]) -> str:
    head, *lines = cells
    names = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{_text(line[0])}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in line[1:])}</tr>'
        for line in lines
    )
    table = f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" role="region" aria-label="Metrics" tabindex="0">{table}</div>'


def _filters(records: Sequence[Record], quality: np.ndarray, found: Mapping[str, Callable[[Record], list[str]]]) -> str:
    """A table of all phrases that the reader narrows down and sorts; pictures follow what it is narrowed to."""
    names = sorted({group for record in records for group_of in found.values() for group in group_of(record)}, key=str)
    number = {name: k for k, name in enumerate(names)}
    rows = [
        [
            record.get("sentence") or "",
            _file(record),
            str(record.get("ref_id") or ""),
            round(float(value), 3),
            None if record["score"] is None else round(record["score"], 3),
            int(is_right(record)),
            [number[group] for group_of in found.values() for group in group_of(record)],
        ]
        for record, value in zip(records, quality, strict=True)
    ]
    choices = "".join(
        f'<optgroup label="By {_text(name)}">'
        + "".join(
            f'<option value="{number[group]}">{_text(group)}</option>'
            for group in sorted({group for record in records for group in group_of(record)}, key=_order)
        )
        + "</optgroup>"
        for name, group_of in found.items()
    )
    content = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    column = "F1" if measure(records[0]) == "F1" else "IoU"
    return (
        '<form class="filters" role="search">'
        '<label>Phrase contains <input type="search" name="text"></label>'
        '<label>Answers <select name="right"><option value="">all</option><option value="1">right</option>'
        '<option value="0">wrong</option></select></label>'
        f'<label>Of <select name="group"><option value="">all phrases</option>{choices}</select></label>'
        '<label>Sort <select name="sort"><option value="worst">worst first</option><option value="best">best first</option>'
        '<option value="sure">surest first</option><option value="unsure">least sure first</option>'
        '<option value="phrase">by phrase</option><option value="data">as in the data</option></select></label>'
        "<output></output></form>"
        '<div class="scroll" role="region" aria-label="Phrases" tabindex="0">'
        '<table class="phrases"><thead><tr><th scope="col">phrase</th>'
        f'<th scope="col">{column}</th><th scope="col">score</th><th scope="col">file</th><th scope="col">ref id</th></tr></thead>'
        '<tbody></tbody></table></div><button class="more" type="button">Show more</button>'
        f'<script type="application/json">{content}</script>'
    )


def _gallery(name: str, figures: Sequence[str], heat: bool = False, other: str | None = None) -> str:
    lines = '<span class="line true">true</span> <span class="line predicted">answer</span>'
    if other is not None:
        lines += f' <span class="line other">{_text(other)}</span>'
    switch = '<label><input type="checkbox" class="looked"> where the model looked</label>' if heat else ""
    pictures = "".join(figures) or "<p>None.</p>"
    legend = f'<p class="legend">{lines} {switch}</p>'
    return f'<div class="pictures"><h4>{_text(name)}</h4>{legend}<div class="gallery">{pictures}</div></div>'


def _figure(
    dataset: DataSet,
    record: Record,
    row: int,
    *,
    heat: np.ndarray | None = None,
    others: Sequence[Sequence[float]] = (),
) -> str:
    """A prediction on its image; ``row`` is its number in the table of all phrases."""
    seen = shown(dataset, record, SIDE)
    height, width = seen.size
    marks = [(box, tint, "dashed" if tint == TRUE else "solid") for box, tint in marked_boxes(record)]
    marks += [(list(box), OTHER, "dotted") for box in others]
    sides = np.array([width, height] * 2, np.float64)
    layers = [("mask", overlay.veil(mask, tint)) for mask, tint in seen.masks]
    layers += [("heat", overlay.heat(heat))] if heat is not None else []
    sentence, score = str(record.get("sentence") or ""), record.get("score")
    picture = overlay.picture(
        seen.image,
        [overlay.Mark((np.array(box) / sides).tolist(), tint, "", line) for box, tint, line in marks],
        layers,
        sentence,
    )
    numbers = [
        f"{'F1' if measure(record) == 'F1' else 'IoU'} {overlap(record):.2f}",
        *([f"score {score:.2f}"] if score is not None else []),
        *(["nothing found"] if record.get("boxes") == [] else []),
        *(["names nothing here"] if record.get("targets") == [] else []),
    ]
    return (
        f'<figure data-row="{row}">{picture}<figcaption><b>{_text(sentence)}</b><span>{", ".join(numbers)}</span>'
        f"<small>{_text(_file(record))}, ref {_text(record.get('ref_id'))}</small></figcaption></figure>"
    )


def _file(record: Record) -> str:
    return Path(str(record.get("image") or record.get("image_id") or "")).name
