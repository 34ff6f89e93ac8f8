"""Anybody's answers: every declared convention gives the truth back, wrong ones are suspected, keys name one phrase."""

import json
import re

import numpy as np
import pytest
import torch
from evaluation_toy import AnyModel, AnySplit, ToyModel, ToySplit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from rec import boxes
from rec.conventions import NAMES, Convention, boxes_in_text, says_none, suspicion
from rec.data.adapter import ForeignDataSet
from rec.data.masks import encode
from rec.errors import InputError
from rec.evaluation import bootstrap, evaluate
from rec.evaluation.answers import read_answers
from rec.evaluation.metrics import summarize_records
from rec.evaluation.report import write_report

SPLIT = {"val": ForeignDataSet(ToySplit(40))}
COORDINATES = (*NAMES, "640x480", "letterboxed:416")


def lines(path, answers):
    path.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")
    return path


def truth(count=40):
    found = [SPLIT["val"].target_boxes(i) for i in range(count)]
    return [(box[0].astype(np.float64), height, width) for box, height, width in found]


def written(box, height, width, convention):
    """An xyxy box in pixels as a model of that convention would write it."""
    fraction = box / [width, height, width, height]
    if convention.coordinates.startswith("letterboxed"):
        box = boxes.to_letterbox(box, boxes.letterbox_geometry(height, width, 416).astype(np.float64))
    elif convention.coordinates != "pixel":
        scales = {"0-1": 1, "0-999": 999, "0-1000": 1000, "florence": 1000, "640x480": np.array([640, 480, 640, 480])}
        box = fraction * scales[convention.coordinates]
        if convention.coordinates in ("0-999", "0-1000", "florence"):
            box = np.floor(box).clip(0, 999) if convention.coordinates == "florence" else np.round(box)
    if convention.box_format == "yxyx":
        return box[..., [1, 0, 3, 2]]
    return {"xywh": boxes.xyxy_to_xywh, "cxcywh": boxes.xyxy_to_cxcywh}.get(convention.box_format, np.asarray)(box)


@pytest.mark.parametrize("box_format", boxes.FORMATS)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_the_truth_in_every_convention_is_all_right(coordinates, box_format, tmp_path):
    convention = Convention(coordinates, box_format)
    answers = [
        {"ref_id": f"r{i}", "sentence": SPLIT["val"].describe(i)["sentence"], "box": written(*one, convention).tolist()}
        for i, one in enumerate(truth())
    ]
    scored = read_answers(lines(tmp_path / "a.jsonl", answers), SPLIT, convention)
    assert summarize_records(scored.records["val"])["Acc@0.5"] == 1
    assert scored.counts["answered"] == 40 and not any(v for k, v in scored.counts.items() if k != "answered")


def test_shares_of_a_padded_square_are_declared_in_thousandths_of_it():
    """A square of one pixel would round the image away, and read them as shares of its sides."""
    shares = np.array([[0.1, 0.2, 0.5, 0.8]])
    found = Convention("letterboxed:1000").to_pixels(shares * 1000, np.array([500.0]), np.array([375.0]))
    np.testing.assert_allclose(found, [[50, 37.5, 250, 337.5]])
    with pytest.raises(InputError, match="'letterboxed:1' are not known"):
        Convention("letterboxed:1")


def test_every_wrong_declaration_is_suspected_and_no_right_one():
    rng = np.random.default_rng(0)
    size = rng.choice([(300, 200), (200, 300), (300, 225), (640, 480)], 1000).astype(np.float64)
    low, high = np.sort(rng.beta(0.7, 0.7, (2, 1000, 2)), axis=0)
    high = np.maximum(high, np.minimum(1, low + 0.05))
    low = np.minimum(low, high - 0.05)
    pixels = np.concatenate([low * size, high * size], 1)
    width, height = size.T
    names = [Convention(c, f) for c in COORDINATES for f in boxes.GUESSED]
    thousandths = {"0-999", "0-1000", "florence"}
    for true in names:
        sizes = zip(pixels, height.astype(int), width.astype(int), strict=True)
        values = np.array([written(box, h, w, true) for box, h, w in sizes])
        assert suspicion(true, values, width, height) is None, true
        for declared in names:
            close = {true.coordinates, declared.coordinates} <= thousandths and true.box_format == declared.box_format
            if declared != true and not close:
                said = suspicion(declared, values, width, height) or ""
                assert said, (true, declared)
                assert "they would fit" in said or true.coordinates == "640x480", (true, said)
    # The top first shows where sides are in pixels; in fractions of both sides nothing but the truth could tell.
    assert "fit --coordinates pixel --box-format yxyx" in suspicion(
        Convention(), pixels[:, [1, 0, 3, 2]], width, height
    )
    values = np.round(np.concatenate([low, high], 1) * 1000)
    assert "up to 1000" in suspicion(Convention("0-999"), values, width, height)


