"""What a table holds, as digests: taken at preparation, compared again where a file may have changed since.

``prepared.json`` has for each split ``content`` (a digest of every row, images by the digest of their file) and ``files``
(the digest of each data file). ``image_digests-<split>.arrow`` beside it has ``name, bytes, mtime_ns, digest`` of each image
file. Opening a table compares sizes and times alone with those of the last look, which the cache of the ``datasets``
library keeps; only a file that differs is read. So a copy in a new place is read once.
"""

import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from tqdm import tqdm

from rec.data.schema import FEATURES, as_single, boxes_of
from rec.data.sources import SourceError, find_split
from rec.data.store import is_raw
from rec.files import digest, whole_file, write_json

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

logger = logging.getLogger(__name__)

_THREADS = 16  # disks and networks answer several at once
_AT_ONCE = 50_000  # image files looked at before what was found is kept
# A file written this shortly before it is read could be written again at what looks like the same time.
_SETTLED_NS = 2_000_000_000

Look = tuple[int, int, str]  # bytes, mtime_ns, digest


def fingerprint(table: "datasets.Dataset") -> str:
    """A digest of a table's content, images and masks left out: equal for copies on other machines and in other stores."""
    state = sha256()
    columns = ["image_id", "ref_id", "width", "height", "bbox", "sentences", "source", "boxes", "weight"]
    columns = [name for name in columns if name in table.column_names]
    # By whole batches of Arrow: a fifth of the time of the library's rows.
    for batch in table.data.to_batches(max_chunksize=1000):
        for row in batch.select(columns).to_pylist():
            state.update(repr(tuple(as_single(row).values())).encode())
    return state.hexdigest()[:24]


def describe(
    tables: Mapping[str, "datasets.Dataset"],
    files: Mapping[str, Sequence[Path]],
    root: str,
    folder: Path,
    progress: bool,
) -> dict[str, dict[str, Any]]:
    """Digests of tables that have just been written; writes ``image_digests-<split>.arrow``.

    Args:
        tables: split to table, as prepared.
        files: split to its data files, below ``folder``.
        root: folder that the tables' relative image paths start from.
        folder: of the prepared data set.
        progress: show a bar on a terminal.

    Returns:
        Split to ``{"content": …, "files": {name: digest}, "shared": …, "repeated": …, "doubled": …}``. The last three are numbers:
        of its images that the training split has too, by their content; of rows that say of an image what an earlier row says;
        of rows that list a box twice.
    """
    names = {split: image_names(table) for split, table in tables.items()}
    distinct = list(dict.fromkeys(name for each in names.values() for name in each))
    bar = tqdm(total=len(distinct), desc="digests of images", unit="", disable=None if progress else True)
    looks: dict[str, Look] = {}
    with ThreadPoolExecutor(_THREADS) as pool, bar:
        for first in range(0, len(distinct), _AT_ONCE):
            here = distinct[first : first + _AT_ONCE]
            for name, look in zip(here, pool.map(lambda name: _look(os.path.join(root, name)), here), strict=True):
                looks[name] = look
                bar.update()
    entries: dict[str, dict[str, Any]] = {}
    pictures: dict[str, set[str]] = {}
    for split, table in tables.items():
        written = [*files[split]]
        if names[split]:
            written.append(_manifest(folder, split))
            _write_manifest(written[-1], {name: looks[name] for name in names[split]})
        held = file_digests(written)
        content, pictures[split], repeated = _content(table, looks)
        named = {os.path.relpath(path, folder): held[path] for path in written}
        entries[split] = {"content": content, "files": named, "shared": 0} | repeated
    train = find_split("train", tuple(tables))
    for split, entry in entries.items():
        if train is not None and split != train:
            entry["shared"] = len(pictures[split] & pictures[train])
    return entries


def verified(
    folder: Path, split: str, entry: Mapping[str, Any], files: Sequence[Path], rows: "datasets.Dataset"
) -> tuple[str, str]:
    """Fingerprint and content of a prepared split as its files are now.

    Args:
        folder: of the prepared data set.
        split: its name.
        entry: of the split in ``prepared.json``.
        files: the data files that ``rows`` come from.
        rows: the table.

    Returns:
        (fingerprint, content): as recorded, while the files are as recorded; others where rows were edited, with a warning.
        Version 0.1 recorded no digests: there the rows are compared with their fingerprint, once.
    """
    recorded, manifest = entry.get("files"), _manifest(folder, split)
    held = file_digests([*files, *([manifest] if manifest.is_file() else [])])
    found = {os.path.relpath(path, folder): value for path, value in held.items()}
    if found == recorded and isinstance(entry.get("content"), str):
        return entry["fingerprint"], entry["content"]
    content = content_of(held)
    now = remembered(f"rows-{content}.json", {"fingerprint"}, lambda: {"fingerprint": fingerprint(rows)})["fingerprint"]
    if recorded is not None or now != entry["fingerprint"]:
        logger.warning(
            "%s, split %s: its rows are not those that were prepared, they were edited or damaged. A run that began with "
            "those is not continued with these; prepare the data again if that was not meant",
            folder,
            split,
        )
    return now, content


