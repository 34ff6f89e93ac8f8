"""The Grounder: images and phrases in; boxes, scores and masks in the image's pixels out."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any, Literal, TypeVar, Unpack, cast, overload

import numpy as np
import torch

from rec import boxes
from rec.boxes import suppress
from rec.contracts import Answer, Preprocess, Words, abilities
from rec.cores import threads_after_fork
from rec.cuda_graphs import Replayed
from rec.data.batch import Returning
from rec.data.images import letterbox
from rec.evaluation.masks import heat_map, inside, to_image
from rec.inference.grounding import Box, Grounding, Picture, draw
from rec.inference.inputs import (
    Channels,
    How,
    ImageLike,
    Options,
    Phrases,
    no_texts,
    phrases_of,
    several,
    to_pixels,
    with_threshold,
)
from rec.model_folder.format import describe_origin, knows_shapes_only
from rec.models.layers import channels_last
from rec.models.soundness import PredictionError, not_finite

__all__ = ["Grounder", "Grounding", "draw", "suppress"]

PHRASES_AT_ONCE = 32
_Image = TypeVar("_Image", bound=ImageLike)
_Images = list[_Image] | tuple[_Image, ...]
_Texts = list[str] | tuple[str, ...]
_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Grounder:
    """Finds what phrases name in images. Safe to call from several threads.

    Args:
        model: Keeps the model contract of ``docs/architecture.md``.
        config: Of its model folder: ``preprocess`` and ``about``.
        vocabulary: Of its model folder.
        device, dtype, allow_urls, compile, threshold: See :func:`rec.from_pretrained`.

    Attributes:
        origin: One line on what the model was trained on.
        knows_shapes_only: Whether that was nothing but drawn shapes.
        answer: When what is an answer (:class:`rec.contracts.Answer`); None: always one object.
        weights: What messages call the model's weights: their file, where there is one.
        model, config, vocabulary, device: As given, the device resolved.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: dict[str, Any],
        vocabulary: Words,
        *,
        device: torch.device | str = "auto",
        dtype: torch.dtype | str | None = None,
        allow_urls: bool = False,
        compile: bool = False,
        threshold: float | None = None,
    ):
        no_texts(allow_urls=allow_urls, compile=compile)
        self.device = _pick_device() if device == "auto" else torch.device(device)
        name = str(dtype or "float32").removeprefix("torch.")
        if name != "float32" and name not in _AUTOCAST:
            raise ValueError(f"dtype is {dtype!r}; expected float32, bfloat16 or float16")
        self._autocast = _AUTOCAST.get(name)
        self.model = channels_last(model.to(self.device)).eval()  # once, not anew in every call's convolutions
        if compile:
            compile_network(self.model)
        self.config, self.vocabulary, self.allow_urls = config, vocabulary, allow_urls
        self._can, self._preprocess = abilities(self.model), Preprocess.of_folder(config["preprocess"])
        # Whether several of its boxes may be an answer; else its one box is, or none.
        self._several = not self._can.one_only and self._can.candidates is not None
        self.answer = with_threshold(Answer.of_folder(config), threshold)
        self.origin, self.knows_shapes_only = describe_origin(config), knows_shapes_only(config)
        self.weights = f"this {type(model).__name__}"

    @property
    def gives_candidates(self) -> bool:
        """Whether ``top_k`` may be above 1."""
        return self._can.candidates is not None

    def __repr__(self) -> str:
        return f"Grounder({type(self.model).__name__}, {self.device}, {self.origin})"

    # A folder, pattern or batch gives a list too, which its type does not tell: typed code gives lists and iterators, and
    # nests phrases evenly. An overload of anything would match with every np.ndarray, whose type holds Any.
    @overload
    def __call__(self, image: ImageLike, phrase: str, **how: Unpack[Options]) -> Grounding: ...
    @overload
    def __call__(self, image: ImageLike, phrase: _Texts, **how: Unpack[Options]) -> list[Grounding]: ...
    @overload
    def __call__(self, image: _Images[_Image], phrase: str, **how: Unpack[Options]) -> list[Grounding]: ...
    @overload
    def __call__(
        self, image: _Images[_Image], phrase: _Texts, *, product: Literal[True], **how: Unpack[Options]
    ) -> list[list[Grounding]]: ...
    @overload
    def __call__(
        self, image: _Images[_Image], phrase: _Texts, *, product: Literal[False] = ..., **how: Unpack[Options]
    ) -> list[Grounding]: ...
    @overload
    def __call__(
        self, image: _Images[_Image], phrase: list[list[str]], **how: Unpack[Options]
    ) -> list[list[Grounding]]: ...
    @overload
    def __call__(self, image: Iterator[ImageLike], phrase: str, **how: Unpack[Options]) -> Iterator[Grounding]: ...
    @overload
    def __call__(
        self, image: Iterator[ImageLike], phrase: _Texts, **how: Unpack[Options]
    ) -> Iterator[list[Grounding]]: ...
    def __call__(
        self,
        image: ImageLike | Iterable[ImageLike],
        phrase: str | Sequence[Any],
        *,
        product: bool = False,
        top_k: int = 1,
        nms_iou: float = 0.5,
        threshold: float | None = None,
        batch_size: int = 8,
        keep_images: bool = False,
        channels: Channels = "rgb",
        heat_maps: bool = False,
    ) -> Any:
        """Ground phrases in images.

        Args:
            image: Anything :func:`rec.inference.inputs.to_pixels` takes, or several: a list of those, a batch ``(B, 3, H, W)``
                (tensor) or ``(B, H, W, 3)`` (array), a folder, a pattern such as ``photos/*.jpg``, an iterator.
            phrase: A phrase, or a list. With one image: phrases about it. With a list or batch of images: one entry for each,
                itself a phrase or a list; a single phrase is asked of every image. With a folder, pattern or iterator: every
                phrase is asked of every image.
            product: Ask every phrase of every image of a list or batch, too.
            top_k: How many boxes ``candidates`` holds when above 1.
            nms_iou: Candidates that overlap a better one by more than this are left out.
            threshold: In place of the Grounder's own, see :func:`rec.from_pretrained`.
            batch_size: Images per forward pass; phrases about one image share its pass.
            keep_images: Results hold their decoded image. Without, ``image`` and ``draw()`` read it anew from its file, or
                find the object that was given while the caller has it.
            channels: Order of an array's or tensor's channels; ``"bgr"`` for frames of OpenCV.
            heat_maps: Results tell where the model looked (:attr:`Grounding.heat_map`).

        Returns:
            A :class:`Grounding`, or lists of them, nested as ``phrase`` was (per image for several images). Of an iterator of
            images an iterator that is as lazy.

        Raises:
            ImageError: an image cannot be read or is too large; :meth:`stream` goes on after it.
            PredictionError: the model's answer is not finite.
            ValueError: an empty phrase, or lists of different lengths. InputError: text for True or False.
        """
        no_texts(product=product)
        images = several(image)
        if images is None:
            how = How(top_k, nms_iou, with_threshold(self.answer, threshold), keep_images, channels, heat_maps)
            alone = self._answer([self._load(cast(ImageLike, image), phrase, how)], how)[0]
            return alone[0] if isinstance(phrase, str) else alone
        phrase = list(phrase) if isinstance(phrase, Iterator) else phrase  # the first image would use it up
        phrases: Iterable[Phrases] = repeat(phrase)
        alike = product or isinstance(phrase, str) or isinstance(image, str | os.PathLike)
        if isinstance(images, Sequence) and not alike:
            phrases = list(phrase)
            if len(phrases) != len(images):
                raise ValueError(
                    f"{len(images)} images but {len(phrases)} phrases; give one phrase (or list) for each image, or ask "
                    "every phrase of every image: product=True"
                )
        options: Options = {
            "top_k": top_k, "nms_iou": nms_iou, "threshold": threshold, "batch_size": batch_size,
            "keep_images": keep_images, "channels": channels, "heat_maps": heat_maps,
        }  # fmt: skip
        results = self._nested(zip(images, phrases, strict=False), options)
        return list(results) if isinstance(images, Sequence) else results

    def _nested(self, pairs: Iterable[tuple[ImageLike, Phrases]], options: Options) -> Iterator[Any]:
        """The answers to pairs as they come, that of a single phrase by itself; the first error is raised."""
        single = deque[bool]()

        def noted() -> Iterator[tuple[ImageLike, Phrases]]:
            for image, phrase in pairs:
                single.append(isinstance(phrase, str))
                yield image, phrase

        for answers in self.stream(noted(), **options):
            if isinstance(answers, ValueError):
                raise answers
            yield answers[0] if single.popleft() else answers

    def stream(
        self,
        pairs: Iterable[tuple[ImageLike, Phrases]],
        batch_size: int = 8,
        *,
        top_k: int = 1,
        nms_iou: float = 0.5,
        threshold: float | None = None,
        keep_images: bool = False,
        channels: Channels = "rgb",
        heat_maps: bool = False,
    ) -> Iterator[list[Grounding] | ValueError]:
        """Answers for ``(image, phrase or phrases)`` pairs, in order, images being decoded ahead in the background.

        Args:
            pairs: Read as it goes.
            batch_size, top_k, nms_iou, threshold, keep_images, channels, heat_maps: As of a call.

        Yields:
            For each pair its answers, or the error that its image or phrases gave; at last what ``pairs`` itself raises.
        """
        how = How(top_k, nms_iou, with_threshold(self.answer, threshold), keep_images, channels, heat_maps)
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; expected a whole number of at least 1")
        iterator, broken = iter(pairs), None
        with ThreadPoolExecutor(2) as pool:
            waiting: deque[Future[_Loaded]] = deque()
            while True:
                try:
                    for image, phrase in islice(iterator, 2 * batch_size - len(waiting)):
                        waiting.append(pool.submit(self._load, image, phrase, how))
                except Exception as raised:  # such as a camera's that is unplugged
                    iterator, broken = iter(()), raised
                if not waiting and broken is not None:
                    raise broken
                if not waiting:
                    return
                loaded = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                refused = [item.exception() for item in loaded]
                good = [item for item, error in zip(loaded, refused, strict=True) if not isinstance(error, ValueError)]
                answers = iter(self._answer([item.result() for item in good], how))
                for error in refused:
                    yield error if isinstance(error, ValueError) else next(answers)

    def _load(self, image: ImageLike, phrase: Phrases, how: How) -> "_Loaded":
        phrases = phrases_of(phrase)
        pixels, warning = to_pixels(image, self.allow_urls, channels=how.channels)
        picture = Picture(image, pixels, how.keep, self.allow_urls, how.channels)
        return _Loaded(picture, *self._square(pixels), warning, phrases)

    def _square(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image as the model is shown it, and its geometry."""
        geometry = boxes.letterbox_geometry(pixels.shape[0], pixels.shape[1], self._preprocess.size)
        return letterbox(pixels, geometry, self._preprocess.size), geometry

    @torch.inference_mode()
    def _answer(self, loaded: Sequence["_Loaded"], how: How) -> list[list[Grounding]]:
        """One encoding per image, one answer per phrase."""
        if not loaded:
            return []
        threads_after_fork()
        asked = [(item, phrase) for item in loaded for phrase in item.phrases]
        image = torch.from_numpy(np.stack([item.square for item in loaded])).to(self.device)
        tokens = torch.tensor([self.vocabulary.encode(p, self._preprocess.words) for _, p in asked], device=self.device)
        numbers = [number for number, item in enumerate(loaded) for _ in item.phrases]
        owners = None if len(asked) == len(loaded) else torch.tensor(numbers, device=self.device)  # None: no copies
        with torch.autocast(self.device.type, self._autocast) if self._autocast else nullcontext():
            looked = how.heat_maps and self._can.candidates is not None
            cells = how.top_k > 1 or looked or (how.answer is not None and self._several)
            parts = self._predict(self._preprocess({"image": image})["image"], tokens, owners, cells)
            joined = {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}
            joined |= {"refused": torch.cat([not_finite(part) for part in parts])}
            host = Returning(joined).wait()  # the one wait for the device, whatever the model answers
            for number in host.pop("refused").nonzero()[:1, 0].tolist():
                raise self._not_finite(asked[number][1])
            columns = {name: values.numpy() for name, values in host.items()}
        answers = (
            self._grounding(item, phrase, {name: values[row] for name, values in columns.items()}, how)
            for row, (item, phrase) in enumerate(asked)
        )
        return [list(islice(answers, len(item.phrases))) for item in loaded]

    def _predict(
        self, image: torch.Tensor, tokens: torch.Tensor, owners: torch.Tensor | None, candidates: bool
    ) -> list[dict[str, torch.Tensor]]:
        """Outputs for the phrases in chunks, so that many phrases about few images do not multiply the maps' memory."""
        can = self._can
        if candidates and can.candidates is None:
            raise ValueError(f"{type(self.model).__name__} gives one box only; top_k must be 1")
        features = None if can.encode_image is None else can.encode_image(image)
        parts = []
        for start in range(0, len(tokens), PHRASES_AT_ONCE):
            chunk = slice(start, start + PHRASES_AT_ONCE)
            index = torch.arange(len(image), device=self.device) if owners is None else owners
            if can.ground is None:
                parts.append(self.model({"image": image[index[chunk]], "tokens": tokens[chunk]}))
                continue
            whole = owners is None and len(tokens) <= PHRASES_AT_ONCE
            arguments = (features, tokens[chunk], None if whole else index[chunk])
            answer = can.candidates if candidates and can.candidates is not None else can.ground
            parts.append(answer(*arguments))
        return parts

    def _grounding(self, item: "_Loaded", phrase: str, output: dict[str, np.ndarray], how: How) -> Grounding:
        height, width = item.picture.height, item.picture.width

        def in_image(box: np.ndarray) -> Box:
            box = boxes.from_letterbox(box.astype(np.float64), item.geometry)
            if not np.isfinite(box).all():  # a further candidate: the answer itself is known to be finite
                raise self._not_finite(phrase)
            left, top, right, bottom = np.clip(box, 0, [width, height, width, height]).tolist()
            return left, top, right, bottom

        mask = heat = None
        if how.heat_maps and "candidate_scores" in output and self._can.stride:
            heat = heat_map(output["candidate_scores"], item.geometry, self._preprocess.size, self._can.stride)
        if "mask" in output:
            probability = torch.from_numpy(output["mask"][0]).sigmoid().numpy()
            mask = to_image(probability, item.geometry, self._can.mask_threshold, self._can.mask_any_overlap)
            if how.heat_maps and "box" not in output:
                heat = inside(probability, item.geometry)
        candidates: tuple[tuple[Box, float], ...] = ()
        if "candidate_boxes" in output and how.top_k > 1:
            cells, scores = output["candidate_boxes"], output["candidate_scores"]
            chosen = suppress(cells, scores, how.top_k, how.nms_iou)
            candidates = tuple((in_image(cells[i]), float(scores[i])) for i in chosen)

        # The boxes decide whether there is an answer, where the model gives any; else its mask does.
        named: list[tuple[Box, float]] = []
        alone = float(output["score"]) if "score" in output else 0.0
        if how.answer is not None and self._several:
            cells, scores = output["candidate_boxes"], output["candidate_scores"]
            named = [(in_image(cells[i]), float(scores[i])) for i in how.answer.choose(cells, scores)]
        elif "box" in output and (how.answer is None or alone >= how.answer.threshold):
            named = [(in_image(output["box"]), alone)]
        found = bool(named) if "box" in output else how.answer is None or mask is None or how.answer.sees(mask)
        box, score = named[0] if named else (None, alone if found else None)
        return Grounding(
            phrase=phrase,
            box=box,
            score=score,
            mask=mask if found or mask is None else np.zeros_like(mask),
            warning="; ".join(filter(None, [item.warning, self._doubts(phrase)])) or None,
            picture=item.picture,
            candidates=candidates,
            boxes=tuple(box for box, _ in named),
            scores=tuple(score for _, score in named),
            found=found,
            heat_map=heat,
        )

    def _not_finite(self, phrase: str) -> PredictionError:
        narrow = ", or use float32 or bfloat16 in place of float16" if self._autocast is torch.float16 else ""
        return PredictionError(
            f"{self.weights} answers {phrase[:80]!r} with numbers that are not finite: the weights are damaged or their "
            f"training diverged; take those of another checkpoint{narrow}"
        )

    def _doubts(self, phrase: str) -> str | None:
        words, unknown = self.vocabulary.tokens(phrase), self.vocabulary.unknown(phrase)
        room = self._preprocess.words - self.vocabulary.reserved
        doubts = []
        if len(unknown) == len(words):
            doubts.append("none of the words is known to the model; the answer is a guess")
        elif unknown:
            doubts.append(f"unknown to the model: {', '.join(dict.fromkeys(unknown))}")
        if len(words) > room:
            kind = "subwords" if self.vocabulary.reserved else "words"
            doubts.append(f"cut to the first {room} of {len(words)} {kind}")
        return "; ".join(doubts) or None


@dataclass(frozen=True)
class _Loaded:
    picture: Picture
    square: np.ndarray  # uint8 (3, S, S), letterboxed
    geometry: np.ndarray
    warning: str | None
    phrases: list[str]


def compile_network(model: torch.nn.Module) -> None:
    """Makes ``model`` fast where it stands, both of its halves where it has them, else its forward pass.

    On a GPU their work is recorded and replayed (:class:`rec.cuda_graphs.Replayed`), elsewhere ``torch.compile`` joins operations.
    """
    faster = Replayed if next(model.parameters()).is_cuda else torch.compile
    for name in ("forward",) if abilities(model).encode_image is None else ("encode_image", "ground"):
        setattr(model, name, faster(getattr(model, name)))


def _pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
