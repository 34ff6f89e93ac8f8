"""Writing files so that they are whole or absent at every instant, on any file system.

The one home of atomic text and JSON, fsync, link-or-copy and the swap of two folders.
"""

import ctypes
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sync(path: str | os.PathLike[str]) -> None:
    """fsync of a file or a folder: after it, a power cut cannot lose the content (or the names in the folder)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes ``path``'s place, synced, when the block ends without error.

    An error in the block leaves what was at ``path`` untouched and nothing beside it. The file gets the mode that the
    umask gives (or the mode of the file it replaces).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=path.suffix or ".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else default_mode())
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text in place of ``path``, whole or not at all. Lone surrogates are written as ``?``."""
    with whole_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = 1) -> None:
    """Writes JSON in place of ``path``, whole or not at all.

    Raises:
        ValueError: ``content`` holds NaN or infinity, which JSON does not know.
    """
    write_text(path, json.dumps(content, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def link_or_copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """A second name for a file, or a copy where the file system has no hard links. An existing ``target`` is replaced."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def swap(new: Path, final: Path) -> None:
    """Renames ``new`` to ``final``; what was there ends up at ``new``. One step on Linux, two elsewhere."""
    if not final.exists():
        new.rename(final)
        return
    exchange, working_directory = 2, -100
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.renameat2(working_directory, bytes(new), working_directory, bytes(final), exchange) == 0:
            return
    except (AttributeError, TypeError, OSError):
        pass  # a C library without renameat2
    old = new.with_name(new.name + ".old")
    final.rename(old)
    new.rename(final)
    old.rename(new)


def default_mode() -> int:
    """The permissions a new file gets here: 0666 less the umask."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
