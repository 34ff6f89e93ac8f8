"""The gate of rows: what is valid passes into a table, what is not is counted, reported and left out."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rec import boxes, trust
from rec.data.images import picture_key
from rec.data.schema import BadRecord, LeftOut, attempt, boxes_of, misfit, shown, validate_row

logger = logging.getLogger(__name__)

# Share of boxes that must not fit their image before another box format is suspected, and that must fit it in that format.
FORMAT_SUSPICION, FORMAT_FITS = 0.2, 0.99
MANY, LISTED = 1000, 20  # bad records of one kind after which no more are looked for; numbers of them that are told
ALIKE = 20  # so many records may fail alike, whatever their share
EXCLUDED = "image of an evaluation split"  # records that are left out on purpose


@dataclass
class Report:
    """Counts of one preparation: rows and sentences kept, sentences that name no object or several, records skipped and
    parts of records left out by reason, signs of a wrong box format, images that the training split has too, rows that say what
    an earlier one says, and rows that list a box twice."""

    rows: int = 0
    sentences: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    boxes: int = 0
    box_format: str = "xywh"
    fits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(boxes.FORMATS, 0))
    none: int = 0
    several: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    shared: int = 0
    repeated: int = 0
    doubled: int = 0

    def keep(self, row: dict[str, Any], count: int = 1) -> None:
        """Counts a row that is kept; with ``count=-1`` takes it back."""
        sentences, objects = count * len(row["sentences"]), len(boxes_of(row))
        self.rows += count
        self.sentences += sentences
        self.none += sentences if objects == 0 else 0
        self.several += sentences if objects > 1 else 0

    def skip(self, error: BadRecord, where: str) -> None:
        """Counts a skipped record and remembers the first of each reason."""
        self.skipped[error.reason] = self.skipped.get(error.reason, 0) + 1
        self.examples.setdefault(error.reason, f"{where}: {error.detail}")

    def refuse_alike(self, where: str) -> None:
        """Makes sure that no single fault costs most of the records: then something else is wrong.

        Raises:
            BadRecord: it does; names the first.
        """
        faults = {reason: count for reason, count in self.skipped.items() if reason != EXCLUDED}
        total = self.rows + sum(faults.values())
        reason = max(faults, key=faults.__getitem__, default="")
        if faults and faults[reason] >= ALIKE and faults[reason] > total / 2:
            raise BadRecord(
                reason,
                f"{where}: {faults[reason]} of {total} records fail alike, which is no matter of single records, so they are "
                f"not left out; the first is {self.examples[reason]}. Look for the cause: "
                + (self._box_format() or "another --images, --bbox-format, --columns or --source?"),
            )

    def drop(self, row: dict[str, Any], error: BadRecord) -> None:
        """Takes back a row that was counted as kept."""
        self.keep(row, -1)
        self.skip(error, ids_of(row))

    def see_boxes(self, row: dict[str, Any]) -> None:
        """Counts the formats in which each box fits its image, and what the reader left out of the record."""
        for reason, count in (row.get("left_out") or {}).items():
            self.left_out[reason] = self.left_out.get(reason, 0) + count
        try:
            all_fits = [
                [name for name in boxes.FORMATS if misfit(four, name, int(row["width"]), int(row["height"])) is None]
                for four in ([float(value) for value in given] for given in boxes_of(row)[: trust.MAX_OBJECTS])
            ]
        except (TypeError, ValueError, KeyError, OverflowError):
            return
        self.boxes += len(all_fits)
        self.box_format = row.get("bbox_format") or "xywh"
        for name in (name for fits in all_fits for name in fits):
            self.fits[name] += 1

    def warnings(self) -> list[str]:
        """One line for each thing a user should look at."""
        lines = [
            f"skipped {count} records: {reason} (first: {self.examples[reason]})"
            for reason, count in sorted(self.skipped.items(), key=lambda item: -item[1])
        ]
        lines += [f"left out {count} {what}" for what, count in sorted(self.left_out.items())]
        if self.shared:
            lines.append(
                f"{self.shared} of its images are in the training split too, under this name or another, so figures on it tell "
                "what was learnt by heart: give every image to one split"
            )
        if self.repeated:
            lines.append(
                f"{self.repeated} rows have the image, boxes and phrases of an earlier one, and count anew: are lines there twice?"
            )
        if self.doubled:
            lines.append(f"{self.doubled} rows list a box twice, which counts as two objects")
        return [*lines, told] if (told := self._box_format()) else lines

    def _box_format(self) -> str:
        """What there is to say when boxes look like another format than they are read in; "" where they do not."""
        misfits = self.boxes - self.fits[self.box_format]
        others = [name for name in boxes.GUESSED if self.boxes and self.fits[name] >= FORMAT_FITS * self.boxes]
        if self.boxes and misfits >= FORMAT_SUSPICION * self.boxes and others:
            return (
                f"{misfits} of {self.boxes} boxes do not fit their image when read as {self.box_format}, and "
                f"{self.fits[others[0]]} do when read as {others[0]}: the source probably holds {' or '.join(others)} "
                f"(say so with --bbox-format {others[0]}, or convert them where the layout knows xywh only)"
            )
        return ""


class SeenIds:
    """Ref ids with their splits and images, and image ids with their files, over all splits of a source."""

    def __init__(self) -> None:
        self._refs: dict[str, tuple[str, str]] = {}
        self._images: dict[tuple[str, str], str] = {}

    def add(self, row: dict[str, Any], split: str) -> None:
        """Notes a row.

        Raises:
            BadRecord: its ref was met in this split, or in another one unless both are test splits (RefClef's testA,
                testB and testC overlap); or its image id belongs to another image file.
        """
        earlier, image = self._refs.get(row["ref_id"], (None, ""))
        if earlier == split:
            raise BadRecord(
                "duplicate id",
                f"an earlier record, of image_id {image}, has the same ref_id: put all phrases of one object into one record, give "
                "every object a ref_id of its own, or leave ref_id out",
            )
        if earlier is not None and not (earlier.startswith("test") and split.startswith("test")):
            raise BadRecord("ref in two splits", f"a record of image_id {image} in split {earlier} has the same ref_id")
        picture = picture_key(row["image"])
        other = self._images.setdefault((row["source"], row["image_id"]), picture)
        if other != picture:  # leaks are found by id, and results are told by it
            raise BadRecord("two images of one id", f"image_id {row['image_id']} is {picture} here and {other} before")
        self._refs[row["ref_id"]] = split, row["image_id"]


def clean_rows(
    rows: Iterable[dict[str, Any] | BadRecord],
    on_bad_record: str = "raise",
    report: Report | None = None,
    where: str = "table",
    split: str = "",
    seen: SeenIds | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the valid rows in their order.

    Args:
        rows: rows as readers make them; a reader puts a :class:`BadRecord` in place of a row it could not make.
        on_bad_record: ``"raise"`` yields nothing after a bad record, ``"skip"`` counts it in ``report``.
        report: counts are added to it.
        where: what the rows are called in messages, for example a data set and its split.
        split, seen: name of this split, and the ids met so far in it and in others; added to.

    Raises:
        BadRecord: with ``on_bad_record="raise"``, after the rest was looked at too: names ``where``, the record's number
            and its ids, and how many others there are.
    """
    if on_bad_record not in ("raise", "skip"):
        raise ValueError(f"on_bad_record is {on_bad_record!r}; expected 'raise' or 'skip'")
    report, seen = report or Report(), seen or SeenIds()
    first: BadRecord | None = None
    numbers: dict[str, list[int]] = {}

    def checked(row: dict[str, Any]) -> dict[str, Any]:
        report.see_boxes(row)
        valid = validate_row(row)
        seen.add(valid, split)
        return valid

    for number, row in enumerate(rows):
        if isinstance(row, LeftOut):
            report.left_out[row.reason] = report.left_out.get(row.reason, 0) + row.count
            continue
        result = attempt(checked, row)
        if not isinstance(result, BadRecord):
            if first is None:  # afterwards the rest is only looked at, to tell all that is wrong at once
                report.keep(result)
                yield result
            continue
        ids = "" if isinstance(row, BadRecord) else f" ({ids_of(row)})"
        place = f"{where}, record {number}{ids}"
        report.skip(result, place)
        numbers.setdefault(result.reason, []).append(number)
        if on_bad_record == "raise":
            first = first or result.at(place)
            if report.skipped[result.reason] == MANY:
                break
    if first is not None:
        raise _told(first, numbers, report, where) from first.__cause__


