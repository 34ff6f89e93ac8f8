"""Where a run starts: which checkpoint it continues, and whether that checkpoint fits.

Rule: a complete, readable checkpoint in ``train.output_dir`` wins over ``train.resume_path`` (so that a killed and restarted
job does the right thing). One that is damaged or cannot be loaded is passed over for the one before it; only when none is
left is that an error. A checkpoint is refused when the samples or the weights of the continued run would mean something
else (:func:`differences`), and every other change is reported and accepted.
"""

import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from rec.config import LazyConfig, to_native
from rec.contracts import ConfigNode
from rec.data.adapter import as_data_set
from rec.errors import CheckpointError, OtherRunError, TrainingError
from rec.model_folder.allowed import STARTED_IN
from rec.model_folder.text_encoder import WHERE
from rec.training import checkpoint
from rec.training.checkpoint_format import (
    AVERAGED,
    STATE,
    TrainerState,
    clean_temporary,
    damage,
    folders,
    newest,
    read_state,
    sizes_only,
)
from rec.training.ema import EMA
from rec.training.run_log import AFTER_DIVERGING, RunLog, flatten
from rec.trust import weights_of_others

__all__ = ["CheckpointError", "TrainerState", "TrainingError", "damage", "newest", "read_state"]

# A change of these would make the samples or the weights of the continued run mean something else.
REFUSED_CHANGES = ("model.", "dataset.", "train.seed", "train.multi_scale_training.")
# Where data lie: of no account while their content is the same.
PLACES = ("dataset.ann_path", "dataset.image_path", "dataset.mask_path", "dataset.path")
# What an evaluation says depends on these beside metric and split.
MEASURED_BY = ("train.evaluation.eval_iter", "train.evaluation.evaluator", "train.fast_dev_run")
# Among the versions: the launch profile's, which no config says.
PRECISION = "mixed precision"


def differences(saved: TrainerState, current: TrainerState) -> tuple[list[str], list[str]]:
    """What changed between a checkpoint and the run that wants to continue it.

    Returns:
        (refused, warned): lines ``name: old -> new``. Refused: the model, the data set and its content, the vocabulary, the
        optimizer's class, the seed, the total batch size, the multi-scale list. Everything else (processes, accumulation,
        rates, periods, library versions, another place of the same data) is allowed and reported.
    """
    refused, warned = [], []
    same_data, same_words = _same_data(saved, current), saved.vocabulary == current.vocabulary

    # What the states themselves say.
    if saved.batch_size != current.batch_size:
        refused.append(f"train.batch_size: {saved.batch_size} -> {current.batch_size}")
    if not same_data and saved.data_content and current.data_content:
        refused.append(f"content of the data, its rows or its images: {saved.data_content} -> {current.data_content}")
    elif not same_data and saved.data_fingerprint != current.data_fingerprint:
        refused.append(f"data fingerprint: {saved.data_fingerprint} -> {current.data_fingerprint}")
    if not same_words and saved.vocabulary:
        refused.append(f"words of the vocabulary: {saved.vocabulary} -> {current.vocabulary}")
    for name in ("processes", "accumulation"):
        if getattr(saved, name) != getattr(current, name):
            warned.append(f"{name}: {getattr(saved, name)} -> {getattr(current, name)}")

    # Their configs, key by key: a change that is refused by its name may mean the same data, words or weights.
    old, new = flatten(saved.config), flatten(current.config)
    encoder = WHERE.replace(".name", ".digest")
    same_encoder = old.get(encoder) == new.get(encoder) is not None
    classes = [str(config.get("optim._target_")).split(".")[-1] for config in (old, new)]
    # Options that keep more state. SGD makes what momentum needs in its first step with it.
    keep_more = ["optim.amsgrad", "optim.centered", *([] if classes[1] == "SGD" else ["optim.momentum"])]
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or key == "train.batch_size":
            continue
        line = f"{key}: {old.get(key)} -> {new.get(key)}"
        same = _the_same(key, same_data, same_words and bool(saved.vocabulary), same_encoder)
        # The state of one optimizer class means nothing to another, nor to options that keep more of it.
        other_state = key == "optim._target_" and classes[0] != classes[1]
        if key in keep_more:
            other_state = bool(new.get(key)) and not old.get(key)
        if same is None and (other_state or key.startswith(REFUSED_CHANGES)):
            refused.append(line)
        else:
            warned.append(line if same is None else f"{line} ({same})")

    for key in sorted(saved.versions.keys() & current.versions.keys()):
        if saved.versions[key] != current.versions[key]:
            what = f"{key}:" if key == PRECISION else f"{key}: version"
            warned.append(f"{what} {saved.versions[key]} -> {current.versions[key]}")
    return refused, warned


