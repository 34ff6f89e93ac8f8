"""Which rows are fit to train on, and what is said about those that are not."""

import math
from datetime import datetime
from decimal import Decimal

import numpy as np
import pytest
from data_toys import row
from hypothesis import given
from hypothesis import strategies as st

from rec.data import masks
from rec.data.cleaning import Report, SeenIds, clean_rows
from rec.data.schema import BadRecord, validate_row
from rec.inference.inputs import phrases_of


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


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff \u2060", "\x00\t", "\u3000"])
def test_a_phrase_of_which_nothing_can_be_seen_is_empty(blank):
    with pytest.raises(BadRecord, match="empty phrase"):
        validate_row(row(sentences=["red box", blank]))
    with pytest.raises(ValueError, match="the phrase is empty"):
        phrases_of(["red box", blank])
    assert phrases_of("👨\u200d👩") == ["👨\u200d👩"] and validate_row(row(sentences=["?"]))["sentences"] == ["?"]


@pytest.mark.parametrize(
    "bbox",
    [[10, 10, -3, 5], [-20, 10, 30, 5], [math.inf, 0, 1, 1], [1, 2, 3], None, "box", [1, 2, 3, "x"], [True, 2, 3, 4]],
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
    with pytest.raises(BadRecord, match="earlier record, of image_id 1, has the same ref_id"):
        list(clean_rows([row(), row()]))


def test_a_ref_in_training_and_evaluation_is_refused_and_in_two_tests_is_not():
    seen = SeenIds()
    list(clean_rows([row(ref_id="1")], split="train", seen=seen))
    list(clean_rows([row(ref_id="2")], split="testA", seen=seen))
    assert len(list(clean_rows([row(ref_id="2")], split="testC", seen=seen))) == 1
    with pytest.raises(BadRecord, match="a record of image_id 1 in split train has the same ref_id"):
        list(clean_rows([row(ref_id="1")], split="val", seen=seen))


def test_an_image_id_is_of_one_image():
    other = row(ref_id="8", image={"path": "b.jpg", "bytes": None})
    with pytest.raises(BadRecord, match=r"image_id 1 is b\.jpg here and a\.jpg before"):
        list(clean_rows([row(), other]))
    assert len(list(clean_rows([row(), other | {"image_id": "2"}]))) == 2


CORNERS = [(10, 10, 60 + n, 80) if n % 3 else (60, 50, 110, 85) for n in range(30)]
AS = {
    "xywh": lambda left, top, right, bottom: [left, top, right - left, bottom - top],
    "xyxy": lambda *corners: list(corners),
    "cxcywh": lambda left, top, right, bottom: [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top],
}


def given_as(told, really):
    boxes = [(1, 1, 119, 30), (1, 60, 119, 89), (2, 1, 30, 89), *CORNERS]
    return [row(ref_id=str(n), bbox=AS[really](*box), bbox_format=told) for n, box in enumerate(boxes)]


@pytest.mark.parametrize("told", AS)
@pytest.mark.parametrize("really", AS)
def test_every_mistaken_box_format_is_suspected_and_no_true_one(told, really):
    report = Report()
    kept = list(clean_rows(given_as(told, really), "skip", report))
    suspicions = [line for line in report.warnings() if "probably holds" in line]
    if told == really:
        assert not report.skipped and not suspicions
        assert kept[0]["bbox"] == [1, 1, 118, 29]
    else:
        assert f"when read as {told}" in suspicions[0]
        assert (
            f"do when read as {really}: the source probably holds {really} (say so with --bbox-format" in suspicions[0]
        )


def test_a_box_of_the_wrong_format_is_shown_as_it_was_given():
    with pytest.raises(BadRecord, match=r"bbox \[80, 40, 30, 20\] \(xyxy\) has width -50.*would fit as xywh or cxcywh"):
        list(clean_rows([row(bbox=[100, 40, 20, 20]), row(bbox=[80, 40, 30, 20], bbox_format="xyxy", ref_id="8")]))


def test_xywh_is_not_suspected_for_a_few_bad_boxes():
    rows = [row(ref_id=str(n), bbox=[10, 10, 30, 40] if n else [100, 10, 110, 40]) for n in range(30)]
    report = Report()
    list(clean_rows(rows, "skip", report))
    assert not any("xyxy" in line and "probably" in line for line in report.warnings())


@pytest.mark.parametrize("bbox", [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0.5, 0.5, 1.0002, 1], [0.2, 0.3, 0.9, 0.95]])
@pytest.mark.parametrize("box_format", AS)
def test_fractions_are_no_boxes_in_pixels(bbox, box_format):
    with pytest.raises(BadRecord, match=r"multiply x by the image's width, 120, and y by its height, 90") as caught:
        validate_row(row(bbox=bbox, bbox_format=box_format))
    assert caught.value.reason == "box in fractions"


