"""From raw rows to complete ones: what readers leave open is looked up in the image and mask files."""

import functools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rec import boxes, trust
from rec.conventions import Convention, four_numbers
from rec.data import masks
from rec.data.cleaning import ids_of
from rec.data.images import decode_image, image_size, read_bytes
from rec.data.schema import BadRecord, are_fractions, attempt, faults_as, floats_of, image_of, misfit, shown
from rec.files import MAX_PATH, endings

_USED = ("segmentation", "segmentations", "mask_picture", "coordinates")


def complete_rows(
    rows: Iterable[Any],
    root: str,
    with_masks: bool,
    embed: bool,
    image_folders: Sequence[str] | None = None,
    mask_folders: Sequence[str] | None = None,
    decode: bool = True,
) -> Iterator[dict[str, Any] | BadRecord]:
    """Fills in image size, mask and bytes; makes image paths relative to ``root``, so that images can move, and boxes that
    are written in other ``coordinates`` pixels.

    Rows of one image share the look at its file; where the rows hold the files, neighbouring ones do.

    A row that names nothing gets an empty mask where masks are wanted.

    Args:
        rows: raw rows, see :mod:`rec.data.sources`; a :class:`~rec.data.schema.BadRecord` passes through.
        root: folder of the images, or "".
        with_masks: encode masks; without, they become None.
        embed: put the encoded image files into the rows.
        image_folders, mask_folders: files must lie below one of these, links followed; None: anywhere.
        decode: decode every image, which alone tells that it can be trained on; where that is done later, headers will do.

    Yields:
        Rows of the schema's columns, not checked yet, or a :class:`~rec.data.schema.BadRecord` where the image is
        missing, unreadable, elsewhere or of another size than the record says, or the mask cannot be encoded.
    """
    found: dict[str, tuple[tuple[int, int], bytes | None]] = {}  # of image files, by their path
    base = os.path.abspath(root)

    def look(image: dict[str, Any]) -> tuple[tuple[int, int], bytes | None]:
        path = image["path"]
        if image["bytes"] or path not in found:
            seen = _look(image, root, embed, image_folders, decode)
            if image["bytes"]:
                return seen
            if embed:
                found.clear()  # it holds the file
            found[path] = seen
        return found[path]

    def complete(row: dict[str, Any]) -> dict[str, Any]:
        image = image_of(row)
        (width, height), data = look(image)
        said = [actual if row.get(key) is None else row[key] for key, actual in (("width", width), ("height", height))]
        if said != [width, height]:
            raise BadRecord(
                "wrong image size",
                f"the record says {shown(said[0])}x{shown(said[1])}, {image['path']} is {width}x{height} with its EXIF orientation "
                "applied",
            )
        path = image["path"]
        if data is not None:
            path = path and os.path.basename(path)
        elif root and (above := [folder for folder in (root, base) if Path(path).is_relative_to(folder)]):
            path = str(Path(path).relative_to(above[0]))
        else:  # nothing else would tell later where the name starts
            path = os.path.abspath(path)
        mask = _mask(row, root, width, height, mask_folders) if with_masks else None
        done = {"width": width, "height": height, "image": {"path": path, "bytes": data}, "mask": mask}
        return {key: row[key] for key in row if key not in _USED} | _in_pixels(row, width, height) | done

    for row in rows:
        yield row if isinstance(row, BadRecord) else attempt(complete, row, where=ids_of(row))


def _look(
    image: dict[str, Any], root: str, embed: bool, folders: Sequence[str] | None, decode: bool
) -> tuple[tuple[int, int], bytes | None]:
    path, data = image["path"], image["bytes"]
    if not (path or data):
        raise BadRecord("no image", "the record names no image file and holds no image bytes")
    if data is None:
        _check_there(path, root, "missing image")
    with faults_as("unreadable image"):
        if data is None:
            _check_place(path, folders, "image")
            data = read_bytes(path) if embed else None
        if not decode:
            return image_size(data or path, path), data
        height, width = decode_image(data or path, path).shape[:2]
        return (width, height), data


