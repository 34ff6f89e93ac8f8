"""From a source's raw rows to a table on disk: completed, checked, counted, resumable.

A *prepared folder* is what ``datasets.DatasetDict.save_to_disk`` writes (or ``<split>-XXXXX-of-XXXXX.parquet`` files),
with ``prepared.json`` beside it: name, source, image folder, and per split rows, sentences, images, skipped records, a
fingerprint and the digests of :mod:`rec.data.content`. ``prepared.json`` is written last: a folder that has it is complete.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from rec.data.arrow_files import refuse_others, save_tables
from rec.data.cleaning import EXCLUDED, Report, SeenIds, clean_rows, ids_of
from rec.data.complete import complete_rows
from rec.data.content import describe, fingerprint
from rec.data.schema import FEATURES, BadRecord, attempt
from rec.data.sources import Source, SourceError, check_split_names, find_split, load_json
from rec.data.store import store_images, stored_rows
from rec.files import alone_in, empty, named, refuse_inputs, swap, user_path, write_json
from rec.trust import MAX_PIXELS

if TYPE_CHECKING:
    import datasets

    from rec.data.leakage import ImageIndex

logger = logging.getLogger(__name__)
SHARD_ROWS = 10_000
INFO_FILE, PARTIAL_FOLDER = "prepared.json", ".partial"
STORES = ("plain", "embedded", "letterboxed", "raw")


def prepare(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    splits: Iterable[str] | None = None,
    with_masks: bool = True,
    on_bad_record: str = "raise",
    store: str = "plain",
    size: int = 416,
    parquet: bool = False,
    exclude: "ImageIndex | None" = None,
    allow_paths: bool = False,
    progress: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a source's splits as a prepared folder; continues where an interrupted run stopped.

    Args:
        source: see :mod:`rec.data.sources`.
        folder: made if it is not there; one that holds something else is refused.
        splits: all of the source by default.
        with_masks: whether masks are encoded; without, they are null.
        on_bad_record: ``"raise"`` or ``"skip"``, see :func:`rec.data.cleaning.clean_rows`.
        store: where images are kept: ``"plain"`` names the files, ``"embedded"`` puts them into the table,
            ``"letterboxed"`` and ``"raw"`` make them ``size`` pixels, see :mod:`rec.data.store`.
        size: side of the stored square in pixels.
        parquet: write parquet shards in place of Arrow.
        exclude: leave out the rows whose image it holds, counted as skipped: for training data that must not meet the
            images of an evaluation.
        allow_paths: copy files from anywhere, where records say so. Without, images that are copied (every store but
            ``"plain"``) and masks must lie below ``source.folders``.
        progress: show bars on a terminal.
        overwrite: prepare anew what the folder holds. The old table stays until the new one is complete.

    Returns:
        The content of ``prepared.json``.

    Raises:
        SourceError: unknown split, or a folder that holds other data, or files that are not a table's with ``overwrite``.
        InputError: another process is at work in the folder.
        BadRecord: with ``on_bad_record="raise"``; with ``"skip"``, where most records of a split fail alike.
    """
    # What is asked for, checked before anything is written.
    folder = Path(os.path.realpath(user_path(folder)))  # a link to another disk stays one when the folder is replaced
    wanted = list(dict.fromkeys(find_split(split, source.splits) or split for split in splits or source.splits))
    _check_wish(source, folder, wanted, store)
    # The job and its identity: a finished folder of the same one is taken as it is, an interrupted one is continued.
    job = {"with_masks": with_masks, "on_bad_record": on_bad_record, "embed": store == "embedded", "parquet": parquet}
    job["store"] = {"kind": store, "size": size} if store in ("letterboxed", "raw") else None
    if allow_paths:
        job["allow_paths"] = True
    replaced = folder if overwrite and (folder / INFO_FILE).exists() else None
    if replaced:  # stays as it is until the new table is complete
        refuse_inputs([replaced], [*source.files, *filter(None, [source.image_root])])
        refuse_others(replaced)
        folder = folder.with_name(f".{folder.name}.new")
    print_of_exclude = exclude and exclude.fingerprint()
    state = _State(folder, {"source": identity(source), "splits": wanted, "exclude": print_of_exclude} | job)
    with alone_in(folder, replaced), named(replaced or folder):
        if (folder / INFO_FILE).exists() and not replaced:
            return state.finished()
        # An attempt that was ended close to its end left the new table whole, or parts of the old one.
        if replaced and ((folder / INFO_FILE).exists() or not state.file.exists()):
            empty(folder)
        state.open()
        reports = _write_splits(source, wanted, state, job, exclude, progress)
        info = _write_table(source, reports, state, job, progress)
        if replaced:
            swap(folder, replaced)
            shutil.rmtree(folder)
    return info


