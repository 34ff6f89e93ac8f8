"""Label Studio's exports: JSON, where each rectangle has its text, and JSON_MIN, where rectangles and texts are two lists.

Format (https://labelstud.io/guide/task_format): a list of tasks ``{id, data: {image: address, …}, annotations: [{result:
[…], was_cancelled, ground_truth}]}``. A result of type ``rectanglelabels`` or ``rectangle`` has ``value: {x, y, width, height,
rotation}`` in percent of the image, and ``original_width``, ``original_height`` in pixels; one of type ``textarea`` with the
same ``id`` (``perRegion="true"`` in the labelling interface) holds the phrases in ``value.text``, and one of type
``labels`` what is a ``rectangle``. JSON_MIN has one record for each annotation: the task's data, and under each tag's name
the values of its results, a text of one line as such.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rec.data.schema import BadRecord, LeftOut, attempt, is_missing, shown
from rec.data.sources import Source, SourceError, given, own_split

_IMAGES = ("image", "img", "image_url", "url", "file", "file_upload", "photo", "picture")
_TEXTS = ("phrase", "phrases", "expression", "caption", "description", "sentence", "text", "transcription", "textarea")
_RECTANGLES = ("rectanglelabels", "rectangle")
# What is said of a region or of the whole picture, and is none.
_SAID = ("textarea", "labels", "choices", "taxonomy", "rating", "number", "datetime", "relation", "pairwise", "ranker")
_NO_TEXT, _NO_RECTANGLE = "rectangles without a text", "regions that are not rectangles"


def is_label_studio(content: object) -> bool:
    """Whether a JSON file's content is an export of Label Studio, by its first records."""
    first = [entry for entry in content[:20] if isinstance(entry, dict)] if isinstance(content, list) else []
    return any({"data", "annotations"} <= entry.keys() or "annotation_id" in entry for entry in first)


def open_label_studio(
    path: Path, content: list[Any], name: str, image_root: str | None, columns: Mapping[str, str] | None
) -> Source:
    """Opens an export.

    A task's ``data.split`` names its split; without one it is ``train``. Where a task has annotations marked as ground truth,
    those alone count. Images are looked for below ``image_root``: by the path in their address, by its last part, and by that
    without the eight digits that an upload puts before it.

    Args:
        path: the JSON file.
        content: of it, see :func:`is_label_studio`.
        name: of the data set, for the rows' ``source``.
        image_root: folder of the images; by default the file's.
        columns: of ``image``, ``sentences`` and ``bbox``, the names they have in ``data`` and in JSON_MIN, where they are
            not recognised.

    Raises:
        SourceError: a column that is none of those.
    """
    columns = dict(columns or {})
    if unknown := sorted(columns.keys() - {"image", "sentences", "bbox"}):
        raise SourceError(f"{path}: columns may name image, sentences and bbox, got {', '.join(unknown)}")
    root = Path(image_root) if image_root else path.parent
    found = [attempt(_split, task) for task in content]
    named = tuple(dict.fromkeys(split for split in found if isinstance(split, str))) or ("train",)
    splits = [split if isinstance(split, str) else named[0] for split in found]

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        left = Counter[str]()
        for number, task in enumerate(content):
            if splits[number] != split:
                continue
            where = f"{path.name}, task number {number}"
            regions = attempt(_regions, task, columns, left, where=where)
            if isinstance(regions, BadRecord):
                yield regions
                continue
            for count, region in enumerate(regions):
                place = f"{path.stem}-{number}-{count}"
                yield attempt(_row, task, region, place, columns, root, name, where=where)
        for what, count in left.items():
            yield LeftOut(what, count)

    return Source(name, named, read, (path,), str(root), {"kind": "label_studio", "columns": columns})


def _split(task: dict[str, Any]) -> str:
    if not isinstance(task, dict):
        raise BadRecord("broken record", f"{shown(task)} is not a task {{…}}")
    return own_split(_data(task).get("split"), "train")


def _data(task: dict[str, Any]) -> dict[str, Any]:
    """What was labelled: its address and whatever was imported with it."""
    data = task.get("data", task)
    if not isinstance(data, dict):
        raise BadRecord("broken record", f"data is {shown(data)}; expected an object with the image's address")
    return data


