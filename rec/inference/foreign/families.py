"""What the families of chat models are asked, and how they write a box: declared here, never guessed from the truth.

A model whose name is in no line needs ``coordinates=``; the prompt, and the ``box_format`` that it asks for, can be others too.
"""

import re
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rec.conventions import Convention
from rec.errors import InputError

PROMPT = (
    'Locate "{phrase}" in the image. Answer with JSON alone: {{"bbox_2d": [x1, y1, x2, y2]}}, '
    'or {{"bbox_2d": null}} if it is not there.'
)
_GEMINI = (
    'Locate "{phrase}" in the image. Answer with JSON alone: {{"box_2d": [ymin, xmin, ymax, xmax]}}, whole numbers from 0 to '
    '1000, or {{"box_2d": null}} if it is not there.'
)


@dataclass(frozen=True)
class Family:
    """How one family of chat models is asked and answers.

    Attributes:
        coordinates: as of :class:`rec.conventions.Convention`; ``pixel`` means pixels of the image as it was sent.
        multiple: both sides of the image are brought to a multiple of this many pixels before it is sent, as the family's own
            processor would: pixels then mean the same on both sides.
        min_pixels, max_pixels: of the image that is sent.
        prompt: ``{phrase}`` is replaced.
        box_format: as of :class:`rec.conventions.Convention`.
    """

    coordinates: str
    multiple: int = 1
    min_pixels: int = 1
    max_pixels: int = 1 << 21
    prompt: str = PROMPT
    box_format: str = "xyxy"

    def question(self, phrase: str) -> str:
        """The prompt about ``phrase``."""
        return self.prompt.replace("{{", "{").replace("}}", "}").replace("{phrase}", phrase)

    def fitted(self, image: np.ndarray) -> np.ndarray:
        """``image``, uint8 ``(H, W, 3)``, in the size in which the family sees it."""
        height, width = image.shape[:2]
        scale = 1.0
        if height * width > self.max_pixels:
            scale = (self.max_pixels / (height * width)) ** 0.5
        elif height * width < self.min_pixels:
            scale = (self.min_pixels / (height * width)) ** 0.5
        sides = [max(self.multiple, round(side * scale / self.multiple) * self.multiple) for side in (height, width)]
        while sides[0] * sides[1] > self.max_pixels and max(sides) > self.multiple:
            sides[sides.index(max(sides))] -= self.multiple
        return (
            image if sides == [height, width] else cv2.resize(image, (sides[1], sides[0]), interpolation=cv2.INTER_AREA)
        )

    def convention(self, height: int, width: int) -> Convention:
        """Of a box about a sent image of that size."""
        return Convention(f"{width}x{height}" if self.coordinates == "pixel" else self.coordinates, self.box_format)


# The first line whose pattern is found in the model's name, small letters. Qwen2.5-VL's processor works in patches of 28 pixels
# (its preprocessor_config.json: min_pixels 3136), Qwen2-VL, Qwen3-VL and InternVL write thousandths, and Gemini the top first.
_FAMILIES: tuple[tuple[str, Family], ...] = (
    (r"qwen[-_]?2[._]5[-_]?vl", Family("pixel", 28, 3136, 1 << 20)),
    (r"qwen[-_]?(2|3)[-_]?vl", Family("0-1000")),
    (r"internvl", Family("0-1000")),
    (r"florence", Family("florence")),
    (r"gemini", Family("0-1000", prompt=_GEMINI, box_format="yxyx")),
)


def family_of(
    name: str, coordinates: str | None = None, prompt: str | None = None, box_format: str | None = None
) -> Family:
    """The family of a model by its name, with what the caller says otherwise.

    Raises:
        InputError: the name is of no family known, and ``coordinates`` are not given; or the prompt has no ``{phrase}``.
    """
    found = next((family for pattern, family in _FAMILIES if re.search(pattern, name.lower())), None)
    if found is None and coordinates is None:
        raise InputError(
            f"how {name} writes a box is not known: say coordinates='pixel' (of the image as it is sent), '0-1', '0-999', '0-1000' "
            "or 'florence' (--coordinates), as its authors do"
        )
    if prompt is not None and "{phrase}" not in prompt:
        raise InputError(f"the prompt {prompt[:80]!r} has no {{phrase}}")
    found = found or Family("pixel")
    convention = Convention(coordinates or found.coordinates, box_format or found.box_format)
    written, order = convention.coordinates, convention.box_format
    return replace(found, coordinates=written, box_format=order, prompt=prompt or found.prompt)
