"""A run that is killed again and again ends with the same bytes as one that is not.

``python tests/training/test_survival.py 200`` spreads that many kills over all cases and prints a report; CI kills a few times.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from train_project import Project, children, living, sessions_of, wait_until_dead

from rec.training.resume import damage

# A checkpoint every three updates, in the middle of epochs of eight; EMA is on.
COMMON = (
    "train.log_period=1", "dataset.delay=0.001", "train.checkpointer.period=3", "train.communication.timeout=20",
)  # fmt: skip
SWITCHES = (
    "train.num_accumulation_steps=2", "train.data.num_workers=2",
    "train.multi_scale_training.enabled=true", "train.multi_scale_training.img_scales=[[32,32],[48,48]]",
)  # fmt: skip
# name: (overrides, processes, launch profile, what is killed in turn)
CASES = {
    "one process": ((), 1, None, ("group",)),
    "one process, all switches": (SWITCHES, 1, None, ("group",)),
    "one process under accelerate launch": ((), 1, "cpu.yaml", ("group", "launcher", "rank")),
    "two processes": ((), 2, None, ("group", "launcher", "rank")),
    "two processes, all switches": (SWITCHES, 2, None, ("group", "launcher", "rank")),
}
HORIZON = 0.7  # seconds of training within which a kill falls; the moment is uniform
AIMS = ("any", "save", "any", "save", "any", "save", "start", "save")
SAVE = 0.025  # seconds after a save has begun within which a kill aimed at it falls


def save_begun(folder: Path, since: float) -> float | None:
    """When the save that is going on began, by the time of its temporary folder; None where there is none."""
    for temporary in (folder / "run" / "checkpoints").glob(".step_*"):
        try:
            begun = min(path.stat().st_ctime for path in (temporary, *temporary.iterdir()))
        except OSError:
            continue  # renamed meanwhile: it is complete
        if begun >= since:  # not left over from the kill before
            return begun
    return None


def kill_once(project: Project, command, case: str, way: str, rng: random.Random, aim: str) -> str | None:
    """Starts the run and kills it: ``way`` is "group" (every process), "launcher" or "rank" (one of them).

    ``aim`` says when: "start" (while it starts), "any" (while it trains) or "save" (while it writes a checkpoint).

    Returns:
        Where it was hit ("save", "step" or "start"), or None when it had finished before.
    """
    _, processes, profile, _ = CASES[case]
    metrics = project.folder / "run" / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    started = time.time()
    process = project.start(*command, processes=processes, profile=profile)
    if aim == "start":
        time.sleep(rng.uniform(0, 5))
    else:
        while process.poll() is None and (metrics.stat().st_mtime_ns if metrics.exists() else 0) == before:
            assert time.time() - started < 180, "training did not begin"
            time.sleep(0.005)
        while aim == "save" and process.poll() is None and save_begun(project.folder, started) is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, SAVE if aim == "save" else HORIZON))
    if process.poll() is not None:
        assert process.returncode == 0, process.stdout.read()
        return None
    sessions, ranks = sessions_of(process.pid), children(process.pid)
    victims = {"group": [process.pid, *living(sessions)], "launcher": [process.pid]}.get(way) or [
        rng.choice(ranks or [process.pid])
    ]
    killed = time.time()
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    begun = save_begun(project.folder, started)
    wait_until_dead(sessions, 120)
    process.communicate()
    if begun is not None and begun <= killed:
        return "save"
    return "start" if aim == "start" else "step"


def survive(folder: Path, case: str, kills: int, epochs: int, seed: int) -> Counter:
    """Kills a run ``kills`` times, lets it end, and compares it with one that went through; returns what was counted."""
    overrides, processes, profile, ways = CASES[case]
    project, rng, counts = Project(folder), random.Random(seed), Counter()
    command = (*COMMON, *overrides, f"train.epochs={epochs}")
    project.run(*command, "train.output_dir=through", processes=processes, profile=profile)
    for attempt in range(kills):
        way = ways[attempt % len(ways)]
        where = kill_once(project, command, case, way, rng, AIMS[attempt % len(AIMS)])
        if where is None:
            break
        counts.update([where, f"{way} killed", "kills"])
        counts["damaged"] += sum(damage(found) is not None for found in (folder / "run/checkpoints").glob("step_*"))
    project.run(*command, processes=processes, profile=profile)
    log = (folder / "run" / "train.log").read_text(encoding="utf-8")
    counts["damaged"] += log.count("is damaged and passed over")
    counts["resumes"] = log.count("continuing from")
    counts["runs"] = 1
    counts["files compared"] = len(project.hashes("through"))
    through, run = project.hashes("through").items(), project.hashes("run").items()
    counts["differences"] = len(through ^ run) + (project.metrics("run") != project.metrics("through"))
    assert not list((folder / "run").glob("**/.*.tmp")), "a left-over stays"
    return counts


@pytest.mark.parametrize(("case", "kills"), [("one process, all switches", 2), ("two processes, all switches", 3)])
def test_killed_runs_end_bit_identical(case, kills, tmp_path):
    counts = survive(tmp_path / "project", case, kills, epochs=16, seed=kills)
    assert counts["kills"] and counts["resumes"] and not counts["damaged"] and not counts["differences"], counts


def report(total: int) -> None:
    """Kills ``total`` times over all cases, two runs at a time, and prints what was counted."""
    import tempfile
    from concurrent.futures import ThreadPoolExecutor
    from importlib.metadata import version

    started, counts, per_case = time.monotonic(), Counter(), {name: Counter() for name in CASES}
    names = list(CASES)

    def one(number: int) -> None:
        name = names[number % len(names)]
        while (missing := share[number] - done[number]) > 0:
            with tempfile.TemporaryDirectory() as temporary:
                found = survive(Path(temporary) / "project", name, missing, epochs=75, seed=1000 * number + missing)
            done[number] += found["kills"]
            counts.update(found)
            per_case[name].update(found)
            print(f"{counts['kills']} kills, {time.monotonic() - started:.0f} s: {name}: {dict(found)}", flush=True)

    runs = max(1, total // 20)
    share = [total // runs + (number < total % runs) for number in range(runs)]
    done = [0] * runs
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(runs)))
    print(f"\n{'case':38}{'kills':>6}{'in a save':>11}{'at start':>10}{'resumes':>9}{'damaged':>9}{'differences':>13}")
    for name, found in [*per_case.items(), ("all", counts)]:
        row = (found[key] for key in ("kills", "save", "start", "resumes", "damaged", "differences"))
        print(
            f"{name:38}" + "".join(f"{value:>{width}}" for value, width in zip(row, (6, 11, 10, 9, 9, 13), strict=True))
        )
    ways = ", ".join(f"{way} {counts[f'{way} killed']}" for way in ("group", "launcher", "rank"))
    print(f"killed: {ways}; {counts['runs']} runs, {counts['files compared']} files and all metrics compared")
    print(f"{time.strftime('%Y-%m-%d')}, torch {version('torch')}, accelerate {version('accelerate')}, ", end="")
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    report(int(sys.argv[1]))
