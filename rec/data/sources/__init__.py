"""Readers of annotation files: each turns one published layout into rows of :data:`rec.data.schema.FEATURES`.

A reader's rows are *raw*: ``width`` and ``height`` may be missing (they are then read from the image), ``bbox`` is as
the file has it, in the format that ``bbox_format`` names (xywh without) and the ``coordinates`` of :mod:`rec.conventions`
(pixels without), and in place of ``mask`` a row may carry ``segmentation`` (COCO polygons or RLE, or rows of pixels),
``segmentations`` (a list of those, one for each object, whose union the mask is) or ``mask_picture`` (path of an ``.npy``
file or image, or an encoded image; or a list of those). In place of
``bbox`` it may have ``boxes``, a list that is empty where nothing is named; ``left_out`` counts parts of the record
that a reader drops. What it drops of a split besides is told behind the last row, by :class:`~rec.data.schema.LeftOut`.
:mod:`rec.data.prepare` completes and checks the rows. Whatever a single record makes a reader raise is a
:class:`~rec.data.schema.BadRecord` in its place.
"""

import codecs
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from rec import trust
from rec.data.schema import BadRecord, faults_as, is_missing, shown
from rec.errors import InputError, UntrustedError
from rec.trust import MAX_JSON_DEPTH

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
        more_folders: others that records may name files in, such as that of the masks.
        is_foreign: whether it came over the network: its records may name files below the folders only, whatever is done
            with them.

    Raises:
        SourceError: a split's name is not a name for a folder, or there are more than :data:`rec.trust.MAX_SPLITS`.
    """

    name: str
    splits: tuple[str, ...]
    read: Callable[[str], RawRows]
    files: tuple[Path, ...] = ()
    image_root: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    more_folders: tuple[str, ...] = ()
    is_foreign: bool = False

    def __post_init__(self) -> None:
        check_split_names(self.splits, self.name)

    @property
    def folders(self) -> tuple[str, ...]:
        """Those that were named: of the images, of the annotation files, and others."""
        named = (self.image_root, *self.more_folders, *(str(file.parent) for file in self.files))
        return tuple(dict.fromkeys(folder for folder in named if folder))


def check_split_names(splits: Iterable[Any], where: str | os.PathLike[str]) -> None:
    """Refuses names of splits that would lead out of the folder they are written to, and very many of them.

    Raises:
        SourceError: names ``where`` they are from.
    """
    splits = list(splits)
    try:
        for split in splits:
            trust.split_name(split)
    except UntrustedError as error:
        raise SourceError(f"{os.fspath(where)}: {error}") from None
    if len(splits) > trust.MAX_SPLITS:
        raise SourceError(
            f"{os.fspath(where)} has {len(splits)} splits, such as {splits[0]!r} and {splits[1]!r}; the limit is "
            f"{trust.MAX_SPLITS}: is another column meant?"
        )


# Split names that mean the same; a data set keeps its own.
_ALIASES = (("train", "training"), ("val", "validation", "valid", "dev"))


def find_split(split: str, splits: Sequence[str]) -> str | None:
    """The name that a data set has for a split: ``"val"`` finds ``"validation"`` where there is no ``"val"``; None: no such."""
    same = next((names for names in _ALIASES if split.lower() in names), ())
    capitals = (name for name in splits if name.lower() in same)
    return next((name for name in (split, *same, *capitals) if name in splits), None)


def own_split(named: object, otherwise: str) -> str:
    """The split that a record names, or ``otherwise`` where it names none; ``training`` is ``train``, and so on.

    Raises:
        BadRecord: it is not a name for one.
    """
    split = given(named, otherwise)
    split = split.strip() or split if isinstance(split, str) else split
    with faults_as("bad split"):
        name = trust.split_name(str(split) if isinstance(split, int) else split)
        return find_split(name, ("train", "val")) or name


def read_annotations(path: str | os.PathLike[str]) -> bytes:
    """The content of an annotation file that is read whole.

    Raises:
        SourceError: missing, no regular file, or larger than :data:`rec.trust.MAX_ANNOTATIONS`.
    """
    with open_annotations(path, trust.MAX_ANNOTATIONS) as file:
        return file.read()


def open_annotations(path: str | os.PathLike[str], max_bytes: int | None = None) -> BinaryIO:
    """Opens an annotation file.

    Raises:
        SourceError: missing, no regular file, too large, compressed, or UTF-16.
    """
    try:
        file = trust.open_file(path, "annotations", max_bytes)
        begin = file.read(4)
        file.seek(0)
        fault = ""
        if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            fault = 'it is UTF-16, as Excel\'s "Unicode text" and PowerShell write it; save it as UTF-8'
        if begin.startswith((b"\x1f\x8b", b"PK\x03\x04")):
            fault = "it is compressed (gzip, zip), or a spreadsheet; unpack it, or save it as CSV in UTF-8"
        if fault:
            file.close()
            raise ValueError(fault)
        return file
    except OSError as error:
        raise SourceError(f"cannot read {os.fspath(path)}: {error.strerror or error}") from None
    except (UntrustedError, ValueError) as error:
        raise SourceError(f"cannot read {os.fspath(path)!r}: {error}") from None


def as_text(file: BinaryIO) -> TextIO:
    """Its text. Bytes that are not UTF-8 stay visible as halves of pairs, so that only their record is a bad one."""
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def load_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file, by :func:`parse_json`.

    Raises:
        SourceError: missing, too large, cut short or no JSON; names the file and the place.
    """
    try:
        with as_text(open_annotations(path, trust.MAX_ANNOTATIONS)) as file:
            return parse_json(file.read())
    except SourceError:
        raise
    except (ValueError, RecursionError) as error:
        lines = "Extra data" in str(error)
        remedy = "one object per line? Then call it .jsonl" if lines else "cut short? Get the file again"
        raise SourceError(f"{os.fspath(path)} is not valid JSON ({error}): {remedy}") from None


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) < 1000 else math.inf


