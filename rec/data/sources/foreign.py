"""Tables of other people: Hub data sets, parquet, ``datasets.save_to_disk`` folders, with a column map.

A row of the table is what some phrases name in an image; or it is an image, with a column that lists its objects as structs
with a box and phrases each (``samples[{sentences, bbox}]``, ``ref_list[{ann_info: {bbox}, ref_info: {sentences}}]``), or with
parallel lists of them, in a struct (``objects: {bbox: [[…], …], phrase: […, …]}``, which is what the library makes of
``Sequence({…})``) or as columns (``boxes: [[…], …], phrases: […, …]``): then every object becomes a row. Columns inside structs
are named with dots, ``samples.bbox``.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rec.data.schema import BadRecord, attempt, is_missing, shown
from rec.data.sources import Source, SourceError, given, one_each, own_split
from rec.data.sources.tabular import check_bbox_format, mask_of, number_of, numbers_of
from rec.trust import MAX_OBJECTS, MAX_SPLITS

if TYPE_CHECKING:
    import datasets

# Our column to the names it goes by in published tables, most telling first.
KNOWN_COLUMNS = {
    "image": ("image", "img", "image_path", "file_name"),
    "bbox": ("bbox", "box", "gt_bbox"),
    "boxes": ("boxes", "bboxes", "gt_boxes", "gt_bboxes"),
    "sentences": (
        *("sentences", "answer", "captions", "expressions", "phrases", "phrase", "expression", "caption", "sentence"),
        *("ref", "refer", "text", "question"),
    ),
    "mask": ("mask", "masks", "segmentation", "segmentations"),
    "image_id": ("image_id", "iid", "file_name"),
    "ref_id": ("ref_id", "question_id", "id"),
    "ann_id": ("ann_id",),
    "category": ("category", "category_name"),
    "weight": (),  # taken where it is named alone: in a table of anybody's it may be of the object, in kilograms
}
_TEXTS = ("string", "large_string")  # pandas and Polars write the latter
# What an entry of a list of objects says itself; the image and its id are the whole row's.
_OF_OBJECTS = ("bbox", "boxes", "sentences", "mask", "ref_id", "ann_id", "category")


def open_foreign(
    tables: Mapping[str, "datasets.Dataset"],
    name: str,
    image_root: str | None = None,
    columns: Mapping[str, str] | None = None,
    bbox_format: str | None = None,
    folder: str | None = None,
) -> Source:
    """Opens tables of other columns than the schema's.

    Args:
        tables: split to table; one table alone, called ``train``, may have a column ``split`` that tells them.
        name: of the data set, for the rows' ``source``.
        image_root: folder of the images, where the image column holds file names.
        columns: schema column to the table's column, for example ``{"sentences": "answer"}`` or ``{"bbox": "objects.box"}``;
            what it leaves out is recognised by :data:`KNOWN_COLUMNS`. ``boxes`` is a list of boxes that every phrase of the row
            names all of, in place of ``bbox``; a ``bbox`` that lists boxes has one phrase, mask, … for each, in lists too.
        bbox_format: one of :data:`rec.boxes.FORMATS`, in pixels; ``xywh`` without.
        folder: of the tables; None for those that came over the network.

    Raises:
        SourceError: a column that is not there or not recognised (lists those there are), or lists of boxes and of texts of
            which neither is told: one text for each box, or all for all.
    """
    bbox_format = check_bbox_format(bbox_format or "xywh", name)
    # What a table is called of whose split nothing is known.
    if folder is not None and tables.keys() == {"train"}:
        tables = _by_own_split(tables["train"])
    found = {split: _find_columns(table.features, columns or {}, name) for split, table in tables.items()}

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        names, listed, classes = found[split]
        # As they are stored: the library would decode pictures (and sounds, and documents) by its own rule.
        used = {path if path in tables[split].features else path.partition(".")[0] for path in names.values()}
        table = tables[split].select_columns(sorted(used)).with_format("arrow")

        def objects_of(number: int) -> list[dict[str, Any]]:
            whole = table[number].to_pylist()[0]
            values = {path: _in_words(_value(whole, path), classes.get(path)) for path in names.values()}
            if not listed:
                return [values]
            return [values | entry for entry in one_each({names[ours]: values[names[ours]] for ours in sorted(listed)})]

        for number in range(len(table)):
            where, place = f"row {number} of split {split}", f"{split}-{number}"
            objects = attempt(objects_of, number, where=where)
            if isinstance(objects, BadRecord):
                yield objects
                continue
            for count, values in enumerate(objects):
                own = (f"{place}-{count}", f"{where}, object {count}") if listed else (place, where)
                yield attempt(_row, values, names, own[0], name, image_root, bbox_format, where=own[1])

    prints = {split: table._fingerprint for split, table in tables.items()}
    options = {"kind": "foreign", "columns": dict(columns or {}), "bbox_format": bbox_format, "tables": prints}
    if any("bbox" in listed and "." not in names["bbox"] for names, listed, _ in found.values()):
        options["objects"] = "parallel"  # earlier versions took the same columns for boxes that every phrase names
    elif any({"bbox", "boxes"} <= names.keys() for names, *_ in found.values()):
        options["objects"] = "both"  # earlier versions took bbox alone
    if any(classes for *_, classes in found.values()):
        options["classes"] = "named"  # earlier versions took their numbers
    folders = (folder,) if folder else ()
    return Source(name, tuple(tables), read, (), image_root or "", options, folders, is_foreign=folder is None)


def _by_own_split(table: "datasets.Dataset") -> dict[str, "datasets.Dataset"]:
    """A table by its column ``split``, where that holds nothing but names of splits."""
    feature = table.features.get("split")
    classes = getattr(feature, "names", None)
    if classes is None and getattr(feature, "dtype", None) not in _TEXTS:
        return {"train": table}
    said = [attempt(own_split, _in_words(value, classes), "train") for value in table["split"]]
    if len(set(said)) > MAX_SPLITS or any(isinstance(split, BadRecord) for split in said):
        return {"train": table}
    return {
        name: table.select([n for n, own in enumerate(said) if own == name]) for name in dict.fromkeys(map(str, said))
    }


def _inside(feature: Any) -> dict[str, Any]:
    """The columns of a struct, of a list of structs, or of a struct of lists, for one object each."""
    inner = getattr(feature, "feature", feature)
    if not isinstance(inner, dict):
        return {}
    return inner if inner is not feature else {key: getattr(value, "feature", value) for key, value in inner.items()}


def _paths(feature: Any, path: str, group: str | None) -> Iterator[tuple[str, Any]]:
    """Dotted paths of all columns with their features: through structs, and through the one list of objects that is ``group``."""
    yield path, feature
    inner = _inside(feature) if path == group else feature
    for key, value in inner.items() if isinstance(inner, dict) else ():
        yield from _paths(value, f"{path}.{key}", group)


def _lists_boxes(feature: Any) -> bool:
    """Whether a column lists boxes, each four numbers or a text of them; a single box does not."""
    inner = getattr(feature, "feature", None)
    return hasattr(inner, "feature") or getattr(inner, "dtype", None) in _TEXTS


def _lists_objects(column: str, feature: Any, columns: Mapping[str, str]) -> bool:
    """Whether a column lists structs with a box in each, or is a struct of parallel lists of boxes and texts."""
    known = {ours: {*KNOWN_COLUMNS[ours], columns.get(ours)} for ours in ("bbox", "boxes", "sentences")}

    def is_of(path: str, *ours: str) -> bool:
        return any(path in known[one] or path.rpartition(".")[2] in known[one] for one in ours)

    if not isinstance(feature, dict):
        return any(is_of(path, "bbox", "boxes") for path, _ in _paths(feature, column, column) if path != column)
    inside = [(f"{column}.{key}", inner) for key, inner in feature.items()]
    listed = [path for path, inner in inside if is_of(path, "bbox", "boxes") and _lists_boxes(inner)]
    texts = [path for path, inner in inside if is_of(path, "sentences") and hasattr(inner, "feature")]
    return bool(listed and texts) and columns.get("boxes") not in listed


def _find_columns(
    features: "datasets.Features", columns: Mapping[str, str], name: str
) -> tuple[dict[str, str], frozenset[str], dict[str, list[str]]]:
    """Our columns to the table's, as dotted paths; those of ours that hold a value for each object of an image; and of the
    table's that hold numbers of classes (``ClassLabel``) the names of those."""
    from datasets import ClassLabel, Value

    # The column that lists objects, if rows are images.
    lists = [column for column, feature in features.items() if _lists_objects(column, feature, columns)]
    flat = any(known in features for ours in ("bbox", "boxes") for known in KNOWN_COLUMNS[ours])
    chosen = [path.partition(".")[0] for path in columns.values() if "." in path]
    group = next((column for column in lists if column in chosen), None if flat or chosen else next(iter(lists), None))
    there = {path: f for column, feature in features.items() for path, f in _paths(feature, column, group)}
    unknown = [
        f"{ours} = {theirs}" for ours, theirs in columns.items() if ours not in KNOWN_COLUMNS or theirs not in there
    ]
    if unknown:
        raise SourceError(
            f"{name}: columns {', '.join(unknown)}: expected {', '.join(KNOWN_COLUMNS)} = one of {', '.join(there)}"
        )

    def find(ours: str) -> str | None:
        """The path of the first known name: of what objects say inside the list, else of a column as such."""
        inside = group is not None and ours in _OF_OBJECTS
        plain = ours in ("image_id", "ref_id", "ann_id", "category")
        places = [
            path
            for path, feature in there.items()
            if (path.startswith(f"{group}.") if inside else path in features)
            and (not plain or isinstance(feature, Value | ClassLabel))
        ]
        return next((path for known in KNOWN_COLUMNS[ours] for path in places if path.split(".")[-1] == known), None)

    names = {ours: columns.get(ours) or find(ours) for ours in KNOWN_COLUMNS}
    names["bbox"], names["boxes"] = _box_columns(names, there, columns, group, name)
    needed = ("image", "bbox" if names["boxes"] is None else "boxes", "sentences")
    if missing := [ours for ours in needed if names[ours] is None]:
        raise SourceError(
            f"{name}: which columns hold {', '.join(missing)}? The table has {', '.join(there)}; say so with columns "
            f"(--columns {missing[0]}=… of `rec prepare`)"
        )

    # Which of them hold a value for each object.
    used = {ours: theirs for ours, theirs in names.items() if theirs is not None}
    classes = {
        path: inner.names
        for path in used.values()
        if isinstance(inner := getattr(there[path], "feature", there[path]), ClassLabel)
    }
    listed = set[str]()
    if group is not None:
        listed = {ours for ours, theirs in used.items() if theirs.startswith(f"{group}.")}
    elif "bbox" in used and _lists_boxes(there[used["bbox"]]) and hasattr(there[used["sentences"]], "feature"):
        # Columns of parallel lists: an id that is none is the image's.
        listed = {ours for ours, theirs in used.items() if hasattr(there[theirs], "feature")} - {"image", "image_id"}
        used = {ours: used[ours] for ours in used if ours in listed or ours not in ("ref_id", "ann_id")}
    return used, frozenset(listed), classes