def _told(first: BadRecord, numbers: Mapping[str, list[int]], report: Report, where: str) -> BadRecord:
    """The first bad record as the error that ends the work. Where there are more, a line of the log for each kind has
    the first in full and the numbers of the others."""
    bad = sum(map(len, numbers.values()))
    if bad == 1:
        return BadRecord(first.reason, f"{first.detail}. Mend it, or leave such records out (--on-bad-record skip)")
    for reason, found in numbers.items():
        listed = ", ".join(map(str, found[:LISTED])) + (", …" if len(found) > LISTED else "")
        logger.error(
            "%s: %d x %s, records %s; the first: %s", where, len(found), reason, listed, report.examples[reason]
        )
    kinds = ", ".join(f"{len(found)} x {reason}" for reason, found in numbers.items())
    return BadRecord(
        first.reason,
        f"{first.detail}. In all {bad} records are bad: {kinds}. Mend them, or leave such records out "
        "(--on-bad-record skip)",
    )


def ids_of(row: dict[str, Any]) -> str:
    """A row's ids for messages."""
    told = {key: row.get(key) for key in ("ref_id", "image_id")}
    plain = {
        key: value if isinstance(value, str) and value.isprintable() else shown(value) for key, value in told.items()
    }
    return ", ".join(f"{key} {value[:80]}" for key, value in plain.items())
