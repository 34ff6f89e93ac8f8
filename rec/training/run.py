"""What the functions of a run's loop share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from rec.contracts import ConfigNode
from rec.training.checkpoint_format import TrainerState
from rec.training.ema import EMA
from rec.training.process import StopRequest
from rec.training.run_log import RunLog, Window
from rec.training.update import Step


@dataclass
class Run:
    """What updates and evaluations of a run need.

    Attributes:
        cfg: the run's config.
        accelerator: the run's.
        model: without wrappers.
        ema: their averages; None without EMA.
        state: where training stands.
        stop: whether the run is asked to stop.
        log: of the run.
        window: of the losses since the last line of the log.
        compute: a model, a batch and an image size to the batch's losses, with the gradients added to those of the weights.
        step: what follows the gradients of all batches.
    """

    cfg: ConfigNode
    accelerator: Accelerator
    model: torch.nn.Module
    ema: EMA | None
    state: TrainerState
    stop: StopRequest
    log: RunLog
    window: Window
    compute: Callable[..., dict[str, torch.Tensor]]
    step: Step