def _box_columns(
    names: Mapping[str, str | None], there: Mapping[str, Any], columns: Mapping[str, str], group: str | None, name: str
) -> tuple[str | None, str | None]:
    """The column of one box for each object, and that of lists of boxes which every phrase of a row names all of.

    Raises:
        SourceError: as :func:`_one_box_each`.
    """
    bbox, boxes = names["bbox"], names["boxes"]
    if "boxes" in columns or ("bbox" not in columns and bbox is None):
        bbox = columns.get("bbox")
    elif (
        "bbox" in columns
        or group is not None
        or _lists_boxes(there[str(bbox)])
        or not _lists_boxes(there.get(str(boxes)))
    ):
        boxes = None  # where both are there unasked, rows in which they do not say the same are refused
    if bbox is None and boxes is not None and _one_box_each(names, there, columns, group, name):
        return boxes, None
    return bbox, boxes


def _one_box_each(
    names: Mapping[str, str | None], there: Mapping[str, Any], columns: Mapping[str, str], group: str | None, name: str
) -> bool:
    """Whether what is called ``boxes`` holds one for each object, not several that every phrase of a row names.

    Raises:
        SourceError: lists of boxes and of texts of which no name tells it.
    """
    boxes_at, texts_at = names["boxes"], names["sentences"]
    if boxes_at is None or texts_at is None or "boxes" in columns:
        return False
    if group is not None:  # a struct of lists has been taken apart, and lists of structs may hold either
        return not _lists_boxes(there[boxes_at])
    if not (_lists_boxes(there[boxes_at]) and hasattr(there[texts_at], "feature")) or texts_at == "sentences":
        return False
    if texts_at != "phrases":
        raise SourceError(
            f"{name}: {boxes_at} lists boxes and {texts_at} texts. Has each box a text of its own (--columns bbox={boxes_at} of "
            f"`rec prepare`), or does every text name all of them (--columns boxes={boxes_at})?"
        )
    return True


