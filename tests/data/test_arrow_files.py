"""Tables of strangers: nothing larger than the file can hold is made of it, and no broken offset is followed."""

import json
import os
import resource
import shutil
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_toys import row, write_image

from rec import trust
from rec.data.arrow_files import load_parquet, load_saved, parquet_files
from rec.data.schema import FEATURES
from rec.data.sources import SourceError
from rec.data.tables import open_source, open_table


def saved(folder, **changes):
    """A `save_to_disk` folder of one row in the schema."""
    from datasets import Dataset

    write_image(folder.parent / "a.jpg", 120, 90)
    image = {"path": str(folder.parent / "a.jpg"), "bytes": None}
    Dataset.from_list([row(image=image, **changes)], FEATURES).save_to_disk(folder)
    return folder


def test_parquet_is_read_as_the_library_reads_it(tmp_path):
    from datasets import Dataset, load_dataset

    saved(tmp_path / "saved")
    table = Dataset.load_from_disk(tmp_path / "saved")
    for number in range(2):
        table.to_parquet(tmp_path / f"x-{number}.parquet")
    files = [tmp_path / f"x-{number}.parquet" for number in range(2)]
    ours, theirs = load_parquet(files), load_dataset("parquet", data_files=[str(f) for f in files], split="train")
    assert ours.features == theirs.features == FEATURES
    assert ours.to_list() == theirs.to_list()
    assert load_parquet(files)._fingerprint == ours._fingerprint != load_parquet(files[:1])._fingerprint


def test_categories_become_texts(tmp_path):
    table = pa.table({"image": pa.array(["a.jpg", "b.jpg", "a.jpg"]).dictionary_encode(), "bbox": [[1.0, 2, 3, 4]] * 3})
    pq.write_table(table, tmp_path / "x.parquet")
    assert load_parquet([tmp_path / "x.parquet"])["image"][:] == ["a.jpg", "b.jpg", "a.jpg"]


def test_shards_may_write_one_column_in_types_of_one_kind(tmp_path):
    files = [tmp_path / f"train-0000{number}-of-00002.parquet" for number in range(2)]
    pq.write_table(pa.table({"bbox": [[10, 20, 30, 40]], "category": pa.array([None]), "text": ["a"]}), files[0])
    wider = {"text": pa.array(["b"], pa.large_string()), "category": ["dog"], "bbox": [[10.5, 20, 30, 40]], "more": [1]}
    pq.write_table(pa.table(wider), files[1])
    rows = list(load_parquet(files))
    assert [row["bbox"][0] for row in rows] == [10, 10.5] and [row["category"] for row in rows] == [None, "dog"]
    assert list(rows[1]) == ["bbox", "category", "text"]
    for odd, told in (
        ({"bbox": ["x"], "category": ["a"], "text": ["a"]}, "has columns of other types than .*00000-of"),
        (
            {"bbox": [[1]], "text": ["a"]},
            "lacks the column category, which .*00000-of",
        ),
    ):
        pq.write_table(pa.table(odd), files[1])
        with pytest.raises(SourceError, match=f"00001-of-00002.parquet {told}"):
            load_parquet(files)


def test_a_shard_has_the_name_of_its_split_also_where_it_is_the_only_one(tmp_path):
    for name in ("test-00000-of-00001.parquet", "._test-00000-of-00001.parquet"):
        (tmp_path / name).write_bytes(b"")
    assert list(parquet_files(tmp_path)) == ["test"]
    (tmp_path / "test-00000-of-00001.parquet").rename(tmp_path / "boxes.parquet")
    assert list(parquet_files(tmp_path)) == ["train"]
    for file, split in (("val-00000-of-00001-0a1b2c3d4e5f6789", "val"), ("test-2-00000-of-00001", "test-2")):
        next(tmp_path.glob("[!.]*.parquet")).rename(tmp_path / f"{file}.parquet")
        assert list(parquet_files(tmp_path)) == [split]
    (tmp_path / "x.parquet").mkdir()
    for name in (
        "part-00000-0a1b-c000.snappy",
        "part-00001-0a1b-c000.snappy",
        "part.0",
        "part.1",
    ):  # Spark's and dask's
        (tmp_path / "x.parquet" / f"{name}.parquet").write_bytes(b"")
    assert {split: len(files) for split, files in parquet_files(tmp_path / "x.parquet").items()} == {"train": 4}
    assert list(parquet_files(tmp_path / "X.PARQUET")) == ["train"]


@pytest.mark.parametrize("compression", ["zstd", "snappy"])
def test_more_rows_than_a_file_can_hold_are_refused_before_they_are_made(tmp_path, compression):
    table = pa.table({"image": pa.array(["a.jpg"]).take(pa.array([0] * 3_000_000, pa.int8()))})
    pq.write_table(table, tmp_path / "x.parquet", compression=compression)
    size = (tmp_path / "x.parquet").stat().st_size
    assert size < 100_000
    with pytest.raises(SourceError, match=r"x\.parquet says it has 3,000,000 rows"):
        load_parquet([tmp_path / "x.parquet"])


