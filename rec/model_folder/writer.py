"""Writing a model folder in a single move: readers see the old or the new one, whole."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rec.config import LazyConfig, to_native
from rec.contracts import Words
from rec.files import default_mode, link_or_copy, swap, sync, user_path, whole_file, write_json, write_text
from rec.model_folder.allowed import without_pretrained
from rec.model_folder.card import model_card
from rec.model_folder.format import (
    CARD,
    CONFIG,
    DIGESTS,
    ENCODER,
    FORMAT,
    TOKENIZER,
    VOCABULARY,
    WEIGHTS,
    ModelFolderError,
    describe_origin,
    digests,
    read_folder_config,
)
from rec.model_folder.text_encoder import divided, joined


def refuse_place(folder: Path) -> None:
    """Raises a ModelFolderError where no model folder can be written to ``folder``: it holds something else, or has such a name."""
    if folder.exists() and not (folder.is_dir() and ((folder / WEIGHTS).exists() or not any(folder.iterdir()))):
        raise ModelFolderError(f"{folder} exists and is not a model folder; choose another place, or remove it")
    if re.search("[\ud800-\udfff]", str(folder.absolute())):
        raise ModelFolderError(f"{folder}: safetensors opens no file whose name is not UTF-8; choose another folder")


def write(
    folder: str | Path,
    weights: Mapping[str, Any] | str | Path,
    config: Mapping[str, Any],
    vocabulary: Words | None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write a model folder beside its final place and swap it in, so that readers see the old or the new one, whole.

    One process at a time may write a folder; what a killed one left behind is removed. Files have the mode that the umask
    gives, and an older folder's mode stays.

    Args:
        folder: Final place; an older model folder there is replaced.
        weights: State dict, or an existing safetensors file, which is hard-linked where the file system allows.
        config: ``model``, ``preprocess`` and ``about``; see :func:`rec.model_folder.from_run`.
        vocabulary: :class:`rec.contracts.Words`, or None for a model without one.
        metrics: ``{split: metrics}`` for the model card.

    Returns:
        ``folder``.

    Raises:
        ModelFolderError: the place cannot be written or holds something else, or the config cannot be saved.
    """
    folder = user_path(folder)
    refuse_place(folder)
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(folder)
        temporary = Path(tempfile.mkdtemp(prefix=_temporary_prefix(folder), suffix=".tmp", dir=folder.parent))
        if isinstance(weights, str | Path):
            link_or_copy(weights, temporary / WEIGHTS)
        else:
            write_weights(temporary / WEIGHTS, weights)
        plain, encoder = divided(dict(config) | {"model": without_pretrained(to_native(config["model"]))})
        if encoder is not None:
            write_json(temporary / ENCODER, encoder)
        if vocabulary is not None:
            vocabulary.save(temporary / VOCABULARY)
        newer = (temporary / ENCODER).exists() or (temporary / TOKENIZER).exists()
        LazyConfig.save(plain | ({"format": FORMAT} if newer else {}), str(temporary / CONFIG))
        saved = read_folder_config(temporary / CONFIG)
        if encoder is not None:
            saved = joined(saved, temporary / ENCODER)
        write_text(temporary / CARD, model_card(saved, metrics or {}, describe_origin(saved), folder.name))
        write_json(temporary / DIGESTS, digests(temporary))
        # mkdtemp makes it private; a model folder is to be read by others.
        temporary.chmod(folder.stat().st_mode & 0o777 if folder.exists() else default_mode(folder=True))
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        swap(temporary, folder)
        sync(folder.parent)
    except OSError as error:
        text = f"model folder {folder} cannot be written: {error}; free space or choose another place"
        raise ModelFolderError(text) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def write_weights(path: str | Path, tensors: Mapping[str, Any]) -> None:
    """Writes tensors as one safetensors file, whole or not at all, readable by whom the umask lets.

    safetensors itself makes a file that only its owner can read.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A copy of its own for every tensor: safetensors refuses tensors that share memory.
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(own, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # its own form of a full disk
            raise OSError(f"{path}: {error}") from error


def _temporary_prefix(folder: Path) -> str:
    return f".{folder.name[:40]}."


def _remove_left_overs(folder: Path) -> None:
    """Removes what a process that was killed while writing left beside ``folder``."""
    for path in folder.parent.iterdir():
        if path.name.startswith(_temporary_prefix(folder)) and path.name.endswith(".tmp"):
            shutil.rmtree(path, ignore_errors=True)
