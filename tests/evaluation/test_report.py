"""The HTML report and the pictures: complete, self-contained, small, quick, and safe against what phrases contain."""

import json
import re

import numpy as np
import pytest
from evaluation_toy import ToyModel, ToySplit
from PIL import Image
from torch.utils.data import DataLoader

from rec.evaluation import evaluate
from rec.evaluation.pictures import PREDICTED, TRUE, annotate, grid, picture_of, prediction_grid
from rec.evaluation.report import Other, _order, groupings, overlap, write_report


def run(length, with_masks=False):
    dataset = ToySplit(length, with_masks)
    model = ToyModel(with_masks)
    return dataset, evaluate(model, DataLoader(dataset, 64), dataset, mean=[0, 0, 0], std=[1, 1, 1])[1]


def page_of(path, *arguments, **options):
    write_report(path, *arguments, **options)
    return path.read_text(encoding="utf-8")


def test_a_thousand_predictions_make_a_small_page_that_opens_offline(tmp_path):
    dataset, records = run(1000)
    about = {"Version": "rec <0.1>"}
    page = page_of(tmp_path / "deep" / "report.html", {"val": dataset}, {"val": records}, "toy on val", about)
    assert len(page) < 3 << 20
    addresses = re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']{1,40})|url\(([^)]*)\)", page)
    assert addresses and all(address.startswith("data:") for address, _ in addresses), (
        "nothing is loaded from elsewhere"
    )
    shown = ("Acc@0.5", "phrase length", "object size", "kind of words", "IoU with", "Calibration", "Worst", "Best")
    for part in (*shown, "<title>toy on val</title>", "rec &lt;0.1&gt;"):
        assert part in page, part
    assert len(re.findall(r">(\d+)\.jpg, ref r\1<", page)) == 48, "file and ref id under every picture"
    rows = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page)[1])
    assert len(rows) == 1000 and rows[7][:3] == ["thing 7 very red very red", "7.jpg", "r7"]
    assert rows[7][3:5] == [round(records[7]["iou"], 3), round(records[7]["score"], 3)]


def test_scores_that_are_no_shares_have_no_calibration(tmp_path):
    dataset, records = run(30)
    for score in (87.0, -2.5):
        page = page_of(
            tmp_path / "r.html", {"val": dataset}, {"val": [*records[:-1], records[-1] | {"score": score}]}, "toy"
        )
        assert "Calibration" not in page and "Worst" in page


@pytest.mark.parametrize(
    ("phrase", "words"),
    [("la niña pequeña", "3-4 words"), ("größter Löwe", "1-2 words"), ("собака слева от дома", "3-4 words")],
)
def test_words_of_other_languages_are_counted_whole(phrase, words):
    assert groupings([])["phrase length"]({"sentence": phrase}) == [words]


def test_few_phrases_are_told_with_how_little_is_known_from_them(tmp_path):
    dataset, records = run(8)
    for record in records:
        record["iou"] = 0.9
        record["source"] = "scenes" if record["index"] < 5 else "toy"
    page = re.sub("<.*?>", " ", page_of(tmp_path / "r.html", {"val": dataset}, {"val": records}, "toy"))
    low = 100 * 0.025 ** (1 / 5)
    assert re.search(rf"scenes\s+5\s+100.00\s+{low:.1f} to 100.0", page), "five of five are no 100 %"


def test_what_a_phrase_contains_cannot_run_in_the_page(tmp_path):
    dataset, records = run(3)
    records[0]["sentence"] = '</script><script>alert("x")</script>'
    page = page_of(tmp_path / "r.html", {"a<b": dataset}, {"a<b": records}, "<i>title</i>")
    assert "<script>alert" not in page and page.count("</script>") == 2, "the page's own"
    assert "<i>" not in page and "a&lt;b" in page


def test_segmentation_records_are_judged_by_their_masks(tmp_path):
    dataset, records = run(4, with_masks=True)
    for record in records:
        record["iou"] = record["box"] = None
    assert 0.5 < overlap(records[0]) <= 1
    assert "mask_mIoU" in page_of(tmp_path / "r.html", {"val": dataset}, {"val": records}, "masks")


def test_the_worst_have_heat_maps_and_other_answers_stand_beside(tmp_path):
    dataset, records = run(60)
    others = [dict(record, iou=0.9 if record["index"] in (8, 9) else 0.0) for record in records]
    asked = []

    def look(split, indices):
        asked.append((split, list(indices)))
        return {index: np.eye(4, dtype=np.float32) for index in indices}

    page = page_of(
        tmp_path / "r.html",
        {"val": dataset},
        {"val": records},
        "toy",
        other=Other("theirs.jsonl", {"val": others}),
        look=look,
    )
    worst = sorted(range(60), key=lambda i: (records[i]["iou"], -records[i]["score"]))[:24]
    assert [(split, sorted(indices)) for split, indices in asked] == [("val", sorted(worst))]
    assert page.count('class="heat"') == 24 and page.count('<span class="mark dotted"') == 14
    won = sum(record["iou"] > 0.5 for record in records)
    lost = sum(records[i]["iou"] <= 0.5 for i in (8, 9))
    assert f"Won: {won - (2 - lost)} phrases" in page and f"Lost: {lost} phrases" in page and lost


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
    assert sorted(["12²", "2²", "a 10 b", "a 9 b"], key=_order) == ["2²", "12²", "a 9 b", "a 10 b"]
    groups = groupings([record])
    assert groups["phrase length"](record) == [length] and groups["kind of words"](record) == kinds


def test_objects_are_grouped_by_sizes_that_are_the_same_for_all_data():
    by_size = groupings([{}])["object size (COCO's classes)"]
    sides = (31, 32, 95, 96)
    names = [by_size({"target": [0, 0, side, side]})[0] for side in sides]
    assert names == ["small, below 32² px", "medium, below 96² px", "medium, below 96² px", "large, from 96² px"]


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


def test_the_grid_samples_the_split_evenly_in_rows_without_gaps():
    dataset, records = run(50)
    assert prediction_grid(dataset, records, count=12).width > 6 * 150
    with pytest.raises(ValueError, match="at least one"):
        grid([])
    assert grid([Image.new("RGB", (10, 10))] * 6, columns=3, gap=1).size == (34, 23)
    sizes = [(40, 60), (90, 50), (70, 70), (30, 80), (120, 40), (64, 64), (50, 90)]
    sheet = np.asarray(grid([Image.new("RGB", size) for size in sizes], columns=4, gap=2)).min(2)
    rows = sheet[:, sheet.shape[1] // 2 - 9 : sheet.shape[1] // 2 + 9].min(1) == 0
    assert (~rows).sum() == 3 * 2 and [(line > 0).sum() for line in sheet[[40, -40]]] in ([10, 8], [8, 10])
