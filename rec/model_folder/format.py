"""The model folder: everything needed to *use* a model, and nothing that runs code.

::

    best/
      model.safetensors   weights, names of the plain torch module
      config.yaml         model: LazyCall tree; preprocess: input_shape, mean, std, max_token_length; about: origin;
                          answer: threshold, suppress_iou, min_pixels, of a model that answers with none, one or several
      vocab.json          tokenizer and words by id
      README.md           model card, generated
      digests.json        SHA-256 of each of these files but the card; folders of version 0.1 have none

and, where it has a published text encoder (format 2; without them it is format 1)::

      encoder.json        the encoder's config: a model_type and keys of a fixed list
      tokenizer.json      its tokenizer; vocab.json then says file:tokenizer.json

Here: its files' names, their digests, and what its ``config.yaml`` may say.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from operator import length_hint
from pathlib import Path
from typing import Any, TypeGuard

from rec.config import ConfigError, safe_load_yaml, to_native
from rec.contracts import Answer
from rec.data.adapter import as_data_set
from rec.errors import RecError, UntrustedError
from rec.model_folder.allowed import without_pretrained
from rec.model_folder.text_encoder import read_json
from rec.trust import MAX_PIXELS, MAX_SIDE, MAX_TOKEN_LENGTH, regular_file

WEIGHTS, CONFIG, VOCABULARY, CARD = "model.safetensors", "config.yaml", "vocab.json", "README.md"
ENCODER, TOKENIZER, DIGESTS = "encoder.json", "tokenizer.json", "digests.json"
DIGESTED = (WEIGHTS, CONFIG, VOCABULARY, ENCODER, TOKENIZER)  # not the card: people write on it
FILES = (*DIGESTED, CARD, DIGESTS)
FORMAT = 2  # the newest that is read


class ModelFolderError(RecError):
    """A model folder that cannot be written, read or trusted; the message names the file and says what to do."""


def files_of(folder: Path) -> list[Path]:
    """What nothing may be written over: the files of a model folder, or everything in a checkpoint."""
    if (folder / "trainer_state.json").exists():
        return list(folder.iterdir())
    return [folder / name for name in FILES if (folder / name).exists()]


def checked_file(folder: Path, name: str) -> Path:
    """The path of a regular file that lies in ``folder``, or in the blob store of its own hub cache.

    A hub cache keeps ``<repository>/snapshots/<revision>/<file>`` as a link into ``<repository>/blobs``.
    """
    path = folder / name
    if not path.exists():
        raise ModelFolderError(f"{folder} has no {name}; a model folder holds {WEIGHTS}, {CONFIG} and {VOCABULARY}")
    real, root = path.resolve(), folder.resolve()
    homes = [root]
    if root.parent.name == "snapshots":
        homes.append(root.parent.parent / "blobs")
    if not any(real.is_relative_to(home) for home in homes):
        raise ModelFolderError(f"{path} is a link to {real}, outside the model folder; copy the file itself there")
    try:
        return regular_file(real, name)
    except (OSError, UntrustedError) as error:
        raise ModelFolderError(str(error)) from None


def digests(folder: Path, names: Iterable[str] = DIGESTED) -> dict[str, str]:
    """SHA-256 of those files of a model folder that are there: hexadecimal, by name."""
    found = {}
    for name in names:
        if (folder / name).exists():
            with open(checked_file(folder, name), "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def stored_digests(folder: Path) -> dict[str, str]:
    """What ``digests.json`` says of the files of a model folder; nothing where it is not there, as in folders of version 0.1.

    Raises:
        ModelFolderError: it cannot be read, or says something else.
    """
    if not (folder / DIGESTS).exists():
        return {}
    try:
        content = read_json(checked_file(folder, DIGESTS), "digests of a model folder")
    except (UntrustedError, OSError) as error:
        raise ModelFolderError(f"{error}. Copy or download the folder anew, or delete that file") from error
    if not isinstance(content, dict) or not all(re.fullmatch("[0-9a-f]{64}", str(value)) for value in content.values()):
        raise ModelFolderError(
            f"{folder / DIGESTS} is {_short(content)}, expected a SHA-256 for each file; copy or download the folder anew, or "
            "delete that file"
        )
    return {name: value for name, value in content.items() if name in DIGESTED}


def check_digests(folder: Path) -> dict[str, str]:
    """Compares a model folder's files with its ``digests.json``, where it has one; returns what that says.

    Raises:
        ModelFolderError: one is damaged, was edited, or comes from another folder.
    """
    stored = stored_digests(folder)
    found = digests(folder, stored)
    wrong = next((name for name in stored if found.get(name) != stored[name]), None)
    if wrong is None:
        return stored
    if stored_digests(folder) != stored:  # a training replaced the folder meanwhile
        return check_digests(folder)
    raise ModelFolderError(
        f"{folder / wrong} is not the file that {DIGESTS} names: its SHA-256 is {found.get(wrong, 'none, it is not there')}, "
        f"expected {stored[wrong]}. It was damaged or edited, or comes from another model: copy or download the folder anew; "
        f"after an edit on purpose, delete {folder / DIGESTS}"
    )


def from_run(cfg: Any, dataset: object, update: int | None = None, threshold: float | None = None) -> dict[str, Any]:
    """The config of a model folder, from a run's config and its training data set.

    Args:
        cfg: with ``model``, ``dataset`` and ``train`` as ``scripts/train.py`` reads them.
        dataset: its training split; ``sources`` and ``max_token_length`` are taken where it has them.
        update: optimizer updates done so far.
        threshold: chosen on a validation split, of a model trained on phrases of none, one or several objects.

    Returns:
        Native containers; interpolations resolved, ``pretrained`` off, no path of this machine.
    """
    import rec

    run = to_native(cfg)
    data = run["dataset"]
    known = as_data_set(dataset)
    length = data.get("max_token_length") if known.max_token_length is None else known.max_token_length
    sources = list(known.sources)
    name = data.get("dataset") or sources or [str(data.get("_target_", "unknown")).rpartition(".")[2]]
    about = {
        "dataset": name if isinstance(name, str) else "+".join(name),
        "split": data.get("split", "train"),
        "sources": sources,
        "samples": length_hint(dataset),  # 0: a stream that does not know
        "updates": update,
        "rec_version": rec.__version__,
    }
    if start := run["train"].get("load_weight") or run["train"].get("vl_pretrain_weight"):
        # Its terms hold for what is made of it, and are not known here.
        about |= {"started_from": Path(str(start).removesuffix("/best")).name, "licence": "other"}
    if parts := frozen_and_random(run):
        about["frozen_and_random"] = parts
    preprocess = {
        "input_shape": list(data.get("input_shape", [416, 416])),
        "mean": list(run["train"]["data"]["mean"]),
        "std": list(run["train"]["data"]["std"]),
        "max_token_length": length,
    }
    config = {"model": without_pretrained(run["model"]), "preprocess": preprocess, "about": about}
    if known.targets == "any":
        config["answer"] = (Answer() if threshold is None else Answer(threshold)).to_folder()
    return config


def frozen_and_random(run: Mapping[str, Any]) -> list[str]:
    """The parts of a run's model that are never trained and start from random numbers, one line each with their keys.

    Args:
        run: the config, native containers.
    """
    model, train = run["model"], run["train"]
    if train.get("load_weight") or train.get("vl_pretrain_weight"):
        return []  # what of it was found there is told where it is loaded
    parts = []
    found = (model.get(name) for name in ("visual_backbone", "language_encoder"))
    backbone, encoder = (part if isinstance(part, Mapping) else {} for part in found)
    if backbone.get("freeze_backbone") and not backbone.get("pretrained"):
        parts.append("model.visual_backbone (freeze_backbone=true, pretrained=false)")
    ours = str(encoder.get("_target_")).startswith("rec.models.language_encoders.")
    if ours and encoder.get("freeze_embedding", True) and not run["dataset"].get("use_glove"):
        parts.append("word vectors of model.language_encoder (freeze_embedding=true, dataset.use_glove=false)")
    return parts


def describe_origin(config: Mapping[str, Any]) -> str:
    """One line on what a model was trained on, of bounded length, and safe to print and to show on a page: letters, digits
    and a few signs, of which neither Markdown, HTML nor a terminal makes anything."""
    about = config.get("about") or {}
    sources = [str(source) for source in about.get("sources") or []] or [str(about.get("dataset", "unknown data"))]
    text = f"trained on {', '.join(sources)}"
    if about.get("samples"):
        text += f" ({about.get('split', 'train')}, {about['samples']} samples)"
    if about.get("started_from"):
        text += f", started from {about['started_from']}"
    if knows_shapes_only(config):
        text += ": drawn shapes only, it knows nothing of photographs"
    return "".join(c if c.isalnum() or c in " +-_.,:;/()@" else "?" for c in text)[:300]


def knows_shapes_only(config: Mapping[str, Any]) -> bool:
    """Whether the model saw nothing but the embedded shape scenes."""
    sources = (config.get("about") or {}).get("sources") or []
    return bool(sources) and all(str(source).startswith("scenes") for source in sources)


def read_folder_config(path: Path) -> dict[str, Any]:
    """The ``config.yaml`` of a model folder: ``model`` with a target, ``preprocess`` and ``about`` within limits.

    Raises:
        ModelFolderError: it is not; names the key.
    """
    try:
        config = safe_load_yaml(path)
    except (ConfigError, OSError, RecursionError) as error:
        raise ModelFolderError(f"{path} cannot be read as a config: {error}") from error
    if not isinstance(config.get("model"), dict) or "_target_" not in config["model"]:
        raise ModelFolderError(f"{path} is not a model config: it needs `model` with a `_target_`, and `preprocess`")
    if config.get("format", 1) not in range(1, FORMAT + 1):
        raise ModelFolderError(
            f"{path} is of format {_short(config['format'])}, this version of rec reads up to {FORMAT}: update rec"
        )
    for trouble in (
        preprocess_trouble(config.get("preprocess")),
        _answer_trouble(config.get("answer")),
        _about_trouble(config.get("about", {})),
    ):
        if trouble:
            raise ModelFolderError(f"{path}: {trouble}")
    config["preprocess"].setdefault("max_token_length", None)
    return config


def preprocess_trouble(preprocess: object) -> str | None:
    """What is wrong with ``preprocess``. Bounds, because these sizes decide how much memory the first prediction takes."""
    if not isinstance(preprocess, dict):
        return f"preprocess is {_short(preprocess)}, expected a mapping"
    shape, mean, std = (preprocess.get(key) for key in ("input_shape", "mean", "std"))
    length = preprocess.get("max_token_length")
    if not (_numbers(shape, 2) and shape[0] == shape[1] and type(shape[0]) is int and 1 <= shape[0] <= MAX_SIDE):
        return f"preprocess.input_shape is {_short(shape)}, expected two equal sides up to {MAX_SIDE}"
    if not (_numbers(mean, 3) and _numbers(std, 3) and all(value > 0 for value in std)):
        return f"preprocess.mean and std are {_short(mean)} and {_short(std)}, expected 3 numbers each, std > 0"
    if length is not None and (type(length) is not int or not 1 <= length <= MAX_TOKEN_LENGTH):
        return f"preprocess.max_token_length is {_short(length)}, expected 1 to {MAX_TOKEN_LENGTH}"
    return None


def _answer_trouble(answer: object) -> str | None:
    """What is wrong with ``answer``, see :class:`rec.contracts.Answer`; it may be absent."""
    if answer is None:
        return None
    known = Answer().to_folder()
    if not isinstance(answer, dict) or not set(answer) <= set(known) or "threshold" not in answer:
        return f"answer is {_short(answer)}, expected a threshold and, as wanted, {', '.join(list(known)[1:])}"
    for key in ("threshold", "suppress_iou"):
        value = answer.get(key, known[key])
        if not _numbers([value], 1) or not 0 <= value <= 1:
            return f"answer.{key} is {_short(value)}, expected a number from 0 to 1"
    pixels = answer.get("min_pixels", 0)
    if type(pixels) is not int or not 0 <= pixels <= MAX_PIXELS:
        return f"answer.min_pixels is {_short(pixels)}, expected a number of pixels, 0 to {MAX_PIXELS:,}"
    return None


def _about_trouble(about: object) -> str | None:
    """What is wrong with ``about``, which cards and first lines quote: it is a mapping of texts and numbers."""
    if not isinstance(about, dict):
        return f"about is {_short(about)}, expected a mapping"
    for key, value in about.items():
        values = value if isinstance(value, list) else [value]
        if not isinstance(key, str) or not all(isinstance(one, str | int | float | None) for one in values):
            return f"about.{_short(key)} is {_short(value)}, expected a text, a number or a list of them"
    if not isinstance(about.get("sources") or [], list):
        return f"about.sources is {_short(about['sources'])}, expected a list of names"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _numbers(values: object, count: int) -> TypeGuard[list[int | float]]:
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    )
