"""Images kept at training size: each image once, however many phrases it has.

``letterboxed``: ``images/….jpg``, resized as the letterbox does but not padded, quality 95. ``raw``: one file
``images.u8`` of uint8 ``(N, 3, S, S)`` letterboxed squares, memory-mapped; an image is named ``images.u8#<number>``.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from tqdm import tqdm

from rec.boxes import letterbox_geometry
from rec.cores import usable_cores
from rec.data.cleaning import Report, ids_of
from rec.data.images import ImageError, letterbox, picture_key, picture_keys, read_image
from rec.data.schema import BadRecord
from rec.data.sources import load_json
from rec.errors import UntrustedError
from rec.files import write_json
from rec.trust import regular_file

if TYPE_CHECKING:
    import datasets

RAW_FILE = "images.u8"
JPEG_QUALITY = 95
_GROUP = 256  # images between two notes of progress


def store_images(
    tables: Mapping[str, "datasets.Dataset"],
    root: str,
    folder: Path,
    kind: str,
    size: int,
    on_bad_record: str,
    progress: bool,
) -> tuple[dict[str, str], dict[str, str]]:
    """Writes the images of all tables; continues where an interrupted run stopped.

    Args:
        tables: split to table with the original images.
        root: folder that the tables' relative image paths start from.
        folder: of the prepared data set.
        kind: ``letterboxed`` or ``raw``.
        size: side of the square in pixels.
        on_bad_record: what happens at an image that turns out to be broken now that all of it is decoded: ``"raise"``,
            or ``"skip"`` to go on.
        progress: show a bar on a terminal.

    Returns:
        :func:`~rec.data.images.picture_key` to the stored image's name relative to ``folder``; and of the images that
        were skipped to the reason.

    Raises:
        BadRecord: an image that cannot be decoded, with ``on_bad_record="raise"``.
    """
    first: dict[str, tuple[str, int]] = {}
    for split, table in tables.items():
        for number, key in enumerate(picture_keys(table)):
            first.setdefault(key, (split, number))
    write = _jpeg_writer(folder) if kind == "letterboxed" else _raw_writer(folder, len(first), size)
    marker = folder / ".partial" / "stored.json"
    noted: dict[str, Any] = load_json(marker) if marker.exists() else {"done": 0, "broken": {}}
    broken: dict[str, str] = noted["broken"]

    def store(number: int, key: str) -> None:
        split, place = first[key]
        row = tables[split][place]
        try:
            pixels = read_image(row["image"], root)
        except ImageError as error:
            if on_bad_record == "raise":
                remedy = "Mend it, or leave such records out (--on-bad-record skip)"
                raise BadRecord("unreadable image", f"{ids_of(row)}: {error}. {remedy}") from error
            broken[key] = str(error)
            return
        write(number, pixels, letterbox_geometry(row["height"], row["width"], size), size)

    bar = tqdm(total=len(first), desc="images", unit="", initial=noted["done"], disable=None if progress else True)
    with ThreadPoolExecutor(usable_cores()) as pool:  # OpenCV works outside the interpreter's lock
        waiting = itertools.islice(enumerate(first), noted["done"], None)
        while group := list(itertools.islice(waiting, _GROUP)):
            for _ in pool.map(store, *zip(*group, strict=True)):
                bar.update()
            noted["done"] += len(group)
            write_json(marker, noted)
    return {key: _name(kind, number) for number, key in enumerate(first) if key not in broken}, broken


def stored_rows(
    table: "datasets.Dataset", names: Mapping[str, str], broken: Mapping[str, str], report: Report
) -> Iterator[dict[str, Any]]:
    """The rows of a table with their images replaced by the stored ones; those of broken images are counted as skipped."""
    for row in table:
        key = picture_key(row["image"])
        if key in names:
            yield row | {"image": {"bytes": None, "path": names[key]}}
        else:
            report.drop(row, BadRecord("unreadable image", broken[key]))


def _name(kind: str, number: int) -> str:
    return f"images/{number // 1000:04d}/{number:07d}.jpg" if kind == "letterboxed" else f"{RAW_FILE}#{number}"


def _jpeg_writer(folder: Path) -> Any:
    def write(number: int, pixels: np.ndarray, geometry: np.ndarray, size: int) -> None:
        nh, nw = int(geometry[2]), int(geometry[3])
        small = cv2.cvtColor(cv2.resize(pixels, (nw, nh)), cv2.COLOR_RGB2BGR)
        file = folder / _name("letterboxed", number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())

    return write


def _raw_writer(folder: Path, count: int, size: int) -> Any:
    file = folder / RAW_FILE
    shape = (count, 3, size, size)
    if not (file.exists() and file.stat().st_size == np.prod(shape)):
        reserve(file, int(np.prod(shape)))
    squares = np.memmap(file, np.uint8, "r+", shape=shape)

    def write(number: int, pixels: np.ndarray, geometry: np.ndarray, size: int) -> None:
        squares[number] = letterbox(pixels, geometry, size)

    return write


def reserve(file: Path, size: int) -> None:
    """A file of ``size`` zero bytes that has its space: on a full disk an error now, and no SIGBUS in the middle of writing.

    Raises:
        OSError: there is no space; names the file, which is gone.
    """
    with open(file, "wb") as stream:
        try:
            stream.truncate(size)
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)
        except OSError as error:
            file.unlink()
            error.filename = str(file)
            raise


def is_raw(path: str | None) -> bool:
    """Whether an image's name is of the raw store."""
    return path is not None and f"{RAW_FILE}#" in path


def read_raw(path: str, size: int) -> np.ndarray:
    """The stored square ``<folder>/images.u8#<number>`` of side ``size``: uint8 ``(3, size, size)``, a copy.

    Raises:
        ImageError: there is no such store, or no such square in it.
    """
    file, _, number = path.rpartition("#")
    try:
        return np.array(_open_raw(file, size)[int(number) if number.isdecimal() else 1 << 62])
    except (OSError, ValueError, IndexError, UntrustedError) as error:
        raise ImageError(f"{path} is not among the stored images: {error}") from None


@functools.lru_cache(maxsize=16)
def _open_raw(file: str, size: int) -> np.ndarray:
    squares = np.memmap(regular_file(file, "stored images"), np.uint8, "r")
    return squares.reshape(-1, 3, size, size)
