"""The tables of a data set, one behind another, and what is counted in them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rec.data.tables import RowReader, Table

if TYPE_CHECKING:
    import datasets


@dataclass
class Part:
    """One table of a data set, and where its samples begin."""

    table: Table
    name: str
    split: str
    repeat: float
    sentence_offsets: np.ndarray  # int64 (rows + 1,)
    reader: RowReader
    units: int = 0  # objects or sentences of one pass
    first: int = 0
    length: int = 0  # units x repeat


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
