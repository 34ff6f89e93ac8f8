"""What the parts of the project promise each other: the batch, the data set, the model, the evaluator, the preprocessing.

Anything that keeps a contract fits, wherever it comes from. A map-style data set that knows nothing of this project gets the
rest from :func:`rec.data.adapter.as_data_set`, a model from :func:`abilities`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

from rec.boxes import suppress

# A node of a lazy config. What it may hold is said, and checked, in :mod:`rec.training.keys`.
ConfigNode = Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    Image = torch.Tensor | np.ndarray

Sample = dict[str, "torch.Tensor"]


class Batch(TypedDict, total=False):
    """B samples, as :meth:`DataSet.collate` gives them and, once :class:`Preprocess` is applied, as a model receives them.

    ``image`` uint8 ``(B, 3, S, S)`` RGB, letterboxed and padded with 127 (a model receives it as float32, normalised, possibly
    of another side S'); ``tokens`` int64 ``(B, L)``, 0 is padding; ``box`` float32 ``(B, 4)`` cxcywh as fractions of the square;
    ``mask`` uint8 ``(B, 1, S, S)`` 0-255, where masks are asked for; ``geometry`` float32 ``(B, 6)``, see :mod:`rec.boxes`;
    ``box_pixels`` float32 ``(B, 4)`` xyxy in the original image; ``index`` int64 ``(B,)``; where phrases share their images
    ``image`` is ``(U, 3, S, S)`` and ``image_index`` int64 ``(B,)`` tells each phrase's; ``image_key`` int64 ``(B,)`` is equal
    for phrases about one image.

    Where phrases name none, one or several objects (``targets="any"``) there are also ``boxes`` float32 ``(B, T, 4)`` cxcywh
    as fractions of the square, ``boxes_pixels`` float32 ``(B, T, 4)`` xyxy in the original image, and ``box_count`` int64
    ``(B,)``: how many of a phrase's T rows are boxes; the rows behind them are zeros. T is the batch's largest count, at
    least 1. ``box`` and ``box_pixels`` are then the first box, zeros where there is none, and ``mask`` the union.

    ``weight`` float32 ``(B,)``, in training batches in which a row says one: what the losses of each phrase are multiplied by.
    """

    image: "torch.Tensor"
    tokens: "torch.Tensor"
    box: "torch.Tensor"
    mask: "torch.Tensor"
    geometry: "torch.Tensor"
    box_pixels: "torch.Tensor"
    boxes: "torch.Tensor"
    boxes_pixels: "torch.Tensor"
    box_count: "torch.Tensor"
    weight: "torch.Tensor"
    index: "torch.Tensor"
    image_index: "torch.Tensor"
    image_key: "torch.Tensor"


class Words(Protocol):
    """Phrases to ids: :class:`rec.data.text.Vocabulary`, words of the training phrases, or
    :class:`rec.data.subwords.Subwords`, the tokenizer of a published language model.

    In a batch 0 is padding and nothing else. The ids of a published model are those of its tokenizer plus one, because
    0 means something to many of them; its encoder (:class:`rec.models.pretrained_text.PretrainedText`) subtracts it again
    and makes its own attention mask, and so does an exported graph.
    """

    @property
    def words(self) -> Sequence[str]:
        """Words, or pieces of words, by id."""

    @property
    def tokenizer(self) -> str:
        """What ``vocab.json`` says of it."""

    @property
    def identity(self) -> str:
        """Digest: a run is not continued with words of another one."""

    @property
    def reserved(self) -> int:
        """Ids of every phrase that stand for no word of it."""

    def __len__(self) -> int:
        """All ids are below."""

    def encode(self, sentence: str, max_token_length: int) -> list[int]:
        """``max_token_length`` ids, 0 is padding."""

    def tokens(self, sentence: str) -> list[str]:
        """The words the phrase is divided into."""

    def unknown(self, sentence: str) -> list[str]:
        """What of the phrase has no id of its own."""

    def save(self, path: str | Path) -> None:
        """Writes ``vocab.json``, and what it names beside it."""


class DataSet(Protocol):
    """One split. Training reads ``dataset[(epoch, index)]``, evaluation ``dataset[index]``; everything random is a function of
    (seed, epoch, index). ``len`` counts objects in training and (object, phrase) pairs in evaluation."""

    @property
    def vocabulary(self) -> Words | None: ...
    @property
    def fingerprint(self) -> str:
        """Digest of the content: a run is not continued on other data."""

    @property
    def content(self) -> str:
        """The same to the last byte, images included; "" where it is not known."""

    @property
    def sources(self) -> Sequence[str]:
        """What a model trained on this data has seen."""

    @property
    def targets(self) -> str:
        """``"one"``: every phrase names one object. ``"any"``: none, one or several, and batches have ``boxes``."""

    @property
    def weighted_rows(self) -> int:
        """How many rows say what their losses are multiplied by (``weight``), as far as known."""

    @property
    def max_token_length(self) -> int | None: ...
    @property
    def pretrained_emb(self) -> "np.ndarray | None":
        """Word vectors of the vocabulary, float32 ``(len(vocabulary), D)``."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: int | tuple[int, int]) -> Sample: ...
    def collate(self, samples: Sequence[Sample], share_images: bool = False) -> "Batch":
        """Samples to a batch; with ``share_images`` each image once."""

    def describe(self, index: int) -> Mapping[str, Any]:
        """``image, image_id, ref_id, sentence_index, sentence, source`` of evaluation's sample ``index``, as far as known."""

    def target_boxes(self, index: int) -> "tuple[np.ndarray, int, int]":
        """The true boxes of evaluation's sample ``index``, float32 ``(N, 4)`` xyxy in pixels, and the image's height and width."""

    def picture(self, index: int) -> "np.ndarray":
        """The image of evaluation's sample ``index``, uint8 ``(H, W, 3)`` RGB, as large as the data set has it."""

    def target_mask(self, index: int) -> "np.ndarray | None":
        """The true mask of evaluation's sample ``index``, bool ``(H, W)`` at the original size."""

    def image_groups(self) -> "np.ndarray | None":
        """int64 ``(len(self),)``: equal numbers for samples of one image; None where that is not known."""


class Stream(Protocol):
    """Training samples as they come; ``operator.length_hint`` gives how many, 0 where that is not known."""

    @property
    def shards(self) -> int:
        """How many this process reads; at most so many workers can share them."""

    def endless(self, epoch: int, skip: int = 0) -> Iterator[Sample]:
        """Samples of ``epoch`` and, behind its last one, of further passes in other orders; ``skip`` are passed over."""

    def collate(self, samples: Sequence[Sample]) -> "Batch":
        """Samples to a batch."""


class Evaluator(Protocol):
    """What ``train.evaluation.evaluator`` may be: a fresh one is made for every evaluation."""

    def update(self, outputs: Mapping[str, "torch.Tensor"], batch: Batch) -> None:
        """Take one batch's predictions, on this process. Both dicts are as the model gave and received them."""

    def compute(self) -> dict[str, float]:
        """Called on every process after the last batch; returns the metrics of all processes' samples on each of them
        (``accelerate.utils.gather_object`` brings the processes' results together)."""


class Abilities(NamedTuple):
    """What a model can do beyond ``model(batch)``, read off it once.

    Attributes:
        encode_image, ground: the halves of the network, for several phrases about one image: ``encode_image(image)`` gives
            features, ``ground(features, tokens, image_index)`` predictions. None for a model without halves.
        candidates: ``candidates(features, tokens, image_index)`` gives what ``ground`` does and every cell's ``candidate_boxes``
            and ``candidate_scores``, from one pass where ``ground`` takes ``candidates=True``. None without.
        stride: pixels of the square that a cell of ``candidates`` spans; they come as (anchors, rows, columns). 0 where that is
            not known.
        one_only: why it cannot learn from phrases that name none or several objects; "" where it can. Such a model says
            so with an attribute ``several = True``, its own or its ``head``'s; a text there is the reason why not.
        weighted: whether it multiplies each phrase's losses by the batch's ``weight``; such a model has ``weighted = True``.
        mask_threshold: a mask pixel is on where its probability is above this.
        mask_any_overlap: the original's mask arithmetic.
    """

    encode_image: Callable[..., Any] | None
    ground: Callable[..., Any] | None
    candidates: Callable[..., Any] | None
    stride: int
    mask_threshold: float
    mask_any_overlap: bool
    one_only: str
    weighted: bool = False


def _candidates(
    cells: Callable[..., Any], forward_features: Callable[..., Any], ground: Callable[..., Any], *arguments: Any
) -> Any:
    found = cells(forward_features(*arguments)["head"])
    return {**ground(*arguments), **dict(zip(("candidate_boxes", "candidate_scores"), found, strict=True))}


def abilities(model: "torch.nn.Module") -> Abilities:
    """What ``model`` can do; whatever it does not name takes the plain answer."""
    known: dict[str, Any] = {
        name: getattr(model, name, None) for name in ("encode_image", "ground", "forward_features")
    }
    halves = known["encode_image"] is not None and known["ground"] is not None
    head: Any = getattr(model, "head", None)
    cells: Any = getattr(head, "candidates", None) if halves else None
    stride: Any = getattr(head, "stride", 0)
    several: Any = getattr(model, "several", getattr(head, "several", False))

    ground = known["ground"]
    in_one = cells is not None and "candidates" in signature(ground).parameters
    # Bound methods, no closure: a copied or pickled Grounder asks its own model.
    candidates = (
        partial(ground, candidates=True) if in_one else partial(_candidates, cells, known["forward_features"], ground)
    )
    return Abilities(
        known["encode_image"] if halves else None,
        known["ground"] if halves else None,
        candidates if cells is not None else None,
        stride if isinstance(stride, int) else 0,
        float(getattr(model, "mask_threshold", 0.5)),
        bool(getattr(model, "mask_any_overlap", False)),
        "" if several is True else several or "it knows the batch's `box` alone, one for each phrase",
        bool(getattr(model, "weighted", False)),
    )


@dataclass(frozen=True)
class Answer:
    """When a model of none, one or several objects says what; the ``answer`` of a model folder.

    Attributes:
        threshold: a box is an answer where its score is at least this. Chosen on a validation split, never on test.
        suppress_iou: a box is left out where it overlaps a better one by more than this.
        min_pixels: a model of masks alone found nothing where its mask has fewer pixels, or none.
    """

    threshold: float = 0.5
    suppress_iou: float = 0.5
    min_pixels: int = 0

    @classmethod
    def of_folder(cls, config: Mapping[str, Any]) -> "Answer | None":
        """From a model folder's ``config.yaml``; None for a model that always answers with one object."""
        found = config.get("answer")
        return None if found is None else cls(**found)

    def to_folder(self) -> dict[str, Any]:
        """The inverse of :meth:`of_folder`."""
        return asdict(self)

    def choose(self, found: "np.ndarray", scores: "np.ndarray") -> list[int]:
        """Which of the candidates ``(N, 4)`` xyxy with scores ``(N,)`` are the answer, best first; none is an answer too."""
        return suppress(found, scores, len(scores), self.suppress_iou, self.threshold)

    def sees(self, mask: "np.ndarray") -> bool:
        """Whether a mask, bool ``(H, W)`` of the original image, shows anything: for models without boxes."""
        return int(mask.sum()) >= max(1, self.min_pixels)


@dataclass(frozen=True)
class Preprocess:
    """How pixels and words reach a model; the ``preprocess`` of a model folder.

    Attributes:
        size: side of the letterboxed square in pixels.
        words: per phrase; more are cut.
        mean, std: per channel, of pixels in 0-1.
    """

    size: int
    words: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def of_folder(cls, preprocess: Mapping[str, Any]) -> "Preprocess":
        """From the ``preprocess`` of a model folder's ``config.yaml``."""
        size, words = int(preprocess["input_shape"][0]), int(preprocess["max_token_length"])
        return cls(size, words, tuple(preprocess["mean"]), tuple(preprocess["std"]))

    def to_folder(self) -> dict[str, Any]:
        """The inverse of :meth:`of_folder`."""
        shape = {"input_shape": [self.size, self.size], "mean": list(self.mean), "std": list(self.std)}
        return shape | {"max_token_length": self.words}

    def __call__(self, batch: Batch, size: int | None = None) -> Batch:
        """A collated batch as the model receives it, on whatever device its tensors are.

        Args:
            batch: ``image`` uint8 ``(B, 3, S, S)``, ``mask`` (optional) uint8 ``(B, 1, S, S)``.
            size: side to resize ``image`` and ``mask`` to, by nearest neighbour (SimREC's multi-scale training). Boxes are
                fractions of the square and need no change.

        Returns:
            A new dict in which ``image`` is float32 ``(B, 3, S', S')`` in channels-last memory, normalised.
        """
        import torch
        import torch.nn.functional as F

        image, mask = batch["image"], batch.get("mask")
        if size is not None and size != image.shape[-1]:
            image = F.interpolate(image, size=(size, size), mode="nearest")
            mask = None if mask is None else F.interpolate(mask, size=(size, size), mode="nearest")
        image = image.to(torch.float32, memory_format=torch.channels_last).div_(255)
        if any(self.mean) or any(value != 1 for value in self.std):
            # Filled where the image is: numbers copied from the host would make it wait for a GPU.
            mean, std = (torch.stack([image.new_full((1, 1), v) for v in each]) for each in (self.mean, self.std))
            image = image.sub_(mean).div_(std)
        ready: Batch = {**batch, "image": image}
        if mask is not None:
            ready["mask"] = mask
        return ready
