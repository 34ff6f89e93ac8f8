"""Flickr30k Entities, as its publisher gives it.

Format (https://github.com/BryanPlummer/flickr30k_entities): ``Sentences/<image>.txt``, five captions with phrases as
``[/EN#<entity>/<type> words]``; ``Annotations/<image>.xml``, boxes with the entities they show; ``train.txt``,
``val.txt``, ``test.txt`` list image numbers. An object here is an entity of an image, its sentences are the phrases
that name it, its box encloses all boxes of the entity (the "merged boxes" protocol), or with ``boxes="separate"`` its
boxes are kept apart. Entities without a box are left out: most are scenes and things not visible as such, not absent.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from rec.data.schema import BadRecord, attempt, shown
from rec.data.sources import Source, SourceError, as_text, open_annotations
from rec.errors import UntrustedError
from rec.trust import MAX_ANNOTATIONS, read_bytes, read_text

# Bounded, because every "[/EN#" of a broken file would be looked at to the file's end.
_PHRASE = re.compile(r"\[/EN#(\d{1,20})/(\S{1,100}) ([^\]]{0,1000})\]")
_MAX_FILE = 1 << 18  # bytes of the captions, or of the boxes, of one image; the published ones have at most 21,000


def is_flickr30k(path: Path) -> bool:
    """Whether a folder has the sub-folders of Flickr30k Entities."""
    return (path / "Sentences").is_dir() and (path / "Annotations").is_dir()


def open_flickr30k(path: Path, name: str, image_root: str | None, boxes: str = "merged") -> Source:
    """Opens a Flickr30k Entities folder.

    Args:
        path: the folder with ``Sentences``, ``Annotations`` and the split lists.
        name: of the data set, for the rows' ``source``.
        image_root: folder of ``<image>.jpg``.
        boxes: ``"merged"`` as published: one box around all boxes of an entity; ``"separate"`` keeps them apart.

    Raises:
        SourceError: no split list, no ``image_root``, or another word for ``boxes``.
    """
    if boxes not in ("merged", "separate"):
        raise SourceError(f"ann_path of {name!r}: boxes is {boxes!r}; expected 'merged' or 'separate'")
    lists = {split: path / f"{split}.txt" for split in ("train", "val", "test") if (path / f"{split}.txt").is_file()}
    if not lists:
        raise SourceError(f"{path} has none of train.txt, val.txt, test.txt, the lists of images of each split")
    if image_root is None:
        raise SourceError(
            f"{path} does not tell where its images are: give image_path[{name!r}] (--images of `rec prepare`)"
        )

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        with as_text(open_annotations(lists[split], MAX_ANNOTATIONS)) as file:
            images = file.read().split()
        for image in images:
            rows = attempt(_rows, path, image, Path(image_root), name, boxes, where=f"image {image}")
            yield from [rows] if isinstance(rows, BadRecord) else rows

    options = {"kind": "flickr30k"} | ({"boxes": boxes} if boxes != "merged" else {})
    return Source(name, tuple(lists), read, tuple(lists.values()), image_root, options)


def _rows(path: Path, image: str, root: Path, name: str, boxes: str) -> list[dict[str, Any]]:
    if not re.fullmatch(r"\w[\w.-]*", image):
        raise BadRecord("broken annotation", f"{shown(image)} is not a name of an image; expected a number")
    try:
        entities, size = _boxes(path / "Annotations" / f"{image}.xml")
        captions = read_text(path / "Sentences" / f"{image}.txt", "captions", _MAX_FILE)
    except (OSError, ElementTree.ParseError, ValueError, UntrustedError) as error:
        raise BadRecord("broken annotation", str(error)) from error
    phrases: dict[str, list[str]] = {}
    kinds = {}
    for entity, kind, words in _PHRASE.findall(captions):
        phrases.setdefault(entity, []).append(words)
        kinds[entity] = kind
    rows = []
    for entity, sentences in phrases.items():
        if entity in entities:
            corners = np.array(entities[entity], np.float64)
            merged = np.concatenate([corners[:, :2].min(0), corners[:, 2:].max(0)]).tolist()
            rows.append(
                {
                    "image": str(root / f"{image}.jpg"),
                    "image_id": image,
                    "ref_id": f"{image}-{entity}",
                    **size,
                    **({"boxes": corners.tolist()} if boxes == "separate" else {"bbox": merged}),
                    "bbox_format": "xyxy",
                    "sentences": sentences,
                    "category": kinds[entity].split("/")[0],
                    "source": name,
                }
            )
    return rows


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds elements, but no entities, which a document type could define to be very long."""

    def doctype(self, *_: Any) -> None:
        raise ValueError("it has a document type, which annotations have no use for")


def _boxes(file: Path) -> tuple[dict[str, list[list[float]]], dict[str, int]]:
    """Entity to its boxes, xyxy, counted from 0 (the files count from 1); and the image's size, as far as it is said, which
    a copy of the image at another size does not have: its boxes would lie elsewhere."""
    found: dict[str, list[list[float]]] = {}
    root = ElementTree.XML(read_bytes(file, "boxes", _MAX_FILE), ElementTree.XMLParser(target=_NoDoctype()))
    sides = {key: root.findtext(f"size/{key}") for key in ("width", "height")}
    for item in root.iter("object"):
        box = item.find("bndbox")
        if box is not None:
            corners = [float(box.findtext(key) or "nan") - 1 for key in ("xmin", "ymin", "xmax", "ymax")]
            for entity in item.iter("name"):
                if entity.text:
                    found.setdefault(entity.text, []).append(corners)
    return found, {key: int(side) for key, side in sides.items() if side}
