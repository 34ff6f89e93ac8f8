"""One door to every annotation source: :func:`open_table`.

What is not a table yet is prepared once into the cache of the ``datasets`` library and read from there, memory-mapped.
"""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rec.data.arrow_files import (
    load_metadata,
    load_parquet,
    load_split,
    load_tables,
    metadata_files,
    parquet_files,
)
from rec.data.content import ImageFiles, cache_place, content_of, file_digests, image_files, verified
from rec.data.prepare import INFO_FILE, PARTIAL_FOLDER, identity, prepare, read_info, report_of
from rec.data.saved import usable_rows
from rec.data.schema import FEATURES, BadRecord, columns_of
from rec.data.sources import Source, SourceError, find_split, load_json
from rec.data.sources.coco_json import coco_files, is_coco, open_coco, open_coco_files
from rec.data.sources.conversations import is_conversations, open_conversations
from rec.data.sources.flickr30k import is_flickr30k, open_flickr30k
from rec.data.sources.foreign import open_foreign
from rec.data.sources.label_studio import is_label_studio, open_label_studio
from rec.data.sources.refer import is_refer, open_refer
from rec.data.sources.simrec_json import is_simrec_json, open_simrec_json
from rec.data.sources.tabular import SUFFIXES, is_own, is_own_by_split, open_tabular, own_files, records
from rec.data.sources.visual_genome import REGIONS_FILE, open_visual_genome
from rec.data.spec import SCENES, SourceSpec, expand, refuse_unused
from rec.files import default_mode

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


class UnknownSplit(SourceError):
    """A source does not have the split that is asked for; the message lists those it has."""


class RowReader:
    """Rows of a table by number, as dicts of those of ``columns`` that it has; a quarter of the time of the library's own
    access."""

    def __init__(self, rows: "datasets.Dataset", columns: Sequence[str]) -> None:
        self.rows, self.columns = rows, tuple(name for name in columns if name in rows.column_names)
        self._open()

    def _open(self) -> None:
        batches = self.rows.data.to_batches()
        self._arrays = [[batch.column(name) for name in self.columns] for batch in batches]
        self._firsts = np.cumsum([0, *(batch.num_rows for batch in batches)])

    def __getitem__(self, number: int) -> dict[str, Any]:
        batch = int(np.searchsorted(self._firsts, number, "right")) - 1
        place = number - int(self._firsts[batch])
        return {name: array[place].as_py() for name, array in zip(self.columns, self._arrays[batch], strict=True)}

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows, "columns": self.columns}  # sent to another process, the table is mapped there anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


@dataclass(frozen=True)
class Table:
    """One split of one source.

    Attributes:
        rows: of :data:`rec.data.schema.FEATURES`, memory-mapped, without an indices mapping; of 0.1's tables without
            ``boxes``, see :func:`rec.data.schema.boxes_of`.
        image_root: folder that relative image paths start from.
        fingerprint: digest of the content.
        splits: all splits of the source.
        stored_size: side of the square the images were letterboxed to when they were stored; None: stored as they are.
        content: digest of the rows to the last byte, and of their images at preparation; "" where it is not known.
        images: the image files of a prepared table, whose changes since preparation can be found.
    """

    rows: "datasets.Dataset"
    image_root: str
    fingerprint: str
    splits: tuple[str, ...]
    stored_size: int | None = None
    content: str = ""
    images: ImageFiles | None = None


