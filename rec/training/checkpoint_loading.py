"""Loading a checkpoint: read whole and compared with what it is for, then put into model, EMA, optimizer and generators."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.checkpointing import load_accelerator_state
from accelerate.utils import load as load_unchecked
from safetensors.torch import load_file

from rec.errors import CheckpointError, OtherRunError
from rec.models.pretrained_text import borrowed_names
from rec.models.pth import check_pickles
from rec.models.soundness import differences
from rec.training.checkpoint_format import (
    AVERAGED,
    OPTIMIZER,
    SCALER,
    WEIGHTS,
    TrainerState,
    damage,
    random_states,
    read_state,
)
from rec.training.ema import EMA
from rec.trust import regular_file

# What random states hold besides tensors and numbers: the state of NumPy's generator, an array.
_ARRAYS = {f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")}
_ARRAYS |= {"numpy ndarray", "numpy.dtypes UInt32DType"}
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def load(
    folder: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    ema: EMA | None,
    state: TrainerState | None = None,
    report: Callable[[str], None] = lambda _: None,
    own_options: Iterable[str] = (),
) -> TrainerState:
    """Restores raw weights, EMA, optimizer, scaler and random states (every process calls it).

    Everything is read and compared with what it is for before anything is changed (sharded parameters excepted, which
    Accelerate reads piece by piece).

    Args:
        folder: the checkpoint.
        accelerator: has prepared the optimizer.
        model: the unwrapped model.
        ema: None drops the checkpoint's.
        state: the checkpoint's, where its files are known to be whole; None looks at them first.
        report: receives a line for what the checkpoint cannot restore here.
        own_options: of the optimizer, such as ``weight_decay``: these stay as the run has them, the others are the checkpoint's.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another model.
    """
    if state is None:
        if (trouble := damage(folder)) is not None:
            raise CheckpointError(f"{folder} cannot be loaded: {trouble}")
        state = read_state(folder)
    with _naming(folder):
        _load(folder, accelerator, model, ema, state, report, own_options)
    return state


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Whatever the content of a file makes its reader raise is a CheckpointError that names it; no memory is none."""
    try:
        yield
    except (CheckpointError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0][:300]
        raise CheckpointError(f"{path} cannot be loaded: {type(error).__name__}: {text}") from error


def _read(reader: Callable[..., Any], path: Path, **options: Any) -> Any:
    with _naming(path):
        return reader(path, **options)


def load_pickled(path: Path, **options: Any) -> Any:
    """What torch.save wrote, of which nothing runs: by ``weights_only``, after :func:`rec.models.pth.check_pickles`."""
    regular_file(path)
    check_pickles(path, _ARRAYS)
    return load_unchecked(path, **options)


def _load(
    folder: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    ema: EMA | None,
    state: TrainerState,
    report: Callable[[str], None],
    own_options: Iterable[str],
) -> None:
    sharded = accelerator.distributed_type in SHARDED
    own_groups = [
        [{name: group[name] for name in own_options if name in group} for group in optimizer.param_groups]
        for optimizer in accelerator._optimizers
    ]
    rank = accelerator.process_index
    has_generators = random_states(rank) in state.files  # else: more processes than the checkpoint was saved by
    if has_generators:
        generators = _read(load_pickled, folder / random_states(rank))
        _check_generators(folder / random_states(rank), generators, report)
    # What is frozen of a published text encoder is in the model already, from where the run has it.
    own, left_out = model.state_dict(), {}
    if not sharded:
        left_out = {name: own[name].detach() for name in borrowed_names(model)}
    averaged = None
    if ema is not None:
        averaged = left_out | _read(load_file, folder / AVERAGED)
        compare(ema.shadow, averaged, str(folder / AVERAGED))
    if sharded:
        accelerator.load_state(str(folder), load_kwargs={"weights_only": True})
        for optimizer, groups in zip(accelerator._optimizers, own_groups, strict=True):
            _update_each(optimizer.param_groups, groups)
    else:
        weights = left_out | _read(load_file, folder / WEIGHTS)
        compare(model.state_dict(), weights, str(folder))
        optimizers = accelerator._optimizers
        moments = [_read(load_pickled, folder / OPTIMIZER, map_location="cpu") for _ in optimizers]
        for optimizer, saved in zip(optimizers, moments, strict=True):
            _check_optimizer(folder / OPTIMIZER, optimizer, saved)
        for groups, saved in zip(own_groups, moments, strict=True):
            _update_each(saved["param_groups"], groups)
        scaler = None
        if accelerator.scaler is not None:
            if SCALER in state.files:
                scaler = _read(load_pickled, folder / SCALER)
            else:
                report(f"{folder} has no {SCALER}: the loss scale starts anew")
        # From here on things change.
        model.load_state_dict(weights)
        for optimizer, saved in zip(optimizers, moments, strict=True):
            optimizer.load_state_dict(saved)
            match_memory_format(optimizer)
        if scaler is not None:
            accelerator.scaler.load_state_dict(scaler)
    if averaged is not None and ema is not None:
        ema.load(averaged, state.ema_updates)
    if has_generators:
        load_accelerator_state(str(folder), [], [], [], [], rank)


