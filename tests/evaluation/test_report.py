"""The HTML report and the pictures: complete, self-contained, small, quick, and safe against what phrases contain."""

import re
import time

import numpy as np
import pytest
from evaluation_toy import ToyModel, ToySplit
from PIL import Image
from torch.utils.data import DataLoader

from rec.evaluation import evaluate
from rec.evaluation.pictures import PREDICTED, TRUE, annotate, grid, picture_of, prediction_grid
from rec.evaluation.report import groupings, overlap, write_report


def run(length, with_masks=False):
    dataset = ToySplit(length, with_masks)
    model = ToyModel(with_masks)
    return dataset, evaluate(model, DataLoader(dataset, 64), dataset, mean=[0, 0, 0], std=[1, 1, 1])[1]


def test_five_thousand_predictions_make_a_small_page_that_opens_offline(tmp_path):
    dataset, records = run(5000)
    started = time.perf_counter()
    write_report(tmp_path / "deep" / "report.html", {"val": dataset}, {"val": records}, "toy")
    assert time.perf_counter() - started < 30
    page = (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    assert len(page) < 10 << 20
    addresses = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']{1,40})|url\(([^)]*)\)", page)
    assert addresses and all(address.startswith("data:") for address, _ in addresses), (
        "nothing is loaded from elsewhere"
    )
    shown = ("Acc@0.5", "phrase length", "object size", "kind of words", "IoU with", "Calibration", "Worst", "Best")
    for part in shown:
        assert part in page, part
    assert page.count("<img") == 36


def test_what_a_phrase_contains_cannot_run_in_the_page(tmp_path):
    dataset, records = run(3)
    records[0]["sentence"] = '<script>alert("x")</script>'
    write_report(tmp_path / "r.html", {"a<b": dataset}, {"a<b": records}, "<i>title</i>")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<i>" not in page and "a&lt;b" in page


def test_segmentation_records_are_judged_by_their_masks(tmp_path):
    dataset, records = run(4, with_masks=True)
    for record in records:
        record["iou"] = record["box"] = None
    assert 0.5 < overlap(records[0]) <= 1
    write_report(tmp_path / "r.html", {"val": dataset}, {"val": records}, "masks")
    assert "mask_mIoU" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("sentence", "length", "kinds"),
    [
        ("left zebra", "1-2 words", ["spatial words"]),
        (
            "the big red circle left of the square",
            "8-12 words",
            ["spatial words", "attribute words", "relational words"],
        ),
        ("zebra", "1-2 words", ["none of these"]),
    ],
)
def test_phrases_are_grouped_by_length_and_kind_of_words(sentence, length, kinds):
    record = {"sentence": sentence, "target": [0, 0, 10, 10]}
    groups = groupings([record])
    assert groups["phrase length"](record) == [length] and groups["kind of words"](record) == kinds


def test_objects_are_grouped_into_quarters_by_size():
    records = [{"sentence": "a", "target": [0, 0, side, side]} for side in range(1, 101)]
    by_size = groupings(records)["object size (square root of the box area)"]
    names = [by_size(record)[0][:9] for record in records]
    assert [names.count(f"quarter {number}") for number in (1, 2, 3, 4)] == [25, 25, 25, 25]


def test_a_picture_shows_both_boxes_in_place_and_the_phrase():
    dataset, records = run(8)
    record = records[7]
    picture = np.asarray(picture_of(dataset, record, side=300))
    geometry, _ = dataset.truth(7)
    scale = 300 / max(geometry[:2])
    for key, tint in (("target", TRUE), ("box", PREDICTED)):
        left, top, right, _ = (round(v * scale) for v in record[key])
        row = picture[min(top + 1, 299), left + 5 : right - 5]
        assert (np.abs(row.astype(int) - tint).sum(1) < 30).mean() > 0.5, key
    caption = picture[round(geometry[0] * scale) :]
    assert caption.shape[0] > 20 and (caption < 100).any()


def test_boxes_beyond_the_image_and_upside_down_can_be_drawn():
    image = np.zeros((40, 60, 3), np.uint8)
    picture = annotate(
        image, [([-50, -5, 500, 90], TRUE, "a label"), ([30, 30, 10, 10], PREDICTED, ""), (None, TRUE, "x")]
    )
    assert picture.size == (60, 40) and not image.any()


def test_the_grid_samples_the_split_evenly():
    dataset, records = run(50)
    sheet = prediction_grid(dataset, records, count=7)
    assert sheet.width > 6 * 150 and sheet.height > 2 * 150
    with pytest.raises(ValueError, match="at least one"):
        grid([])
    assert grid([Image.new("RGB", (10, 10))] * 5, columns=2, gap=1).size == (23, 34)
