"""Writing files so that they are whole or absent at every instant, on any file system.

The one home of atomic text and JSON, fsync, link-or-copy, the swap of two folders, digests of content, ``~``, what a path may
be called, and the rule that no output is an input.
"""

import ctypes
import errno
import fcntl
import itertools
import json
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

import xxhash

from rec.errors import InputError
from rec.trust import is_below

PathLike = str | os.PathLike[str]
# 128 bits tell any two files apart that were not made to deceive; at 12 GB/s it is the disk that costs time.
DIGEST = "xxh3_128"
_BLOCK = 1 << 18  # bytes read at once: they stay in the processor's cache
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAX_PATH = 4096  # characters of a file's name with its folders


def user_path(path: PathLike) -> Path:
    """A path as its user wrote it, with ``~`` for the home folder; ``./~`` means a folder of that name, and becomes a whole path:
    without its ``./``, which ``Path`` forgets, it would be the home folder the next time."""
    expanded = Path(os.path.expanduser(path))
    return expanded.absolute() if expanded.parts[:1] == ("~",) else expanded


def endings(path: str) -> list[str]:
    """What a file may be called, the longest first: its path without the first folders, with any system's separators; nothing
    of what is longer than any file's name."""
    if len(path) > MAX_PATH:
        return []
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def shipped(kind: str) -> Path:
    """The folder of the project's ``"configs"`` or ``"scripts"``: beside ``rec`` in a clone, inside it once installed."""
    package = Path(__file__).resolve().parent
    installed = package / f"_{kind}"
    return installed if installed.is_dir() else package.parent / kind


@runtime_checkable
class ReadsFiles(Protocol):
    """What knows which files it reads, such as a data set."""

    def reads(self, file: PathLike) -> bool:
        """Whether writing ``file`` would change what is read."""


def refuse_inputs(outputs: Iterable[PathLike], inputs: Iterable[PathLike], readers: Iterable[object] = ()) -> None:
    """Makes sure that no output is an input, by whatever name.

    Args:
        outputs: files to be written, and folders to be replaced whole.
        inputs: files that are read.
        readers: data sets; those that are :class:`ReadsFiles` are asked.

    Raises:
        InputError: an output is an input (links followed), or a folder that holds one, or two outputs are one file;
            names both.
    """
    read = {_identity(path): path for path in inputs}
    read.pop(None, None)
    askable = [reader for reader in readers if isinstance(reader, ReadsFiles)]
    written: dict[Any, PathLike] = {}
    for output in outputs:
        identity = _identity(output)
        taken = read.get(identity)
        if taken is None and os.path.isdir(output):
            taken = next((path for path in read.values() if is_below(path, [output])), None)
        if taken is not None:
            raise InputError(
                f"{os.fspath(output)} would be written over {os.fspath(taken)}, which is read: choose another place"
            )
        if identity is not None and written.setdefault(identity, output) is not output:
            raise InputError(
                f"{os.fspath(output)} and {os.fspath(written[identity])} are one file: choose another place for one of them"
            )
        if any(reader.reads(output) for reader in askable):
            raise InputError(f"{os.fspath(output)} is read as data, or lies in a folder that is: choose another place")