def _write_table(
    source: Source, reports: dict[str, Report], state: "_State", job: dict[str, Any], progress: bool
) -> dict[str, Any]:
    """Makes the table of the rows that are there, split by split; returns the content of its ``prepared.json``."""
    folder, parquet = state.folder.parent, job["parquet"]
    # The rows, with their images where these are stored anew.
    tables = {split: state.table(split) for split in reports}
    if job["store"]:
        kind, size, bad = job["store"]["kind"], job["store"]["size"], job["on_bad_record"]
        names, broken = store_images(tables, source.image_root, folder, kind, size, bad, progress)
        for split, table in tables.items():
            _write_shard(state.shard(split, "stored"), stored_rows(table, names, broken, reports[split]))
        tables = {split: _of_shards([state.shard(split, "stored")]) for split in reports}
    if not any(report.rows for report in reports.values()):
        shutil.rmtree(state.folder)  # the same command may find more when what was missing is there
        raise SourceError(_nothing_left(source, reports))
    # What the folder holds, with digests; prepared.json comes last and makes it a finished one.
    info: dict[str, Any] = {
        "name": source.name,
        "image_root": os.path.abspath(source.image_root) if source.image_root else "",
    }
    info |= {"identity": state.identity, "options": dict(source.options), "format": "parquet" if parquet else "arrow"}
    info |= {"store": job["store"], "images": len({image for t in tables.values() for image in t["image_id"]})}
    root = str(folder) if job["store"] else source.image_root
    held = describe(tables, save_tables(tables, folder, parquet), root, folder, progress)
    info["splits"] = {
        split: dataclasses.asdict(reports[split])
        | {"images": len(set(table["image_id"])), "fingerprint": fingerprint(table)}
        | held[split]
        for split, table in tables.items()
    }
    write_json(folder / INFO_FILE, info)
    shutil.rmtree(state.folder)
    return info


def _check_wish(source: Source, folder: Path, wanted: list[str], store: str) -> None:
    """Refuses what :func:`prepare` cannot do."""
    if "::" in str(folder):
        raise SourceError(
            f"{folder}: the datasets library takes '::' in a path for a chain of addresses; choose another"
        )
    unknown = [split for split in wanted if split not in source.splits]
    if unknown:
        raise SourceError(f"{source.name} has no split {unknown[0]!r}; it has {', '.join(source.splits)}")
    if store not in STORES:
        raise ValueError(f"store is {store!r}; expected one of {', '.join(STORES)}")


def _write_splits(
    source: Source,
    wanted: list[str],
    state: "_State",
    job: dict[str, Any],
    exclude: "ImageIndex | None",
    progress: bool,
) -> dict[str, Report]:
    """Writes the shards of all splits; a bad one does not keep the others from being looked at, so that all can be mended."""
    seen, reports, failures = SeenIds(), dict[str, Report](), list[BadRecord]()
    for split in wanted:
        try:
            reports[split] = _write_split(source, split, state, seen, job, exclude, progress)
            reports[split].refuse_alike(f"{source.name}, split {split}")
        except BadRecord as error:
            failures.append(error)
    for failure in failures[1:]:
        logger.error("%s", failure)
    if failures:
        raise failures[0]
    return reports


def _nothing_left(source: Source, reports: dict[str, Report]) -> str:
    skipped = [line for report in reports.values() for line in report.warnings()]
    return f"{source.name}: nothing is left to write in split {', '.join(reports)}: " + (
        "; ".join(skipped) or "the source holds no record; check that it is the right one and whole"
    )


def report_of(info: dict[str, Any], split: str) -> Report:
    """The :class:`~rec.data.cleaning.Report` of a split, from the content of ``prepared.json``."""
    return _report(info["splits"][split])


def identity(source: Source) -> str:
    """A digest of everything a source's rows depend on: files by name, size and modification time, and options."""
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]
    content = [source.name, list(source.splits), files, source.image_root, dict(source.options)]
    return hashlib.sha256(json.dumps(content, default=str, sort_keys=True).encode()).hexdigest()[:24]


