"""Finding the model in what training leaves behind: a run folder, one of its checkpoints, or a model folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rec.files import user_path
from rec.inference.model_folder import ModelFolderError, describe_origin, from_run, read
from rec.inference.reading import CONFIG, WEIGHTS, load_model


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

    def load(self, cfg: Any, dataset: Any, trust_config: bool = False) -> tuple[Any, str]:
        """The model in evaluation mode, and one line on what it was trained on.

        Args:
            cfg: Config of the run, for a checkpoint: its ``model``, with the vocabulary's size set.
            dataset: Any split of its data, for a checkpoint.
            trust_config: Build any target.
        """
        if not self.is_checkpoint:
            model, config, _ = read(self.folder, trust_config)
            return model, describe_origin(config)
        from rec.config import to_native

        ema = self.folder / "ema.safetensors"
        model = load_model(to_native(cfg.model), ema if ema.exists() else self.folder / WEIGHTS, trust_config)
        return model.eval(), describe_origin(from_run(cfg, dataset))


def locate(path: str | Path) -> Trained:
    """The model at ``path``: ``best/`` of a run folder (its newest checkpoint if there is none), a checkpoint, a model
    folder.

    Raises:
        ModelFolderError: none of these is there.
    """
    folder = user_path(path)
    if (folder / "best" / WEIGHTS).is_file():
        return Trained(folder / "best", False, _existing(folder / CONFIG))
    last = folder / "checkpoints" / "last"
    if last.is_file():
        return locate(last.parent / last.read_text(encoding="utf-8").strip())
    if (folder / "trainer_state.json").is_file():
        return Trained(folder, True, _existing(folder.parent.parent / CONFIG))
    if (folder / WEIGHTS).is_file():
        return Trained(folder, False, _existing(folder.parent / CONFIG))
    raise ModelFolderError(
        f"{folder} holds no model: expected a run folder (with best/ or checkpoints/), a checkpoint (step_…) or a "
        f"model folder ({WEIGHTS}, {CONFIG}, vocab.json)"
    )


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
