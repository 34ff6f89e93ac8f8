"""Model folders: everything needed to *use* a model, and nothing that runs code.

::

    best/
      model.safetensors   weights, names of the plain torch module
      config.yaml         model: LazyCall tree; preprocess: input_shape, mean, std, max_token_length; about: origin
      vocab.json          tokenizer and words by id
      README.md           model card, generated

:func:`write` makes one in a single move; :func:`read` (:mod:`rec.inference.reading`) trusts nothing in it.
"""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Mapping
from operator import length_hint
from pathlib import Path
from typing import Any

from rec.inference.allowed import harmless
from rec.inference.reading import CONFIG, VOCABULARY, WEIGHTS, ModelFolderError, read, read_config

__all__ = ["ModelFolderError", "describe_origin", "from_run", "knows_shapes_only", "read", "write"]

CARD = "README.md"


def from_run(cfg: Any, dataset: Any, update: int | None = None) -> dict[str, Any]:
    """The config of a model folder, from a run's config and its training data set.

    Args:
        cfg: with ``model``, ``dataset`` and ``train`` as ``scripts/train.py`` reads them.
        dataset: its training split; ``sources`` and ``max_token_length`` are taken where it has them.
        update: optimizer updates done so far.

    Returns:
        Native containers; interpolations resolved, ``pretrained`` off, no path of this machine.
    """
    import rec
    from rec.config import to_native

    run = to_native(cfg)
    data = run["dataset"]
    length = getattr(dataset, "max_token_length", data.get("max_token_length"))
    sources = list(getattr(dataset, "sources", []))
    name = data.get("dataset") or sources
    about = {
        "dataset": name if isinstance(name, str) else "+".join(name or [type(dataset).__name__]),
        "split": data.get("split", "train"),
        "sources": sources,
        "samples": length_hint(dataset),  # 0: a stream that does not know
        "updates": update,
        "rec_version": rec.__version__,
    }
    preprocess = {
        "input_shape": list(data.get("input_shape", [416, 416])),
        "mean": list(run["train"]["data"]["mean"]),
        "std": list(run["train"]["data"]["std"]),
        "max_token_length": length,
    }
    return {"model": harmless(run["model"]), "preprocess": preprocess, "about": about}


def write(
    folder: str | Path,
    weights: Mapping[str, Any] | str | Path,
    config: Mapping[str, Any],
    vocabulary: Any,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write a model folder beside its final place and swap it in, so that readers see the old or the new one, whole.

    One process at a time may write a folder; what a killed one left behind is removed.

    Args:
        folder: Final place; an older model folder there is replaced.
        weights: State dict, or an existing safetensors file, which is hard-linked where the file system allows.
        config: ``model``, ``preprocess`` and ``about``; see :func:`from_run`.
        vocabulary: :class:`rec.data.text.Vocabulary`, or None for a model without one.
        metrics: ``{split: metrics}`` for the model card.

    Returns:
        ``folder``.

    Raises:
        ModelFolderError: the place cannot be written or holds something else, or the config cannot be saved.
    """
    from rec.config import LazyConfig, to_native
    from rec.inference.card import model_card

    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and ((folder / WEIGHTS).exists() or not any(folder.iterdir()))):
        raise ModelFolderError(f"{folder} exists and is no model folder; choose another place, or remove it")
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left_over in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a process that was killed while writing
            shutil.rmtree(left_over, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        temporary.chmod(0o755)  # mkdtemp makes it private; a model folder is to be read by others
        _put_weights(weights, temporary / WEIGHTS)
        plain = dict(config) | {"model": harmless(to_native(config["model"]))}
        LazyConfig.save(plain, str(temporary / CONFIG))
        if vocabulary is not None:
            vocabulary.save(temporary / VOCABULARY)
        saved = read_config(temporary / CONFIG)
        card = model_card(saved, metrics or {}, describe_origin(saved), folder.name)
        (temporary / CARD).write_text(card, encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        _swap_in(temporary, folder)
        _sync(folder.parent)
    except OSError as error:
        text = f"model folder {folder} cannot be written: {error}; free space or choose another place"
        raise ModelFolderError(text) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def describe_origin(config: Mapping[str, Any]) -> str:
    """One line on what a model was trained on, safe to print: no control characters, of bounded length."""
    about = config.get("about") or {}
    sources = [str(source) for source in about.get("sources") or []] or [str(about.get("dataset", "unknown data"))]
    text = f"trained on {', '.join(sources)}"
    if about.get("samples"):
        text += f" ({about.get('split', 'train')}, {about['samples']} samples)"
    if knows_shapes_only(config):
        text += ": drawn shapes only, it knows nothing of photographs"
    return "".join(c if c.isprintable() else "?" for c in text)[:300]


def knows_shapes_only(config: Mapping[str, Any]) -> bool:
    """Whether the model saw nothing but the embedded shape scenes."""
    sources = (config.get("about") or {}).get("sources") or []
    return bool(sources) and all(str(source).startswith("scenes") for source in sources)


def _put_weights(weights: Mapping[str, Any] | str | Path, target: Path) -> None:
    if isinstance(weights, str | Path):
        try:
            os.link(weights, target)
        except OSError:
            shutil.copyfile(weights, target)
        return
    from safetensors.torch import save_file

    # A copy of its own for every tensor: safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    save_file(tensors, target, metadata={"format": "pt"})


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap_in(new: Path, final: Path) -> None:
    """Rename ``new`` to ``final``; what was there ends up at ``new``. One step on Linux, two elsewhere."""
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
