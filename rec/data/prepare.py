"""From a source's raw rows to a table on disk: completed, checked, counted, resumable.

A *prepared folder* is what ``datasets.DatasetDict.save_to_disk`` writes (or ``<split>-XXXXX-of-XXXXX.parquet`` files),
with ``prepared.json`` beside it: name, source, image folder, and per split rows, sentences, images, skipped records and
a fingerprint of the content. ``prepared.json`` is written last: a folder that has it is complete.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from rec.data import masks
from rec.data.images import ImageError, decode_image, image_size
from rec.data.schema import FEATURES, BadRecord, Report, clean_rows
from rec.data.sources import Source, SourceError

if TYPE_CHECKING:
    import datasets

SHARD_ROWS = 10_000
INFO_FILE = "prepared.json"


def prepare(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    splits: Iterable[str] | None = None,
    with_masks: bool = True,
    on_bad_record: str = "raise",
    embed_images: bool = False,
    parquet: bool = False,
    progress: bool = True,
) -> dict[str, Report]:
    """Writes a source's splits as a prepared folder; continues where an interrupted run stopped.

    Args:
        source: see :mod:`rec.data.sources`.
        folder: made if it is not there; one that holds something else is refused.
        splits: all of the source by default.
        with_masks: whether masks are encoded; without, they are null.
        on_bad_record: ``"raise"`` or ``"skip"``, see :func:`rec.data.schema.clean_rows`.
        embed_images: put the encoded image files into the table (for parquet that is moved or streamed).
        parquet: write parquet shards in place of Arrow.
        progress: show a bar on a terminal.

    Returns:
        The reports per split; also those of splits that were already complete.

    Raises:
        SourceError: unknown split, or a folder that holds another data set.
        BadRecord: with ``on_bad_record="raise"``.
    """
    folder, wanted = Path(folder), list(splits or source.splits)
    unknown = [split for split in wanted if split not in source.splits]
    if unknown:
        raise SourceError(f"{source.name} has no split {unknown[0]!r}; it has {', '.join(source.splits)}")
    work = folder / ".partial"
    options = {
        "with_masks": with_masks,
        "on_bad_record": on_bad_record,
        "embed_images": embed_images,
        "parquet": parquet,
    }
    state = _State(work / "state.json", {"source": identity(source), "splits": wanted} | options)
    if (folder / INFO_FILE).exists():
        info = read_info(folder)
        if info["identity"] != state.identity:
            raise SourceError(
                f"{folder} already holds a prepared data set made from other input: choose another output folder"
            )
        return {split: _report(entry) for split, entry in info["splits"].items()}
    if folder.exists() and not work.exists() and any(folder.iterdir()):
        raise SourceError(f"{folder} is not empty and holds no prepared data set: choose another output folder")
    state.open()
    seen: dict[str, str] = {}
    reports = {split: _write_split(source, split, work, state, seen, options, progress) for split in wanted}
    tables = {split: _shards_of(work, split, state.splits[split]["shards"]) for split in wanted}
    info = {"name": source.name, "image_root": os.path.abspath(source.image_root) if source.image_root else ""}
    info |= {"identity": state.identity, "options": dict(source.options), "format": "parquet" if parquet else "arrow"}
    info["splits"] = {
        split: dataclasses.asdict(reports[split])
        | {"images": len(set(table["image_id"])), "fingerprint": fingerprint(table)}
        for split, table in tables.items()
    }
    _save(tables, folder, parquet)
    write_json(folder / INFO_FILE, info)
    shutil.rmtree(work)
    return reports


def identity(source: Source) -> str:
    """A digest of everything a source's rows depend on: files by name, size and modification time, and options."""
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    content = [source.name, list(source.splits), files, source.image_root, dict(source.options)]
    return hashlib.sha256(json.dumps(content, default=str, sort_keys=True).encode()).hexdigest()[:24]


