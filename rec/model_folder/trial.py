"""A trial run of a model that may be a stranger's: whether it answers, in finite numbers, at a bearable cost."""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from rec.data.batch import model_input
from rec.models.language_encoders import SelfAttention
from rec.models.pretrained_text import text_encoders
from rec.models.soundness import not_finite
from rec.models.text_transformer import attention_numbers

# For one image and phrase: numbers in any one map (2 GB / 4 as float32), and multiplications (SimREC at 416 px: 2e10).
MAX_MAP, MAX_MULTIPLICATIONS = 1 << 27, 3 * 10**12


def trial(model: Any, preprocess: Mapping[str, Any]) -> str | None:
    """Asks ``model`` one phrase about a small grey image; what is wrong with it, or None.

    What a whole image will cost follows from the small one's maps, so nothing large is made (no larger than timm's own image, of
    its models that take no other).

    Args:
        model: on the CPU, in evaluation mode, with its weights.
        preprocess: ``input_shape``, ``mean``, ``std`` and ``max_token_length`` of its config.
    """
    parts = ("visual_backbone", "language_encoder", "encode_image", "ground")
    if not all(hasattr(model, part) for part in parts):
        return f"a {type(model).__name__} is not a model of images and phrases"
    threshold = getattr(model, "mask_threshold", 0.5)
    if type(threshold) not in (int, float) or not math.isfinite(threshold):
        return f"mask_threshold is {threshold!r}, expected a number"
    size, length = preprocess["input_shape"][0], preprocess["max_token_length"] or 1
    attention = [m.num_heads * length**2 for m in model.modules() if isinstance(m, SelfAttention)]
    attention += [attention_numbers(encoder.text, length) for encoder in text_encoders(model).values()]
    if max(attention, default=0) > MAX_MAP // 8:
        return f"attention over {length} words takes too much memory ({max(attention):,} numbers)"
    stride = max(model.visual_backbone.strides)
    # Two cells a side where that divides the input as the input itself does; else what does not fit is found out. Some of
    # timm's models take no image that is smaller than those they were made for.
    sides = [next((side for side in (2 * stride, stride) if size % side == 0), size)]
    if (native := max(getattr(model.visual_backbone, "made_for", (size + 1,)))) > sides[0] and size % native == 0:
        sides.append(native)
    tokens = torch.ones((1, length), dtype=torch.int64)
    for side in sides:
        image = torch.full((1, 3, side, side), 127, dtype=torch.uint8)
        cost, trouble = _Cost(), None
        try:
            # With gradients, layers do without the fast path that would keep this image's size.
            with torch.enable_grad(), ExitStack() as hooks:
                for module in model.modules():
                    hooks.enter_context(module.register_forward_hook(cost.count))
                ready = model_input({"image": image, "tokens": tokens}, preprocess["mean"], preprocess["std"])
                outputs = model.ground(model.encode_image(ready["image"]), tokens)
            break
        except Exception as error:  # whatever the layers say to each other's sizes
            trouble = f"it does not run on an image of {side} x {side} pixels ({type(error).__name__}: {error})"
    if trouble is not None:
        return trouble
    growth = (size / side) ** 2
    if cost.largest * growth > MAX_MAP or cost.multiplications * growth > MAX_MULTIPLICATIONS:
        return (
            f"an image of {size} x {size} pixels takes maps of {cost.largest * growth:.1g} numbers and "
            f"{cost.multiplications * growth:.1g} multiplications; the limits are {MAX_MAP:.1g} and {MAX_MULTIPLICATIONS:.1g}"
        )
    if bool(not_finite(outputs).any()):
        return "its answer to a grey image is not finite"
    return None


class _Cost:
    """Largest output of any layer, and the multiplications of convolutions and linear layers."""

    largest, multiplications = 0, 0

    def count(self, module: nn.Module, _: object, output: object) -> None:
        made = [
            value for value in (output if isinstance(output, list | tuple) else [output]) if isinstance(value, Tensor)
        ]
        self.largest = max([self.largest, *(value.numel() for value in made)])
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Conv2d | nn.Linear) and weight is not None and len(weight):
            self.multiplications += sum(value.numel() for value in made) * weight[0].numel()
