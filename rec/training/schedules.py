"""Learning-rate schedules: pure functions of the number of optimizer updates, as factors on the optimizer's own rate.

A schedule is any callable ``factor = schedule(update)``; the training script multiplies each parameter group's initial
rate by it. Nothing has to be saved: a resumed run asks for the factor of its next update, and for its image size.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import length_hint
from typing import Any

import numpy as np

from rec.contracts import ConfigNode
from rec.errors import TrainingError
from rec.training.build import build_dataset, instantiate_with

Schedule = Callable[[int], float]


def warmup_cosine(
    update: int, *, base_lr: float, warmup_lr: float, min_lr: float, warmup_updates: int, total_updates: int
) -> float:
    """Linear from ``warmup_lr`` to ``base_lr``, then half a cosine to ``min_lr`` at ``total_updates`` (SimREC, SGDR).

    Returns:
        The rate divided by ``base_lr``.
    """
    if update < warmup_updates:
        rate = warmup_lr + (base_lr - warmup_lr) * update / warmup_updates
    else:
        progress = min(1.0, (update - warmup_updates) / max(1, total_updates - warmup_updates))
        rate = min_lr + (base_lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2
    return rate / base_lr


def warmup_step(update: int, *, warmup_updates: int, decay_updates: Sequence[int], rate: float) -> float:
    """``update / (warmup_updates + 1)`` up to and with update ``warmup_updates`` (0 at the first, as in SimREC), then
    ``rate`` to the number of ``decay_updates`` already reached."""
    if warmup_updates and update <= warmup_updates:
        return update / (warmup_updates + 1)
    return rate ** bisect.bisect_right(decay_updates, update)


def build_schedule(
    name: str = "cosine",
    decay_epochs: Sequence[int] = (30, 35, 37),
    lr_decay_rate: float = 0.2,
    *,
    base_lr: float,
    warmup_lr: float,
    min_lr: float,
    warmup_updates: int,
    total_updates: int,
    updates_per_epoch: int,
) -> Schedule:
    """SimREC's ``train.scheduler``: ``name`` is ``"cosine"`` or ``"step"`` (``decay_epochs``, ``lr_decay_rate``).

    Raises:
        ValueError: unknown ``name``.
    """
    if name == "cosine":
        return partial(
            warmup_cosine,
            base_lr=base_lr,
            warmup_lr=warmup_lr,
            min_lr=min_lr,
            warmup_updates=warmup_updates,
            total_updates=total_updates,
        )
    if name == "step":
        decay_updates = [epoch * updates_per_epoch for epoch in sorted(decay_epochs or ())]
        return partial(warmup_step, warmup_updates=warmup_updates, decay_updates=decay_updates, rate=lr_decay_rate)
    raise ValueError(f"train.scheduler.name={name!r}: expected 'cosine' or 'step', or a LazyCall of your own schedule")


def due(count: int, period: int | None) -> bool:
    """Whether what happens every ``period`` happens at ``count``; never, where there is no period."""
    return bool(period) and count % (period or 1) == 0


def settle_sizes(cfg: Any, processes: int) -> None:
    """Numbers in place of the "auto" of ``cfg.train`` (:func:`follow_size`), where there is one."""
    train = cfg.train
    if "auto" in (train.batch_size, train.epochs, train.save_period, train.evaluation.eval_period):
        dataset = build_dataset(cfg, cfg.dataset.get("split", "train"), training=True)
        if not (samples := length_hint(dataset)):
            raise TrainingError(
                "a stream does not tell how many samples it has: set train.batch_size, train.epochs, "
                "train.evaluation.eval_period and train.save_period to numbers in place of auto"
            )
        follow_size(train, samples, processes)


def follow_size(train: ConfigNode, samples: int, processes: int) -> None:
    """Puts numbers where ``batch_size``, ``epochs``, ``save_period``, ``evaluation.eval_period`` are "auto": for data of any size.

    The batch is an eighth of the data as a power of two, 8 to 64, or all of fewer than 8, rounded up to what processes and
    accumulation divide; the run has 300 updates, or 8 epochs where those are more; it is evaluated and saved ten times. So 30
    objects train for 100 epochs with batches of 8, and 30,000 for 8 with batches of 64.

    Args:
        train: ``cfg.train``; changed.
        samples: of the training split.
        processes: of the run.
    """
    if train.batch_size == "auto":
        share = processes * train.num_accumulation_steps
        train.batch_size = -(-min(64, samples, max(8, 2 ** (max(samples, 8).bit_length() - 4))) // share) * share
    if train.epochs == "auto":
        train.epochs = max(8, -(-300 // max(1, samples // train.batch_size)))
    if train.evaluation.eval_period == "auto":
        train.evaluation.eval_period = max(1, round(train.epochs / 10))
    if train.save_period == "auto":
        train.save_period = max(1, round(train.epochs / 10))


def length(train: ConfigNode, updates_per_epoch: int) -> tuple[int, int]:
    """Updates of an epoch and of the whole run: ``train_iter`` where it is set, else ``epochs``; two with ``fast_dev_run``.

    Args:
        train: ``cfg.train``.
        updates_per_epoch: as the data give them.
    """
    if train.fast_dev_run:
        updates_per_epoch = min(2, updates_per_epoch)
        return updates_per_epoch, updates_per_epoch
    return updates_per_epoch, train.train_iter or updates_per_epoch * train.epochs


def from_config(train: Mapping[str, Any], total_updates: int, updates_per_epoch: int) -> Schedule:
    """Builds ``train.scheduler``: a LazyCall (of :func:`build_schedule` or of one's own) or SimREC's plain dict.

    A LazyCall receives those of ``base_lr, warmup_lr, min_lr, warmup_updates, total_updates, updates_per_epoch`` that its target
    takes. ``train.warmup_ratio`` (a fraction of all updates), where set, replaces ``train.warmup_epochs``.
    """
    if train.get("warmup_ratio") is not None:
        warmup_updates = round(train["warmup_ratio"] * total_updates)
    else:
        warmup_updates = round(train["warmup_epochs"] * updates_per_epoch)
    known = {
        **{key: train[key] for key in ("base_lr", "warmup_lr", "min_lr")},
        "warmup_updates": warmup_updates,
        "total_updates": total_updates,
        "updates_per_epoch": updates_per_epoch,
    }
    scheduler = train["scheduler"]
    if "_target_" not in scheduler:
        return build_schedule(**{str(key): value for key, value in scheduler.items()}, **known)
    return instantiate_with(scheduler, known)


def image_size(seed: int, update: int, scales: Sequence[Sequence[int]]) -> int:
    """Side in pixels of an update of multi-scale training, the same on every process: uniform over the squares
    ``[[224, 224], …]``, a function of (seed, update)."""
    return scales[int(np.random.default_rng((seed, 1, update)).integers(len(scales)))][0]
