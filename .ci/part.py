"""Runs one part of ``.ci/run`` and says how long it took and how much memory it held.

    python3 .ci/part.py NAME COMMAND ...

Peak memory is that of the command and all processes below it together, sampled every five seconds: proportional set sizes,
so that pages they share count once. Where /proc does not tell, it is the largest single process.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

PERIOD = 5.0  # to add up the pages of a large process costs a tenth of a second


def below(root: int) -> list[int]:
    """``root`` and its living descendants."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # ended in the meantime
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def held(pids: list[int]) -> int:
    """Bytes that the processes hold together."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        except OSError:  # ended, or another system
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def main() -> int:
    name, command = sys.argv[1], sys.argv[2:]
    print(f"== {name}", flush=True)
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command)
    while True:
        try:
            status = process.wait(PERIOD)
            break
        except subprocess.TimeoutExpired:
            peak = max(peak, held(below(process.pid)))
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << (0 if sys.platform == "darwin" else 10)
    seconds = time.monotonic() - started
    memory = f"peak memory {max(peak, largest) / 1e9:.1f} GB, the largest process {largest / 1e9:.1f} GB"
    print(f"== {name}: {seconds:.0f} s, {memory}" + (f", exit status {status}" if status else ""), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
