"""Visual Genome's region descriptions, as its publisher gives them.

Format (https://homes.cs.washington.edu/~ranjay/visualgenome/api.html): ``region_descriptions.json`` = ``[{id, regions:
[{region_id, image_id, x, y, width, height, phrase}]}]``, beside it ``image_data.json`` = ``[{image_id, url, width,
height, coco_id}]``. Half of the images are COCO's: those get the image id ``coco/<COCO id>``, so that leaks are found.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rec.data.schema import BadRecord
from rec.data.sources import Source, SourceError, load_json

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
        try:
            images = {entry["image_id"]: entry for entry in load_json(data_file)}
        except (KeyError, TypeError):
            raise SourceError(f"{data_file} is not a list of images with image_id") from None
        for entry in iterate_json_array(regions):
            for region in entry.get("regions", ()):
                yield _row(region, entry, images, root, name)

    return Source(name, ("train",), read, (regions, data_file), str(root), {"kind": "visual_genome"})


def _row(region: Any, entry: Any, images: Any, root: Path, name: str) -> dict[str, Any] | BadRecord:
    image_id = region.get("image_id", entry.get("id"))
    image = images.get(image_id)
    if image is None:
        return BadRecord("image id without image", f"region {region.get('region_id')}: image {image_id} is not listed")
    try:
        coco = image.get("coco_id")
        return {
            "image": str(root / "/".join(image["url"].split("/")[-2:])),
            "image_id": f"coco/{coco}" if coco is not None else image_id,
            "ref_id": region["region_id"],
            "bbox": [region[key] for key in ("x", "y", "width", "height")],
            "sentences": [region["phrase"]],
            "source": name,
        }
    except (KeyError, TypeError, AttributeError) as error:
        return BadRecord("incomplete record", f"region {region.get('region_id')}: {error!r}")


def iterate_json_array(path: Path, block: int = 1 << 20) -> Iterator[Any]:
    """The elements of a JSON array, one at a time: the file of Visual Genome is 0.7 GB, several GB as Python objects.

    Raises:
        SourceError: no array, broken or cut short; says after which element.
    """
    decoder, text, count = json.JSONDecoder(), "", 0
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(block).lstrip()
            if not text.startswith("["):
                raise SourceError(f"{path} does not begin with a JSON array")
            text = text[1:]
            while True:
                text = text.lstrip().removeprefix(",").lstrip() if count else text.lstrip()
                if text.startswith("]"):
                    return
                try:
                    element, end = decoder.raw_decode(text)
                    if not text[end:].lstrip().startswith((",", "]")):
                        raise json.JSONDecodeError("the element may go on", text, end)
                except json.JSONDecodeError:
                    more = file.read(block)
                    if not more:
                        raise SourceError(
                            f"{path} is cut short or broken after element {count}: get it again"
                        ) from None
                    text += more
                    continue
                yield element
                count, text = count + 1, text[end:]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {path}: {error}") from None
