"""Parquet files, ``datasets.save_to_disk`` folders and metadata of images: ours, and those that somebody else may have written.

A parquet file is turned once into an Arrow file in the cache of the ``datasets`` library, a few rows at a time: columns
may repeat one long value for all rows, which take no room in the file. An Arrow file is mapped, and its offsets are
validated before anything follows them: a broken one would end the process.
"""

import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rec import trust
from rec.data.content import cache_place
from rec.data.sources import SourceError, check_split_names, find_split, load_json
from rec.files import link_or_copy, whole_file, write_json

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

_ROWS_AT_ONCE = 64
_SPLITS = ("train", "val", "test")
# The files of a prepared folder; cache-….arrow are the library's, and hidden ones a file system's, or were being written when a
# preparation was killed.
_OF_A_TABLE = re.compile(
    r"prepared\.json|dataset_dict\.json|images\.u8|image_digests-[^/]+\.arrow|[^/]+-\d{5}-of-\d{5}\.parquet|images/\d+/\d+\.jpg"
    r"|[^/]+/(data-\d{5}-of-\d{5}\.arrow|cache-[^/]+\.arrow|state\.json|dataset_info\.json)|\.partial/.*"
    r"|(.*/)?\.(DS_Store|directory|localized|(_|nfs|fuse_hidden)[^/]*|[^/]+\.[a-z0-9_]{8}\.[a-z0-9]+)"
)


def load_parquet(files: Sequence[Path]) -> "datasets.Dataset":
    """One table of the rows of all files, with the columns of the first, in types that hold what all of them have.

    Its fingerprint is of the files' names, sizes and modification times.

    Raises:
        SourceError: broken, no rows, or more than the limits of :mod:`rec.trust`.
    """
    from datasets import Dataset

    try:
        key = _identity(files)
        copy = cache_place(f"parquet-{key}.arrow")
        if not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(copy) as temporary:
                _copy(files, temporary)
        table = Dataset.from_file(str(copy))
    except SourceError:
        raise
    except Exception as error:  # Arrow and the library raise a dozen kinds
        if isinstance(error, OSError) and error.filename not in (None, *map(os.fspath, files)):  # of the cache
            raise
        raise _broken(files[0] if files else "nothing", "parquet", error) from error
    if not len(table):
        raise SourceError(f"{files[0]} has no rows: get the file again, or leave it out")
    return Dataset(table.data, table.info, fingerprint=key)


def _identity(files: Sequence[Path]) -> str:
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def check_parquet(file: Path) -> int:
    """The number of rows a parquet file says it has, if they can be in it.

    Raises:
        SourceError: no regular file, or more rows or content than its size can hold.
    """
    import pyarrow.parquet as parquet

    size = trust.regular_file(file, "table").stat().st_size
    about = parquet.read_metadata(file.absolute())  # a relative name with a colon would be an address
    content = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    if about.num_rows > size or content > trust.MAX_EXPANSION * size + trust.SMALL_TABLE:
        raise SourceError(
            f"{file} says it has {about.num_rows:,} rows of {content:,} bytes in all, in {size:,} bytes: it would fill the "
            "disk; get it from somebody else"
        )
    return about.num_rows


def as_patterns(files: Sequence[Path]) -> list[str]:
    """Files for ``load_dataset``, which takes names for patterns and ``name:`` for a protocol."""
    return [glob.escape(os.path.abspath(file)) for file in files]


