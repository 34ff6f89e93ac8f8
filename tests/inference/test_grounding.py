"""Answers as pictures, crops, COCO entries, supervision's detections and in a notebook."""

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from rec.data.images import ImageError
from rec.data.masks import decode
from rec.errors import InputError
from rec.inference.grounding import Grounding, Picture, draw

PIXELS = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
BOXES = (10.4, 5.0, 30.6, 25.0), (0.0, 0.0, 8.0, 8.0)


def grounding(boxes=BOXES[:1], mask=None, **more):
    scores = (0.9, 0.4)[: len(boxes)]
    best = {"box": boxes[0], "score": scores[0]} if boxes else {"box": None, "score": None}
    about = {"phrase": "the <dog>", "warning": None, "picture": Picture(PIXELS, PIXELS, True, False)}
    return Grounding(**about | best | {"mask": mask, "boxes": boxes, "scores": scores} | more)


def mask_of(left, top, right, bottom):
    mask = np.zeros(PIXELS.shape[:2], bool)
    mask[top:bottom, left:right] = True
    return mask


def test_crops_are_the_pixels_of_a_box_rounded_outward_and_kept_inside():
    answer = grounding(BOXES)
    assert np.array_equal(np.asarray(answer.crop()), PIXELS[5:25, 10:31])
    assert np.array_equal(np.asarray(answer.crop(1, margin=0.5)), PIXELS[0:12, 0:12])
    assert grounding(((60.0, 40.0, 60.0, 40.0),)).crop().size == (1, 1)
    for wrong in (2, -1):
        with pytest.raises(ImageError, match="has 2 boxes"):
            answer.crop(wrong)
    with pytest.raises(ImageError, match="has 0 boxes"):
        grounding((), found=False).crop()
    for wrong in (-0.1, float("nan"), float("inf"), "0.1"):
        with pytest.raises(ValueError, match="margin is"):
            answer.crop(margin=wrong)


def test_a_marked_picture_is_saved_in_a_format_that_there_is(tmp_path):
    path = grounding().save(tmp_path / "deep" / "marked.png")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(grounding().draw()))
    for name in ("marked.xyz", "marked"):
        with pytest.raises(InputError, match="cannot be written as"):
            grounding().save(tmp_path / name)


def test_coco_entries_have_the_mask_of_one_object_and_none_of_several():
    mask = mask_of(10, 5, 31, 25)
    (one,) = grounding(mask=mask).to_coco(image_id=7, category_id=3)
    assert one["image_id"] == 7 and one["category_id"] == 3 and one["score"] == 0.9 and one["iscrowd"] == 0
    assert one["bbox"] == pytest.approx([10.4, 5, 20.2, 20]) and one["area"] == mask.sum()
    assert np.array_equal(decode(one["segmentation"]), mask)
    (one,) = grounding().to_coco(image_id=np.int64(7), category_id=np.uint8(3))  # as columns of a table give them
    assert json.loads(json.dumps(one))["image_id"] == 7
    assert grounding().to_coco(image_id="a.jpg")[0]["image_id"] == "a.jpg"
    both = grounding(BOXES, mask=mask).to_coco()
    assert [entry["area"] for entry in both] == pytest.approx([404, 64]) and "segmentation" not in both[0]
    (alone,) = grounding((), mask=mask, score=0.6).to_coco()  # of a model of masks alone
    assert alone["bbox"] == [10, 5, 21, 20] and alone["score"] == 0.6
    assert grounding((), mask=np.zeros_like(mask), found=False).to_coco() == []


def test_supervision_gets_arrays_of_its_shapes(monkeypatch):
    module = types.ModuleType("supervision")
    module.Detections = types.SimpleNamespace
    monkeypatch.setitem(sys.modules, "supervision", module)
    found = grounding(mask=mask_of(1, 2, 3, 4)).to_supervision()
    assert found.xyxy.shape == (1, 4) and found.mask.shape == (1, 40, 60) and found.mask.dtype == bool
    assert found.confidence == pytest.approx([0.9]) and found.data["class_name"].tolist() == ["the <dog>"]
    nothing = grounding((), found=False).to_supervision()
    assert (
        nothing.xyxy.shape == (0, 4) and nothing.mask is None and len(nothing.confidence) == len(nothing.class_id) == 0
    )
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        grounding().to_supervision()


def test_a_notebook_shows_the_picture_and_the_words_and_words_alone_where_it_is_gone():
    shown = grounding(warning="a guess")._repr_html_()
    assert shown.startswith("<img ") and "data:image/jpeg" in shown and "&lt;dog&gt;" in shown and "a guess" in shown
    gone = grounding(picture=Picture(PIXELS.copy(), PIXELS, False, False))
    assert gone._repr_html_() == "<div>&#x27;the &lt;dog&gt;&#x27;  box 10.4 5.0 30.6 25.0  score 0.900</div>"
    assert "nothing found" in str(grounding((), found=False)) and "array" not in repr(
        grounding(mask=mask_of(1, 2, 3, 4))
    )


def test_answers_about_no_image_or_several_are_not_drawn_together():
    small = grounding(picture=Picture(PIXELS[:20], PIXELS[:20], True, False))
    files = [grounding(picture=Picture(name, PIXELS, True, False)) for name in ("a.png", "b.png")]
    for answers in ([], [grounding(), small], files):
        with pytest.raises(ValueError, match=f"{len(answers)} answers cannot be drawn together"):
            draw(answers)
    assert draw([grounding(), files[0], files[0]]).size == (60, 40)


def test_candidates_have_the_colour_and_the_name_of_their_phrase(monkeypatch):
    from rec.evaluation import pictures

    told = []
    monkeypatch.setattr(pictures, "annotate", lambda image, marks, *_: told.extend(marks))
    first = grounding(candidates=((BOXES[0], 0.9), (BOXES[1], 0.4), ((1.0, 1.0, 9.0, 9.0), 0.2)))
    second = grounding((), found=False, candidates=((BOXES[1], 0.3),))
    draw([first, second])
    assert [(tint, label) for _, tint, label in told] == [
        (pictures.colour(0), "3. the <dog> 0.20"),
        (pictures.colour(0), "2. the <dog> 0.40"),
        (pictures.colour(0), "the <dog> 0.90"),
        (pictures.colour(1), "1. the <dog> 0.30"),
    ]
