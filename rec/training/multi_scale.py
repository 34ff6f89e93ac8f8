"""Multi-scale training: one square size per optimizer update, the same on every process."""

from collections.abc import Sequence

import numpy as np


def image_size(seed: int, update: int, scales: Sequence[Sequence[int]]) -> int:
    """Side in pixels for this update, uniform over ``scales`` (``[[224, 224], …]``), a function of (seed, update).

    Raises:
        ValueError: a scale that is not square.
    """
    height, width = scales[int(np.random.default_rng((seed, 1, update)).integers(len(scales)))]
    if height != width:
        raise ValueError(f"train.multi_scale_training.img_scales has [{height}, {width}]: sizes must be square")
    return int(height)
