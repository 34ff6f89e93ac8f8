"""Metrics: the original's numbers, strict thresholds, masks on their way back to the image."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rec import boxes
from rec.evaluation import masks, metrics

RECORDED = Path(__file__).parent / "original_numbers.json"  # what the original SimREC code computes


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def test_a_box_counts_only_above_the_threshold():
    result = metrics.summarize([0.5, 0.500001, 0.95, 0.0])
    assert result["Acc@0.5"] == 0.5 and result["Acc@0.9"] == 0.25 and result["count"] == 4
    assert result["mIoU"] == pytest.approx((0.5 + 0.500001 + 0.95) / 4)


def test_mask_metrics_weigh_samples_and_pixels_differently():
    result = metrics.summarize([0.9, 0.2], mask_intersections=[1, 300], mask_unions=[2, 400])
    assert result["mask_mIoU"] == pytest.approx((0.5 + 0.75) / 2)
    assert result["mask_oIoU"] == pytest.approx(301 / 402)
    assert result["Pr@0.5"] == 1.0  # the original's 1e-10 puts 1/2 just above one half
    assert result["IE"] == 0.5  # the second has a right mask and a wrong box


def test_masks_alone_make_no_box_metrics():
    assert set(metrics.summarize(None, [1], [1])) == {"mask_mIoU", "mask_oIoU", "count"} | {
        f"Pr@{t}" for t in (0.5, 0.6, 0.7, 0.8, 0.9)
    }


def test_no_samples_give_nan_not_a_good_looking_zero():
    result = metrics.summarize([])
    assert result["count"] == 0 and math.isnan(result["Acc@0.5"])


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="lengths"):
        metrics.summarize([0.1, 0.2], [1], [2])
    with pytest.raises(ValueError, match="sample 8"):
        metrics.summarize_records(
            [{"index": 7, "iou": 1.0, "mask_intersection": 1, "mask_union": 1}, {"index": 8, "iou": 1.0}]
        )


def test_breakdown_groups_and_leaves_out_none():
    records = [
        {"iou": 0.9, "kind": "a"},
        {"iou": 0.1, "kind": "a"},
        {"iou": 0.9, "kind": "b"},
        {"iou": 0.0, "kind": None},
    ]
    result = metrics.breakdown(records, lambda record: record["kind"])
    assert {name: (m["Acc@0.5"], m["count"]) for name, m in result.items()} == {"a": (0.5, 2), "b": (1.0, 1)}


def test_table_lines_up_and_shows_per_cent():
    lines = metrics.format_table({"val": {"Acc@0.5": 0.953, "count": 1000}, "testA": {"Acc@0.5": 0.9}}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["val", "95.30", "1000"] and lines[2].split() == ["testA", "90.00", "-"]
    of_none = metrics.format_table({"val": {"N-acc": float("nan"), "count": 3}}).splitlines()
    assert of_none[1].split() == ["val", "-", "3"], "a share of no phrases"


def test_box_hits_equal_the_original(recorded):
    case = recorded["batch_box_iou"]
    ious = boxes.box_iou(np.array(case["pred_xyxy"]), np.array(case["gt_xyxy"]))
    assert (ious > 0.5).tolist() == case["returned_bool_iou_gt_0_5"]
    np.testing.assert_allclose(ious, case["pairwise_bboxes_iou_diag"], atol=1e-12)


def ellipse(shape, centre, radii):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1


def test_mask_arithmetic_of_the_original_is_reproduced_on_request(recorded):
    for case in recorded["masks"]:
        if "case" in case:
            continue
        h, w, k = case["h"], case["w"], case["k"]
        predicted = ellipse((416, 416), (200, 230 - 10 * k), (70, 90)).astype(np.float32)
        target = ellipse((h, w), (0.48 * h, 0.5 * w), (0.2 * h, 0.22 * w))
        geometry = np.array(case["info"][:6])
        grown = masks.to_image(predicted, geometry, any_overlap=True)
        assert list(grown.shape) == case["processed_shape"] and target.sum() == case["gt_pixels"]
        assert abs(int(grown.sum()) - case["processed_pixels_gt0"]) <= 2
        iou = metrics.mask_iou(*masks.overlap(grown, target))
        assert iou == pytest.approx(case["mask_iou"], abs=1e-4)
        assert {t: float(iou > float(t)) for t in case["ap"]} == case["ap"]
        assert masks.to_image(predicted, geometry).sum() < grown.sum()  # by default the mask does not grow
    assert metrics.mask_iou(0, 0) == 1.0
    assert metrics.mask_iou(0, 7) == pytest.approx(1.4285714285510204e-11)


def test_all_validation_figures_equal_the_original(recorded):
    case = recorded["validate"]
    ious, intersections, unions = [], [], []
    for sample in case["samples"]:
        geometry = np.array(sample["info_h_w_nh_nw_dx_dy"], np.float64)
        target = boxes.xywh_to_xyxy(np.array(sample["gt_xywh"]))
        ious.append(boxes.box_iou(boxes.from_letterbox(np.array(sample["pred_xyxy_px"][:4]), geometry), target))
        top, bottom, left, right = sample["pred_mask_rows_cols"]
        predicted = np.zeros((416, 416), np.float32)
        predicted[top:bottom, left:right] = 1
        x, y, w, h = sample["gt_xywh"]
        truth = np.zeros(geometry[:2].astype(int), bool)
        truth[int(y) : int(y + h), int(x) : int(x + w)] = True
        counts = masks.overlap(masks.to_image(predicted, geometry, any_overlap=True), truth)
        intersections.append(counts[0])
        unions.append(counts[1])
    levels = [round(0.5 + 0.05 * i, 2) for i in range(10)]
    result = metrics.summarize(ious, intersections, unions, levels)
    expected = case["metrics"]
    assert 100 * result["Acc@0.5"] == expected["Acc/BoxIoU@0.5"]
    assert 100 * result["mask_mIoU"] == pytest.approx(expected["Acc/MaskIoU"], abs=1e-4)
    assert 100 * result["IE"] == expected["Acc/IE"]
    for level in levels:
        assert 100 * result[f"Pr@{level:g}"] == pytest.approx(expected[f"Acc/MaskIoU@{level:.2f}"]), level


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="sizes must be equal"):
        masks.overlap(np.zeros((2, 3)), np.zeros((3, 2)))


def test_a_heat_map_is_highest_at_the_middle_of_the_best_cell_and_leaves_the_padding_out():
    geometry = boxes.letterbox_geometry(60, 120, 64)
    scores = np.full((2, 4, 4), 0.1)
    scores[1, 2, 3] = 0.9  # the second anchor, third row, last column
    found = masks.heat_map(scores.ravel(), geometry, 64, 16)
    assert found.shape == (32, 64) and found.dtype == np.float32
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert abs(row + 16 - 2.5 * 16) <= 1 and column >= 3.5 * 16 - 1
    assert found.max() == pytest.approx(0.9, abs=0.05) and found[0, 0] == pytest.approx(0.1)