def _the_same(key: str, data: bool, words: bool, encoder: bool) -> str | None:
    """What stays the same although ``key`` of the config changed; None where nothing is known to."""
    if data and (key in PLACES or key.startswith(tuple(f"{place}." for place in PLACES))):
        return "the same data"
    if encoder and key == WHERE:
        return "the same weights"
    if words and key in ("dataset.vocabulary", "dataset.tokenizer"):
        return "the same words"
    beginnings = ("dataset.word_vectors", "train.load_weight", "train.vl_pretrain_weight")
    if key.endswith(".pretrained_weight_path") or key in beginnings:
        return "the checkpoint's weights are taken"
    return None


def _same_data(saved: TrainerState, current: TrainerState) -> bool:
    """Whether both name the same data: by content where both know it, else by fingerprint; False where neither is known."""
    if saved.data_content and current.data_content:
        return saved.data_content == current.data_content
    return saved.data_fingerprint == current.data_fingerprint != ""


def initial_state(cfg: Any, accelerator: Accelerator, dataset: object, accumulation: int) -> TrainerState:
    """The state of a run that no checkpoint precedes; its first evaluation is due at once with ``eval_on_start``.

    Args:
        cfg: the run's config.
        accelerator: the run's.
        dataset: the training split; its ``fingerprint``, ``content`` and ``vocabulary`` are noted where it has them, on the
            main process, which alone writes and compares them: taking them may cost a look at every image file.
        accumulation: batches per update.
    """
    state = TrainerState(
        processes=accelerator.num_processes,
        batch_size=cfg.train.batch_size,
        accumulation=accumulation,
        due_evaluation=bool(cfg.train.evaluation.get("eval_on_start", False)),
        config=json.loads(json.dumps(to_native(cfg), default=str)),
        versions={name: version(name) for name in ("torch", "accelerate", "numpy", "albumentations")}
        | {"python": platform.python_version(), PRECISION: accelerator.mixed_precision},
    )
    if accelerator.is_main_process:
        known = as_data_set(dataset)
        state.vocabulary = "" if known.vocabulary is None else known.vocabulary.identity
        state.data_fingerprint, state.data_content = known.fingerprint, known.content
    return state


def starting_point(cfg: Any, passed_over: dict[Path, str]) -> Path | None:
    """The checkpoint to continue from, or None to start at update 0.

    Args:
        cfg: the run's config.
        passed_over: checkpoints that cannot be loaded, and why; damaged ones are added.

    Raises:
        CheckpointError: ``resume_path`` has no checkpoint, none that is there can be loaded, or the output folder has one
            that must not be continued.
    """
    output_dir = Path(cfg.train.output_dir)
    found = newest(output_dir, lambda _: None, passed_over)
    if found is not None and not cfg.train.auto_resume.enabled:
        raise CheckpointError(
            f"train.auto_resume.enabled=false, but {found} would be overwritten: choose another train.output_dir, or remove "
            f"{output_dir / 'checkpoints'}"
        )
    if found is not None:
        return found
    _none_left(output_dir, passed_over)
    if not cfg.train.resume_path:
        return None
    path = Path(cfg.train.resume_path)
    if hint := weights_of_others(path):
        raise CheckpointError(f"train.resume_path: {hint}")
    if (path / "checkpoints").is_dir():
        found = newest(path, lambda _: None, passed_over)
        if found is None:
            _none_left(path, passed_over)
            raise CheckpointError(f"train.resume_path={str(path)!r} has no checkpoint in {path / 'checkpoints'}")
        return found
    if not (path / STATE).is_file():
        advice = "To start from the weights of a model folder or a safetensors file, set train.load_weight"
        if inside := [place for place in (path, path.parent) if place.name == "checkpoints"]:
            advice = f"Name the run, {inside[0].parent}, or one of its checkpoints, {inside[0] / 'step_…'}"
        raise CheckpointError(f"train.resume_path={str(path)!r} is not a checkpoint or run folder. {advice}")
    if trouble := passed_over.get(path) or damage(path):
        raise CheckpointError(f"train.resume_path={str(path)!r} cannot be continued: {trouble}")
    return path


