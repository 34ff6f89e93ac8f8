"""When memory runs out: one paragraph with this run's numbers, and what to lower."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.state import AcceleratorState

from rec.errors import TrainingError, out_of_memory


@contextmanager
def explained_memory(cfg: Any) -> Iterator[None]:
    """In the block, an error of torch that memory ran out becomes one that says what of ``cfg.train`` to lower.

    Raises:
        TrainingError: in its place.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(_paragraph(cfg, error)) from error


def _paragraph(cfg: Any, error: Exception) -> str:
    train, state = cfg.train, AcceleratorState()
    evaluating = any(frame.f_code.co_name == "evaluate_splits" for frame, _ in traceback.walk_tb(error.__traceback__))
    said = str(error).strip().splitlines() or ["a MemoryError"]
    if "in DataLoader worker" in said[0]:
        return (
            f"memory ran out in a loader worker: lower train.data.num_workers={train.data.num_workers}, or "
            f"train.batch_size={train.batch_size}; the same command then continues from the newest checkpoint ({said[-1][:300]})"
        )
    accumulation, processes = train.num_accumulation_steps, state.num_processes
    count = train.evaluation.eval_batch_size if evaluating else train.batch_size // (accumulation * processes)
    scales = train.multi_scale_training
    several = bool(scales.enabled) and not evaluating
    side = max(size[0] for size in scales.img_scales) if several else cfg.dataset.get("input_shape", [None])[0]
    size = f" of {'up to ' * several}{side} x {side} pixels" if side else ""
    precision = state.mixed_precision
    remedies = []
    if evaluating:
        remedies.append(f"lower train.evaluation.eval_batch_size={count}")
    else:
        remedies.append(f"lower train.batch_size={train.batch_size}")
        if count >= 4:  # BatchNorm over the phrases needs two
            remedies.append(
                f"set train.num_accumulation_steps={2 * accumulation}, so that a batch has {count // 2} samples"
            )
        if not train.activation_checkpoint.enabled:
            remedies.append("set train.activation_checkpoint.enabled=true")
        if several:
            remedies.append(f"take {side} out of train.multi_scale_training.img_scales")
    if precision == "no":
        remedies.append("launch with --mixed_precision bf16")
    return (
        f"memory ran out in {'an evaluation' if evaluating else 'training'}, at {count} samples{size} per process in "
        f"{'float32' if precision == 'no' else precision}{_usage(state.device)}: {', or '.join(remedies)}; the same command then "
        f"continues from the newest checkpoint ({said[0][:300]})"
    )


def _usage(device: torch.device) -> str:
    """How full a GPU is, and of what."""
    if device.type != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info(device)
    own, most = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    gib = 2**30
    return (
        f"; {(total - free) / gib:.1f} of {torch.cuda.get_device_name(device)}'s {total / gib:.1f} GiB are taken, tensors of this "
        f"process hold {own / gib:.1f} and have held {most / gib:.1f}"
    )
