"""Checkpoints on the disk: full disks, damage, edits, other models, a clock that jumps back."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from train_project import Project

from rec.inference import model_folder
from rec.training.checkpoint import Writer, clean_temporary, folder_of, load, load_into
from rec.training.ema import EMA
from rec.training.resume import CheckpointError, TrainerState, newest, problem

CONFIG = {
    "model": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2},
    "preprocess": {"input_shape": [32, 32], "mean": [0.0] * 3, "std": [1.0] * 3, "max_token_length": 5},
    "about": {"dataset": "toy", "split": "train", "sources": [], "samples": 1},
}


class Run:
    """A model in training, without the script around it."""

    def __init__(self, output_dir: Path, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.folder, self.accelerator, self.lines = output_dir, Accelerator(cpu=True), []
        self.model = nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.ema = EMA(self.model, 0.9)
        self.writer = Writer(output_dir, 2, self.lines.append)
        self.update = 0

    def step(self) -> None:
        self.model(torch.randn(8, 256)).square().mean().backward()
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

    def values(self) -> list[torch.Tensor]:
        moments = [value for state in self.optimizer.state_dict()["state"].values() for value in state.values()]
        return [value.clone() for value in [*self.model.state_dict().values(), *self.ema.shadow.values(), *moments]]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture
def saved(tmp_path):
    run = Run(tmp_path / "run")
    run.step()
    run.save()
    run.step()
    return run, run.save()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fills the disk but for ``leave`` bytes."""
    free = os.statvfs(disk)
    junk = disk / "junk"
    with junk.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - leave))
    return junk


def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_damaged_one(tmp_path, monkeypatch):
    run, removed = Run(tmp_path), []
    monkeypatch.setattr("rec.training.checkpoint.shutil.rmtree", lambda path, **_: removed.append(Path(path)))
    for _ in range(3):
        run.step()
        run.save()
    retired = tmp_path / "checkpoints" / ".step_00000001.old"
    assert retired in removed and (retired / "trainer_state.json").exists()  # removal had not begun
    found = sorted(path.name for path in (tmp_path / "checkpoints").glob("step_*"))
    assert found == ["step_00000002", "step_00000003"]
    monkeypatch.undo()
    clean_temporary(tmp_path)
    assert not retired.exists()


# A save writes 1.06 MB: random states, weights, EMA, optimizer, state and best/, and each of them meets a full disk here.
@pytest.mark.parametrize("leave", [0, 8_192, 100_000, 400_000, 700_000, 1_060_000])
def test_a_disk_that_fills_during_a_save_leaves_the_last_checkpoint_whole(small_disk, leave):
    run = Run(small_disk / "run")
    run.step()
    before, first = run.values(), run.save()
    best = (small_disk / "run/best/model.safetensors").read_bytes()
    run.step()
    junk = fill(small_disk, leave)
    run.save()
    assert run.writer.failure is not None and "not saved" in run.lines[-1] and "training goes on" in run.lines[-1]
    assert newest(run.folder, run.lines.append) == first and problem(first) is None
    assert (small_disk / "run/best/model.safetensors").read_bytes() == best
    assert not [path for path in run.folder.rglob(".*") if path.is_dir()], "the part that was written is removed"
    other = Run(small_disk / "run", seed=1)
    state = load(first, other.accelerator, other.model, other.ema)
    assert state.update == 1 and same([*other.model.state_dict().values()], before[: len(run.model.state_dict())])
    junk.unlink()
    run.step()
    assert problem(run.save()) is None and run.writer.failure is None


def test_a_run_on_a_full_disk_stops_with_the_reason_and_continues_once_there_is_space(project, small_disk):
    slow = ("train.log_period=1", "dataset.delay=0.002", "train.epochs=25")
    project.run(*slow, "train.output_dir=through")
    (project.folder / "run").symlink_to(small_disk, target_is_directory=True)
    process = project.start(*slow)
    project.wait_for_update(process, 20)
    junk = fill(small_disk, 0)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 2 and "No space left" in output and "Traceback" not in output, output
    full = project.run(*slow, status=2)
    assert "No space left" in full and "Traceback" not in full, full
    junk.unlink()
    assert "continuing from" in project.run(*slow)
    assert project.hashes("run") == project.hashes("through") and project.metrics("run") == project.metrics("through")


