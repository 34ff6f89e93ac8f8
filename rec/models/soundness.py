"""Whether the numbers in a model, and the numbers it answers with, are ones that mean something."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rec.errors import RecError


class PredictionError(RecError, ValueError):
    """A model answered with numbers that are not finite; the text names its weights and says what to do."""


def unsound(model: nn.Module) -> str | None:
    """What is wrong with the first tensor of ``model`` that cannot predict anything; None where all can.

    Looked at as the model holds them: a float64 of 1e300 is finite in its file and infinite in a float32 model.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.numel() and not all(map(torch.isfinite, torch.aminmax(value))):
            return f"{name} holds values that are not finite"
    for name, module in model.named_modules():
        variance = getattr(module, "running_var", None)
        if isinstance(variance, Tensor) and bool((variance < 0).any()):
            return f"{name}.running_var holds negative values, and is a variance"
    return None


def not_finite(outputs: Mapping[str, Tensor]) -> Tensor:
    """Which of B predictions hold NaN or, in box or score, infinity: bool ``(B,)``.

    Args:
        outputs: of a model in evaluation mode: ``box`` ``(B, 4)``, ``score`` ``(B,)``, ``mask`` logits ``(B, 1, S, S)``,
            those that it gives; an infinite mask logit is a probability of 0 or 1.
    """
    flags = [~torch.isfinite(outputs[name]).flatten(1).all(1) for name in ("box",) if name in outputs]
    flags += [~torch.isfinite(outputs["score"])] if "score" in outputs else []
    flags += [torch.isnan(outputs["mask"]).flatten(1).any(1)] if "mask" in outputs else []
    return torch.stack(flags).any(0) if flags else torch.zeros(0, dtype=torch.bool)


Shapes = Mapping[str, tuple[int, ...]]


def differences(own: Shapes, found: Shapes) -> dict[str, list[str]]:
    """Names in which tensors that were found differ from a model's own, by what is wrong with them; none where nothing is."""
    both = sorted(own.keys() & found.keys())
    wrong = {
        "missing": sorted(own.keys() - found.keys()),
        "unexpected": sorted(found.keys() - own.keys()),
        "of another shape": [f"{n} {found[n]} instead of {own[n]}" for n in both if own[n] != found[n]],
    }
    return {what: names for what, names in wrong.items() if names}