def _identity(path: PathLike) -> tuple[int, int] | str | None:
    """What all names of one file share; None for a terminal or pipe, which is read and written without harm."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) else None


def sync(path: PathLike) -> None:
    """fsync of a file or a folder: after it, a power cut cannot lose the content (or the names in the folder)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes ``path``'s place, synced, when the block ends without error.

    An error in the block leaves what was at ``path`` untouched and nothing beside it. The file gets the mode that the
    umask gives (or the mode of the file it replaces); a link is written through. What is not a file (``/dev/stdout``, a
    FIFO) is given as it is.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    with named(path):
        final = _final_place(path)
        if final is None:
            yield Path(path)
            return
        # The ending stays: libraries choose the format by it. 255 bytes are what a name may have.
        ending = final.suffix if 0 < len(final.suffix) <= 20 else ".tmp"
        handle, name = tempfile.mkstemp(prefix=f".{Path(path).name[:40]}.", suffix=ending, dir=final.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _put_in_place(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def growing_file(path: PathLike, task: str = "", unfinished: Callable[[], bool] = lambda: False) -> Iterator[TextIO]:
    """A text file for lines that come one by one over hours; it takes ``path``'s place when the block ends.

    Until then, and after an error or a kill, ``path`` is as it was, and the lines so far are beside it in
    ``<path>.partial`` (``.partial2``, … where that is there already: nothing is overwritten). UTF-8; lone surrogates, as
    in file names that are not UTF-8, become ``\\udcXX``, which JSON reads back as they were.

    Args:
        path: the file.
        task: all that the lines depend on. Where it is given, the same task that was cut off before goes on: its lines are in
            ``<path>.<digest of the task>.partial``, stand in the file that is given, to be read first, and stay.
        unfinished: asked when the block ends. Where something is left to do, ``path`` gets the lines, and the task goes on next
            time as one that was cut off.

    Raises:
        InputError: another process is at the same task.
        OSError: it cannot be written; names ``path``. What is raised in the block passes, with a note of where the
            lines are.
    """
    with named(path):
        final = _final_place(path)
        if final is None:
            with open(path, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as device:
                yield device
            return
        file = _old_partial(final, task) if task else _new_partial(final)
        try:
            with file:
                yield file
            if unfinished():
                with whole_file(final) as copy:
                    shutil.copyfile(file.name, copy)
            else:
                _put_in_place(Path(file.name), final)
        except BaseException as error:
            if os.path.getsize(file.name):
                goes_on = ", and the same command goes on from there" if task else ""
                error.add_note(f"what was written so far is in {file.name}{goes_on}")
            else:
                os.unlink(file.name)
            raise


def _new_partial(final: Path) -> TextIO:
    for number in itertools.count(1):
        place = _beside(final, f".partial{number if number > 1 else ''}")
        try:
            return open(place, "x", encoding="utf-8", errors="backslashreplace", buffering=1)
        except FileExistsError:
            continue
    raise AssertionError("itertools.count does not end")


def _old_partial(final: Path, task: str) -> TextIO:
    """The partial file of a task, made where it is not there: at its beginning for reading, at its end for writing."""
    place = _beside(final, f".{digest(task.encode())[:8]}.partial")

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)  # nobody's link is followed: the name can be foretold

    file = open(place, "a+", encoding="utf-8", errors="backslashreplace", buffering=1, opener=opener)  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(
            f"{place} is being written by another process, of the same command: wait for it, or stop it"
        ) from None
    file.truncate(place.read_bytes().rfind(b"\n") + 1)  # a kill may have cut the last line
    file.seek(0)
    return file


def _beside(final: Path, ending: str) -> Path:
    return final.with_name(os.fsdecode(os.fsencode(final.name)[:230]) + ending)  # a name has at most 255 bytes


@contextmanager
def named(path: PathLike) -> Iterator[None]:
    """Gives the error of a full or broken disk, which names no file, the name of ``path``; also that of a temporary one."""
    try:
        yield
    except OSError as error:
        temporary = os.path.basename(str(error.filename)).startswith(f".{Path(path).name[:40]}.")
        if temporary or (error.filename is None and error.errno in (*NO_SPACE, errno.EIO)):
            error.filename = os.fspath(path)
        raise


def _final_place(path: PathLike) -> Path | None:
    """Where a file written to ``path`` ends up, its folder made; None for a device, FIFO or socket.

    Raises:
        OSError: a folder is there, or a file that its owner has protected.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if os.path.exists(path):
        if not os.access(path, os.W_OK):  # a rename would not ask
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        if not os.path.isfile(path):
            return None
    final = Path(os.path.realpath(path))
    final.parent.mkdir(parents=True, exist_ok=True)
    return final


def _put_in_place(temporary: Path, final: Path) -> None:
    temporary.chmod(final.stat().st_mode & 0o777 if final.exists() else default_mode())
    sync(temporary)
    os.replace(temporary, final)


def write_text(path: PathLike, text: str) -> None:
    """Writes UTF-8 text in place of ``path``, whole or not at all. Lone surrogates are written as ``?``."""
    with whole_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def write_json(path: PathLike, content: object, indent: int | None = 1) -> None:
    """Writes JSON in place of ``path``, whole or not at all. Lone surrogates are escaped, and read back as they were.

    Raises:
        ValueError: ``content`` holds NaN or infinity, which JSON does not know.
    """
    text = json.dumps(content, ensure_ascii=False, indent=indent, allow_nan=False) + "\n"
    with whole_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json_lines(path: PathLike, records: Iterable[Any]) -> None:
    """Writes JSON, one record a line, in place of ``path``, whole or not at all. Lone surrogates as in :func:`write_json`."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def link_or_copy(source: PathLike, target: PathLike) -> None:
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


@contextmanager
def alone_in(folder: Path, told: Path | None = None) -> Iterator[None]:
    """Keeps other processes out of such a block for the same folder, which is made where it is not there.

    Args:
        folder: to be alone in.
        told: what to call it in errors; its path by default.

    Raises:
        InputError: another process is in one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{told or folder} is being written by another process: wait for it, or stop it"
                ) from None
        yield
    finally:
        os.close(handle)


def empty(folder: Path) -> None:
    """Removes all that a folder holds."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def default_mode(folder: bool = False) -> int:
    """The permissions a new file (or folder) gets here: 0666 (0777) less the umask."""
    umask = os.umask(0o077)  # it can only be read by setting it; what another thread makes meanwhile is private
    os.umask(umask)
    return (0o777 if folder else 0o666) & ~umask


def digest(content: str | os.PathLike[str] | bytes) -> str:
    """XXH3 of a file's bytes, or of ``bytes``: 32 hexadecimal digits, as ``xxhsum -H2`` prints them.

    It notices damage and edits, not forgery: what is to be trusted needs more.

    Raises:
        OSError: the file cannot be read.
    """
    state = xxhash.xxh3_128(content if isinstance(content, bytes) else b"")
    if not isinstance(content, bytes):
        # Read, not mapped: a bad block is then an error, not the end of the process.
        with open(content, "rb", buffering=0) as file:
            block = memoryview(bytearray(_BLOCK))
            while count := file.readinto(block):
                state.update(block[:count])
    return state.hexdigest()


def unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """The plain files of an archive, below ``folder``; links, devices and names that lead out of it are left where they are."""
    for member in archive:
        target, content = folder / member.name, archive.extractfile(member) if member.isfile() else None
        if content is not None and is_below(target, [folder]):
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
