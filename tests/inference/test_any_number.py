"""Answers of none, one or several objects: the Grounder's, in JSON, in pictures, on the page and from predict.py."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from inference_toy import SIZE, VOCABULARY, folder_config, new_model, write_folder
from PIL import Image

import rec
from rec import model_folder
from rec.contracts import Answer
from rec.inference import Grounder
from rec.inference.grounding import Grounding, Picture, draw
from rec.model_folder import ModelFolderError
from rec.model_folder.card import model_card
from rec.model_folder.format import from_run

CELLS = torch.tensor([[4.0, 4, 24, 24], [6, 4, 26, 24], [36, 30, 60, 60], [8, 40, 20, 60]])
# What the model thinks of its cells, by the phrase's first word.
SCORES = {"red": [0.9, 0.8, 0.6, 0.1], "circle": [0.3, 0.2, 0.7, 0.1], "triangle": [0.2, 0.1, 0.1, 0.3]}
PIXELS = np.full((SIZE, 2 * SIZE, 3), 90, np.uint8)  # letterboxed to half its size, 16 pixels down


class Cells(torch.nn.Module):
    """Scores fixed boxes by the phrase, and says with its mask what it says with its best box."""

    several = True

    def __init__(self, box=True):
        super().__init__()
        self.unused, self.has_box = torch.nn.Parameter(torch.zeros(1)), box
        self.head = (
            SimpleNamespace(candidates=lambda scores: (CELLS.expand(len(scores), -1, -1), scores)) if box else None
        )

    def encode_image(self, image):
        return [image]

    def forward_features(self, features, tokens, image_index=None):
        words = [VOCABULARY.words[number] for number in tokens[:, 0].tolist()]
        return {"head": torch.tensor([SCORES[word] for word in words])}

    def ground(self, features, tokens, image_index=None):
        scores = self.forward_features(features, tokens)["head"]
        best, cell = scores.max(1)
        mask = torch.full((len(tokens), 1, SIZE, SIZE), -5.0)
        for row, (left, top, right, bottom) in enumerate(CELLS[cell].int().tolist()):
            if self.has_box or best[row] > 0.5:
                mask[row, :, top:bottom, left:right] = 5
        return ({"box": CELLS[cell], "score": best} if self.has_box else {}) | {"mask": mask}


def grounder(answer=None, threshold=None, model=None):
    config = folder_config() | ({} if answer is None else {"answer": answer.to_folder()})
    return Grounder(model or Cells(), config, VOCABULARY, device="cpu", threshold=threshold)


def test_boxes_above_the_threshold_are_the_answer_best_first_without_those_that_overlap():
    several, one, none = grounder(Answer(0.5))(PIXELS, ["red", "circle", "triangle"])
    assert several.scores == pytest.approx((0.9, 0.6)) and several.found and several.score == several.scores[0]
    assert several.boxes[0] == several.box == pytest.approx((8, 0, 48, 16)) and len(several.boxes) == 2
    assert one.boxes == (one.box,) and one.scores == (one.score,) == pytest.approx((0.7,))
    assert none.boxes == none.scores == () and none.box is none.score is None and not none.found
    assert one.mask.any() and not none.mask.any() and none.mask.shape == PIXELS.shape[:2]


def test_a_folder_without_an_answer_gives_one_object_as_ever():
    for answer in grounder()(PIXELS, list(SCORES)):
        assert answer.found and answer.boxes == (answer.box,) and answer.scores == (answer.score,)


def test_the_threshold_can_be_overridden_for_every_model():
    assert [len(a.boxes) for a in grounder(Answer(0.5), threshold=0.95)(PIXELS, list(SCORES))] == [0, 0, 0]
    assert [len(a.boxes) for a in grounder(threshold=0.15)(PIXELS, list(SCORES))] == [2, 2, 2]
    one_only = Cells()
    one_only.several = "it was trained on one"
    assert [len(a.boxes) for a in grounder(threshold=0.5, model=one_only)(PIXELS, list(SCORES), top_k=3)] == [1, 1, 0]
    assert grounder(Answer(0.5, 0.4, 7), threshold=0.1).answer == Answer(0.1, 0.4, 7)
    asked = grounder(Answer(0.5))
    assert len(asked(PIXELS, "red", threshold=0.95).boxes) == 0 < len(asked(PIXELS, "red").boxes), "for one call"
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"threshold is .*; expected a score, 0 to 1"):
            grounder(threshold=wrong)


def test_other_candidates_are_told_beside_an_answer_of_nothing():
    (none,) = grounder(Answer(0.5))(PIXELS, ["triangle"], top_k=3)
    assert not none.found and [round(score, 1) for _, score in none.candidates] == [0.3, 0.2, 0.1]


@pytest.mark.parametrize(("min_pixels", "found"), [(0, [True, True, False]), (641, [False, True, False])])
def test_a_model_of_masks_alone_found_nothing_where_its_mask_is_small(min_pixels, found):
    model = Cells(box=False)
    assert [int(a.mask.sum()) for a in grounder(model=model)(PIXELS, list(SCORES))] == [640, 1728, 0]
    answers = grounder(Answer(min_pixels=min_pixels), model=model)(PIXELS, list(SCORES))
    assert [a.found for a in answers] == found
    assert all(a.mask.any() == a.found and a.boxes == () for a in answers)


def test_answers_are_plain_json():
    several, _, none = grounder(Answer(0.5))(PIXELS, list(SCORES))
    told = json.loads(json.dumps(several.to_dict()))
    assert told["box"] == told["boxes"][0] and len(told["boxes"]) == len(told["scores"]) == 2 and told["found"]
    told = json.loads(json.dumps(none.to_dict()))
    assert told["boxes"] == told["scores"] == [] and told["box"] is told["score"] is None and told["found"] is False


def test_a_picture_shows_every_box_and_says_that_nothing_was_found():
    several, one, none = grounder(Answer(0.5))(PIXELS, list(SCORES), keep_images=True)
    both, alone = (np.asarray(draw([answer], with_label=False)) for answer in (several, one))
    for left, top, _, bottom in several.boxes:
        edge = both[int(top) : int(bottom), int(left) : int(left) + 2].reshape(-1, 3)
        assert (edge == (218, 54, 51)).all(1).any()
    assert both.shape == alone.shape == PIXELS.shape
    empty = np.asarray(none.draw())
    assert empty.shape[0] > PIXELS.shape[0] and np.array_equal(empty[: len(PIXELS)], PIXELS)  # a strip below says it
    assert np.array_equal(np.asarray(draw([none], with_label=False)), PIXELS)


def test_the_page_says_nothing_found_and_counts_several(tmp_path):
    pytest.importorskip("gradio")
    from rec.inference.demo import answer

    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    line, said = answer(grounder(Answer(0.5)), str(tmp_path / "a.png"), "red\ncircle\ntriangle")
    items = said.split("<li>")[1:]
    assert "2 objects" in items[0] and "score 0.900, box" in items[0] and "score 0.600, box" in items[0]
    assert "score 0.700, box" in items[1] and "objects" not in items[1]
    assert "nothing found" in items[2].lower() and "box" not in items[2]
    assert "2 of 3 found" in line


def test_the_script_prints_and_writes_none_and_several(tmp_path, monkeypatch, call_script):
    write_folder(tmp_path / "model")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    monkeypatch.setattr(rec, "from_pretrained", lambda *_, threshold, **__: grounder(Answer(0.5), threshold))
    counts = {}
    for options in ([], ["--threshold", "0.95"]):
        arguments = ["model", "a.png", "red", "triangle", "--jsonl", "answers.jsonl", "--out", "marked.png", *options]
        monkeypatch.chdir(tmp_path)
        status, out, _ = call_script("predict", *arguments)
        said = out.splitlines()
        assert status == 0
        counts[len(options)] = [
            len(json.loads(line)["boxes"]) for line in Path("answers.jsonl").read_text().splitlines()
        ]
        assert said[-1] == "a.png  'triangle'  nothing found"
        assert said[-2].count("score") == counts[len(options)][0]
    assert counts == {0: [2, 0], 2: [0, 0]}


def test_an_answer_made_without_boxes_has_the_one_it_names():
    picture = Picture(PIXELS, PIXELS, True, False)
    made = Grounding("red", (1.0, 2.0, 3.0, 4.0), 0.5, None, None, picture)
    assert made.boxes == ((1.0, 2.0, 3.0, 4.0),) and made.scores == (0.5,)


def test_a_model_folder_keeps_its_answer(tmp_path):
    config = folder_config() | {"answer": Answer(0.35, 0.6).to_folder()}
    model_folder.write(tmp_path / "model", new_model().state_dict(), config, VOCABULARY, {})
    assert rec.from_pretrained(tmp_path / "model", device="cpu").answer == Answer(0.35, 0.6)
    assert rec.from_pretrained(tmp_path / "model", device="cpu", threshold=0.2).answer == Answer(0.2, 0.6)
    assert "0.35" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("0.5", "answer is '0.5', expected a threshold and, as wanted, suppress_iou, min_pixels"),
        ({"suppress_iou": 0.5}, "expected a threshold"),
        ({"threshold": 0.5, "other": 1}, "expected a threshold"),
        ({"threshold": 1.5}, "answer.threshold is 1.5, expected a number from 0 to 1"),
        ({"threshold": True}, "answer.threshold is True"),
        ({"threshold": 0.5, "suppress_iou": None}, "answer.suppress_iou is None"),
        ({"threshold": 0.5, "min_pixels": 0.5}, "answer.min_pixels is 0.5, expected a number of pixels"),
    ],
)
def test_an_answer_that_is_none_is_named_by_its_key(tmp_path, answer, words):
    with pytest.raises(ModelFolderError, match=words):
        model_folder.write(
            tmp_path / "model", new_model().state_dict(), folder_config() | {"answer": answer}, VOCABULARY, {}
        )


def test_the_threshold_of_the_best_evaluation_goes_into_the_folder():
    data = {"dataset": "mine", "input_shape": [64, 64], "max_token_length": 6}
    cfg = {"model": folder_config()["model"], "dataset": data, "train": {"data": {"mean": [0, 0, 0], "std": [1, 1, 1]}}}
    any_number, one = SimpleNamespace(targets="any"), SimpleNamespace(targets="one")
    assert from_run(cfg, any_number, threshold=0.35)["answer"] == Answer(0.35).to_folder()
    assert from_run(cfg, any_number)["answer"] == Answer().to_folder()
    assert "answer" not in from_run(cfg, one, threshold=0.35)


def test_the_card_tells_the_rule_by_which_its_numbers_are_counted():
    config = folder_config()
    metrics = {"val": {"threshold": 0.4, "Pr@F1": 0.75, "count": 4}}
    card = model_card(config | {"answer": Answer(0.4).to_folder()}, metrics, "trained", "best")
    assert "with an IoU of at least 0.5" in card and "is above the threshold" not in card
    assert "at least 0.4 (chosen on the split val)" in card and card.count("metrics:") == 1 == card.count("value: ")
    unmeasured = model_card(config | {"answer": Answer().to_folder()}, {}, "trained", "best")
    assert "at least 0.5, and with nothing" in unmeasured and "chosen on" not in unmeasured
    assert "the box of the object" in model_card(config, {}, "trained", "best")
