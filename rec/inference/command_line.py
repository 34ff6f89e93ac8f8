"""What the scripts share: an expected error is one paragraph and an exit status, never a traceback."""

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """What the user asked for cannot be done; the text says why and what to do."""


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a script's ``main`` and end the process with its status.

    Errors of input (config, files, data, model folders) end with status 2 and one paragraph on stderr; anything else is
    a defect of the program and keeps its traceback.
    """
    try:
        status = main()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        status = 141
    except Exception as error:
        text = explained(error)
        if text is None:
            raise
        print(textwrap.fill(f"{Path(sys.argv[0]).name}: error: {text}", 120, break_long_words=False), file=sys.stderr)
        status = 2
    sys.stdout.flush()
    sys.exit(status)


def explained(error: Exception) -> str | None:
    """The paragraph of an error that our own checks or the file system raised; None for a defect of the program."""
    text = str(error)
    if "Original Traceback" in text:  # raised in a loader worker: torch puts the worker's traceback into the message
        text = text.strip().splitlines()[-1].partition(": ")[2]
        return text or None
    if isinstance(error, OSError) and error.filename is not None and not type(error).__module__.startswith("rec."):
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    return text if type(error).__module__.startswith("rec.") or _raised_by_us(error) else None


def _raised_by_us(error: Exception) -> bool:
    """Whether a built-in exception was raised by a line of ``rec`` itself rather than inside a library it called."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get("__name__", "") if last is not None else ""
    return isinstance(error, ValueError | RuntimeError | KeyError | ImportError) and module.startswith("rec.")
