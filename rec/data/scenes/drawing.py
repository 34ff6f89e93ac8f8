"""Pixels of a scene: outlines of the shapes, their textures, the backgrounds, and painting one over the other."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

SUPERSAMPLING = 4
SUBPIXEL_BITS = 4  # fixed-point fraction that OpenCV takes for polygon corners

# BGR, chosen to stay apart from each other also in their second tone and on every background.
BASE = {
    "red": (45, 35, 222),
    "orange": (10, 132, 255),
    "yellow": (40, 228, 252),
    "green": (62, 160, 34),
    "blue": (222, 88, 32),
    "purple": (178, 48, 148),
    "white": (250, 250, 250),
    "black": (26, 24, 24),
}
# How far a texture's second tone goes: below 0 toward black, above 0 toward white. White and black stay on their own
# side of middle grey, or a checkered white and a checkered black square would look alike.
SECOND_TONE = {"orange": -0.48, "yellow": -0.48, "white": -0.34, "black": 0.4}


def _polygon(radii: Sequence[float], start: float = -90.0) -> np.ndarray:
    """Corners at equal angles, float64 ``(N, 2)``; y points down, so -90 degrees is the top."""
    angles = np.radians(start + 360.0 / len(radii) * np.arange(len(radii)))
    return np.stack([np.cos(angles), np.sin(angles)], 1) * np.asarray(radii)[:, None]


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], 1)


def _unit(points: np.ndarray) -> np.ndarray:
    """Centred on its box, whose long side becomes 1."""
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) / (high - low).max()


_CROSS = np.array(
    [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)], float
)
# Closed contours with a long side of 1; a second contour is a hole. Squares and crosses are a little smaller, since
# their corners make them look bigger than a circle of the same width.
OUTLINES = {
    "circle": [_unit(_polygon([1] * 48))],
    "square": [_unit(_polygon([1] * 4, -45)) * 0.88],
    "triangle": [_unit(_polygon([1] * 3))],
    "star": [_unit(_polygon([1, 0.45] * 5))],
    "ring": [_unit(_polygon([1] * 48)), _unit(_polygon([1] * 48)) * 0.5],
    "cross": [_unit(_CROSS) * 0.96],
    "diamond": [_unit(_polygon([1, 0.68] * 2))],
    "heart": [_unit(_heart())],
}


@dataclass(frozen=True)
class Stencil:
    """The form of one object on a patch just large enough for it.

    Attributes:
        cover: uint8 ``(h, w)``, how much of each pixel the object covers.
        rim: uint8 ``(h, w)``, how much of each pixel its drawn outline covers.
        owned: bool ``(h, w)``, the pixels it covers at least half: the object's mask.
        area: number of owned pixels.
    """

    cover: np.ndarray
    rim: np.ndarray
    owned: np.ndarray
    area: int

    @classmethod
    def make(cls, rng: random.Random, shape: str, diameter: float, scale: float) -> "Stencil":
        """Draws ``shape`` with a long side of ``diameter`` pixels, tilted by up to 4 degrees.

        ``scale`` is the image size over 128.
        """
        angle = math.radians(8 * rng.random() - 4)
        shift = rng.random(), rng.random()
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        contours = [outline @ turn * diameter for outline in OUTLINES[shape]]
        low, high = contours[0].min(0), contours[0].max(0)
        width, height = (math.ceil(float(extent)) + 2 for extent in high - low)
        factor = SUPERSAMPLING << SUBPIXEL_BITS
        origin = (0.5 + np.array(shift)) - low - 0.5 / SUPERSAMPLING
        corners = [np.rint((contour + origin) * factor).astype(np.int32) for contour in contours]
        canvas = np.zeros((2, height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
        cv2.fillPoly(canvas[0], corners, 255, shift=SUBPIXEL_BITS)
        thickness = max(1, round(1.3 * scale * SUPERSAMPLING))
        cv2.polylines(canvas[1], corners, True, 255, thickness, shift=SUBPIXEL_BITS)
        cover, rim = (cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA) for layer in canvas)
        owned = cover >= 128
        return cls(cover, rim, owned, int(np.count_nonzero(owned)))


@lru_cache(maxsize=4)
def _textures(image_size: int) -> dict[str, list[np.ndarray]]:
    """Large uint8 tiles of each texture, 0 = first tone, 255 = second tone; objects cut their patch out of them."""
    scale = image_size / 128
    side = math.ceil(image_size * 0.62)
    y, x = np.mgrid[0:side, 0:side] / scale

    def soft(distance: np.ndarray) -> np.ndarray:
        """Signed distance from an edge, in pixels, to coverage."""
        return (np.clip(distance * scale + 0.5, 0, 1) * 255).astype(np.uint8)

    def stripes(angle: float) -> np.ndarray:
        along = (x * math.cos(angle) + y * math.sin(angle)) % 8.0
        return soft(2.0 - np.abs(along - 4.0))

    def triangle_wave(values: np.ndarray, period: float) -> np.ndarray:
        return np.abs((values % period) - period / 2) - period / 4

    dots = 2.4 - np.hypot((x % 8.0) - 4.0, (y % 8.0) - 4.0)
    across, down = triangle_wave(x, 9.0), triangle_wave(y, 9.0)
    checks = np.sign(across * down) * np.minimum(np.abs(across), np.abs(down))
    return {
        "plain": [np.zeros((side, side), np.uint8)],
        "striped": [stripes(math.radians(degrees)) for degrees in (0, 45, 90, 135)],
        "dotted": [soft(dots)],
        "checkered": [soft(checks)],
    }


def _blend(start: np.ndarray, end: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Colour table uint8 ``(256, 1, 3)`` that runs from ``start`` to ``end`` as ``t`` runs from 0 to 1."""
    return np.clip(start + (end - start) * t[:, None] + 0.5, 0, 255).astype(np.uint8)[:, None]


