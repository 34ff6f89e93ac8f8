"""Batches on their way to the device: those of the next update are fetched and copied while this one is computed."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import send_to_device

from rec.contracts import Batch


class Feed:
    """The batches of an epoch's updates, on the device, in the loader's order.

    On a GPU the next ones are fetched by :meth:`ahead` and copied on a stream of their own, beside the computation. On a CPU
    there is nothing to fetch them beside.

    Args:
        loader: iterated once.
        count: batches of an update.
        device: where they are computed on.
        early: whether :meth:`ahead` fetches; None: on a GPU.

    Attributes:
        batches: of the update that :meth:`take` began.
    """

    def __init__(self, loader: Iterator[Batch], count: int, device: torch.device, early: bool | None = None) -> None:
        self.batches: list[Batch] = []
        self._loader, self._count, self._device = loader, count, device
        on_gpu = device.type == "cuda"
        self._early = on_gpu if early is None else early
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._coming: list[Batch] | Exception | None = None
        self._idle: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def take(self) -> float:
        """Puts the next update's batches into :attr:`batches`; returns the seconds for which the device waited for them.

        Raises:
            Exception: what the loader raised, at the update whose batches it was fetching.
        """
        started = time.perf_counter()
        coming = self._fetch() if self._coming is None else self._coming
        waited, self._coming = time.perf_counter() - started, None
        if isinstance(coming, Exception):
            raise coming
        while self._idle and self._idle[0][1].query():  # one that the device has yet to reach is told later
            begin, end = self._idle.pop(0)
            waited += begin.elapsed_time(end) / 1000
        if self._stream is not None:
            here = torch.cuda.current_stream(self._device)
            here.wait_stream(self._stream)
            for tensor in (value for batch in coming for value in batch.values() if isinstance(value, torch.Tensor)):
                tensor.record_stream(here)  # or the copying stream would write the batches after next over them
        self.batches = coming
        return waited

    def ahead(self) -> None:
        """Fetches the next update's batches. Call it when this one's work is given to the device, before its result is read."""
        if not self._early:
            return
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self._stream is not None else []
        for mark in marks[:1]:
            mark.record()
        try:
            self._coming = self._fetch()
        except Exception as error:  # of the next update, whose turn it is not yet; the loader's end is one too
            self._coming = error
        for mark in marks[1:]:
            mark.record()  # if the device was still computing it comes right behind the first
        self._idle += [(marks[0], marks[1])] if marks else []

    def _fetch(self) -> list[Any]:
        batches = [next(self._loader) for _ in range(self._count)]
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            return [send_to_device(batch, self._device, non_blocking=True) for batch in batches]
