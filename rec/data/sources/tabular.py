"""Your own data: JSONL or CSV beside a folder of images.

Columns: ``image`` (file below the image folder), ``phrase`` (a text, or a list of them), ``bbox`` (four
numbers in pixels; in CSV separated by spaces or commas) or in JSONL ``boxes`` (a list of those, empty where the phrase
names nothing in the image) and, as wanted, ``split``, ``mask`` (a mask image or ``.npy``;
also COCO polygons or RLE, in CSV as JSON; of several objects their union), ``ref_id``, ``image_id``, ``category``, ``weight``
(what the line's loss is multiplied by in training; 1 where it is missing). One line is what its phrases name; or it is an
image with all of its objects, in parallel lists (``boxes`` and ``phrases``, as wanted ``masks``, ``categories``,
``weights``) or as ``objects``, a list of objects or an object of lists with those columns.
"""

import ast
import csv
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TextIO

from rec import boxes
from rec.data.schema import BadRecord, attempt, is_missing, shown
from rec.data.sources import (
    Source,
    SourceError,
    as_text,
    find_split,
    given,
    load_json,
    one_each,
    open_annotations,
    own_split,
    parse_json,
)
from rec.trust import MAX_LINE, MAX_SENTENCE

_COLUMNS = (".csv", ".tsv")
SUFFIXES = (".jsonl", *_COLUMNS)
_NEEDED = ("image", "phrase", "bbox")
_ARRAY = "split of its array"  # what a record of {split: array} is given besides
# Lists with an entry for each object of an image, and what an entry is.
_LISTS = {"boxes": "bbox", "phrases": "phrase", "masks": "mask", "categories": "category", "weights": "weight"}


def numbers_of(bbox: object) -> Any:
    """A box written as text, ``"412 230 96 110"`` or ``"[412, 230, 96, 110]"``, as a list; anything else as it is."""
    if not isinstance(bbox, str):
        return bbox
    plain = re.sub(r"\bnp\.\w+\(([^()]*)\)", r"\1", bbox)  # as pandas writes a list of NumPy's numbers
    return re.split(r"[\s,;]+", plain.strip(" \t[](){}"))


def mask_of(value: object) -> Any:
    """Polygons or runs that are written as JSON in a text, as columns of texts have them; anything else, such as a file's name,
    as it is.

    Raises:
        ValueError, RecursionError: it looks like JSON, and is none.
    """
    return parse_json(value) if isinstance(value, str) and value[:1] + value[-1:] in ("[]", "{}") else value


def number_of(value: object) -> Any:
    """A number written as text, as CSV files have it; anything else, and what is not a number, as it is."""
    try:
        return float(value) if isinstance(value, str) and value.strip() else value
    except ValueError:
        return value


def check_bbox_format(bbox_format: str | None, what: str) -> str:
    """Returns the format.

    Raises:
        SourceError: none or an unknown one is named.
    """
    if bbox_format not in boxes.FORMATS:
        raise SourceError(
            f"{what}: name the format of its boxes, bbox_format = {', '.join(boxes.GUESSED[:-1])} or {boxes.GUESSED[-1]} "
            f"(or yxyx; pixels; --bbox-format of `rec prepare`); got {bbox_format!r}"
        )
    return bbox_format


def open_tabular(path: Path, name: str, image_root: str | None, bbox_format: str | None) -> Source:
    """Opens a JSONL or CSV file, or a folder with one such file per split (``train.jsonl``, ``val.jsonl``, …), see
    :func:`own_files`.

    Args:
        path: file or folder. A single file's ``split`` column names the splits; without one all is ``train``.
        name: of the data set, for the rows' ``source``.
        image_root: folder of the images; by default that of the file.
        bbox_format: one of :data:`rec.boxes.FORMATS`, in pixels; must be named.

    Raises:
        SourceError: no format named, no such file, or not UTF-8.
    """
    files = own_files(path) if path.is_dir() else [path]
    boxes_as = check_bbox_format(bbox_format, str(path))
    root = Path(image_root) if image_root else files[0].parent
    if path.is_dir():
        by_split = {file.stem: file for file in files}
        if twice := [file.name for file in files if by_split[file.stem] is not file]:
            raise SourceError(
                f"{path} has both {twice[0]} and {by_split[Path(twice[0]).stem].name}: leave one file for each split"
            )
    else:
        named = dict.fromkeys(split for _, row in _lines(path) if (split := _split_of(row)) is not None)
        by_split = dict.fromkeys(named or ("train",), path)
    first = next(iter(by_split))

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        file = by_split[split]
        for number, row in _lines(file):
            own = split if path.is_dir() else _split_of(row)
            if own == split or (own is None and split == first):
                place, where = f"{file.stem}-{number}", f"{file}, line {number}"
                objects = attempt(_objects, row, place, where=where)
                if isinstance(objects, BadRecord):
                    yield objects
                    continue
                for own_place, entry in objects:
                    made = attempt(_row, entry, own_place, name, root, boxes_as, where=where)
                    if not isinstance(made, BadRecord) and _says_other(entry, split):
                        teller = f"the name of their file in a folder, {file.name}," if path.is_dir() else "their array"
                        made |= {"left_out": {f"fields split, as {teller} tells it": 1}}
                    yield made

    return Source(name, tuple(by_split), read, tuple(files), str(root), {"kind": "tabular", "bbox_format": boxes_as})


