"""COCO files whose annotations carry phrases.

Format (https://cocodataset.org/#format-data): ``{images: [{id, file_name, width, height}], annotations: [{id, image_id,
bbox [x, y, w, h] pixels, segmentation, category_id}], categories: [{id, name}]}``, and in each annotation one of
:data:`PHRASES`: a text, a list of texts, or a list of REFER's ``{sent, raw}``. Annotations without such a key are objects
nobody refers to: they are left out, and counted. The key may be one of the annotation's ``attributes`` too, which is where CVAT
writes what was typed for an object, and how its box is turned.

MDETR's variant (https://github.com/ashkamath/mdetr/tree/main/scripts/pre-training): ``caption`` in each image, and in each
annotation ``tokens_positive``, spans ``[begin, end]`` of its characters; the phrase is what stands in them, one behind another,
or without spans the whole caption.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rec.data.schema import BadRecord, LeftOut, attempt, is_missing, shown
from rec.data.sources import ById, Source, SourceError, find_split, given, load_json, own_split
from rec.data.sources.tabular import check_bbox_format

# What phrases are called in an annotation, most telling first.
PHRASES = (
    *("referring_expressions", "referring_expression", "expressions", "expression", "phrases", "phrase", "sentences"),
    *("sentence", "captions", "caption", "ref_exps", "ref_exp", "refexp", "description"),
)

_SPLITS = ("train", "val", "test")
_FIRST = 20  # images that are looked for to find the folder of all
logger = logging.getLogger(__name__)


class NoPhrases(SourceError):
    """None of the annotations of a file has a phrase."""


def is_coco(content: object) -> bool:
    """Whether a JSON file's content is COCO's."""
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def open_coco(
    path: Path,
    content: Any,
    name: str,
    image_root: str | None,
    bbox_format: str | None,
    columns: Mapping[str, str] | None = None,
) -> Source:
    """Opens a COCO file with phrases.

    Splits are what ``split`` of annotations or images says; where they say nothing, train, val or test if a word of the
    file's name begins with it (``instances_val2017``, not ``labels_latest``) or its folder is called so (``valid`` too), else
    ``train``.

    Args:
        path: the JSON file.
        content: of it, see :func:`is_coco`.
        name: of the data set, for the rows' ``source``.
        image_root: folder of the images; by default the file's.
        bbox_format: ``xywh``, COCO's own, without.
        columns: ``{"sentences": key}`` takes the phrases from that key of the annotation, or else of its image, whole.

    Raises:
        SourceError: no list of images or annotations, no annotation has a phrase (says which keys are looked for), or a
            column that is not ``sentences``.
    """
    columns = dict(columns or {})
    if unknown := sorted(columns.keys() - {"sentences"}):
        raise SourceError(f"{path}: columns of a COCO file may name sentences, got {', '.join(unknown)}")
    key = columns.get("sentences")
    check_bbox_format(bbox_format or "xywh", str(path))
    images, categories = (
        ById(content.get(key) or [], "id", f"{key} of {path.name}") for key in ("images", "categories")
    )
    entries = content["annotations"]
    if not isinstance(entries, list):
        raise SourceError(f"annotations of {path} is {shown(entries)}; expected a list of objects")
    said = [attempt(_phrases, entry, images, key) for entry in entries]
    bare = [phrases is None for phrases in said]
    if all(bare):
        keys = sorted({str(name)[:40] for entry in entries[:100] for name in _attributes(entry) | entry})[:40]
        raise NoPhrases(
            f"no annotation of {path} has a phrase: looked for {key or ', '.join(PHRASES)}; they have "
            f"{', '.join(keys) or 'nothing'}. Another key, of annotations or images, is named with --columns sentences=…"
        )
    otherwise = _told_by_name(path) or "train"
    found = [attempt(_split, entry, images, otherwise) for entry in entries]
    splits = [otherwise if isinstance(split, BadRecord) else split for split in found]
    root = Path(image_root) if image_root else path.parent

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        for number, entry in enumerate(entries):
            if splits[number] != split or bare[number]:
                continue
            place = f"{path.stem}-{number}"
            where = f"{path.name}, annotation number {number}"
            row = attempt(_row, entry, said[number], images, categories, root, name, place, where=where)
            yield row if isinstance(row, BadRecord) else row | {"bbox_format": bbox_format}
        if left := sum(without and own == split for own, without in zip(splits, bare, strict=True)):
            yield LeftOut("annotations without a phrase", left)

    named = dict.fromkeys(own for own, without in zip(splits, bare, strict=True) if not without)
    options = {"kind": "coco", "bbox_format": bbox_format} | ({"columns": columns} if columns else {})
    return Source(name, tuple(named), read, (path,), str(root), options)


def coco_files(folder: Path) -> dict[Path, Any]:
    """The COCO files of a folder whose names tell a split, there or in ``annotations``, and Roboflow's in it and its folders, and
    what they hold; those without an annotation, as of a split of background alone, are passed over.
    """
    named = (file for place in (folder, folder / "annotations") for file in place.glob("[!.]*.json"))
    files = {file for file in named if _split_in(file.stem)}
    files.update(folder.glob("_annotations.coco.json"), folder.glob("*/_annotations.coco.json"))
    return {file: content for file in sorted(files) if is_coco(content := load_json(file)) and content["annotations"]}


def open_coco_files(
    folder: Path,
    contents: Mapping[Path, Any],
    name: str,
    image_root: str | None,
    bbox_format: str | None,
    columns: Mapping[str, str] | None = None,
) -> Source:
    """Opens the COCO files of a folder, one for each split. Tools count ids from 0 in each of them, so that of an image or a ref
    is that of its file with the split in front.

    Args:
        folder: which has the files.
        contents: of them, see :func:`coco_files`.
        name, bbox_format, columns: see :func:`open_coco`.
        image_root: folder of the images, see :func:`_images_of`; by default each file's, or ``folder``.

    Raises:
        SourceError: of one of the files as :func:`open_coco`, none has phrases, or two are of one split.
    """
    opened, bare = dict[str, Source](), list[NoPhrases]()
    for file, content in contents.items():
        split = _told_by_name(file) or "train"
        if split in opened:
            raise SourceError(f"{opened[split].files[0]} and {file} are both of {split}: leave one file for each split")
        places = [Path(image_root)] if image_root else [file.parent, folder]
        root = next((found for place in places if (found := _images_of(file, content, split, place))), places[0])
        try:
            opened[split] = open_coco(file, content, name, str(root), bbox_format, columns)
        except NoPhrases as error:
            bare.append(error)
    if not opened:
        raise bare[0]
    for fault in bare:
        logger.warning("left out: %s", fault)

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        for own, source in opened.items():
            for row in source.read(split) if split in source.splits else ():
                ids = {} if isinstance(row, BadRecord) else {key: f"{own}-{row[key]}" for key in ("image_id", "ref_id")}
                yield row if isinstance(row, BadRecord) else row | ids

    splits = dict.fromkeys(split for source in opened.values() for split in source.splits)
    options = next(iter(opened.values())).options
    return Source(name, tuple(splits), read, tuple(contents), image_root or str(folder), options)


def _images_of(file: Path, content: Mapping[str, Any], split: str, root: Path) -> Path | None:
    """The folder that has images of a file: ``root``, its folder ``images``, or one of either that is called as the file's or as
    the split (``train2017``); None where none of the first of them is there."""
    entries = content["images"][:_FIRST] if isinstance(content["images"], list) else []
    names = [name for entry in entries if isinstance(entry, dict) and isinstance(name := entry.get("file_name"), str)]
    for base in (root, root / "images"):
        below = [place for place in sorted(base.glob("*/")) if split in (_split_in(place.name), _aliased(place.name))]
        for place in (base / file.parent.name, *below, base):
            if any(os.path.isfile(place / name) for name in names):
                return place
    return None


def _told_by_name(file: Path) -> str | None:
    """The split that a word of a file's name begins with, or its folder is called."""
    return _split_in(file.stem) or _aliased(file.absolute().parent.name)


