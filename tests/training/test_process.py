"""Signals of a training process and of those it forks."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from rec.training import process
from rec.training.process import StopRequest


def in_a_child(work):
    """Runs ``work`` in a forked process, whose signals are then its own affair; returns its exit status."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signal_to_a_forked_child_is_not_its_parents(tmp_path):
    def work():
        stop = StopRequest(tmp_path, 60, os.getppid())
        other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(100,))
        other.start()
        other.terminate()
        other.join(10)
        assert other.exitcode == -signal.SIGTERM
        time.sleep(0.2)
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGHUP)
        until(lambda: stop.requested)
        assert (stop.reason, stop.exit_status) == ("SIGHUP", 129)

    assert in_a_child(work) == 0


def test_a_fork_in_a_process_that_trained_twice_leaves_no_signal_blocked(tmp_path):
    def work():
        for _ in range(2):
            StopRequest(tmp_path, 60, os.getppid())
        other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0,))
        other.start()
        other.join(10)
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())

    assert in_a_child(work) == 0


def test_a_hangup_that_nohup_ignores_stays_ignored_and_repeats_are_one_request(tmp_path):
    def work():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop = StopRequest(tmp_path, 60, os.getppid())
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.2)
        assert not stop.requested
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.02)
        assert stop.reason == "SIGTERM"

    assert in_a_child(work) == 0


@pytest.mark.parametrize("there_is_one", [True, False])
def test_a_second_ctrl_c_ends_a_process_whose_main_thread_waits(there_is_one, tmp_path, capfd):
    if there_is_one:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "last").write_text("step_00000008\n")

    def work():
        StopRequest(tmp_path, 60, os.getppid())
        main = os.getpid()
        if not os.fork():
            for pause in (0.1, 0.5):
                time.sleep(pause)
                os.kill(main, signal.SIGINT)
            os._exit(0)
        while True:
            time.sleep(100)

    assert in_a_child(work) == 130
    start = f"continues from {tmp_path}/checkpoints/step_00000008" if there_is_one else "starts anew"
    assert f"ends at once (a second SIGINT); the same command {start}" in capfd.readouterr().err


def test_a_system_that_tells_no_affinity_has_all_its_cores(monkeypatch):
    given = []
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(process, "_user_chose_threads", lambda: False)
    monkeypatch.setenv(process.LAUNCH_MARKS[0], "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    process.use_all_cores(2)
    assert given == [4]