def own_files(folder: Path) -> list[Path]:
    """The files of one's own records in a folder, one for each split: lines, or where none are there arrays (``train.json``).

    A .tsv, as other tools write it of anything, counts where there is nothing else.
    """
    # With a dot in front they are the file system's, such as ._train.jsonl of a Mac.
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    arrays = [file for file in files if file.suffix.lower() == ".json"]
    lines = [file for file in files if file.suffix.lower() in (".jsonl", ".csv")]
    if not lines and all(_is_array(file) and is_own(next(records(file), None)) for file in arrays):
        return arrays or [file for file in files if file.suffix.lower() == ".tsv"]
    return lines


def is_own(first: object) -> bool:
    """Whether a record of a JSON array is one of a JSONL file's."""
    return isinstance(first, dict) and "image" in first and not {"phrase", "phrases", "objects"}.isdisjoint(first)


def is_own_by_split(content: object) -> bool:
    """Whether a JSON file's content is ``{split: [records of a JSONL file]}``."""
    arrays = list(content.values()) if isinstance(content, dict) else []
    filled = [array for array in arrays if array]
    return bool(filled) and all(isinstance(array, list) for array in arrays) and all(is_own(one[0]) for one in filled)


def _split_of(row: Mapping[str, Any] | BadRecord) -> str | None:
    """The split that a record names, ``train`` where it names none; None of a broken one, which is in no split."""
    split = row if isinstance(row, BadRecord) else attempt(own_split, row.get(_ARRAY, row.get("split")), "train")
    return None if isinstance(split, BadRecord) else split


def _says_other(row: Mapping[str, Any], split: str) -> bool:
    """Whether the field of a record names another split than ``split``."""
    return not is_missing(row.get("split")) and find_split(own_split(row["split"], split), (split,)) is None


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    """Line numbers and records.

    Raises:
        SourceError: the file cannot be read, holds no record, or is a CSV file without a line of column names.
    """
    number = 0
    try:
        # All records in one array, or in one of each split, in place of lines.
        if file.suffix.lower() == ".json" or _is_array(file):
            for number, row in enumerate(_listed(load_json(file)), 1):
                yield number, attempt(_mapping, row)
            return
        with as_text(open_annotations(file)) as stream:
            lines = _bounded(stream)
            for number, row in _csv_rows(lines, file) if file.suffix.lower() in _COLUMNS else _json_rows(lines):
                yield number, row
    except OSError as error:
        raise SourceError(f"cannot read {file}: {error}") from None
    if not number:
        raise SourceError(f"{file} holds no record; expected one object per line, with {', '.join(_NEEDED)}")


def _listed(content: list[Any] | dict[str, list[Any]]) -> list[Any]:
    """The records of a JSON array, or of ``{split: array}``, each then with that split."""
    if isinstance(content, list):
        return content
    return [row | {_ARRAY: split} if isinstance(row, dict) else row for split, rows in content.items() for row in rows]


def records(file: Path) -> Iterator[dict[str, Any] | BadRecord]:
    """The records of a JSONL or CSV file; see :func:`open_tabular`."""
    return (row for _, row in _lines(file))


def _bounded(stream: TextIO) -> Iterator[str]:
    """Its lines; of a longer one than :data:`rec.trust.MAX_LINE` the beginning, which is not a record."""
    while line := stream.readline(MAX_LINE):
        yield line
        while len(line) == MAX_LINE and line[-1] != "\n":
            line = stream.readline(MAX_LINE)


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, attempt(_object, line)


def _is_array(file: Path) -> bool:
    """Whether it is one JSON array: it begins with a bracket, and a line of a JSONL file with a brace."""
    if file.suffix.lower() in _COLUMNS:
        return False
    with open_annotations(file) as stream:
        return stream.read(1000).removeprefix(BOM_UTF8).lstrip()[:1] == b"["


