"""What happens to a batch on the device, and on its way back."""

from collections.abc import Mapping, Sequence

import torch

from rec.contracts import Batch, Preprocess
from rec.names import moved

__getattr__ = moved(__name__, __name__, {"prepare": "model_input"})


def model_input(batch: Batch, mean: Sequence[float], std: Sequence[float], size: int | None = None) -> Batch:
    """:class:`rec.contracts.Preprocess` for these ``mean`` and ``std``: uint8 to normalised float, and the multi-scale resize."""
    return Preprocess(0, 0, tuple(mean), tuple(std))(batch, size)


class Returning:
    """Tensors on their way to main memory; a GPU goes on computing meanwhile.

    Args:
        tensors: of any device. What comes after on the same stream may write over them.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        on_gpu = any(value.is_cuda for value in tensors.values())
        self._tensors = {name: value.to("cpu", non_blocking=value.is_cuda) for name, value in tensors.items()}
        self._copied = torch.cuda.Event() if on_gpu else None
        if self._copied is not None:
            self._copied.record()

    def wait(self) -> dict[str, torch.Tensor]:
        """The copies, once they are complete; tensors of the CPU are the very same."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensors
