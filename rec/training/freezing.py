"""Layer-wise freezing by a schedule: parts of a model that are not trained in some of the updates."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from rec.errors import TrainingError
from rec.models.backbones.base import batch_norms
from rec.training.checkpoint_loading import SHARDED

_KEYS = ("modules", "from_update", "until_update")


class FreezingSchedule:
    """Freezes and releases modules at given updates; a function of the update alone, so a resumed run agrees.

    A frozen module's parameters get no gradients and are skipped by the optimizer (no weight decay, no momentum), its
    BatchNorm layers use and keep their running statistics, and where nothing before it is trained it runs without
    autograd. Gradual unfreezing is Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018;
    freezing from the first layers on is Brock et al., "FreezeOut", 2017.

    Args:
        steps: each ``{"modules": [name, ...], "from_update": 0, "until_update": None}``: the modules are frozen at updates
            ``from_update <= update < until_update`` (None: to the end). Names as in ``model.named_modules()``.
        model: the bare model. What it froze by itself stays frozen.
        accelerator: the run's.
        fixed_statistics: BatchNorm layers of the whole model use and keep their running statistics in all updates, while scale
            and shift are trained: those of a few images of one's own are worse than those that came with the weights.

    Raises:
        TrainingError: an unknown key or module, an update at which nothing would be trained, or sharded parameters.
    """

    def __init__(
        self,
        steps: Sequence[Mapping[str, Any]],
        model: nn.Module,
        accelerator: Accelerator,
        fixed_statistics: bool = False,
    ) -> None:
        self.model, self.accelerator, self.fixed_statistics = model, accelerator, fixed_statistics
        if steps and accelerator.distributed_type in SHARDED:
            raise TrainingError(
                f"train.freeze_schedule does not work with {accelerator.distributed_type.value}: leave it empty"
            )
        self.steps: list[tuple[int, float, list[nn.Module]]] = []
        modules = {name: module for name, module in model.named_modules() if name}
        for number, step in enumerate(steps):
            where = f"train.freeze_schedule.{number}"
            names, first, last = (step.get(key) for key in _KEYS)
            whole = all(update is None or type(update) is int for update in (first, last))
            never = whole and last is not None and (first or 0) >= last
            if set(step) - set(_KEYS) or not names or isinstance(names, str | int) or not whole or never:
                raise TrainingError(
                    f"{where} is {dict(step)}; expected modules=[...], and from_update or until_update (or both, the later one), "
                    "updates"
                )
            for name in names:
                if name not in modules:
                    near = get_close_matches(str(name), modules, 1) or [key for key in modules if "." not in key]
                    raise TrainingError(f"{where}: the model has no module {name!r}; did you mean {', '.join(near)}?")
            self.steps.append((first or 0, math.inf if last is None else last, [modules[name] for name in names]))
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._now: list[nn.Module] = []
        for update in sorted({0, *(first for first, _, _ in self.steps), *(last for _, last, _ in self.steps)}):
            frozen_parameters = {id(p) for module in self.frozen_at(update) for p in module.parameters()}
            if all(id(parameter) in frozen_parameters for parameter in self.trainable):
                raise TrainingError(f"train.freeze_schedule freezes everything that is trained from update {update} on")

    def frozen_at(self, update: float) -> list[nn.Module]:
        """The modules that are frozen at ``update``."""
        return [module for first, last, modules in self.steps if first <= update < last for module in modules]

    def apply(self, model: nn.Module, optimizer: torch.optim.Optimizer, update: int) -> tuple[nn.Module, Any]:
        """Call before every update, with the optimizer's gradients cleared.

        Args:
            model, optimizer: as ``accelerator.prepare`` returned them.

        Returns:
            Both, wrapped anew where other parameters are trained from here on.
        """
        frozen = self.frozen_at(update)
        if frozen != self._now:
            standing_still = {id(parameter) for module in frozen for parameter in module.parameters()}
            for parameter in self.trainable:
                parameter.requires_grad_(id(parameter) not in standing_still)
            self.model.train()  # what is released
            if isinstance(model, nn.parallel.DistributedDataParallel):
                # It waits for the gradients it knew when it was built: those of released parameters would never be
                # reduced, those of frozen ones waited for in vain. Its hooks sit on the parameters themselves.
                model._remove_autograd_hooks()
                self.accelerator.free_memory()
                bare = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
                model, optimizer = self.accelerator.prepare(bare, optimizer)
            self._now = frozen
        norms = batch_norms(self.model) if self.fixed_statistics else ()
        for module in (*frozen, *norms):  # evaluation puts the model back into training mode
            if module.training:
                module.eval()
        return model, optimizer
