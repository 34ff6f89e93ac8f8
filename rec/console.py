"""Standard streams that outlast their reader: a closed pipe, a full device, a terminal that is gone or stands still.

What a program makes is in its files; what it tells meanwhile must not end it. Where the output itself is what the program
makes (:func:`require_output`), losing it is an error like any other. Used by :func:`rec.command_line.exit_with`, hence by
every script.
"""

import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PATIENCE = 10.0  # seconds that a program waits for a console that takes nothing: a frozen connection, a pager left open


class _Descriptor(io.FileIO):
    """A standard stream's file descriptor. Unless it is ``required``, what cannot be written is left out."""

    required = False
    failure: OSError | None = None
    _stands_still = False

    def write(self, data: "ReadableBuffer") -> int:
        part = memoryview(data).cast("B")[: select.PIPE_BUF]  # so much does not block where there is room at all
        try:
            while self._has_room():
                if (written := super().write(part)) is not None:
                    return written  # None: of another program that has set the descriptor non-blocking
        except OSError as error:
            self.failure = error
            if self.required:
                raise
        return part.nbytes

    def _has_room(self) -> bool:
        patience = None if self.required else 0.0 if self._stands_still else PATIENCE
        self._stands_still = not select.select((), (self.fileno(),), (), patience)[1]
        return not self._stands_still


def protect() -> None:
    """Puts streams that outlast their reader in place of ``sys.stdout`` and ``sys.stderr``.

    Streams that are not the process's own (a notebook's, a test's) stay. A descriptor that the caller closed (``>&-``) is
    opened on the null device: the next file opened would get its number, and what is printed.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: this one
    if sys.stdout is sys.__stdout__:
        sys.stdout = _outlasting(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _outlasting(sys.stderr, 2)


def _outlasting(stream: TextIO | None, descriptor: int) -> TextIO:
    raw = _Descriptor(descriptor, "w", closefd=False)
    immediate = descriptor == 2 or raw.isatty() or getattr(stream, "write_through", False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",  # an ASCII console shows "\u2026" in place of an ellipsis
        line_buffering=immediate,
    )


def require_output() -> None:
    """From here on a standard output that cannot be written raises its ``OSError``: it is what the program makes."""
    if (raw := _standard_output()) is not None:
        raw.required = True


def lost_output() -> OSError | None:
    """The failure of the standard output, where it is required and has failed."""
    raw = _standard_output()
    return raw.failure if raw is not None and raw.required else None


def give_up_output() -> None:
    """Passes over further failures of the standard output: what is still in its buffer would fail again at the end."""
    if (raw := _standard_output()) is not None:
        raw.required = False


def _standard_output() -> _Descriptor | None:
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Descriptor) else None
