"""How many processor cores there are to use, and how many threads."""

import os

_process = os.getpid()


def usable_cores() -> int:
    """Those that this process may run on (``taskset``, containers); on macOS, which does not tell, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_after_fork() -> None:
    """In a forked process, torch computes in one thread from the first call on: OpenMP's others stayed in the parent, and what
    waits for them waits for ever. Elsewhere nothing is changed."""
    global _process
    if _process != os.getpid():
        import torch

        _process = os.getpid()
        torch.set_num_threads(1)
