"""The tables of a data set, one behind another, and what is counted in them."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rec.data.tables import RowReader, Table

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

TOLD = ("image", "image_id", "ref_id", "sentences", "source")


@dataclass
class Part:
    """One table of a data set, and where its samples begin."""

    table: Table
    name: str
    split: str
    repeat: float
    reader: RowReader
    sentence_offsets: np.ndarray = field(init=False)  # int64 (rows + 1,)
    units: int = 0  # objects or sentences of one pass
    first: int = 0
    length: int = 0  # units x repeat
    _told: "list[pa.ChunkedArray] | None" = None  # columns of told

    def told(self, row: int) -> tuple[Any, ...]:
        """Of an object its image's path and whether the table holds the picture, image id, ref id, sentences and source: without
        what else is in its row, which takes ten times as long to read."""
        if self._told is None:
            import pyarrow.compute as pc

            image, *rest = (self.table.rows.data.column(name) for name in TOLD)
            path, picture = (pc.struct_field(image, name) for name in ("path", "bytes"))
            self._told = [path, picture.is_valid(), *rest]
        return tuple(column[row].as_py() for column in self._told)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_told": None}  # sent to another process, it is read there anew


class Parts:
    """Tables one behind another: a sample's number leads to its table, row and sentence.

    Args:
        parts: in order; at least one.
        expanded: whether a sample is a sentence; else an object, of whose sentences one is drawn.
        training: whether ``repeat`` counts; evaluation takes every object once.
        seed: of which objects a source that is not seen a whole number of times gives in an epoch.
    """

    def __init__(self, parts: Sequence[Part], expanded: bool, training: bool, seed: int) -> None:
        self.parts, self.expanded, self._seed = parts, expanded, seed
        samples = 0
        for part in parts:
            part.sentence_offsets = sentence_offsets(part.table.rows)
            part.units = int(part.sentence_offsets[-1]) if expanded else len(part.table.rows)
            part.first, part.length = samples, round(part.units * (part.repeat if training else 1))
            samples += part.length
        self.samples = samples
        self._firsts = [part.first for part in parts]
        self._order_cache: tuple[tuple[int, int], np.ndarray] | None = None

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def locate(self, epoch: int, index: int) -> tuple[Part, int, int | None]:
        """Part, row and sentence number (None: to be drawn) of a sample.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < self.samples:
            raise IndexError(f"index {index} of a data set of {self.samples} samples")
        number = bisect_right(self._firsts, index) - 1
        part = self.parts[number]
        unit = index - part.first
        if part.length % part.units:
            unit = int(self._order(epoch, number)[unit % part.units])
        unit %= part.units
        if not self.expanded:
            return part, unit, None
        row = int(part.sentence_offsets.searchsorted(unit, "right")) - 1
        return part, row, unit - int(part.sentence_offsets[row])

    def _order(self, epoch: int, number: int) -> np.ndarray:
        """Which units a source that is not seen a whole number of times gives in an epoch."""
        if self._order_cache is None or self._order_cache[0] != (epoch, number):
            order = np.random.default_rng((self._seed, epoch, number)).permutation(self.parts[number].units)
            self._order_cache = (epoch, number), order
        return self._order_cache[1]

    def image_groups(self) -> np.ndarray:
        """int64 ``(samples,)``: equal numbers for samples of the same image; of sources that are not seen a whole number of times
        it has one pass."""
        groups, used = [], 0
        for part in self.parts:
            numbers = image_numbers(part.table.rows) + used
            used = int(numbers.max(initial=used - 1)) + 1
            numbers = np.repeat(numbers, np.diff(part.sentence_offsets)) if self.expanded else numbers
            whole = part.units and part.length % part.units == 0  # else its last pass is in another order each epoch
            groups.append(np.resize(numbers, part.length) if whole else numbers)
        return np.concatenate(groups)


def sentence_offsets(rows: "datasets.Dataset") -> np.ndarray:
    """int64 ``(rows + 1,)``: the number of the first sentence of each row; a row of the table costs 8 bytes here."""
    import pyarrow.compute as pc

    counts = [
        pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
        for chunk in rows.data.column("sentences").chunks
    ]
    return np.concatenate([[0], *counts]).cumsum(dtype=np.int64)


def image_numbers(rows: "datasets.Dataset") -> np.ndarray:
    """int64 ``(rows,)``: equal numbers for equal paths; for embedded pictures, whose content is not read here, for equal
    ids and lengths. A mistake costs time only: samples share a picture by :func:`rec.data.images.picture_key`.
    """
    import pyarrow.compute as pc

    image, source, image_id = (rows.data.column(name) for name in ("image", "source", "image_id"))
    data = pc.struct_field(image, "bytes")
    ids = pc.binary_join_element_wise(source, image_id, pc.cast(pc.binary_length(data), "string"), "/")
    names = pc.if_else(pc.is_null(data), pc.struct_field(image, "path"), ids)
    return names.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
