"""What happens to a batch on the device: uint8 to normalised float, and the multi-scale resize."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


def prepare(
    batch: dict[str, Any], mean: Sequence[float], std: Sequence[float], size: int | None = None
) -> dict[str, Any]:
    """Prepares a collated batch for the model, on whatever device its tensors are.

    Args:
        batch: see ``docs/architecture.md``; ``image`` is uint8 ``(B, 3, S, S)``, ``mask`` (optional) uint8 ``(B, 1, S, S)``.
        mean, std: per channel, of images scaled to [0, 1].
        size: side in pixels to resize ``image`` and ``mask`` to, by nearest neighbour (SimREC's multi-scale training).
            Boxes are fractions of the square and need no change.

    Returns:
        A new dict in which ``image`` is float32 ``(B, 3, S', S')`` in channels-last memory.
    """
    image, mask = batch["image"], batch.get("mask")
    if size is not None and size != image.shape[-1]:
        image = F.interpolate(image, size=(size, size), mode="nearest")
        mask = None if mask is None else F.interpolate(mask, size=(size, size), mode="nearest")
    image = image.to(torch.float32, memory_format=torch.channels_last).div_(255)
    if any(mean) or any(value != 1 for value in std):
        shape = (1, -1, 1, 1)
        image = image.sub_(image.new_tensor(list(mean)).view(shape)).div_(image.new_tensor(list(std)).view(shape))
    return batch | {"image": image} | ({} if mask is None else {"mask": mask})
