"""One scene from one seed: pixels, objects, masks and phrases."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rec.data.scenes import drawing
from rec.data.scenes.layout import LEVELS, Layout, SceneObject, sample_layout
from rec.data.scenes.phrases import KINDS, SceneView
from rec.data.scenes.several import COUNTS, Found, make_any_phrase


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        seed: the number it was made from.
        image: BGR uint8 ``(S, S, 3)``.
        objects: all objects, in drawing order.
        occupancy: uint8 ``(S, S)``, 0 = background, ``k + 1`` = pixel of object ``k``; the exact visible masks.
        answers: (object numbers, sentence) pairs: which objects each phrase fits, in ascending order.
        phrases: (object number, sentence) pairs of the phrases that fit one.
    """

    seed: int
    image: np.ndarray
    objects: list[SceneObject]
    occupancy: np.ndarray
    answers: list[Found]

    @property
    def phrases(self) -> list[tuple[int, str]]:
        return [(numbers[0], sentence) for numbers, sentence in self.answers if len(numbers) == 1]


TARGETS = ("one", "any")
MAX_SIZE, MAX_PHRASES = 2048, 100


def make_scene(
    seed: int, level: str = "easy", size: int = 128, phrases_per_scene: int = 3, targets: str = "one"
) -> Scene:
    """The scene of a seed, the same on every machine and in every process.

    Image and objects depend on ``seed``, ``level``, ``size`` and ``targets`` alone. The phrases' kinds take turns, so that
    each is a third, and with ``targets="any"`` so do the numbers of objects they fit: none, one, several.

    Args:
        seed: 0 or more.
        level: ``easy`` (3-8 objects) or ``hard`` (8-14).
        size: height and width in pixels, 64 to 2,048.
        phrases_per_scene: how many phrases to make, at most 100; fewer come back only where the scene allows no further ones.
        targets: ``one``, every phrase fits one object; ``any``, it fits none, one or several.

    Raises:
        ValueError: an argument outside these limits.
    """
    if level not in LEVELS:
        raise ValueError(f"shape scenes: level {level!r} is unknown; choose one of {', '.join(LEVELS)}")
    if targets not in TARGETS:
        raise ValueError(f"shape scenes: targets is {targets!r}; choose one of {', '.join(TARGETS)}")
    if type(size) is not int or not 64 <= size <= MAX_SIZE:  # smaller, shapes cannot be told apart
        raise ValueError(f"shape scenes: size is {size!r}; expected 64 to {MAX_SIZE:,} pixels")
    if seed < 0:
        raise ValueError(f"shape scenes: seed {seed} is negative; seeds are whole numbers from 0 on")
    if type(phrases_per_scene) is not int or not 1 <= phrases_per_scene <= MAX_PHRASES:
        raise ValueError(f"shape scenes: phrases_per_scene is {phrases_per_scene!r}; expected 1 to {MAX_PHRASES}")
    # Two sequences per scene and level: how many numbers the search for phrases uses must not change the pixels.
    stream = 4 * seed + 2 * list(LEVELS).index(level)
    rng = random.Random(stream)

    def phrase(view: SceneView, i: int) -> Found | None:
        """A try at the scene's phrase number ``i``; of any number, all nine pairs of kind and count take turns."""
        kind, count = KINDS[(seed + i) % len(KINDS)], "one"
        if targets == "any":
            kind, count = (
                KINDS[(seed // len(COUNTS) + i + i // len(COUNTS)) % len(KINDS)],
                COUNTS[(seed + i) % len(COUNTS)],
            )
        return make_any_phrase(view, rng, level, kind, count)

    layout, view, answers = _layout_with_phrases(rng, level, size, phrase)
    for i in range(len(answers), phrases_per_scene):
        for _ in range(4):  # the same phrase may come up twice in a small scene
            found = phrase(view, i)
            if found is not None and found not in answers:
                answers.append(found)
                break
    image = _render(random.Random(stream + 1), layout, size)
    return Scene(seed, image, layout.objects, layout.occupancy, answers[:phrases_per_scene])


def _layout_with_phrases(
    rng: random.Random, level: str, size: int, phrase: Callable[[SceneView, int], Found | None]
) -> tuple[Layout, SceneView, list[Found]]:
    """The first layout on which the first three phrases can be made, one of each kind, and those."""
    while True:
        layout = sample_layout(rng, LEVELS[level], size)
        if layout is None:
            continue
        view = SceneView(layout.objects, size)
        answers: list[Found] = []
        for i in range(len(KINDS)):
            found = phrase(view, i)
            if found is None:
                break
            answers.append(found)
        else:
            return layout, view, answers


def _render(rng: random.Random, layout: Layout, size: int) -> np.ndarray:
    image = drawing.background(rng, size)
    for item, stencil, corner in zip(layout.objects, layout.stencils, layout.corners, strict=True):
        drawing.paint(rng, image, stencil, corner, item.colour, item.texture)
    return image