def test_our_own_predictions_give_our_own_digits(tmp_path):
    dataset = ToySplit(30, with_masks=True)
    metrics, records = evaluate(ToyModel(True), DataLoader(dataset, 7), dataset, mean=[0, 0, 0], std=[1, 1, 1])
    scored = read_answers(
        lines(tmp_path / "p.jsonl", records), {"val": ForeignDataSet(dataset)}, Convention("0-1", "xywh")
    )
    assert summarize_records(scored.records["val"]) == metrics and scored.records["val"] == records


class AnyNumber(ToySplit):
    """Phrase i names i % 3 objects."""

    targets = "any"

    def target_boxes(self, index):
        boxes = np.array([[10, 10, 30, 30], [50, 10, 70, 40]], np.float32)
        return boxes[: index % 3], 60, 80


def test_what_was_asked_and_what_was_predicted_is_in_pixels_whatever_is_declared(tmp_path):
    asked = {"split": "val", "fingerprint": SPLIT["val"].fingerprint, "asked": "a model"}
    told = [asked | {"index": i, "box": (box / 4).tolist()} for i, (box, _, _) in enumerate(truth())]
    for declared in (Convention(), Convention("0-1", "yxyx")):
        scored = read_answers(lines(tmp_path / "a.jsonl", told), SPLIT, declared)
        assert scored.records["val"][0]["box"] == told[0]["box"]
        assert "may write boxes in other --coordinates" in scored.suspicion and "fit" not in scored.suspicion
    question = {
        "ref_id": "r0",
        "sentence": SPLIT["val"].describe(0)["sentence"],
        "asked": "Where is it?",
        "box": [0, 0, 1, 1],
    }
    found = read_answers(lines(tmp_path / "q.jsonl", [question]), SPLIT, Convention("0-1")).records["val"][0]["box"]
    assert found[2] > 1, "what anybody calls so"
    own = [record | {"box": [-1, -1, -1, -1]} for record in scored.records["val"]]  # as where an answer was lost
    assert read_answers(lines(tmp_path / "p.jsonl", own), SPLIT, Convention()).suspicion is None


def test_phrases_of_none_one_and_several_objects_are_scored_and_no_answer_is_never_right(tmp_path):
    dataset = AnyNumber(6)
    split = {"val": ForeignDataSet(dataset)}

    def answer(index, **told):
        return {"ref_id": f"r{index}", "sentence": split["val"].describe(index)["sentence"]} | told

    def scored(*answers, **how):
        found = read_answers(lines(tmp_path / "a.jsonl", answers), split, Convention("0-1000"), **how)
        return found, summarize_records(found.records["val"])

    thousandths = [[125, 167, 375, 500], [625, 167, 875, 667]]
    right = [answer(index, boxes=thousandths[: index % 3]) for index in range(6)]
    found, metrics = scored(*right)
    assert (metrics["Pr@F1"], metrics["N-acc"], metrics["T-acc"]) == (1, 1, 1) and found.counts["none"] == 2
    _, metrics = scored(right[1])
    assert (metrics["Pr@F1"], metrics["N-acc"], metrics["T-acc"]) == (pytest.approx(1 / 6), 0, pytest.approx(1 / 4))
    _, metrics = scored(answer(0, text="I am not sure."), *right[1:])
    assert (metrics["Pr@F1"], metrics["N-acc"]) == (pytest.approx(5 / 6), 0.5)
    unsure = [answer(index, boxes=thousandths, scores=[0.9, 0.9 if index % 3 == 2 else 0.3]) for index in range(6)]
    assert scored(*unsure)[1]["Pr@F1"] == pytest.approx(1 / 3)
    assert scored(*unsure, threshold=0.5)[1]["Pr@F1"] == pytest.approx(2 / 3)
    again = lines(
        tmp_path / "again.jsonl",
        [{k: v for k, v in r.items() if k != "candidates"} | {"iou": r["iou"]} for r in found.records["val"]],
    )
    assert summarize_records(read_answers(again, split, Convention()).records["val"]) == scored(*right)[1]
    kept = {
        "split": "val",
        "fingerprint": split["val"].fingerprint,
        "asked": "a detector",
    }  # of which all boxes are kept
    pixels = [kept | one | {"index": i, "boxes": [[10, 10, 30, 30], [50, 10, 70, 40]]} for i, one in enumerate(unsure)]
    assert scored(*pixels)[1] == scored(*pixels, threshold=0.5)[1] == scored(*unsure, threshold=0.5)[1]
    predictions = [{k: v for k, v in r.items() if k != "candidates"} for r in scored(*unsure)[0].records["val"]]
    for as_answered, share in ((True, 1 / 3), (False, 2 / 3)):  # what is compared keeps its own threshold
        path = lines(tmp_path / "predictions.jsonl", predictions)
        found = read_answers(path, split, Convention(), 0.5, as_answered=as_answered)
        assert summarize_records(found.records["val"])["Pr@F1"] == pytest.approx(share)


