"""Where a run starts: which checkpoint it continues, and whether that checkpoint fits.

Rule: a complete, readable checkpoint in ``train.output_dir`` wins over ``train.resume_path`` (so that a killed and restarted
job does the right thing). A checkpoint is refused when the samples or the weights of the continued run would mean something
else (:func:`differences`), and every other change is reported and accepted.
"""

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open

from rec.training.run_log import flatten


class TrainingError(Exception):
    """Training cannot go on; the text says why and what to do."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be read or does not fit; the text names it and says what to do."""


@dataclass
class TrainerState:
    """What is needed, besides tensors, to continue exactly where a run stopped."""

    epoch: int = 0
    update_in_epoch: int = 0
    update: int = 0
    best_metric: float | None = None
    best_metrics: dict[str, Any] = field(default_factory=dict)
    skipped_updates: int = 0
    skipped_in_a_row: int = 0
    ema_updates: int = 0
    window: dict[str, Any] = field(default_factory=lambda: {"batches": 0, "sums": {}})
    processes: int = 1
    batch_size: int = 1
    accumulation: int = 1
    data_fingerprint: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)  # name -> bytes, filled in when they are written


# A change of these would make the samples or the weights of the continued run mean something else.
REFUSED_CHANGES = ("model.", "dataset.", "train.seed", "train.multi_scale_training.")


def differences(saved: TrainerState, current: TrainerState) -> tuple[list[str], list[str]]:
    """What changed between a checkpoint and the run that wants to continue it.

    Returns:
        (refused, warned): lines ``name: old -> new``. Refused: the model, the data set and its fingerprint, the seed, the total
        batch size, the multi-scale list. Everything else (processes, accumulation, rates, periods, library versions) is
        allowed and reported.
    """
    refused, warned = [], []
    if saved.batch_size != current.batch_size:
        refused.append(f"train.batch_size: {saved.batch_size} -> {current.batch_size}")
    if saved.data_fingerprint != current.data_fingerprint:
        refused.append(f"data fingerprint: {saved.data_fingerprint} -> {current.data_fingerprint}")
    for name in ("processes", "accumulation"):
        if getattr(saved, name) != getattr(current, name):
            warned.append(f"{name}: {getattr(saved, name)} -> {getattr(current, name)}")
    old, new = flatten(saved.config), flatten(current.config)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and key != "train.batch_size":
            where = refused if key.startswith(REFUSED_CHANGES) else warned
            where.append(f"{key}: {old.get(key)} -> {new.get(key)}")
    for key in sorted(saved.versions.keys() | current.versions.keys()):
        if saved.versions.get(key) != current.versions.get(key):
            warned.append(f"{key}: version {saved.versions.get(key)} -> {current.versions.get(key)}")
    return refused, warned


def problem(folder: Path) -> str | None:
    """Why ``folder`` is not a complete, readable checkpoint; None if it is one."""
    try:
        state = read_state(folder)
    except CheckpointError as error:
        return str(error)
    for name, size in state.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            found = path.stat().st_size if path.is_file() else "no file"
            return f"{path}: expected {size} bytes, found {found}"
        if name.endswith(".safetensors"):
            try:
                with safe_open(path, framework="pt") as file:
                    file.keys()
            except SafetensorError as error:
                return f"{path}: {error}"
    return None


def read_state(folder: Path) -> TrainerState:
    """Reads ``trainer_state.json``.

    Raises:
        CheckpointError: it is missing, or not what :class:`Writer` wrote.
    """
    path = folder / "trainer_state.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        state = TrainerState(**{item.name: values[item.name] for item in fields(TrainerState)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is missing, cut short or edited ({type(error).__name__}: {error})") from error
    for name, default in vars(TrainerState()).items():
        value = getattr(state, name)
        right = isinstance(value, float | int | None) if default is None else type(value) is type(default)
        if not right or (isinstance(default, int) and value < 0):
            expected = {int: "a whole number of at least 0", type(None): "a number or null", dict: "an object"}
            raise CheckpointError(
                f"{path} was edited: {name}={value!r}, expected {expected.get(type(default), 'a text')}"
            )
    if folder.name.startswith("step_") and folder.name != f"step_{state.update:08d}":
        raise CheckpointError(f"{path} was edited, or its folder renamed: update={state.update} in {folder.name}")
    return state


