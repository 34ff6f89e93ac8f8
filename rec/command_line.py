"""What the scripts share: ``--trust-config``, and an expected error as one paragraph and an exit status."""

import argparse
import logging
import os
import re
import signal
import sys
import textwrap
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rec import console
from rec.errors import InputError as InputError
from rec.errors import out_of_memory
from rec.files import NO_SPACE, user_path

MAX_PARAGRAPH = 4000  # letters of an error: a stranger's file may name something long
# Help of --threshold.
THRESHOLD = (
    "answer with every object of at least this score, and with nothing where there is none; default: the model folder's, and "
    "one object where it has none"
)
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--trust-config``, the one way in which a script lets a file it did not write run code."""
    parser.add_argument(
        "--trust-config",
        action="store_true",
        help="let a .yaml config call anything and a vocabulary load any tokenizer: for files of your own only",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What every script has that asks a model: ``--device``, ``--threshold``, and those of trust and of foreign models."""
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--threshold", type=share, metavar="SCORE", help=THRESHOLD)
    add_trust_option(parser)
    add_foreign_options(parser)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`rec.from_pretrained` out of :func:`add_model_options`."""
    return {name: getattr(args, name) for name in ("device", "threshold", "trust_config")} | foreign_options(args)


def add_foreign_options(parser: argparse.ArgumentParser) -> None:
    """``--coordinates``, ``--box-format``, ``--prompt``, ``--max-tokens`` and ``--send-images``, for ``transformers:…`` and
    ``openai:…``."""
    parser.add_argument(
        "--coordinates",
        help="how somebody else's chat model (or --answers) writes boxes: pixel, 0-1, 0-999, 0-1000, florence, WIDTHxHEIGHT",
    )
    parser.add_argument(
        "--box-format",
        choices=("xyxy", "xywh", "cxcywh", "yxyx"),
        help="of those boxes; default the model's own, or xyxy",
    )
    parser.add_argument("--prompt", help="what somebody else's chat model is asked, with {phrase} in it")
    parser.add_argument(
        "--max-tokens", type=whole(1), metavar="N", help="of its answer, for a model that thinks first; default 300"
    )
    parser.add_argument(
        "--send-images", action="store_true", help="let photographs go to the other machine that is named"
    )


def foreign_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :func:`rec.from_pretrained` out of :func:`add_foreign_options`."""
    return {name: getattr(args, name) for name in ("coordinates", "box_format", "prompt", "max_tokens", "send_images")}


def announce(text: str) -> None:
    """The first line of a script whose imports take seconds: what it is about to do, said by one of several processes."""
    from rec import __version__

    if os.environ.get("RANK", "0") == "0":
        print(f"rec {__version__}: {text}", flush=True)


def whole(low: int = 0, high: int | None = None) -> Callable[[str], int]:
    """An argparse ``type``: a whole number of at least ``low``, at most ``high``."""
    said = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,15}", text) or not low <= int(text) <= (int(text) if high is None else high):
            raise argparse.ArgumentTypeError(f"expected {said}, found {text!r}")
        return int(text)

    return read


def share(text: str) -> float:
    """An argparse ``type``: a number from 0 to 1."""
    if not re.fullmatch(r"(?=\.?[0-9])[0-9]{0,15}\.?[0-9]{0,30}(e-?[0-9]{1,3})?", text) or not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return float(text)


def device(text: str) -> str:
    """An argparse ``type``: ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``, and it is there."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda, cuda:1 or mps, found {text!r}")
    if text.startswith(("cuda", "mps")):
        import torch

        number = int(text.partition(":")[2] or 0)
        there = torch.backends.mps.is_available() if text == "mps" else number < torch.cuda.device_count()
        if not there:
            raise argparse.ArgumentTypeError(
                f"{text} is not there: this machine has {torch.cuda.device_count()} CUDA GPUs; use auto"
            )
    return text


def ending(*endings: str) -> Callable[[str], str]:
    """An argparse ``type``: the name of a file to write that ends in one of ``endings``, lower case."""

    def read(text: str) -> str:
        if Path(text).suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(
                f"expected a file name that ends in {' or '.join(endings)}, found {text!r}"
            )
        return str(user_path(text))

    return read


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a script's ``main`` and end the process with its status.

    Errors of input (config, files, data, model folders) end with status 2 and one paragraph on stderr; anything else is
    a defect of the program and keeps its traceback. Both are in the run's log too, where there is one. SIGTERM and SIGHUP
    end it in order, temporary files removed. A console that is closed, full or gone ends nothing, except where the output
    is what the script makes (:func:`rec.console.require_output`): there a closed pipe ends it quietly with status 141.
    """
    console.protect()
    _end_in_order()
    status = _status(main)
    try:
        sys.stdout.flush()
    except OSError as error:
        status = status or _lost_output(error)
    sys.exit(status)


