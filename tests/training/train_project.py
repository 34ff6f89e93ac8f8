"""Runs of ``scripts/train.py`` on a project of a stranger's: small, real, in processes of their own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TRAIN = REPOSITORY / "scripts" / "train.py"
WALL_CLOCK = ("images_per_second", "data_wait", "memory_gb", "eta_seconds")


class Project:
    """A folder with ``config.py`` and ``own_parts.py`` in which runs can be started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, "config.py"
        shutil.copytree(Path(__file__).parent / "outside", folder, dirs_exist_ok=True)

    def command(self, *overrides: str, processes: int = 1) -> list[str]:
        launch = [sys.executable]
        if processes > 1:
            launch += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "0"]
            launch += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        return [*launch, str(TRAIN), self.config, *overrides]

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        return os.environ | own | {"CUDA_VISIBLE_DEVICES": ""}

    def start(self, *overrides: str, processes: int = 1) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*overrides, processes=processes),
            cwd=self.folder, env=self.environment(), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *overrides: str, processes: int = 1, status: int | None = 0) -> str:
        process = self.start(*overrides, processes=processes)
        output, _ = process.communicate(timeout=300)
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