def masks_of(dataset):
    """The lines of a model that answers with masks alone."""

    class MasksAlone(AnyModel):
        def forward(self, batch):
            batch = {"boxes": batch["box"][:, None], "box_count": torch.ones(len(batch["box"]))} | batch
            return {"mask": super().forward(batch)["mask"]}

    loader = DataLoader(dataset, 7, collate_fn=dataset.collate)
    return evaluate(MasksAlone(True), loader, dataset, mean=[0, 0, 0], std=[1, 1, 1])


class AnyTruth(AnySplit):
    def target_boxes(self, index):
        height, width = self.truth(index)[0][:2].astype(int).tolist()
        return self.objects(index), height, width


@pytest.mark.parametrize("dataset", [AnyTruth(14), ToySplit(14, with_masks=True)])
def test_masks_alone_give_their_own_digits_and_no_box_metrics(dataset, tmp_path):
    metrics, records = masks_of(dataset)
    scored = read_answers(lines(tmp_path / "p.jsonl", records), {"val": ForeignDataSet(dataset)}, Convention())
    assert scored.records["val"] == records and summarize_records(scored.records["val"]) == metrics
    assert not {"Acc@0.5", "IE", "Pr@F1"} & set(metrics)


@pytest.mark.parametrize("nothing", [None, []])
def test_masks_alone_that_are_all_null_found_nothing(nothing, tmp_path):
    keys = ("index", "ref_id", "sentence")
    answers = [{key: record[key] for key in keys} | {"mask": nothing} for record in masks_of(AnyTruth(14))[1]]
    found = read_answers(lines(tmp_path / "p.jsonl", answers), {"val": ForeignDataSet(AnyTruth(14))}, Convention())
    metrics = summarize_records(found.records["val"])
    assert metrics["N-acc"] == 1 and metrics["T-acc"] == 0 and 0 < metrics["gIoU"] < 1 and "Pr@F1" not in metrics
    assert found.counts["none"] == 14 and found.counts["unparsable"] == 0 and found.suspicion is None


def test_masks_alone_need_true_masks(tmp_path):
    sentence, (_, height, width) = SPLIT["val"].describe(0)["sentence"], truth()[0]
    answer = {"ref_id": "r0", "sentence": sentence, "mask": encode(np.ones((height, width), bool))}
    with pytest.raises(InputError, match="masks alone, and index 0 of val has none to compare with"):
        read_answers(lines(tmp_path / "a.jsonl", [answer]), SPLIT, Convention())


def test_where_others_have_a_mask_an_answer_without_one_is_empty_and_none_at_all_is_wrong(tmp_path):
    def scored(dataset, answers):
        found = read_answers(lines(tmp_path / "p.jsonl", answers), {"val": ForeignDataSet(dataset)}, Convention())
        return found, summarize_records(found.records["val"])

    dataset = ToySplit(14, with_masks=True)
    _, records = evaluate(ToyModel(True), DataLoader(dataset, 7), dataset, mean=[0, 0, 0], std=[1, 1, 1])
    found, metrics = scored(dataset, [records[0] | {"mask": None}, *records[2:]])
    assert found.counts["unmasked"] == found.counts["missing"] == 1 and "1 without a mask" in found.summary()
    assert [record["mask_intersection"] for record in found.records["val"][:2]] == [0, 0]
    assert metrics["mask_mIoU"] == pytest.approx(
        np.mean([r["mask_intersection"] / r["mask_union"] for r in records[2:]]) * 12 / 14
    )
    anything = AnyTruth(8)  # phrases 0 and 4 name nothing
    _, records = masks_of(anything)
    nothing = encode(np.zeros(records[0]["mask"]["size"], bool))
    _, right = scored(anything, [records[0] | {"mask": nothing}, *records[1:4], *records[5:]])
    assert right["N-acc"] == 0.5 and right["T-acc"] == 1  # the lost answer to 4 is not a "nothing is there"
    assert right["gIoU"] <= 7 / 8
    for none in (None, []):
        found, right = scored(anything, [r | ({"mask": none} if r["index"] in (0, 4) else {}) for r in records])
        assert right["N-acc"] == 1 and found.counts["none"] == 2 and not found.counts["unparsable"], "nothing is there"


def test_scores_below_nought_are_scores(tmp_path):
    split = {"val": ForeignDataSet(AnyNumber(3))}
    thousandths = [[125, 167, 375, 500], [625, 167, 875, 667]]
    answers = [
        {"ref_id": f"r{i}", "sentence": split["val"].describe(i)["sentence"], "boxes": thousandths[:i], "scores": [-2.5, -3][:i]}
        for i in range(3)
    ]  # fmt: skip
    scored = read_answers(lines(tmp_path / "a.jsonl", answers), split, Convention("0-1000"))
    assert summarize_records(scored.records["val"])["Pr@F1"] == 1 and scored.records["val"][1]["threshold"] is None
    write_report(tmp_path / "r.html", {"val": AnySplit(3)}, scored.records, "of logarithms")
    assert "(used: none)" in (tmp_path / "r.html").read_text(encoding="utf-8")
    answers[2]["scores"] = [-2.5, None]
    counting = read_answers(lines(tmp_path / "a.jsonl", answers), split, Convention("0-1000"), -2.7).records["val"]
    assert [len(record["boxes"]) for record in counting] == [0, 1, 2]  # one without a score always counts