# One odd record must not spoil the file: Python refuses whole numbers of more than 4,300 digits, and line ends in texts.
DECODER = json.JSONDecoder(parse_int=_whole_number, strict=False)


def parse_json(text: str) -> Any:
    """JSON in which containers deeper than :data:`rec.trust.MAX_JSON_DEPTH` are null where the parser gives up on them,
    and numbers of a thousand digits infinite: no layout has use for them, so their record is found to be a bad one.

    Raises:
        ValueError, RecursionError: no JSON.
    """
    try:
        return DECODER.decode(text)
    except RecursionError:
        return DECODER.decode(shallow(text))


_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


def shallow(text: str) -> str:
    """JSON text with the whole containers deeper than :data:`rec.trust.MAX_JSON_DEPTH` replaced by null."""
    parts, depth, begin, end = [], 0, 0, 0
    for match in _STRUCTURE.finditer(text):
        if match.group() in "[{":
            depth += 1
            begin = match.start() if depth == MAX_JSON_DEPTH + 1 else begin
        elif match.group() in "]}":
            depth -= 1
            if depth == MAX_JSON_DEPTH:
                parts += [text[end:begin], "null"]
                end = match.end()
    return "".join([*parts, text[end:]])


class ById:
    """Entries of an annotation file by their id; one that several different entries have is nobody's.

    Args:
        entries: list of JSON objects; what is not an object or has no id can belong to no record and is left out.
        key: of the id.
        what: the list and its file, for messages.

    Raises:
        SourceError: ``entries`` is not a list.
    """

    def __init__(self, entries: object, key: str, what: str) -> None:
        if not isinstance(entries, list):
            raise SourceError(f"{what} is {shown(entries)}; expected a list of objects with {key}")
        self._all, self._key, self._what = entries, key, what
        self._found: dict[Any, Any] = {}
        self._twice = set()
        for entry in entries:
            identity = entry.get(key) if isinstance(entry, dict) else None
            if isinstance(identity, str | int):
                first = self._found.setdefault(identity, entry)
                if first is not entry and first != entry:
                    self._twice.add(identity)

    def find(self, identity: object) -> dict[str, Any] | None:
        """The entry of that id, or None.

        Raises:
            BadRecord: the id is none, or different entries have it; names both.
        """
        if is_missing(identity):
            return None
        if not isinstance(identity, str | int | float) or isinstance(identity, bool):
            raise BadRecord("bad id", f"{shown(identity)} is looked for in {self._what}; expected a text or a number")
        if identity in self._twice:
            same = [(n, e) for n, e in enumerate(self._all) if isinstance(e, dict) and e.get(self._key) == identity]
            told = " and ".join(f"number {number}, {shown(entry)}" for number, entry in same[:2])
            raise BadRecord(
                "two entries of one id", f"{self._what} has {len(same)} entries of {self._key} {identity}: {told}"
            )
        return self._found.get(identity)


def given(value: object, otherwise: object = None) -> Any:
    """A field's value, or ``otherwise`` where it says nothing; 0 says something."""
    return otherwise if is_missing(value) else value


def one_each(lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parallel lists, the n-th entry of each about the n-th object of an image, as one mapping for each object.

    Args:
        lists: name to list; what is missing (null) is so for every object.

    Raises:
        BadRecord: one is not a list, or they are of different lengths; names them.
    """
    there = {name: values for name, values in lists.items() if not is_missing(values)}
    if odd := [name for name, values in there.items() if not isinstance(values, list)]:
        raise BadRecord(
            "no list of objects", f"{odd[0]} is {shown(there[odd[0]])}; expected a list, one for each object"
        )
    if len({len(values) for values in there.values()}) > 1:
        told = ", ".join(f"{name} {len(values)}" for name, values in there.items())
        raise BadRecord("lists of different lengths", f"{told}; expected one entry for each object in all of them")
    count = len(next(iter(there.values()), ()))
    return [{name: there[name][n] if name in there else None for name in lists} for n in range(count)]
