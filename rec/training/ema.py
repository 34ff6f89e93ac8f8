"""Exponential moving average of a model's weights, as SimREC keeps it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rec.models.lora import merged


class EMA:
    """Shadow copy of every parameter and buffer: ``shadow = d * shadow + (1 - d) * value``, ``d = min(alpha, (t+1)/(t+10))``.

    With ``warmup=False`` ``d`` is ``alpha`` from the first update on: the weights it starts from, trained on much more than a
    small set of one's own, keep a share of ``alpha ** updates`` in the average, as in Wortsman et al., "Robust fine-tuning of
    zero-shot models", CVPR 2022.

    Args:
        model: the unwrapped module; the shadow starts as a copy of it, on its device.
        alpha: the largest decay.
        buffer_ema: average floating-point buffers too (integer ones are truncated); otherwise buffers are copied.
        warmup: let the decay rise to ``alpha``, so that the weights it starts from are soon forgotten.
    """

    def __init__(self, model: nn.Module, alpha: float = 0.9997, buffer_ema: bool = True, warmup: bool = True) -> None:
        self.alpha, self.buffer_ema, self.warmup, self.updates = alpha, buffer_ema, warmup, 0
        self.shadow = {name: value.detach().clone() for name, value in model.state_dict().items()}
        #: names of parameters that were frozen until now: their shadow equals them
        self.never_trained = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self._model: nn.Module | None = None
        self._places: dict[str, tuple[Any, str]] = {}  # of each tensor: its module's dict and its key there
        self._values: list[Tensor] = []  # that _groups were made of
        self._groups: dict[tuple[str, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}

    @property
    def decay(self) -> float:
        """Of the next update."""
        return min(self.alpha, (self.updates + 1) / (self.updates + 10)) if self.warmup else self.alpha

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Call after each optimizer step. A few operations for all tensors together: a GPU's host has no time for each."""
        decay = self.decay
        self.updates += 1
        for (rule, _), (shadows, values) in self._sorted(model).items():
            if rule == "average":
                torch._foreach_lerp_(shadows, values, 1 - decay)
            elif rule == "copy":
                torch._foreach_copy_(shadows, values)
            else:
                before, now = _joined(shadows), _joined(values)
                _put(before * decay + now * (1 - decay), shadows)

    @torch.no_grad()
    def update_unless(self, skip: Tensor, model: nn.Module, decay: Tensor, share: Tensor) -> None:
        """:meth:`update` by numbers of the device, without counting it; where it is skipped, the shadow stays bit for bit.

        Args:
            skip: 1 or 0 ``()``, float32.
            model: as for :meth:`update`.
            decay: :attr:`decay` ``()``, float32.
            share: 1 less ``decay``.
        """
        for (rule, _), (shadows, values) in self._sorted(model).items():
            alike = all(shadow.stride() == value.stride() for shadow, value in zip(shadows, values, strict=True))
            if rule == "average" and alike:
                # shadow + share * (value - shadow) is a step of SGD at rate -share, whose gradient is value and weight decay -1: in
                # one pass over the memory, by the one operation of the kind that reads rate and whether to skip on the device.
                torch._fused_sgd_(
                    shadows, values, [], weight_decay=-1.0, momentum=0.0, lr=share.neg(), dampening=0.0, nesterov=False,
                    maximize=False, is_first_step=False, found_inf=skip,
                )  # fmt: skip
            else:
                before, now = _joined(shadows), _joined(values)
                after = now if rule == "copy" else before * decay + now * share
                _put(torch.where(skip.bool(), before, after.to(before.dtype)), shadows)

    def _sorted(self, model: nn.Module) -> dict[tuple[str, torch.dtype], tuple[list[Tensor], list[Tensor]]]:
        """Shadows and values by what is done with them and their dtype; sorted anew where a tensor or what is trained changed."""
        values = self._current(model)
        # A parameter that has never been trainable equals its shadow: averaging it would only cost time.
        trained = {name for name in self.never_trained if values[name].requires_grad}
        if trained or [*map(id, values.values())] != [*map(id, self._values)]:
            self.never_trained -= trained
            self._values, self._groups = list(values.values()), {}
            for name, value in values.items():
                if name in self.never_trained:
                    continue
                if not isinstance(value, nn.Parameter) and not self.buffer_ema:
                    rule = "copy"
                else:
                    rule = "average" if value.is_floating_point() else "truncate"
                group = self._groups.setdefault((rule, value.dtype), ([], []))
                group[0].append(self.shadow[name])
                group[1].append(value)
        return self._groups

    def _current(self, model: nn.Module) -> dict[str, Tensor]:
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


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _put(joined: Tensor, tensors: list[Tensor]) -> None:
    """The inverse of :func:`_joined`, in place; integers are truncated."""
    parts = joined.to(tensors[0].dtype).split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])


@contextmanager
def as_published(model: nn.Module, ema: EMA | None) -> Iterator[None]:
    """Inside the block ``model`` has the weights that ``best/`` would: averaged where they are, adapters merged."""
    with ema.applied(model) if ema is not None else nullcontext(), merged(model):
        yield
