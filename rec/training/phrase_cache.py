"""Features of phrases by a frozen encoder: computed once, kept in a memory-mapped file for every later epoch and run.

The file lies in the cache of the ``datasets`` library, ``rec/phrases-<digest>-<rank>.bin``; the digest is of the encoder's weights
and config and of what is made of them, so another encoder never meets it. Records of one size: 16 bytes that tell the phrase's
ids, then its features. A record cut short by a kill is written over.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import xxhash
from torch import Tensor

from rec.config import to_native
from rec.contracts import ConfigNode
from rec.data.content import cache_place
from rec.files import digest, named
from rec.models.pretrained_text import PretrainedText

AT_ONCE = 32  # phrases whose features are computed together, always: rounding must not depend on who else is asked


class PhraseCache:
    """Pooled features of phrases, for :attr:`rec.models.pretrained_text.PretrainedText.cache`.

    Args:
        path: the file; one process at a time may have it. A second one keeps its features in a file of its own, removed at the end.
        width: numbers of a phrase.

    Attributes:
        computed: phrases that were not there before.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.computed = path, 0
        self._record = np.dtype([("key", np.uint8, 16), ("features", np.float32, (width,))])
        self._file = _own_file(path)
        self._file.seek(0, os.SEEK_END)
        count = self._file.tell() // self._record.itemsize
        self._file.truncate(count * self._record.itemsize)
        self._map(count)
        self._rows = {key.tobytes(): row for row, key in enumerate(self._records["key"])}

    def __len__(self) -> int:
        return len(self._rows)

    def __str__(self) -> str:
        size = len(self) * self._record.itemsize / 1e6
        return f"{len(self):,} phrases, {size:.1f} MB in {self.path} ({self.computed:,} computed by this run)"

    def __call__(self, tokens: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Features float32 ``(B, width)`` of int64 ids ``(B, L)``, on their device.

        Args:
            tokens: the ids.
            compute: gives those of phrases that were not met before.
        """
        ids = tokens.cpu().numpy().astype(np.int32)
        keys = [xxhash.xxh3_128_digest(np.trim_zeros(row, "b").tobytes()) for row in ids]
        new = {key: row for row, key in enumerate(keys) if key not in self._rows}
        rows = list(new.values())
        for start in range(0, len(rows), AT_ONCE):
            chosen = rows[start : start + AT_ONCE]
            batch = torch.zeros(AT_ONCE, tokens.shape[1], dtype=tokens.dtype, device=tokens.device)
            batch[: len(chosen)] = tokens[chosen]
            with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
                found = compute(batch)[: len(chosen)].float().cpu().numpy()
            self._append([keys[row] for row in chosen], found)
        features = self._records["features"][[self._rows[key] for key in keys]]
        return torch.from_numpy(np.ascontiguousarray(features)).to(tokens.device)

    def _append(self, keys: list[bytes], features: np.ndarray) -> None:
        records = np.zeros(len(keys), self._record)
        records["key"] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
        records["features"] = features
        with named(self.path):
            self._file.seek(0, os.SEEK_END)
            self._file.write(records.tobytes())
            self._file.flush()
        self._rows |= {key: len(self._rows) + number for number, key in enumerate(keys)}
        self._map(len(self._rows))
        self.computed += len(keys)

    def _map(self, count: int) -> None:
        empty = np.zeros(0, self._record)
        self._records = np.memmap(self._file, self._record, "r", shape=(count,)) if count else empty


def _own_file(path: Path) -> BinaryIO:
    """``path``, locked for this process; a temporary file where another one has it, or it cannot be written."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115 - open as long as the cache is; emptied by nobody before it is locked
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            file.close()
    return tempfile.TemporaryFile()


def remember_phrases(encoder: PretrainedText, node: ConfigNode) -> None:
    """Gives a frozen encoder a cache, one for each process.

    Args:
        encoder: of the run's model.
        node: its config, with the encoder's own config and the digest of its weights.
    """
    if encoder.pool == "last" and not encoder.text.family.fixed_length:
        return  # the last place is padding, of which a record's key says nothing
    what = [node["digest"], to_native(node["config"]), len(encoder.text.blocks), encoder.pool]
    key = digest(json.dumps(what, sort_keys=True).encode())
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    path = cache_place(f"phrases-{key}-{rank}.bin")
    encoder.cache = PhraseCache(path, encoder.project.in_features)