def test_a_save_holds_everything_and_little_more(saved):
    run, folder = saved
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes.keys() == {
        "model.safetensors", "ema.safetensors", "optimizer.bin", "random_states_0.pkl", "trainer_state.json",
    }  # fmt: skip
    tensors = sum(value.numel() * value.element_size() for value in run.values())
    assert tensors < sum(sizes.values()) < tensors + 40_000
    published = run.folder / "best" / "model.safetensors"
    assert published.samefile(folder / "ema.safetensors"), "best/ costs no second copy"
    continued = Run(run.folder, seed=1)
    continued.accelerator.prepare(continued.optimizer)  # Accelerate restores what it has prepared
    load(folder, continued.accelerator, continued.model, continued.ema)
    assert same(continued.values(), run.values())
    continued.accelerator.free_memory()


def edit(**changes):
    def apply(path: Path) -> None:
        values = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(values | changes), encoding="utf-8")

    return apply


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite_start(path: Path) -> None:
    path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])


@pytest.mark.parametrize(
    ("file", "damage", "named"),
    [
        ("model.safetensors", cut, "expected .* bytes, found"),
        ("model.safetensors", overwrite_start, "header"),
        ("ema.safetensors", Path.unlink, "no file"),
        ("optimizer.bin", cut, "expected .* bytes, found"),
        ("random_states_0.pkl", Path.unlink, "no file"),
        ("trainer_state.json", Path.unlink, "missing"),
        ("trainer_state.json", cut, "cut short"),
        ("trainer_state.json", lambda path: path.write_text("[]", encoding="utf-8"), "edited"),
        ("trainer_state.json", edit(update=7), "update=7 in step_00000002"),
        ("trainer_state.json", edit(epoch=-1), "epoch=-1, expected a whole number of at least 0"),
        ("trainer_state.json", edit(update_in_epoch="3"), "update_in_epoch='3'"),
        ("trainer_state.json", edit(window=[]), "window=.*, expected an object"),
        ("trainer_state.json", edit(best_metric="high"), "best_metric='high', expected a number or null"),
        ("trainer_state.json", edit(files=None), "files=None"),
        ("trainer_state.json", edit(data_fingerprint=3), "data_fingerprint=3, expected a text"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(saved, file, damage, named):
    run, folder = saved
    damage(folder / file)
    lines = []
    assert newest(run.folder, lines.append) == folder_of(run.folder, 1)
    with pytest.raises(CheckpointError, match=named):
        load(folder, run.accelerator, run.model, run.ema)
    assert len(lines) == 1 and "damaged and passed over" in lines[0] and str(folder) in lines[0]


def test_weights_of_another_shape_are_refused_with_the_first_that_differs():
    weights = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)).state_dict()
    with pytest.raises(CheckpointError, match=r"1 missing, e.g. 0.bias; 2 of .*1.bias \(3,\) instead of \(5,\)"):
        load_into(
            nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5)), {k: v for k, v in weights.items() if k != "0.bias"}, "x"
        )


def test_what_a_killed_save_left_behind_is_removed(saved):
    run, folder = saved
    for left_over in (folder.with_name(".step_00000003.tmp"), run.folder / ".best.abc.tmp"):
        left_over.mkdir()
        (left_over / "model.safetensors").write_bytes(b"half")
    clean_temporary(run.folder)
    assert not list(run.folder.glob("**/.*.tmp")) and problem(folder) is None


BACKWARDS = """
import os
import time

clock = time.time

def an_hour_back_after_the_first_update():
    return clock() - 3600 * os.path.exists("run/metrics.jsonl")

time.time = an_hour_back_after_the_first_update
"""


def test_a_clock_that_jumps_back_changes_nothing(tmp_path):
    right, wrong = Project(tmp_path / "right"), Project(tmp_path / "wrong")
    right.run("train.log_period=1")
    (wrong.folder / "sitecustomize.py").write_text(BACKWARDS, encoding="utf-8")
    wrong.run("train.log_period=1", "train.train_iter=8")
    folder = wrong.folder / "run" / "checkpoints" / "step_00000008"
    os.utime(folder, (0, 0))
    assert "continuing from" in wrong.run("train.log_period=1")
    assert wrong.hashes("run") == right.hashes("run") and wrong.metrics("run") == right.metrics("run")
