"""Which samples meet in which batch, on which process, in which order.

The order is a function of (seed, epoch) alone: it depends neither on the number of workers nor on the number of
processes, so a resumed run continues with the very next sample, also after a restart on another number of processes.
"""

import operator
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from rec.contracts import DataSet, Stream
from rec.data.adapter import as_data_set
from rec.data.workers import Loader, LostWorkerError
from rec.names import hands_on

OnLostWorker = Callable[[LostWorkerError], None] | None


class TrainingBatches(Sampler[list[Any]]):
    """Batches of ``(epoch, index)`` for one process; the last incomplete total batch of an epoch is dropped.

    Update ``u`` of an epoch consumes the samples ``order[u * total : (u + 1) * total]`` of the epoch's permutation, whatever
    the split of ``total`` into processes and accumulation steps.

    Args:
        length: number of samples of the data set.
        per_process: samples in one batch of one process.
        processes, rank: world size and this process's number.
        accumulation: batches per optimizer update.
        seed: of the permutation, together with the epoch.
        groups: int ``(length,)``, the image of each sample: samples of one image stay together, so that they share its
            decoding and its pass through the backbone. None shuffles the samples one by one.
    """

    def __init__(
        self,
        length: int,
        per_process: int,
        *,
        processes: int,
        rank: int,
        accumulation: int,
        seed: int,
        groups: np.ndarray | None = None,
    ) -> None:
        self.length, self.per_process, self.processes, self.rank = length, per_process, processes, rank
        self.accumulation, self.seed, self.groups = accumulation, seed, groups
        self.total = per_process * processes * accumulation
        self.updates_per_epoch = length // self.total
        self.epoch, self.first_update, self.passed = 0, 0, 0
        if self.updates_per_epoch == 0:
            raise ValueError(
                f"the training split has {length} samples, fewer than one total batch of {self.total}"
                + (f": lower train.batch_size to at most {length}" if length else "")
            )

    def set_position(self, epoch: int, first_update: int = 0) -> None:
        """The next iteration yields the batches of ``epoch`` from its update ``first_update`` on."""
        self.epoch, self.first_update = epoch, first_update

    def __len__(self) -> int:
        return (self.updates_per_epoch - self.first_update) * self.accumulation

    def __iter__(self) -> Iterator[list[Any]]:
        return islice(self._from_position(self.epoch), self.passed, None)

    def _from_position(self, epoch: int) -> Iterator[list[Any]]:
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(self.length)
        if self.groups is not None:
            places = generator.permutation(int(self.groups.max()) + 1)
            order = order[np.argsort(places[self.groups[order]], kind="stable")]
        for update in range(self.first_update, self.updates_per_epoch):
            for step in range(self.accumulation):
                start = update * self.total + (step * self.processes + self.rank) * self.per_process
                yield [(epoch, int(i)) for i in order[start : start + self.per_process]]


