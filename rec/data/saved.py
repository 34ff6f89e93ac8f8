"""Tables in the schema that somebody else may have written: the checks of rows, made on whole columns."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from rec import boxes
from rec.data.schema import BOX_TOLERANCE, BadRecord, Report, attempt, ids_of, validate_row

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

logger = logging.getLogger(__name__)
_NEEDED = ("image", "image_id", "ref_id", "width", "height", "bbox", "sentences", "source")


def usable_rows(rows: "datasets.Dataset", on_bad_record: str, where: str) -> "datasets.Dataset":
    """The rows that can be trained on, without reading images; a million rows take about a second.

    Args:
        rows: of :data:`rec.data.schema.FEATURES`, without an indices mapping.
        on_bad_record: ``"raise"``, or ``"skip"`` to leave bad rows out, with a line in the log for each reason.
        where: what the table is called in messages.

    Raises:
        BadRecord: with ``"raise"``; names the row and its ids.
    """
    report, bad = Report(), []
    batches = rows.data.to_batches()  # as they lie on disk: joined, embedded pictures would be copied to memory
    suspects = np.concatenate([_suspects(batch) for batch in batches]) if batches else np.zeros(0, bool)
    for number in np.flatnonzero(suspects).tolist():
        result = attempt(validate_row, rows[number])
        if not isinstance(result, BadRecord):
            continue
        place = f"{where}, row {number} ({ids_of(rows[number])})"
        if on_bad_record == "raise":
            raise BadRecord(
                result.reason, f"{place}: {result.detail}. Mend it, or leave such rows out: on_bad_record: skip"
            )
        report.skip(result, place)
        bad.append(number)
    for line in report.warnings():
        logger.warning("%s: %s", where, line)
    return rows.select(np.delete(np.arange(len(rows)), bad)).flatten_indices() if bad else rows


def _suspects(batch: "pa.RecordBatch") -> np.ndarray:
    """bool ``(rows,)``: rows that :func:`~rec.data.schema.validate_row` may refuse for anything but a mask's runs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = {name: batch.column(name) for name in (*_NEEDED, "mask")}
    null = [pc.is_null(column[name]).to_numpy(zero_copy_only=False) for name in _NEEDED]
    width, height = (pc.fill_null(column[key], 0).to_numpy().astype(np.float64) for key in ("width", "height"))
    image = column["image"]
    no_image = pc.and_(pc.is_null(pc.struct_field(image, "path")), pc.is_null(pc.struct_field(image, "bytes")))

    def four(array: "pa.Array", size: int) -> np.ndarray:
        """A column of lists of ``size`` numbers as float64 ``(rows, size)``, NaN where there are none."""
        numbers = np.full((len(array), size), np.nan)
        there = pc.fill_null(pc.equal(pc.list_value_length(array), size), False).to_numpy(zero_copy_only=False)
        flat = pc.list_flatten(array.filter(pa.array(there)))
        numbers[there] = flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, size)
        return numbers

    box = boxes.xywh_to_xyxy(four(column["bbox"], 4))
    frame = np.stack([width, height], 1)
    seen = np.minimum(box[:, 2:], frame) - np.maximum(box[:, :2], 0)
    fits = (box[:, :2] >= -BOX_TOLERANCE).all(1) & (box[:, 2:] <= frame + BOX_TOLERANCE).all(1)
    fits &= (seen >= boxes.MIN_VISIBLE).all(1) & (box[:, 2:] > 2).any(1)  # what ends before may be fractions

    lengths = pc.fill_null(pc.list_value_length(column["sentences"]), 0).to_numpy()
    said = pc.utf8_length(pc.utf8_trim_whitespace(pc.list_flatten(column["sentences"])))
    blank = pc.fill_null(pc.equal(said, 0), True).to_numpy(zero_copy_only=False)
    silent = np.bincount(np.repeat(np.arange(len(batch)), lengths), weights=blank, minlength=len(batch)) > 0

    size = four(pc.struct_field(column["mask"], "size"), 2)
    other_mask = ~np.isnan(size).any(1) & (size != frame[:, ::-1]).any(1)
    odd_ids = [
        pc.equal(column[key], "").fill_null(False).to_numpy(zero_copy_only=False) for key in ("image_id", "ref_id")
    ]
    return np.any(
        [*null, *odd_ids, no_image.to_numpy(zero_copy_only=False), ~fits, lengths == 0, silent, other_mask], axis=0
    )
