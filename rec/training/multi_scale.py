"""Multi-scale training: one square size per optimizer update, the same on every process."""

from collections.abc import Sequence

import numpy as np


def image_size(seed: int, update: int, scales: Sequence[Sequence[int]]) -> int:
    """Side in pixels for this update, uniform over the squares ``[[224, 224], …]``, a function of (seed, update)."""
    return scales[int(np.random.default_rng((seed, 1, update)).integers(len(scales)))][0]
