"""LoRA: low-rank updates of frozen linear layers (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models",
ICLR 2022)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_A, _B = "lora_a", "lora_b"


class AdaptedLinear(nn.Linear):
    """``x (W + B A)^T + b`` with W and b frozen; B begins at 0. W keeps its name in the state dict."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, linear.weight.device)
        self.load_state_dict(linear.state_dict())
        self.requires_grad_(False)
        self.lora_a = nn.Parameter(self.weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(self.weight.new_zeros(linear.out_features, rank))
        nn.init.normal_(self.lora_a, std=linear.in_features**-0.5)
        self.is_merged = False

    def forward(self, x: Tensor) -> Tensor:
        plain = super().forward(x)
        return plain if self.is_merged else plain + F.linear(F.linear(x, self.lora_a), self.lora_b)


def adapt(module: nn.Module, rank: int, targets: Sequence[str]) -> None:
    """Puts an :class:`AdaptedLinear` in the place of every linear layer in ``module`` whose last name is one of ``targets``.

    Raises:
        ValueError: a target is the name of none.
    """
    linears = {name: inner for name, inner in module.named_modules() if isinstance(inner, nn.Linear)}
    last = {name.rpartition(".")[2] for name in linears}
    if missing := [target for target in targets if target not in last]:
        raise ValueError(f"lora.targets: the encoder has no layer {missing[0]!r}; it has {', '.join(sorted(last))}")
    for name, linear in linears.items():
        parent, _, own = name.rpartition(".")
        if own in targets:
            setattr(module.get_submodule(parent), own, AdaptedLinear(linear, rank))


@torch.no_grad()
def merge(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with every adapter added to its weight, in float32, under the names of a model without adapters."""
    merged = {name: value for name, value in state.items() if name.rpartition(".")[2] not in (_A, _B)}
    for name, down in state.items():
        layer, _, own = name.rpartition(".")
        if own == _A:
            merged[f"{layer}.weight"] = state[f"{layer}.weight"].float() + state[f"{layer}.{_B}"].float() @ down.float()
    return merged


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside the block ``model`` answers with its adapters added to its weights, as it will once they are published."""
    layers = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    own = [layer.weight.detach().clone() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(layer.weight + layer.lora_b @ layer.lora_a)
            layer.is_merged = True
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, own, strict=True):
                layer.weight.copy_(weight)
                layer.is_merged = False
