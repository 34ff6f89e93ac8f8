"""The answer to one phrase on one image, and drawing it."""

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rec.data.images import ImageError
from rec.data.masks import encode
from rec.files import user_path
from rec.inference.inputs import ImageLike, is_address, to_pixels

Box = tuple[float, float, float, float]


class Picture:
    """Where a result finds its image again. The pixels themselves are kept only where that is asked.

    A file or address is read again. Of a PIL image, an array or a tensor only a weak reference is held: it is found for as
    long as the caller has it.

    Args:
        image: as it was given to the Grounder.
        pixels: uint8 ``(H, W, 3)`` RGB, as the model saw it.
        keep: whether the pixels are kept.
        allow_urls: whether an address may be fetched again.
    """

    def __init__(self, image: ImageLike, pixels: np.ndarray, keep: bool, allow_urls: bool) -> None:
        self.height, self.width = pixels.shape[:2]
        self.allow_urls = allow_urls
        self.kept = (pixels if pixels.base is None else pixels.copy()) if keep else None
        self.path: str | None = None
        if isinstance(image, str | os.PathLike):  # absolute: the working folder may change
            self.path = str(image) if is_address(image) else os.path.abspath(user_path(image))
        self._given = None if self.path or isinstance(image, bytes) else weakref.ref(image)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_given": None}  # in another process the caller's image is not there

    def pixels(self) -> np.ndarray:
        """uint8 ``(H, W, 3)`` RGB, EXIF orientation applied.

        Raises:
            ImageError: it is not kept and not there any more, or has another size now.
        """
        if self.kept is not None:
            return self.kept
        image = self.path or (self._given() if self._given else None)
        if image is None:
            raise ImageError(
                "the picture of this result is gone: results keep no pictures. Ask with keep_images=True, give the image "
                "as a file, or hold on to the image until the result is drawn"
            )
        pixels, _ = to_pixels(image, self.allow_urls)
        if pixels.shape[:2] != (self.height, self.width):
            raise ImageError(
                f"{self.path or 'the given image'} had {self.width} x {self.height} pixels when it was asked about and has "
                f"{pixels.shape[1]} x {pixels.shape[0]} now; ask with keep_images=True"
            )
        return pixels


@dataclass(frozen=True)
class Grounding:
    """The answer to one phrase on one image.

    Attributes:
        phrase: As given.
        box: left, top, right, bottom in pixels of the given image, inside it; the best one of several. None where nothing
            was found, and for a segmentation-only model.
        score: Confidence of ``box``, 0-1; None where nothing was found.
        mask: bool ``(H, W)`` of the given image, of all objects together; None for a model without masks.
        warning: What to mind about this answer, such as words the model does not know; None if nothing.
        picture: Where :attr:`image` comes from.
        candidates: With ``top_k``: ``(box, score)`` of that many boxes, best first, overlapping ones suppressed. They are what
            the model also considered, whether or not it is the answer.
        boxes, scores: Every object that the phrase names, best first; empty where nothing was found, and for a
            segmentation-only model. One for a model that always answers with one.
        found: Whether there is an answer: False where the phrase names nothing in the image.
    """

    phrase: str
    box: Box | None
    score: float | None
    mask: np.ndarray | None
    warning: str | None
    picture: Picture = field(repr=False, compare=False)
    candidates: tuple[tuple[Box, float], ...] = ()
    boxes: tuple[Box, ...] = ()
    scores: tuple[float, ...] = ()
    found: bool = True

    def __post_init__(self) -> None:
        if self.box is not None and not self.boxes:  # made by somebody who knows of one box alone
            object.__setattr__(self, "boxes", (self.box,))
            object.__setattr__(self, "scores", (self.score or 0.0,))

    @property
    def image(self) -> np.ndarray:
        """uint8 ``(H, W, 3)`` RGB, as the model saw it (EXIF orientation applied); see :class:`Picture`.

        Raises:
            ImageError: the picture is not there any more.
        """
        return self.picture.pixels()

    def draw(self, with_label: bool = True) -> Any:
        """A PIL image with boxes, mask, phrase and scores drawn; further candidates in other colours.

        Raises:
            ImageError: the picture is not there any more; ``keep_images=True`` keeps it.
        """
        return draw([self], with_label)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: phrase, found, box, score, boxes, scores, mask (COCO RLE), warning, width, height; candidates where
        asked for."""
        plain = {
            "phrase": self.phrase,
            "found": self.found,
            "box": None if self.box is None else list(self.box),
            "score": self.score,
            "boxes": [list(box) for box in self.boxes],
            "scores": list(self.scores),
            "mask": None if self.mask is None else encode(self.mask),
            "warning": self.warning,
            "width": self.picture.width,
            "height": self.picture.height,
        }
        if self.candidates:
            plain["candidates"] = [{"box": list(box), "score": score} for box, score in self.candidates]
        return plain


def draw(groundings: Sequence[Grounding], with_label: bool = True) -> Any:
    """A PIL image with all answers on one image drawn, each in its own colour; a strip below names the phrases for which
    nothing was found.

    Raises:
        ImageError: the picture is not there any more.
    """
    from rec.evaluation.pictures import annotate, colour

    marks: list[Any] = []
    masks = []
    for number, grounding in enumerate(groundings):
        for extra, (box, score) in reversed(list(enumerate(grounding.candidates[1:], 1))):
            marks.append((box, colour(number + extra), f"{score:.2f}" if with_label else ""))
        for place, (box, score) in reversed(list(enumerate(zip(grounding.boxes, grounding.scores, strict=True)))):
            label = f"{score:.2f}" if place else f"{grounding.phrase} {score:.2f}"
            marks.append((box, colour(number), label if with_label else ""))
        if grounding.mask is not None:
            masks.append((grounding.mask, colour(number)))
    missed = [grounding.phrase for grounding in groundings if not grounding.found]
    caption = f"nothing found: {'; '.join(missed)}" if missed and with_label else ""
    return annotate(groundings[0].image, marks, masks, caption)
