"""The one gate for files that somebody else may have made.

What comes from outside (a config, a vocabulary, a model folder, a checkpoint, an annotation file, a picture) passes here
before anything is built from it: regular files only, sizes limited before memory is taken, paths below the folders
given, and no name that is not in a list. The lists of names stay with their owners; the limits are below.
"""

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from rec.errors import UntrustedError

# What a config may hold: as text, levels deep, nodes (a key, a value or a container each).
MAX_CONFIG_BYTES, MAX_CONFIG_DEPTH, MAX_CONFIG_NODES = 1 << 20, 64, 20_000
MAX_JSON_DEPTH = 200
MAX_VOCABULARY_BYTES, MAX_WORDS, MAX_WORD = 16 << 20, 1_000_000, 1_000
MAX_TOKENIZER_BYTES = 64 << 20  # a tokenizer.json; those of 250,000 subwords have 34 MB
MAX_SPLIT_NAME, MAX_SPLITS = 100, 100
MAX_SIDE = 4096  # pixels of a model's square input
MAX_TOKEN_LENGTH = 512  # words of a phrase; attention's memory grows with its square
# A safetensors file: its header, and how many tensors that names. Parsing a header of a million takes half a minute.
MAX_HEADER_BYTES, MAX_TENSORS = 4 << 20, 20_000
# Of annotations: a file that is read whole (Python needs some ten times that), a line or element of one that is not,
# and what one record may hold.
MAX_ANNOTATIONS, MAX_LINE, MAX_SENTENCES, MAX_SENTENCE, MAX_OBJECTS = 2 << 30, 16 << 20, 1000, 100_000, 1000
# Parquet and gzip files: how many times their size their content may be, beyond the size of a small table.
MAX_EXPANSION, SMALL_TABLE = 100, 256 << 20
MAX_DIMENSION = 10_000  # of a word vector
# A picture: encoded, and decoded (300 MB as RGB).
MAX_IMAGE_BYTES, MAX_PIXELS = 512 << 20, 100_000_000
# A mask: characters of its run-length encoding; pixels of its polygons' outlines (120 bytes each while they are drawn);
# outline, or runs, times the number of parts that are joined one by one (some seconds).
MAX_RLE, MAX_OUTLINE, MAX_JOINS = 8 << 20, 4_000_000, 1_000_000_000


