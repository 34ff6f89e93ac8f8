"""Samples from parquet shards that are read as they come, for data larger than the disk or the memory."""

import itertools
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from rec.contracts import Words
from rec.data.arrow_files import as_patterns, check_parquet, parquet_files
from rec.data.cleaning import ids_of
from rec.data.dataset import RefCOCODataSet
from rec.data.prepare import INFO_FILE
from rec.data.samples import SampleMaker, collate
from rec.data.schema import FEATURES, BadRecord, attempt, columns_of, validate_row
from rec.data.sources import SourceError, find_split, load_json
from rec.data.subwords import load_words
from rec.data.tables import Table, check_finished, may_be_on_hub
from rec.names import hands_on

OF_TRAINING = ("rank", "processes", "buffer_size", "flip_lr", "candidate_transforms")  # what evaluation does without
_PASSES_APART = 1 << 20  # more than any run has epochs, so that no pass repeats the order of another epoch


class RefCOCOStream(IterableDataset):
    """Training samples of a split, from shards divided among processes and among each process's workers.

    Samples are those of :class:`rec.data.dataset.RefCOCODataSet`. What is random in a sample is a function of (seed,
    epoch, ref id); the order is one of (seed, epoch) at an unchanged number of processes and workers.

    Args:
        path: folder of parquet shards in the schema, as ``rec prepare --format parquet --store embedded``
            makes them, or the id of a Hub data set.
        split: its name.
        vocabulary: :class:`~rec.contracts.Words`, the path of their file, or ``transformers:<folder or Hub id>``; there is no
            pass over the data to build one.
        rank, processes: which of how many processes this is; use at least as many shards as processes times workers.
        buffer_size: rows held to shuffle among; 0 keeps the order of the shards.
        seed: of everything random.
        input_shape, max_token_length, flip_lr, candidate_transforms, with_masks, hide, targets: as of ``RefCOCODataSet``.

    Attributes:
        shards: how many this process reads; at most so many workers can share them.
        sources: name of the data, where the shards' ``prepared.json`` tells it.
        fingerprint: digest of the shards' names and sizes (of a Hub id: the id), with the split and the seed.

    Raises:
        SourceError: no such shards, or not of the schema.
    """

    # Of :class:`rec.contracts.DataSet`; a stream knows none of them.
    content, pretrained_emb, weighted_rows = "", None, 0

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        vocabulary: Words | str | os.PathLike[str],
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
        targets: str = "one",
    ) -> None:
        from datasets import load_dataset

        path = os.path.expanduser(path)
        self._count: int | None = None
        self._is_foreign = not os.path.isdir(path)
        identity: list[Any] = [path, split, seed, buffer_size]
        if not self._is_foreign:
            check_finished(Path(path))
            shards = parquet_files(Path(path))
            files = shards.get(find_split(split, tuple(shards)) or split)
            if not files:
                raise SourceError(
                    f"{path} has no parquet shards of split {split!r} ({split}-00000-of-….parquet); it has "
                    f"{', '.join(shards) or 'none: prepare it with --format parquet --store embedded'}"
                )
            rows = load_dataset("parquet", data_files=as_patterns(files), split="train", streaming=True)
            self._count = sum(check_parquet(file) for file in files)
            identity[0] = [(file.name, file.stat().st_size) for file in files]
        elif not may_be_on_hub(path):
            raise SourceError(
                f"there is no folder {path}; expected one of parquet shards, or a Hub id such as user/name"
            )
        else:
            try:
                rows = load_dataset(path, split=split, streaming=True)
            except Exception as error:  # the client raises dozens of kinds
                raise SourceError(f"{path} is not a folder here, and as a Hub data set: {error}") from None
            if rows.info.splits and split in rows.info.splits:
                self._count = rows.info.splits[split].num_examples or None
        try:
            columns = columns_of(rows.column_names or FEATURES)
        except KeyError as error:
            raise SourceError(f"{path} lacks the columns {error}: prepare it with `rec prepare`") from None
        self._all_rows = rows.select_columns(columns)
        self.seed, self.epoch, self.buffer_size, self.rank, self.processes = seed, 0, buffer_size, rank, processes
        self.shards = self._rows().num_shards
        info = Path(path) / INFO_FILE
        self.sources = (str(load_json(info).get("name")),) if info.is_file() else ()
        self.fingerprint = f"{zlib.crc32(repr(identity).encode()):08x}"
        self.max_token_length, self.targets = max_token_length, targets
        self.vocabulary: Words = load_words(vocabulary) if isinstance(vocabulary, str | os.PathLike) else vocabulary
        self._table = Table(None, path, "", (split,))  # shards are self-contained: only the folder is used
        self._make = SampleMaker(
            self.vocabulary,
            size=int(input_shape[0]),
            max_token_length=max_token_length,
            training=True,
            flip_lr=flip_lr,
            candidate_transforms=candidate_transforms,
            with_masks=with_masks,
            hide=hide,
            targets=targets,
        )

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next pass; call it before each."""
        self.epoch = epoch

    def _rows(self) -> Any:
        """This process's rows in the order of the epoch.

        The ``set_epoch`` of ``datasets`` writes to memory that all workers share, and each is in a pass of its own.
        """
        from datasets.distributed import split_dataset_by_node

        rows = self._all_rows
        if self.buffer_size:
            order = np.random.default_rng([self.seed, self.epoch])
            rows = rows.shuffle(generator=order, buffer_size=self.buffer_size)
        return split_dataset_by_node(rows, self.rank, self.processes)

    def __length_hint__(self) -> int:
        """Rows of the split over all processes; ``NotImplemented`` where they cannot be known without reading them."""
        return NotImplemented if self._count is None else self._count

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index, row in enumerate(self._rows()):
            yield self._sample(index, row)

    def endless(self, epoch: int, skip: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        """Samples of ``epoch`` and, behind its last one, of further passes in other orders.

        Processes and workers have shards of different lengths, but must make equally many batches.

        Args:
            epoch: as of :meth:`set_epoch`.
            skip: rows to pass over; they are read, because the shuffled order cannot be known without, but not decoded.

        Raises:
            SourceError: this process or worker has no rows at all.
            BadRecord: a row that cannot be trained on; names it.
        """
        for pass_number in itertools.count():
            self.set_epoch(epoch + pass_number * _PASSES_APART)
            index = -1
            for index, row in enumerate(self._rows()):
                if skip > 0:
                    skip -= 1
                else:
                    yield self._sample(index, row)
            if index < 0:
                raise SourceError(f"{self._table.image_root}: this process or worker has no rows of the stream")

    def _sample(self, index: int, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        root, image = self._table.image_root, row["image"]
        if image["bytes"] is None and (self._is_foreign or not os.path.isfile(os.path.join(root, image["path"] or ""))):
            why = "a Hub data set names no files of this machine" if self._is_foreign else "it is not in that folder"
            raise SourceError(
                f"{root}, ref_id {row['ref_id']} names the file {image['path']}; {why}: its shards must hold their pictures "
                "(--store embedded)"
            )
        valid = attempt(validate_row, row, where=f"{self._table.image_root}, {ids_of(row)}")
        if isinstance(valid, BadRecord):
            raise valid
        key = (self.seed, self.epoch, zlib.crc32(f"{valid['source']}/{valid['ref_id']}".encode()))
        return self._make(self._table, valid, None, index, key, {})

    def collate(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Samples to a batch of tensors with a leading dimension B."""
        return collate(samples)


@partial(hands_on, to=RefCOCOStream)
def streamed_split(
    path: str, split: str = "train", *, training: bool = True, vocabulary: Words | str, **options: Any
) -> RefCOCOStream | RefCOCODataSet:
    """The ``dataset`` of a config that trains from a stream: :class:`RefCOCOStream` in training, a table in evaluation.

    An evaluation split is visited by index, every pair once, so it is read as any other data set.

    Args:
        path: folder of parquet shards, or Hub id.
        split: its name.
        training: which of the two.
        vocabulary, options: the arguments of :class:`RefCOCOStream`.
    """
    if training:
        return RefCOCOStream(path, split, vocabulary=vocabulary, **options)
    shared = {name: value for name, value in options.items() if name not in OF_TRAINING}
    return RefCOCODataSet("stream", {"stream": path}, split=split, training=False, vocabulary=vocabulary, **shared)