def read_info(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a prepared folder's ``prepared.json``; what others read of it is of the right types.

    Raises:
        SourceError: it cannot be read, or is not what :func:`prepare` writes.
    """
    folder = user_path(folder)
    info = load_json(folder / INFO_FILE)
    kinds = {"name": str, "image_root": str, "format": str, "identity": str, "options": dict, "splits": dict}
    fits = isinstance(info, dict) and all(isinstance(info.get(key), kind) for key, kind in kinds.items())
    if not fits or not _is_store(info.get("store")):
        raise SourceError(f"{folder / INFO_FILE} is not of this project, or broken: prepare the data again")
    check_split_names(info["splits"], folder / INFO_FILE)
    for split, entry in info["splits"].items():
        if not _is_split(entry):
            raise SourceError(
                f"{folder / INFO_FILE} was edited: split {split} has no fingerprint or counts; prepare the data again"
            )
    return info


def _is_store(store: object) -> bool:
    size = store.get("size") if isinstance(store, dict) else None
    return store is None or (type(size) is int and size > 0 and size * size <= MAX_PIXELS)


def _is_split(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    counts = [entry.get(key) for key in ("rows", "sentences", "images")]
    return all(type(count) is int for count in counts) and isinstance(entry.get("fingerprint"), str)


class _State:
    """What an interrupted preparation has done, in ``<folder>/.partial``: shards, raw rows consumed, reports."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder = folder / PARTIAL_FOLDER
        self.file = self.folder / "state.json"
        self.identity = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:24]
        self.splits: dict[str, Any] = {}

    def open(self) -> None:
        target = self.folder.parent
        if self.file.exists():
            content = load_json(self.file)
            if content["identity"] == self.identity and content.get("columns") == list(FEATURES):
                self.splits = content["splits"]
                return
            shutil.rmtree(self.folder)  # of another job or version, or the annotation files have changed since
        elif not self.folder.exists() and target.exists() and any(target.iterdir()):
            raise SourceError(f"{target} is not empty and holds no prepared data: choose another output folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def finished(self) -> dict[str, Any]:
        """The content of ``prepared.json`` of the folder, which is complete.

        Raises:
            SourceError: it is of another job.
        """
        try:
            info = read_info(self.folder.parent)
        except SourceError as error:
            raise SourceError(f"{error}; or replace the table with --overwrite") from None
        if info["identity"] != self.identity:
            raise SourceError(
                f"{self.folder.parent} already holds data prepared from other input, such as labels before they were corrected, "
                "or with other options: replace it with --overwrite, or choose another output folder"
            )
        logger.info(
            "%s was prepared from the same annotations before, and stays as it is; --overwrite looks at all images again",
            self.folder.parent,
        )
        return info

    def _write(self) -> None:
        write_json(self.file, {"identity": self.identity, "columns": list(FEATURES), "splits": self.splits})

    def save(self, split: str, consumed: int, shards: int, report: Report, done: bool) -> None:
        entry = {"consumed": consumed, "shards": shards, "done": done, "report": dataclasses.asdict(report)}
        self.splits[split] = entry
        self._write()

    def shard(self, split: str, number: int | str) -> Path:
        return (
            self.folder / f"{split}-{number:05d}.arrow"
            if isinstance(number, int)
            else self.folder / f"{split}.{number}"
        )

    def table(self, split: str) -> "datasets.Dataset":
        return _of_shards([self.shard(split, number) for number in range(self.splits[split]["shards"])])


def _report(entry: dict[str, Any]) -> Report:
    return Report(**{f.name: entry[f.name] for f in dataclasses.fields(Report) if f.name in entry})


def _write_split(
    source: Source,
    split: str,
    state: _State,
    seen: SeenIds,
    job: dict[str, Any],
    exclude: "ImageIndex | None",
    progress: bool,
) -> Report:
    """Writes the shards of one split that are not written yet; ``seen`` collects the ids of all splits."""
    entry = state.splits.get(split, {"consumed": 0, "shards": 0, "done": False})
    report = _report(entry["report"]) if "report" in entry else Report()
    shards = entry["shards"]
    if shards:
        for row in state.table(split).select_columns(["ref_id", "source", "image_id", "image"]):
            seen.add(row, split)
    if entry["done"]:
        return report
    raw = _Counted(itertools.islice(source.read(split), entry["consumed"], None), entry["consumed"])
    kept = raw if exclude is None else _without(raw, exclude, report)
    # What is copied, or comes from a stranger, comes from the folders that were named.
    mask_folders = None if job.get("allow_paths") else source.folders
    image_folders = mask_folders if job["embed"] or job["store"] or source.is_foreign else None
    folders, decode = (image_folders, mask_folders), not job["store"]  # storing decodes, and on several threads
    complete = complete_rows(kept, source.image_root, job["with_masks"], job["embed"], *folders, decode)
    rows = clean_rows(complete, job["on_bad_record"], report, f"{source.name}, split {split}", split, seen)
    title, hidden = f"{source.name} {split}", None if progress else True  # None: shown on a terminal only
    bar = iter(tqdm(rows, title, unit=" refs", initial=report.rows, disable=hidden))
    done = False
    while not done:
        before = report.rows
        _write_shard(state.shard(split, shards), itertools.islice(bar, SHARD_ROWS))
        done = report.rows - before < SHARD_ROWS
        shards += report.rows > before or not shards  # a split of which nothing is left still is one
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


def _without(rows: Iterable[Any], exclude: "ImageIndex", report: Report) -> Iterator[Any]:
    for row in rows:
        if isinstance(row, BadRecord):
            yield row
            continue
        where = attempt(exclude.find, row, where=ids_of(row))
        if where is None or isinstance(where, BadRecord):
            yield where or row
        else:
            report.skip(BadRecord(EXCLUDED, f"the image is in {where}"), ids_of(row))


def _write_shard(shard: Path, rows: Iterable[dict[str, Any]]) -> None:
    from datasets.arrow_writer import ArrowWriter

    with ArrowWriter(path=f"{shard}.tmp", features=FEATURES, writer_batch_size=500) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()
    os.replace(f"{shard}.tmp", shard)


def _of_shards(shards: list[Path]) -> "datasets.Dataset":
    from datasets import Dataset, concatenate_datasets

    return concatenate_datasets([Dataset.from_file(str(shard)) for shard in shards])