def newest(output_dir: Path, report: Callable[[str], None]) -> Path | None:
    """The newest complete, readable checkpoint of a run folder; damaged ones are reported and passed over."""
    for folder in sorted((output_dir / "checkpoints").glob("step_*[0-9]"), reverse=True):
        trouble = problem(folder)
        if trouble is None:
            return folder
        report(f"{folder} is damaged and passed over: {trouble}")
    return None


def initial_state(cfg: Any, accelerator: Accelerator, fingerprint: str, accumulation: int) -> TrainerState:
    """The state of a run that starts from nothing."""
    from rec.config import to_native

    config = to_native(cfg)
    return TrainerState(
        processes=accelerator.num_processes,
        batch_size=cfg.train.batch_size,
        accumulation=accumulation,
        data_fingerprint=fingerprint,
        config=json.loads(json.dumps(config, default=str)),
        versions={name: version(name) for name in ("torch", "accelerate", "numpy", "albumentations")}
        | {"python": platform.python_version()},
    )


def starting_point(cfg: Any, report: Callable[[str], None]) -> Path | None:
    """The checkpoint to continue from, or None to start at update 0.

    Raises:
        CheckpointError: ``resume_path`` has no checkpoint, or the output folder has one that must not be continued.
    """
    output_dir = Path(cfg.train.output_dir)
    found = newest(output_dir, report)
    if found is not None and not cfg.train.auto_resume.enabled:
        raise CheckpointError(
            f"train.auto_resume.enabled=false, but {found} would be overwritten: choose another train.output_dir, or remove "
            f"{output_dir / 'checkpoints'}"
        )
    if found is not None:
        ignored = f"; train.resume_path={cfg.train.resume_path!r} is ignored" if cfg.train.resume_path else ""
        report(f"continuing from {found}{ignored}")
        return found
    if not cfg.train.resume_path:
        return None
    path = Path(cfg.train.resume_path)
    if (path / "checkpoints").is_dir():
        run = newest(path, report)
        if run is None:
            raise CheckpointError(
                f"train.resume_path={str(path)!r} has no complete checkpoint in {path / 'checkpoints'}"
            )
        path = run
    if not (path / "trainer_state.json").is_file():
        raise CheckpointError(
            f"train.resume_path={str(path)!r} is not a checkpoint or run folder. To start from the weights of a model folder or a "
            "safetensors file, set train.load_weight"
        )
    report(f"continuing from {path} (train.resume_path)")
    return path


def restore(
    cfg: Any, accelerator: Accelerator, model: torch.nn.Module, ema: Any, state: TrainerState
) -> tuple[TrainerState, list[str]]:
    """Loads the checkpoint of :func:`starting_point`, if any, into model, EMA, optimizer and random states.

    Returns:
        (the state to continue from, lines for the log).

    Raises:
        CheckpointError: it does not fit; the text lists what differs.
    """
    from rec.training import checkpoint

    notes: list[str] = []
    chosen: list[Any] = [None, None]
    if accelerator.is_main_process:  # one process decides: another may see the disk a moment later
        checkpoint.clean_temporary(Path(cfg.train.output_dir))
        try:
            chosen[0] = starting_point(cfg, notes.append)
        except CheckpointError as error:
            chosen[1] = str(error)
    folder, trouble = broadcast_object_list(chosen)
    if trouble is not None:
        raise CheckpointError(trouble)
    if folder is None:
        return state, notes
    saved = read_state(folder)
    refused, warned = differences(saved, state)
    if refused:
        raise CheckpointError(
            f"{folder} belongs to another run: {'; '.join(refused[:8])}{' …' if len(refused) > 8 else ''}. Choose another "
            "train.output_dir for a new run (train.load_weight starts it from these weights), or undo the change"
        )
    notes += [f"changed since the checkpoint: {change}" for change in warned]
    checkpoint.load(folder, accelerator, model, ema)
    for name in ("processes", "accumulation", "config", "versions"):
        setattr(saved, name, getattr(state, name))
    return saved, notes
