"""Loader workers: signals are the main process's to answer, and workers that were killed are replaced.

A scheduler sends SIGTERM to every process of a job (``timeout``, systemd, Slurm, and ``torchrun`` to each process's group).
Workers that died of it would take the update with them that the main process still wants to end and to save.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Protocol

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset, default_convert

from rec.errors import RecError

STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
logger = logging.getLogger(__name__)


class LostWorkerError(RecError, RuntimeError):
    """A loader worker was killed; the text says by what and what to do."""


class Resumable(Protocol):
    """Batches in a fixed order, of which a new iteration leaves out the first ``passed``."""

    passed: int


class Loader(DataLoader):
    """A ``DataLoader`` that goes on, with new workers and the very next batch, after one was killed.

    Only when the new ones are killed before their first batch is it an error. A batch that is None is left out.

    Args:
        dataset: map-style, or a stream of batches.
        batches: the batch sampler, or the stream.
        num_workers, pin_memory: of ``DataLoader``.
        on_lost_worker: told of every such death; by default it is a warning.
        how: further arguments of ``DataLoader``.

    Raises:
        LostWorkerError: while iterating, as said.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Resumable,
        *,
        num_workers: int = 0,
        pin_memory: bool = True,
        on_lost_worker: Callable[[LostWorkerError], None] | None = None,
        **how: Any,
    ) -> None:
        if num_workers:
            how["collate_fn"] = partial(_ship, how.get("collate_fn", default_convert))
        super().__init__(
            dataset,
            num_workers=num_workers,
            pin_memory=pin_memory and torch.cuda.is_available(),
            worker_init_fn=_start_worker if num_workers else None,
            # Every iterator draws a seed; from the global generator it would move a resumed run's dropout.
            generator=torch.Generator(),
            **how,
        )
        self.batches: Any = batches
        self.on_lost_worker = on_lost_worker or logger.warning

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.batches.passed = 0
        iterator: Any = None
        replaced_at = -1
        try:
            while True:
                try:
                    iterator = self._started() if iterator is None else iterator
                    with _death_interrupts(_workers_of(iterator)):
                        batch = next(iterator)
                except StopIteration:
                    return
                except (Exception, _WorkerDied) as error:
                    iterator = self._iterator if iterator is None else iterator  # persistent, before another pass
                    lost = _lost_worker(error, _workers_of(iterator))
                    if lost is None:
                        raise
                else:
                    if batch is not None:
                        self.batches.passed += 1
                        yield batch
                    continue
                if self.batches.passed == replaced_at:
                    raise lost
                replaced_at = self.batches.passed
                self.on_lost_worker(lost)
                _end_workers(iterator)
                self._iterator = iterator = None
        finally:
            if self.num_workers and iterator is not None and not self.persistent_workers:
                _end_workers(iterator)  # at once; an error's traceback can hold them for long

    def _started(self) -> Any:
        """New workers, or the persistent ones for another pass. They are born with the stop signals blocked.

        Torch's handler of SIGCHLD goes again: from then on it would raise between any two lines of the program, in the
        middle of the optimizer's step, whose result nobody could save.
        """
        handler, blocked = signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)


_OF_NUMPY = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
             torch.float16, torch.float32, torch.float64}  # fmt: skip
SHIPPED = 65536  # bytes of a tensor that travels in the pipe; of a larger one its place in shared memory does


def _ship(collate: Callable[[Any], Any], samples: Any) -> Any:
    batch = collate(samples)
    return _Shipped(batch) if type(batch) is dict else batch