class StreamedBatches(IterableDataset):
    """Batches of a stream (:class:`rec.data.stream.RefCOCOStream`) for one process, by the contract of
    :class:`TrainingBatches`; its :meth:`loader` takes the place of :func:`training_loader`.

    An epoch has as many updates as the split has total batches; a process whose own shards end earlier reads them again,
    one whose shards are longer leaves the rest, another rest in every epoch. At an unchanged number of processes and
    workers a run that continues from a position sees the very batches it would have seen.

    Args:
        stream: of samples.
        per_process, processes, accumulation: as of :class:`TrainingBatches`.
        updates: of an epoch, for a stream of unknown length.
        num_workers: of the loader.

    Raises:
        ValueError: the length is unknown and ``updates`` is not given; more workers than shards.
    """

    def __init__(
        self,
        stream: Stream,
        per_process: int,
        *,
        processes: int,
        accumulation: int,
        updates: int | None = None,
        num_workers: int = 0,
    ) -> None:
        length = operator.length_hint(stream)
        if not (length or updates):
            raise ValueError("this stream does not tell how many samples it has: set train.train_iter")
        if num_workers > stream.shards:
            raise ValueError(
                f"train.data.num_workers={num_workers}, but the stream has {stream.shards} shards for each process: use at "
                f"most so many workers, or prepare the data in more shards"
            )
        self.stream, self.per_process, self.num_workers = stream, per_process, num_workers
        self.accumulation = accumulation
        self.updates_per_epoch = (
            max(1, length // (per_process * processes * accumulation)) if length else int(updates or 0)
        )
        self.epoch, self.first_update, self.passed = 0, 0, 0

    def set_position(self, epoch: int, first_update: int = 0) -> None:
        """The next iteration yields the batches of ``epoch`` from its update ``first_update`` on."""
        self.epoch, self.first_update = epoch, first_update

    def __iter__(self) -> Iterator[Any]:
        """This worker's share: batch number n is worker n modulo workers' (the order in which a DataLoader asks them)."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self.first_update * self.accumulation + self.passed
        end = self.updates_per_epoch * self.accumulation
        passed = len(range(number, first, workers))
        samples = self.stream.endless(self.epoch, passed * self.per_process)
        if number < first % workers:
            yield None  # keeps the turn of a worker whose batch of this round was seen before; the loader leaves it out
        for _ in range(number + passed * workers, end, workers):
            yield self.stream.collate(list(islice(samples, self.per_process)))

    def loader(self, pin_memory: bool = True, on_lost_worker: OnLostWorker = None) -> Loader:
        """Iterable over the batches from the position set last; arguments as of :class:`rec.data.workers.Loader`."""
        # No persistent workers: they would keep the position they were started with.
        return Loader(
            self,
            self,
            num_workers=self.num_workers,
            pin_memory=pin_memory,
            on_lost_worker=on_lost_worker,
            batch_size=None,
        )


class EvaluationBatches(Sampler[list[int]]):
    """Every index exactly once over all processes: no padding, no duplicates.

    Sentences of one image stay in one batch where they fit, so that the image is decoded and encoded once. The batches
    are the same on any number of processes; they are dealt to the processes in turn.
    """

    def __init__(self, groups: np.ndarray, batch_size: int, *, processes: int = 1, rank: int = 0) -> None:
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.diff(groups[order], prepend=-1)) if len(order) else np.empty(0, int)
        batches: list[list[int]] = [[]]
        for group in np.split(order, starts[1:]) if len(order) else []:
            if len(batches[-1]) + len(group) > batch_size and batches[-1]:
                batches.append([])
            for index in group.tolist():
                if len(batches[-1]) == batch_size:
                    batches.append([])
                batches[-1].append(index)
        self.batches = [batch for batch in batches if batch][rank::processes]
        self.passed = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches[self.passed :])


def sharing_groups(dataset: DataSet) -> np.ndarray:
    """``groups`` for :class:`TrainingBatches`.

    Raises:
        ValueError: the data set does not tell which samples are of one image.
    """
    groups = dataset.image_groups()
    if groups is None or len(groups) != len(dataset):
        raise ValueError(
            "train.data.share_images=true: this data set does not tell which of its samples share an image, as one whose sources "
            "are seen half a time: set train.data.share_images=false, or whole numbers in dataset.dataset"
        )
    return groups


@partial(hands_on, to=Loader)
def training_loader(dataset: object, batches: TrainingBatches, **how: Any) -> Loader:
    """Loader over ``batches`` of any map-style data set (:func:`rec.data.adapter.as_data_set`).

    Args:
        dataset, batches: what is read, in which order.
        how: ``num_workers, pin_memory, on_lost_worker`` of :class:`rec.data.workers.Loader`.
    """
    workers = how.get("num_workers", 0)
    return _loader(as_data_set(dataset), batches, batches.groups is not None, persistent_workers=workers > 0, **how)


@partial(hands_on, to=Loader)
def evaluation_loader(dataset: object, batch_size: int, *, processes: int = 1, rank: int = 0, **how: Any) -> Loader:
    """Loader that visits every (object, sentence) pair of ``dataset`` exactly once over all processes; ``how`` as above."""
    known = as_data_set(dataset)
    groups = known.image_groups()
    order = np.arange(len(known)) if groups is None else groups
    batches = EvaluationBatches(order, batch_size, processes=processes, rank=rank)
    return _loader(known, batches, groups is not None, **how)


def _loader(dataset: DataSet, batches: Any, share_images: bool, **how: Any) -> Loader:
    collate = partial(dataset.collate, share_images=share_images)
    return Loader(cast(Dataset, dataset), batches, batch_sampler=batches, collate_fn=collate, **how)