def _update_each(groups: list[dict[str, Any]], values: list[dict[str, Any]]) -> None:
    for group, own in zip(groups, values, strict=True):
        group.update(own)


def _check_generators(file: Path, states: Mapping[str, Any], report: Callable[[str], None]) -> None:
    """Tries random states on generators made for it: Accelerate passes over what it cannot set, and says nothing."""
    try:
        random.Random().setstate(states["random_state"])
        np.random.RandomState().set_state(states["numpy_random_seed"])
        torch.Generator().set_state(states["torch_manual_seed"])
    except Exception as error:
        raise CheckpointError(f"{file} holds no random states: {type(error).__name__}: {error}") from error
    if torch.cuda.is_available():
        saved, here = len(states.get("torch_cuda_manual_seed", ())), torch.cuda.device_count()
        if saved != here:
            report(f"{file} has the random states of {saved} GPUs, here are {here}: theirs start anew")


def _check_optimizer(file: Path, optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Compares an optimizer's saved state with its parameters; torch would find out in the first update, or never."""
    try:
        groups = [list(group["params"]) for group in saved["param_groups"]]
        values = {number: dict(entry) for number, entry in saved["state"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{file} holds no optimizer's state: {type(error).__name__}: {error}") from error
    own = [group["params"] for group in optimizer.param_groups]
    if [len(group) for group in groups] != [len(group) for group in own]:
        raise OtherRunError(
            f"{file} is of an optimizer with groups of {', '.join(str(len(group)) for group in groups)} parameters, this run's "
            f"has {', '.join(str(len(group)) for group in own)}: continue with the same model, optim and train.parameter_groups, "
            "or choose another train.output_dir for a new run (train.load_weight starts it from these weights)"
        )
    known_shapes = type(getattr(optimizer, "optimizer", optimizer)).__module__.startswith("torch.optim")
    parameters = dict(zip((n for group in groups for n in group), (p for group in own for p in group), strict=True))
    for number, entry in values.items():
        if number not in parameters:
            raise CheckpointError(f"{file} has a state for parameter {number}, which is in none of its groups")
        for name, value in entry.items():
            if not known_shapes or not isinstance(value, torch.Tensor) or value.numel() == 1:
                continue
            # Torch's optimizers keep tensors of the parameter's shape, or reduced over some of its dimensions.
            shape = parameters[number].shape
            if value.ndim != len(shape) or any(n not in (1, m) for n, m in zip(value.shape, shape, strict=True)):
                raise CheckpointError(
                    f"{file}: {name} of parameter {number} is {tuple(value.shape)}, the parameter {tuple(shape)}"
                )


def match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Gives every state tensor its parameter's memory format: fused optimizers walk both by address, and would mix up the
    weights' entries where a checkpoint comes from a run with another format."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def compare(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], origin: str) -> None:
    """Compares names and shapes of saved weights with a model's.

    Raises:
        CheckpointError: they differ; one paragraph.
    """
    shapes = ({name: tuple(value.shape) for name, value in side.items()} for side in (own, weights))
    if parts := [f"{len(names)} {what}, e.g. {names[0]}" for what, names in differences(*shapes).items()]:
        raise OtherRunError(
            f"the weights in {origin} belong to another model: {'; '.join(parts)}. Use the config they were trained with, "
            "another train.output_dir for a new run, or train.load_weight to start from the part that fits"
        )
