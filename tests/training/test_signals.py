"""Stop requests as schedulers, terminals and memory shortage make them: a checkpoint each time, and the same end.

``python tests/training/test_signals.py 20`` sends that many SIGTERMs to whole process groups and prints a report; CI a few.
"""

import json
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from train_project import Project, children, living, sessions_of, wait_until_dead

WORKERS = 4
# 136 updates of about 20 ms each.
COMMON = (
    "train.log_period=1", "dataset.delay=0.01", f"train.data.num_workers={WORKERS}", "train.epochs=17",
    "train.evaluation.eval_period=6", "train.communication.timeout=60",
)  # fmt: skip
LONG = ("train.epochs=4000", "train.log_period=1", "train.evaluation.enabled=false")
# name: (overrides, processes, launch profile, who gets the signal in turn)
CASES = {
    "one process": ((), 1, None, ("group",)),
    "one process, accumulation": (("train.num_accumulation_steps=2",), 1, None, ("group",)),
    "accelerate launch": ((), 1, "cpu.yaml", ("group", "launcher's group")),
    "torchrun, two processes": ((), 2, None, ("group", "launcher's group")),
}


def stop_once(project: Project, command: tuple[str, ...], run: str, case: str, to: str, rng: random.Random) -> Counter:
    """Starts ``run``, sends SIGTERM at a random moment and lets it end.

    ``to`` says to whom: "group" is every process there is, as systemd and Slurm send it; "launcher's group" is that of the
    command itself, as ``timeout`` sends it (of one process without a launcher it is the same).
    """
    _, processes, profile, _ = CASES[case]
    process = project.start(*command, f"train.output_dir={run}", processes=processes, profile=profile)
    project.wait_for_update(process, rng.randint(1, 100), run)
    time.sleep(rng.uniform(0, 0.03))
    sessions = sessions_of(process.pid)
    everyone = living(sessions)
    assert len(everyone) >= 1 + WORKERS, "the signal finds the workers at work"
    sent = time.monotonic()
    if to == "group":
        for pid in everyone:
            os.kill(pid, signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    wait_until_dead(sessions, 60)
    found = Counter(signals=1, seconds=time.monotonic() - sent)
    update = project.last_update(run)
    log = (project.folder / run / "train.log").read_text(encoding="utf-8")
    last = project.folder / run / "checkpoints" / "last"
    saved = last.exists() and last.read_text(encoding="utf-8") == f"step_{update:08d}\n"
    found["checkpoints"] = saved and f"stopped after update {update} (SIGTERM); the same command continues" in log
    found["statuses"] = process.returncode == 143 if profile is None and processes == 1 else process.returncode != 0
    if not found["checkpoints"]:
        print(output)
    return found


def stop_and_end(folder: Path, case: str, signals: int, seed: int) -> Counter:
    """Stops a run of its own each of ``signals`` times, continues it, and compares its end with one that went through."""
    overrides, processes, profile, ways = CASES[case]
    project, rng, counts = Project(folder), random.Random(seed), Counter()
    command = (*COMMON, *overrides)
    project.run(*command, "train.output_dir=through", processes=processes, profile=profile)
    longest = 0.0
    for number in range(signals):
        run = f"run{number}"
        found = stop_once(project, command, run, case, ways[number % len(ways)], rng)
        longest = max(longest, found.pop("seconds"))
        output = project.run(*command, f"train.output_dir={run}", processes=processes, profile=profile)
        found["resumed"] = "continuing from" in output
        same = project.hashes(run) == project.hashes("through") and project.metrics(run) == project.metrics("through")
        found["identical ends"] = same
        counts.update(found)
    counts["longest"] = longest
    return counts


@pytest.mark.parametrize("case", ["one process", "torchrun, two processes"])
def test_sigterm_to_every_process_is_a_checkpoint_and_the_same_end(case, tmp_path):
    counts = stop_and_end(tmp_path / "project", case, signals=1, seed=1)
    assert all(counts[key] == 1 for key in ("checkpoints", "statuses", "resumed", "identical ends")), counts


def test_a_killed_worker_is_one_paragraph_with_a_checkpoint_and_the_run_continues_to_the_same_end(project):
    command = (*COMMON, "train.num_accumulation_steps=2")
    project.run(*command, "train.output_dir=through")
    process = project.start(*command)
    project.wait_for_update(process, 19)
    worker = next(pid for pid in children(process.pid) if Path(f"/proc/{pid}/comm").read_text() == "pt_data_worker\n")
    os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    update = project.last_update()
    told = f"train.py: error: loader worker {worker} ended unexpectedly (Killed, signal 9), most often because memory ran out"
    assert process.returncode == 2 and told in " ".join(output.split()) and "Traceback" not in output
    assert f"saved after update {update}, the same command continues" in " ".join(output.split())
    assert (project.folder / "run/checkpoints/last").read_text(encoding="utf-8") == f"step_{update:08d}\n"
    assert "continuing from" in project.run(*command)
    assert project.hashes("run") == project.hashes("through") and project.metrics("run") == project.metrics("through")


def until_there_is(project: Project, name: str, statement: str) -> None:
    """Has the data set execute ``statement`` for every sample once the project holds a file called ``name``."""
    parts = project.folder / "own_parts.py"
    text = parts.read_text(encoding="utf-8").replace("import time\n", "import os\nimport time\n")
    first = "        time.sleep(self.delay)\n"
    parts.write_text(text.replace(first, f"{first}        if os.path.exists('{name}'):\n            {statement}\n"))


def test_a_sample_that_cannot_be_read_any_more_costs_no_update(project):
    until_there_is(project, "gone", "raise ValueError(f'sample {index} is gone')")
    process = project.start(*COMMON)
    project.wait_for_update(process, 20)
    (project.folder / "gone").touch()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "is gone" in output
    saved = (project.folder / "run/checkpoints/last").read_text(encoding="utf-8")
    assert saved == f"step_{project.last_update():08d}\n"


def test_a_stop_request_in_an_evaluation_cuts_it_short_and_it_comes_first_afterwards(project):
    processes = 2  # and so do all: a request to one alone would leave the other waiting
    until_there_is(project, "slow", "time.sleep(2 * (self.first > 0))")  # evaluation takes minutes
    command = ("train.log_period=1", "train.epochs=2", "dataset.delay=0.01")
    project.run(*command, "train.output_dir=through", processes=processes)
    (project.folder / "slow").touch()
    process = project.start(*command, processes=processes)
    project.wait_for_update(process, 8)
    time.sleep(1)
    sessions = sessions_of(process.pid)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    wait_until_dead(sessions, 30)
    assert "stopped after update 8 (SIGTERM); the same command continues from there" in output
    assert "evaluation val" not in output
    assert (project.folder / "run/checkpoints/last").read_text(encoding="utf-8") == "step_00000008\n"
    (project.folder / "slow").unlink()
    project.run(*command, processes=processes)
    assert project.hashes("run") == project.hashes("through") and project.metrics("run") == project.metrics("through")
    state = json.loads(
        (project.folder / "run/checkpoints/step_00000008/trainer_state.json").read_text(encoding="utf-8")
    )
    assert state["due_evaluation"] is False


def test_a_terminal_that_goes_away_is_a_stop_request_and_its_progress_bar_breaks_nothing(project):
    child, outer = pty.fork()
    if not child:
        os.chdir(project.folder)
        command = project.command(*LONG)
        os.execvpe(command[0], command, project.environment())
    termios.tcsetwinsize(outer, (24, 100))
    shown, deadline = b"", time.monotonic() + 120
    while b"update/s" not in shown and b"s/update" not in shown:  # the bar
        shown += os.read(outer, 1000)
        assert time.monotonic() < deadline, shown
    os.close(outer)
    _, status = os.waitpid(child, 0)
    update = project.last_update()
    assert os.waitstatus_to_exitcode(status) == 129
    assert f"stopped after update {update} (SIGHUP)" in (project.folder / "run/train.log").read_text(encoding="utf-8")
    assert (project.folder / "run/checkpoints/last").read_text(encoding="utf-8") == f"step_{update:08d}\n"


def shell(project: Project, line: str, *overrides: str) -> subprocess.Popen:
    """Starts a line of shell in a process group of its own; ``$TRAIN`` in it stands for the training."""
    command = " ".join(f"'{word}'" for word in project.command(*overrides))
    return subprocess.Popen(
        ["bash", "-c", line.replace("$TRAIN", command)], cwd=project.folder, env=project.environment(), text=True,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize(
    "line", ["$TRAIN 2>&1 >/dev/full | head -c 1", "$TRAIN >&- 2>&-", "$TRAIN 2>/dev/full | head -1"]
)
def test_a_console_that_is_closed_or_full_ends_no_training_and_the_log_has_everything(line, project):
    process = shell(project, f"{line}; exit ${{PIPESTATUS[0]}}", "train.log_period=1")
    output, _ = process.communicate(timeout=120)
    log = (project.folder / "run/train.log").read_text(encoding="utf-8")
    assert project.last_update() == 24 and all(f" {update}/24 " in log for update in range(1, 25)), output
    assert process.returncode == 0
    assert "saved step_00000024" in log and "Traceback" not in output


def test_nohup_keeps_hangups_out_and_ctrl_c_that_ends_tee_first_still_saves(project):
    process = shell(project, "nohup $TRAIN 2>&1 | tee console; exit ${PIPESTATUS[0]}", *LONG)
    project.wait_for_update(process, 3)
    training = next(pid for pid in children(process.pid) if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(training, signal.SIGHUP)
    project.wait_for_update(process, project.last_update() + 20)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    update = project.last_update()
    assert process.returncode == 130
    assert f"stopped after update {update} (SIGINT)" in (project.folder / "run/train.log").read_text(encoding="utf-8")
    assert (project.folder / "run/checkpoints/last").read_text(encoding="utf-8") == f"step_{update:08d}\n"


def test_a_second_sigterm_says_where_the_run_will_continue(project):
    until_there_is(project, "slow", "time.sleep(100)")
    process = project.start(*LONG)
    project.wait_for_update(process, 20)
    (project.folder / "slow").touch()
    for _ in range(3):  # `timeout` sends two, a launcher its own
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
    assert process.poll() is None, "they are one request"
    time.sleep(5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 143
    last = (project.folder / "run/checkpoints/last").read_text(encoding="utf-8")
    told = (
        f"process {process.pid} ends at once (a second SIGTERM); the same command continues from run/checkpoints/{last}"
    )
    assert told in output


def report(total: int) -> None:
    """Sends ``total`` SIGTERMs, the cases in turn, and prints what was counted."""
    import tempfile
    from importlib.metadata import version

    started, counts, longest = time.monotonic(), Counter(), 0.0
    print(
        f"{'case':28}{'SIGTERMs':>10}{'checkpoints':>13}{'right status':>14}{'resumes':>9}{'identical ends':>16}{'longest':>10}"
    )

    def row(name: str, found: Counter, slowest: float) -> None:
        columns = ("signals", "checkpoints", "statuses", "resumed", "identical ends")
        values = zip((found[key] for key in columns), (10, 13, 14, 9, 16), strict=True)
        print(f"{name:28}" + "".join(f"{value:>{width}}" for value, width in values) + f"{slowest:>8.1f} s", flush=True)

    for number, case in enumerate(CASES):
        if share := total // len(CASES) + (number < total % len(CASES)):
            with tempfile.TemporaryDirectory() as folder:
                found = stop_and_end(Path(folder) / "project", case, share, seed=number)
            slowest = found.pop("longest")
            longest = max(longest, slowest)
            counts.update(found)
            row(case, found, slowest)
    row("all", counts, longest)
    print(f"{WORKERS} workers for each process; {time.strftime('%Y-%m-%d')}, torch {version('torch')}, ", end="")
    print(f"accelerate {version('accelerate')}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, ", end="")
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    report(int(sys.argv[1]))
