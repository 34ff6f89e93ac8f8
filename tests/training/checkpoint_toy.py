"""A model in training without the script around it, and ways to damage what it saves."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from torch import nn

from rec import model_folder
from rec.training import resume
from rec.training.checkpoint import CheckpointWriter, folder_of
from rec.training.checkpoint_format import STATE, TrainerState
from rec.training.ema import EMA

CONFIG = {
    "model": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2},
    "preprocess": {"input_shape": [32, 32], "mean": [0.0] * 3, "std": [1.0] * 3, "max_token_length": 5},
    "about": {"dataset": "toy", "split": "train", "sources": [], "samples": 1},
}


class Run:
    """A model in training, without the script around it."""

    def __init__(self, output_dir: Path, seed: int = 0, width: int = 256) -> None:
        torch.manual_seed(seed)
        self.folder, self.accelerator, self.lines = output_dir, Accelerator(cpu=True), []
        self.width = width
        self.model = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width))
        # Accelerate restores what it has prepared.
        self.optimizer = self.accelerator.prepare(torch.optim.AdamW(self.model.parameters()))
        self.ema = EMA(self.model, 0.9)
        self.writer = CheckpointWriter(output_dir, 2, self.lines.append)
        self.update = 0

    def step(self) -> None:
        self.model(torch.randn(8, self.width)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)
        self.update += 1

    def save(self) -> Path:
        state = TrainerState(update=self.update, ema_updates=self.ema.updates)
        publish = partial(model_folder.write, self.folder / "best", config=CONFIG, vocabulary=None)
        self.writer.save(self.accelerator, self.model, self.optimizer, self.ema, state, publish)
        self.writer.wait()
        return folder_of(self.folder, self.update)

    def restore(self, current: TrainerState | None = None, **train: Any) -> tuple[TrainerState, list[str]]:
        """What ``scripts/train.py`` does at its start."""
        options = {"output_dir": str(self.folder), "auto_resume": {"enabled": True}, "resume_path": ""} | train
        cfg = OmegaConf.create({"train": options})
        return resume.restore(cfg, self.accelerator, self.model, self.ema, current or TrainerState())

    def values(self) -> list[torch.Tensor]:
        """Everything a checkpoint restores: weights, EMA, the optimizer's moments, torch's random state."""
        moments = [value for state in self.optimizer.state_dict()["state"].values() for value in state.values()]
        tensors = [*self.model.state_dict().values(), *self.ema.shadow.values(), *moments, torch.get_rng_state()]
        return [value.clone() for value in tensors]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


Damage = Callable[[Path], Any]


def edit(**changes: Any) -> Damage:
    """Changes values of a state file by hand."""

    def apply(path: Path) -> None:
        values = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(values | changes), encoding="utf-8")

    return apply


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def overwrite_start(path: Path) -> None:
    path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])


def as_version_1(folder: Path) -> None:
    """Rewrites the state file as version 0.1 wrote it: sizes in place of digests."""
    path = folder / STATE
    values = json.loads(path.read_text(encoding="utf-8"))
    for key in ("format", "xxh3_128", "data_content", "vocabulary"):
        del values[key]
    values["files"] = {name: (folder / name).stat().st_size for name in values["files"]}
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
