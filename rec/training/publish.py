"""What a run publishes: ``best/`` in its folder and, where ``train.hub`` names one, a repository on a hub."""

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from rec import model_folder
from rec.config import ConfigError, try_get_key
from rec.contracts import ConfigNode, DataSet, Words
from rec.errors import TrainingError
from rec.model_folder.hub import Pusher
from rec.model_folder.writer import refuse_place
from rec.models.lora import AdaptedLinear, merge
from rec.models.pretrained_text import borrowed_names
from rec.training.checkpoint_format import AVERAGED, WEIGHTS, TrainerState, folder_of


def is_best(options: ConfigNode, state: TrainerState, split: str, metrics: dict[str, float]) -> bool:
    """Whether an evaluation is the best so far by ``options.eval_metric`` and ``eval_mode``; ``state`` then keeps it.

    Of two that are equal, as often on a small split, that of the larger ``mIoU`` is better.

    Raises:
        TrainingError: there is no such metric; names those there are.
    """
    if options.eval_metric not in metrics:
        raise TrainingError(f"train.evaluation.eval_metric={options.eval_metric!r}: measured were {', '.join(metrics)}")
    value, sign = metrics[options.eval_metric], {"max": 1, "min": -1}[options.eval_mode]
    if state.best_metric is not None:
        gain = sign * (value - state.best_metric)
        if gain == 0:
            gain = metrics.get("mIoU", math.nan) - state.best_metrics.get(split, {}).get("mIoU", math.nan)
        if not gain > 0:
            return False
    elif math.isnan(value):
        return False
    state.best_metric, state.best_metrics = value, {split: metrics}
    return True


class Publisher:
    """Model folders from saved weights. Made on every process, at work on the main one only.

    Args:
        cfg: with ``train.hub.{repo_id,push,private}``: ``push`` is ``best`` (each time ``best/`` improves), ``every_save``
            (the weights of each checkpoint) or ``end`` (once, ``best/``, or the last checkpoint where nothing was evaluated).
        model: the bare model; what checkpoints leave out of a published text encoder is taken from it.
        vocabulary: of the model folders, or None.
        dataset: the training split.
        is_main: whether this is the main process.
        report: receives one line for each push or failure; the hub never stops training.

    Raises:
        ConfigError: ``train.hub.repo_id`` is not a name of a repository.
        ModelFolderError: ``best`` in the output folder is something else.
    """

    def __init__(
        self,
        cfg: Any,
        model: nn.Module,
        vocabulary: Words | None,
        dataset: DataSet,
        is_main: bool,
        report: Callable[[str], None],
    ) -> None:
        self.cfg, self.vocabulary, self.dataset = cfg, vocabulary, dataset
        own = model.state_dict()
        self.borrowed = {name: own[name].detach() for name in borrowed_names(model)}
        self.is_adapted = any(isinstance(module, AdaptedLinear) for module in model.modules())
        self.folder = Path(cfg.train.output_dir)
        self.when, self.pushed, self.pusher = cfg.train.hub.push, False, None
        self.threshold: float | None = None  # of the best evaluation, where phrases name none, one or several objects
        evaluates = try_get_key(cfg, "train.evaluation.enabled", default=True)
        if is_main and evaluates:  # now, not after the first evaluation
            refuse_place(self.folder / "best")
        repo_id = cfg.train.hub.repo_id
        if not repo_id:
            return
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ConfigError(f"train.hub.repo_id is {repo_id!r}, expected user/name: {error}") from error
        if is_main:
            self.pusher = Pusher(repo_id, private=cfg.train.hub.private, report=report)

    def after_save(self, state: TrainerState, improved: bool) -> Callable[[Path], None]:
        """The ``publish`` of :meth:`rec.training.checkpoint.CheckpointWriter.save` for the state as it is now.

        Args:
            state: :class:`rec.training.resume.TrainerState`; its ``best_metrics`` are these weights' where they improved.
            improved: whether the weights are the best so far and replace ``best/``.
        """
        update, metrics = state.update, state.best_metrics if improved else {}
        for measured in state.best_metrics.values():
            self.threshold = measured.get("threshold", self.threshold)

        def publish(weights: Path) -> None:
            if improved:
                self._write(self.folder / "best", weights, update, metrics)
            if self.when == "every_save" or (self.when == "best" and improved):
                self._push(weights, update, metrics, self.folder / "best" if improved else None)

        return publish

    def close(self, state: TrainerState, finished: bool) -> None:
        """Push what is still to be pushed, and try again what did not get through.

        Args:
            state: at the end.
            finished: a run that was stopped leaves the last push to the one that continues it.
        """
        if self.pusher is None:
            return
        if finished and not self.pushed:
            best = self.folder / "best"
            # Without an evaluation of this run, a best/ is that of an earlier one whose checkpoints were removed.
            if self.when != "every_save" and state.best_metric is not None and best.is_dir():
                self._push(best, state.update, {}, best)
            else:
                last = folder_of(self.folder, state.update)
                weights = last / AVERAGED
                self._push(weights if weights.exists() else last / WEIGHTS, state.update, {}, None)
        self.pusher.close()

    def _write(self, folder: Path, weights: Path, update: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        config = model_folder.from_run(self.cfg, self.dataset, update=update, threshold=self.threshold)
        model_folder.write(folder, self._whole(weights), config, self.vocabulary, metrics)

    def _whole(self, weights: Path) -> Path | dict[str, Any]:
        """Saved weights with what a checkpoint leaves out, adapters merged; a file that is whole as it is stays a file."""
        if not self.borrowed and not self.is_adapted:
            return weights
        return merge({name: value.cpu() for name, value in self.borrowed.items()} | load_file(weights))

    def _push(
        self, weights: Path, update: int, metrics: Mapping[str, Mapping[str, float]], folder: Path | None
    ) -> None:
        """Hands ``folder`` over, or one made of ``weights`` for the purpose: the pusher sets it aside at once."""
        if self.pusher is None:
            return
        self.pushed = True
        if folder is not None:
            self.pusher.push(folder, f"update {update}")
            return
        temporary = self.folder / ".hub"
        try:
            self._write(temporary, weights, update, metrics)
        except model_folder.ModelFolderError as error:  # the checkpoint being saved must not suffer from it
            self.pusher.report(f"hub: update {update} is not pushed: {error}")
            return
        self.pusher.push(temporary, f"update {update}")
        shutil.rmtree(temporary, ignore_errors=True)
