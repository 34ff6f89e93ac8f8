"""How sure a number is: intervals over images, and the paired difference of two models on the same phrases.

Phrases of one image are not independent, so images are drawn, not phrases (Efron, Bootstrap methods: another look at the
jackknife, 1979; the interval is the percentile one).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rec.evaluation import several
from rec.evaluation.metrics import THRESHOLDS, is_right, mask_iou, measure, overlap

ROUNDS, LEVEL = 2000, 0.95
COCO_SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": float("inf")}  # areas in pixels, below
STEPS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))  # COCO's 0.50:0.05:0.95

Record = Mapping[str, Any]
# Metric to numerators and denominators, float64 or bool ``(N,)`` each: their sums' ratio is the metric.
Ratios = dict[str, tuple[np.ndarray, np.ndarray]]


def columns(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Per-phrase values, float64 ``(N,)``, whose means are the metrics of that name; of no phrases there are none."""
    found: dict[str, np.ndarray] = {}
    if not records:
        return found
    if all(record.get("iou") is not None for record in records):
        ious = np.array([record["iou"] for record in records], np.float64)
        found |= {f"Acc@{t:g}": (ious > t).astype(np.float64) for t in THRESHOLDS}
        found |= {"Acc@0.5:0.95": np.mean([ious > t for t in STEPS], axis=0), "mIoU": ious}
    if "targets" in records[0]:
        found |= several.columns(records)
    if all(record.get("mask_union") is not None and len(record.get("targets", [0])) == 1 for record in records):
        masks = mask_iou([r["mask_intersection"] for r in records], [r["mask_union"] for r in records])
        found |= {"mask_mIoU": masks} | {f"Pr@{t:g}": (masks > t).astype(np.float64) for t in THRESHOLDS}
    return found


def _ratios(records: Sequence[Record]) -> Ratios:
    """Every metric: :func:`columns`, and those for which a phrase may count as more, less or not at all."""
    every, values = np.ones(len(records)), columns(records)
    found: Ratios = several.ratios(records) if records and "targets" in records[0] else {}
    found |= {name: (column, every) for name, column in values.items()}
    if "mask_mIoU" in values:
        intersections, unions = (
            np.array([record[key] for record in records], np.float64) for key in ("mask_intersection", "mask_union")
        )
        found["mask_oIoU"] = intersections, unions
        if "mIoU" in values:
            found["IE"] = values["Acc@0.5"] != (values["mask_mIoU"] >= 0.5), every
    return found


def mean_accuracy(records: Sequence[Record]) -> float | None:
    """Mean of ``Acc@t`` over t = 0.50, 0.55, …, 0.95; None where there are no boxes."""
    values = columns(records).get("Acc@0.5:0.95")
    return None if values is None else float(values.mean())


def size_class(record: Record) -> str | None:
    """COCO's class of the true box by its area in the original image: below 32² small, below 96² medium, else large."""
    if not record.get("target"):
        return None
    left, top, right, bottom = record["target"]
    return next(name for name, limit in COCO_SIZES.items() if (right - left) * (bottom - top) < limit)


def intervals(records: Sequence[Record], seed: int = 0) -> dict[str, tuple[float, float]]:
    """Metric to its 95 % interval. Where all images agree on 0 or 1 it is the exact binomial one, not a point; one image alone says
    nothing of others, and it is 0 to 1."""
    found: dict[str, tuple[float, float]] = {}
    tail = (1 - LEVEL) / 2
    for name, (values, images) in _drawn(records, _ratios(records), seed).items():
        low, high = _percentiles(values)
        if low == high and low in (0, 1):  # Clopper and Pearson, 1934, for none or all of them
            low, high = (0.0, 1 - tail ** (1 / images)) if low == 0 else (tail ** (1 / images), 1.0)
        found[name] = (low, high) if images > 1 or low != high else (0.0, 1.0)
    return found


def paired(records: Sequence[Record], others: Sequence[Record], seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Metric to (difference, low, high): ``records`` minus ``others``, on the same phrases.

    Of a single image, on which they differ, -1 to 1.

    Raises:
        ValueError: they are not of the same phrases.
    """
    if [record["index"] for record in records] != [record["index"] for record in others]:
        raise ValueError("the two are not of the same phrases")
    first, second = _ratios(records), _ratios(others)
    mine, theirs = _drawn(records, first, seed), _drawn(others, second, seed)
    found: dict[str, tuple[float, float, float]] = {}
    for name in (name for name in mine if name in theirs):
        values, images = mine[name]
        apart = values - theirs[name][0]
        sure = _percentiles(apart) if images > 1 or not apart.any() else (-1.0, 1.0)
        found[name] = (_share(*first[name]) - _share(*second[name]), *sure)
    return found


def changed(records: Sequence[Record], others: Sequence[Record]) -> list[dict[str, Any]]:
    """The phrases that one has right and the other has not (:func:`rec.evaluation.metrics.is_right`), the largest change first.

    Returns:
        What the phrase is, both answers (``box``, where there may be any number ``boxes``; ``other_box``, …), how good they are
        (``iou``, ``f1`` or ``mask_iou``; ``other_iou``, …), and ``won``: whether ``records`` has it right.
    """
    found = []
    for record, other in zip(records, others, strict=True):
        kind, won = measure(record), is_right(record)
        if kind != measure(other) or won == is_right(other):
            continue
        line = {key: record.get(key) for key in ("index", "image", "ref_id", "sentence", "target")}
        for start, one in (("", record), ("other_", other)):
            line |= {start + key: one[key] for key in ("box", "boxes", "iou") if key in one}
            line[start + kind.lower().replace(" ", "_")] = overlap(one)
        found.append((abs(overlap(record) - overlap(other)), line | {"won": won}))
    return [line for _, line in sorted(found, key=lambda change: -change[0])]


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum())


def _drawn(records: Sequence[Record], ratios: Ratios, seed: int) -> dict[str, tuple[np.ndarray, int]]:
    """Of each metric that any phrase counts for its values over images drawn with replacement, float64 ``(ROUNDS,)``, NaN where
    none of those counts, and how many images do."""
    known = {name: pair for name, pair in ratios.items() if pair[1].any()}
    if not known:
        return {}
    images: dict[Any, int] = {}
    owner = np.array([images.setdefault(_image(record), len(images)) for record in records])
    sums = np.zeros((len(images), 2 * len(known)))
    np.add.at(sums, owner, np.stack([column for pair in known.values() for column in pair], 1))
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [rng.multinomial(len(images), np.full(len(images), 1 / len(images))) @ sums for _ in range(ROUNDS)]
    )
    with np.errstate(invalid="ignore"):
        means = drawn[:, ::2] / drawn[:, 1::2]
    return {name: (means[:, k], int((sums[:, 2 * k + 1] > 0).sum())) for k, name in enumerate(known)}


def _image(record: Record) -> tuple[Any, Any]:
    return record.get("image_id"), record.get("image")


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
