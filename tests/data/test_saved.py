"""Tables in the schema that others wrote: checked like every other row, on whole columns."""

import math
import time

import numpy as np
import pytest
from data_toys import make_jsonl, row, write_image

from rec.data import masks
from rec.data.dataset import RefCOCODataSet
from rec.data.prepare import prepare
from rec.data.saved import usable_rows
from rec.data.schema import FEATURES, BadRecord, attempt, validate_row
from rec.data.sources import SourceError
from rec.data.tables import open_source, open_table

GOOD = [
    row(ref_id="0"),
    row(ref_id="1", bbox=[-0.5, 0, 120.8, 90.5]),
    row(ref_id="2", mask=masks.encode(np.ones((90, 120), bool)), sentences=["a", "b"]),
    row(ref_id="3", bbox=[0, 0, 1.5, 1.5]),
    row(ref_id="4", image={"path": None, "bytes": b"x"}, ann_id="7", category="c"),
]
BAD = {
    "no image": row(image={"path": None, "bytes": None}),
    "no id": row(image_id=None),
    "no ref id": row(ref_id=""),
    "no source": row(source=None),
    "no width": row(width=None),
    "no size": row(height=0),
    "no box": row(bbox=None),
    "box of nothing": row(bbox=[math.nan, 1, 2, 3]),
    "infinite box": row(bbox=[1, 1, math.inf, 3]),
    "empty box": row(bbox=[10, 10, 0, 5]),
    "box outside": row(bbox=[100, 20, 30, 40]),
    "box that touches": row(bbox=[120, 20, 1, 40]),
    "fractions": row(bbox=[0.1, 0.2, 0.3, 0.4]),
    "no phrase": row(sentences=None),
    "no phrases": row(sentences=[]),
    "blank phrase": row(sentences=["red box", " \t"]),
    "null phrase": row(sentences=["red box", None]),
    "mask of another size": row(mask=masks.encode(np.ones((120, 90), bool))),
}


def table(rows):
    import pyarrow as pa
    from datasets import Dataset

    return Dataset(pa.Table.from_pylist(rows, FEATURES.arrow_schema))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_of_a_saved_table_is_found(name):
    assert isinstance(attempt(validate_row, BAD[name]), BadRecord)
    rows = table([*GOOD, BAD[name] | {"ann_id": "bad"}, *GOOD[:2]])
    with pytest.raises(BadRecord, match=r"mine, row 5 \(ref_id .*on_bad_record: skip"):
        usable_rows(rows, "raise", "mine")
    assert [r["ref_id"] for r in usable_rows(rows, "skip", "mine")] == ["0", "1", "2", "3", "4", "0", "1"]


def test_good_rows_are_left_as_they_are(caplog):
    rows = table(GOOD)
    assert usable_rows(rows, "raise", "mine") is rows
    everything = table([*GOOD, *BAD.values()])
    assert usable_rows(everything, "skip", "mine").to_list() == rows.to_list()
    assert "skipped 2 records: box outside image" in caplog.text


def test_two_hundred_thousand_rows_take_less_than_a_second():
    import pyarrow as pa
    from datasets import Dataset

    thousand = table([row(ref_id=str(n)) for n in range(1000)]).data.table
    rows = Dataset(pa.concat_tables([thousand] * 200))
    start = time.process_time()
    assert usable_rows(rows, "raise", "mine") is rows
    assert time.process_time() - start < 1


def test_bad_rows_are_told_or_left_out_when_a_saved_table_is_opened(tmp_path):
    write_image(tmp_path / "a.jpg", 120, 90)
    image = {"path": str(tmp_path / "a.jpg"), "bytes": None}
    table([row(image=image), row(image=image, ref_id="8", sentences=[])]).save_to_disk(tmp_path / "saved")
    with pytest.raises(BadRecord, match=r"saved, split train, row 1 \(ref_id 8"):
        open_table(tmp_path / "saved", "train", name="mine")
    spec = {"path": str(tmp_path / "saved"), "on_bad_record": "skip"}
    dataset = RefCOCODataSet("mine", spec, input_shape=[64, 64])
    assert len(dataset) == 1 and dataset[0]["image"].shape == (3, 64, 64)


def test_a_split_without_objects_is_an_error(tmp_path):
    lines = [
        {"image": "a.jpg", "phrase": "box", "bbox": [10, 20, 30, 40], "split": split} for split in ("train", "val")
    ]
    source = open_source(
        {"path": make_jsonl(tmp_path, [lines[0], lines[1] | {"bbox": []}]), "bbox_format": "xywh"}, name="x"
    )
    prepare(source, tmp_path / "out", on_bad_record="skip", progress=False)
    with pytest.raises(SourceError, match="data set 'x' has no object in split 'val'"):
        RefCOCODataSet("x", str(tmp_path / "out"), split="val", input_shape=[64, 64])
    table([]).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(SourceError, match=r"x\.parquet .*has no rows"):
        RefCOCODataSet("x", str(tmp_path / "x.parquet"), input_shape=[64, 64])


def test_columns_of_other_types_and_broken_files_are_named(tmp_path):
    from datasets import Dataset

    Dataset.from_list([dict.fromkeys(FEATURES, "text")]).save_to_disk(tmp_path / "saved")
    with pytest.raises(SourceError, match="a prepared table's columns in other types"):
        open_table(tmp_path / "saved", "train", name="mine")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no table at all PAR1")
    with pytest.raises(SourceError, match=r"x\.parquet cannot be read as parquet"):
        open_table(tmp_path / "x.parquet", "train", name="mine")
