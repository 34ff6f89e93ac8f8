"""Models of ``transformers`` on this machine: zero-shot detectors, Florence-2, and chat models that see."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image

from rec.errors import InputError, RecError
from rec.inference.foreign.base import NOTHING, ForeignGrounder, Found, cut_off, read_text
from rec.inference.foreign.families import Family, family_of
from rec.inference.grounder import _AUTOCAST, _pick_device

# transformers' model_type of the detectors that read a phrase.
DETECTORS = ("grounding-dino", "mm-grounding-dino", "owlv2", "owlvit")
FLORENCE_TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
MAX_NEW_TOKENS = 256
AT_ONCE = 8  # pairs in one forward pass of a detector
MOST_BOXES = 100  # of a detector, for one phrase


class ForeignModelError(RecError):
    """A model of ``transformers`` cannot be opened; the text says why and what to do."""


def open_local(
    name: str,
    *,
    device: torch.device | str = "auto",
    dtype: torch.dtype | str | None = None,
    coordinates: str | None = None,
    box_format: str | None = None,
    prompt: str | None = None,
    max_tokens: int | None = None,
    allow_urls: bool = False,
    send_images: bool = False,
) -> ForeignGrounder:
    """A Grounder on a model of ``transformers``, by hub id or folder.

    Only classes that are in the installed ``transformers`` are built, and weights are read from safetensors alone.

    Args:
        name: hub id or folder.
        device, dtype, allow_urls: as of :func:`rec.from_pretrained`.
        coordinates, box_format, prompt: of chat models, see :func:`rec.inference.foreign.families.family_of`.
        max_tokens: of a chat model's answer, with what it thinks before it; :data:`MAX_NEW_TOKENS` by default.
        send_images: of no concern here.

    Raises:
        ForeignModelError: ``transformers`` is absent, there is no such model, it needs code of its own, or it cannot ground.
    """
    try:
        import transformers
    except ImportError:
        raise ForeignModelError(
            f"transformers:{name} needs the package transformers: pip install transformers (in a clone: pip install -e '.[zoo]')"
        ) from None
    with _told(name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    kind = str(config.model_type)
    if getattr(config, "quantization_config", None) is not None:
        raise ForeignModelError(
            f"{name} is quantised, which may load code of other packages; take the model it was made from"
        )
    auto: Any = transformers.AutoModelForImageTextToText
    way: type[_Local] = Chat
    if kind in DETECTORS:
        way, auto = Detector, transformers.AutoModelForZeroShotObjectDetection
    elif kind == "florence2":
        way = Florence
    elif type(config) not in auto._model_mapping:
        raise ForeignModelError(
            f"{name} is a {kind}, which does not answer phrases about images; expected a zero-shot detector "
            f"({', '.join(DETECTORS)}), florence2, or a chat model that sees"
        )
    if way is not Chat and (coordinates or box_format or prompt or max_tokens):
        raise InputError(
            f"{name} is not a chat model: coordinates, box_format, prompt and max_tokens are its own affair, leave them out"
        )
    family = family_of(f"{name} {kind}", coordinates, prompt, box_format) if way is Chat else None
    width = str(dtype or "float32").removeprefix("torch.")
    if width != "float32" and width not in _AUTOCAST:
        raise InputError(f"dtype is {dtype!r}; expected float32, bfloat16 or float16")
    kept = _AUTOCAST.get(width, torch.float32)
    with _told(name):
        processor = transformers.AutoProcessor.from_pretrained(name, trust_remote_code=False)
        model = auto.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, dtype=kept, attn_implementation=None
        )
    place = _pick_device() if device == "auto" else torch.device(device)
    grounder = way(name, model.to(place).eval(), processor, family, allow_urls)
    grounder.max_tokens = max_tokens
    return grounder


@contextmanager
def _told(name: str) -> Iterator[None]:
    """In the block, what transformers raises about a model becomes a :class:`ForeignModelError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise ForeignModelError(
            f"transformers:{name} cannot be opened: {why}. It has to be a hub id or a folder with config.json, the "
            "processor's files and safetensors; models that bring code of their own are not run"
        ) from error


class _Local(ForeignGrounder):
    """A model that is asked one pair after another, by :meth:`_one`.

    Args:
        name: hub id or folder.
        model, processor: of transformers; the model where it is to run.
        family: of a chat model.
        allow_urls: as of :func:`rec.from_pretrained`.
    """

    def __init__(self, name: str, model: Any, processor: Any, family: Family | None, allow_urls: bool) -> None:
        self.network, self.processor, self.family = model, processor, family
        origin = f"{name} ({model.config.model_type}), somebody else's model, under its own licence"
        super().__init__(f"transformers:{name}", origin, device=model.device, allow_urls=allow_urls)

    @torch.inference_mode()
    def ask(self, images: Sequence[np.ndarray], phrases: Sequence[str]) -> list[Found]:
        return [self._one(image, phrase) for image, phrase in zip(images, phrases, strict=True)]

    def _one(self, image: np.ndarray, phrase: str) -> Found:
        raise NotImplementedError

    def _inputs(self, **how: Any) -> Any:
        inputs = self.processor(return_tensors="pt", **how)
        return inputs.to(self.device, self.network.dtype)


class Detector(_Local):
    """Grounding DINO, MM-Grounding-DINO, OWL-ViT, OWLv2: the phrase is the class to detect. All boxes are answers, best first."""

    @torch.inference_mode()
    def ask(self, images: Sequence[np.ndarray], phrases: Sequence[str]) -> list[Found]:
        # Images of one size together: padding beside an image would move its boxes.
        order = sorted(range(len(images)), key=lambda number: images[number].shape)
        found: dict[int, Found] = {}
        for _, same in groupby(order, key=lambda number: images[number].shape):
            numbers = list(same)
            for start in range(0, len(numbers), AT_ONCE):
                chunk = numbers[start : start + AT_ONCE]
                answers = self._batch([images[number] for number in chunk], [phrases[number] for number in chunk])
                found |= dict(zip(chunk, answers, strict=True))
        return [found[number] for number in range(len(images))]

    def _batch(self, images: Sequence[np.ndarray], phrases: Sequence[str]) -> list[Found]:
        owl = self.network.config.model_type.startswith("owl")
        # Grounding DINO was trained on small letters and a full stop.
        text: Any = (
            [[phrase] for phrase in phrases] if owl else [f"{phrase.lower().rstrip(' .')}." for phrase in phrases]
        )
        how: dict[str, Any] = {"padding": True} if not owl else {"padding": "max_length", "truncation": True}
        inputs = self._inputs(images=list(images), text=text, **how)
        outputs = self.network(**inputs)
        sizes = [image.shape[:2] for image in images]
        options: dict[str, Any] = {"threshold": 0.0, "target_sizes": sizes}
        if not owl:
            options |= {"input_ids": inputs["input_ids"], "text_threshold": 0.0}
        answers = self.processor.post_process_grounded_object_detection(outputs, **options)
        return [
            _best(answer["boxes"].float().cpu().numpy(), answer["scores"].float().cpu().numpy()) for answer in answers
        ]


def _best(boxes: np.ndarray, scores: np.ndarray) -> Found:
    """The finite boxes of highest score, best first."""
    good = np.isfinite(boxes).all(-1) & np.isfinite(scores)
    boxes, scores = boxes[good].astype(np.float64), scores[good].astype(np.float64)
    order = np.argsort(-scores, kind="stable")[:MOST_BOXES]
    return Found(boxes[order].reshape(-1, 4), scores[order])


class Florence(_Local):
    """Florence-2, asked to ground a caption that is the phrase. It gives no scores: 1 for each box, in its order."""

    def _one(self, image: np.ndarray, phrase: str) -> Found:
        inputs = self._inputs(text=f"{FLORENCE_TASK}{phrase}", images=image)
        ids = self.network.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, num_beams=1)
        text = self.processor.batch_decode(ids, skip_special_tokens=False)[0]
        found = read_text(text, family_of("florence"), image, image)  # its quantised places are <loc_0> to <loc_999>
        return found if len(found.boxes) else NOTHING


class Chat(_Local):
    """A chat model that sees, by its own chat template."""

    family: Family

    def _one(self, image: np.ndarray, phrase: str) -> Found:
        sent = self.family.fitted(image)
        content = [
            {"type": "image", "image": Image.fromarray(sent)},
            {"type": "text", "text": self.family.question(phrase)},
        ]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ).to(self.device, self.network.dtype)  # fmt: skip
        limit = self.max_tokens or MAX_NEW_TOKENS
        ids = self.network.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
        said = ids[:, inputs["input_ids"].shape[1] :]
        found = read_text(self.processor.batch_decode(said, skip_special_tokens=True)[0], self.family, sent, image)
        return cut_off(found, limit) if said.shape[1] >= limit else found