def test_nothing_in_one_image_is_not_nothing_in_another(tmp_path):
    class Folders(AnyNumber):
        def describe(self, index):
            return super().describe(index) | {"image": f"{index}/a.jpg", "sentence": "a cat", "ref_id": "7"}

        def target_boxes(self, index):
            return np.empty((0, 4), np.float32), 60, 80

    split = {"val": ForeignDataSet(Folders(2))}
    for key in ({"image": "a.jpg"}, {"ref_id": "7"}):
        with pytest.raises(InputError, match="names 2 phrases of different objects or images"):
            read_answers(lines(tmp_path / "a.jsonl", [key | {"sentence": "a cat", "boxes": []}]), split, Convention())


def test_names_and_phrases_are_the_same_however_their_accents_are_stored(tmp_path):
    class Accents(ToySplit):
        def describe(self, index):
            return super().describe(index) | {"image": "photos/caf\u00e9.jpg", "sentence": "the cafe\u0301"}

    split = {"val": ForeignDataSet(Accents(1))}
    for key in ({"image": "cafe\u0301.jpg"}, {"ref_id": "r0"}, {"index": 0}):
        told = key | {"sentence": "the caf\u00e9", "box": [0, 0, 9, 9]}
        assert read_answers(lines(tmp_path / "a.jsonl", [told]), split, Convention()).counts["answered"] == 1


def test_images_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    class Folders(ToySplit):
        def describe(self, index):
            words = "the dog" if index < 2 else "the cat"
            return super().describe(index) | {"image": f"/data/{'abb'[index]}/1.jpg", "sentence": words}

    split = {"val": ForeignDataSet(Folders(3))}
    for prefix in ("", "./", "/elsewhere/data/", "C:\\data\\"):
        answers = [
            {"image": f"{prefix}{folder}/1.jpg".replace("/", "\\" if "\\" in prefix else "/"), "sentence": "the dog"}
            for folder in "ab"
        ]
        told = [answer | {"box": truth()[i][0].tolist()} for i, answer in enumerate(answers)]
        scored = read_answers(lines(tmp_path / "a.jsonl", told), split, Convention())
        assert [record["iou"] > 0.99 for record in scored.records["val"]] == [True, True, False], prefix
    cat = {"sentence": "the cat", "box": truth()[2][0].tolist()}
    with pytest.raises(InputError, match="none of the lines"):  # there is one in b alone
        read_answers(lines(tmp_path / "a.jsonl", [cat | {"image": "a/1.jpg"}]), split, Convention())
    scored = read_answers(lines(tmp_path / "a.jsonl", [cat | {"image": "1.jpg"}]), split, Convention())
    assert scored.counts["answered"] == 1
    both = [cat | {"image": "test/1.jpg", "box": None}, cat | {"image": "/elsewhere/b/1.jpg"}]  # test is not asked for
    for told in (both, both[::-1]):
        scored = read_answers(lines(tmp_path / "a.jsonl", told), split, Convention())
        assert scored.records["val"][2]["iou"] > 0.99 and scored.counts["extra"] == 1
    for same in ({"image": "1.jpg"}, {"ref_id": "r2"}, {"index": 2}):
        with pytest.raises(InputError, match="which line 1 has answered"):
            read_answers(lines(tmp_path / "a.jsonl", [both[1], cat | same]), split, Convention())


def test_predictions_of_one_split_are_found_again_among_several(tmp_path):
    told = [
        {"ref_id": f"r{i}", "sentence": SPLIT["val"].describe(i)["sentence"], "box": [0, 0, 9, 9]} for i in range(9)
    ]

    class Later(ToySplit):
        def describe(self, index):
            return super().describe(index + 9)

    splits = SPLIT | {"test": ForeignDataSet(Later(9))}
    path = lines(tmp_path / "a.jsonl", [{"index": i} | answer for i, answer in enumerate(told)])
    assert read_answers(path, splits, Convention()).counts["answered"] == 9
    path = lines(tmp_path / "a.jsonl", [{"split": "validation"} | answer for answer in told])
    assert read_answers(path, splits, Convention()).counts["answered"] == 9, "as others call it"
    path = lines(tmp_path / "a.jsonl", [{"index": 9} | told[8]])
    with pytest.raises(InputError, match="index 9 of which split"):
        read_answers(path, splits, Convention())


