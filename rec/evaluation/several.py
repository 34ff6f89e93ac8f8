"""Metrics of phrases that name none, one or several objects.

GREC: He et al., "Generalized Referring Expression Comprehension", arXiv:2308.16182; GRES: Liu et al., CVPR 2023. Predicted
boxes are matched with true ones greedily, the largest overlap first, each box once, as long as it is at least 0.5 (this family's
rule; ``Acc@t`` stays strictly above). A phrase is right where its F1 is 1: every box has its match, or there are none.

A record, a line of ``predictions.jsonl``, has ``targets`` (true boxes) and ``boxes`` with ``scores`` (the answer, best first),
xyxy in pixels of the image, and the ``threshold`` they passed; without a box head ``boxes`` is None. In memory it also has
``candidates``: every box, with its score, that another threshold might make an answer, and where its mask was emptied for want of a
box ``predicted``, what it was.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rec import boxes
from rec.contracts import Answer, DataSet
from rec.data import masks

Record = Mapping[str, Any]

AT_LEAST = 0.5
MATCH_BY = {"iou": boxes.box_iou, "giou": boxes.box_giou}
MASK_THRESHOLDS = (0.7, 0.8, 0.9)
# The published code of GREC compares generalised IoUs and takes boxes of at least this score; that of GRES takes a mask of
# fewer pixels for an empty one.
PUBLISHED_SCORE, PUBLISHED_PIXELS = 0.7, 50
# Thresholds that are tried: boxes of a lower score are never answers.
THRESHOLDS = np.arange(5, 100) / 100
NUMBERS = ("none", "one", "several")


def name_any_number(datasets: Mapping[str, DataSet]) -> bool:
    """Whether phrases of any of these splits may name none, one or several objects."""
    return any(dataset.targets == "any" for dataset in datasets.values())


def matches(found: np.ndarray, targets: np.ndarray, match_by: str = "iou", at_least: float = AT_LEAST) -> int:
    """How many of ``found`` ``(P, 4)`` match one of ``targets`` ``(G, 4)``, xyxy, with an overlap of ``at_least`` that.

    Greedy, as published, and so not always the most that are possible. Equal overlaps go to the earlier answer, which is the
    one of higher score, then to the earlier target.
    """
    if not len(found) or not len(targets):
        return 0
    overlap = MATCH_BY[match_by](found[:, None], targets[None])
    for count in range(min(overlap.shape)):
        best = np.unravel_index(overlap.argmax(), overlap.shape)
        if overlap[best] < at_least:
            return count
        overlap[best[0]], overlap[:, best[1]] = -np.inf, -np.inf
    return min(overlap.shape)


def f1(found: np.ndarray, targets: np.ndarray, match_by: str = "iou") -> float:
    """``2 TP / (2 TP + FP + FN)`` of :func:`matches`; 1 where there is nothing to find and nothing was found."""
    total = len(found) + len(targets)
    return 2 * matches(found, targets, match_by) / total if total else 1.0


def f1_of(record: Record, match_by: str = "iou") -> float:
    """:func:`f1` of a record."""
    return f1(_array(record["boxes"]), _array(record["targets"]), match_by)


def answered(record: Record, threshold: float, min_pixels: int = 0) -> dict[str, Any]:
    """The record as it is where the answer is its candidates of at least ``threshold``, or a mask of ``min_pixels``.

    One answer decides whether there is something: where a model that gives boxes gives none, its mask is empty too.
    """
    record = dict(record) | record.get("predicted", {})  # what an earlier answer may have emptied
    if record["candidates"] is None:  # masks alone
        return emptied(record) if record["mask_area"] < min_pixels else dict(record)
    kept = [(box, score) for box, score in record["candidates"] if score >= threshold]
    result = dict(record) | {"boxes": [box for box, _ in kept], "scores": [score for _, score in kept]}
    result |= {"box": kept[0][0] if kept else None, "score": kept[0][1] if kept else None}
    result |= {"iou": None, "threshold": threshold}
    if len(record["targets"]) == 1:
        result["iou"] = float(boxes.box_iou(_array(result["boxes"])[0], _array(record["targets"])[0])) if kept else 0.0
    return result if kept or record.get("mask") is None else emptied(result)


def emptied(record: Record) -> dict[str, Any]:
    """The record with an empty mask."""
    kept = {key: value for key, value in record.items() if key.startswith("mask")}
    empty = {"mask": masks.encode(np.zeros(record["mask"]["size"], bool)), "mask_area": 0}
    result = dict(record) | empty | {"predicted": kept}
    if "mask_union" in record:
        target_area = record["mask_union"] - record["mask_area"] + record["mask_intersection"]
        result |= {"mask_intersection": 0, "mask_union": target_area}
    return result


def columns(records: Sequence[Record], match_by: str = "iou") -> dict[str, np.ndarray]:
    """Per-phrase values ``(N,)`` whose means are ``Pr@F1``, where there are boxes, and ``gIoU``, where there are true masks."""
    found: dict[str, np.ndarray] = {}
    if all(record["boxes"] is not None for record in records):
        found["Pr@F1"] = np.array([f1_of(record, match_by) == 1 for record in records], np.float64)
    if records and all(record.get("mask_union") is not None for record in records):
        intersections, unions = _pixels(records)
        found["gIoU"] = np.where(unions > 0, intersections / np.maximum(unions, 1), 1)
    return found


def ratios(records: Sequence[Record], match_by: str = "iou") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The metrics of :func:`summarize`, each as numerators and denominators ``(N,)`` of the phrases: their sums' ratio is it."""
    values, every = columns(records, match_by), np.ones(len(records), bool)
    answers = [record["boxes"] if record["boxes"] is not None else record["mask_area"] for record in records]
    seen = np.array([bool(one) for one in answers], bool)
    named = np.array([bool(record["targets"]) for record in records], bool)
    found = {"Pr@F1": (values["Pr@F1"], every)} if "Pr@F1" in values else {}
    found |= {"N-acc": (~seen & ~named, ~named), "T-acc": (seen & named, named)}
    if "gIoU" in values:
        found |= {"gIoU": (values["gIoU"], every), "cIoU": _pixels(records)}
        found |= {f"Pr@{t:g}": (named & (values["gIoU"] >= t), named) for t in MASK_THRESHOLDS}
    return found