def _none_left(run: Path, passed_over: dict[Path, str]) -> None:
    """Raises where a run folder has checkpoints, but none that can be loaded: starting anew would overwrite them."""
    lost = [folder for folder in folders(run) if folder in passed_over]
    if lost:
        more = f" ({len(lost) - 1} older: {', '.join(folder.name for folder in lost[1:])})" if lost[1:] else ""
        raise CheckpointError(
            f"no checkpoint in {run / 'checkpoints'} can be loaded{more}; the newest: {passed_over[lost[0]]}. Bring one back "
            "from a copy, or move the folder away to start anew"
        )


def restore(
    cfg: Any, accelerator: Accelerator, model: torch.nn.Module, ema: EMA | None, state: TrainerState
) -> tuple[TrainerState, list[str]]:
    """Loads the newest checkpoint that can be loaded, if there is any, into model, EMA, optimizer and random states.

    Every process calls it, and all of them take the same one: where one process cannot load its part, all pass on.

    Returns:
        (the state to continue from, lines for the log).

    Raises:
        CheckpointError: it belongs to another run (the text lists what differs), or none can be loaded.
    """
    output_dir = Path(cfg.train.output_dir)
    notes: list[str] = []
    passed_over: dict[Path, str] = {}
    other_run: str | None = None
    judged: list[str] = []
    if accelerator.is_main_process:
        clean_temporary(output_dir)
    while True:
        # One process decides: another may see the disk a moment later.
        chosen: list[Any] = [None, None, None]
        if accelerator.is_main_process:
            try:
                chosen[0] = starting_point(cfg, passed_over)
                chosen[1] = None if chosen[0] is None else read_state(chosen[0])
            except CheckpointError as error:
                chosen[2] = str(error)
            else:
                if chosen[1] is not None:
                    chosen[2] = _refusal(chosen[0], chosen[1], state, ema is not None)
                    judged = _judge_anew(chosen[1], state, output_dir)
        folder, saved, trouble = broadcast_object_list(chosen)
        if trouble is not None:
            raise CheckpointError(other_run or trouble)
        if folder is None:
            if others := sorted(path.parent.name for path in (output_dir / "checkpoints").glob(f"*/{STATE}")):
                notes.append(
                    f"warning: this run starts anew: {', '.join(others)} in {output_dir / 'checkpoints'} are not named as "
                    f"checkpoints are (such as {checkpoint.folder_of(output_dir, 1200).name}), and are left alone"
                )
            return state, notes
        failure = None
        try:
            checkpoint.load(folder, accelerator, model, ema, saved, notes.append, _changed_options(saved, state))
        except CheckpointError as error:
            failure = str(error)
            other_run = other_run or (failure if isinstance(error, OtherRunError) else None)
        failures = [text for text in gather_object([failure]) if text is not None]
        if not failures:
            break
        notes.clear()
        passed_over[folder] = failures[0]

    if accelerator.is_main_process:
        notes = [_set_aside(path, why, output_dir) for path, why in passed_over.items()] + notes
        if folder.parent.parent == output_dir:  # a kill may have come before it was named, or damage after
            checkpoint.name_newest(folder)
    elsewhere = "" if folder.parent.parent == output_dir else " (train.resume_path)"
    ignored = (
        f"; train.resume_path={cfg.train.resume_path!r} is ignored" if cfg.train.resume_path and not elsewhere else ""
    )
    notes.append(f"continuing from {folder}{elsewhere}{ignored}")
    if sizes_only(saved):
        notes.append(f"{folder} was saved by an earlier version: its files were checked by their sizes alone")
    notes += [f"changed since the checkpoint: {change}" for change in differences(saved, state)[1]]
    notes += judged
    for name in ("processes", "accumulation", "config", "versions", "data_fingerprint", "data_content", "vocabulary"):
        setattr(saved, name, getattr(state, name))
    return saved, notes