def open_table(
    spec: SourceSpec | str | os.PathLike[str] | Mapping[str, Any],
    split: str,
    *,
    name: str,
    image_path: str | None = None,
    mask_path: str | None = None,
    with_masks: bool = False,
    allow_paths: bool = False,
) -> Table:
    """Opens a split of a source.

    Args:
        spec: a prepared folder, a folder of ``datasets.save_to_disk`` or of parquet, a parquet file, a Hub id,
            ``"scenes"`` or ``"scenes_hard"``, or anything :func:`open_source` reads. A mapping ``{"path": …}``
            carries further choices, see :class:`rec.data.spec.SourceSpec`.
        split: the data set's own name of it.
        name: of the data set; SimREC's names select the rule for image names.
        image_path, mask_path: folders of images and masks, where the source does not tell.
        with_masks: whether masks are wanted; without, a source that is prepared on the fly leaves them out.
        allow_paths: see :func:`rec.data.prepare.prepare`; of a source that is prepared on the fly.

    Raises:
        SourceError: no such source or split; lists what there is.
        BadRecord: a record that cannot be used (``on_bad_record: skip`` counts and leaves out).
    """
    chosen = SourceSpec.of(spec, name)
    image_path, mask_path = (folder and expand(folder) for folder in (image_path, mask_path))
    path = Path(chosen.path)
    if path.suffix == ".json" and not path.exists() and (path.with_suffix("") / INFO_FILE).is_file():
        # SimREC's configs name anns/refcoco.json, `rec prepare` makes anns/refcoco.
        path = path.with_suffix("")
    if path.suffix == ".json" and not path.exists() and (nested := path.parent / path.stem / path.name).is_file():
        path = nested  # and its manual draws anns/refcoco/refcoco.json
        chosen = replace(chosen, path=os.fspath(path))
    if (path / INFO_FILE).is_file():
        return _open_prepared(path, split, image_path)
    check_finished(path)
    if (tables := load_tables(path)) and _has_schema(tables):
        return _of_saved(tables, split, path, image_path, chosen.on_bad_record)
    source = open_source(chosen, name=name, image_path=image_path, mask_path=mask_path)
    split = _known_split(name, split, source.splits)
    folder = _prepared_in_cache(source, split, with_masks, chosen.on_bad_record, allow_paths)
    return replace(_open_prepared(folder, split, None), splits=source.splits)  # the folder may hold this one alone


def open_source(
    spec: SourceSpec | str | os.PathLike[str] | Mapping[str, Any],
    *,
    name: str,
    image_path: str | None = None,
    mask_path: str | None = None,
) -> Source:
    """Recognises annotation files by their layout and opens their reader.

    Args:
        spec: see :func:`open_table`; here a REFER folder, SimREC's JSON, COCO files with phrases, Label Studio's exports,
            conversations (JSON or JSONL), JSONL or CSV, Visual Genome's ``region_descriptions.json``, a Flickr30k Entities
            folder, parquet or a saved table of any columns, a Hub id, or shape scenes.
        name, image_path, mask_path: see :func:`open_table`.

    Raises:
        SourceError: nothing there, or a layout that is not known; says what was looked for.
    """
    chosen = SourceSpec.of(spec, name)
    source = _recognised(chosen, name, image_path, mask_path)
    refuse_unused(chosen, source, name)
    if (declared := chosen.coordinates) is None:
        return source

    def read(split: str) -> Iterator[Any]:
        for row in source.read(split):
            yield row if isinstance(row, BadRecord) else {"coordinates": declared} | row

    return replace(source, read=read, options={**source.options, "coordinates": declared})