def fingerprint(table: "datasets.Dataset") -> str:
    """A digest of a table's content, images and masks left out: equal for copies on other machines."""
    digest = hashlib.sha256()
    for row in table.select_columns(["image_id", "ref_id", "width", "height", "bbox", "sentences", "source"]):
        digest.update(repr(tuple(row.values())).encode())
    return digest.hexdigest()[:24]


def read_info(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a prepared folder's ``prepared.json``.

    Raises:
        SourceError: it cannot be read.
    """
    from rec.data.sources import load_json

    info = load_json(Path(folder) / INFO_FILE)
    if not isinstance(info, dict) or "splits" not in info:
        raise SourceError(f"{Path(folder) / INFO_FILE} is not of this project: prepare the data again")
    return info


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that the file is whole or absent at every instant."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


class _State:
    """What an interrupted preparation has done: raw rows consumed and the report, per split."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self.path = path
        self.identity = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:24]
        self.splits: dict[str, Any] = {}

    def open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["identity"] == self.identity:
                self.splits = content["splits"]
                return
        shutil.rmtree(self.path.parent)  # of another job, or of changed files
        self.path.parent.mkdir()

    def save(self, split: str, consumed: int, shards: int, report: Report, done: bool) -> None:
        entry = {"consumed": consumed, "shards": shards, "done": done, "report": dataclasses.asdict(report)}
        self.splits[split] = entry
        write_json(self.path, {"identity": self.identity, "splits": self.splits})


def _report(entry: dict[str, Any]) -> Report:
    known = {f.name: entry[f.name] for f in dataclasses.fields(Report)}
    return Report(**known | {"skipped": Counter(known["skipped"])})


def _complete(rows: Iterable[Any], root: str, with_masks: bool, embed: bool) -> Iterator[dict[str, Any] | BadRecord]:
    """Fills in what readers leave open: image size, mask, bytes; makes paths relative to ``root``, so that images can
    move.

    Neighbouring rows of one image share the look at its file.
    """
    last: tuple[Any, Any] = (None, None)
    for row in rows:
        if isinstance(row, BadRecord):
            yield row
            continue
        row = dict(row)
        image = row["image"] if isinstance(row["image"], dict) else {"path": row["image"], "bytes": None}
        try:
            key = image["path"], len(image["bytes"] or b"")
            if last[0] != key:
                last = (key, _look(image, embed))
            (width, height), data = last[1]
            if (row.get("width") or width, row.get("height") or height) != (width, height):
                raise BadRecord(
                    "wrong image size",
                    f"the record says {row['width']}x{row['height']}, {image['path']} is {width}x{height} (EXIF orientation "
                    "applied)",
                )
            path = image["path"]
            if data is None and root and Path(path).is_relative_to(root):
                path = str(Path(path).relative_to(root))
            row |= {"width": width, "height": height, "image": {"path": path, "bytes": data}}
            row["mask"] = _mask(row, width, height) if with_masks else None
        except BadRecord as error:
            yield BadRecord(error.reason, f"ref_id {row.get('ref_id')}, image_id {row.get('image_id')}: {error}")
            continue
        yield row


def _look(image: dict[str, Any], embed: bool) -> tuple[tuple[int, int], bytes | None]:
    path, data = image["path"], image["bytes"]
    if not (path or data):
        raise BadRecord("no image", "the record names no image file and holds no image bytes")
    try:
        if data is None and not os.path.isfile(path):
            raise BadRecord("missing image", f"there is no file {path}")
        size = image_size(data or path, path)
        return size, data if data or not embed else Path(path).read_bytes()
    except ImageError as error:
        raise BadRecord("unreadable image", str(error)) from None