@pytest.mark.parametrize("targets", ["one", "any"])
def test_a_mask_may_be_any_of_cocos_forms(targets, tmp_path):
    class Square(AnyNumber):
        def target_mask(self, index):
            mask = np.zeros((60, 80), bool)
            mask[10:30, 10:30] = True
            return mask

    dataset = Square(2)
    dataset.targets, dataset.target_boxes = targets, lambda _: AnyNumber.target_boxes(dataset, 1)
    runs = [10 * 60 + 10, *([20, 40] * 19), 20, 30 + 50 * 60]
    answer = {"index": 1, "sentence": dataset.describe(1)["sentence"]}
    outline = [[10, 10, 30, 10, 30, 30, 10, 30]]
    for mask in (encode(dataset.target_mask(1)), {"size": [60, 80], "counts": runs}, outline):
        path = lines(tmp_path / "a.jsonl", [answer | {"mask": mask}])
        record = read_answers(path, {"val": ForeignDataSet(dataset)}, Convention()).records["val"][1]
        assert (record["mask_intersection"], record["mask_union"]) == (400, 400), mask
    path = lines(tmp_path / "a.jsonl", [answer | {"mask": {"size": [9, 80], "counts": runs}}])
    with pytest.raises(InputError, match=r"line 1: the mask of the answer to .* is not COCO RLE of its image"):
        read_answers(path, {"val": ForeignDataSet(dataset)}, Convention())


def test_a_box_counts_before_candidates_and_the_text_it_was_read_from(tmp_path):
    for beside in (
        {"text": '{"bbox_2d": [1, 2, 3, 4]}'},
        {"text": "It is there."},
        {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]], "scores": [0.9, 0.1]},
    ):
        told = [
            {"ref_id": f"r{i}", "sentence": SPLIT["val"].describe(i)["sentence"], "box": box.tolist()} | beside
            for i, (box, _, _) in enumerate(truth())
        ]
        found = read_answers(lines(tmp_path / "a.jsonl", told), SPLIT, Convention())
        assert summarize_records(found.records["val"])["Acc@0.5"] == 1 and found.counts["several"] == 0
        empty = [line | {"box": None, "boxes": None, "text": str(line["box"])} for line in told]
        found = read_answers(lines(tmp_path / "a.jsonl", empty), SPLIT, Convention())
        assert summarize_records(found.records["val"])["Acc@0.5"] == 1


def test_every_box_of_an_answer_is_looked_for_in_its_image(tmp_path):
    split = {"val": ForeignDataSet(AnyNumber(3))}
    answer = {
        "index": 2,
        "sentence": split["val"].describe(2)["sentence"],
        "boxes": [[10, 10, 30, 30], [50, 10, 900, 40]],
    }
    assert read_answers(lines(tmp_path / "a.jsonl", [answer]), split, Convention()).counts["outside"] == 1


def test_two_objects_where_phrases_name_one_are_an_error(tmp_path):
    dataset = AnyNumber(3)
    dataset.targets = "one"
    with pytest.raises(InputError, match=r"index 0 of val has 0 boxes; expected one, or dataset\.targets=any"):
        read_answers(lines(tmp_path / "a.jsonl", [{"index": 0}]), {"val": ForeignDataSet(dataset)}, Convention())


def test_what_is_missing_unparsable_or_several_is_counted_and_wrong(tmp_path):
    box = truth()[3][0].tolist()
    others = [{"ref_id": f"r{i}", "sentence": SPLIT["val"].describe(i)["sentence"]} for i in range(10)]
    others[0] |= {"box": None}
    others[1] |= {"box": [1, 2, 3]}
    others[2] |= {"box": [0, 0, float("nan"), 4]}
    others[3] |= {"boxes": [[0, 0, 1, 1], [0, 0, 2, 2], box], "scores": [0.2, None, 0.9]}
    others[4] |= {"text": "I see no dog here."}
    others[5] |= {"boxes": []}
    others[8] |= {"box": []}
    others[9] |= {"boxes": [truth()[9][0].tolist()], "scores": [None]}  # as a table with a column of scores writes it
    others[6] |= {"box": [0, 0, 9000, 9000], "score": 0.5}
    others[7] |= {"text": f"```json\n{json.dumps([{'bbox_2d': truth()[7][0].tolist(), 'label': 'dog'}])}\n```"}
    lost = [{"ref_id": "elsewhere", "sentence": "x", "box": box}, {"split": "test", "index": 0, "box": box}]
    scored = read_answers(lines(tmp_path / "a.jsonl", [*others, *lost]), SPLIT, Convention())
    assert scored.counts == {
        "answered": 10, "missing": 30, "none": 3, "unparsable": 3, "several": 1, "outside": 1, "extra": 2,
    }  # fmt: skip
    right = [record["index"] for record in scored.records["val"] if record["iou"] > 0.5]
    assert right == [3, 7, 9] and scored.records["val"][3]["score"] == 0.9
    assert "30 phrases without one (wrong)" in scored.summary()


@pytest.mark.parametrize(
    "told",
    [{"text": "{<10><20><50><90>} dog"}, {"box": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}}],
)
def test_where_no_answer_can_be_read_it_is_said(told, tmp_path):
    answers = [{"ref_id": f"r{i}", "sentence": SPLIT["val"].describe(i)["sentence"]} | told for i in range(2)]
    scored = read_answers(lines(tmp_path / "a.jsonl", answers), SPLIT, Convention())
    assert scored.counts["unparsable"] == 2 and "no answer can be read" in scored.suspicion
    answers[0]["box"] = None
    answers[0].pop("text", None)
    assert read_answers(lines(tmp_path / "a.jsonl", answers), SPLIT, Convention()).suspicion is None


