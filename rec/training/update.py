"""An update's gradients: where recorded work puts them, and what is done with them at its end."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer, SparseAdam

from rec.cuda_graphs import Replayed
from rec.data.batch import Returning
from rec.errors import InputError
from rec.training.ema import EMA


def losses_of(outputs: object) -> dict[str, Tensor]:
    """What a model gives in training: named losses ``()``, of which ``loss`` is trained on and the others are logged.

    Raises:
        InputError: it gives something else; says what.
    """
    if not isinstance(outputs, Mapping) or not isinstance(outputs.get("loss"), Tensor):
        got = sorted(map(str, outputs)) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise InputError(
            f"a model in training gives a mapping of named losses, with a tensor 'loss', their total; got {got}"
        )
    losses: dict[str, Tensor] = {}
    for name, value in outputs.items():
        try:
            one = value if isinstance(value, Tensor) else torch.as_tensor(value, device=outputs["loss"].device)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"the model's {name!r} is a {type(value).__name__}; expected a loss, a number") from None
        if one.ndim:
            raise InputError(
                f"the model's {name!r} has the shape {tuple(one.shape)}; expected one number, such as its mean"
            )
        losses[name] = one
    return losses


def steps_by_itself(optimizer: Optimizer) -> Optimizer:
    """``optimizer``, if its step needs nothing but the gradients that are there.

    Raises:
        InputError: it is none, computes the loss several times in a step (LBFGS), or takes sparse gradients alone.
    """
    name, why = type(optimizer).__name__, ""
    if not isinstance(optimizer, Optimizer):
        why = "which is not a torch.optim.Optimizer"
    elif isinstance(optimizer, SparseAdam):
        why = "which takes sparse gradients alone, and the model has none"
    elif (closure := signature(optimizer.step).parameters.get("closure")) and closure.default is closure.empty:
        why = "whose step computes the loss several times, where an update here has computed it once"
    if why:
        raise InputError(f"cfg.optim builds {name}, {why}: take another, such as torch.optim.AdamW")
    return optimizer


def recorded(compute: Callable[..., Any], weights: Sequence[nn.Parameter], accumulation: int = 1) -> Callable[..., Any]:
    """``compute``, which adds to the gradients of ``weights``, recorded on a GPU and replayed (:class:`rec.cuda_graphs.Replayed`).

    A recording writes into the same memory again: that of the first call's gradients. Of the first of ``accumulation`` batches
    they take the place of what is there, by a few operations for all of them together.
    """
    turns = itertools.count()

    def into_place(first: bool, *how: Any) -> Any:
        places = [weight.grad for weight in weights]
        for weight in weights:
            weight.grad = None
        result = compute(*how)
        pairs = [(place, weight) for place, weight in zip(places, weights, strict=True) if place is not None]
        known = [(place, weight.grad) for place, weight in pairs if weight.grad is not None]
        if known:
            into, new = ([pair[number] for pair in known] for number in range(2))
            (torch._foreach_copy_ if first else torch._foreach_add_)(into, new)
        for place, weight in pairs:
            weight.grad = place
        return result

    replayed = Replayed(into_place, copied=False)
    return lambda *how: replayed(next(turns) % accumulation == 0, *how)


class Step:
    """Clips the gradients, steps the optimizer, clears the gradients and averages the weights: unless one is not finite.

    The host decides that, and reads the total norm for it. With CUDA graphs it is decided on the device where the optimizer can
    do so (fused Adam and AdamW): all of it is one recorded function, handed over before the norm is read.

    Args:
        accelerator: the run's.
        model: without wrappers.
        weights: whose gradients are clipped together.
        ema: averages of ``model``; None without.
        clip: total norm to clip to; None or 0: as they are.
        graphs: ``train.cuda_graphs.enabled``: gradients are :func:`recorded`, and stay.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        weights: Sequence[nn.Parameter],
        ema: EMA | None,
        clip: float | None,
        graphs: bool = False,
    ) -> None:
        self._accelerator, self._model, self._weights, self._ema = accelerator, model, weights, ema
        self._clip, self._graphs = clip or math.inf, graphs
        self._norm = Replayed(self._total_norm, copied=False)
        self._replayed = Replayed(self._on_the_device, copied=False)

    def __call__(self, optimizer: Optimizer, asked: bool, meanwhile: Callable[[], None]) -> tuple[float, bool]:
        """The step, with the one read-back of an update.

        Args:
            optimizer: as ``accelerator.prepare`` returned it.
            asked: whether this process was asked to stop.
            meanwhile: called when the device has work and the host would wait.

        Returns:
            (total gradient norm before clipping, whether any process was asked to stop).
        """
        if self._graphs and _can_skip(optimizer):
            return self._replay(optimizer, meanwhile), asked
        accelerator = self._accelerator
        norm: Any = accelerator.clip_grad_norm_(self._weights, self._clip)
        if accelerator.is_fsdp2:  # every process has its part of it
            norm = norm.full_tensor()
        norm = norm.float()
        flags = torch.stack([norm, norm.new_full((), asked)])
        if accelerator.num_processes > 1:  # the norm is the same everywhere, a stop request need not be
            flags = accelerator.reduce(flags, "mean")
        meanwhile()
        gradient_norm, requests = flags.tolist()
        finite = math.isfinite(gradient_norm)
        if finite or accelerator.scaler is not None:  # the fp16 scaler skips by itself, and learns
            optimizer.step()
        if not self._graphs:  # else the next update writes over them
            optimizer.zero_grad()
        if finite and self._ema is not None:
            self._ema.update(self._model)
        return gradient_norm, requests > 0

    def _replay(self, optimizer: Optimizer, meanwhile: Callable[[], None]) -> float:
        """The norm is on its way back before what follows it: by the time that is done, the next update is handed over."""
        device = self._weights[0].device
        decay = 0.0 if self._ema is None else self._ema.decay
        numbers = [*(group["lr"] for group in optimizer.param_groups), decay, 1 - decay]
        here = torch.tensor(numbers, dtype=torch.float32, pin_memory=device.type == "cuda")
        there = here.to(device, non_blocking=True)
        norm = self._norm(optimizer, there)
        returning = Returning({"norm": norm})
        self._replayed(optimizer, norm, there)
        meanwhile()
        gradient_norm = float(returning.wait()["norm"])
        if self._ema is not None and math.isfinite(gradient_norm):
            self._ema.updates += 1
        return gradient_norm

    def _total_norm(self, optimizer: Optimizer, numbers: Tensor) -> Tensor:
        """Of the gradients, ``()`` float32: recorded anew for another optimizer, which may train other weights."""
        norms = torch._foreach_norm([weight.grad for weight in self._weights if weight.grad is not None])
        return torch.linalg.vector_norm(torch.stack(norms)).float()

    def _on_the_device(self, optimizer: Optimizer, norm: Tensor, numbers: Tensor) -> None:
        """Waits for nothing.

        Args:
            optimizer: a fused one.
            norm: total norm of the gradients ``()``.
            numbers: rate of each parameter group, decay of the average, and 1 less that ``(groups + 2,)``.
        """
        *rates, decay, share = numbers.unbind()
        skip = norm.isfinite().logical_not().float()
        # As torch.nn.utils.clip_grad_norm_. Of a norm that is not finite come gradients that nobody reads.
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        torch._foreach_mul_(gradients, (self._clip / (norm + 1e-6)).clamp(max=1.0))
        with numbers_on_device(optimizer, rates, skip):
            optimizer.step()
        if self._ema is not None:
            self._ema.update_unless(skip, self._model, decay, share)


