"""One scene from one seed: pixels, objects, masks and phrases."""

import random
from dataclasses import dataclass

import numpy as np

from rec.data.scenes import drawing
from rec.data.scenes.layout import LEVELS, Layout, SceneObject, eligible_targets, sample_layout
from rec.data.scenes.phrases import KINDS, SceneView, make_phrase


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        seed: the number it was made from.
        image: BGR uint8 ``(S, S, 3)``.
        objects: all objects, in drawing order.
        occupancy: uint8 ``(S, S)``, 0 = background, ``k + 1`` = pixel of object ``k``; the exact visible masks.
        phrases: (object number, sentence) pairs.
    """

    seed: int
    image: np.ndarray
    objects: list[SceneObject]
    occupancy: np.ndarray
    phrases: list[tuple[int, str]]


MAX_SIZE, MAX_PHRASES = 2048, 100


def make_scene(seed: int, level: str = "easy", size: int = 128, phrases_per_scene: int = 3) -> Scene:
    """The scene of a seed, the same on every machine and in every process.

    Image and objects depend on ``seed``, ``level`` and ``size`` alone. The phrases' kinds take turns, starting with
    kind ``seed % 3``, so that each is a third.

    Args:
        seed: 0 or more.
        level: ``easy`` (3-8 objects) or ``hard`` (8-14).
        size: height and width in pixels, 64 to 2,048.
        phrases_per_scene: how many phrases to make, at most 100; fewer come back only where the scene allows no further ones.

    Raises:
        ValueError: an argument outside these limits.
    """
    if level not in LEVELS:
        raise ValueError(f"shape scenes: level {level!r} is unknown; choose one of {', '.join(LEVELS)}")
    if type(size) is not int or size > MAX_SIZE:
        raise ValueError(f"shape scenes: size is {size!r}; expected 64 to {MAX_SIZE:,} pixels")
    if size < 64:
        raise ValueError(f"shape scenes: size {size} is too small to tell shapes apart; use at least 64 pixels")
    if seed < 0:
        raise ValueError(f"shape scenes: seed {seed} is negative; seeds are whole numbers from 0 on")
    if type(phrases_per_scene) is not int or phrases_per_scene > MAX_PHRASES:
        raise ValueError(f"shape scenes: phrases_per_scene is {phrases_per_scene!r}; expected 1 to {MAX_PHRASES}")
    if phrases_per_scene < 1:
        raise ValueError(f"shape scenes: phrases_per_scene is {phrases_per_scene}; at least 1 is needed")
    # Two sequences per scene and level: how many numbers the search for phrases uses must not change the pixels.
    stream = 4 * seed + 2 * list(LEVELS).index(level)
    rng = random.Random(stream)
    layout, phrases = _layout_with_phrases(rng, level, size, seed)
    view, targets = SceneView(layout.objects, size), eligible_targets(layout.objects)
    for i in range(len(KINDS), phrases_per_scene):
        for _ in range(4):  # the same phrase may come up twice in a small scene
            found = make_phrase(view, rng, level, KINDS[(seed + i) % len(KINDS)], targets)
            if found is not None and found not in phrases:
                phrases.append(found)
                break
    image = _render(random.Random(stream + 1), layout, size)
    return Scene(seed, image, layout.objects, layout.occupancy, phrases[:phrases_per_scene])


def _layout_with_phrases(rng: random.Random, level: str, size: int, seed: int) -> tuple[Layout, list[tuple[int, str]]]:
    """The first layout on which every kind of phrase can be made, with one phrase of each."""
    while True:
        layout = sample_layout(rng, LEVELS[level], size)
        if layout is None:
            continue
        targets = eligible_targets(layout.objects)
        view = SceneView(layout.objects, size)
        phrases = []
        for i in range(len(KINDS)):
            found = make_phrase(view, rng, level, KINDS[(seed + i) % len(KINDS)], targets)
            if found is None:
                break
            phrases.append(found)
        else:
            return layout, phrases


def _render(rng: random.Random, layout: Layout, size: int) -> np.ndarray:
    image = drawing.background(rng, size)
    for item, stencil, corner in zip(layout.objects, layout.stencils, layout.corners, strict=True):
        drawing.paint(rng, image, stencil, corner, item.colour, item.texture)
    return image
