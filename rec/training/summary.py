"""What a run says of itself in words: at its beginning what it is, at its end what came out and what to do next."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from operator import length_hint
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from rec.config import to_native
from rec.contracts import ConfigNode, DataSet
from rec.model_folder.format import frozen_and_random
from rec.training.checkpoint_format import TrainerState

LINES = 20  # logged updates of a run, at least: fewer are not a curve
_PRECISION = {"no": "float32", "bf16": "bfloat16 autocast", "fp16": "float16 autocast", "fp8": "float8"}


def warnings(cfg: ConfigNode) -> list[str]:
    """What a run begins by saying because it is seldom meant."""
    how = "they keep the random numbers they start with; load weights or word vectors, or let them be trained"
    lines = [f"warning: frozen and random: {part}; {how}" for part in frozen_and_random(to_native(cfg))]
    if cfg.train.get("fixed_statistics", False) and not (cfg.train.load_weight or cfg.train.vl_pretrain_weight):
        lines.append(
            "warning: train.fixed_statistics without train.load_weight: where no weights are loaded, BatchNorm keeps mean 0 and "
            "variance 1"
        )
    judged = cfg.train.evaluation
    if judged.enabled and judged.splits and str(judged.splits[0]).startswith("test"):
        lines.append(
            f"warning: best/, and a threshold where there is one, are chosen on {judged.splits[0]}, the first of "
            "train.evaluation.splits, so its figures are not those of a test; name val first where there is one"
        )
    return lines


def beginning(
    cfg: ConfigNode,
    accelerator: Accelerator,
    model: torch.nn.Module,
    splits: Sequence[tuple[str, DataSet]],
    updates: int,
    per_process: int,
    accumulation: int,
) -> Iterator[str]:
    """The lines a run begins with: folder, data, model by its parts, how it is trained and on what.

    Args:
        cfg, accelerator: of the run.
        model: the bare one.
        splits: name and data set of the training split, then of those that are evaluated.
        updates, per_process, accumulation: length of the run, samples per process and batch, batches per update.
    """
    yield f"this run is in {cfg.train.output_dir}: config.yaml, train.log, metrics.jsonl, checkpoints/, best/"
    (_, dataset), *evaluated = splits
    about = [f"data: {_name(cfg, dataset)}"]
    about += [f"{length_hint(split) or 'streamed'} {name} samples" for name, split in evaluated]
    if (shape := cfg.dataset.get("input_shape")) is not None:
        about.append(f"images of {' x '.join(map(str, shape))} pixels")
    if dataset.weighted_rows:
        about.append(f"losses of {dataset.weighted_rows} rows multiplied by their weight")
    if dataset.vocabulary is not None:
        about.append(f"{len(dataset.vocabulary)} words")
    yield ", ".join(about)
    yield f"model: {type(model).__name__}; {'; '.join(_part(name, part) for name, part in model.named_children())}"
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    yield (
        f"{length_hint(dataset) or 'streamed'} training samples, {updates} updates of {cfg.train.batch_size} = {per_process} "
        f"per process x {accelerator.num_processes} x {accumulation} accumulation; "
        f"{sum(p.numel() for p in parameters):,} parameters, {trainable:,} trainable; {_devices(accelerator)}"
    )


def _name(cfg: ConfigNode, dataset: DataSet) -> str:
    named = cfg.dataset.get("dataset")
    return (
        type(dataset).__name__ if named is None else ", ".join([named] if isinstance(named, str) else map(str, named))
    )


def _part(name: str, part: torch.nn.Module) -> str:
    """A part of the model in words: its parameters, and which of them are trained."""
    parameters = list(part.parameters())
    count, trained = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    if not count:
        return f"{name} without parameters"
    how = "trained" if trained == count else "frozen" if not trained else f"{trained:,} of them trained"
    return f"{name} {count:,} {how}"


def _devices(accelerator: Accelerator) -> str:
    """Processes, device and precision in words."""
    count, kind = accelerator.num_processes, accelerator.device.type
    many = "one process" if count == 1 else f"{count} processes ({accelerator.distributed_type.value})"
    device = torch.cuda.get_device_name(accelerator.device) if kind == "cuda" else kind.upper()
    return f"{many} on {device}, {_PRECISION.get(accelerator.mixed_precision, accelerator.mixed_precision)}"


def ending(cfg: ConfigNode, state: TrainerState, started_at: int, updates: int) -> Iterator[str]:
    """The lines a finished run ends with: its best score, where the model is, and the next commands.

    Args:
        cfg, state: of the run.
        started_at: the update it continued from; ``updates`` where there was nothing left to do.
        updates: its length.
    """
    folder = Path(cfg.train.output_dir)
    if started_at >= updates:
        yield (
            f"already finished: all {updates} updates were done before; train longer with train.epochs or train.train_iter, or "
            "start another run with another train.output_dir"
        )
    best = folder / "best"
    if state.best_metric is not None:
        split = next(iter(state.best_metrics), "")
        name = cfg.train.evaluation.eval_metric
        of_start = _is_of_start(folder / "metrics.jsonl", split, state.best_metrics.get(split, {}))
        whose = ", of the weights it started from, which training did not better" if of_start else ""
        yield f"best {name} on {split}: {state.best_metric:.4f}{whose}; that model is in {best}{os.sep}"
    if state.best_metric is not None and best.is_dir():  # else it is of an earlier run in this folder
        # With ./ before a dash, which would begin an option.
        model, run = (shlex.quote(f"./{path}" if str(path)[0] == "-" else str(path)) for path in (best, folder))
        yield f"next: rec predict {model} photo.jpg 'the phrase' --out marked.png; rec evaluate {run}"


def _is_of_start(metrics_file: Path, split: str, best: Mapping[str, float]) -> bool:
    """Whether the best evaluation is the one before the first update."""
    if not metrics_file.exists():
        return False
    with metrics_file.open(encoding="utf-8") as file:
        first: dict[str, Any] = next(
            (record for record in map(json.loads, file) if record.get("kind") == "evaluation"), {}
        )
    return {"update": 0, "split": split, **best}.items() <= first.items()