@contextmanager
def numbers_on_device(optimizer: Optimizer, rates: Sequence[Tensor], skip: Tensor | None = None) -> Iterator[None]:
    """Inside the block a fused Adam reads its rates, and whether to skip, where it computes: so a graph can be made of its step.

    Args:
        optimizer: its groups are afterwards what they were.
        rates: of each parameter group ``()``, float32.
        skip: 1 to leave weights, moments and step counts as they are, else 0 ``()``, float32.
    """
    inner: Any = getattr(optimizer, "optimizer", optimizer)  # Accelerate's holds the one that computes
    recording = rates[0].is_cuda and torch.cuda.is_current_stream_capturing()
    before = [(group["lr"], group["capturable"]) for group in inner.param_groups]
    for group, rate in zip(inner.param_groups, rates, strict=True):
        group["lr"], group["capturable"] = rate, group["capturable"] or recording
    inner.found_inf = skip
    try:
        yield
    finally:
        del inner.found_inf
        for group, (rate, capturable) in zip(inner.param_groups, before, strict=True):
            group["lr"], group["capturable"] = rate, capturable


def _can_skip(optimizer: Optimizer) -> bool:
    """Whether it can step by :func:`numbers_on_device`."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return type(inner) in (Adam, AdamW) and all(group["fused"] for group in inner.param_groups)
