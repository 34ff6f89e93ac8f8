"""Metrics of referring expression comprehension and segmentation, computed from per-sample results.

Every number is a fraction 0-1 and is computed from per-sample values, never from means of means, so it does not depend
on batch size or number of processes. A box counts as right when IoU > t, strictly, as SimREC counts it.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rec.evaluation import several
from rec.metric_cells import metric_cells

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
OF_ANY_NUMBER = ("Pr@F1", "N-acc", "T-acc", "gIoU", "cIoU")  # of rec.evaluation.several
_OF_ONE_MASK = ("mask_mIoU", "mask_oIoU", *(f"Pr@{t:g}" for t in THRESHOLDS), "IE")
OF_MASKS = (*_OF_ONE_MASK, "gIoU", "cIoU")
# Everything that summarize may give, by name.
NAMES = (*(f"Acc@{t:g}" for t in THRESHOLDS), "mIoU", *_OF_ONE_MASK, *OF_ANY_NUMBER)


def summarize(
    ious: np.ndarray | Sequence[float] | None = None,
    mask_intersections: np.ndarray | Sequence[int] | None = None,
    mask_unions: np.ndarray | Sequence[int] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, float]:
    """Metrics over N samples.

    Args:
        ious: ``(N,)`` IoU of each predicted box with its target, in original pixels; None for a model without boxes.
        mask_intersections: ``(N,)`` pixels on in both the predicted and the true mask, at original image size.
        mask_unions: ``(N,)`` pixels on in either mask.
        thresholds: IoU levels of ``Acc@t`` and ``Pr@t``.

    Returns:
        ``Acc@t`` (share of boxes with IoU > t) and ``mIoU`` where there are boxes; ``mask_mIoU`` (mean of the samples'
        mask IoU), ``mask_oIoU`` (sum of intersections over sum of unions) and ``Pr@t`` where there are masks; ``IE``
        (inconsistency error, MCN, arXiv:2003.08813: share of samples where exactly one of "box IoU > 0.5" and
        "mask IoU >= 0.5" holds) where there are both; ``count``. Over no samples every fraction is NaN.

    Raises:
        ValueError: neither boxes nor masks were given, or their numbers differ.
    """
    boxes = None if ious is None else np.asarray(ious, np.float64)
    masks = None
    if mask_intersections is not None and mask_unions is not None:
        masks = mask_iou(mask_intersections, mask_unions)
    sizes = {len(values) for values in (boxes, masks) if values is not None}
    if len(sizes) != 1:
        raise ValueError(f"need box IoUs, mask pixel counts or both, of one length; got lengths {sorted(sizes)}")

    def share(hits: np.ndarray) -> float:
        return float(hits.mean()) if len(hits) else float("nan")

    result: dict[str, float] = {}
    if boxes is not None:
        result |= {f"Acc@{t:g}": share(boxes > t) for t in thresholds} | {"mIoU": share(boxes)}
    if masks is not None:
        overall = mask_iou(np.sum(np.asarray(mask_intersections)), np.sum(np.asarray(mask_unions)))
        result |= {"mask_mIoU": share(masks), "mask_oIoU": float(overall) if len(masks) else float("nan")}
        result |= {f"Pr@{t:g}": share(masks > t) for t in thresholds}
    if boxes is not None and masks is not None:
        result["IE"] = share((boxes > 0.5) != (masks >= 0.5))
    return result | {"count": sizes.pop()}


def mask_iou(intersections: ArrayLike, unions: ArrayLike) -> np.ndarray:
    """``(N,)`` mask IoUs from pixel counts; the 1e-10 of the original makes two empty masks agree (IoU 1), and lifts
    an IoU of exactly t above t, up to unions of some 100,000 pixels."""
    return (np.asarray(intersections, np.float64) + 1e-10) / (np.asarray(unions, np.float64) + 1e-10)


def summarize_records(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """:func:`summarize` over lines of ``predictions.jsonl`` (see :mod:`rec.evaluation.run`).

    Of phrases that name none, one or several objects, :func:`rec.evaluation.several.summarize`, and both where each names one.

    Raises:
        ValueError: some records have a true mask (or a box) and others have none, so no one set of metrics fits.
    """
    found: dict[str, float] = {}
    if records and "targets" in records[0]:
        found = several.summarize(records)
        if any(len(record["targets"]) != 1 for record in records):
            return found
    columns: dict[str, Any] = {}
    for name, key in (("ious", "iou"), ("mask_intersections", "mask_intersection"), ("mask_unions", "mask_union")):
        values = [record.get(key) for record in records]
        if all(value is None for value in values) and values:
            continue
        if None in values:
            index = records[values.index(None)].get("index")
            raise ValueError(
                f"sample {index} has no {key!r} but others of the split have; evaluate boxes and masks on a split "
                "whose rows all have a box (and all or none a mask)"
            )
        columns[name] = values
    return found | (summarize(**columns) if records else summarize([]))


def measure(record: Mapping[str, Any]) -> str:
    """What tells how good an answer is: ``"F1"`` of the phrase where it may name any number of objects and the model gives boxes,
    ``"IoU"`` of the box, or ``"mask IoU"``."""
    if record.get("boxes") is not None:
        return "F1"
    return "IoU" if record.get("iou") is not None else "mask IoU"


def overlap(record: Mapping[str, Any]) -> float:
    """Its :func:`measure`; 0 where there is neither box nor mask."""
    kind = measure(record)
    if kind == "F1":
        return several.f1_of(record)
    if kind == "IoU":
        return float(record["iou"])
    known = record.get("mask_union") is not None
    return float(mask_iou(record["mask_intersection"], record["mask_union"])) if known else 0.0


def is_right(record: Mapping[str, Any]) -> bool:
    """Whether a phrase counts as answered: F1 of 1, or IoU above 0.5."""
    return overlap(record) == 1 if measure(record) == "F1" else overlap(record) > 0.5


def breakdown(
    records: Iterable[Mapping[str, Any]], group_of: Callable[[Mapping[str, Any]], Hashable]
) -> dict[Hashable, dict[str, float]]:
    """Metrics of each group of records, groups in sorted order.

    Args:
        records: Lines of ``predictions.jsonl``.
        group_of: Names a record's group; None leaves the record out.
    """
    groups: dict[Hashable, list[Mapping[str, Any]]] = {}
    for record in records:
        name = group_of(record)
        if name is not None:
            groups.setdefault(name, []).append(record)
    return {name: summarize_records(groups[name]) for name in sorted(groups, key=str)}


def format_table(rows: Mapping[Any, Mapping[str, float]]) -> str:
    """A text table: one line per row name (a split), one column per metric, fractions as per cent."""
    lines = metric_cells(rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