def _status(main: Callable[[], int]) -> int | str | None:
    try:
        return main()
    except KeyboardInterrupt as interrupt:
        return _failed("stopped", interrupt, 130)
    except SystemExit as ended:
        if getattr(ended, "__notes__", None):
            _failed("stopped", ended, 0)
        return ended.code
    except Exception as error:
        if error is console.lost_output():
            return _lost_output(error)
        text = explained(error)
        _log(error, text)
        if text is None:
            raise
        return _failed(f"error: {text}", error, 2)


def _lost_output(error: Exception) -> int:
    """The status of a script whose output is what it makes, and cannot be written."""
    console.give_up_output()
    if isinstance(error, BrokenPipeError):
        return 141  # as of a Unix tool that SIGPIPE ends
    return _failed(f"error: the standard output cannot be written ({error})", error, 2)


def _log(error: Exception, text: str | None) -> None:
    """Why the script ends, in the run's log, where there is one: the console may be gone, the file stays."""
    failure = None if text else (type(error), error, error.__traceback__)
    record = logging.LogRecord("rec", logging.ERROR, __file__, 0, f"error: {text or repr(error)}", None, failure)
    for handler in logging.getLogger("rec").handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _failed(text: str, error: BaseException, status: int) -> int:
    """Says why the script ends, and what the error carries along, such as where the answers so far are."""
    text = "; ".join([text, *getattr(error, "__notes__", [])])
    text = text if len(text) <= MAX_PARAGRAPH else f"{text[:MAX_PARAGRAPH]} …"
    text = f"{Path(sys.argv[0]).name}: {text}"
    if _said_by_another(text):
        return status
    print(printable(textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)), file=sys.stderr)
    return status


def _said_by_another(text: str) -> bool:
    """Whether another process of the same launch says the same; ``torchrun`` and ``accelerate launch`` give them one folder."""
    if (own := os.environ.get("TORCHELASTIC_ERROR_FILE")) is None:
        return False
    try:
        (Path(own).parents[1] / f"said_{zlib.crc32(text.encode('utf-8', 'replace'))}").touch(exist_ok=False)
    except OSError as error:
        return isinstance(error, FileExistsError)
    return False


def _end_in_order() -> None:
    """Lets SIGTERM and SIGHUP end the process as ``sys.exit`` does, where they would cut it off."""
    process = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == process:
            sys.exit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # a forked child has nothing of its own to put in order
        os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, end)


def printable(text: str) -> str:
    """``text`` without what would command the terminal: it may quote a stranger's file."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def explained(error: Exception) -> str | None:
    """The paragraph of an error that our own checks or the file system raised; None for a defect of the program."""
    text = str(error)
    if "Original Traceback" in text:  # raised in a loader worker: torch puts the worker's traceback into the message
        return _of_worker(text)
    if isinstance(error, OSError) and error.filename is not None and not type(error).__module__.startswith("rec."):
        full = "free some space, or write elsewhere"
        advice = full if error.errno in NO_SPACE else "check the path and its permissions"
        return f"{error.filename}: {error.strerror}; {advice}"
    if type(error).__module__.startswith("rec.") or _raised_by_us(error):
        return text
    if out_of_memory(error):
        said = (text.strip().splitlines() or ["a MemoryError"])[0]
        return f"memory ran out ({said[:300]}): take fewer images at a time, a smaller size, or half precision"
    return None


def _of_worker(text: str) -> str | None:
    """What an error from a loader worker said; where it is not of this project, also what it is and where it was raised."""
    last = text.strip().splitlines()[-1]
    kind, _, said = last.partition(": ")
    places = re.findall(r'^ *File "(.+)", line (\d+), in (.+)$', text, re.MULTILINE)
    file, line, function = places[-1] if places else ("", "", "")
    ours = kind.startswith("rec.") or Path(file).is_relative_to(Path(__file__).parent)
    if ours or said.startswith("[Errno") or not places:
        return said or None
    return f"{last}, in {file}:{line}, {function} (train.data.num_workers=0 shows how it came there)"


def _raised_by_us(error: Exception) -> bool:
    """Whether a built-in exception was raised by a line of ``rec`` itself rather than inside a library it called."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = last.tb_frame.f_globals.get("__name__", "") if last is not None else ""
    return isinstance(error, ValueError | RuntimeError | KeyError | ImportError) and module.startswith("rec.")
