"""Metrics of none, one or several objects: the greedy rule, thresholds, masks, the baseline."""

import json

import numpy as np
import pytest
import torch
from evaluation_toy import AnyModel, AnySplit

from rec.contracts import Answer
from rec.data.masks import decode, encode
from rec.evaluation import bootstrap, evaluate, several
from rec.evaluation.metrics import format_table, summarize_records
from rec.evaluation.report import Other, write_report
from rec.evaluation.run import write
from rec.evaluation.several import THRESHOLDS, answered, best_threshold, curve, f1, matches, nothing, rows, summarize


def naive_iou(a, b, generalised=False):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union - ((hull - union) / hull if generalised else 0)


def naive_right(found, targets, generalised=False):
    """Whether F1 is 1, by the rule as it is written: all pairs in order, each box once."""
    pairs = [(-naive_iou(p, g, generalised), i, j) for i, p in enumerate(found) for j, g in enumerate(targets)]
    taken, given = set(), set()
    for overlap, i, j in sorted(pairs):
        if -overlap >= 0.5 and i not in taken and j not in given:
            taken.add(i)
            given.add(j)
    hits, total = len(taken), len(found) + len(targets)
    return (2 * hits / (2 * hits + (len(found) - hits) + (len(targets) - hits)) if total else 1.0) == 1