def _recognised(chosen: SourceSpec, name: str, image_path: str | None, mask_path: str | None) -> Source:
    image_path, mask_path = (folder and expand(folder) for folder in (image_path, mask_path))
    if image_path is not None and not os.path.isdir(image_path):
        logger.warning("image_path of %r, %s, is not there; looking where the annotation files say", name, image_path)
        image_path = None
    text = chosen.path
    path = Path(text)
    if text in SCENES and not path.exists():
        from rec.data.scenes.rows import open_scenes

        return open_scenes(chosen)
    if path.is_dir() and is_refer(path):
        return open_refer(path, name, image_path, chosen.split_by)
    if path.name == REGIONS_FILE or (path / REGIONS_FILE).is_file():
        return open_visual_genome(path, name, image_path)
    if is_flickr30k(path):
        return open_flickr30k(path, name, image_path, chosen.boxes or "merged")
    suffix = path.suffix.lower()
    if suffix == ".json" and path.is_file():
        content = load_json(path)
        if is_coco(content):
            return open_coco(path, content, name, image_path, chosen.bbox_format, chosen.columns)
        if is_label_studio(content):
            return open_label_studio(path, content, name, image_path, chosen.columns)
        if isinstance(content, list) and is_conversations(next(iter(content), None)):
            return open_conversations(path, lambda: content, name, image_path, chosen)
        if is_own(next(iter(content), None)) if isinstance(content, list) else is_own_by_split(content):
            return open_tabular(path, name, image_path, chosen.bbox_format)
        if is_simrec_json(content):
            return open_simrec_json(path, content, name, image_path, mask_path)
    if suffix == ".jsonl" and path.is_file() and is_conversations(next(records(path), None)):
        return open_conversations(path, lambda: records(path), name, image_path, chosen)
    if path.is_dir() and (about := metadata_files(path)):
        said = load_metadata(about, path)
        return open_foreign(said, name, image_path or text, chosen.columns, chosen.bbox_format, text)
    own = own_files(path) if path.is_dir() else []
    if suffix in SUFFIXES or any(file.suffix.lower() != ".tsv" for file in own):
        return open_tabular(path, name, image_path, chosen.bbox_format)
    check_finished(path)
    tables = load_tables(path) if path.exists() else _load_from_hub(chosen) if may_be_on_hub(text) else None
    if tables:
        folder = str(path if path.is_dir() else path.parent) if path.exists() else None
        ours = _has_schema(tables) and all("weight" in table.column_names for table in tables.values())
        columns = ({"weight": "weight"} if ours else {}) | dict(chosen.columns or {})
        return open_foreign(tables, name, image_path, columns, chosen.bbox_format, folder)
    # Behind tables, beside which files of any kind may lie.
    if own:
        return open_tabular(path, name, image_path, chosen.bbox_format)
    if path.is_dir() and (files := coco_files(path)):
        return open_coco_files(path, files, name, image_path, chosen.bbox_format, chosen.columns)
    raise SourceError(
        f"ann_path of {name!r}: {text} is "
        + ("of no known layout" if path.exists() else "neither a file nor a folder")
        + "; expected a prepared folder (`rec prepare`), a folder with refs(…).p or grefs(…).json and instances.json, "
        "SimREC's JSON, COCO JSON, an export of Label Studio, conversations, JSONL or CSV, parquet, a Hub id (user/name), "
        "'scenes' or 'scenes_hard'"
        + ". An archive is unpacked first; of other tools' labels, which often have no phrases (YOLO, Pascal VOC, LabelMe, VIA), "
        'write a line {"image": …, "phrase": …, "bbox": […]} of a .jsonl file for each object' * path.exists()
    )


