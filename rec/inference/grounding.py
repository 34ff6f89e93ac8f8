"""The answer to one phrase on one image: drawn, cropped, saved, and as other programs take it."""

import html
import math
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rec.data.images import ImageError
from rec.data.masks import encode
from rec.errors import InputError
from rec.evaluation import pictures
from rec.files import PathLike, user_path
from rec.inference.inputs import Channels, ImageLike, is_address, is_number, to_pixels

Box = tuple[float, float, float, float]
_SHOWN = 800  # longer side of a picture in a notebook


class Picture:
    """Where a result finds its image again. The pixels themselves are kept only where that is asked.

    A file or address is read again. Of a PIL image, an array or a tensor only a weak reference is held: it is found for as
    long as the caller has it.

    Args:
        image: as it was given to the Grounder.
        pixels: uint8 ``(H, W, 3)`` RGB, as the model saw it.
        keep: whether the pixels are kept.
        allow_urls: whether an address may be fetched again.
        channels: of an array or tensor.
    """

    def __init__(
        self, image: ImageLike, pixels: np.ndarray, keep: bool, allow_urls: bool, channels: Channels = "rgb"
    ) -> None:
        self.height, self.width = pixels.shape[:2]
        self.allow_urls, self.channels = allow_urls, channels
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
        pixels, _ = to_pixels(image, self.allow_urls, channels=self.channels)
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
        heat_map: With ``heat_maps``: where the model looked. The head's score at each place, 0-1, float32 ``(h, w)`` over the
            whole image, as large as the network sees it; without a box head, the mask's probability. None for a model that
            scores no places.
    """

    phrase: str
    box: Box | None
    score: float | None
    mask: np.ndarray | None = field(repr=False)
    warning: str | None
    picture: Picture = field(repr=False, compare=False)
    candidates: tuple[tuple[Box, float], ...] = ()
    boxes: tuple[Box, ...] = ()
    scores: tuple[float, ...] = ()
    found: bool = True
    heat_map: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.box is not None and not self.boxes:  # made by somebody who knows of one box alone
            object.__setattr__(self, "boxes", (self.box,))
            object.__setattr__(self, "scores", (self.score or 0.0,))

    def __str__(self) -> str:
        """The answer on one line."""
        answers = "; ".join(
            f"box {' '.join(f'{value:.1f}' for value in box)}  score {score:.3f}"
            for box, score in zip(self.boxes, self.scores, strict=True)
        )
        alone = f"no box  score {self.score:.3f}" if self.found and self.score is not None else "nothing found"
        return f"{self.phrase!r}  {answers or alone}{f'  ({self.warning})' if self.warning else ''}"

    @property
    def image(self) -> np.ndarray:
        """uint8 ``(H, W, 3)`` RGB, as the model saw it (EXIF orientation applied); see :class:`Picture`.

        Raises:
            ImageError: the picture is not there any more.
        """
        return self.picture.pixels()

    @property
    def path(self) -> str | None:
        """File or address of the image; None where it was given as bytes, pixels or a PIL image."""
        return self.picture.path

    def draw(self, with_label: bool = True) -> Image.Image:
        """The image with boxes, mask, phrase and scores drawn; further candidates in the same colour, numbered.

        Raises:
            ImageError: the picture is not there any more; ``keep_images=True`` keeps it.
        """
        return draw([self], with_label)

    def save(self, path: PathLike, with_label: bool = True) -> Path:
        """Writes what :meth:`draw` gives, in the format of the path's ending; returns the path.

        Raises:
            ImageError: the picture is not there any more.
            InputError: pictures cannot be written in that format.
        """
        pictures.save(self.draw(with_label), path)
        return user_path(path)

    def crop(self, number: int = 0, margin: float = 0.0) -> Image.Image:
        """What is in a box, cut out of the image.

        Args:
            number: which of ``boxes``; 0 is the best.
            margin: added on each side, as a share of the box's width and height; the image's border is not crossed.

        Raises:
            ImageError: there is no such box, or the picture is not there any more.
            ValueError: a margin below 0, or none that is finite.
        """
        if not is_number(margin) or not 0 <= margin < math.inf:
            raise ValueError(f"margin is {margin!r}; expected a share of the box's size, 0 or more")
        found = self._objects()
        if not 0 <= number < len(found):
            raise ImageError(
                f"{self.phrase!r} has {len(found)} boxes, so number {number} cannot be cropped; see `found`"
            )
        left, top, right, bottom = found[number][0]
        across, down = margin * (right - left), margin * (bottom - top)
        x = min(max(0, math.floor(left - across)), self.picture.width - 1)
        y = min(max(0, math.floor(top - down)), self.picture.height - 1)
        return Image.fromarray(
            self.image[y : max(y + 1, math.ceil(bottom + down)), x : max(x + 1, math.ceil(right + across))]
        )

    def to_coco(self, image_id: int | str = 1, category_id: int = 1) -> list[dict[str, Any]]:
        """Entries of a COCO results file (https://cocodataset.org/#format-results), one for each object.

        Args:
            image_id, category_id: as the annotations call this image, and what the phrase names.

        Returns:
            ``image_id``, ``category_id``, ``bbox`` xywh in pixels, ``area``, ``iscrowd``, ``score``, ``phrase``, and
            ``segmentation`` (RLE) where the mask is that of one object: that of several together cannot be divided.
        """
        # Ids out of tables and tensors are scalars of NumPy or torch, which JSON does not know.
        image_id, category_id = (getattr(number, "item", lambda n=number: n)() for number in (image_id, category_id))
        entries = []
        for (left, top, right, bottom), score, mask in self._objects():
            width, height = right - left, bottom - top
            shape = (
                {"area": width * height} if mask is None else {"area": int(mask.sum()), "segmentation": encode(mask)}
            )
            ids = {"image_id": image_id, "category_id": category_id, "bbox": [left, top, width, height]}
            entries.append(ids | shape | {"iscrowd": 0, "score": score, "phrase": self.phrase})
        return entries

    def to_supervision(self) -> Any:
        """``supervision.Detections`` of the objects, with the phrase as their ``class_name``; masks as in :meth:`to_coco`.

        Raises:
            InputError: supervision, or what it needs, is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise InputError(f"supervision cannot be imported ({error}): pip install supervision") from None
        found = self._objects()
        masks = [mask for _, _, mask in found if mask is not None]
        return Detections(
            xyxy=np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
            mask=np.stack(masks) if masks else None,
            confidence=np.array([score for _, score, _ in found], np.float32),
            class_id=np.zeros(len(found), int),
            data={"class_name": np.array([self.phrase] * len(found), dtype=str)},
        )

    def _objects(self) -> list[tuple[Box, float, np.ndarray | None]]:
        """Box, score and mask of each object; the mask only where it is that of one. A mask alone gives its bounds."""
        if self.boxes or self.mask is None or not self.mask.any():
            alone = self.mask if len(self.boxes) == 1 else None
            return [(box, score, alone) for box, score in zip(self.boxes, self.scores, strict=True)]
        rows, columns = np.nonzero(self.mask.any(1))[0], np.nonzero(self.mask.any(0))[0]
        bounds = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
        return [(bounds, self.score or 0.0, self.mask)]

    def _repr_html_(self) -> str:
        """What a notebook shows: the marked picture, and the answer in words. Where the picture is gone, words alone."""
        words = html.escape(str(self))
        try:
            picture = self.draw()
        except ImageError:
            return f"<div>{words}</div>"
        picture.thumbnail((_SHOWN, _SHOWN))
        return f'<img alt="{words}" src="{pictures.data_address(picture)}"><div>{words}</div>'

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


def draw(groundings: Sequence[Grounding], with_label: bool = True) -> Image.Image:
    """The image with all answers on it drawn, each phrase in its own colour; a strip below names the phrases for which nothing
    was found.

    Raises:
        ImageError: the picture is not there any more.
        ValueError: no answers, or answers about different images.
    """
    paths = {grounding.path for grounding in groundings if grounding.path}
    if len(paths) > 1 or len({(grounding.picture.height, grounding.picture.width) for grounding in groundings}) != 1:
        raise ValueError(f"{len(groundings)} answers cannot be drawn together: expected those about one image")
    marks: list[Any] = []
    masks = []
    for number, grounding in enumerate(groundings):
        answered = bool(grounding.boxes)  # then the first candidate is the answer
        for rank, (box, score) in reversed(list(enumerate(grounding.candidates, 1))[answered:]):
            if box in grounding.boxes:
                continue
            label = f"{rank}. {grounding.phrase} {score:.2f}"
            marks.append((box, pictures.colour(number), label if with_label else ""))
        for place, (box, score) in reversed(list(enumerate(zip(grounding.boxes, grounding.scores, strict=True)))):
            label = f"{score:.2f}" if place else f"{grounding.phrase} {score:.2f}"
            marks.append((box, pictures.colour(number), label if with_label else ""))
        if grounding.mask is not None:
            masks.append((grounding.mask, pictures.colour(number)))
    missed = [grounding.phrase for grounding in groundings if not grounding.found]
    caption = f"nothing found: {'; '.join(missed)}" if missed and with_label else ""
    return pictures.annotate(groundings[0].image, marks, masks, caption)