def _value(row: Mapping[str, Any], path: str) -> Any:
    """What a dotted path holds; through a list of structs, the list of what it holds in each."""
    if path in row:  # a name with dots in it
        return row[path]
    value: Any = row
    keys = path.split(".")
    for place, key in enumerate(keys):
        if isinstance(value, list):
            rest = ".".join(keys[place:])
            return [_value(entry, rest) if isinstance(entry, dict) else None for entry in value]
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _in_words(value: object, classes: list[str] | None) -> Any:
    """The number of a class, or a list of them, as names; -1, the library's own for none, as null."""
    if classes is None:
        return value
    if isinstance(value, list):
        return [_in_words(one, classes) for one in value]
    return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else None


def _row(
    found: Mapping[str, Any], names: Mapping[str, str], place: str, name: str, image_root: str | None, bbox_format: str
) -> dict[str, Any]:
    values = {ours: found[path] for ours, path in names.items()}
    image, sentences = _picture(values["image"], image_root), values["sentences"]
    if image is None and not is_missing(values["image"]):
        raise BadRecord("no image", f"column {names['image']} holds {shown(values['image'])}")
    if isinstance(sentences, list):
        sentences = [s.get("sent") or s.get("raw") if isinstance(s, dict) else s for s in sentences]
    content = (image or {}).get("bytes") or str((image or {}).get("path")).encode("utf-8", "replace")
    several = values.get("boxes")
    return {
        "image": image,
        "image_id": given(values.get("image_id"), hashlib.sha1(content).hexdigest()[:16]),
        "ref_id": given(values.get("ref_id"), place),
        "ann_id": given(values.get("ann_id")),
        "bbox": numbers_of(values.get("bbox")),
        "boxes": [numbers_of(box) for box in several] if isinstance(several, list) else several,
        "bbox_format": bbox_format,
        "sentences": sentences,
        "category": given(values.get("category")),
        "source": name,
        "weight": number_of(values.get("weight")),
    } | _mask(values.get("mask"), names.get("mask"), image_root)


