"""Reads PyTorch files (``.pth``) that may be a stranger's: tensors and plain values, nothing that runs, nothing that swells.

``torch.load(weights_only=True)`` runs no code of the file, but what it admits can still ask for memory without end
(``bytearray(10**12)``, compressed records, a tensor of 10^12 elements over one number) or for time (hashing a tuple of
tuples of tuples). The pickle is therefore walked first, without building anything.
"""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from rec.errors import UntrustedError
from rec.trust import regular_file

# Of the pickle in the file: bytes, and values that any one value may lead to (a state dict's tensor: about 20).
MAX_PICKLE_BYTES, MAX_VALUES = 8 << 20, 1_000_000
MAX_ENCODED = 4_000
PROTOCOLS = range(4)  # of pickles: torch's reader, which runs nothing, knows no later one
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_SCALARS = ("numpy.core.multiarray scalar", "numpy._core.multiarray scalar", "numpy dtype", "_codecs encode")
_KINDS = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]  # of NumPy scalars
_ALLOWED = frozenset(
    ["collections OrderedDict", "collections Counter", "builtins set", "__builtin__ set", "torch Size", "torch device"]
    + ["torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch._utils _rebuild_parameter"]
    + [f"torch {name}" for name in _DTYPES]
    + [f"torch {name}Storage" for name in _STORAGES]
    + [*_SCALARS, "torch.storage UntypedStorage", *(f"numpy.dtypes {kind.__name__}" for kind in _KINDS)]
)


def load_pth(path: Path) -> Any:
    """What a ``.pth`` holds: containers of tensors, numbers and texts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds objects.
        UntrustedError: no regular file, or one that asks for more than it holds.
    """
    regular_file(path, "weights")
    try:
        check_pickles(path)
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds Python objects, which are not loaded because they can run code. Save its state_dict alone"
            ' (tensors by name) where the program that wrote it is installed; for a YOLOv5 file: python -c "import torch; found ='
            f" torch.load('{path}', weights_only=False); torch.save(found['model'].float().state_dict(), 'state.pth')\"."
            f" torch says: {(str(error).splitlines() or [''])[0][:200]}"
        ) from None
    except UntrustedError:
        raise
    except Exception as error:  # damaged files raise a dozen kinds, from zipfile, pickletools and torch
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{path} is not a complete PyTorch file: {reason}") from None
    _check_tensors(content, path)
    return content


def check_pickles(path: Path, more: Collection[str] = ()) -> None:
    """Walks the pickles in a file of torch.save.

    Args:
        path: the file.
        more: what it may name besides the parts of a state dict, as ``"module name"``.

    Raises:
        pickle.UnpicklingError: it names something else.
        UntrustedError: it asks for more than it holds.
        Exception: of a dozen kinds, where it is damaged.
    """
    for stream in _pickles(path):
        _walk(stream, path, _ALLOWED | set(more))


def _numpy_scalars() -> list[Any]:
    """Learning rates and epochs are often saved as NumPy scalars; rebuilding one runs no code of the file."""
    scalar: Any = np.float64(0).__reduce__()[0]
    return [np.dtype, *_KINDS, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    """The pickles in the file, each at its start: of a zip archive ``data.pkl``, of the format before 2020 the first five
    (magic number, version, system, content, keys of the storages), behind which raw numbers follow."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(5):
                yield file
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names) or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise UntrustedError(f"{path} was not written by torch.save: entries are compressed, or there twice")
        found = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(found) != 1 or found[0].file_size > MAX_PICKLE_BYTES:
            raise UntrustedError(f"{path} needs one data.pkl of at most {MAX_PICKLE_BYTES:,} bytes")
        yield io.BytesIO(archive.read(found[0]))


def _walk(stream: IO[bytes], path: Path, allowed: Collection[str]) -> None:
    """Refuses a pickle that names what a state dict does not need, or that grows; leaves ``stream`` behind it.

    Kept is, for each value on the pickle machine's stack, how many values it leads to, shared ones counted each time: what
    hashing or printing it would visit.
    """
    start, sizes, marks, memo = stream.tell(), list[int](), list[int](), dict[Any, int]()
    encodes, longest = False, 0
    for code, argument, _ in pickletools.genops(stream):
        if code.name == "PROTO" and argument not in PROTOCOLS:
            raise UntrustedError(
                f"{path} is a pickle of protocol {argument}; read are those of torch.save as it is by default (protocol 2): save "
                "its tensors again, torch.save(state, …) without pickle_protocol, or as safetensors"
            )
        if code.name == "GLOBAL" and argument not in allowed:
            raise pickle.UnpicklingError(f"{argument} is not needed for tensors")
        encodes |= argument == "_codecs encode"
        longest = max(longest, len(argument) if isinstance(argument, str | bytes) else 0)
        if code.name == "MARK":
            marks.append(len(sizes))
            continue
        taken = 1
        if pickletools.markobject in code.stack_before:
            before = marks.pop()
            taken += sum(sizes[before:])
            del sizes[before:]
        elif code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = sizes[-1]
            continue
        for kind in code.stack_before:
            if kind not in (pickletools.markobject, pickletools.stackslice):
                taken += sizes.pop()
        if "GET" in code.name:
            taken = memo[argument]
        if taken > MAX_VALUES or stream.tell() - start > MAX_PICKLE_BYTES:
            raise UntrustedError(f"{path} holds a value of more than {MAX_VALUES:,} parts; no state dict needs one")
        sizes += [taken] * len(code.stack_after)
    if encodes and longest > MAX_ENCODED:
        raise UntrustedError(f"{path} encodes a text of {longest:,} letters; no state dict needs that")


def _check_tensors(content: object, path: Path) -> None:
    """Refuses tensors with more elements than numbers behind them, which a copy would make real."""
    if isinstance(content, Tensor):
        if content.numel() > content.untyped_storage().nbytes() // max(1, content.element_size()):
            raise UntrustedError(f"{path} has a tensor of shape {tuple(content.shape)} over fewer numbers than that")
    elif isinstance(content, dict | list | tuple):
        for value in content.values() if isinstance(content, dict) else content:
            _check_tensors(value, path)
