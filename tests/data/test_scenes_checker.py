"""The second evaluator of shape-scene phrases, by itself and against generated phrases; run as a script, against 10,000 that fit
none, one or several objects.
"""

import ast
from collections import Counter
from pathlib import Path

import pytest
import scenes_checker as checker
from scenes_checker import PhraseError, resolve

from rec.data import scenes
from rec.data.text import mirror_phrase

# Three rows of three, in an image of 100 x 100; 0 is top left, 4 in the middle, 8 bottom right.
OBJECTS = [
    {"shape": shape, "colour": colour, "size": size, "texture": texture, "box": (x, y, 10, 10)}
    for (shape, colour, size, texture), (x, y) in zip(
        [
            ("circle", "red", "small", "plain"),
            ("circle", "red", "big", "striped"),
            ("circle", "blue", "small", "dotted"),
            ("square", "red", "small", "plain"),
            ("square", "green", "big", "checkered"),
            ("star", "blue", "small", "plain"),
            ("cross", "purple", "big", "plain"),
            ("circle", "green", "small", "striped"),
            ("star", "white", "big", "dotted"),
        ],
        [(5, 3), (45, 4), (85, 5), (6, 45), (46, 46), (86, 47), (7, 85), (47, 86), (87, 87)],
        strict=True,
    )
]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("circle", [0, 1, 2, 7]),
        ("the large checkered green square", [4]),
        ("black circle", []),
        ("the rightmost red shape", [1]),
        ("the lowest circle", [7]),
        ("the circle furthest to the right", [2]),
        ("the shape in the upper left corner", [0]),
        ("the thing in the center", [4]),
        ("second circle from the left", [1]),
        ("the third circle from the bottom", [1]),
        ("circle that is not red", [2, 7]),
        ("circle that is neither red nor blue", [7]),
        ("star below the star in the top right", []),
        ("red shape under the big red circle", [3]),
        ("the square left of the star", []),
        ("shape left of the square that is right of the small red square", [0, 1, 3, 6]),
        ("circle closest to the white star", [7]),
        ("all stars", [5, 8]),
        ("the two red circles", [0, 1]),
        ("both squares", [3, 4]),
        ("the two circles", []),
        ("the three small circles", [0, 2, 7]),
        ("all shapes on the right", [2, 4, 5, 7, 8]),
        ("every star on the left side", []),
        ("all circles above the green square", [0, 1, 2]),
    ],
)
def test_a_phrase_fits_what_its_words_say(phrase: str, expected: list[int]) -> None:
    assert resolve(phrase, OBJECTS, (100, 100)) == expected


@pytest.mark.parametrize(
    "phrase",
    ["", "the", "the pink circle", "circle left", "the circle of", "circle left of star", "circle red", "second circle",
     "circle that is", "the circle in the left", "circle that is neither red", "every circles", "all circle", "both star",
     "two", "all", "circle left of the stars", "the reds circle"],
)  # fmt: skip
def test_a_phrase_of_another_language_is_refused(phrase: str) -> None:
    with pytest.raises(PhraseError, match="cannot read"):
        resolve(phrase, OBJECTS, (100, 100))


def test_the_checker_shares_no_code_with_the_generator() -> None:
    tree = ast.parse(Path(checker.__file__).read_text(encoding="utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not any(str(name).startswith("rec") for name in modules)


@pytest.mark.parametrize(("level", "seed_start"), [("easy", 0), ("hard", 50_000)])
def test_each_of_5000_phrases_fits_its_target_alone(level: str, seed_start: int) -> None:
    checked = 0
    for seed in range(seed_start, seed_start + 1000):
        scene = scenes.make_scene(seed, level, phrases_per_scene=6)
        for target, sentence in scene.phrases:
            assert resolve(sentence, scene.objects) == [target], (seed, sentence)
            checked += 1
    assert checked >= 5000


@pytest.mark.parametrize(("level", "seed_start"), [("easy", 0), ("hard", 60_000)])
def test_a_phrase_of_none_one_or_several_fits_what_was_drawn_as_its_answer(level: str, seed_start: int) -> None:
    counts = check_answers(level, range(seed_start, seed_start + 120), phrases_per_scene=3)
    assert all(counts[count] == 120 for count in ("none", "one", "several"))


def check_answers(level: str, seeds: range, phrases_per_scene: int) -> Counter[str]:
    """Lets the checker read the phrases of these scenes; how many fit none, one and several."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        scene = scenes.make_scene(seed, level, phrases_per_scene=phrases_per_scene, targets="any")
        for numbers, sentence in scene.answers:
            assert resolve(sentence, scene.objects) == list(numbers), (level, seed, sentence)
            counts["none" if not numbers else "one" if len(numbers) == 1 else "several"] += 1
    return counts


def test_a_phrase_that_fits_two_objects_would_be_found() -> None:
    """The check above can fail: a copy of the target at the same place makes every phrase by attributes ambiguous."""
    scene = scenes.make_scene(0)
    for target, sentence in scene.phrases:
        if scenes.phrase_kind(sentence) == "attribute":
            assert resolve(sentence, [*scene.objects, scene.objects[target]]) == [target, len(scene.objects)]


@pytest.mark.parametrize("targets", ["one", "any"])
@pytest.mark.parametrize("level", ["easy", "hard"])
def test_a_mirrored_phrase_fits_the_mirrored_scene(level: str, targets: str) -> None:
    for seed in range(60):
        scene = scenes.make_scene(seed, level, targets=targets)
        mirrored = [
            {field: getattr(item, field) for field in ("shape", "colour", "size", "texture")}
            | {"box": (128 - item.box[0] - item.box[2], *item.box[1:])}
            for item in scene.objects
        ]
        for numbers, sentence in scene.answers:
            swapped = mirror_phrase(sentence)
            assert swapped is not None, sentence
            assert resolve(swapped, mirrored) == list(numbers), (seed, sentence)


if __name__ == "__main__":
    for name in ("easy", "hard"):
        found = check_answers(name, range(1667), phrases_per_scene=3)
        print(f"{name}: {found.total()} phrases, every answer as drawn: {dict(sorted(found.items()))}")