def _object(line: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise BadRecord("broken line", str(error)) from None
    return _mapping(row)


def _mapping(row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BadRecord("broken line", f"{shown(row)} is not an object {{…}}")
    return row


def _csv_rows(lines: Iterable[str], file: Path) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    lines, head = iter(lines), list[str]()
    while not (head and head[-1].strip()) and (line := next(lines, None)) is not None:
        head.append(line)
    names = "".join(head)
    # Spreadsheets write semicolons where the comma is in numbers.
    sign = next((sign for sign in ";\t" if sign in names and "," not in names), ",")
    # Strict, else a quotation mark out of place makes one wrong record of many lines.
    reader = csv.reader(chain(head, lines), strict=True, delimiter=sign, skipinitialspace=True)
    columns = attempt(lambda: [name.strip() for name in next((row for row in reader if row), [])])
    if isinstance(columns, BadRecord) or (columns and not set(_NEEDED) <= set(columns)):
        raise SourceError(
            f"the first line of {file} is {shown(columns)}; expected the names of its columns, separated by commas, among them "
            f"{', '.join(_NEEDED)}: add that line, or rename them"
        )
    if twice := {name for name in columns if name and columns.count(name) > 1}:
        raise SourceError(
            f"{file} has several columns {min(twice)}; expected each name once: rename them or leave one out"
        )
    while True:
        begin = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rule = "a text in quotation marks ends with one, before the next comma, and has those inside it doubled"
            for number in range(begin, reader.line_num + 1):
                yield number, BadRecord("broken line", f"lines {begin} to {reader.line_num}: {error}; {rule}")
            continue
        if values:
            yield reader.line_num, attempt(_by_column, columns, values)


def _by_column(columns: list[str], values: list[str]) -> dict[str, Any]:
    row = dict[str, Any]()
    for number, (name, value) in enumerate(zip_longest(columns, values, fillvalue="")):
        if name:
            row[name] = _phrases_of(value) if name == "phrase" else value
        elif number and value.strip():  # a first column without a name is pandas' row number
            raise BadRecord(
                "more fields than columns",
                f"{shown(value)} is under no column's name; a text with commas in it stands in quotation marks",
            )
    return row


def _phrases_of(text: str) -> Any:
    """A list of phrases written as text, as pandas writes one into a CSV file, as a list; any other phrase as it is.

    Raises:
        BadRecord: it looks like one, but is none, such as an array as NumPy writes it.
    """
    if text[:2] not in ("['", '["') or text[-2:] not in ("']", '"]'):
        return text
    try:
        if len(text) > MAX_SENTENCE or re.search(
            r"['\"]\s+['\"]", text
        ):  # texts with blanks alone between them are joined
            raise ValueError
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise BadRecord("bad phrase", f"phrase is {shown(text)}; expected a text, or a list with commas") from None


def _objects(row: dict[str, Any], place: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a record, each as a record of its own with its place: of one with a phrase, itself."""
    listed, objects = not is_missing(row.get("phrases")), row.get("objects")
    if not is_missing(row.get("phrase")) or not (listed or isinstance(objects, dict | list)):
        if listed:
            raise BadRecord("two different phrases", "it has phrase and phrases; give one of them")
        return [(place, row)]
    if listed:
        lists = {key: row[key] for key in _LISTS if not is_missing(row.get(key))}
        if "boxes" not in lists:
            raise BadRecord("incomplete record", "it has phrases, which are one for each of its boxes, and no boxes")
        objects = [{_LISTS[key]: value for key, value in entry.items()} for entry in one_each(lists)]
    elif isinstance(objects, dict):
        objects = one_each(objects)
    if not isinstance(objects, list) or not all(isinstance(entry, dict) for entry in objects):
        raise BadRecord("no list of objects", f"objects is {shown(objects)}; expected objects with phrase and bbox")
    common = {key: value for key, value in row.items() if key not in {*_LISTS, "objects"}}
    if not is_missing(common.get("ref_id")):  # of the whole record
        place = f"{common.pop('ref_id')}"
    return [(f"{place}-{number}", common | entry) for number, entry in enumerate(objects)]


def _row(row: dict[str, Any], place: str, name: str, root: Path, bbox_format: str) -> dict[str, Any]:
    own_split(row.get(_ARRAY), "train")
    own_split(row.get("split"), "train")
    several = row.get("boxes")
    listed = not is_missing(several)
    missing = [key for key in _NEEDED if is_missing(row.get(key)) and not (key == "bbox" and listed)]
    if listed and not is_missing(row.get("bbox")):
        raise BadRecord("two different boxes", "it has bbox and boxes; give one of them")
    if missing:
        hint = (
            "; boxes says nothing either: it is [] where nothing is named"
            if "bbox" in missing and "boxes" in row
            else ""
        )
        told = (
            f"; its fields are {', '.join(key for key in row if key != _ARRAY)[:200]}"
            if any(key not in row for key in missing)
            else ""
        )
        raise BadRecord("incomplete record", f"it has no {', '.join(missing)}{hint or told}")
    if not isinstance(row["image"], str):
        raise BadRecord("no image", f"image is {shown(row['image'])}; expected the name of a file")
    mask = None if (mask := mask_of(row.get("mask"))) == [] else given(mask)
    return {
        "image": str(root / row["image"]),
        "image_id": given(row.get("image_id"), row["image"]),
        "ref_id": given(row.get("ref_id"), place),
        "ann_id": given(row.get("ann_id")),
        "bbox": None if listed else numbers_of(row["bbox"]),
        "boxes": [numbers_of(box) for box in several] if isinstance(several, list) else several if listed else None,
        "bbox_format": bbox_format,
        "mask_picture": str(root / mask) if isinstance(mask, str) else None,
        "segmentation": None if isinstance(mask, str) else mask,
        "sentences": row["phrase"],
        "category": given(row.get("category")),
        "source": given(row.get("source"), name),
        "weight": number_of(row.get("weight")),
    }