def regular_file(path: str | os.PathLike[str], what: str = "file", max_bytes: int | None = None) -> Path:
    """``path`` if it is a regular file (a link to one counts), not larger than ``max_bytes``.

    Never opens it: a FIFO would wait without end, a device read without end.

    Raises:
        FileNotFoundError: nothing is there.
        UntrustedError: a folder, FIFO, device or socket, or too large.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for test, name in kinds if test(status.st_mode)), "a device")
        raise UntrustedError(f"{os.fspath(path)} is {kind}; expected a regular file for the {what}")
    if max_bytes is not None and status.st_size > max_bytes:
        raise UntrustedError(
            f"{os.fspath(path)} has {status.st_size:,} bytes; the limit for the {what} is {max_bytes:,}"
        )
    return Path(path)


def read_bytes(path: str | os.PathLike[str], what: str = "file", max_bytes: int | None = None) -> bytes:
    """The content of a :func:`regular_file`."""
    with open_file(path, what, max_bytes) as file:
        return file.read()


def open_file(path: str | os.PathLike[str], what: str = "file", max_bytes: int | None = None) -> BinaryIO:
    """A :func:`regular_file`, opened for reading; without waiting, so that a file swapped for a FIFO does not hang."""
    regular_file(path, what, max_bytes)
    file = open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")  # noqa: SIM115 - the caller closes it
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or (max_bytes is not None and status.st_size > max_bytes):
        file.close()
        raise UntrustedError(f"{os.fspath(path)} changed while it was opened")
    return file


def read_text(path: str | os.PathLike[str], what: str = "file", max_bytes: int | None = None) -> str:
    """:func:`read_bytes` as UTF-8.

    Raises:
        UntrustedError: the bytes are not UTF-8; also as :func:`regular_file`.
    """
    data = read_bytes(path, what, max_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UntrustedError(f"{os.fspath(path)} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def weight_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, from its header; no tensor is read.

    The format (https://huggingface.co/docs/safetensors): 8 bytes with the header's length, little-endian; the header,
    JSON; the data, whose length safetensors compares with the header.

    Raises:
        FileNotFoundError: nothing is there.
        UntrustedError: no regular file, a header beyond the limits, or not a complete safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    name, damaged = os.fspath(path), "is not a complete safetensors file"
    if name != name.encode("utf-8", "replace").decode():
        raise UntrustedError(
            f"{name}: safetensors opens no file whose name is not UTF-8; move it, or rename its folder"
        )
    with open(regular_file(path, "weights"), "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > os.path.getsize(path):
        raise UntrustedError(f"{name} {damaged}: its header is longer than the file; copy or download it again")
    if length > MAX_HEADER_BYTES:
        raise UntrustedError(f"{name} has a header of {length:,} bytes; the limit for weights is {MAX_HEADER_BYTES:,}")
    try:
        with safe_open(path, "pt") as weights:
            names = weights.keys()
            if len(names) > MAX_TENSORS:
                raise UntrustedError(f"{name} has {len(names):,} tensors; the limit for weights is {MAX_TENSORS:,}")
            return {tensor: tuple(weights.get_slice(tensor).get_shape()) for tensor in names}
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise UntrustedError(f"{name} {damaged} ({error}); copy or download it again") from None


def weights_of_others(source: str | os.PathLike[str]) -> str | None:
    """What to do with a file of weights that is read nowhere but in ``rec convert``; None for anything else.

    PyTorch's files (``.pth``, ``.pt``, ``.ckpt``, ``.bin``, …) can hold code; Darknet's (``.weights``) hold no names.
    """
    path = os.fspath(source)
    if not re.search(r"\.(pth|pt|ckpt|bin|pkl|pickle|th|tar|weights|conv\.\d+)$", path, re.IGNORECASE) or os.path.isdir(
        path
    ):
        return None
    return (
        f"{path} is a file of PyTorch's or Darknet's, which may hold code; expected a model folder, a checkpoint of this project "
        "or a safetensors file. `rec convert` (scripts/convert_weights.py) makes a model folder of a SimREC or MCN checkpoint and "
        "a safetensors file of a backbone: `rec convert FILE --out weights/NAME`"
    )


def is_below(path: str | os.PathLike[str], roots: Iterable[str | os.PathLike[str]]) -> bool:
    """Whether the file that ``path`` leads to, links followed, lies below one of ``roots``."""
    real = os.path.realpath(path)
    return any(os.path.commonpath([real, root]) == root for root in map(os.path.realpath, roots))


def is_split_name(name: object) -> bool:
    """Whether :func:`split_name` admits it."""
    fits = isinstance(name, str) and name.isprintable() and len(name) <= MAX_SPLIT_NAME and ".." not in name
    return fits and re.fullmatch(r"[^\s./\\:+][^/\\:+]*", str(name)) is not None


def split_name(name: object) -> str:
    """A split's name that is safe as a folder's name: no separators, no leading dot, printable, of bounded length.

    Raises:
        UntrustedError: it is not.
    """
    if not is_split_name(name):
        raise UntrustedError(
            f"{str(name)[:80]!r} is not a name for a split: expected a text such as train, val or testA, "
            f"of at most {MAX_SPLIT_NAME} characters, without slashes, colons, a plus (it joins splits) or a dot in front"
        )
    return str(name)


def unlisted(config: Any, allowed: frozenset[str]) -> list[str]:
    """Names that a native config would call or import and that are not ``allowed``, in order.

    Args:
        config: native containers, as :func:`rec.config.safe_load_yaml` gives them.
        allowed: exact names, never prefixes: ``torch.hub.os.system`` resolves through module attributes.
    """
    if isinstance(config, dict):
        named = [str(config[key]) for key in ("_target_", "_object_") if key in config]
        inner = [name for value in config.values() for name in unlisted(value, allowed)]
        return [name for name in named if name not in allowed] + inner
    if isinstance(config, list | tuple):
        return [name for value in config for name in unlisted(value, allowed)]
    return []


def file_name(text: object, fallback: str = "file") -> str:
    """``text`` as one name in a folder: separators and control characters gone, at most 100 bytes of UTF-8."""
    name = re.sub(r"[^\w.+-]+", "_", PurePosixPath(str(text)).name, flags=re.UNICODE).strip("._")
    return name.encode("utf-8", "ignore")[:100].decode("utf-8", "ignore") or fallback
