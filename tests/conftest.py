"""The tests send signals to what they start: whoever starts them may ignore or block some (``nohup``, a shell's ``&``).

A run that is trained in a test's own process leaves its log's file to later ones: each test begins without.
What ``hypothesis`` tries is judged by what comes out, never by how long a busy machine took over it.

Where several pytest processes share the machine (``make test``), each computes with one thread: threads of two processes on
the same cores spend three quarters of a training waiting for each other.
"""

import logging
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

SCRIPTS = Path(__file__).parents[1] / "scripts"

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; what a test starts inherits it
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _usual_logging():
    logger = logging.getLogger("rec")
    before = logger.handlers, logger.level, logger.propagate, logging.raiseExceptions
    yield
    for handler in logger.handlers:
        if handler not in before[0]:
            handler.close()
    logger.handlers, logger.level, logger.propagate, logging.raiseExceptions = before


@pytest.fixture
def call_script(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a script as its user types it, in this process: its name, its words; gives exit status, stdout and stderr."""

    def run(name: str, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        monkeypatch.syspath_prepend(SCRIPTS)  # as Python does; runpy leaves it as it is
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
        return int(ended.value.code or 0), *capsys.readouterr()

    return run
