"""Shape scenes: the same for ever, in the schema, balanced, and as visible as promised."""

import itertools
from collections import Counter

import cv2
import numpy as np
import pytest

from rec import boxes
from rec.data import masks, scenes
from rec.data.scenes.layout import DIAMETERS, LEVELS
from rec.data.scenes.phrases import MAX_WORDS, SceneView
from rec.data.scenes.rows import scene_rows
from rec.data.schema import FEATURES, validate_row

EASY_SHAPES = ["star", "circle", "triangle"]
EASY_PHRASES = [
    (0, "object in the lower left"),
    (2, "the thing above the small plain blue circle"),
    (2, "the large solid blue object"),
]
HARD_PHRASES = [
    (7, "the second shape from the top"),
    (1, "the green shape below the plain thing that is above the little green star"),
    (9, "small striped star"),
]
both_levels = pytest.mark.parametrize("level", ["easy", "hard"])


@pytest.fixture(scope="module")
def sample() -> dict[str, list[scenes.Scene]]:
    return {level: [scenes.make_scene(seed, level) for seed in range(300)] for level in LEVELS}


def test_a_seed_names_the_same_scene_for_ever() -> None:
    """Published figures are measured on these scenes: a change here is a new data set, to be said in the changelog."""
    easy, hard = scenes.make_scene(7), scenes.make_scene(7, "hard")
    assert [item.shape for item in easy.objects] == EASY_SHAPES
    assert easy.phrases == EASY_PHRASES
    assert hard.phrases == HARD_PHRASES


@both_levels
def test_a_scene_is_bit_identical_when_made_again(level: str) -> None:
    first, other, again = (scenes.make_scene(seed, level) for seed in (3, 4, 3))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.occupancy, again.occupancy)
    assert first.objects == again.objects and first.phrases == again.phrases
    assert not np.array_equal(first.image, other.image)


def test_pixels_and_objects_do_not_depend_on_the_number_of_phrases() -> None:
    one, nine = scenes.make_scene(11, phrases_per_scene=1), scenes.make_scene(11, phrases_per_scene=9)
    assert np.array_equal(one.image, nine.image) and one.objects == nine.objects
    assert nine.phrases[:1] == one.phrases and len(nine.phrases) > 3


def test_one_and_two_processes_give_the_same_rows_in_the_same_order() -> None:
    alone = list(scenes.generate_rows(5, 450, processes=1))
    together = list(scenes.generate_rows(5, 450, processes=2))
    assert alone == together


@both_levels
def test_rows_have_the_common_schema(level: str) -> None:
    rows = list(scenes.generate_rows(0, 20, level=level))
    assert [validate_row(row) for row in rows] == [row | {"weight": None} for row in rows]
    assert len({row["ref_id"] for row in rows}) == len(rows)
    assert {row["source"] for row in rows} == {LEVELS[level].source}
    table = scenes.build_table("val", 20, level=level)
    assert table.features == FEATURES
    assert table[0] == next(scenes.generate_rows(scenes.SPLITS["val"].start, 1, level=level)) | {"weight": None}


@both_levels
def test_rows_of_any_number_of_targets_hold_all_boxes_and_the_union_of_their_masks(level: str) -> None:
    rows = list(scenes.generate_rows(0, 20, level=level, targets="any"))
    assert [validate_row(row) for row in rows] == [row | {"weight": None} for row in rows] and {
        len(row["boxes"]) for row in rows
    } >= {0, 1, 2}
    assert {row["source"] for row in rows} == {f"{LEVELS[level].source}_any"}
    for row in rows:
        scene = scenes.make_scene(int(row["image_id"]), level, targets="any")
        numbers = () if row["ref_id"].endswith("none") else tuple(map(int, row["ref_id"].split("-")[1].split("+")))
        assert row["boxes"] == [[float(v) for v in scene.objects[k].box] for k in numbers]
        assert row["bbox"] == (row["boxes"][0] if numbers else None)
        assert np.array_equal(masks.decode(row["mask"]) == 1, np.isin(scene.occupancy, [k + 1 for k in numbers]))
        assert [(numbers, sentence) for sentence in row["sentences"]] == [a for a in scene.answers if a[0] == numbers]
    table = scenes.build_table("val", 3, level=level, targets="any")
    assert table.features == FEATURES and f"level {level}, targets any, split val" in table.info.description


def test_a_table_tells_its_seeds_and_the_splits_share_none() -> None:
    assert scenes.build_table("test", 3).info.description == (
        "shape scenes, level easy, split test, seeds 11000000 to 11000002"
    )
    for one, other in itertools.combinations(scenes.SPLITS.values(), 2):
        assert not set(range(one.start, one.stop, 1000)) & set(range(other.start, other.stop, 1000))
        assert max(one.start, other.start) >= min(one.stop, other.stop)
    assert scenes.split_seeds("train") == range(11000)