def cases(number, seed=0):
    """Records of up to four objects on a coarse grid, so that equal overlaps, duplicates and empty ones are frequent."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(number):
        corners = generator.integers(0, 4, (int(generator.integers(0, 5)), 2)) * 10.0
        targets = np.concatenate([corners, corners + generator.integers(1, 3, corners.shape) * 10], 1)
        near = targets[generator.random(len(targets)) < 0.9]
        near = near + generator.choice([0, 0, 0, 1, 2.5], near.shape)
        extra = generator.integers(0, 3, (int(generator.random() < 0.2), 2)) * 10.0
        found = np.concatenate([near, np.concatenate([extra, extra + 20], 1)])
        scores = generator.choice([0.1, 0.3, 0.5, 0.55, 0.7, 0.9, 0.95], len(found))
        order = np.argsort(-scores, kind="stable")
        candidates = [(found[i].tolist(), float(scores[i])) for i in order]
        made.append({"targets": targets.tolist(), "candidates": candidates, "mask": None})
    return made


@pytest.mark.parametrize(("match_by", "threshold"), [("iou", 0.5), ("giou", several.PUBLISHED_SCORE)])
def test_ten_thousand_random_cases_agree_with_the_rule_as_written(match_by: str, threshold: float) -> None:
    records = [answered(record, threshold) for record in cases(10_000)]
    right = [naive_right(r["boxes"], r["targets"], match_by == "giou") for r in records]
    found = summarize(records, match_by)
    assert 0.1 < found["Pr@F1"] == np.mean(right) < 0.9
    none = [r for r in records if not r["targets"]]
    assert found["N-acc"] == np.mean([not r["boxes"] for r in none]) and 0 < found["N-acc"] < 1
    assert found["T-acc"] == np.mean([bool(r["boxes"]) for r in records if r["targets"]]) and found["count"] == 10_000
    assert any(len(r["boxes"]) == len(r["targets"]) > 1 and not ok for r, ok in zip(records, right, strict=True))


def test_greedy_takes_the_largest_overlap_though_another_choice_would_match_more(monkeypatch) -> None:
    overlaps = np.array([[0.9, 0.6], [0.55, 0.1]])
    monkeypatch.setitem(several.MATCH_BY, "iou", lambda found, targets: overlaps.copy())
    two = np.zeros((2, 4))
    assert matches(two, two) == 1 and f1(two, two) == 0.5


A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [60, 60, 70, 70]


@pytest.mark.parametrize(
    ("found", "targets", "want"),
    [
        ([], [], 1),
        ([A], [], 0),
        ([], [A], 0),
        ([A, A], [A], 2 / 3),  # two answers about one object: one is too many
        ([A], [A, A], 2 / 3),
        ([A, A], [A, A], 1),  # two objects at one place
        ([B, A], [A, B], 1),
        ([A, FAR], [A, B], 0.5),
        ([[0, 0, 10, 5]], [A], 1),  # IoU exactly one half is a match
        ([[0, 0, 10, 4.9]], [A], 0),
    ],
)
def test_f1_of_hand_made_answers(found, targets, want) -> None:
    assert f1(np.array(found, float).reshape(-1, 4), np.array(targets, float).reshape(-1, 4)) == pytest.approx(want)


@pytest.mark.parametrize(
    "found", [[10.0, 10, 0, 0], [10.0, 0, 0, 10], [0.0, 10, 10, 0], [12.0, 15, -3, -1], [5.0, 5, 5, 5]]
)
@pytest.mark.parametrize("match_by", ["iou", "giou"])
def test_a_box_whose_corners_are_in_the_wrong_order_matches_nothing(found, match_by) -> None:
    assert f1(np.array([found]), np.array([[0.0, 0, 10, 10]]), match_by) == 0


def test_of_no_phrases_there_is_no_interval() -> None:
    assert bootstrap.intervals([]) == bootstrap.paired([], []) == {}


def test_of_equal_overlaps_the_better_score_wins_then_the_first_target(monkeypatch) -> None:
    """Both answers overlap the first target by 0.8; the second answer alone overlaps the second target too."""
    monkeypatch.setitem(several.MATCH_BY, "iou", lambda *_: np.array([[0.8, 0.0], [0.8, 0.8]]))
    two = np.zeros((2, 4))
    assert matches(two, two) == 2
    monkeypatch.setitem(several.MATCH_BY, "iou", lambda *_: np.array([[0.8, 0.8], [0.8, 0.0]]))
    assert matches(two, two) == 1  # the better answer takes the first target, and the other one has none left


def test_the_curve_is_the_metric_at_every_threshold_and_its_best_is_chosen() -> None:
    records = cases(200, seed=1)
    shares = curve(records)
    want = [summarize([answered(record, t) for record in records])["Pr@F1"] for t in THRESHOLDS[::5]]
    np.testing.assert_allclose(shares[::5], want, atol=1e-12)
    assert shares[best_threshold(records) == THRESHOLDS] == shares.max() > shares.min()


def test_of_thresholds_that_are_as_good_the_middle_one_is_chosen() -> None:
    records = [{"targets": [A], "candidates": [(A, 0.9)]}, {"targets": [], "candidates": [(A, 0.3)]}]
    assert best_threshold(records) == pytest.approx(0.6, abs=0.02)


def test_masks_count_with_the_answer_that_decides_whether_there_is_something() -> None:
    def record(targets, candidates, intersection, area, target_area):
        mask = np.zeros((10, 10), bool)
        mask.flat[:area] = True
        union = area + target_area - intersection
        counts = {"mask_intersection": intersection, "mask_union": union, "mask_area": area}
        return {"targets": targets, "candidates": candidates, "mask": encode(mask)} | counts

    records = [
        record([A], [(A, 0.9)], 40, 45, 50),  # IoU 40 / 55
        record([A, B], [(A, 0.2)], 40, 45, 50),  # no box, so no mask: 0 of 50
        record([], [(A, 0.1)], 0, 30, 0),  # nothing, rightly, though there is a mask: 1, adds nothing
        record([], [(A, 0.8)], 0, 20, 0),  # 0, adds 20 pixels to the unions
        record([B], [(A, 0.9), (B, 0.8)], 45, 50, 45),  # IoU 0.9
    ]
    found = summarize([answered(r, 0.5) for r in records])
    assert found["gIoU"] == pytest.approx((40 / 55 + 0 + 1 + 0 + 0.9) / 5)
    assert found["cIoU"] == pytest.approx((40 + 45) / (55 + 50 + 0 + 20 + 50))
    assert [found[f"Pr@{t}"] for t in (0.7, 0.8, 0.9)] == pytest.approx([2 / 3, 1 / 3, 1 / 3])  # at least, of 3 phrases
    assert (found["Pr@F1"], found["N-acc"], found["T-acc"]) == pytest.approx((2 / 5, 1 / 2, 2 / 3))
    baseline = summarize([nothing(r) for r in records])
    want = {"Pr@F1": 2 / 5, "N-acc": 1, "T-acc": 0, "gIoU": 2 / 5, "cIoU": 0, "Pr@0.7": 0, "Pr@0.8": 0, "Pr@0.9": 0}
    assert baseline == pytest.approx(want | {"count": 5})
    strict = rows("val", [answered(r, 0.95) for r in records])["val/published rule (GIoU, score 0.7)"]
    assert strict == summarize([answered(r, 0.7) for r in records], "giou"), (
        "masks that a higher threshold emptied are back"
    )


def test_where_no_pixel_is_true_or_predicted_the_share_of_pixels_is_no_number() -> None:
    empty = {"candidates": [], "mask_area": 0, "mask_intersection": 0, "mask_union": 0}
    records = [answered({"targets": [], "mask": encode(np.zeros((4, 4), bool))} | empty, 0.5)]
    assert summarize(records)["gIoU"] == 1 and np.isnan(summarize(records)["cIoU"])
    assert "cIoU" not in rows("val", records)["val/none"] and "cIoU" not in bootstrap.intervals(records)


def test_a_model_of_masks_alone_is_empty_where_its_mask_is() -> None:
    made = [
        {"targets": t, "candidates": None, "boxes": None, "mask_area": area, "mask_intersection": 0, "mask_union": 9}
        for t, area in (([], 0), ([], 3), ([A], 5), ([A], 0), ([A], 2))
    ]
    found = summarize([answered(record, 0.5) for record in made])
    published = rows("val", [record | {"mask": encode(np.zeros((4, 4), bool))} for record in made])[
        "val/published rule (50 pixels)"
    ]
    assert published["N-acc"] == 1 and published["T-acc"] == 0  # none of these masks has so many
    assert "Pr@F1" not in found and found["N-acc"] == 0.5 and found["T-acc"] == pytest.approx(2 / 3)


def test_the_table_has_each_number_of_objects_the_published_rule_and_the_baseline() -> None:
    records = [answered(record, 0.5) for record in cases(300, seed=2)]
    lines = rows("val", records)
    assert list(lines) == [
        *("val/none", "val/one", "val/several", "val/published rule (GIoU, score 0.7)", "val/answer nothing"),
    ]
    share = np.mean([not record["targets"] for record in records])
    assert lines["val/answer nothing"]["Pr@F1"] == pytest.approx(share) and lines["val/answer nothing"]["N-acc"] == 1
    assert lines["val/none"]["count"] + lines["val/one"]["count"] + lines["val/several"]["count"] == 300
    published = [answered(record, 0.7) for record in records]
    assert lines["val/published rule (GIoU, score 0.7)"] == summarize(published, "giou")


def evaluated(model, dataset, batch_size=5, **options):
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, collate_fn=dataset.collate)
    return evaluate(model, loader, dataset, mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0], **options)


def test_an_evaluation_chooses_the_threshold_or_takes_the_one_it_is_given() -> None:
    dataset, model = AnySplit(28), AnyModel()
    found, records = evaluated(model, dataset)
    assert found["Pr@F1"] == found["N-acc"] == found["T-acc"] == 1 and found["count"] == 28
    assert 0.6 < found["threshold"] <= 0.8 and records[0]["threshold"] == found["threshold"]
    assert evaluated(model, dataset, batch_size=28) == (found, records)
    low, careless = evaluated(model, dataset, answer=Answer(threshold=0.3))
    assert low["threshold"] == 0.3 and low["N-acc"] == 3 / 7  # doubts of 0.1 to 0.6, and 0
    assert [line["box"] for line in records[:2]] == [None, records[1]["boxes"][0]] and len(careless[4]["boxes"]) == 1
    first = records[3]
    np.testing.assert_allclose(first["targets"], dataset.objects(3), rtol=1e-6)
    np.testing.assert_allclose(sorted(first["boxes"]), dataset.objects(3), atol=1e-3)
    assert first["scores"] == pytest.approx([0.8] * 3) and first["iou"] is None and records[1]["iou"] > 0.99


def test_where_every_phrase_has_one_object_the_usual_accuracy_is_there_too() -> None:
    _, records = evaluated(AnyModel(), AnySplit(40))
    ones = [record for record in records if len(record["targets"]) == 1]
    assert summarize_records(ones)["Acc@0.5"] == 1 == summarize_records(ones)["Pr@F1"]
    assert "Acc@0.5" not in summarize_records(records)
    assert set(bootstrap.columns(records)) == {"Pr@F1"}


def test_a_model_of_one_answer_is_measured_by_whether_its_score_makes_it_one() -> None:
    class One(AnyModel):
        def forward(self, batch):
            outputs = super().forward(batch)
            return {"box": outputs["candidate_boxes"][:, 0], "score": outputs["candidate_scores"][:, 0]}

    found, records = evaluated(One(), AnySplit(28))
    assert (
        found["Pr@F1"] == 0.5 and found["N-acc"] == found["T-acc"] == 1
    )  # two and three objects take two and three boxes
    assert max(len(record["boxes"]) for record in records) == 1


def test_a_mask_is_empty_where_no_box_is_found_and_a_mask_alone_where_it_is_small() -> None:
    class MasksAlone(AnyModel):
        def forward(self, batch):
            return {"mask": super().forward(batch)["mask"]}

    dataset = AnySplit(12)
    found, records = evaluated(AnyModel(with_masks=True), dataset)
    for record in records:
        assert (decode(record["mask"]).sum() == 0) == (not record["boxes"]) == (record["mask_area"] == 0)
    assert found["gIoU"] > 0.2 and found["N-acc"] == 1
    alone, records = evaluated(MasksAlone(with_masks=True), dataset)
    assert alone["N-acc"] == 0 and alone["T-acc"] == 1 and "threshold" not in alone and records[0]["boxes"] is None
    areas = sorted(record["mask_area"] for record in records)
    half, strict = evaluated(MasksAlone(with_masks=True), dataset, answer=Answer(min_pixels=areas[6]))
    rule = "val/published rule (50 pixels)"
    assert rows("val", strict)[rule] == rows("val", records)[rule], "it is not asked of masks that ours has emptied"
    assert half["count"] * (1 - half["T-acc"] * 0.75 - (1 - half["N-acc"]) * 0.25) == pytest.approx(6)


def test_files_and_report_of_any_number_of_objects(tmp_path) -> None:
    dataset = AnySplit(12)
    found, records = evaluated(AnyModel(with_masks=True), dataset)
    write(tmp_path, {"val": found}, {"val": records})
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert "candidates" not in lines[0] and lines[0]["boxes"] == [] and lines[0]["box"] is None
    assert len(lines[3]["boxes"]) == len(lines[3]["scores"]) == len(lines[3]["targets"]) == 3
    assert summarize_records(lines) == summarize_records(records), "the files tell the same"
    assert json.loads((tmp_path / "metrics.json").read_text())["val"]["threshold"] == found["threshold"]
    assert f" {found['threshold']:g} " in format_table({"val": found})
    write_report(tmp_path / "report.html", {"val": dataset}, {"val": records}, title="any")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"Pr@F1 over the threshold (used: {found['threshold']:g})" in page and "answer nothing" in page


def test_what_changed_is_told_by_f1_or_by_the_mask_and_the_report_says_which(tmp_path) -> None:
    class MasksAlone(AnyModel):
        def forward(self, batch):
            return {"mask": super().forward(batch)["mask"]}

    dataset = AnySplit(12)
    _, right = evaluated(AnyModel(), dataset)
    _, careless = evaluated(AnyModel(), dataset, answer=Answer(threshold=0.3))
    changes = bootstrap.changed(right, careless)
    wrong = [record["index"] for record in careless if several.f1_of(record) < 1]
    assert {0, 4} & set(wrong) and sorted(line["index"] for line in changes) == wrong, "of any number of objects"
    assert all(line["won"] and line["f1"] == 1 > line["other_f1"] for line in changes)
    assert [line["won"] for line in bootstrap.changed(careless, right)] == [False] * len(wrong)
    assert all(len(line["other_boxes"]) == len(line["boxes"]) + 1 for line in changes)
    write_report(
        tmp_path / "boxes.html", {"val": dataset}, {"val": right}, "any", other=Other("them", {"val": careless})
    )
    page = (tmp_path / "boxes.html").read_text(encoding="utf-8")
    assert f"Won: {len(wrong)} phrases" in page and "F1 of the phrase" in page

    _, alone = evaluated(MasksAlone(True), dataset)
    good = [one["mask_intersection"] >= 0.5 * one["mask_union"] for one in alone]
    write_report(tmp_path / "masks.html", {"val": dataset}, {"val": alone}, "masks")
    page = (tmp_path / "masks.html").read_text(encoding="utf-8")
    told = json.loads(page.partition('<script type="application/json">')[2].partition("</script>")[0])
    assert any(good) and [row[5] for row in told] == good and "F1 of the phrase" not in page
    assert "F1 0" not in page and '<th scope="col">IoU</th>' in page
    assert not bootstrap.changed(alone, right), "a mask is not compared with a box"