def _changed_options(saved: TrainerState, current: TrainerState) -> set[str]:
    """The options of the optimizer that the configs give differently, such as ``weight_decay``."""
    old, new = ({k: v for k, v in flatten(s.config).items() if k.startswith("optim.")} for s in (saved, current))
    return {key.split(".")[1] for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _refusal(folder: Path, saved: TrainerState, state: TrainerState, averages: bool) -> str | None:
    """Why a whole checkpoint must not be continued by this run, which ``averages`` weights or not; None where it may."""
    refused, _ = differences(saved, state)
    if averages and AVERAGED not in saved.files:
        refused.append("it was saved without EMA: train.ema.enabled: false -> true")
    if not refused:
        return None
    return (
        f"{folder} belongs to another run: {'; '.join(refused[:8])}{' …' if len(refused) > 8 else ''}. Choose another "
        "train.output_dir for a new run (train.load_weight starts it from these weights), or undo the change"
    )


def _judge_anew(saved: TrainerState, current: TrainerState, output_dir: Path) -> list[str]:
    """Makes the best evaluation of ``saved`` what the run that goes on measures, or forgets it where it measures otherwise or
    has no ``best/``; a line for the log then."""
    if saved.best_metric is None:
        return []
    old, new = flatten(saved.config), flatten(current.config)
    metric, split = (str(new.get(f"train.evaluation.{key}")) for key in ("eval_metric", "splits.0"))
    alike = all(old.get(key) == new.get(key) for key in old.keys() | new.keys() if key.startswith(MEASURED_BY))
    known = saved.best_metrics.get(split, {}) if alike and (output_dir / "best").is_dir() else {}
    if known.get(metric) == saved.best_metric:
        return []
    saved.best_metric, saved.best_metrics = known.get(metric), {split: known} if metric in known else {}
    value = "not known" if saved.best_metric is None else f"{saved.best_metric:.4f}"
    return [f"best/ is decided anew, by {metric} on {split}: of the best model so far that is {value}"]


def _set_aside(folder: Path, why: str, output_dir: Path) -> str:
    """Renames a checkpoint that could not be loaded, so that no later start or save counts it; returns the line for the log.

    Other runs' are left alone.
    """
    line = f"{folder} is damaged and passed over: {why}"
    if folder.parent.parent != output_dir:
        return line
    aside = folder.with_name(f"{folder.name}.damaged")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    except OSError as error:
        return f"{line}; it cannot be renamed ({error.strerror})"
    return f"{line}; it is kept as {aside.name}"


def keep_config(cfg: ConfigNode, state: TrainerState, total_updates: int) -> None:
    """Writes ``config.yaml`` of the run; where nothing is left to do, one that is there stays that of what was trained."""
    file = Path(cfg.train.output_dir) / "config.yaml"
    if state.update < total_updates or state.due_evaluation or not file.exists():
        LazyConfig.save(cfg, str(file), f"{STARTED_IN}{os.getcwd()}")


def diverged(state: TrainerState, writer: checkpoint.CheckpointWriter, log: RunLog) -> TrainingError:
    """The error of a run whose updates or weights are no longer finite; notes it in ``metrics.jsonl`` for the next start.

    Every process calls it.
    """
    what = "the weights are no longer finite"
    if state.skipped_in_a_row:
        what = f"the loss or its gradient was not finite in {state.skipped_in_a_row} updates in a row"
    writer.wait()
    where = "the newest checkpoint is from before"
    if log.main:
        log.metrics("diverged", state.update, {"skipped_in_a_row": state.skipped_in_a_row}, epoch=state.epoch)
        healthy = newest(writer.output_dir, log.line)
        where = (
            "no checkpoint was saved before that" if healthy is None else f"the last healthy checkpoint is {healthy}"
        )
    return TrainingError(f"update {state.update}: {what}. {AFTER_DIVERGING}; {where}")