def summarize(records: Sequence[Record], match_by: str = "iou") -> dict[str, float]:
    """Metrics over records.

    Returns:
        ``Pr@F1`` (share of phrases whose F1 is 1) where there are boxes; ``N-acc`` and ``T-acc`` (share of phrases without
        target that are answered with nothing, and of the others that are answered with something); where there are true masks
        ``gIoU`` (mean of the phrases' mask IoUs, 1 where both are empty), ``cIoU`` (sum of intersections over sum of unions)
        and ``Pr@t`` (share of phrases with a target whose mask IoU is at least t); ``count``. A share of no phrases, or pixels, is
        NaN.
    """

    shares = {
        name: float(part.sum() / whole.sum()) if whole.any() else float("nan")
        for name, (part, whole) in ratios(records, match_by).items()
    }
    return shares | {"count": len(records)}


def nothing(record: Record) -> dict[str, Any]:
    """The record of a model that always answers with nothing: what :func:`summarize` gives for these is to be beaten."""
    return answered(dict(record) | {"candidates": []}, 1.0)


def rows(split: str, records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Further lines of a table of metrics, by name: each number of objects by itself, the published code's rule, and what
    answering nothing scores."""
    by_number: dict[str, list[Record]] = {name: [] for name in NUMBERS}
    for record in records:
        by_number[NUMBERS[min(len(record["targets"]), 2)]].append(record)
    lines = {f"{split}/{name}": _defined(summarize(part)) for name, part in by_number.items() if part}
    boxed = any(record["candidates"] is not None for record in records)
    rule = f"GIoU, score {PUBLISHED_SCORE:g}" if boxed else f"{PUBLISHED_PIXELS} pixels"
    published = [answered(record, PUBLISHED_SCORE, PUBLISHED_PIXELS) for record in records]
    lines[f"{split}/published rule ({rule})"] = summarize(published, "giou")
    return lines | {f"{split}/answer nothing": summarize([nothing(record) for record in records])}


def _defined(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value == value}


def curve(records: Sequence[Record]) -> np.ndarray:
    """``Pr@F1`` at each of :data:`THRESHOLDS`, from the records' candidates.

    An answer of n boxes can only be right where there are n targets, so a phrase is right between two scores or nowhere.
    """
    right = np.zeros(len(THRESHOLDS))
    for record in records:
        found, count = record["candidates"], len(record["targets"])
        if len(found) < count or matches(_array([box for box, _ in found[:count]]), _array(record["targets"])) < count:
            continue
        above = found[count][1] if len(found) > count else -np.inf
        upto = found[count - 1][1] if count else np.inf
        right += (above < THRESHOLDS) & (upto >= THRESHOLDS)
    return right / max(len(records), 1)


def best_threshold(records: Sequence[Record]) -> float:
    """The threshold of the highest ``Pr@F1``; of several, the middle one. For a validation split, never for a test split."""
    shares = curve(records)
    best = np.flatnonzero(shares == shares.max())
    return float(THRESHOLDS[best[len(best) // 2]])


def chosen(metrics: Mapping[str, float]) -> Answer | None:
    """The answer of a model whose threshold an evaluation chose, from its metrics; None where it chose none."""
    return Answer(threshold=metrics["threshold"]) if "threshold" in metrics else None


def _pixels(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """``(N,)`` pixels of the masks' intersections and of their unions."""
    return tuple(
        np.array([record[key] for record in records], np.float64) for key in ("mask_intersection", "mask_union")
    )  # type: ignore[return-value]


def _array(values: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, 4)
