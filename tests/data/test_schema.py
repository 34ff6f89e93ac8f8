"""Which rows are fit to train on, and what is said about those that are not."""

import math

import numpy as np
import pytest
from data_toys import row

from rec.data import masks
from rec.data.schema import BadRecord, Report, Seen, clean_rows, validate_row


def rle(height=90, width=120, box=(10, 20, 30, 40)):
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
    return masks.encode(mask)


BAD = {
    "no image": {"image": {"path": None, "bytes": None}},
    "bad image size": {"width": 0},
    "bad box": {"bbox": [math.nan, 1, 2, 3]},
    "empty box": {"bbox": [10, 10, 0, 5]},
    "box outside image": {"bbox": [100, 20, 30, 40]},
    "empty phrase": {"sentences": ["red box", "  "]},
    "bad mask": {"mask": rle(height=91)},
    "empty mask": {"mask": rle(box=(0, 0, 0, 0))},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_refused_with_its_reason(reason):
    with pytest.raises(BadRecord) as caught:
        validate_row(row(**BAD[reason]))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "bbox", [[10, 10, -3, 5], [-20, 10, 30, 5], [math.inf, 0, 1, 1], [1, 2, 3], None, "box", [1, 2, 3, "x"]]
)
def test_boxes_that_are_none_are_refused(bbox):
    with pytest.raises(BadRecord):
        validate_row(row(bbox=bbox))


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [90, 120], "counts": "abc"},
        {"size": [90, 120], "counts": ""},
        {"size": [90, 120], "counts": "é"},
        {"size": [90, 120]},
        {"counts": "0"},
        [[1, 2, 3]],
    ],
)
def test_broken_rle_is_refused(mask):
    with pytest.raises(BadRecord, match="bad mask"):
        validate_row(row(mask=mask))


def test_a_cut_rle_is_refused():
    mask = rle()
    with pytest.raises(BadRecord, match="cut short"):
        validate_row(row(mask=mask | {"counts": mask["counts"][:-2]}))


@pytest.mark.parametrize("sentence", ["🦊 左边的人", "עברית", "word " * 10_000, "...", "a"])
def test_any_text_is_a_phrase(sentence):
    assert validate_row(row(sentences=[sentence]))["sentences"] == [sentence]


def test_annotators_rounding_is_no_fault():
    assert validate_row(row(bbox=[-0.3, 0, 120.8, 90.5]))["bbox"][0] == pytest.approx(-0.3)


def test_raise_names_place_record_and_ids():
    rows = [row(), row(ref_id="8", bbox=[0, 0, 0, 0])]
    with pytest.raises(BadRecord, match=r"mine, split train, record 1 \(ref_id 8, image_id 1\).*--on-bad-record skip"):
        list(clean_rows(rows, "raise", where="mine, split train"))


def test_skip_counts_by_reason_and_keeps_the_rest():
    report = Report()
    rows = [
        row(),
        row(ref_id="8", bbox=[0, 0, 0, 0]),
        BadRecord("missing image", "there is no file x"),
        row(ref_id="9"),
    ]
    kept = list(clean_rows(rows, "skip", report))
    assert [r["ref_id"] for r in kept] == ["7", "9"]
    assert report.skipped == {"empty box": 1, "missing image": 1}
    assert report.rows == 2
    assert any("missing image" in line and "there is no file x" in line for line in report.warnings())


def test_an_id_may_not_come_twice():
    with pytest.raises(BadRecord, match="same ref_id"):
        list(clean_rows([row(), row()]))


def test_a_ref_in_training_and_evaluation_is_refused_and_in_two_tests_is_not():
    seen = Seen()
    list(clean_rows([row(ref_id="1")], split="train", seen=seen))
    list(clean_rows([row(ref_id="2")], split="testA", seen=seen))
    assert len(list(clean_rows([row(ref_id="2")], split="testC", seen=seen))) == 1
    with pytest.raises(BadRecord, match="in split train too"):
        list(clean_rows([row(ref_id="1")], split="val", seen=seen))


def test_an_image_id_is_of_one_image():
    other = row(ref_id="8", image={"path": "b.jpg", "bytes": None})
    with pytest.raises(BadRecord, match=r"image_id 1 is b\.jpg here and a\.jpg before"):
        list(clean_rows([row(), other]))
    assert len(list(clean_rows([row(), other | {"image_id": "2"}]))) == 2


def test_xyxy_given_as_xywh_is_suspected():
    rows = [row(ref_id=str(n), bbox=[10, 10, 60 + n, 80] if n % 3 else [60, 50, 110, 85]) for n in range(30)]
    report = Report()
    list(clean_rows(rows, "skip", report))
    assert any("probably holds xyxy" in line for line in report.warnings())


def test_xywh_is_not_suspected_for_a_few_bad_boxes():
    rows = [row(ref_id=str(n), bbox=[10, 10, 30, 40] if n else [100, 10, 110, 40]) for n in range(30)]
    report = Report()
    list(clean_rows(rows, "skip", report))
    assert not any("xyxy" in line and "probably" in line for line in report.warnings())
