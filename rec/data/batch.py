"""What happens to a batch on the device, under the name that configs and code of 0.1 know it by."""

from collections.abc import Sequence

from rec.contracts import Batch, Preprocess


def prepare(batch: Batch, mean: Sequence[float], std: Sequence[float], size: int | None = None) -> Batch:
    """:class:`rec.contracts.Preprocess` for these ``mean`` and ``std``: uint8 to normalised float, and the multi-scale resize."""
    return Preprocess(0, 0, tuple(mean), tuple(std))(batch, size)