def test_small_boxes_that_are_in_pixels_are_kept():
    assert validate_row(row(bbox=[50, 40, 0.5, 0.4]))["bbox"] == [50, 40, 0.5, 0.4]
    assert validate_row(row(bbox=[0, 0, 1, 1], width=1, height=1))["bbox"] == [0, 0, 1, 1]


@pytest.mark.parametrize("bbox", [[120, 10, 1, 20], [-1, 10, 1, 20], [10, 90, 20, 0.5], [119.995, 10, 1, 20]])
def test_a_box_that_only_touches_the_image_is_refused(bbox):
    with pytest.raises(BadRecord, match="only touches the image of 120x90 pixels") as caught:
        validate_row(row(bbox=bbox))
    assert caught.value.reason == "box outside image"
    assert validate_row(row(bbox=[119.5, 10, 1, 20]))["bbox"] == [119.5, 10, 1, 20]


@pytest.mark.parametrize("key", ["image_id", "ref_id", "source"])
@pytest.mark.parametrize(("value", "reason"), [(None, "no id"), (math.nan, "no id"), ("", "no id"), ([1], "bad id")])
def test_an_id_that_is_none_is_refused(key, value, reason):
    with pytest.raises(BadRecord, match=key) as caught:
        validate_row(row(**{key: value}))
    assert caught.value.reason == reason


def test_zero_and_other_numbers_are_ids():
    ids = validate_row(row(image_id=0, ref_id=np.int64(7), ann_id=0, category=0))
    assert [ids[key] for key in ("image_id", "ref_id", "ann_id", "category")] == ["0", "7", "0", "0"]
    ids = validate_row(row(image_id=7.0, ref_id=Decimal("7.5"), ann_id=datetime(2024, 5, 6)))  # columns of tables
    assert [ids[key] for key in ("image_id", "ref_id", "ann_id")] == ["7", "7.5", "2024-05-06 00:00:00"]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.binary(max_size=4)
    | st.just(10**400)
    | st.just("\ud83d")
    | st.just(np.int64(3)),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["path", "bytes", "size", "counts"]), inner)
    ),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from([*row(), "bbox_format"]), ANYTHING, max_size=3), max_size=4))
def test_whatever_a_row_holds_is_written_or_counted(tmp_path_factory, changes):
    from rec.data.prepare import _of_shards, _write_shard

    changes = [{key: value for key, value in change.items() if key != "bbox_format"} for change in changes]
    rows = [row(ref_id="good"), *(row(ref_id=f"odd {n}") | change for n, change in enumerate(changes))]
    report = Report()
    kept = list(clean_rows(rows, "skip", report))
    assert kept[0]["ref_id"] == "good" and len(kept) + sum(report.skipped.values()) == len(rows)
    shard = tmp_path_factory.mktemp("shard") / "x.arrow"
    _write_shard(shard, iter(kept))
    assert len(_of_shards([shard])) == len(kept)
    assert all(line.isprintable() for line in report.warnings())
