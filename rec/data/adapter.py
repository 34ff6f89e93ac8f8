"""Data sets and streams of anybody's, with the whole face of :class:`rec.contracts.DataSet`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from operator import length_hint
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, IterableDataset, default_collate

from rec.contracts import Batch, DataSet, Sample, Words


class _Known:
    """What a data set or a stream of anybody's knows of itself, and plain answers to the rest."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.vocabulary: Words | None = getattr(inner, "vocabulary", None)
        self.fingerprint: str = getattr(inner, "fingerprint", "")
        self.content: str = getattr(inner, "content", "")
        self.targets: str = getattr(inner, "targets", "one")
        self.weighted_rows: int = getattr(inner, "weighted_rows", 0)
        self.sources: Sequence[str] = tuple(getattr(inner, "sources", ()))
        self.max_token_length: int | None = getattr(inner, "max_token_length", None)
        self.pretrained_emb: np.ndarray | None = getattr(inner, "pretrained_emb", None)

    def reads(self, file: str | os.PathLike[str]) -> bool:
        own = getattr(self.inner, "reads", None)
        return own is not None and own(file)


class ForeignStream(_Known, IterableDataset):
    """A stream of anybody's: ``endless(epoch, skip)``, ``collate``, ``shards`` and, where it knows it, ``__length_hint__``."""

    @property
    def shards(self) -> int:
        return self.inner.shards

    def __length_hint__(self) -> int:
        return length_hint(self.inner)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.inner)

    def endless(self, epoch: int, skip: int = 0) -> Iterator[Sample]:
        return self.inner.endless(epoch, skip)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return self.inner.collate(samples)


class ForeignDataSet(_Known, Dataset):
    """A data set that gives samples by index and may know some of the rest; what it does not know has a plain answer.

    Args:
        inner: ``len(inner)`` and ``inner[index]``; also ``inner[(epoch, index)]`` where it says ``accepts_epoch = True``.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._accepts_epoch = bool(getattr(inner, "accepts_epoch", False))

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        return self.inner[self._own_key(key)]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> list[Sample]:
        own = getattr(self.inner, "__getitems__", None)
        return [self[key] for key in keys] if own is None else own([self._own_key(key) for key in keys])

    def _own_key(self, key: int | tuple[int, int]) -> int | tuple[int, int]:
        return key[1] if isinstance(key, tuple) and not self._accepts_epoch else key

    def collate(self, samples: Sequence[Sample], share_images: bool = False) -> Batch:
        own: Any = getattr(self.inner, "collate", default_collate)
        return own(samples, share_images=True) if share_images else own(samples)

    def describe(self, index: int) -> Mapping[str, Any]:
        own = getattr(self.inner, "describe", None)
        return own(index) if own is not None else {}

    def target_boxes(self, index: int) -> tuple[np.ndarray, int, int]:
        own = getattr(self.inner, "target_boxes", None)
        if own is not None:
            return own(index)
        sample = self[index]
        height, width = (int(value) for value in sample["geometry"][:2])
        found = sample["boxes_pixels" if "boxes_pixels" in sample else "box_pixels"]
        return np.asarray(found, np.float32).reshape(-1, 4), height, width

    def picture(self, index: int) -> np.ndarray:
        own = getattr(self.inner, "picture", None)
        if own is not None:
            return own(index)
        sample = self[index]
        nh, nw, dx, dy = (int(value) for value in sample["geometry"][2:])
        square = np.asarray(sample["image"])[:, dy : dy + nh, dx : dx + nw]
        return np.ascontiguousarray(square.transpose(1, 2, 0))

    def target_mask(self, index: int) -> np.ndarray | None:
        own = getattr(self.inner, "target_mask", None)
        return own(index) if own is not None else None

    def image_groups(self) -> np.ndarray | None:
        own = getattr(self.inner, "image_groups", None)
        return np.asarray(own()) if own is not None else None


def as_data_set(dataset: object) -> DataSet:
    """``dataset`` itself where it is of this project, else with the whole face of a data set, or of a stream where it is one."""
    from rec.data.dataset import RefCOCODataSet
    from rec.data.stream import RefCOCOStream

    if isinstance(dataset, RefCOCODataSet | RefCOCOStream | _Known):
        return cast(DataSet, dataset)
    return cast(DataSet, ForeignStream(dataset)) if isinstance(dataset, IterableDataset) else ForeignDataSet(dataset)
