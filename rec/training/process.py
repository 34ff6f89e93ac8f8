"""The training process among others: one run per output folder, stop requests, a dead launcher, the C allocator."""

import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO, Any

EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class OutputFolderError(Exception):
    """The output folder cannot be used; the text says why and what to do."""


def lock_output_folder(folder: Path) -> IO[str]:
    """Creates ``folder`` and takes its lock, which the kernel gives back when the process ends, however it ends.

    Returns:
        The open lock file; keep it for the life of the process.

    Raises:
        OutputFolderError: it cannot be written, or another run holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+", encoding="utf-8")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(f"{os.getpid()} {os.getppid() if _launched() else ''}")
        lock.flush()
    except BlockingIOError as error:
        lock.seek(0)
        raise OutputFolderError(
            f"another run ({_holder(lock.read())}) is using train.output_dir={str(folder)!r}: wait for it, stop it, or choose "
            "another train.output_dir"
        ) from error
    except OSError as error:
        raise OutputFolderError(
            f"train.output_dir={str(folder)!r} cannot be written ({error.strerror}): choose another folder, "
            "e.g. train.output_dir=outputs/my_run"
        ) from error
    # A forked loader worker must not hold the lock: it outlives a killed run by seconds, and would refuse the restart.
    os.register_at_fork(after_in_child=lock.close)
    return lock


def _holder(content: str) -> str:
    """Who holds the lock, from its file: the process and, where it has one, its launcher."""
    process, _, launcher = content.partition(" ")
    try:
        now = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
    except (OSError, IndexError):
        return f"process {process or 'unknown'}"
    if launcher and now != launcher:
        return (
            f"process {process}, an orphan: its launcher, process {launcher}, is gone. It ends by itself after its update, or at "
            f"the latest after its train.communication.timeout; `kill -9 {process}` ends it now"
        )
    return f"process {process}"


def _launched() -> bool:
    """Whether ``accelerate launch`` or ``torchrun`` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


class StopRequest:
    """Turns SIGTERM, Ctrl-C and the launcher's death into a flag that the training loop reads at step boundaries.

    A second signal of the same kind has its usual effect and stops at once.

    Args:
        timeout: seconds a process may outlive its launcher: one that hangs in a collective reaches no step boundary.
        launcher: the parent's process id, read before the seconds that imports take: it may die in them.
    """

    def __init__(self, timeout: float, launcher: int) -> None:
        self.signal: signal.Signals | None = None
        self._parent = launcher
        self._watch_parent = _launched() and launcher != 1
        for number in EXIT_STATUS:
            signal.signal(number, self._receive)
        if self._watch_parent:
            threading.Thread(target=self._end_orphan, args=(timeout,), daemon=True).start()

    def _end_orphan(self, timeout: float) -> None:
        while not self.launcher_died:
            time.sleep(0.5)
        time.sleep(timeout)
        os.write(
            2, f"process {os.getpid()} ends: its launcher died {timeout:g} s ago, and no update ended since\n".encode()
        )
        os._exit(EXIT_STATUS[signal.SIGTERM])

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    @property
    def launcher_died(self) -> bool:
        """True once the launcher that started this process is gone: nobody would restart or stop it any more."""
        return self._watch_parent and os.getppid() != self._parent

    @property
    def requested(self) -> bool:
        return self.signal is not None or self.launcher_died

    @property
    def reason(self) -> str:
        if self.signal is not None:
            return self.signal.name
        return "the launcher died" if self.launcher_died else "another process was asked to stop"

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.signal or signal.SIGTERM]


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory of freed tensors instead of returning it to the kernel after every operation.

    On CPU runs the returning and re-faulting of large tensors costs up to half of the time. Must be called before the
    first large allocation; does nothing on other C libraries. See ``mallopt(3)``.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        trim_threshold, top_pad, mmap_max = -1, -2, -4
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, -1)
        library.mallopt(top_pad, 512 * 1024 * 1024)


def use_all_cores(processes: int) -> None:
    """Gives a CPU process its share of the cores, where a launcher has set ``OMP_NUM_THREADS=1`` unasked.

    ``accelerate launch`` and ``torchrun`` do so; more than one thread in that variable is taken as the user's wish.
    """
    import torch

    if _launched() and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def end_together(accelerator: Any) -> None:
    """``accelerator.end_training``, then a moment in which Gloo's threads let go of the last collectives' tensors.

    They do so with Python's lock, a little later than the main thread goes on. A Python that is already ending then
    makes the C++ thread unwind, and the process aborts: "terminate called without an active exception", status -6
    (pytorch/pytorch issue 190489).
    """
    accelerator.end_training()
    if accelerator.num_processes > 1:
        time.sleep(0.1)


def fork_safely() -> None:
    """Keeps loader workers of a process with collectives from standing still in the fork, on Python before 3.11.10.

    There a worker waits without end when another thread was just taking its first Python lock (CPython gh-112275),
    as Gloo's threads do after a collective.
    """

    def let_threads_finish() -> None:
        time.sleep(0.005)
        sys._current_frames()  # takes the lock in question, hence waits for a thread that still holds it

    if sys.version_info < (3, 11, 10):
        os.register_at_fork(before=let_threads_finish)
