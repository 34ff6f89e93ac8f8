"""Runs our models on the parity fixtures: weights, inputs, one training step, comparison."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FIXTURES = Path(__file__).parents[1] / "fixtures"
sys.path.insert(0, str(FIXTURES))

import fxlib  # noqa: E402

from rec.models.assignment import Assignment, cell_numbers, dynamic_assignment  # noqa: E402
from rec.models.heads import REChead  # noqa: E402
from rec.models.losses import centred_iou  # noqa: E402
from rec.models.original_weights import load_original, our_name  # noqa: E402


@functools.cache
def expected(kind: str) -> tuple[dict[str, Any], Any]:
    """The fixture's JSON and arrays of ``simrec`` or ``mcn``."""
    values = json.loads((FIXTURES / f"{kind}_parity.json").read_text(encoding="utf-8"))
    return values, np.load(FIXTURES / f"{kind}_parity.npz")


@functools.cache
def original_state(kind: str) -> dict[str, Tensor]:
    """The fixture's weights under the original's names, float32."""
    return {name: torch.from_numpy(value) for name, value in fxlib.state(kind).items()}


def load(model: nn.Module, kind: str, dtype: torch.dtype) -> nn.Module:
    load_original(model, original_state(kind), "fixture")
    return model.to(dtype)


def batch_of(case: str, size: int, count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    image, tokens, label = fxlib.inputs(case, count, size)
    mask = torch.from_numpy(fxlib.box_mask(label, size) * 255).to(torch.uint8)
    return {
        "image": torch.from_numpy(image).to(dtype),
        "tokens": torch.from_numpy(tokens),
        "box": torch.from_numpy(label[:, 0]).to(dtype),
        "mask": mask,
    }


class Recorder:
    """Keeps what the named modules return, until leaving the ``with`` block."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.outputs: dict[str, Any] = {}

    def __enter__(self) -> dict[str, Any]:
        self.handles = [
            module.register_forward_hook(lambda _m, _i, out, name=name: self.outputs.update({name: out}))
            for name, module in self.modules.items()
        ]
        return self.outputs

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def worst_feature(features: dict[str, Tensor], want: dict[str, Any]) -> float:
    """Largest deviation of any feature, relative to its largest value."""
    return max(fxlib.compare(value, want[name], rtol=np.inf) for name, value in features.items())


def training_step(model: nn.Module, batch: dict[str, Tensor], bn_mode: str) -> dict[str, Any]:
    """Losses, gradients, one clipped Adam step as the fixtures made it, and the losses after it."""
    model.train()
    if bn_mode == "bn_eval":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9)
    losses = model(batch)
    losses["loss"].backward()
    grads = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    total = torch.nn.utils.clip_grad_norm_(parameters.values(), 0.15)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer.step()
    delta = {name: (p.detach() - before[name]).norm().item() for name, p in parameters.items()}
    with torch.no_grad():
        second = model(batch)
    return {
        "losses": {name: value.item() for name, value in losses.items()},
        "grads": grads,
        "buffers": buffers,
        "total_grad_norm": total.item(),
        "delta": delta,
        "second": {name: value.item() for name, value in second.items()},
    }


def worst_gradient(got: dict[str, Tensor], want: dict[str, Any]) -> float:
    """Largest relative deviation of a parameter's gradient norm; below 1e-6 of the total, norms are rounding."""
    total = want["total_grad_norm_before_clip"]
    worst = 0.0
    for name, norm in want["grad_norm_per_param"].items():
        if norm is not None and norm > 1e-6 * total:
            worst = max(worst, relative(got[our_name(name)].double().norm().item(), norm))
    for name, first in want.get("grad_first8", {}).items():
        grad = got[our_name(name)]
        worst = max(worst, (grad.flatten()[:8] - grad.new_tensor(first)).abs().max().item() / grad.abs().max().item())
    return worst


def worst_module(norms: dict[str, float], want: dict[str, float], kind: str) -> float:
    """Largest relative deviation of a module's norm, from the norms of its parameters; ``want`` has original names."""
    worst = 0.0
    for module, norm in want.items():
        prefix = our_name(next(name for name in original_state(kind) if name.startswith(module)))
        prefix = ".".join(prefix.split(".")[: module.count(".") + 1]) + "."
        got = sum(value**2 for name, value in norms.items() if name.startswith(prefix)) ** 0.5
        worst = max(worst, relative(got, norm))
    return worst


def compare_training_step(
    got: dict[str, Any], want: dict[str, Any], kind: str, dtype: torch.dtype, losses: list[str]
) -> None:
    """Asserts the agreement the fixtures allow: 1e-6 in float64; in float32 1e-4 with frozen statistics, and with batch
    statistics three times the original's own deviation between float32 and float64."""
    f32, second = want["f32_values"], "loss_second_forward_after_one_adam_step"
    fixed = 1e-6 if dtype == torch.float64 else 1e-4
    batch_statistics = dtype == torch.float32 and want["bn_mode"] == "train"

    def tolerance(*names: str) -> float:
        return 3 * max(relative(f32[name], want[name]) for name in names) if batch_statistics else fixed

    for name in losses:
        assert relative(got["losses"][name], want[name]) < tolerance(*losses), name
    reached = {our_name(name) for name, norm in want["grad_norm_per_param"].items() if norm is not None}
    assert set(got["grads"]) == reached, "gradients reach the parameters the original trains, and no others"
    gradient_norms = 3 * want["f32_grad_norm_max_rel_dev"] if batch_statistics else fixed
    if batch_statistics:
        norms = {name: grad.double().norm().item() for name, grad in got["grads"].items()}
        assert worst_module(norms, want["grad_norm_per_module"], kind) < gradient_norms
    else:
        assert worst_gradient(got["grads"], want) < fixed
    assert relative(got["total_grad_norm"], want["total_grad_norm_before_clip"]) < max(gradient_norms, fixed)
    assert relative(got["second"]["loss"], want[second]) < tolerance(second)
    if dtype == torch.float64:  # Adam's first step is lr * sign(g): rounding flips tiny gradients
        assert worst_module(got["delta"], want["param_delta_l2_per_module_after_step"], kind) < 1e-4


def assigned(head: REChead, raw: Tensor, box: Tensor) -> Assignment:
    """The positive cells of raw outputs for ``box`` ``(B, 4)`` cxcywh in pixels."""
    iou = centred_iou(head.decode(raw), box[:, None])
    return dynamic_assignment(iou, box, (cell_numbers(raw) + 0.5) * head.stride, head.stride)


def relative(got: float, want: float) -> float:
    return abs(got - want) / abs(want) if want else abs(got)