def _copy(files: Sequence[Path], target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    for file in files:
        check_parquet(file)
    schema = _shared_schema(files)
    with pa.OSFile(str(target), "wb") as sink:
        writer = pa.ipc.new_stream(sink, schema)
        for file in files:
            room = trust.MAX_EXPANSION * file.stat().st_size + trust.SMALL_TABLE
            opened = parquet.ParquetFile(file.absolute())
            for batch in opened.iter_batches(_ROWS_AT_ONCE):
                room -= batch.nbytes
                if room < 0:
                    raise SourceError(
                        f"the rows of {file} are more than {trust.MAX_EXPANSION} times the file: it would fill the disk; get "
                        "it from somebody else"
                    )
                writer.write_table(pa.Table.from_batches([batch]).select(schema.names).cast(schema))
        writer.close()


def _shared_schema(files: Sequence[Path]) -> "pa.Schema":
    """The first file's columns, as wide as all files need them: one shard may have whole numbers alone, or nothing but nulls.

    Raises:
        SourceError: another file lacks one, or has it in a type of another kind.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = names = None
    for file in files:
        own = _without_dictionaries(parquet.read_schema(file.absolute()))
        if schema is None or names is None:
            schema, names = own, own.names
            continue
        if missing := [name for name in names if name not in own.names]:
            raise SourceError(
                f"{file} lacks the column {missing[0]}, which {files[0]} has: they are not shards of one table"
            )
        try:
            columns = pa.schema([own.field(name) for name in names])
            schema = pa.unify_schemas([schema, columns], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            cause = " ".join(str(error).split())[:300]
            raise SourceError(
                f"{file} has columns of other types than {files[0]} ({cause}): write all in the same"
            ) from None
    return schema


def _without_dictionaries(schema: "pa.Schema") -> "pa.Schema":
    """Columns of categories become columns of their values: the library knows no others."""
    import pyarrow as pa

    for number, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            schema = schema.set(number, field.with_type(field.type.value_type))
    return schema


def parquet_files(path: Path) -> dict[str, list[Path]]:
    """Split to its parquet files: ``train-00000-of-00002.parquet``, ``data/val.parquet``, …; {} where there is none."""
    is_one = path.suffix.lower() == ".parquet" and not path.is_dir()  # Spark writes folders that are called so
    files = [path] if is_one else [*path.glob("*.parquet"), *path.glob("data/*.parquet")]
    files = [file for file in files if not file.name.startswith(".")]  # such as ._train.parquet of a Mac
    splits: dict[str, list[Path]] = {}
    for file in sorted(files):
        shard = re.fullmatch(r"(.+?)-\d{5}-of-\d{5}(-[0-9a-f]{16})?", file.stem)  # older libraries add a digest
        name = shard[1] if shard else re.split(r"-\d", file.stem)[0]
        # A table by itself is called anything; published shards have their split's name.
        is_split = (len(files) > 1 or (file != path and shard)) and not re.match(
            r"part[-.]\d", file.stem
        )  # Spark's, dask's
        splits.setdefault(name if is_split else "train", []).append(file)
    return splits


def load_tables(path: Path) -> dict[str, "datasets.Dataset"]:
    """Split to table, of ``save_to_disk`` folders and parquet; {} for anything else."""
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return load_saved(path)
    return {split: load_parquet(files) for split, files in parquet_files(path).items()}


def metadata_files(folder: Path) -> list[Path]:
    """``metadata.jsonl`` or ``metadata.csv`` of a folder of images, or else those of its folders, as the library knows them: they
    have a ``file_name`` for each line (https://huggingface.co/docs/datasets/image_dataset)."""
    for places in ([folder], sorted(folder.glob("[!.]*/"))):
        files = [place / f"metadata{end}" for place in places for end in (".jsonl", ".csv")]
        if found := [file for file in files if file.is_file() and b"file_name" in _first_line(file)]:
            return found
    return []


def _first_line(file: Path) -> bytes:
    with trust.open_file(file, "metadata") as stream:
        return stream.readline(trust.MAX_LINE)


def load_metadata(files: Sequence[Path], folder: Path) -> dict[str, "datasets.Dataset"]:
    """Split, as the folder of each file is called, to the table of what the file says; its ``file_name`` begins at ``folder``.

    Raises:
        SourceError: broken, or two files of one split.
    """
    from datasets import Dataset, load_dataset

    tables = dict[str, "Dataset"]()
    for file in files:
        # That of a folder alone may be called anything.
        split = file.parent.name if file.parent != folder else find_split(folder.name.lower(), _SPLITS) or "train"
        if split in tables:
            raise SourceError(f"{file} is not the only metadata of its folder: leave one of them")
        inside = file.parent.relative_to(folder)
        try:
            kind = "csv" if file.suffix == ".csv" else "json"
            table = load_dataset(kind, data_files=as_patterns([file]), split="train")
            names = [name and str(inside / name) for name in table["file_name"]]
            table = table.remove_columns("file_name").add_column("file_name", names)
            places = [str(name).partition("/")[0] for name in names]
            # One file may be of the folders of all splits.
            if "split" not in table.features and all(find_split(place.lower(), _SPLITS) for place in places):
                table = table.add_column("split", places)
        except Exception as error:  # as in load_parquet
            raise _broken(file, "metadata of images", error) from error
        tables[split] = Dataset(table.data, table.info, fingerprint=_identity([file]))
    return tables


def load_saved(folder: Path) -> dict[str, "datasets.Dataset"]:
    """Split to table, of a folder of ``Dataset.save_to_disk`` (its split is ``train``) or ``DatasetDict.save_to_disk``.

    Raises:
        SourceError: broken, or it names files elsewhere.
    """
    listed = folder / "dataset_dict.json"
    if not listed.is_file():
        return {"train": load_split(folder)}
    content = load_json(listed)
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, list):
        raise SourceError(f"{listed} does not list the splits of a saved table: get it again")
    check_split_names(splits, listed)
    return {split: load_split(folder / split) for split in splits}


def load_split(folder: Path) -> "datasets.Dataset":
    """The table of a folder of ``Dataset.save_to_disk``, memory-mapped; its columns come as they are stored.

    Raises:
        SourceError: broken, or it names files elsewhere.
    """
    from datasets import load_from_disk

    state = load_json(folder / "state.json")
    parts = state.get("_data_files") if isinstance(state, dict) else None
    parts = parts if isinstance(parts, list) else []
    names: list[Any] = [part.get("filename") if isinstance(part, dict) else None for part in parts]
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise SourceError(f"{folder / 'state.json'} does not name the files of its table: get the table again")
    try:
        for name in names:
            trust.regular_file(folder / name, "table")
        table = load_from_disk(str(folder)).with_format(None)
        table.data.table.validate(full=True)  # every offset and text; a million rows take a tenth of a second
    except Exception as error:  # as in load_parquet
        raise _broken(folder, "a saved table", error) from error
    return table


def save_tables(tables: dict[str, "datasets.Dataset"], folder: Path, parquet: bool) -> dict[str, list[Path]]:
    """Gives the shards their final place, in the layout of ``DatasetDict.save_to_disk`` or as parquet; returns the files.

    The library's own function would want every image file at hand, to estimate sizes.
    """
    from pyarrow import parquet as pq

    files: dict[str, list[Path]] = {}
    for split, table in tables.items():
        shards = [Path(entry["filename"]) for entry in table.cache_files]
        if parquet:
            files[split] = [folder / f"{split}-{n:05d}-of-{len(shards):05d}.parquet" for n in range(len(shards))]
            # Of other labels, whose preparation was interrupted here.
            for shard in {*folder.glob(f"{glob.escape(split)}-[0-9]*-of-[0-9]*.parquet")} - {*files[split]}:
                shard.unlink()
            for shard, target in zip(shards, files[split], strict=True):
                # Small row groups: a streaming reader holds one at a time, with the images in it.
                with whole_file(target) as temporary, open(temporary, "wb") as sink:
                    pq.write_table(type(table).from_file(str(shard)).data.table, sink, row_group_size=200)
            continue
        (folder / split).mkdir(exist_ok=True)
        names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
        files[split] = [folder / split / name for name in names]
        for shard, target in zip(shards, files[split], strict=True):
            link_or_copy(shard, target)
        table.info.write_to_directory(str(folder / split))
        state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": table._fingerprint}
        state |= {"_format_type": None, "_format_columns": None, "_format_kwargs": {}, "_output_all_columns": False}
        named = split if re.fullmatch(r"\w+(\.\w+)*", split) else None  # the library reads no others, such as test-dev
        write_json(folder / split / "state.json", state | {"_split": named})
    if not parquet:
        write_json(folder / "dataset_dict.json", {"splits": list(tables)})
    return files


def refuse_others(folder: Path) -> None:
    """Makes sure that a folder that is to be replaced holds nothing but a prepared table.

    Raises:
        SourceError: names a file that would be lost.
    """
    names = (
        os.path.relpath(os.path.join(place, name), folder) for place, _, files in os.walk(folder) for name in files
    )
    if others := sorted(name for name in names if not _OF_A_TABLE.fullmatch(name)):
        raise SourceError(
            f"{folder} holds {others[0]}, which is of no table and would be lost: move it, or choose another output folder"
        )


def _broken(where: object, what: str, error: Exception) -> SourceError:
    cause = " ".join(str(error.__cause__ or error).split())
    return SourceError(f"{where} cannot be read as {what} ({cause[:300]}): get it again")
