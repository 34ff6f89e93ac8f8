"""Readers of annotation files: each turns one published layout into rows of :data:`rec.data.schema.FEATURES`.

A reader's rows are *raw*: ``width`` and ``height`` may be missing (they are then read from the image), and in place of
``mask`` a row may carry ``segmentation`` (COCO polygons or RLE) or ``mask_file`` (``.npy`` or image).
:mod:`rec.data.prepare` completes and checks them.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rec.data.schema import BadRecord
from rec.errors import InputError

RawRows = Iterable[dict[str, Any] | BadRecord]


class SourceError(InputError, ValueError):
    """Annotation files that are missing, broken or of an unknown layout; the message names the file and the remedy."""


@dataclass(frozen=True)
class Source:
    """A set of annotation files, opened.

    Attributes:
        name: what rows carry in their ``source`` column, unless the reader knows better.
        splits: names of the splits, the data set's own.
        read: from a split's name to its raw rows, in the files' order.
        files: the annotation files; tables made from them are cached by their sizes and modification times.
        image_root: folder of the images; "" where rows carry absolute paths or bytes.
        options: everything else the rows depend on.
    """

    name: str
    splits: tuple[str, ...]
    read: Callable[[str], RawRows]
    files: tuple[Path, ...] = ()
    image_root: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def load_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
        SourceError: missing, cut short or no JSON; names the file and the place.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise SourceError(f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{os.fspath(path)} is not valid JSON ({error}): cut short? Get the file again") from None
