"""Tables in the schema that somebody else may have written: the checks of rows, made on whole columns."""

import logging
from typing import TYPE_CHECKING

import numpy as np

from rec import boxes
from rec.data.cleaning import Report, ids_of
from rec.data.schema import (
    BOX_TOLERANCE,
    FEATURES,
    MAX_WEIGHT,
    MIN_WEIGHT,
    ONE_ONLY,
    BadRecord,
    attempt,
    validate_row,
)
from rec.data.sources import SourceError
from rec.trust import MAX_OBJECTS

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

logger = logging.getLogger(__name__)
_NEEDED = ("image", "image_id", "ref_id", "width", "height", "sentences", "source")


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


def check_single(rows: "datasets.Dataset", where: str) -> None:
    """Refuses rows that name no object, or several.

    Raises:
        SourceError: says how many there are, and the first one's ids.
    """
    import pyarrow.compute as pc

    if "boxes" not in rows.column_names:  # a table of 0.1
        return
    other = pc.fill_null(pc.not_equal(pc.list_value_length(rows.data.column("boxes")), 1), False)
    numbers = np.flatnonzero(other.to_numpy())
    if len(numbers):
        row = rows[int(numbers[0])]
        raise SourceError(
            f"{where}: {len(numbers)} of {len(other)} rows name no object or several, the first ({ids_of(row)}) "
            f"{len(row['boxes'])}; {ONE_ONLY}"
        )


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

    # Each box with the number of its row: those of `boxes`, and of rows without that list the one in `bbox`.
    lists, single = (
        batch.column(name)
        if name in batch.schema.names
        else pa.nulls(len(batch), FEATURES.arrow_schema.field(name).type)
        for name in ("boxes", "bbox")
    )
    counts = pc.fill_null(pc.list_value_length(lists), 1).to_numpy()
    alone = pc.is_null(lists).to_numpy(zero_copy_only=False)
    given = np.concatenate([four(pc.list_flatten(lists), 4), four(single.filter(pa.array(alone)), 4)])
    owner = np.concatenate([np.repeat(np.arange(len(batch)), np.where(alone, 0, counts)), np.flatnonzero(alone)])
    box = boxes.xywh_to_xyxy(given)
    frame = np.stack([width, height], 1)
    around = frame[owner]
    seen = np.minimum(box[:, 2:], around) - np.maximum(box[:, :2], 0)
    fits = (box[:, :2] >= -BOX_TOLERANCE).all(1) & (box[:, 2:] <= around + BOX_TOLERANCE).all(1)
    fits &= (seen >= boxes.MIN_VISIBLE).all(1) & (box[:, 2:] > 2).any(1)  # what ends before may be fractions
    misfit = (np.bincount(owner, weights=~fits, minlength=len(batch)) > 0) | (counts > MAX_OBJECTS)
    first = np.full((len(batch), 4), np.nan)  # of every row that has both
    first[owner[::-1]] = given[::-1]
    other = four(single, 4)
    misfit |= ~np.isnan(other).all(1) & (first != other).any(1)

    lengths = pc.fill_null(pc.list_value_length(column["sentences"]), 0).to_numpy()
    said = pc.utf8_length(pc.utf8_trim_whitespace(pc.list_flatten(column["sentences"])))
    blank = pc.fill_null(pc.equal(said, 0), True).to_numpy(zero_copy_only=False)
    silent = np.bincount(np.repeat(np.arange(len(batch)), lengths), weights=blank, minlength=len(batch)) > 0

    size = four(pc.struct_field(column["mask"], "size"), 2)
    other_mask = ~np.isnan(size).any(1) & (size != frame[:, ::-1]).any(1)
    odd_ids = [
        pc.equal(column[key], "").fill_null(False).to_numpy(zero_copy_only=False) for key in ("image_id", "ref_id")
    ]
    # Weights: null is 1, and a table may lack them.
    light = np.zeros(len(batch), bool)
    if "weight" in batch.schema.names:
        weight = pc.fill_null(batch.column("weight"), 1).to_numpy(zero_copy_only=False)
        light = ~((weight >= MIN_WEIGHT) & (weight <= MAX_WEIGHT))
    return np.any(
        [light, *null, *odd_ids, no_image.to_numpy(zero_copy_only=False), misfit, lengths == 0, silent, other_mask],
        axis=0,
    )
