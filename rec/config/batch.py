"""Batch-size arithmetic, in one place."""

from rec.config.errors import ConfigError


def solve_batch_size(
    total: int | None = None, per_process: int | None = None, processes: int = 1, accumulation: int | None = None
) -> tuple[int, int, int]:
    """Solve ``total = per_process * processes * accumulation`` for what is None; accumulation is 1 if undetermined.

    Returns:
        (total, per_process, accumulation), in samples, samples and steps.

    Raises:
        ConfigError: contradictory, indivisible or too few numbers; the message shows them.
    """
    numbers = {"total": total, "per_process": per_process, "processes": processes, "accumulation": accumulation}
    shown = ", ".join(f"{k}={v}" for k, v in numbers.items())
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError(f"batch size: {name} must be a whole number of at least 1, not {value!r} ({shown})")
    if total is None and per_process is None:
        raise ConfigError(f"batch size: give the total or the size per process ({shown})")
    if accumulation is None:
        accumulation = max(1, total // (per_process * processes)) if total and per_process else 1
    if per_process is None:
        per_process = max(1, (total or 0) // (processes * accumulation))
    solved = per_process * processes * accumulation
    if total not in (None, solved):
        text = f"batch size: total {total} is not {per_process} per process x {processes} processes x {accumulation}"
        raise ConfigError(f"{text} accumulation steps = {solved} ({shown})")
    return solved, per_process, accumulation