def _mask(row: dict[str, Any], width: int, height: int) -> dict[str, Any] | None:
    segmentation, file = row.pop("segmentation", None), row.pop("mask_file", None)
    try:
        if file is not None:
            array = np.load(file, allow_pickle=False) if str(file).endswith(".npy") else decode_image(file)[..., 0]
            if array.shape[:2] != (height, width):
                raise ValueError(
                    f"{file} is {array.shape[0]} rows x {array.shape[1]} columns, its image {height} x {width}"
                )
            return masks.encode(array.reshape(height, width))
        if segmentation is not None:
            return masks.from_coco(segmentation, height, width)
    except (OSError, ValueError) as error:
        raise BadRecord("bad mask", str(error)) from None
    return row.get("mask")


def _write_split(
    source: Source, split: str, work: Path, state: _State, seen: dict[str, str], job: dict[str, Any], progress: bool
) -> Report:
    """Writes the shards of one split that are not written yet; ``seen`` collects the ref ids of all splits."""
    from datasets.arrow_writer import ArrowWriter

    entry = state.splits.get(split, {"consumed": 0, "shards": 0, "done": False})
    report = _report(entry["report"]) if "report" in entry else Report()
    shards = entry["shards"]
    if shards:
        seen.update(dict.fromkeys(_shards_of(work, split, shards)["ref_id"], split))
    if entry["done"]:
        return report
    raw = _Counted(itertools.islice(source.read(split), entry["consumed"], None), entry["consumed"])
    complete = _complete(raw, source.image_root, job["with_masks"], job["embed_images"])
    rows = clean_rows(complete, job["on_bad_record"], report, f"{source.name}, split {split}", split, seen)
    bar = tqdm(rows, f"{source.name} {split}", unit=" refs", initial=report.rows, disable=None if progress else True)
    done = False
    while not done:
        shard, before = work / f"{split}-{shards:05d}.arrow", report.rows
        with ArrowWriter(path=f"{shard}.tmp", features=FEATURES, writer_batch_size=500) as writer:
            for row in itertools.islice(bar, SHARD_ROWS):
                writer.write(row)
            writer.finalize()
        done = report.rows - before < SHARD_ROWS
        if report.rows > before or not shards:  # a split of which nothing is left still is one
            os.replace(f"{shard}.tmp", shard)
            shards += 1
        state.save(split, raw.count, shards, report, done)
    return report


class _Counted(Iterator[Any]):
    """An iterator that knows how many items it has given."""

    def __init__(self, items: Iterator[Any], count: int) -> None:
        self.items, self.count = items, count

    def __next__(self) -> Any:
        item = next(self.items)
        self.count += 1
        return item


def _shards_of(work: Path, split: str, count: int) -> "datasets.Dataset":
    from datasets import Dataset, concatenate_datasets

    return concatenate_datasets(
        [Dataset.from_file(str(work / f"{split}-{number:05d}.arrow")) for number in range(count)]
    )


def _save(tables: dict[str, "datasets.Dataset"], folder: Path, parquet: bool) -> None:
    """Gives the shards their final place, in the layout of ``DatasetDict.save_to_disk`` (which itself would want every
    image file at hand to estimate sizes) or as parquet.
    """
    from pyarrow import parquet as pq

    for split, table in tables.items():
        shards = [Path(entry["filename"]) for entry in table.cache_files]
        if parquet:
            for number, shard in enumerate(shards):
                target = folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
                # Small row groups: a streaming reader holds one at a time, with the images in it.
                pq.write_table(type(table).from_file(str(shard)).data.table, target, row_group_size=200)
            continue
        (folder / split).mkdir(exist_ok=True)
        names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
        for shard, name in zip(shards, names, strict=True):
            _link(shard, folder / split / name)
        table.info.write_to_directory(str(folder / split))
        state = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": table._fingerprint,
            "_split": split,
        }
        state |= {"_format_type": None, "_format_columns": None, "_format_kwargs": {}, "_output_all_columns": False}
        write_json(folder / split / "state.json", state)
    if not parquet:
        write_json(folder / "dataset_dict.json", {"splits": list(tables)})


def _link(file: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
