"""What a scene holds: the vocabulary of attributes, the levels, and the random placing of objects.

All randomness comes from ``random.Random(seed).random()``, the one sequence that Python promises never to change, so
that a seed names the same scene on every version. Lengths are written for an image of 128 pixels and scale with it.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rec.data.scenes import drawing

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
EASY_SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "big")
TEXTURES = ("plain", "striped", "dotted", "checkered")

REFERENCE_SIZE = 128
# Long side of the unrotated shape. Nothing lies between 32 and 45, so that "small" and "big" are never in doubt.
DIAMETERS = {"small": (28.0, 32.0), "big": (45.0, 53.0)}

T = TypeVar("T")


@dataclass(frozen=True)
class Level:
    """How crowded a scene is.

    Attributes:
        name: ``easy`` or ``hard``.
        source: the value of the row column ``source``.
        objects: fewest and most objects.
        shapes, textures: those that occur.
        palette: fewest and most different shapes of one scene, and likewise colours.
        big: probability that an object is big.
        crowding: probability that an object is put next to, or over, an earlier one.
        visible: least fraction of each object's pixels that no other object covers.
    """

    name: str
    source: str
    objects: tuple[int, int]
    shapes: tuple[str, ...]
    textures: tuple[str, ...]
    palette: tuple[int, int]
    big: float
    crowding: float
    visible: float


LEVELS = {
    "easy": Level("easy", "scenes", (3, 8), EASY_SHAPES, TEXTURES[:3], (2, 4), 0.6, 0.1, 0.8),
    "hard": Level("hard", "scenes_hard", (8, 14), SHAPES, TEXTURES, (3, 5), 0.35, 0.85, 0.45),
}


@dataclass(frozen=True)
class SceneObject:
    """One object as it is seen: its attributes and the box of its visible pixels.

    Attributes:
        shape, colour, size, texture: words of :data:`SHAPES`, :data:`COLOURS`, :data:`SIZES`, :data:`TEXTURES`.
        box: ``(x, y, w, h)`` in pixels, tight around the visible pixels.
        visible: fraction of the object's own pixels that are visible.
    """

    shape: str
    colour: str
    size: str
    texture: str
    box: tuple[int, int, int, int]
    visible: float


@dataclass(frozen=True)
class Layout:
    """Objects in drawing order (later ones cover earlier ones), where they are, and who owns each pixel.

    Attributes:
        objects: the objects as seen.
        stencils: the drawn form of each object.
        corners: top-left pixel ``(x, y)`` of each stencil.
        occupancy: uint8 ``(S, S)``, 0 for background, ``k + 1`` where object ``k`` is on top and covers at least half
            of the pixel.
    """

    objects: list[SceneObject]
    stencils: list[drawing.Stencil]
    corners: list[tuple[int, int]]
    occupancy: np.ndarray


def pick(rng: random.Random, values: Sequence[T]) -> T:
    """One of ``values``, all equally likely."""
    return values[int(rng.random() * len(values))]


def shuffled(rng: random.Random, values: Sequence[T]) -> list[T]:
    """``values`` in random order."""
    keys = [rng.random() for _ in values]
    return [values[i] for i in sorted(range(len(values)), key=keys.__getitem__)]


def between(rng: random.Random, limits: tuple[int, int]) -> int:
    """A whole number between both limits, inclusive."""
    return limits[0] + int(rng.random() * (limits[1] - limits[0] + 1))


def eligible_targets(objects: Sequence[SceneObject]) -> list[int]:
    """Indices of the objects that share shape or colour with at least two others."""
    return [
        i
        for i, a in enumerate(objects)
        if sum(a.shape == b.shape or a.colour == b.colour for j, b in enumerate(objects) if j != i) >= 2
    ]


def sample_layout(rng: random.Random, level: Level, image_size: int) -> Layout | None:
    """Draws attributes and places for all objects; None where the objects do not fit the image."""
    count = between(rng, level.objects)
    shapes = shuffled(rng, level.shapes)[: between(rng, level.palette)]
    colours = shuffled(rng, COLOURS)[: between(rng, level.palette)]
    textures = shuffled(rng, level.textures)[: between(rng, (2, len(level.textures)))]
    scale = image_size / REFERENCE_SIZE
    occupancy = np.zeros((image_size, image_size), np.uint8)
    attributes: list[tuple[str, str, str, str]] = []
    stencils: list[drawing.Stencil] = []
    corners: list[tuple[int, int]] = []
    areas: list[int] = []
    visible: list[int] = []
    for k in range(count):
        size = "big" if rng.random() < level.big else "small"
        low, high = DIAMETERS[size]
        words = (pick(rng, shapes), pick(rng, colours), size, pick(rng, textures))
        stencil = drawing.Stencil.make(rng, words[0], (low + (high - low) * rng.random()) * scale, scale)
        place = _place(rng, level, stencil, occupancy, areas, visible, corners, stencils)
        if place is None:
            return None
        x, y, covered = place
        height, width = stencil.owned.shape
        occupancy[y : y + height, x : x + width][stencil.owned] = k + 1
        visible = [seen - int(lost) for seen, lost in zip(visible, covered[1:], strict=True)] + [stencil.area]
        areas.append(stencil.area)
        attributes.append(words)
        stencils.append(stencil)
        corners.append((x, y))
    objects = [
        SceneObject(*words, _visible_box(occupancy, k, stencils[k], corners[k]), visible[k] / areas[k])
        for k, words in enumerate(attributes)
    ]
    return Layout(objects, stencils, corners, occupancy)


def _place(
    rng: random.Random,
    level: Level,
    stencil: drawing.Stencil,
    occupancy: np.ndarray,
    areas: list[int],
    visible: list[int],
    corners: list[tuple[int, int]],
    stencils: list[drawing.Stencil],
) -> tuple[int, int, np.ndarray] | None:
    """A top-left corner that leaves every earlier object visible enough, and the pixels each of them loses."""
    height, width = stencil.owned.shape
    room_x, room_y = occupancy.shape[1] - width, occupancy.shape[0] - height
    for _ in range(40):
        if corners and rng.random() < level.crowding:
            j = int(rng.random() * len(corners))
            other_height, other_width = stencils[j].owned.shape
            angle = 2 * math.pi * rng.random()
            distance = (0.25 + 0.3 * rng.random()) * (width + other_width)
            x = round(corners[j][0] + (other_width - width) / 2 + distance * math.cos(angle))
            y = round(corners[j][1] + (other_height - height) / 2 + distance * math.sin(angle))
            if not (0 <= x <= room_x and 0 <= y <= room_y):
                continue
        else:
            x, y = int(rng.random() * (room_x + 1)), int(rng.random() * (room_y + 1))
        covered = np.bincount(occupancy[y : y + height, x : x + width][stencil.owned], minlength=len(corners) + 1)
        if all(visible[j] - covered[j + 1] >= level.visible * areas[j] for j in range(len(corners))):
            return x, y, covered
    return None


def _visible_box(
    occupancy: np.ndarray, k: int, stencil: drawing.Stencil, corner: tuple[int, int]
) -> tuple[int, int, int, int]:
    x, y = corner
    height, width = stencil.owned.shape
    owned = occupancy[y : y + height, x : x + width] == k + 1
    columns, rows = np.flatnonzero(owned.any(0)), np.flatnonzero(owned.any(1))
    left, top = int(columns[0]), int(rows[0])
    return x + left, y + top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1