def _picture(value: object, image_root: str | None) -> dict[str, Any] | None:
    """A path, encoded bytes, or the library's own struct of both, as that struct; None for anything else."""
    if isinstance(value, str) and value:
        return {"path": os.path.join(image_root or "", value), "bytes": None}
    if isinstance(value, bytes):
        return {"path": None, "bytes": value}
    if isinstance(value, dict) and value.keys() <= {"path", "bytes"}:
        # The library keeps a picture's former path beside its bytes; alone it is a file like any other.
        path, data = value.get("path"), value.get("bytes")
        return {"path": path, "bytes": data} if data is not None else _picture(path, image_root)
    if isinstance(value, list) and len(value) == 1:  # as data for models that take several pictures have them
        return _picture(value[0], image_root)
    return None


def _mask(value: object, column: str | None, image_root: str | None) -> dict[str, Any]:
    """A mask of any kind that tables hold: a picture or several, an array of the image's size, polygons, RLE."""
    value = mask_of(value)
    if is_missing(value) or value == []:
        return {}
    if (picture := _picture(value, image_root)) is not None:
        return {"mask_picture": picture["bytes"] if picture["bytes"] is not None else picture["path"]}
    if isinstance(value, dict) and "counts" in value:
        return {"segmentation": value}
    if isinstance(value, list) and all(_picture(one, image_root) is not None for one in value[: MAX_OBJECTS + 1]):
        if len(value) > MAX_OBJECTS:
            raise BadRecord(
                "bad mask", f"column {column} holds {len(value):,} pictures; at most {MAX_OBJECTS:,} are read"
            )
        pictures = [_picture(one, image_root) or {} for one in value]
        return {"mask_picture": [one["path"] if one["bytes"] is None else one["bytes"] for one in pictures]}
    if isinstance(value, list):
        return {"segmentation": value}
    raise BadRecord("bad mask", f"column {column} holds {shown(value)}; expected a picture, COCO polygons or COCO RLE")