def test_an_index_needs_the_datas_fingerprint_or_a_sentence_that_agrees(tmp_path):
    inner = ToySplit(4)
    inner.fingerprint = "abc"
    split = {"val": ForeignDataSet(inner)}
    box, sentence = truth()[2][0].tolist(), split["val"].describe(2)["sentence"]
    for extra in ({"fingerprint": "abc"}, {"sentence": sentence}):
        scored = read_answers(lines(tmp_path / "a.jsonl", [{"index": 2, "box": box} | extra]), split, Convention())
        assert [record["iou"] > 0.99 for record in scored.records["val"]] == [False, False, True, False]
    for extra, said in (
        ({}, "add the sentence"),
        ({"fingerprint": "abd"}, "fingerprint 'abd'"),
        ({"sentence": "another"}, "made for other data"),
        ({"sentence": sentence, "ref_id": "r3"}, "made for other data"),
    ):
        with pytest.raises(InputError, match=said):
            read_answers(lines(tmp_path / "a.jsonl", [{"index": 2, "box": box} | extra]), split, Convention())


class Twins(ToySplit):
    """Two phrases of the same words on one image: of one object (a ref's repeated sentence), or of two."""

    def __init__(self, same):
        super().__init__(2)
        self.same = same

    def truth(self, i):
        return super().truth(0 if self.same else i)

    def describe(self, i):
        return {"image": "photos/a.jpg", "image_id": "7", "ref_id": "r0", "sentence": "the dog", "sentence_index": i}


def test_a_key_names_one_truth(tmp_path):
    answer = {"image": "elsewhere/a.jpg", "sentence": "the dog", "box": [0, 0, 9, 9]}
    for key in ({}, {"image": "7"}, {"image": 7.0}, {"image": None, "ref_id": "r0"}):
        path = lines(tmp_path / "a.jsonl", [answer | key])
        assert read_answers(path, {"val": ForeignDataSet(Twins(same=True))}, Convention()).counts["answered"] == 2
        with pytest.raises(InputError, match="names 2 phrases of different objects"):
            read_answers(path, {"val": ForeignDataSet(Twins(same=False))}, Convention())
    with pytest.raises(InputError, match="line 2 answers 'the dog' of ref_id r0 in val, which line 1 has answered"):
        read_answers(lines(tmp_path / "a.jsonl", [answer] * 2), {"val": ForeignDataSet(Twins(same=True))}, Convention())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no answers: it is empty"),
        ('{"index": 0', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "expected one object a line"),
        ("[\n {}\n]", "of another kind"),
        ('{"box": [0, 0, 1, 1]}', "does not say which phrase"),
        ('{"ref_id": "nobody", "sentence": "x", "box": null}', "none of the lines"),
        ('{"ref_id": "r0", "sentence": %s, "bbox": [0, 0, 1, 1]}', "the first one has ref_id, sentence, bbox"),
        ('{"index": 999, "sentence": "x"}', "not among those"),
        ('{"index": 0.5, "sentence": "x"}', "whole number"),
        (
            '{"ref_id": "r0", "sentence": %s, "box": [0, 0, 1, 1], "mask": {"size": [1, 1], "counts": "1"}}',
            "not COCO RLE",
        ),
        ('{"ref_id": "r0", "sentence": %s, "box": [0, 0, 1, 1], "size": [0, 5]}', "a.jsonl, line 1: size is [0, 5]"),
        ("\n", "has no answers: it is empty"),
    ],
)
def test_a_broken_file_is_an_error_by_line(content, said, tmp_path):
    content = content.replace("%s", json.dumps(SPLIT["val"].describe(0)["sentence"]))
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(said)):
        read_answers(tmp_path / "a.jsonl", SPLIT, Convention())


def test_a_line_may_carry_the_size_of_its_resized_image(tmp_path):
    box, height, width = truth()[0]
    answer = {"ref_id": "r0", "sentence": SPLIT["val"].describe(0)["sentence"], "size": [2 * width, 3 * height]}
    answer["box"] = (box * [2, 3, 2, 3]).tolist()
    scored = read_answers(lines(tmp_path / "a.jsonl", [answer]), SPLIT, Convention())
    assert scored.records["val"][0]["iou"] > 0.999