class _Shipped:
    """A batch on its way out of a worker, where it arrives as what it was: its small tensors in one piece, without a file of
    shared memory for each, which the process that trains would open one by one."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        small = {name: value.numpy() for name, value in self.batch.items() if _is_small(value)}
        return _arrived, (list(self.batch), small, {n: value for n, value in self.batch.items() if n not in small})


def _is_small(value: object) -> bool:
    if type(value) is not torch.Tensor or value.requires_grad or value.layout != torch.strided or not value.is_cpu:
        return False
    return value.dtype in _OF_NUMPY and value.nbytes <= SHIPPED


def _arrived(names: list[str], small: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.from_numpy(small[name]) if name in small else others[name] for name in names}


def _workers_of(iterator: object) -> Sequence[BaseProcess]:
    return getattr(iterator, "_workers", ())


class _WorkerDied(BaseException):
    """No ``Exception``: torch would catch it, and ask the event whose lock the dead worker may hold."""


def _end_workers(iterator: Any) -> None:
    """Ends the workers of a ``DataLoader``'s iterator. One that was killed may hold the lock of the event that tells the others
    to end, and would be waited for without end: then all are killed, and the event is a new one."""
    try:
        with _death_interrupts(_workers_of(iterator)):
            iterator._shutdown_workers()
    except _WorkerDied:
        for worker in _workers_of(iterator):
            worker.kill()
            worker.join()
        iterator._workers_done_event = multiprocessing.Event()
        iterator._shutdown = False
        iterator._shutdown_workers()


@contextmanager
def _death_interrupts(workers: Sequence[BaseProcess]) -> Iterator[None]:
    """In the block, the death of one of ``workers`` raises: a batch that it left half written would be waited for without
    end."""

    def check(*_: Any) -> None:
        if any(worker.exitcode for worker in workers):
            raise _WorkerDied

    if threading.current_thread() is not threading.main_thread():
        check()
        yield
        return
    handler = signal.signal(signal.SIGCHLD, check)
    try:
        check()  # one may have died since the last block
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)


def _lost_worker(error: BaseException, workers: Sequence[BaseProcess]) -> LostWorkerError | None:
    """The death of a worker behind ``error``; None where there is none."""
    if "Original Traceback" in str(error):
        return None  # raised by the data set, in a worker that lives
    deadline = time.monotonic() + 1
    while not (dead := [worker for worker in workers if worker.exitcode]):
        # A batch that breaks off while it is handed over is seen a moment before the death of who gave it.
        if not isinstance(error, ConnectionError | EOFError | FileNotFoundError) or time.monotonic() > deadline:
            return None
        time.sleep(0.01)
    status = dead[0].exitcode or 0
    cause = f"{signal.strsignal(-status)}, signal {-status}" if status < 0 else f"status {status}"
    remedy = {
        -signal.SIGKILL: "most often because memory ran out: lower train.data.num_workers or train.batch_size",
        -signal.SIGBUS: "shared memory is full: enlarge /dev/shm (docker run --shm-size=8g), or lower train.data.num_workers",
    }.get(status, "train.data.num_workers=0 shows where")
    return LostWorkerError(f"loader worker {dead[0].pid} ended unexpectedly ({cause}), {remedy}")


def _unless_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A worker's excepthook: multiprocessing's thread hands tensors over, and the process that takes them may leave midway because
    another worker died, which that process tells in words of ours."""
    if not issubclass(kind, ConnectionError | EOFError | multiprocessing.AuthenticationError):
        sys.__excepthook__(kind, error, trace)


class _Sent(ExceptionWrapper):
    """An error of the data set on its way out of a worker: where its kind cannot be sent, as one of a class of a config file, by
    the nearest kind that can. It would be lost on the way, and the process that trains would wait for it without end."""

    def __init__(self, *what: Any, **where: Any) -> None:
        super().__init__(*what, **where)
        self.exc_type = next(kind for kind in self.exc_type.__mro__ if _can_be_sent(kind))


def _can_be_sent(kind: type) -> bool:
    try:
        return bool(pickle.dumps(kind))
    except (pickle.PicklingError, AttributeError, ImportError):
        return False


def _start_worker(_: int) -> None:
    import cv2

    torch.utils.data._utils.worker.ExceptionWrapper = _Sent  # type: ignore[misc]
    cv2.setNumThreads(0)  # one worker is one core; OpenCV's own threads would fight over it
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    sys.excepthook = _unless_left
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    if parent is not None and hasattr(signal, "sigtimedwait"):  # macOS has none
        threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this worker when its main process ends it or is gone; signals from anyone else are passed over."""
    while os.getppid() == parent:
        received = signal.sigtimedwait(STOP_SIGNALS, 1)
        if received is not None and received.si_signo == signal.SIGTERM and received.si_pid == parent:
            break
    os._exit(0)
