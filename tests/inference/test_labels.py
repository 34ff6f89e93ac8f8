"""Labels from a teacher: kept where score, second model and mirrored photograph agree; written as one's own data; ticked off."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from rec.contracts import Answer
from rec.data.dataset import RefCOCODataSet
from rec.inference.foreign.base import NOTHING, ForeignGrounder, Found
from rec.inference.labels import Checks, label, write


class Teacher(ForeignGrounder):
    """Finds the white square for "the square", the left or right half for sides, and a fixed place for "there"."""

    def __init__(self, shift=0, score=0.9):
        super().__init__("toy", "a toy")
        self.shift, self.score = shift, score

    def ask(self, images, phrases):
        return [self._one(image, phrase) for image, phrase in zip(images, phrases, strict=True)]

    def _one(self, image, phrase):
        height, width = image.shape[:2]
        if phrase == "nothing":
            return NOTHING
        if "left" in phrase or "right" in phrase:
            box = [0, 0, width / 2, height] if "left" in phrase else [width / 2, 0, width, height]
        elif phrase == "there":
            box = [0, 0, 20, 20]
        else:
            rows, columns = np.nonzero(image[..., 0] > 200)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Found(np.array([box], np.float64) + self.shift, np.array([self.score]))


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.zeros((60, 100, 3), np.uint8)
        pixels[10:30, 10 * number : 10 * number + 30] = 255
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return [
        (str(tmp_path / "photos" / f"{number}.png"), ["the square", "the left one", "there", "nothing"])
        for number in range(3)
    ]


def reasons(found):
    return [one.reason for one in found]


def test_what_the_mirrored_photograph_contradicts_is_left_out(photos):
    assert reasons(label(Teacher(), photos[:1], Checks())) == [None, None, None, "nothing found"]
    told = reasons(label(Teacher(), photos[:1], Checks(mirror=True)))
    assert told == [None, None, "the mirrored photograph disagrees", "nothing found"]


def test_a_phrase_whose_sides_cannot_be_swapped_is_not_asked_of_the_mirror(photos):
    pairs = [(photos[0][0], ["der linke Mann left", "there", "the square"])]
    assert reasons(label(Teacher(), pairs, Checks(mirror=True))) == [None, "the mirrored photograph disagrees", None]


def test_a_second_model_has_to_agree_and_scores_have_to_be_high_enough(photos):
    checks = Checks(min_score=0.5, second=Teacher(shift=1))
    assert reasons(label(Teacher(), photos[:1], checks))[:3] == [None] * 3
    checks = Checks(second=Teacher(shift=9))
    assert reasons(label(Teacher(), photos[:1], checks))[0] == "the second model disagrees"
    assert reasons(label(Teacher(score=0.3), photos[:1], Checks(min_score=0.5)))[0] == "low score"


def test_a_box_beside_the_image_is_no_label(photos):
    assert set(reasons(label(Teacher(shift=200), photos[:1], Checks()))) == {"box outside the image", "nothing found"}


def test_labels_are_ones_own_data(photos, tmp_path):
    counts = write(tmp_path / "train.jsonl", label(Teacher(), photos, Checks(mirror=True)))
    assert counts == {"kept": 6, "the mirrored photograph disagrees": 3, "nothing found": 3}
    source = {"own": {"path": str(tmp_path / "train.jsonl"), "bbox_format": "xywh"}}
    dataset = RefCOCODataSet("own", source, split="train", training=False, input_shape=[64, 64])
    assert RefCOCODataSet("own", source, split="train")[(0, 2)]["weight"].item() == pytest.approx(0.9)
    assert len(dataset) == 6 and dataset.describe(2)["sentence"] == "the square"
    assert dataset.target_boxes(2)[0].tolist() == [[10, 10, 40, 30]]


def test_what_a_teacher_answered_before_its_work_ended_early_is_kept_beside(photos, tmp_path):
    def cut_off():
        yield from label(Teacher(), photos[:1], Checks())
        raise RuntimeError("the server is gone")

    with pytest.raises(RuntimeError, match="gone") as caught:
        write(tmp_path / "train.jsonl", cut_off())
    kept = (tmp_path / "train.jsonl.partial").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["phrase"] for line in kept] == [["the square"], ["the left one"], ["there"]]
    assert "train.jsonl.partial" in caught.value.__notes__[0] and not (tmp_path / "train.jsonl").exists()


class Both(Teacher):
    """Answers with the white square and a place beside it, which ``lost`` leaves out."""

    def __init__(self, lost=False, unsure=0.6):
        super().__init__()
        self.answer, self.lost, self.unsure = Answer(0.5), lost, unsure

    def _one(self, image, phrase):
        first = super()._one(image, "the square").boxes
        found = first if self.lost else np.concatenate([first, [[80.0, 40, 95, 55]]])
        return Found(found, np.array([0.9, self.unsure][: len(found)]))


def test_every_object_of_an_answer_is_labelled_and_checked(photos, tmp_path):
    pairs = [(photos[0][0], ["everything"])]
    assert reasons(label(Both(), pairs, Checks(second=Both()))) == [None]
    assert reasons(label(Both(), pairs, Checks(second=Both(lost=True)))) == ["the second model disagrees"]
    assert reasons(label(Both(lost=True), pairs, Checks(second=Both()))) == ["the second model disagrees"]
    assert reasons(label(Both(), pairs, Checks(mirror=True))) == ["the mirrored photograph disagrees"]
    assert reasons(label(Both(), pairs, Checks(min_score=0.7))) == ["low score"]
    write(tmp_path / "l.jsonl", label(Both(), pairs, Checks()), tmp_path / "review.html")
    line = json.loads((tmp_path / "l.jsonl").read_text(encoding="utf-8"))
    assert "bbox" not in line and line["boxes"] == [[0, 10, 30, 20], [80, 40, 15, 15]] and line["weight"] == 0.6
    source = {"own": {"path": str(tmp_path / "l.jsonl"), "bbox_format": "xywh"}}
    dataset = RefCOCODataSet("own", source, split="train", training=False, input_shape=[64, 64], targets="any")
    assert dataset.target_boxes(0)[0].tolist() == [[0, 10, 30, 30], [80, 40, 95, 55]]


def test_an_image_that_cannot_be_read_is_an_error_of_its_own(photos, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = list(
        label(Teacher(), [(str(tmp_path / "broken.png"), ["x"]), *photos[:1]], Checks(mirror=True, second=Teacher()))
    )
    assert isinstance(found[0], ValueError) and reasons(found[1:])[0] is None


def test_the_page_shows_every_label_and_runs_nothing_of_a_phrase(photos, tmp_path):
    pairs = [(photos[0][0], ['the square</script><img onerror="x">', "there"])]
    write(tmp_path / "l.jsonl", label(Teacher(), pairs, Checks(mirror=True)), tmp_path / "review.html")
    page = (tmp_path / "review.html").read_text(encoding="utf-8")
    assert page.count('type="checkbox"') == 2 and page.count(" checked>") == 1 and page.count("<script>") == 1
    assert "<img onerror" not in page and "http" not in re.sub(r"data:image/jpeg;base64,[^\"]*", "", page)
    lines = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0]["image"] == "photos/0.png" and lines[0]["bbox"] == [0, 10, 30, 20] and lines[0]["score"] == 0.9