def test_what_is_declared_holds_beside_columns_of_anybody(tmp_path):
    """A harness may keep the truth beside its answers, and the size of the image beside a box in a square."""
    named = [{"ref_id": f"r{i}", "sentence": SPLIT["val"].describe(i)["sentence"]} for i in range(40)]
    for coordinates in ("0-1000", "letterboxed:416"):
        convention = Convention(coordinates)
        beside = [{"target": box.tolist(), "iou": 1.0, "size": [width, height]} for box, height, width in truth()]
        told = [{"box": written(*one, convention).tolist()} for one in truth()]
        path = lines(tmp_path / "a.jsonl", [a | b | c for a, b, c in zip(named, beside, told, strict=True)])
        assert summarize_records(read_answers(path, SPLIT, convention).records["val"])["Acc@0.5"] == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<box>(10, 20), (30, 40)</box>", [[10, 20, 30, 40]]),
        ("The dog is at [10.5, 20, 30, 40].", [[10.5, 20, 30, 40]]),
        ('{"objects": [{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8]}]}', [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ('Sure!\n```json\n[{"bbox_2d": [1, 2, 3, 4]}]\n```', [[1, 2, 3, 4]]),
        ('```python\ncrop(9, [9, 9, 9, 9])\n```\n```json\n{"bbox_2d": [1, 2, 3, 4]}\n```', [[1, 2, 3, 4]]),
        ('```\n{"bbox_2d": [1, 2, 3, 4]}\n``` and ```\n{"bbox_2d": [5, 6, 7, 8]}\n```', [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("[[0.1, 0.2], [0.3, 0.4]]", [[0.1, 0.2, 0.3, 0.4]]),
        ("dog<loc_52><loc_333><loc_932><loc_774>", [[52, 333, 932, 774]]),
        ("none", []),
        ("[1, 2, 3, 4, 5]", []),
        ("[1e400, 2, 3, 4]", []),
        ("[1, 2, NaN, 4]", []),
        ('<think>Is it [9, 9, 9, 9]?</think>{"bbox_2d": [1, 2, 3, 4]}', [[1, 2, 3, 4]]),
        ("[" * 700 + "1, 2, 3, 4" + "]" * 700, [[1, 2, 3, 4]]),
        ("[" + "1" * 90_000, []),  # what a model says that cannot stop
        ("<think>Is it [9, 9, 9, 9], or", []),  # a thought that was cut off
        ("◁think▷Is it [9, 9, 9, 9]?◁/think▷[0.1, 0.2, 0.3, 0.4]", [[0.1, 0.2, 0.3, 0.4]]),  # Kimi-VL
        ('[THINK]Is it [9, 9, 9, 9]?[/THINK]{"bbox_2d": [1, 2, 3, 4]}', [[1, 2, 3, 4]]),  # Magistral
        ("◁think▷Is it [9, 9, 9, 9], or", []),
        ("(1, 2), (3, 4)(5, 6), (7, 8)", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("[(1, 2), (3, 4), (5, 6)]", []),  # points, an outline
        ('{"polygon": [[1, 2], [3, 4], [5, 6], [7, 8]]}', []),
        ("two<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6>", []),
        (
            "<loc0123><loc0456><loc0789><loc1000> dog ; <loc0001><loc0002><loc0003><loc0004> cat",
            [[123, 456, 789, 1000], [1, 2, 3, 4]],
        ),
        ("dogs [[010,020,700,800;050,060,070,080]]", [[10, 20, 700, 800], [50, 60, 70, 80]]),
        ("dogs[0.1, 0.2, 0.3, 0.4; 0.5, 0.6, 0.7, 0.8] sit", [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]),
        ("[0.1,0.2;0.3,0.4]", []),  # points
        (
            "<ref>dogs</ref><box>10 20 30 40</box><box>50 60 70 80</box>",
            [[10, 20, 30, 40], [50, 60, 70, 80]],
        ),  # MiniCPM-V
        ("<box>10 20 30 40 50 60</box>", []),
        ("<loc_1><loc_1><loc_9><loc_1><loc_9><loc_9><loc_1><loc_9>", []),
        ('[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7]}]', []),  # one of them is broken
        ('{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}', [[1, 2, 3, 4]]),
        ('{"boxes": [[1, 2, 3, 4]], "scores": [0.9, 0.8, 0.7, 0.6]}', [[1, 2, 3, 4]]),
        ('{"boxes": [[1, 2, 3, 4]], "box_scores": [0.9, 0.8, 0.7, 0.6]}', [[1, 2, 3, 4]]),
    ],
)
def test_boxes_are_found_in_what_chat_models_say(text, found):
    assert boxes_in_text(text) == found


@pytest.mark.parametrize(
    ("text", "none"),
    [
        ('{"bbox_2d": null}', True),
        ('```json\n[{"bbox_2d": null, "label": "the dog"}]\n```', True),
        ("<think>It may be at [1, 2, 3, 4].</think>\n[]", True),
        ('{"found": false, "boxes": []}', True),
        ('{"bbox_2d": null, "confidence": 0.02}', True),
        ('{"boxes": [], "scores": [0.02]}', True),
        ('{"bbox_2d": null, "point_2d": [1, 2]}', False),
        ('<answer>{"bbox_2d": null}</answer><|im_end|>', True),
        ("<|begin_of_box|>[]<|end_of_box|>", True),
        ('```JSON\n{"bbox_2d": null}\n```', True),
        ('{"error": "no image"}', False),
        ('```python\nfind("dog")\n```\n```json\n{"bbox_2d": null}\n```', True),
        ("[1, 2, null, 4]", False),
        ("There is no dog.", False),
        ("", False),
    ],
)
def test_only_json_says_that_it_is_not_there(text, none):
    assert says_none(text) is none


@settings(max_examples=300)
@given(st.text(alphabet="[](){},. 0123456789-+eE<>_loc\"'`bx:ntrufalsNI\n\t", max_size=200) | st.text(max_size=200))
def test_no_text_is_a_crash(text):
    for box in boxes_in_text(text):
        assert len(box) == 4 and np.isfinite(box).all()


@settings(max_examples=200)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                    max_leaves=8), st.sampled_from(["box", "boxes", "scores", "text", "score"]))  # fmt: skip
def test_no_answer_is_a_crash_or_by_itself_a_hit(tmp_path_factory, value, key):
    answer = {"ref_id": "r0", "sentence": SPLIT["val"].describe(0)["sentence"], "box": [-5, -5, -4, -4], key: value}
    path = lines(tmp_path_factory.getbasetemp() / "fuzz.jsonl", [answer])
    scored = read_answers(path, SPLIT, Convention())
    assert scored.records["val"][0]["iou"] < 0.5 and np.isfinite(scored.records["val"][0]["iou"])


def test_of_no_phrases_nothing_is_sure():
    assert bootstrap.intervals([]) == bootstrap.paired([], []) == {} and bootstrap.changed([], []) == []


def test_every_metric_has_its_interval_and_its_paired_difference(tmp_path):
    one, anything = ToySplit(30, with_masks=True), AnySplit(30)
    for dataset, model in ((one, ToyModel(True)), (anything, AnyModel(True))):
        loader = DataLoader(dataset, 7, collate_fn=dataset.collate)
        metrics, records = evaluate(model, loader, dataset, mean=[0, 0, 0], std=[1, 1, 1])
        shares = {name: value for name, value in metrics.items() if name not in ("count", "threshold")}
        found, worse = bootstrap.intervals(records), [records[0], *map(spoilt, records[1:])]
        differences = bootstrap.paired(records, worse)
        assert shares.keys() == found.keys() - {"Acc@0.5:0.95"} == differences.keys() - {"Acc@0.5:0.95"}
        for name, value in shares.items():
            assert found[name][0] <= value <= found[name][1], name
            assert differences[name][0] == pytest.approx(value - summarize_records(worse)[name]), name
        assert all(low <= mean <= high for mean, low, high in differences.values())


def spoilt(record):
    """The answer with half of its mask, and with no box that fits."""
    far = {"iou": 0.0 if record["iou"] is not None else None, "box": [0, 0, 1, 1], "boxes": [[0, 0, 1, 1]]}
    union = record["mask_union"] + record["mask_intersection"] // 2
    fewer = {"mask_intersection": record["mask_intersection"] // 2, "mask_union": union}
    return record | {key: value for key, value in far.items() if key in record} | fewer


def test_intervals_cover_and_pairs_are_paired():
    rng = np.random.default_rng(1)
    records = [
        {
            "index": i,
            "image": f"{i // 4}.jpg",
            "image_id": str(i // 4),
            "iou": float(iou),
            "target": [0, 0, 10, 10],
            "box": None,
        }
        for i, iou in enumerate(rng.uniform(0, 1, 400))
    ]
    low, high = bootstrap.intervals(records)["Acc@0.5"]
    mean = np.mean([record["iou"] > 0.5 for record in records])
    assert low < mean < high and 0.06 < high - low < 0.14, "about 2 x 1.96 x sqrt(0.25 / 400)"
    assert bootstrap.intervals([{"index": i, "image": i, "iou": 1.0} for i in range(5)])["Acc@0.5"] == (
        pytest.approx(0.478, abs=1e-3),
        1,
    ), "five of five is no certainty"
    together = [record | {"image_id": "one", "image": "one"} for record in records]
    assert bootstrap.intervals(together)["Acc@0.5"] == (0, 1), (
        "images are drawn, not phrases: one says nothing of others"
    )
    worse = [record | {"iou": record["iou"] / 2} for record in together]
    assert bootstrap.paired(together, worse)["mIoU"][1:] == (-1, 1)
    better = [record | {"iou": min(1.0, record["iou"] + 0.1)} for record in records]
    difference, low, high = bootstrap.paired(better, records)["Acc@0.5"]
    assert 0 < low < difference < high < 0.2 and bootstrap.paired(records, records)["mIoU"] == (0, 0, 0)
    changes = bootstrap.changed(better, records)
    assert len(changes) == round(400 * difference) and all(line["iou"] > 0.5 >= line["other_iou"] for line in changes)
    assert bootstrap.mean_accuracy([{"iou": 0.72}]) == pytest.approx(0.5)


@pytest.mark.parametrize(("side", "name"), [(31.9, "small"), (32, "medium"), (95.9, "medium"), (96, "large")])
def test_sizes_are_cocos(side, name):
    assert bootstrap.size_class({"target": [5, 5, 5 + side, 5 + side]}) == name