@lru_cache(maxsize=1)
def _paints() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per colour: the table from texture value to colour, and the colour of the outline (float32 BGR)."""
    ramp = np.linspace(0, 1, 256)
    paints = {}
    for name, base in BASE.items():
        colour = np.array(base, float)
        tone = SECOND_TONE.get(name, 0.62)
        second = colour * (1 + tone) if tone < 0 else colour + (255 - colour) * tone
        rim = np.full(3, 120.0) if name == "black" else colour * 0.42
        paints[name] = _blend(colour, second, ramp), rim.astype(np.float32)
    return paints


@lru_cache(maxsize=4)
def _grid(image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixel centres, float32 ``(S, S)``, from -1 to 1."""
    line = ((np.arange(image_size) + 0.5) * 2 / image_size - 1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def background(rng: random.Random, image_size: int) -> np.ndarray:
    """A plain, graded, cloudy or faintly striped background, BGR uint8 ``(S, S, 3)``.

    Middle brightness and little colour: black, white and all coloured objects stand out on it.
    """
    kind = int(rng.random() * 4)
    brightness = 105 + 80 * rng.random()
    first = np.array([brightness + 36 * (rng.random() - 0.5) for _ in range(3)])
    if kind == 0:
        return np.broadcast_to((first + 0.5).astype(np.uint8), (image_size, image_size, 3)).copy()
    if kind == 1:  # clouds: a coarse random grid, smoothly enlarged
        coarse = np.array([rng.random() * 255 for _ in range(144)]).astype(np.uint8).reshape(12, 12)
        field = cv2.resize(coarse, (image_size, image_size), interpolation=cv2.INTER_CUBIC)
        return cv2.applyColorMap(field, _blend(first - 22, first + 22, np.linspace(0, 1, 256)))
    angle = 2 * math.pi * rng.random()
    x, y = _grid(image_size)
    field = (x * (90 * math.cos(angle)) + y * (90 * math.sin(angle)) + 128).astype(np.uint8)
    if kind == 2:
        second = np.array([105 + 80 * rng.random() + 36 * (rng.random() - 0.5) for _ in range(3)])
        return cv2.applyColorMap(field, _blend(first, second, np.linspace(0, 1, 256)))
    waves = 8 + 8 * rng.random()
    wave = 0.5 + 0.5 * np.sin(np.arange(256) * (2 * np.pi * waves / 256))
    return cv2.applyColorMap(field, _blend(first - 7, first + 7, wave))


def paint(
    rng: random.Random, image: np.ndarray, stencil: Stencil, corner: tuple[int, int], colour: str, texture: str
) -> None:
    """Paints one object over ``image`` (BGR uint8 ``(S, S, 3)``), in place; ``corner`` is its top-left ``(x, y)``."""
    x, y = corner
    height, width = stencil.cover.shape
    tiles = _textures(image.shape[0])[texture]
    tile = tiles[int(rng.random() * len(tiles))]
    dy = int(rng.random() * (tile.shape[0] - height + 1))
    dx = int(rng.random() * (tile.shape[1] - width + 1))
    table, rim_colour = _paints()[colour]
    fill = cv2.applyColorMap(tile[dy : dy + height, dx : dx + width], table).astype(np.float32)
    fill += (rim_colour - fill) * (stencil.rim.astype(np.float32) / 255)[..., None]
    patch = image[y : y + height, x : x + width]
    under = patch.astype(np.float32)
    under += (fill - under) * (stencil.cover.astype(np.float32) / 255)[..., None]
    patch[...] = under + 0.5
