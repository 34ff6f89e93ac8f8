"""SimREC's annotation files: ``refcoco.json``, ``flickr.json``, ``vg.json``, ``merge.json``.

Format: ``{split: [{iid, bbox [x, y, w, h] pixels, cat_id, refs [sentences], mask_id}]}``; training items hold all
sentences of an object, evaluation items one each. Masks, where there are any, are ``<mask folder>/<mask_id>.npy``.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rec.data.schema import BadRecord, attempt, is_missing, shown
from rec.data.sources import Source, SourceError

_COCO_NAME = "COCO_train2014_{:012d}.jpg"
# Data sets whose mask_id is the REFER ref_id; elsewhere it is missing or not unique.
_FROM_REFER = frozenset({"refcoco", "refcoco+", "refcocog", "referit", "refclef"})


def is_simrec_json(content: object) -> bool:
    """Whether a JSON file's content is ``{split: [items]}``, by the first ones."""
    if not isinstance(content, dict) or not content or "images" in content:
        return False
    if not all(isinstance(items, list) for items in content.values()):
        return False
    first = [item for items in content.values() for item in items[:20] if isinstance(item, dict)]
    return not first or any(not item.keys().isdisjoint(("iid", "refs")) for item in first)


def open_simrec_json(path: Path, content: Any, name: str, image_root: str | None, mask_root: str | None) -> Source:
    """Opens a file in SimREC's format.

    Args:
        path: the JSON file.
        content: of it, see :func:`is_simrec_json`.
        name: ``refcoco``, ``refcoco+``, ``refcocog``, ``referit``, ``flickr``, ``vg`` or ``merge``: the rule for image
            names.
        image_root, mask_root: folders; without ``mask_root`` rows have no masks.

    Raises:
        SourceError: no ``image_root``.
    """
    if image_root is None:
        raise SourceError(
            f"{path} does not tell where its images are: give image_path[{name!r}] (--images of `rec prepare`)"
        )
    masks = Path(mask_root) if mask_root and Path(mask_root).is_dir() else None

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        items = enumerate(content[split])
        for _, group in itertools.groupby(items, key=lambda pair: _object_of(pair[1], pair[0], split)):
            numbers, same = zip(*group, strict=True)
            place = f"{split}-{numbers[0]}"
            yield attempt(_row, same, place, name, Path(image_root), masks, where=f"item {place}")

    options = {"kind": "simrec_json", "mask_root": str(masks or "")}
    return Source(name, tuple(content), read, (path,), image_root, options, (str(masks),) if masks else ())


def _object_of(item: dict[str, Any], number: int, split: str) -> Any:
    """Equal for neighbouring evaluation items that are sentences of one object."""
    if split == "train" or not isinstance(item, dict) or is_missing(item.get("mask_id")):
        return number
    return shown(item.get("iid")), shown(item["mask_id"]), shown(item.get("bbox"))


def _row(items: list[dict[str, Any]], place: str, name: str, root: Path, masks: Path | None) -> dict[str, Any]:
    item = items[0]
    refer = name in _FROM_REFER and not is_missing(item.get("mask_id"))
    file, image_id, source = _image_of(item, name)
    mask_file = str(masks / f"{item['mask_id']}.npy") if masks and refer else None
    return {
        "image": str(root / file),
        "image_id": image_id,
        "ref_id": item["mask_id"] if refer else place,
        "ann_id": None,
        "bbox": item["bbox"],
        "mask_picture": mask_file if mask_file and os.path.isfile(mask_file) else None,
        "sentences": [sentence for item in items for sentence in _sentences(item["refs"])],
        "category": item.get("cat_id"),
        "source": source,
    }


def _sentences(refs: object) -> list[Any]:
    return refs if isinstance(refs, list) else [refs]


def _image_of(item: dict[str, Any], name: str) -> tuple[str, Any, str]:
    """File below the image folder, image id and source, by the data set's rule."""
    iid = item["iid"]
    if is_missing(iid):
        raise BadRecord("no id", f"iid is {shown(iid)}; expected the image's number or file")
    if name in ("refcoco", "refcoco+", "refcocog"):
        return _COCO_NAME.format(int(iid)), iid, name
    if name in ("referit", "refclef"):
        return f"{int(iid)}.jpg", iid, name
    if name == "vg" and not is_missing(item.get("url")):
        file = "/".join(item["url"].split("/")[-2:]) if "://" in item["url"] else item["url"]
        return file, iid, name
    if not is_missing(item.get("data_source")):
        source = str(item["data_source"])
        number = str(iid).partition(".")[0]
        file = _COCO_NAME.format(int(number)) if source == "coco" else str(iid)
        return f"{source}/{file}", number if source == "coco" else iid, source.lower()
    return str(iid) if "." in str(iid) else f"{iid}.jpg", iid, name
