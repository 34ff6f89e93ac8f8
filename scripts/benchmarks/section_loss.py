"""Section ``loss``: assignment and losses alone, from raw head outputs."""

import warnings
from collections.abc import Callable
from typing import Any

from benchmarks.inputs import Options
from benchmarks.timing import Row, interleave, ratio, single


def run(options: Options) -> list[Row]:
    import torch

    from benchmarks.plain_loss import plain_losses
    from benchmarks.section_model import count_operations
    from rec.models.heads import REChead

    device = torch.device(options.device)
    count = max(options.batches)
    head = REChead(strides=[32]).to(device)
    raw, box = raw_outputs(count, options.size // 32)
    raw, box = raw.to(device), box.to(device)
    label = box[:, None]

    def backward(losses: Callable[[Any], Any]) -> None:
        leaf = raw.detach().requires_grad_()
        losses(leaf)["loss"].backward()

    def many(losses: Callable[[Any], Any], repeats: int) -> None:
        for _ in range(repeats):
            losses(raw)

    ours: Callable[[Any], Any] = lambda x: head.losses(x, box)  # noqa: E731
    plain: Callable[[Any], Any] = lambda x: plain_losses(x, label, 32)  # noqa: E731
    rounds = 4 * options.rounds
    forward = interleave({"ours": lambda: many(ours, 10), "plain": lambda: many(plain, 1)}, rounds, device)
    forward["ours"] = [seconds / 10 for seconds in forward["ours"]]
    both = interleave({"ours": lambda: backward(ours), "plain": lambda: backward(plain)}, rounds, device)
    name = f"loss with assignment alone, batch {count}"
    rows = [
        ratio(name, forward, "plain", "ours"),
        ratio(f"{name}, with backward", both, "plain", "ours"),
        single("tensor operations, ours", count_operations(lambda: ours(raw))[0], "operations"),
        single("tensor operations, plain", count_operations(lambda: plain(raw))[0], "operations"),
    ]
    if device.type == "cuda":
        waits = host_synchronisations(lambda: ours(raw))
        rows.append(single("host synchronisations of loss and assignment", waits, "times"))
    return rows


def host_synchronisations(run: Callable[[], Any]) -> int:
    """How often ``run`` makes the host wait for the GPU, as torch reports it."""
    import torch

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in seen)


def raw_outputs(count: int, grid: int) -> tuple[Any, Any]:
    """Raw outputs ``(B, 5, grid, grid)`` whose boxes are partly right, and targets ``(B, 4)`` as fractions."""
    import torch

    generator = torch.Generator().manual_seed(3)
    raw = torch.randn(count, 5, grid, grid, generator=generator) * 0.3
    raw[:, 2:4] += 1.2
    centre = torch.rand(count, 2, generator=generator) * 0.6 + 0.2
    return raw, torch.cat([centre, torch.rand(count, 2, generator=generator) * 0.45 + 0.2], 1)