def _in_pixels(row: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """Boxes and format of a row that says what its coordinates are; what is not a box stays for the check of rows to refuse.

    Raises:
        BadRecord: a box that is none of the image, shown as it was given.
    """
    if row.get("coordinates") is None:
        return {}
    declared = Convention(row["coordinates"], row.get("bbox_format") or "xywh")

    def corners(four: list[float], box_format: str) -> list[float]:
        in_format = Convention(declared.coordinates, box_format)
        return in_format.to_pixels(np.array([four]), np.array([width]), np.array([height]))[0].tolist()

    def converted(box: object, name: str) -> Any:
        four = four_numbers(floats_of(box)) if isinstance(box, list) else None
        if four is None:
            return box
        found = corners(four, declared.box_format)
        fault = misfit(found, "xyxy", width, height)
        if fault is None and not (are_fractions(found) and max(width, height) > 1):
            return found
        others = [f for f in boxes.GUESSED if misfit(corners(four, f), "xyxy", width, height) is None]
        if fault is None:
            fault, others = ("box in fractions", "lies within one pixel"), []
            others += ["fractions of the image, --coordinates 0-1"] * (declared.coordinates != "0-1")
        if not others and min(four[2:]) > 1 and misfit(four, declared.box_format, width, height) is None:
            others = ["pixels, without --coordinates"]
        given = f"{name} {shown(box)} ({declared.coordinates}, {declared.box_format})"
        pixels = [round(value, 2) for value in found]
        hint = f" (it would fit as {' or '.join(others)})" if others else ""
        raise BadRecord(fault[0], f"{given} is {pixels} in pixels (xyxy), which {fault[1]}{hint}")

    several = row.get("boxes")
    found = {"bbox": converted(row.get("bbox"), "bbox"), "bbox_format": "xyxy"}
    if not isinstance(several, list):
        return found
    return found | {"boxes": [converted(box, f"boxes[{number}]") for number, box in enumerate(several)]}


def _check_there(path: str, root: str, reason: str) -> None:
    """Refuses a file that is not there.

    Raises:
        BadRecord: says what to do, where something like it is.
    """
    if not os.path.exists(path):
        raise BadRecord(reason, f"there is no file {path}{_nearby(path, root)}")


def _nearby(path: str, root: str) -> str:
    """What to do about a file that is not there, where something like it is, for example below the image folder."""
    if len(path) > MAX_PATH:  # its thousands of parts would each be looked for
        return ""
    if os.path.islink(path):
        return f": it is a link to {os.readlink(path)}, which is not there"
    if address := re.search(r"https?:/.*", path):
        return f": {address[0].replace(':/', '://', 1)} is an address; download the images, and name their files"
    if "\\" in path and os.path.exists(path.replace("\\", "/")):
        return f", but there is {path.replace(chr(92), '/')}: write / between folders in place of \\"
    parts = Path(path).parts
    for number in range(len(parts) - 1):
        once = Path(*parts[:number], *parts[number + 1 :])
        if parts[number] == parts[number + 1] and once.exists():
            return (
                f", but there is {once}: the records' names begin with {parts[number]}/ already, so the image folder is the one "
                "above it (--images, image_path)"
            )
    if root and (not Path(path).is_relative_to(root) or re.search(r"\\|[A-Za-z]:/", path)):  # whole, of any machine
        for name in endings(path):
            if os.path.isfile(below := os.path.join(root, name)):
                return f", but there is {below}: name files from the image folder on, such as {name}"
    folder = Path(path).parent
    if not folder.is_dir():
        return f", nor a folder {folder}: name the folder that the records' names start from (--images, image_path)"
    if other := _names_in(os.path.abspath(folder), os.stat(folder).st_mtime_ns).get(_plain(Path(path).name)):
        return f", but there is {other}: capitals, and how accents are stored, must be the same, blanks too"
    return ""


@functools.lru_cache(maxsize=16)
def _names_in(folder: str, _changed: int) -> dict[str, str]:
    return {_plain(name): name for name in os.listdir(folder)}


def _plain(name: str) -> str:
    """What names have in common that Windows, macOS or a reader takes for one."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def _mask(
    row: dict[str, Any], root: str, width: int, height: int, folders: Sequence[str] | None
) -> dict[str, Any] | None:
    picture, segmentation, several = (row.get(key) for key in ("mask_picture", "segmentation", "segmentations"))
    with faults_as("bad mask"):
        if several is not None:
            return masks.union([masks.from_coco(one, height, width) for one in several], height, width)
        if _is_dense(segmentation, height, width):
            return masks.encode(np.array(segmentation))
        if segmentation is not None:
            return masks.from_coco(segmentation, height, width)
        if picture is None:
            mask = row.get("mask")
            return masks.union([], height, width) if mask is None and row.get("boxes") == [] else mask
        pictures = picture if isinstance(picture, list) else [picture]
        for path in pictures:
            if not isinstance(path, bytes):
                _check_there(path, root, "bad mask")
                _check_place(path, folders, "mask")
        read = [masks.encode(masks.read(one, height, width)) for one in pictures]
        return read[0] if len(read) == 1 else masks.union(read, height, width)


def _is_dense(segmentation: object, height: int, width: int) -> bool:
    """Whether it is the rows of the image's pixels rather than polygons."""
    rows = segmentation if isinstance(segmentation, list) else []
    return len(rows) == height and all(isinstance(row, list) and len(row) == width for row in rows)


def _check_place(path: str, folders: Sequence[str] | None, what: str) -> None:
    """A record of a stranger's must not have a file of this machine copied into a table that is passed on.

    Raises:
        BadRecord: ``path`` leads out of ``folders``.
    """
    if folders is not None and not trust.is_below(path, folders):
        raise BadRecord(
            f"{what} outside the folders",
            f"{path} is not below {' or '.join(folders) or 'any folder that was named'}, so it is not copied into the "
            f"table; name its folder, or allow such files (--allow-paths, dataset.allow_paths=true)",
        )
