"""COCO photographs, one by one: those that annotations name (3 GB for the RefCOCO family) in place of the whole archive (13 GB)."""

import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rec.data.images import ImageError, image_size
from rec.data.schema import BadRecord
from rec.data.sources import Source, SourceError
from rec.files import whole_file

CONNECTIONS, ATTEMPTS, SECONDS = 8, 5, 30.0  # at once; for each file; without a byte
GIVE_UP = 16  # so many in a row that cannot be had: the network or the server is gone
_AT_ONCE = 256  # files in memory, of some 160 KB each
_LARGEST = 32 << 20  # bytes of one
# Names that may be asked for and written: nothing in them leads anywhere.
_NAME = re.compile(r"COCO_(?P<part>(train|val|test)20\d\d)_\d{12}\.jpg")


def fetch_images(
    source: Source, splits: Iterable[str] | None, address: str, delay: float = 1.0, progress: bool = True
) -> int:
    """Downloads the COCO images that a source's records name and ``source.image_root`` lacks.

    A file appears under its name once it is complete and verified: it is a whole JPEG, and as large as the annotations say. So
    an interrupted call is continued by the next, which asks for the missing ones alone.

    Args:
        source: whose images are called ``COCO_train2014_000000000009.jpg`` and the like; others are not asked for.
        splits: of the source; None for all.
        address: of the server, such as ``http://images.cocodataset.org``; a file is at ``<address>/train2014/<name>``.
        delay: seconds before the second attempt; doubled before each further one.
        progress: show a bar on a terminal.

    Returns:
        How many were downloaded.

    Raises:
        SourceError: ``address`` is none of a server, no image has such a name, or some could not be had; names the first, and
            says why.
    """
    if not address.startswith(("http://", "https://")):
        raise SourceError(f"images are fetched from http or https addresses, got {address!r}")
    root = Path(source.image_root)
    sizes = dict(_named(source, splits))
    if not sizes:
        raise SourceError(
            f"{source.name} names no COCO image (COCO_train2014_….jpg), so there is nothing to fetch: get its images from their "
            "publisher"
        )
    missing = [name for name in sizes if not (root / name).is_file()]
    root.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}

    def get(name: str) -> bytes | str:
        return _get(f"{address.rstrip('/')}/{_part(name)}/{name}", sizes[name], delay)

    # Files are written here and not in the threads, which only wait for the network.
    hidden, in_a_row = (None if progress else True), 0
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        with tqdm(total=len(missing), unit=" images", disable=hidden) as bar:
            for start in range(0, len(missing), _AT_ONCE):
                some = missing[start : start + _AT_ONCE]
                for name, content in zip(some, pool.map(get, some), strict=True):
                    bar.update()
                    if isinstance(content, bytes):
                        with whole_file(root / name) as temporary:
                            temporary.write_bytes(content)
                        in_a_row = 0
                        continue
                    failed[name], in_a_row = content, in_a_row + 1
                    if in_a_row == GIVE_UP:
                        raise SourceError(_told(failed, root))
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise SourceError(_told(failed, root))
    return len(missing)


def _told(failed: dict[str, str], root: Path) -> str:
    first = next(iter(failed))
    return (
        f"{len(failed)} images could not be fetched, the first {first}: {failed[first]}. What came is kept in {root}: give the "
        "same command again for the rest"
    )


def _named(source: Source, splits: Iterable[str] | None) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """COCO names of the images of all records, with width and height where they are said."""
    for split in splits or source.splits:
        for row in source.read(split):
            if isinstance(row, BadRecord):
                continue
            name = os.path.basename(str(row.get("image")))
            if _NAME.fullmatch(name) and str(row["image"]) == str(Path(source.image_root) / name):
                yield name, (row.get("width"), row.get("height"))


def _part(name: str) -> str:
    match = _NAME.fullmatch(name)
    return match["part"] if match else ""


def _get(address: str, size: tuple[Any, Any], delay: float) -> bytes | str:
    """The image at an address, verified; or why it cannot be had."""
    fault = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(delay * 2 ** (attempt - 1))
        try:
            with urllib.request.urlopen(address, timeout=SECONDS) as response:
                content = response.read(_LARGEST + 1)
                expected = response.headers.get("Content-Length")
            if len(content) > _LARGEST or (expected is not None and len(content) != int(expected)):
                raise ImageError(f"{len(content):,} of {expected} bytes came; at most {_LARGEST:,} are taken")
            if not content.startswith(b"\xff\xd8"):
                raise ImageError(f"{content[:20]!r}… is not a JPEG")
            found = image_size(content, address)
            if None not in size and found != size:
                raise ImageError(f"it is {found[0]}x{found[1]}, the annotations say {size[0]}x{size[1]}")
            return content
        except urllib.error.HTTPError as error:
            fault = f"{address} answers {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, HTTPException, ImageError, ValueError) as error:
            fault = f"{address}: {error}"
    return fault
