"""Visual Genome's region descriptions, as its publisher gives them.

Format (https://homes.cs.washington.edu/~ranjay/visualgenome/api.html): ``region_descriptions.json`` = ``[{id, regions:
[{region_id, image_id, x, y, width, height, phrase}]}]``, beside it ``image_data.json`` = ``[{image_id, url, width,
height, coco_id}]``. Half of the images are COCO's: those get the image id ``coco/<COCO id>``, so that leaks are found.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rec.data.schema import BadRecord, attempt, is_missing, shown
from rec.data.sources import (
    DECODER,
    ById,
    Source,
    SourceError,
    as_text,
    given,
    load_json,
    open_annotations,
    shallow,
)
from rec.trust import MAX_LINE

_SPACE = re.compile(r"\s*")
REGIONS_FILE = "region_descriptions.json"


def open_visual_genome(path: Path, name: str, image_root: str | None) -> Source:
    """Opens ``region_descriptions.json``; there is one split, ``train``.

    Args:
        path: the file, or its folder; ``image_data.json`` is read from there too.
        name: of the data set, for the rows' ``source``.
        image_root: folder with ``VG_100K`` and ``VG_100K_2``; by default the file's.

    Raises:
        SourceError: a file is missing, broken or of another layout.
    """
    regions = path / REGIONS_FILE if path.is_dir() else path
    data_file = regions.with_name("image_data.json")
    root = Path(image_root) if image_root else regions.parent

    def read(_: str) -> Iterator[dict[str, Any] | BadRecord]:
        images = ById(load_json(data_file), "image_id", data_file.name)
        for number, entry in enumerate(iterate_json_array(regions)):
            where = f"{regions.name}, image number {number}"
            found = attempt(_regions, entry, where=where)
            if isinstance(found, BadRecord):
                yield found
                continue
            for region in found:
                yield attempt(_row, region, entry, images, root, name, where=where)

    return Source(name, ("train",), read, (regions, data_file), str(root), {"kind": "visual_genome"})


def _regions(entry: dict[str, Any]) -> list[Any]:
    regions = entry.get("regions") if isinstance(entry, dict) else None
    if not isinstance(regions, list):
        raise BadRecord("broken record", f"{shown(entry)} is not an object with a list of regions")
    return regions


def _row(region: dict[str, Any], entry: dict[str, Any], images: ById, root: Path, name: str) -> dict[str, Any]:
    image_id = given(region.get("image_id"), entry.get("id"))
    image = images.find(image_id)
    if image is None:
        raise BadRecord(
            "image id without image", f"region {shown(region.get('region_id'))}: image {shown(image_id)} is not listed"
        )
    coco = image.get("coco_id")
    return {
        "image": str(root / "/".join(image["url"].split("/")[-2:])),
        "image_id": image_id if is_missing(coco) else f"coco/{coco}",
        "ref_id": region["region_id"],
        "bbox": [region[key] for key in ("x", "y", "width", "height")],
        "sentences": [region["phrase"]],
        "source": name,
    }


def iterate_json_array(path: Path, block: int = 1 << 20) -> Iterator[Any]:
    """The elements of a JSON array, one at a time: the file of Visual Genome is 0.7 GB, several GB as Python objects.

    Raises:
        SourceError: no array, broken or cut short, or an element of more than :data:`rec.trust.MAX_LINE` characters; says
            after which element.
    """
    with as_text(open_annotations(path)) as file:
        text = file.read(block)
        place, count = _next(text, 0), 0
        if not text.startswith("[", place):
            raise SourceError(f"{path} does not begin with a JSON array")
        place += 1
        while not text.startswith("]", place := _next(text, place)):
            try:
                element, end = DECODER.raw_decode(text, place)
                end = _next(text, end)
                if not text.startswith((",", "]"), end):
                    raise json.JSONDecodeError("the element may go on", text, end)
            except (RecursionError, json.JSONDecodeError) as error:
                rest = text[place:]
                shorter = shallow(rest) if isinstance(error, RecursionError) else rest
                text, place = shorter if shorter != rest else _longer(rest, file, block), 0
                if not text:
                    raise SourceError(f"{path} is cut short or broken after element {count}: get it again") from None
                continue
            yield element
            count += 1
            place = end + 1 if text.startswith(",", end) else end


def _next(text: str, place: int) -> int:
    """The next place that is not white space."""
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _longer(text: str, file: TextIO, block: int) -> str:
    """``text`` and at least as much again of the file, so that one long element is not parsed a thousand times; "" at
    the end of the file, and for an element that is too long to be one."""
    more = file.read(max(block, len(text)))
    return text + more if more and len(text) < MAX_LINE else ""
