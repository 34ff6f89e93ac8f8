"""The training process among others: one run per output folder, stop requests, a dead launcher, the C allocator."""

import ctypes
import fcntl
import functools
import math
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from rec.cores import usable_cores
from rec.errors import RecError

if TYPE_CHECKING:
    from accelerate import Accelerator

EXIT_STATUS = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}
# What torchrun and `accelerate launch` give to the processes they start, and nobody sets by hand.
LAUNCH_MARKS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_BACKEND")
# Seconds in which a signal of the same kind is the same request: `timeout` sends two at once, systemd and Slurm one to every
# process besides the launcher's own, a closing terminal several, and schedulers repeat theirs.
SAME_REQUEST: dict[int, float] = {signal.SIGHUP: math.inf, signal.SIGINT: 0.3, signal.SIGTERM: 5.0}


class OutputFolderError(RecError):
    """The output folder cannot be used; the text says why and what to do."""


def lock_output_folder(folder: Path) -> IO[str]:
    """Creates ``folder`` and takes its lock, which the kernel gives back when the process ends, however it ends.

    Returns:
        The open lock file; keep it for the life of the process.

    Raises:
        OutputFolderError: it or its ``checkpoints`` cannot be written, or another run holds it.
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
    checkpoints = folder / "checkpoints"
    if os.path.lexists(checkpoints) and not (checkpoints.is_dir() and os.access(checkpoints, os.W_OK)):
        raise OutputFolderError(
            f"{checkpoints} is not a folder that can be written: look at it and its permissions, or choose another "
            "train.output_dir"
        )
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
    return any(name in os.environ for name in LAUNCH_MARKS)


class StopRequest:
    """Turns SIGTERM, SIGHUP, Ctrl-C, the launcher's death and a failure told to it into a flag, read at update boundaries.

    A thread receives the signals, so that a second one ends the process at once even where the main thread waits in a
    collective without end. SIGHUP stays ignored where ``nohup`` says so.

    Args:
        folder: the output folder, to say where the run will continue.
        timeout: seconds a process may outlive its launcher: one that hangs in a collective reaches no update boundary.
        launcher: the parent's process id, read before the seconds that imports take: it may die in them.
    """

    def __init__(self, folder: Path, timeout: float, launcher: int) -> None:
        self.signal: signal.Signals | None = None
        self.failure: Exception | None = None
        self._folder, self._parent = folder, launcher
        self._watch_parent = _launched() and launcher != 1
        received, numbers = os.pipe()
        os.set_blocking(numbers, False)
        for number in EXIT_STATUS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)  # with a handler of Python's, the number goes to the pipe
        signal.set_wakeup_fd(numbers, warn_on_full_buffer=False)
        _hold_signals_over_forks()
        threading.Thread(target=self._receive, args=(received,), daemon=True).start()
        if self._watch_parent:
            threading.Thread(target=self._end_orphan, args=(timeout,), daemon=True).start()

    def _receive(self, numbers: int) -> None:
        first: dict[int, float] = {}
        while True:
            for number in os.read(numbers, 100):
                if number not in EXIT_STATUS:
                    continue  # SIGCHLD, say, where somebody has a handler for it
                self.signal = self.signal or signal.Signals(number)
                if time.monotonic() - first.setdefault(number, time.monotonic()) > SAME_REQUEST[number]:
                    self._end_now(signal.Signals(number))

    def _end_now(self, number: signal.Signals) -> NoReturn:
        last = self._folder / "checkpoints" / "last"
        try:
            start = f"continues from {last.parent / last.read_text(encoding='utf-8', errors='replace').strip()}"
        except OSError:
            start = "starts anew: there is no checkpoint yet"
        _say(f"process {os.getpid()} ends at once (a second {number.name}); the same command {start}")
        os._exit(EXIT_STATUS[number])

    def _end_orphan(self, timeout: float) -> NoReturn:
        while not self.launcher_died:
            time.sleep(0.5)
        time.sleep(timeout)
        _say(f"process {os.getpid()} ends: its launcher died {timeout:g} s ago, and no update ended since")
        os._exit(EXIT_STATUS[signal.SIGTERM])

    def fail(self, error: Exception) -> None:
        """Asks to stop because of ``error``, which is then what the run ends with."""
        self.failure = self.failure or error

    @property
    def launcher_died(self) -> bool:
        """True once the launcher that started this process is gone: nobody would restart or stop it any more."""
        return self._watch_parent and os.getppid() != self._parent

    @property
    def requested(self) -> bool:
        return self.signal is not None or self.failure is not None or self.launcher_died

    @property
    def reason(self) -> str:
        if self.signal is not None:
            return self.signal.name
        if self.failure is not None:
            return str(self.failure)
        return "the launcher died" if self.launcher_died else "another process was asked to stop"

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.signal or signal.SIGTERM]


_held = threading.local()


@functools.cache
def _hold_signals_over_forks() -> None:
    """Once per process, however many runs it sees: a second hold would take the first one's mask for the mask to restore."""
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_forget_signals)


def _hold_signals() -> None:
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_STATUS)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _forget_signals() -> None:
    """Gives a forked child the usual signals: through the pipe, its own would count as its parent's."""
    signal.set_wakeup_fd(-1)
    for number in EXIT_STATUS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _release_signals()


def _say(line: str) -> None:
    """A line on standard error, from a process that ends without Python's own end."""
    with suppress(OSError):  # nobody may be there to read it, or to take it
        if select.select((), (2,), (), 1)[1]:
            os.write(2, f"{line}\n".encode("utf-8", "replace"))


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

    ``torchrun`` and ``accelerate launch`` do so where the variable is absent. What the user set stays, one thread included.
    """
    import torch

    if _launched() and os.environ.get("OMP_NUM_THREADS", "1") == "1" and not _user_chose_threads():
        torch.set_num_threads(max(1, usable_cores() // processes))


def _user_chose_threads() -> bool:
    """Whether the launcher was itself started with ``OMP_NUM_THREADS``, or with an option in its place.

    The launcher is the nearest ancestor that no launcher started; there may be a shell in between. Only Linux shows the
    environment that a process was started with: elsewhere False.
    """
    ancestor = os.getppid()
    while ancestor > 1:
        try:
            entry = Path(f"/proc/{ancestor}")
            environment = dict(line.partition(b"=")[::2] for line in (entry / "environ").read_bytes().split(b"\0"))
            arguments = (entry / "cmdline").read_bytes().replace(b"-", b"_")
            parent = int((entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
        if not any(name.encode() in environment for name in LAUNCH_MARKS):
            return bool(environment.get(b"OMP_NUM_THREADS")) or b"__num_cpu_threads_per_process" in arguments
        ancestor = parent
    return False


def end_together(accelerator: "Accelerator") -> None:
    """``accelerator.end_training``, then a moment in which Gloo's threads let go of the last collectives' tensors.

    They do so with Python's lock, a little later than the main thread goes on. A Python that is already ending then
    makes the C++ thread unwind, and the process aborts: "terminate called without an active exception", status -6
    (pytorch/pytorch issue 190489).
    """
    accelerator.end_training()
    if accelerator.num_processes > 1:
        time.sleep(0.1)


@functools.cache
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