def _aliased(name: str) -> str | None:
    return find_split(name.lower(), _SPLITS)


def _split_in(name: str) -> str | None:
    begins = re.findall(r"(?<![a-z])(train|val|test)", re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return next((split for split in _SPLITS if split in begins), None)


def _phrases(annotation: Any, images: ById, key: str | None) -> Any:
    """What an annotation says in ``key``, or in one of :data:`PHRASES`; of MDETR's the words of its spans. None: nothing.

    Raises:
        BadRecord: a span that is none, or outside the caption.
    """
    if not isinstance(annotation, dict):
        raise BadRecord("broken record", f"{shown(annotation)} is not an object {{…}}")
    keys, fields = PHRASES if key is None else (key,), _attributes(annotation) | annotation
    if (own := next((fields[name] for name in keys if fields.get(name) is not None), None)) is not None:
        return own
    if key is None and "tokens_positive" not in annotation:  # a caption is then of the whole picture
        return None
    image = attempt(images.find, annotation.get("image_id"))
    caption = image.get(key or "caption") if isinstance(image, dict) else None
    spans = annotation.get("tokens_positive") if key is None else None
    if not isinstance(caption, str) or not spans:
        return caption
    for span in spans if isinstance(spans, list) else [spans]:
        whole = isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span)
        if not whole or not 0 <= span[0] < span[1] <= len(caption):
            raise BadRecord(
                "span outside the caption",
                f"tokens_positive has {shown(span)}; expected [begin, end] among the {len(caption)} characters of the image's "
                f"caption {shown(caption)}",
            )
    return " ".join(caption[begin:end].strip() for begin, end in spans)


def _attributes(annotation: object) -> dict[str, Any]:
    """What CVAT knows of an object besides, as far as it says something."""
    said = annotation.get("attributes") if isinstance(annotation, dict) else None
    return {key: value for key, value in said.items() if not is_missing(value)} if isinstance(said, dict) else {}


def _split(annotation: Mapping[str, Any], images: ById, otherwise: str) -> str:
    """The split of an annotation.

    Raises:
        BadRecord: what it, or its image, says is not a name of one.
    """
    image = images.find(annotation.get("image_id")) or {}
    return own_split(given(annotation.get("split"), image.get("split")), otherwise)


def _row(
    annotation: Any, phrases: Any, images: ById, categories: ById, root: Path, name: str, place: str
) -> dict[str, Any]:
    _split(annotation, images, "train")
    image = images.find(annotation.get("image_id"))
    if image is None:
        raise BadRecord(
            "image id without image", f"image_id {shown(annotation.get('image_id'))} is not among its images"
        )
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        raise BadRecord("no image", f"file_name of image {shown(image['id'])} is {shown(image.get('file_name'))}")
    if turned := _attributes(annotation).get("rotation"):  # whose bbox is that of before
        raise BadRecord("turned rectangle", f"it is turned by {shown(turned)} degrees; boxes are upright: draw it anew")
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
