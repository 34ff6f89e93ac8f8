"""What every foreign model shares: the Grounder's calls, with an answer from elsewhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from rec.contracts import Answer
from rec.conventions import boxes_in_text, says_none
from rec.inference.grounder import Grounder, Grounding, _Loaded
from rec.inference.grounding import Box
from rec.inference.inputs import How

if TYPE_CHECKING:
    from rec.inference.foreign.families import Family

_NO_GEOMETRY = np.zeros(6, np.float32)  # the picture is not letterboxed here


class Found(NamedTuple):
    """What a foreign model answers to one phrase.

    Attributes:
        boxes: float64 ``(N, 4)`` xyxy in pixels of the image it was asked about, as the model writes them; N may be 0.
        scores: float64 ``(N,)``, best first, 0-1; 1 where the model gives none.
        remark: what to mind, such as an answer that cannot be read.
    """

    boxes: np.ndarray
    scores: np.ndarray
    remark: str | None = None


UNREADABLE = "the answer cannot be read: "
NOTHING = Found(np.empty((0, 4)), np.empty(0))


class ForeignGrounder(Grounder):
    """A :class:`~rec.inference.Grounder` whose model is somebody else's; ``ask`` is all a family has to write.

    Attributes:
        origin: one line: the model, where it runs, and whose licence holds.
        family: of a chat model.
        as_written: boxes are answered as the model writes them, also where they leave their image or have their corners in the
            wrong order: so an evaluation judges them, of a model as of a file.
        max_tokens: of an answer, where the caller says so.
    """

    family: "Family | None" = None
    as_written = False
    max_tokens: int | None = None

    def __init__(self, name: str, origin: str, *, device: torch.device | str = "cpu", allow_urls: bool = False) -> None:
        self.device, self.allow_urls = torch.device(device), allow_urls
        self.weights, self.origin, self.knows_shapes_only = name, origin, False
        self.config: dict[str, Any] = {}
        self.answer: Answer | None = None

    @property
    def gives_candidates(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.weights}, {self.device}, {self.origin})"

    def ask(self, images: Sequence[np.ndarray], phrases: Sequence[str]) -> list[Found]:
        """The answers to pairs.

        Args:
            images: uint8 ``(H, W, 3)`` RGB each; one image may be there several times.
            phrases: as many.
        """
        raise NotImplementedError

    def _square(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return pixels, _NO_GEOMETRY

    def _answer(self, loaded: Sequence[_Loaded], how: How) -> list[list[Grounding]]:
        asked = [(item, phrase) for item in loaded for phrase in item.phrases]
        found = self.ask([item.square for item, _ in asked], [phrase for _, phrase in asked]) if asked else []
        answers = iter(
            _grounding(item, phrase, one, how, self.as_written)
            for (item, phrase), one in zip(asked, found, strict=True)
        )
        return [[next(answers) for _ in item.phrases] for item in loaded]


def _grounding(item: _Loaded, phrase: str, found: Found, how: How, as_written: bool) -> Grounding:
    """The best box is the answer, or with a rule those that it chooses."""
    top_k, rule = how.top_k, how.answer
    height, width = item.picture.height, item.picture.width
    inside = np.sort(found.boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 4).clip(0, [width, height, width, height])
    marked: list[tuple[Box, float]] = [
        ((box[0], box[1], box[2], box[3]), float(score))
        for box, score in zip((found.boxes if as_written else inside).tolist(), found.scores, strict=True)
    ]
    named = marked[:1] if rule is None else [marked[number] for number in rule.choose(inside, found.scores)]
    remark = found.remark if rule is None or not marked else None  # with a rule, more than the first may count
    return Grounding(
        phrase=phrase,
        box=named[0][0] if named else None,
        score=named[0][1] if named else None,
        mask=None,
        warning="; ".join(filter(None, [item.warning, remark])) or None,
        picture=item.picture,
        candidates=tuple(marked[:top_k]) if top_k > 1 else (),
        boxes=tuple(box for box, _ in named),
        scores=tuple(score for _, score in named),
        found=bool(named),
    )


def read_text(text: str, family: Any, sent: np.ndarray, image: np.ndarray) -> Found:
    """A chat model's answer about ``sent`` as boxes in ``image``, both uint8 ``(H, W, 3)``."""
    numbers = boxes_in_text(text)
    if not numbers:
        start = " ".join(text.split())[:80]
        return NOTHING if says_none(text) else NOTHING._replace(remark=f"{UNREADABLE}{start!r}")
    size = np.array(image.shape[:2], np.float64)
    boxes = family.convention(*sent.shape[:2]).to_pixels(np.array(numbers), size[1:2], size[0:1])
    remark = f"{len(boxes)} boxes, the first counts" if len(boxes) > 1 else None
    return Found(boxes, np.ones(len(boxes)), remark)


def cut_off(found: Found, limit: int | None) -> Found:
    """``found`` in an answer that ended at ``limit`` tokens, or at the server's own: where nothing can be read, as of a model that
    thinks first, that is why."""
    if found.remark is None or len(found.boxes):
        return found
    after = f" after {limit} tokens (--max-tokens)" if limit else ""
    return found._replace(remark=f"{UNREADABLE}it was cut off{after}")
