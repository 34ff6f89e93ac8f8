"""Runs of ``scripts/train.py`` on a project of a stranger's: small, real, in processes of their own."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TRAIN = REPOSITORY / "scripts" / "train.py"
WALL_CLOCK = ("images_per_second", "data_wait", "memory_gb", "eta_seconds")


class Project:
    """A folder with ``config.py`` and ``own_parts.py`` in which runs can be started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, "config.py"
        shutil.copytree(Path(__file__).parent / "outside", folder, dirs_exist_ok=True)

    def command(self, *overrides: str, processes: int = 1, profile: str | None = None) -> list[str]:
        """``profile``: of accelerate_configs/, for a single process started by ``accelerate launch``."""
        launch = [sys.executable]
        if processes > 1:
            launch += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0"]
            launch += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        elif profile is not None:
            launch += [
                "-m",
                "accelerate.commands.launch",
                "--config_file",
                f"{REPOSITORY}/accelerate_configs/{profile}",
            ]
        return [*launch, str(TRAIN), self.config, *overrides]

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        return os.environ | own | {"CUDA_VISIBLE_DEVICES": ""}

    def start(self, *overrides: str, processes: int = 1, profile: str | None = None) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*overrides, processes=processes, profile=profile),
            cwd=self.folder, env=self.environment(), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *overrides: str, processes: int = 1, profile: str | None = None, status: int | None = 0) -> str:
        process = self.start(*overrides, processes=processes, profile=profile)
        try:
            output, _ = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            for pid in living(sessions_of(process.pid)):
                os.kill(pid, signal.SIGKILL)
            raise
        assert status is None or process.returncode == status, output
        return output

    def metrics(self, run: str) -> list[dict]:
        """Records of ``metrics.jsonl`` without the wall-clock fields."""
        lines = (self.folder / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [{key: value for key, value in json.loads(line).items() if key not in WALL_CLOCK} for line in lines]

    def hashes(self, run: str) -> dict[str, str]:
        """SHA-256 of every tensor file of the newest checkpoint and of best/."""
        checkpoints = self.folder / run / "checkpoints"
        newest = checkpoints / (checkpoints / "last").read_text(encoding="utf-8").strip()
        files = [newest / name for name in ("model.safetensors", "ema.safetensors", "optimizer.bin")]
        files += [self.folder / run / "best" / "model.safetensors"]
        found = {f"{path.parent.name}/{path.name}": path for path in files if path.exists()}
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}

    def last_update(self, run: str = "run") -> int:
        """The newest update in ``metrics.jsonl``, 0 where there is none; a line that is being written is passed over."""
        file = self.folder / run / "metrics.jsonl"
        for line in reversed(file.read_text(encoding="utf-8").splitlines() if file.exists() else []):
            try:
                return json.loads(line)["update"]
            except ValueError:
                continue
        return 0

    def wait_for_update(self, process: subprocess.Popen, update: int, run: str = "run") -> None:
        """Returns once ``metrics.jsonl`` has reached ``update``."""
        deadline = time.monotonic() + 180
        while self.last_update(run) < update:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, f"update {update} was not reached"
            time.sleep(0.01)


def _table() -> dict[int, tuple[int, int]]:
    """Parent and session of every living process; dead ones that nobody has waited for are left out."""
    table = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            table[int(stat.parent.name)] = (int(fields[1]), int(fields[3]))
    return table


def children(pid: int) -> list[int]:
    """Living children of ``pid``: of a launcher, its ranks in order."""
    return sorted(child for child, (parent, _) in _table().items() if parent == pid)


def sessions_of(pid: int) -> set[int]:
    """Sessions of ``pid`` and its children: torchrun gives each rank one of its own, which outlives the launcher."""
    table = _table()
    return {pid} | {session for parent, session in table.values() if parent == pid}


def living(sessions: set[int]) -> list[int]:
    """Processes of the sessions that still live."""
    return sorted(pid for pid, (_, session) in _table().items() if session in sessions)


def wait_until_dead(sessions: set[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while remaining := living(sessions):
        assert time.monotonic() < deadline, f"processes {remaining} still live after {seconds:g} s"
        time.sleep(0.02)
