"""Exponential moving average of a model's weights, as SimREC keeps it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rec.models.lora import merged


class EMA:
    """Shadow copy of every parameter and buffer: ``shadow = d * shadow + (1 - d) * value``, ``d = min(alpha, (t+1)/(t+10))``.

    Args:
        model: the unwrapped module; the shadow starts as a copy of it, on its device.
        alpha: the largest decay.
        buffer_ema: average floating-point buffers too (integer ones are truncated); otherwise buffers are copied.
    """

    def __init__(self, model: nn.Module, alpha: float = 0.9997, buffer_ema: bool = True) -> None:
        self.alpha, self.buffer_ema, self.updates = alpha, buffer_ema, 0
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}
        #: names of parameters that were frozen until now: their shadow equals them
        self.never_trained = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self._model: nn.Module | None = None
        self._places: dict[str, tuple[Any, str]] = {}  # of each tensor: its module's dict and its key there

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Call after each optimizer step. A few operations for all tensors together: a GPU's host has no time for each."""
        decay = min(self.alpha, (self.updates + 1) / (self.updates + 10))
        self.updates += 1
        values = self._values(model)
        # A parameter that has never been trainable equals its shadow: averaging it would only cost time.
        self.never_trained = {name for name in self.never_trained if not values[name].requires_grad}
        averaged: tuple[list[Tensor], list[Tensor]] = [], []
        copied: tuple[list[Tensor], list[Tensor]] = [], []
        counters: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for name, value in values.items():
            if name in self.never_trained:
                continue
            if not isinstance(value, nn.Parameter) and not self.buffer_ema:
                pairs = copied
            elif value.is_floating_point():
                pairs = averaged
            else:
                pairs = counters.setdefault(value.dtype, ([], []))
            pairs[0].append(self.shadow[name])
            pairs[1].append(value)
        torch._foreach_lerp_(*averaged, 1 - decay)
        for shadows, whole in counters.values():
            before, now = (torch.cat([value.flatten() for value in each]) for each in (shadows, whole))
            parts = (before * decay + now * (1 - decay)).to(before.dtype).split([value.numel() for value in shadows])
            copied[0].extend(shadows)
            copied[1].extend(part.view_as(shadow) for part, shadow in zip(parts, shadows, strict=True))
        if copied[0]:
            torch._foreach_copy_(*copied)

    def _values(self, model: nn.Module) -> dict[str, Tensor]:
        """The state dict, its tensors as the model holds them, without the walk over all modules in every update."""
        if model is not self._model:
            self._model, self._places = model, {}
            for prefix, module in model.named_modules(remove_duplicate=False):
                for store in (module._parameters, module._buffers):
                    names = ((f"{prefix}.{key}" if prefix else key, key) for key in store)
                    self._places |= {name: (store, key) for name, key in names if name in self.shadow}
        if len(self._places) < len(self.shadow):  # a model whose state dict has names of its own
            return model.state_dict(keep_vars=True)
        return {name: store[key] for name, (store, key) in self._places.items()}

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside the block ``model`` has the averaged weights; afterwards its own again, bit for bit."""
        state = model.state_dict()
        own = {name: value.clone() for name, value in state.items()}
        self._copy(self.shadow, state)
        try:
            yield
        finally:
            self._copy(own, state)

    def load(self, state: dict[str, Tensor], updates: int) -> None:
        """Continues from a saved shadow (``ema.safetensors``) and its number of updates."""
        self._copy(state, self.shadow)
        self.updates = updates

    @staticmethod
    @torch.no_grad()
    def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
        torch._foreach_copy_(list(target.values()), [source[name] for name in target])


@contextmanager
def as_published(model: nn.Module, ema: EMA | None) -> Iterator[None]:
    """Inside the block ``model`` has the weights that ``best/`` would: averaged where they are, adapters merged."""
    with ema.applied(model) if ema is not None else nullcontext(), merged(model):
        yield