def content_of(held: Mapping[Path, str]) -> str:
    """The content of a table that records none: a digest of its data files, wherever they lie."""
    return "files-" + digest(json.dumps(list(held.values())).encode())


def file_digests(files: Sequence[Path]) -> dict[Path, str]:
    """The digest of each file. Read is only one whose size, time or inode differ from those at the last look."""
    places = [os.path.abspath(path) for path in files]
    kept = cache_place(f"files-{digest(json.dumps(places).encode())}.json")
    try:
        before = {place: tuple(look) for place, look in json.loads(kept.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        before = {}
    found, after = {}, {}
    for path, place in zip(files, places, strict=True):
        status = os.stat(path)
        identity = (status.st_size, status.st_mtime_ns, status.st_ino)
        known = before.get(place, ())
        found[path] = known[3] if known[:3] == identity else digest(path)
        if _settled(status):
            after[place] = (*identity, found[path])
    if after != before:
        _keep(kept, after)
    return found


def image_names(rows: "datasets.Dataset") -> list[str]:
    """The image files that a table names, each once, as its rows name them; none where images are in the table."""
    import pyarrow.compute as pc

    names: dict[str, None] = {}
    for chunk in rows.data.column("image").chunks:
        outside = pc.filter(pc.struct_field(chunk, "path"), pc.is_null(pc.struct_field(chunk, "bytes")))
        names.update(dict.fromkeys(_file_of(name) for name in pc.unique(outside).to_pylist() if name))
    return list(names)


def image_files(folder: Path, split: str, root: str, rows: "datasets.Dataset") -> "ImageFiles | None":
    """The image files of a prepared split, below ``root``; None where its images are in the table."""
    outside = _manifest(folder, split).is_file() or (len(rows) and rows[0]["image"]["bytes"] is None)
    return ImageFiles(folder, split, root) if outside else None


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a prepared split: ``folder`` of the data, ``root`` that relative names start from."""

    folder: Path
    split: str
    root: str

    def changed(self) -> list[tuple[str, str]]:
        """Image files that are not as they were at preparation, with a warning: (name, digest now; "" if it is gone).

        Sizes and times are looked at, of every file (2 µs each on a local disk); a file where they differ is read.

        Raises:
            SourceError: what was noted at preparation is damaged.
        """
        manifest = _manifest(self.folder, self.split)
        if not manifest.is_file():
            logger.warning("%s was prepared by an earlier version: edited images are not noticed", self.folder)
            return []
        subject = json.dumps([os.path.abspath(manifest), digest(manifest), os.path.abspath(self.root)])
        kept, changed = cache_place(f"images-{digest(subject.encode())}.npy"), list[tuple[str, str]]()
        with _read_manifest(manifest) as (names, prepared, digests), ThreadPoolExecutor(_THREADS) as pool:
            last = _last_look(kept, prepared)
            for first in range(0, len(names), _AT_ONCE):
                here = slice(first, first + _AT_ONCE)
                paths = np.array([os.path.join(self.root, name) for name in names[here].to_pylist()], object)
                now = np.concatenate(list(pool.map(_stats, np.array_split(paths, _THREADS))))
                differing = np.flatnonzero((now != prepared[here]).any(1) & (now != last[here]).any(1)).tolist()
                for number, look in zip(differing, pool.map(_look, paths[differing]), strict=True):
                    if look[2] == digests[first + number].as_py():
                        last[first + number] = look[:2]
                    else:
                        changed.append((names[first + number].as_py(), look[2]))
                if differing:
                    _keep(kept, last)
        if changed:
            name, held = changed[0]
            logger.warning(
                "%d of %d image files of %s, split %s, are not those the data were prepared from, e.g. %s (%s). A run that "
                "began with those is not continued with these; prepare the data again if that was not meant",
                len(changed), len(names), self.folder, self.split, os.path.join(self.root, name),
                "edited" if held else "not there",
            )  # fmt: skip
        return changed


def _last_look(kept: Path, prepared: np.ndarray) -> np.ndarray:
    """Sizes and times of the last look, int64 like ``prepared``; -1 where there was none."""
    try:
        last = np.load(kept, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return np.full_like(prepared, -1)
    return last if last.shape == prepared.shape and last.dtype == prepared.dtype else np.full_like(prepared, -1)


def _look(path: str) -> Look:
    """Size, time and digest of a regular file; (-1, -1, "") where none can be read."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return -1, -1, ""
        held = digest(path)
    except (OSError, ValueError):  # ValueError: a name that no file system takes
        return -1, -1, ""
    return status.st_size, status.st_mtime_ns if _settled(status) else -1, held


def _stats(paths: np.ndarray) -> np.ndarray:
    """Sizes and times of files, int64 ``(N, 2)``; -2 where there is none."""
    found = np.full((len(paths), 2), -2, np.int64)
    for number, path in enumerate(paths):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        found[number] = status.st_size, status.st_mtime_ns
    return found


def _settled(status: os.stat_result) -> bool:
    """Whether a file is old enough that a later change would show in its time."""
    return status.st_mtime_ns < time.time_ns() - _SETTLED_NS


def _file_of(image: str) -> str:
    """The file an image's name is in: ``images.u8`` of ``images.u8#7``."""
    return image.rpartition("#")[0] if is_raw(image) else image


def _content(table: "datasets.Dataset", looks: Mapping[str, Look]) -> tuple[str, set[str], dict[str, int]]:
    """A digest of every row (all columns, and the content of images in place of their names), what tells its images apart, and
    how many rows say what an earlier one says, or list a box twice."""
    columns = [name for name in FEATURES if name not in ("image", "boxes")]
    state, pictures, said, doubled = xxhash.xxh3_128(), set[str](), set[int](), 0
    for batch in table.data.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            image = row["image"]
            if image["bytes"] is not None:
                held = digest(image["bytes"])
            else:
                file = _file_of(image["path"])
                held = looks[file][2] + image["path"][len(file) :]  # with the number in a raw store
            pictures.add(held)
            single, named = as_single(row), boxes_of(row)
            said.add(hash((held, *map(tuple, named), *row["sentences"])))
            doubled += len(named) > len(set(map(tuple, named)))
            state.update(repr((held, *(single[name] for name in columns if name in single))).encode())
    return state.hexdigest(), pictures - {""}, {"repeated": len(table) - len(said), "doubled": doubled}


def _manifest(folder: Path, split: str) -> Path:
    return folder / f"image_digests-{split}.arrow"


def _write_manifest(path: Path, looks: Mapping[str, Look]) -> None:
    import pyarrow as pa

    sizes, times, digests = zip(*looks.values(), strict=True)
    table = pa.table({"name": list(looks), "bytes": sizes, "mtime_ns": times, "digest": digests})
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as to,
    ):
        to.write_table(table, max_chunksize=_AT_ONCE)


@contextmanager
def _read_manifest(path: Path) -> Iterator[tuple["pa.ChunkedArray", np.ndarray, "pa.ChunkedArray"]]:
    """Names of image files, their sizes and times as int64 ``(N, 2)``, and their digests; the file stays mapped meanwhile.

    Raises:
        SourceError: it is damaged.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    schema = pa.schema({"name": text, "bytes": number, "mtime_ns": number, "digest": text})
    try:
        source = pa.memory_map(str(path))
        table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
        table = table.select(schema.names).cast(schema)
        prepared = np.stack([table[name].to_numpy() for name in ("bytes", "mtime_ns")], 1)
        if any(column.null_count for column in table.columns):
            raise ValueError("an entry is null")
    except Exception as error:  # Arrow raises a dozen kinds
        cause = " ".join(str(error).split())[:300]
        raise SourceError(f"{path} is damaged ({cause}): prepare the data again") from error
    with source:
        yield table["name"], prepared, table["digest"]


def cache_place(name: str) -> Path:
    """Where something of a name is kept for the next time, in the cache of the ``datasets`` library."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "rec" / name


def _keep(path: Path, content: object) -> None:
    """Keeps JSON, or an array, for the next time; a cache that cannot be written costs time, nothing else."""
    try:
        if isinstance(content, np.ndarray):
            with whole_file(path) as temporary, open(temporary, "wb") as file:
                np.save(file, content)
        else:
            write_json(path, content)
    except OSError as error:
        logger.warning("%s is not kept: %s", path, error)


def remembered(name: str, keys: set[str], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``make`` gives, a JSON object of these keys: as it is kept under ``name``, or made now and kept."""
    path = cache_place(name)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.keys() != keys:
        found = make()
        _keep(path, found)
    return found
