"""COCO files whose annotations carry phrases.

Format (https://cocodataset.org/#format-data): ``{images: [{id, file_name, width, height}], annotations: [{id, image_id,
bbox [x, y, w, h] pixels, segmentation, category_id}], categories: [{id, name}]}``, and in each annotation one of
:data:`PHRASES`: a text, a list of texts, or a list of REFER's ``{sent, raw}``. Annotations without such a key are objects
nobody refers to: they are left out, and counted.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rec.data.schema import BadRecord, attempt, shown
from rec.data.sources import ById, Source, SourceError, given, own_split
from rec.data.sources.tabular import check_bbox_format

# What phrases are called in an annotation, most telling first.
PHRASES = (
    *("referring_expressions", "referring_expression", "expressions", "expression", "phrases", "phrase", "sentences"),
    *("sentence", "captions", "caption", "ref_exps", "ref_exp", "refexp", "description"),
)


def is_coco(content: object) -> bool:
    """Whether a JSON file's content is COCO's."""
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def open_coco(path: Path, content: Any, name: str, image_root: str | None, bbox_format: str | None) -> Source:
    """Opens a COCO file with phrases.

    Splits are what ``split`` of annotations or images says; where they say nothing, the file's own name if it is one of
    train, val, test (or ``instances_val2017`` and the like), else ``train``.

    Args:
        path: the JSON file.
        content: of it, see :func:`is_coco`.
        name: of the data set, for the rows' ``source``.
        image_root: folder of the images; by default the file's.
        bbox_format: ``xywh``, COCO's own, without.

    Raises:
        SourceError: no list of images or annotations, or no annotation has a phrase; says which keys are looked for.
    """
    check_bbox_format(bbox_format or "xywh", str(path))
    images, categories = (
        ById(content.get(key) or [], "id", f"{key} of {path.name}") for key in ("images", "categories")
    )
    entries = content["annotations"]
    if not isinstance(entries, list):
        raise SourceError(f"annotations of {path} is {shown(entries)}; expected a list of objects")
    bare = [isinstance(entry, dict) and _phrases(entry) is None for entry in entries]
    if all(bare):
        keys = sorted({str(key)[:40] for entry in entries[:100] for key in entry})[:40]
        raise SourceError(
            f"no annotation of {path} has a phrase: looked for {', '.join(PHRASES)}; they have {', '.join(keys) or 'nothing'}"
        )
    otherwise = next((split for split in ("train", "val", "test") if split in path.stem.lower()), "train")
    found = [attempt(_split, entry, images, otherwise) for entry in entries]
    splits = [otherwise if isinstance(split, BadRecord) else split for split in found]
    root = Path(image_root) if image_root else path.parent

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        left = sum(without and own == split for own, without in zip(splits, bare, strict=True))
        for number, entry in enumerate(entries):
            if splits[number] != split or bare[number]:
                continue
            place = f"{path.stem}-{number}"
            where = f"{path.name}, annotation number {number}"
            row = attempt(_row, entry, images, categories, root, name, place, where=where)
            if left and not isinstance(row, BadRecord):
                row, left = row | {"left_out": {"annotations without a phrase": left}}, 0
            yield row if isinstance(row, BadRecord) else row | {"bbox_format": bbox_format}

    named = dict.fromkeys(own for own, without in zip(splits, bare, strict=True) if not without)
    return Source(name, tuple(named), read, (path,), str(root), {"kind": "coco", "bbox_format": bbox_format})


def _phrases(annotation: dict[str, Any]) -> Any:
    return next((annotation[key] for key in PHRASES if annotation.get(key) is not None), None)


def _split(annotation: Any, images: ById, otherwise: str) -> str:
    """The split of an annotation.

    Raises:
        BadRecord: what it, or its image, says is no name of one.
    """
    image = images.find(annotation.get("image_id")) or {}
    return own_split(given(annotation.get("split"), image.get("split")), otherwise)


def _row(annotation: Any, images: ById, categories: ById, root: Path, name: str, place: str) -> dict[str, Any]:
    if not isinstance(annotation, dict):
        raise BadRecord("broken record", f"{shown(annotation)} is no object {{…}}")
    _split(annotation, images, "train")
    image = images.find(annotation.get("image_id"))
    if image is None:
        raise BadRecord(
            "image id without image", f"image_id {shown(annotation.get('image_id'))} is not among its images"
        )
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        raise BadRecord("no image", f"file_name of image {shown(image['id'])} is {shown(image.get('file_name'))}")
    phrases = _phrases(annotation)
    if isinstance(phrases, list):
        phrases = [given(p.get("sent"), p.get("raw")) if isinstance(p, dict) else p for p in phrases]
    return {
        "image": str(root / image["file_name"]),
        "image_id": image["id"],
        "ref_id": given(annotation.get("ref_id"), given(annotation.get("id"), place)),
        "ann_id": given(annotation.get("id")),
        "width": given(image.get("width")),
        "height": given(image.get("height")),
        "bbox": annotation.get("bbox"),
        "segmentation": annotation.get("segmentation") or None,
        "sentences": phrases,
        "category": (categories.find(annotation.get("category_id")) or {}).get("name"),
        "source": name,
    }
