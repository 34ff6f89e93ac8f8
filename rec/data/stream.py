"""Samples from parquet shards that are read as they come, for data larger than the disk or the memory."""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, default_collate

from rec.data.samples import SampleMaker
from rec.data.schema import FEATURES
from rec.data.sources import SourceError
from rec.data.tables import Table
from rec.data.text import Vocabulary


class RefCOCOStream(IterableDataset):
    """Training samples of a split, from shards divided among processes and among each process's workers.

    Samples are those of :class:`rec.data.dataset.RefCOCODataSet`. What is random in a sample is a function of (seed,
    epoch, ref id); the order is one of (seed, epoch) at an unchanged number of processes and workers.

    Args:
        path: folder of parquet shards in the schema, as ``scripts/prepare_data.py --format parquet --store embedded``
            makes them, or the id of a Hub data set.
        split: its name.
        vocabulary: a :class:`~rec.data.text.Vocabulary` or the path of its file; there is no pass over the data to
            build one.
        rank, processes: which of how many processes this is; use at least as many shards as processes times workers.
        buffer_size: rows held to shuffle among; 0 keeps the order of the shards.
        seed: of everything random.
        input_shape, max_token_length, flip_lr, candidate_transforms, with_masks, hide: as of ``RefCOCODataSet``.

    Raises:
        SourceError: no such shards, or not of the schema.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        vocabulary: Vocabulary | str | os.PathLike[str],
        rank: int = 0,
        processes: int = 1,
        buffer_size: int = 1000,
        seed: int = 0,
        input_shape: Sequence[int] = (416, 416),
        max_token_length: int = 15,
        flip_lr: bool = False,
        candidate_transforms: Mapping[str, Any] | None = None,
        with_masks: bool = False,
        hide: str | None = None,
    ) -> None:
        from datasets import load_dataset
        from datasets.distributed import split_dataset_by_node

        from rec.data.tables import parquet_files

        if os.path.isdir(path):
            files = parquet_files(Path(path)).get(split)
            if not files:
                raise SourceError(
                    f"{os.fspath(path)} has no parquet shards of split {split!r} ({split}-00000-of-….parquet)"
                )
            rows = load_dataset("parquet", data_files=[str(file) for file in files], split="train", streaming=True)
        else:
            rows = load_dataset(os.fspath(path), split=split, streaming=True)
        missing = set(FEATURES) - set(rows.column_names or FEATURES)
        if missing:
            raise SourceError(
                f"{os.fspath(path)} lacks the columns {sorted(missing)}: prepare it with scripts/prepare_data.py"
            )
        if buffer_size:
            rows = rows.shuffle(seed=seed, buffer_size=buffer_size)
        self._rows = split_dataset_by_node(rows.select_columns(list(FEATURES)), rank, processes)
        self.vocabulary = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary.load(vocabulary)
        self.seed, self.epoch = seed, 0
        self._table = Table(None, os.fspath(path), "", (split,))  # shards are self-contained: only the folder is used
        self._make = SampleMaker(
            self.vocabulary,
            size=int(input_shape[0]),
            max_token_length=max_token_length,
            training=True,
            flip_lr=flip_lr,
            candidate_transforms=candidate_transforms,
            with_masks=with_masks,
            hide=hide,
        )

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass; call it before each."""
        self.epoch = epoch
        self._rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index, row in enumerate(self._rows):
            key = (self.seed, self.epoch, zlib.crc32(f"{row['source']}/{row['ref_id']}".encode()))
            yield self._make(self._table, row, None, index, key, {})

    def collate(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Samples to a batch of tensors with a leading dimension B."""
        return default_collate(list(samples))