def may_be_on_hub(text: str) -> bool:
    """Whether a name that is not a file or folder here can be a Hub id: ``user/name``, and no folder is called ``user``."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None and not Path(text.split("/")[0]).exists()


def _known_split(name: str, split: str, splits: tuple[str, ...]) -> str:
    """The data set's own name of a split.

    Raises:
        UnknownSplit: it has none; lists those it has.
    """
    if (found := find_split(split, splits)) is not None:
        return found
    hint = "" if split != "val" else "; rec prepare --val-fraction 0.1 makes one of the training images"
    raise UnknownSplit(f"data set {name!r} has no split {split!r}; it has {', '.join(splits) or 'none'}{hint}")


def _open_prepared(folder: Path, split: str, image_path: str | None) -> Table:
    info = read_info(folder)
    splits = tuple(info["splits"])
    split = _known_split(info["name"], split, splits)
    if info["format"] == "parquet":
        shard = re.compile(rf"{re.escape(split)}-\d{{5}}-of-\d{{5}}\.parquet")
        files = sorted(file for file in folder.iterdir() if shard.fullmatch(file.name))
        rows = load_parquet(files)
    else:
        rows = load_split(folder / split)
        files = _mapped_files(rows)
    rows, store = _in_schema(rows, folder, split), info.get("store")
    root = str(folder) if store else _image_root(rows, image_path, info["image_root"], folder)
    fingerprint, content = verified(folder, split, info["splits"][split], files, rows)
    images = image_files(folder, split, root, rows)
    return Table(rows, root, fingerprint, splits, store and store["size"], content, images)


def _mapped_files(rows: "datasets.Dataset") -> list[Path]:
    return [Path(entry["filename"]) for entry in rows.cache_files]


def _image_root(rows: "datasets.Dataset", image_path: str | None, recorded: str, folder: Path) -> str:
    """``image_path`` where the first image that a row names relative to it is there, else the folder recorded at preparation."""
    import pyarrow.compute as pc

    paths, data = (pc.struct_field(rows.data.column("image"), key) for key in ("path", "bytes"))
    number = pc.index(pc.and_(pc.is_null(data), pc.invert(pc.starts_with(paths, "/"))), True).as_py()
    if number < 0:
        return ""
    first = paths[number].as_py()
    for root in (image_path, recorded, str(folder)):
        if root and os.path.isfile(os.path.join(root, first)):
            return root
    raise SourceError(
        f"the images of {folder} are not there: {first} is neither in image_path ({image_path}) nor in {recorded}, "
        "where they were at preparation; point dataset.image_path to their folder"
    )


def check_finished(folder: Path) -> None:
    """Refuses what an interrupted preparation has left: some of the files may be there, whole, and look like all.

    Raises:
        SourceError: it was not finished.
    """
    if (folder / PARTIAL_FOLDER).is_dir() and not (folder / INFO_FILE).is_file():
        raise SourceError(
            f"{folder} is the beginning of a preparation that was interrupted: give the same command of "
            "`rec prepare` again, which continues it"
        )


def _load_from_hub(chosen: SourceSpec) -> dict[str, "datasets.Dataset"]:
    """Split to table of a Hub data set; with ``chosen.splits`` the files of those alone are downloaded."""
    from datasets import load_dataset, load_dataset_builder

    asked, revision = (chosen.path, chosen.configuration), chosen.revision
    try:
        if not chosen.splits:
            return dict(load_dataset(*asked, revision=revision))
        files = load_dataset_builder(*asked, revision=revision).config.data_files
        found = [_known_split(chosen.path, split, tuple(map(str, files))) for split in chosen.splits]
        options: dict[str, Any] = {"revision": revision, "verification_mode": "no_checks"}  # it would miss the others
        return {
            split: load_dataset(*asked, data_files={split: list(files[split])}, split=split, **options)
            for split in found
        }
    except SourceError:
        raise
    except Exception as error:  # the client raises dozens of kinds, from no network to no such repository
        raise SourceError(f"{chosen.path} is not a file or folder here, and as a Hub data set: {error}") from None


def _has_schema(tables: Mapping[str, "datasets.Dataset"]) -> bool:
    try:
        return all(columns_of(table.column_names) for table in tables.values())
    except KeyError:
        return False


def _in_schema(rows: "datasets.Dataset", path: Path, split: str) -> "datasets.Dataset":
    """The columns of the schema, in its types; of a table of 0.1 all but ``boxes``, which its readers take from ``bbox``."""
    from datasets import Features

    try:
        features = Features({name: FEATURES[name] for name in columns_of(rows.column_names)})
        return rows if rows.features == features else rows.select_columns(list(features)).cast(features)
    except Exception as error:  # Arrow's own kinds, and the library's
        cause = " ".join(str(error).split())[:300]
        raise SourceError(
            f"{path}, split {split}, has a prepared table's columns in other types, or lacks some ({cause}); "
            "prepare it with `rec prepare --columns`"
        ) from error


def _of_saved(
    tables: Mapping[str, "datasets.Dataset"], split: str, path: Path, image_path: str | None, on_bad_record: str
) -> Table:
    split = _known_split(str(path), split, tuple(tables))
    rows = _in_schema(tables[split], path, split)
    if rows._indices is not None:  # shuffled or filtered: row access here goes to the table itself
        rows = rows.flatten_indices()
    rows = usable_rows(rows, on_bad_record, f"{path}, split {split}")
    files = parquet_files(path).get(split) or _mapped_files(tables[split])
    content = content_of(file_digests(files))
    root = _image_root(rows, image_path, "", path)
    return Table(rows, root, rows._fingerprint, tuple(tables), content=content)


def _prepared_in_cache(source: Source, split: str, with_masks: bool, on_bad_record: str, allow_paths: bool) -> Path:
    splits = None if source.files else [split]  # drawn scenes cost time per split, files are read whole anyway
    key = (
        f"{identity(source)}-{on_bad_record}"
        + ("-masks" if with_masks else "")
        + ("-paths" if allow_paths else "")
        + ("-weights" if source.options.get("kind") == "tabular" else "")  # earlier versions left them out
        + ("" if splits is None else f"-{split}")
    )
    folder = cache_place(f"{re.sub(r'[^A-Za-z0-9+]', '_', source.name)}-{key}")
    if (folder / INFO_FILE).is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    temporary.chmod(default_mode(folder=True))  # mkdtemp makes it private; the cache may be shared
    try:
        options: dict[str, Any] = {"on_bad_record": on_bad_record, "allow_paths": allow_paths}
        info = prepare(source, temporary, splits=splits, with_masks=with_masks, **options)
        for name in info["splits"]:
            for line in report_of(info, name).warnings():
                logger.warning("%s, split %s: %s", source.name, name, line)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / INFO_FILE).is_file():  # otherwise another process was faster with the same work
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
