"""Finding the model in what training leaves behind: a run folder, one of its checkpoints, or a model folder."""

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rec.config import to_native
from rec.contracts import DataSet
from rec.errors import InputError, UntrustedError
from rec.files import user_path
from rec.model_folder.format import (
    CONFIG,
    WEIGHTS,
    ModelFolderError,
    checked_file,
    from_run,
    preprocess_trouble,
)
from rec.model_folder.hub import pull
from rec.model_folder.reader import load_model, read
from rec.model_folder.text_encoder import whole
from rec.trust import is_below, read_text, weights_of_others

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
EMA = "ema.safetensors"
HUB_USER = "REC_HUB_USER"  # environment variable: whose models on the hub go without their user's name


@dataclass(frozen=True)
class Trained:
    """A trained model on disk.

    Attributes:
        folder: Model folder, or checkpoint.
        is_checkpoint: Which of the two.
        run_config: ``config.yaml`` of the run it is from, where that is beside it.
    """

    folder: Path
    is_checkpoint: bool
    run_config: Path | None

    def load(self, cfg: Any, dataset: DataSet, trust_config: bool = False) -> tuple[Any, dict[str, Any]]:
        """The model in evaluation mode, and the config of its folder, or of the one that a checkpoint would be: both of one moment,
        as a training may replace the folder.

        Args:
            cfg: Config of the run, for a checkpoint: its ``model``, with the vocabulary's size set.
            dataset: Any split of its data, for a checkpoint.
            trust_config: Build any target.

        Raises:
            ModelFolderError: as :func:`rec.model_folder.reader.read` and :func:`rec.model_folder.reader.load_model`.
        """
        if not self.is_checkpoint:
            model, config, _ = read(self.folder, trust_config)
            return model, config
        about = from_run(cfg, dataset)
        about["about"]["samples"] = 0  # unknown: those of ``dataset`` are not what it was trained on
        about.pop("answer", None)  # its threshold is chosen with each best/
        if trouble := preprocess_trouble(about["preprocess"]):
            raise ModelFolderError(f"{self.run_config or 'the config'}: {trouble}")
        weights = checked_file(self.folder, EMA if (self.folder / EMA).exists() else WEIGHTS)
        try:
            with whole(to_native(cfg.model), weights) as (node, complete):
                model = load_model(node, complete, about["preprocess"], trust_config)
        except (InputError, UntrustedError) as error:
            raise ModelFolderError(str(error)) from error
        return model, about


def find_trained(path: str | Path) -> Trained:
    """The model at ``path``: ``best/`` of a run folder (its newest checkpoint if there is none), a checkpoint, a model
    folder.

    Raises:
        ModelFolderError: none of these is there.
    """
    folder = packaged(user_path(path))
    if not folder.exists():
        folder = shipped(str(path)) or folder
    if hint := weights_of_others(folder):
        raise ModelFolderError(hint)
    if (folder / "best" / WEIGHTS).is_file():
        if not is_below(folder / "best", [folder]):
            raise ModelFolderError(f"{folder / 'best'} is a link out of {folder}; name the folder it leads to itself")
        return Trained(folder / "best", False, _existing(folder / CONFIG))
    last = folder / "checkpoints" / "last"
    if last.is_file():
        name = read_text(last, "name of the newest checkpoint", 1000).strip()
        if not re.fullmatch(r"step_\d+", name):
            raise ModelFolderError(
                f"{last} holds {name[:80]!r}, expected the name of a checkpoint such as step_00001200"
            )
        return find_trained(last.parent / name)
    if (folder / "trainer_state.json").is_file():
        return Trained(folder, True, _existing(folder.parent.parent / CONFIG))
    if (folder / WEIGHTS).is_file():
        return Trained(folder, False, _existing(folder.parent / CONFIG))
    raise ModelFolderError(
        f"{folder} holds no model: expected a run folder (with best/ or checkpoints/), a checkpoint (step_…) or a "
        f"model folder ({WEIGHTS}, {CONFIG}, vocab.json)"
    )


def packaged(folder: Path) -> Path:
    """The package in the folder of a distribution, ``models/photo-small``, where that is what ``folder`` is; else itself."""
    package = folder / _package(folder.name)
    return package if not (folder / WEIGHTS).is_file() and (package / WEIGHTS).is_file() else folder


def _package(name: str) -> str:
    return f"refexp_{name.replace('-', '_')}"


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def find_folder(source: str | Path) -> Path:
    """The folder of a model: ``source`` itself, ``best/`` of the run folder it is, or a download of the hub id it is.

    Raises:
        ModelFolderError: nothing of these, or a run without ``best/``.
    """
    if str(source).startswith(("transformers:", "openai:")):
        raise ModelFolderError(
            f"{source} is somebody else's model: it can be asked (predict, evaluate, demo, rec.from_pretrained), and is not a "
            "model folder that could be exported, pushed or trained on"
        )
    folder = packaged(user_path(source))
    if folder.is_dir():
        if not any((folder / part).exists() for part in ("best", "checkpoints", "trainer_state.json")):
            return folder
        trained = find_trained(folder)
        if trained.is_checkpoint:
            raise ModelFolderError(
                f"{trained.folder} is a checkpoint, which holds no words, and there is no best/ beside checkpoints/: an evaluation "
                "in training writes it (train.evaluation.enabled=true); `rec evaluate` takes checkpoints too"
            )
        return trained.folder
    if hint := weights_of_others(folder):
        raise ModelFolderError(hint)
    if folder.is_file() or folder.suffix == ".safetensors":
        raise ModelFolderError(
            f"{source} is {'one file' if folder.is_file() else 'not there'}; expected a model folder, which also tells how the "
            "model is built and what its words are. To start a training from the weights alone: train.load_weight"
        )
    name = str(source)
    if (found := shipped(name)) is not None:
        return found
    if _NAME.fullmatch(name) and (user := os.environ.get(HUB_USER)):
        name = f"{user}/{name}"
    if not _HUB_ID.fullmatch(name.partition("@")[0]):
        raise ModelFolderError(
            f"{source} is neither a model folder nor a hub id such as user/name. A model that comes with the project, such as "
            "photo-small, is found in a clone (models/), installed from one (pip install ./models/photo-small), or on a hub "
            f"among the models of the user that {HUB_USER} names"
        )
    return pull(name)


def shipped(name: str) -> Path | None:
    """The folder of a model that comes with the project, ``photo-small``: in a clone of it, else installed beside it.

    Such a model is a distribution of its own, whose package ``refexp_photo_small`` is the model folder; it is not imported.
    """
    if not _NAME.fullmatch(name):
        return None
    in_clone = Path(__file__).parents[2] / "models" / name
    if (package := packaged(in_clone)) != in_clone:
        return package
    found = importlib.util.find_spec(_package(name))
    folder = Path(found.origin).parent if found is not None and found.origin is not None else None
    return folder if folder is not None and (folder / WEIGHTS).is_file() else None