def test_a_long_value_for_all_rows_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "SMALL_TABLE", 1 << 20)
    values = pa.array(["x" * 100_000]).take(pa.array([0] * 3000, pa.int16()))
    pq.write_table(pa.table({"phrase": values.dictionary_encode()}), tmp_path / "x.parquet", compression="zstd")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match=r"more than 100 times the file|bytes in all"):
        load_parquet([tmp_path / "x.parquet"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250 << 10


@pytest.mark.parametrize("damage", ["cut", "head", "empty", "fifo", "rows"])
def test_broken_parquet_is_named(tmp_path, damage):
    file = tmp_path / "train.parquet"
    rows = [{"image": "a.jpg", "bbox": [1.0, 2, 3, 4], "phrase": "box"}]
    pq.write_table(pa.Table.from_pylist(rows if damage != "rows" else [], pa.Table.from_pylist(rows).schema), file)
    data = file.read_bytes()
    file.write_bytes({"cut": data[:-20], "head": data[:4] + data[8:], "empty": b""}.get(damage, data))
    if damage == "fifo":
        file.unlink()
        os.mkfifo(file)
    with pytest.raises(SourceError, match=r"train\.parquet"):
        open_source({"path": file}, name="mine")


LENGTH = 0x4711  # of a text, so that its offset can be found among the bytes of its file


def with_offsets(offsets, folder):
    """Replaces the one Arrow file of a saved folder: a column of one text whose offsets are these."""
    schema = pa.schema([("image", pa.string()), ("bbox", pa.list_(pa.float32())), ("phrase", pa.string())])
    batch = pa.RecordBatch.from_pylist([{"image": "a.jpg", "bbox": [1, 2, 3, 4], "phrase": "x" * LENGTH}], schema)
    (file,) = folder.glob("*.arrow")
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write(batch)
    head, found, rest = file.read_bytes().rpartition(struct.pack("<ii", 0, LENGTH))
    assert found
    file.write_bytes(head + struct.pack("<ii", *offsets) + rest)
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize("offsets", [[0, 10**9], [-(10**9), 3], [3, 0], [0, LENGTH]])
def test_offsets_that_lead_out_of_a_table_are_found_before_they_are_followed(tmp_path, offsets):
    folder = saved(tmp_path / "saved")
    with_offsets(offsets, folder)
    if offsets == [0, LENGTH]:
        assert next(iter(open_source(folder, name="mine").read("train")))["sentences"] == "x" * LENGTH
    else:
        with pytest.raises(SourceError, match="saved cannot be read as a saved table"):
            open_source(folder, name="mine")


@pytest.mark.parametrize(
    "state",
    [
        {"_data_files": [{"filename": "../other/data-00000-of-00001.arrow"}]},
        {"_data_files": [{"filename": "/etc/passwd"}]},
        {"_data_files": [{"filename": "pipe"}]},
        {"_data_files": [{"filename": 3}]},
        {"_data_files": []},
        {"_data_files": "x"},
        [],
    ],
    ids=range(7),
)
def test_a_saved_table_names_only_files_of_its_own_folder(tmp_path, state):
    saved(tmp_path / "other")
    folder = saved(tmp_path / "saved")
    os.mkfifo(folder / "pipe")
    old = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    (folder / "state.json").write_text(json.dumps(old | state if isinstance(state, dict) else state), encoding="utf-8")
    with pytest.raises(SourceError, match="saved"):
        load_saved(folder)


def test_prepared_tables_are_validated_too(tmp_path):
    from rec.data.prepare import prepare

    write_image(tmp_path / "a.jpg", 120, 90)
    (tmp_path / "x.jsonl").write_text('{"image": "a.jpg", "phrase": "box", "bbox": [1, 2, 30, 40]}\n', encoding="utf-8")
    source = open_source({"path": tmp_path / "x.jsonl", "bbox_format": "xywh"}, name="mine")
    prepare(source, tmp_path / "out", progress=False)
    with_offsets([0, 1_000_000_000], tmp_path / "out" / "train")
    with pytest.raises(SourceError, match="train cannot be read"):
        open_table(tmp_path / "out", "train", name="mine")


def test_pictures_of_a_foreign_table_are_decoded_by_our_rule_alone(tmp_path, monkeypatch):
    from datasets import Dataset, Features, Image, List, Value
    from PIL import EpsImagePlugin

    from rec.data.prepare import prepare

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n"
    write_image(tmp_path / "a.jpg", 120, 90)
    features = Features(image=Image(), mask=Image(), bbox=List(Value("float32")), phrase=Value("string"))
    good, bad = {"bytes": (tmp_path / "a.jpg").read_bytes(), "path": None}, {"bytes": eps, "path": "a.png"}
    for number, (image, mask) in enumerate([(bad, None), (good, bad)]):
        line = {"image": image, "mask": mask, "bbox": [1, 2, 30, 40], "phrase": "box"}
        Dataset.from_list([line], features).save_to_disk(tmp_path / "table")
        source = open_source(tmp_path / "table", name="mine")
        with pytest.raises(ValueError, match="is not an image in a known format"):
            prepare(source, tmp_path / f"out{number}", progress=False)
        shutil.rmtree(tmp_path / "table")