@both_levels
def test_mask_box_and_category_agree_and_lie_in_the_image(level: str, sample: dict[str, list[scenes.Scene]]) -> None:
    for scene in sample[level][:60]:
        for row in scene_rows(scene, level):
            k = int(row["ann_id"].split("-")[1])
            mask = masks.decode(row["mask"])
            assert np.array_equal(mask == 1, scene.occupancy == k + 1)
            y, x = np.nonzero(mask)
            assert row["bbox"] == [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
            assert row["category"] == scene.objects[k].shape
            assert {k for k, _ in scene.phrases} >= {k}


def test_the_stored_jpeg_shows_the_scene(sample: dict[str, list[scenes.Scene]]) -> None:
    for scene in sample["easy"][:20]:
        row = scene_rows(scene, "easy")[0]
        decoded = cv2.imdecode(np.frombuffer(row["image"]["bytes"], np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (row["height"], row["width"], 3)
        assert np.abs(decoded.astype(int) - scene.image).mean() < 4


@both_levels
def test_objects_are_as_many_as_visible_and_as_large_as_promised(
    level: str, sample: dict[str, list[scenes.Scene]]
) -> None:
    counts = Counter(len(scene.objects) for scene in sample[level])
    low, high = LEVELS[level].objects
    assert set(counts) == set(range(low, high + 1))
    items = [item for scene in sample[level] for item in scene.objects]
    assert min(item.visible for item in items) >= LEVELS[level].visible >= 0.45
    assert min(item.visible for item in items) < LEVELS[level].visible + 0.05, "objects should overlap"
    whole = [item for item in items if item.visible == 1]
    assert min(min(item.box[2:]) for item in whole) >= 13
    longest = {size: [max(item.box[2:]) for item in whole if item.size == size] for size in DIAMETERS}
    # A tilt of 4 degrees widens a square by 7 % and narrows nothing by more than 4 %.
    assert max(longest["small"]) < 35 <= 39 < min(longest["big"])


def test_the_hard_level_overlaps_more(sample: dict[str, list[scenes.Scene]]) -> None:
    covered = {
        level: np.mean([item.visible < 0.95 for scene in many for item in scene.objects])
        for level, many in sample.items()
    }
    assert covered["hard"] > 0.4 > covered["easy"] > 0.1


@both_levels
def test_every_target_has_two_distractors_of_its_shape_or_colour(
    level: str, sample: dict[str, list[scenes.Scene]]
) -> None:
    for scene in sample[level]:
        for k in {k for k, _ in scene.phrases}:
            own = scene.objects[k]
            alike = [item.shape == own.shape or item.colour == own.colour for item in scene.objects]
            assert sum(alike) - 1 >= 2


@both_levels
@pytest.mark.parametrize("phrases_per_scene", [1, 2, 3, 5])
def test_each_kind_of_phrase_is_a_third(level: str, phrases_per_scene: int) -> None:
    rows = scenes.generate_rows(0, 150, level=level, phrases_per_scene=phrases_per_scene)
    kinds = Counter(scenes.phrase_kind(sentence) for row in rows for sentence in row["sentences"])
    total = kinds.total()
    assert set(kinds) == set(scenes.KINDS)
    assert 0.98 * 150 * phrases_per_scene <= total <= 150 * phrases_per_scene
    assert all(abs(count / total - 1 / 3) < 0.015 for count in kinds.values())


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("the small striped triangle", "attribute"),
        ("circle that is not red", "attribute"),
        ("leftmost circle", "place"),
        ("square in the top right", "place"),
        ("the second circle from the left", "place"),
        ("ring in the center", "place"),
        ("the red circle left of the big blue square", "relation"),
        ("red disc to the right of the heart", "relation"),
        ("the star above the square that is left of the big circle", "relation"),
        ("ring nearest to the star", "relation"),
    ],
)
def test_the_kind_is_read_from_the_words(sentence: str, kind: str) -> None:
    assert scenes.phrase_kind(sentence) == kind


def test_the_form_is_read_from_the_words_and_only_the_hard_level_has_any(sample: dict[str, list[scenes.Scene]]) -> None:
    forms = {
        level: Counter(scenes.phrase_form(sentence) for scene in many for _, sentence in scene.phrases)
        for level, many in sample.items()
    }
    assert set(forms["easy"]) == {None} and set(forms["hard"]) == {None, *scenes.FORMS}
    for sentence, form in (
        ("the star above the square that is left of the big circle", "two steps"),
        ("the small shape that is neither a star nor a ring", "negation"),
        ("third red disc from the right", "ordinal"),
        ("the disc furthest to the left", None),
    ):
        assert scenes.phrase_form(sentence) == form


def test_vocabulary_and_length_stay_small(sample: dict[str, list[scenes.Scene]]) -> None:
    for level, many in sample.items():
        sentences = [sentence for scene in many for _, sentence in scene.phrases]
        assert len({word for sentence in sentences for word in sentence.split()}) <= 80
        assert max(len(sentence.split()) for sentence in sentences) <= MAX_WORDS[level]
        assert all(sentence == sentence.lower().strip() for sentence in sentences)


@both_levels
def test_of_phrases_for_any_number_a_third_fits_none_one_and_several_of_each_kind(level: str) -> None:
    answers = [a for seed in range(90) for a in scenes.make_scene(seed, level, targets="any").answers]
    pairs = Counter((min(len(numbers), 2), scenes.phrase_kind(sentence)) for numbers, sentence in answers)
    assert set(pairs) == set(itertools.product(range(3), scenes.KINDS)) and set(pairs.values()) == {30}
    assert max(len(sentence.split()) for _, sentence in answers) <= MAX_WORDS[level]
    fewer = [scenes.make_scene(seed, level, phrases_per_scene=1, targets="any").answers[0][0] for seed in range(30)]
    assert Counter(min(len(numbers), 2) for numbers in fewer) == {0: 10, 1: 10, 2: 10}


def test_the_number_of_phrases_does_not_change_a_scene_for_any_number_of_targets() -> None:
    one, nine = (scenes.make_scene(11, phrases_per_scene=n, targets="any") for n in (1, 9))
    assert np.array_equal(one.image, nine.image) and nine.answers[:1] == one.answers and len(nine.answers) > 3
    assert nine.phrases == [(numbers[0], sentence) for numbers, sentence in nine.answers if len(numbers) == 1]


def test_what_is_missing_is_nearly_there() -> None:
    """Of "the green triangle", where there is none, something is green and something a triangle."""
    said = {
        "disc": "circle",
        "violet": "purple",
        "little": "small",
        "large": "big",
        "solid": "plain",
        "spotted": "dotted",
    }
    short = 0
    for seed in range(300):
        scene = scenes.make_scene(seed, targets="any")
        view = SceneView(scene.objects, 128)
        for numbers, sentence in scene.answers:
            if numbers or scenes.phrase_kind(sentence) != "attribute":
                continue
            singular = [word if word in view.fits else word.removesuffix("s") for word in sentence.split()]
            words = [word for word in (said.get(word, word) for word in singular) if word in view.fits]
            assert len(words) > 1 and not view.fitting(tuple(words)), sentence
            assert all(view.fitting(tuple(words[:i] + words[i + 1 :])) for i in range(len(words))), sentence
            short += len(words) == 2
    assert short > 20


def test_a_larger_image_is_drawn_larger() -> None:
    scene = scenes.make_scene(2, size=320)
    assert scene.image.shape == (320, 320, 3)
    big = [max(item.box[2:]) for item in scene.objects if item.size == "big" and item.visible == 1]
    assert all(33 * 2.5 < side < 62 * 2.5 for side in big)


def test_guessing_an_object_is_right_about_once_per_number_of_objects() -> None:
    rows = list(scenes.generate_rows(0, 60))
    count = {f"{seed:08d}": len(scenes.make_scene(seed).objects) for seed in range(60)}
    once = [1 / count[row["image_id"]] for row in rows for _ in row["sentences"]]
    accuracy = scenes.random_object_accuracy(rows)
    assert np.mean(once) - 1e-9 <= accuracy < np.mean(once) * 1.1  # more where boxes of two objects nearly coincide


def test_guessing_counts_objects_whose_box_overlaps_enough() -> None:
    row = next(scenes.generate_rows(1, 1))
    objects = scenes.make_scene(1).objects
    all_boxes = boxes.xywh_to_xyxy(np.array([item.box for item in objects], float))
    own = boxes.xywh_to_xyxy(np.array(row["bbox"]))
    assert scenes.random_object_accuracy([row]) == pytest.approx(np.mean(boxes.box_iou(all_boxes, own) > 0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scenes.build_table("testA"), "no split 'testA'; choose one of train, val, test"),
        (lambda: scenes.build_table("val", 0), "count 0 for split 'val'; expected 1 to 1000000"),
        (lambda: scenes.build_table("val", 5, level="medium"), "level 'medium' is unknown; choose one of easy, hard"),
        (lambda: scenes.make_scene(0, size=20), "size is 20; expected 64 to 2,048 pixels"),
        (lambda: scenes.make_scene(-1), "seed -1 is negative"),
        (lambda: scenes.make_scene(0, phrases_per_scene=0), "phrases_per_scene is 0; expected 1 to 100"),
        (lambda: scenes.make_scene(0, targets="two"), "targets is 'two'; choose one of one, any"),
        (lambda: scenes.random_object_accuracy([]), "at least one row"),
        (lambda: scenes.random_object_accuracy([{"source": "refcoco", "ref_id": "5"}]), "ref_id 5 .* 'refcoco'"),
    ],
)
def test_a_wrong_argument_is_named_with_the_right_ones(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
