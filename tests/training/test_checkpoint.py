"""Checkpoints on the disk: full disks, damage, edits, other models, a clock that jumps back."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from checkpoint_toy import Run, as_version_1, cut, edit, overwrite_start, same, zeros
from safetensors.torch import load_file, save_file
from torch import nn
from train_project import Project

from rec.errors import CheckpointError
from rec.training.checkpoint import load
from rec.training.checkpoint_format import TrainerState, clean_temporary, damage, folder_of, newest
from rec.training.checkpoint_loading import compare


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


def test_a_first_save_that_fails_names_no_checkpoint_before_it(tmp_path):
    run = Run(tmp_path)
    (tmp_path / "checkpoints").write_text("no folder")
    run.step()
    run.save()
    assert "there is none before it" in run.lines[-1] and "intact" not in run.lines[-1]


def test_checkpoints_under_other_names_are_told_where_a_run_starts_anew(tmp_path):
    run = Run(tmp_path)
    run.step()
    folder = run.save()
    folder.rename(folder.with_name(f"{folder.name}_backup"))
    state, [note] = Run(run.folder).restore()
    assert state.update == 0 and f"starts anew: {folder.name}_backup in" in note and "such as step_00001200" in note


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
    assert "No space left" in run.lines[-1] or "the disk is full" in run.lines[-1]
    assert newest(run.folder, run.lines.append) == first and damage(first) is None
    assert (small_disk / "run/best/model.safetensors").read_bytes() == best
    assert not [path for path in run.folder.rglob(".*") if path.is_dir()], "the part that was written is removed"
    other = Run(small_disk / "run", seed=1)
    state = load(first, other.accelerator, other.model, other.ema)
    assert state.update == 1 and same(other.values()[:-1], before[:-1])
    junk.unlink()
    run.step()
    assert damage(run.save()) is None and run.writer.failure is None


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
    tensors = sum(value.numel() * value.element_size() for value in run.values()[:-1])
    assert tensors < sum(sizes.values()) < tensors + 40_000
    published = run.folder / "best" / "model.safetensors"
    assert published.samefile(folder / "ema.safetensors"), "best/ costs no second copy"
    continued = Run(run.folder, seed=1)
    load(folder, continued.accelerator, continued.model, continued.ema)
    assert same(continued.values(), run.values())
    continued.accelerator.free_memory()


@pytest.mark.parametrize(
    ("file", "damage", "named"),
    [
        ("model.safetensors", cut, "expected .* bytes, found"),
        ("model.safetensors", overwrite_start, "its content has changed since it was saved"),
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
        ("trainer_state.json", edit(files={}), "its list of files lacks model.safetensors"),
        ("trainer_state.json", edit(files={"model.safetensors": 3}), "with and without a digest"),
        ("trainer_state.json", edit(files={"../x": {"bytes": 3, "xxh3_128": ""}}), "files=.*, expected an object"),
        ("trainer_state.json", edit(files={"\ud800": 3}), "files=.*, expected an object"),
        ("trainer_state.json", edit(files={"model.safetensors": {"bytes": 3}}), "files=.*, expected an object"),
        ("trainer_state.json", edit(skipped_updates=3), "skipped_updates=3 is more than update=2"),
        ("trainer_state.json", edit(ema_updates=3), "ema_updates=3 is more than update=2"),
        ("trainer_state.json", edit(processes=0), "processes=0, expected a whole number of at least 1"),
        ("trainer_state.json", edit(epoch=True), "epoch=True, expected a whole number"),
        ("trainer_state.json", edit(batch_size=10**30), "batch_size=1000"),
        ("trainer_state.json", edit(window={"batches": 1, "sums": {"loss": "x"}}), "window=.*, expected an object"),
        ("trainer_state.json", edit(versions={"torch": 2}), "versions=.*, expected an object of texts"),
        ("trainer_state.json", edit(best_metrics=[]), "best_metrics=.*, expected an object"),
        ("trainer_state.json", edit(learning_rate=1), "unknown key learning_rate"),
        ("trainer_state.json", edit(format=3), "format 3, this version reads up to 2"),
        ("trainer_state.json", edit(format=True), "format True"),
        ("trainer_state.json", edit(xxh3_128="\ud800"), "does not have the digest it names"),
        ("trainer_state.json", edit(best_metric=0.5), "does not have the digest it names"),
        ("trainer_state.json", lambda path: path.write_bytes(b"\xff\xfe{}"), "UnicodeDecodeError"),
        ("trainer_state.json", lambda path: path.write_text("[" * 100_000, encoding="utf-8"), "RecursionError"),
        ("trainer_state.json", lambda path: (path.unlink(), os.mkfifo(path)), "is a FIFO"),
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


def rewritten(change):
    """Damage that a digest would have noticed: the content of a file is changed by ``change`` and written again."""

    def apply(path: Path) -> None:
        if path.suffix == ".safetensors":
            weights = load_file(path)
            change(weights)
            save_file(weights, path, metadata={"format": "pt"})
        else:
            content = torch.load(path, weights_only=False)
            change(content)
            torch.save(content, path)

    return apply


def no_pickle(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


# What a checkpoint of version 0.1, with sizes alone, cannot know: its files must fail to load, or be found not to fit.
UNLOADABLE = {
    "zeros in the optimizer": ("optimizer.bin", zeros),
    "zeros in the weights": ("model.safetensors", zeros),
    "random states that are none": ("random_states_0.pkl", no_pickle),
    "zeros in the random states": ("random_states_0.pkl", zeros),
    "random states of another length": (
        "random_states_0.pkl",
        rewritten(lambda states: states.update(torch_manual_seed=torch.zeros(3, dtype=torch.uint8))),
    ),
    "random states without Python's": ("random_states_0.pkl", rewritten(lambda states: states.pop("random_state"))),
    "a moment of another shape": (
        "optimizer.bin",
        rewritten(lambda content: content["state"][0].update(exp_avg=torch.zeros(256, 255))),
    ),
    "a group of other parameters": ("optimizer.bin", rewritten(lambda c: c["param_groups"][0]["params"].pop())),
    "a state of no parameter": ("optimizer.bin", rewritten(lambda c: c["state"].update({99: {"step": 1}}))),
    "no optimizer": ("optimizer.bin", rewritten(lambda content: content.clear())),
    "an average of another shape": ("ema.safetensors", rewritten(lambda w: w.update({"0.bias": torch.zeros(1)}))),
    "an average that is missing": ("ema.safetensors", rewritten(lambda w: w.pop("1.running_var"))),
    "a weight of another shape": ("model.safetensors", rewritten(lambda w: w.update({"0.weight": torch.zeros(256)}))),
}


@pytest.mark.parametrize("name", UNLOADABLE)
def test_whatever_cannot_be_loaded_falls_back_to_the_checkpoint_before_with_one_line(tmp_path, name):
    run = Run(tmp_path / "run")
    run.step()
    first, before = run.save(), run.values()
    run.step()
    second = run.save()
    file, damage = UNLOADABLE[name]
    damage(second / file)
    as_version_1(second)
    continued = Run(run.folder, seed=1)
    state, notes = continued.restore()
    assert state.update == 1 and same(continued.values(), before)
    assert len(notes) == 2 and notes[1] == f"continuing from {first}"
    assert notes[0].startswith(f"{second} is damaged and passed over: ") and notes[0].endswith("step_00000002.damaged")
    assert newest(run.folder, notes.append) == first and len(notes) == 2, "it counts no more"


@pytest.mark.parametrize("damaged", [["optimizer.bin"], ["optimizer.bin", "model.safetensors"]])
def test_when_no_checkpoint_is_left_it_is_an_error_and_all_stay_where_they_are(tmp_path, damaged):
    run = Run(tmp_path / "run")
    run.step()
    folders = [run.save()]
    run.step()
    folders.append(run.save())
    for folder in folders:
        as_version_1(folder)
        for file in damaged:
            zeros(folder / file)
    with pytest.raises(
        CheckpointError, match=r"no checkpoint in .* can be loaded \(1 older: step_00000001\).*step_00000002"
    ):
        Run(run.folder).restore()
    assert all(folder.is_dir() for folder in folders)
    shutil.rmtree(folders[1])
    with pytest.raises(CheckpointError, match="Bring one back from a copy, or move the folder away"):
        Run(tmp_path / "other").restore(resume_path=str(run.folder))
    for inside in ("checkpoints", "checkpoints/last", "checkpoints/step_00000099"):
        with pytest.raises(CheckpointError, match=rf"Name the run, {run.folder}, or one of its checkpoints"):
            Run(tmp_path / "other").restore(resume_path=str(run.folder / inside))
    with pytest.raises(CheckpointError, match=r"resume_path=.*cannot be"):
        Run(tmp_path / "other").restore(resume_path=str(folders[0]))


def test_a_whole_checkpoint_of_another_run_is_refused_and_not_passed_over(saved):
    run, folder = saved
    with pytest.raises(CheckpointError, match=f"{folder} belongs to another run: train.batch_size: 1 -> 2"):
        Run(run.folder).restore(TrainerState(batch_size=2))
    assert folder.is_dir()


def test_a_checkpoint_without_the_average_a_run_wants_is_refused_and_not_passed_over(saved):
    run, _ = saved
    averages, run.ema = run.ema, None
    run.model(torch.randn(8, run.width)).square().mean().backward()
    run.update += 1
    state = TrainerState(update=run.update)
    run.writer.save(run.accelerator, run.model, run.optimizer, None, state)
    run.writer.wait()
    assert averages is not None
    with pytest.raises(CheckpointError, match=r"step_00000003 belongs to another run: it was saved without EMA"):
        Run(run.folder).restore()
    assert folder_of(run.folder, 3).is_dir()


def test_an_option_of_the_optimizer_that_was_changed_is_the_runs_and_others_stay_the_checkpoints(saved):
    run, _ = saved
    before, now = ({"optim": {"weight_decay": decay, "betas": [0.9, 0.999]}} for decay in (0.01, 0.3))
    run.update += 1
    run.writer.save(run.accelerator, run.model, run.optimizer, run.ema, TrainerState(update=3, config=before))
    run.writer.wait()
    for config, expected in ((before, 0.01), (now, 0.3)):
        continued = Run(run.folder)
        (group,) = continued.optimizer.param_groups
        group["weight_decay"], group["eps"] = config["optim"]["weight_decay"], 0.5
        continued.restore(TrainerState(config=config))
        (group,) = continued.optimizer.param_groups
        assert (group["weight_decay"], group["eps"], group["betas"]) == (expected, 1e-8, (0.9, 0.999))


def test_a_checkpoint_of_another_model_or_other_groups_says_so_and_not_that_it_is_damaged(saved):
    run, folder = saved
    other = Run(run.folder)
    groups = [{"params": [parameter]} for parameter in other.model.parameters()]
    other.accelerator.free_memory()
    other.optimizer = other.accelerator.prepare(torch.optim.AdamW(groups))
    for continued, said in (
        (other, "groups of 4 parameters, this run's has 1, 1, 1, 1"),
        (Run(run.folder, width=8), "another model"),
    ):
        with pytest.raises(CheckpointError, match=said) as error:
            continued.restore()
        assert "from a copy" not in str(error.value) and "train.load_weight" in str(error.value)
    assert folder.is_dir()


def test_a_checkpoint_of_the_version_before_is_continued_with_one_line(saved):
    run, folder = saved
    as_version_1(folder)
    continued = Run(run.folder, seed=1)
    state, notes = continued.restore()
    assert state.update == 2 and same(continued.values(), run.values())
    assert notes == [
        f"continuing from {folder}",
        f"{folder} was saved by an earlier version: its files were checked by their sizes alone",
    ]
    edit(files={"model.safetensors": (folder / "model.safetensors").stat().st_size})(folder / "trainer_state.json")
    assert "its list of files lacks random_states_0.pkl" in str(damage(folder))


def test_what_is_damaged_and_newer_counts_for_nothing_when_old_ones_are_removed(saved):
    run, folder = saved
    ahead = shutil.copytree(folder, folder_of(run.folder, 9))
    run.step()
    third = run.save()
    assert folder.is_dir() and third.is_dir() and ahead.is_dir()
    assert not folder_of(run.folder, 1).exists()


@pytest.mark.parametrize("where", ["0.weight", "1.running_var"])
def test_weights_that_are_not_finite_are_not_saved_and_push_nothing_out(saved, where):
    run, folder = saved
    healthy = [folder_of(run.folder, 1), folder]
    run.step()
    run.model.state_dict()[where].view(-1)[3] = float("nan")
    best = (run.folder / "best" / "model.safetensors").read_bytes()
    path = run.save()
    assert not path.exists() and all(damage(kept) is None for kept in healthy)
    assert (run.folder / "best" / "model.safetensors").read_bytes() == best
    assert f"{where} holds values that are not finite" in run.lines[-1] and not run.writer.diverged
    run.step()
    run.save()
    assert run.writer.diverged, "all processes hear of it with the next save"


def test_buffers_may_hold_infinity(tmp_path):
    run = Run(tmp_path)
    run.model.register_buffer("causal_mask", torch.full((4,), float("-inf")))
    run.ema.shadow["causal_mask"] = run.model.causal_mask.clone()
    run.step()
    assert damage(run.save()) is None


def test_weights_of_another_shape_are_refused_with_the_first_that_differs():
    own = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5)).state_dict()
    weights = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)).state_dict()
    del weights["0.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing, e.g. 0.bias; 2 of .*1.bias \(3,\) instead of \(5,\)"):
        compare(own, weights, "x")


def test_what_a_killed_save_left_behind_is_removed(saved):
    run, folder = saved
    for left_over in (folder.with_name(".step_00000003.tmp"), run.folder / ".best.abc.tmp"):
        left_over.mkdir()
        (left_over / "model.safetensors").write_bytes(b"half")
    for name in (".metrics.jsonl.abc.jsonl", ".config.yaml.abc.yaml"):
        (run.folder / name).touch()
    clean_temporary(run.folder)
    assert not list(run.folder.glob("**/.*")) and damage(folder) is None


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


def test_every_file_is_for_whom_the_umask_lets(tmp_path):
    run = Run(tmp_path)
    before = os.umask(0o002)
    try:
        run.step()
        folder = run.save()
    finally:
        os.umask(before)
    modes = {
        path.name: oct(path.stat().st_mode & 0o777) for path in [*folder.iterdir(), *(tmp_path / "best").iterdir()]
    }
    assert len(modes) > 5 and set(modes.values()) == {"0o664"}, modes


@pytest.mark.parametrize(
    ("changed", "best"),
    [
        ({}, 0.9),
        ({"eval_mode": "min"}, 0.9),
        ({"eval_metric": "mIoU"}, 0.4),
        ({"eval_metric": "gIoU"}, None),
        ({"splits": ["testA", "val"]}, None),
        ({"eval_iter": None}, None),
        ({"evaluator": {"_target_": "own.Evaluator"}}, None),
    ],
)
def test_the_best_evaluation_is_compared_with_what_the_run_that_goes_on_measures(saved, changed, best):
    run, _ = saved
    evaluation = {"eval_metric": "Acc@0.5", "eval_mode": "max", "splits": ["val"], "eval_iter": 2, "evaluator": None}
    then, now = ({"train": {"evaluation": options}} for options in (evaluation, evaluation | changed))
    measured = {"val": {"Acc@0.5": 0.9, "mIoU": 0.4}}
    known = TrainerState(update=3, ema_updates=2, config=then, best_metric=0.9, best_metrics=measured)
    run.writer.save(run.accelerator, run.model, run.optimizer, run.ema, known)
    run.writer.wait()
    state, notes = Run(run.folder).restore(TrainerState(config=now))
    assert state.best_metric == best and state.best_metrics == (measured if best else {})
    assert any("best/ is decided anew" in note for note in notes) == (best != 0.9)


def test_a_run_that_goes_on_in_another_folder_has_no_best_model_there_yet(saved, tmp_path):
    run, _ = saved
    known = TrainerState(update=3, ema_updates=2, best_metric=0.9, best_metrics={"val": {"Acc@0.5": 0.9}})
    run.writer.save(run.accelerator, run.model, run.optimizer, run.ema, known)
    run.writer.wait()
    state, notes = Run(tmp_path / "other").restore(resume_path=str(run.folder))
    assert state.update == 3 and state.best_metric is None and not state.best_metrics
    assert "best/ is decided anew" in " ".join(notes)
