"""Exponential moving average of a model's weights, as SimREC keeps it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Call after each optimizer step."""
        decay = min(self.alpha, (self.updates + 1) / (self.updates + 10))
        self.updates += 1
        parameters = dict(model.named_parameters())
        # A parameter that has never been trainable equals its shadow: averaging it would only cost time.
        self.never_trained = {name for name in self.never_trained if not parameters[name].requires_grad}
        shadows, values = [], []
        for name, value in model.state_dict().items():
            if name in self.never_trained:
                continue
            if not value.is_floating_point():
                averaged = self.shadow[name] * decay + value * (1 - decay) if self.buffer_ema else value
                self.shadow[name].copy_(averaged)
            elif name in parameters or self.buffer_ema:
                shadows.append(self.shadow[name])
                values.append(value)
            else:
                self.shadow[name].copy_(value)
        torch._foreach_lerp_(shadows, values, 1 - decay)

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
        for name, value in target.items():
            value.copy_(source[name])
