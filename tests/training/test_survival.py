"""A run that is killed again and again ends with the same bytes as one that is not.

``REC_KILLS`` sets the kills per case (the default keeps CI short; ``python tests/training/test_survival.py 200`` spreads that many
over all cases and prints a summary).
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from train_project import Project

KILLS = int(os.environ.get("REC_KILLS", "2"))
COMMON = ("train.epochs=12", "train.log_period=1", "dataset.delay=0.003", "train.checkpointer.period=3")
CASES = {
    "one process": ((), 1, ("group",)),
    "accumulation, workers": (("train.num_accumulation_steps=2", "train.data.num_workers=2"), 1, ("group",)),
    "multi-scale": (
        ("train.multi_scale_training.enabled=true", "train.multi_scale_training.img_scales=[[32,32],[48,48]]"), 1, ("group",),
    ),
    "two processes": ((), 2, ("group", "launcher", "rank")),
}  # fmt: skip


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [int(child) for child in listed]


def alive(group: int) -> bool:
    """Whether a process of the group still runs; dead ones that nobody has waited for do not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def last_update(folder: Path) -> int:
    file = folder / "run" / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line in reversed(lines):
        try:
            return json.loads(line)["update"]
        except ValueError:
            continue
    return 0


def saving(folder: Path) -> bool:
    return any((folder / "run" / "checkpoints").glob(".step_*"))


def kill_once(project: Project, command, processes: int, way: str, inside_save: bool, rng: random.Random) -> str | None:
    """Starts the run and kills it; returns "save", "step" or None when it had finished before."""
    process = project.start(*command, processes=processes)
    target = last_update(project.folder) + rng.randint(1, 25)
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        if saving(project.folder) if inside_save else last_update(project.folder) >= target:
            break
        time.sleep(0.0005)
    if process.poll() is not None:
        assert process.returncode == 0, process.stdout.read()
        return None
    time.sleep(rng.random() * (0.004 if inside_save else 0.03))
    ranks = children(process.pid) if processes > 1 else []
    if way == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif way == "launcher":
        process.kill()
    else:
        os.kill(rng.choice(ranks), signal.SIGKILL)
    was_saving = saving(project.folder)
    deadline = time.monotonic() + 120
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(process.pid), f"processes outlived the death of the {way}"
    process.communicate()
    return "save" if was_saving else "step"


def survive(folder: Path, case: str, kills: int, seed: int) -> dict[str, int]:
    """Compares a run that goes through with one that is killed ``kills`` times; returns how many kills fell where."""
    overrides, processes, ways = CASES[case]
    project, rng = Project(folder), random.Random(seed)
    command = (*COMMON, *overrides)
    project.run(*command, "train.output_dir=through", processes=processes)
    counts = {"save": 0, "step": 0}
    attempts = 0
    while sum(counts.values()) < kills and attempts < 3 * kills:
        where = kill_once(project, command, processes, ways[attempts % len(ways)], attempts % 3 == 2, rng)
        attempts += 1
        if where is None:
            break
        counts[where] += 1
    project.run(*command, processes=processes)
    assert project.hashes("run") == project.hashes("through")
    assert project.metrics("run") == project.metrics("through")
    assert not saving(folder)
    return counts


@pytest.mark.parametrize("case", CASES)
def test_killed_runs_end_bit_identical(case, tmp_path):
    assert sum(survive(tmp_path / "project", case, KILLS, seed=len(case)).values()) > 0


def test_the_number_of_processes_may_change_between_restarts(project):
    command = (*COMMON, "train.train_iter=40")
    project.run(*command, "train.output_dir=through")
    first = project.start(*command, processes=2)
    while last_update(project.folder) < 9 and first.poll() is None:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    output = project.run(*command)
    assert "changed since the checkpoint: processes: 2 -> 1" in output
    assert [record["update"] for record in project.metrics("run")] == [r["update"] for r in project.metrics("through")]


if __name__ == "__main__":
    import tempfile

    total, done, started = int(sys.argv[1]), 0, time.monotonic()
    while done < total:
        for name in CASES:
            with tempfile.TemporaryDirectory() as temporary:
                counts = survive(Path(temporary) / "project", name, min(10, total - done), seed=done)
            done += sum(counts.values())
            print(f"{done} kills, {name}: {counts}, identical, {time.monotonic() - started:.0f} s", flush=True)
            if done >= total:
                break