def _regions(task: dict[str, Any], columns: Mapping[str, str], left: Counter[str]) -> list[dict[str, Any] | BadRecord]:
    """Rectangles with their ``texts``; the others are counted in ``left``."""
    _split(task)
    if "annotations" not in task:
        return _of_lists(task, columns, left)
    annotations = _objects(task["annotations"], "annotations")
    done = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    regions: list[dict[str, Any] | BadRecord] = []
    for annotation in [one for one in done if one.get("ground_truth")] or done:
        results = _objects(annotation.get("result"), "result")
        texts: dict[str, list[Any]] = {}
        labels: dict[str, Any] = {}
        for result in results:
            value, region = result.get("value") or {}, str(result.get("id"))
            said = value.get("text") if result.get("type") == "textarea" else None
            texts.setdefault(region, []).extend(said if isinstance(said, list) else [said] if said else [])
            if result.get("type") == "labels":
                labels[region] = value.get("labels")
        for result in results:
            if result.get("type") not in _RECTANGLES:
                if result.get("type") not in _SAID:
                    left[_NO_RECTANGLE] += 1
                continue
            said = texts.get(str(result.get("id")))
            if said:
                regions.append(
                    {"labels": labels.get(str(result.get("id")))} | result | result["value"] | {"texts": said}
                )
            else:
                left[_NO_TEXT] += 1
    return regions


def _of_lists(task: dict[str, Any], columns: Mapping[str, str], left: Counter[str]) -> list[dict[str, Any] | BadRecord]:
    """Of JSON_MIN. Which text belongs to which rectangle is told by their order alone."""
    boxes = next(
        (
            value
            for key, value in task.items()
            if key == columns.get("bbox", key) and isinstance(value, list) and value and _is_rectangle(value[0])
        ),
        [],
    )
    key = next((key for key in (columns.get("sentences"), *_TEXTS) if key in task), None)
    said = None if key is None else task[key]
    texts = said if isinstance(said, list) else [] if is_missing(said) else [said]
    if not texts:
        left[_NO_TEXT] += len(boxes)
        return []
    if len(texts) != len(boxes):
        raise BadRecord(
            "texts of no rectangle",
            f"it has {len(boxes)} rectangles and {len(texts)} texts in {key}, and JSON_MIN does not say which belong together: "
            "export it as JSON",
        )
    lines = [text.get("text") if isinstance(text, dict) else text for text in texts]
    odd = "{} is not a rectangle {{x, y, width, height}}"
    return [
        box | {"texts": line} if isinstance(box, dict) else BadRecord("broken record", odd.format(shown(box)))
        for box, line in zip(boxes, lines, strict=True)
    ]


def _is_rectangle(value: object) -> bool:
    return isinstance(value, dict) and {"x", "y", "width", "height"} <= value.keys() and "text" not in value


def _objects(value: object, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise BadRecord("broken record", f"{what} is {shown(value)}; expected a list of objects")
    return value


def _row(
    task: dict[str, Any], region: Any, place: str, columns: Mapping[str, str], root: Path, name: str
) -> dict[str, Any]:
    data = _data(task)
    keys = [columns["image"]] if "image" in columns else [key for key in _IMAGES if isinstance(data.get(key), str)]
    address = data.get(keys[0]) if keys else None
    if not isinstance(address, str) or not address:
        raise BadRecord(
            "no image",
            f"its data are {shown(data)}; expected the image's address in {columns.get('image') or ', '.join(_IMAGES)}",
        )
    if region.get("rotation") or region.get("image_rotation"):
        turned = region.get("rotation") or region.get("image_rotation")
        raise BadRecord("turned rectangle", f"it is turned by {shown(turned)} degrees; boxes are upright: draw it anew")
    file = _file(address, root)
    labels = [region[key] for key in ("rectanglelabels", "labels") if isinstance(region.get(key), list) and region[key]]
    return {
        "image": str(root / file),
        "image_id": file,
        "ref_id": place,
        "ann_id": given(region.get("id")),
        "width": given(region.get("original_width")),
        "height": given(region.get("original_height")),
        "bbox": [region[key] / 100 for key in ("x", "y", "width", "height")],
        "coordinates": "0-1",
        "sentences": region["texts"],
        "category": labels[0][0] if labels else None,
        "source": name,
    }


def _file(address: str, root: Path) -> str:
    """The name below ``root`` of the file that an address means; the last guess where none is there."""
    parts = urlsplit(address)
    # Behind ?d= of a local file; there older versions leave the signs of addresses as they are.
    _, local, quoted = address.partition("?d=") if parts.path.rstrip("/").endswith("/local-files") else ("", "", "")
    path = unquote(quoted if local else parts.path).replace("\\", "/").lstrip("/")
    base = os.path.basename(path)
    names = dict.fromkeys([path, base, re.sub(r"^[0-9a-f]{8}-", "", base)])
    return next((name for name in names if (root / name).is_file()), next(reversed(names)))
