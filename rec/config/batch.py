"""Batch-size arithmetic, in one place."""

from rec.config.errors import ConfigError


def solve_batch_size(
    total: int | None = None, per_process: int | None = None, processes: int = 1, accumulation: int | None = None
) -> tuple[int, int, int]:
    """Solve ``total = per_process * processes * accumulation`` for what is None; returns all but ``processes``.

    ``accumulation`` is 1 if nothing determines it. Raises ConfigError, with the numbers, if they contradict each other.
    """
    given = {"total": total, "per_process": per_process, "processes": processes, "accumulation": accumulation}
    if any(v is not None and (type(v) is not int or v < 1) for v in given.values()) or not (total or per_process):
        raise ConfigError(f"batch size: {given} must be whole numbers of at least 1, the total or per_process given")
    accumulation = accumulation or (max(1, total // (per_process * processes)) if total and per_process else 1)
    per_process = per_process or max(1, (total or 0) // (processes * accumulation))
    solved = per_process * processes * accumulation
    if total not in (None, solved):
        product = f"{per_process} per process x {processes} processes x {accumulation} accumulation steps = {solved}"
        raise ConfigError(f"batch size: {total} in total is not {product}")
    return solved, per_process, accumulation
