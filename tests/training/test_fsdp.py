"""The profile fsdp2.yaml on two CPU processes: FSDP2 itself, weights in two halves, under gloo."""

import shutil
import subprocess
from pathlib import Path

import pytest
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from test_launch_profiles import launch_arguments
from train_project import REPOSITORY, TRAIN, Project

LENGTH = (
    "train.train_iter=16",
    "train.epochs=2",
    "train.log_period=1",
    "train.ema.enabled=false",
    "train.save_period=1",
)


def run(project: Project, output: str, fsdp: bool) -> str:
    told = prepare_multi_gpu_env(launch_arguments(REPOSITORY / "accelerate_configs/fsdp2.yaml"))
    own = (
        {key: value for key, value in told.items() if key.startswith(("FSDP_", "ACCELERATE_USE_FSDP"))} if fsdp else {}
    )
    command = project.command(*LENGTH, f"train.output_dir={output}", processes=2)
    place = command.index(str(TRAIN))
    command[place:place] = [str(Path(__file__).with_name("fsdp_on_cpu.py"))] if fsdp else []
    environment = project.environment() | own | {"ACCELERATE_MIXED_PRECISION": "bf16"}
    done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_divided_weights_learn_what_whole_ones_do_and_continue_where_they_were(project):
    assert "2 processes (FSDP)" in run(project, "divided", fsdp=True)
    run(project, "whole", fsdp=False)
    losses = {name: [line["loss"] for line in project.metrics(name) if "loss" in line] for name in ("divided", "whole")}
    assert len(losses["whole"]) == 16 and losses["whole"][-1] < losses["whole"][0]
    assert losses["divided"] == pytest.approx(losses["whole"], rel=0.02)

    # best/ is whole, and a run that was cut off ends as the one that was not: statistics of BatchNorm included.
    best = load_file(project.folder / "divided/best/model.safetensors")
    other = load_file(project.folder / "whole/best/model.safetensors")
    assert {name: value.shape for name, value in best.items()} == {name: value.shape for name, value in other.items()}
    shutil.copytree(project.folder / "divided", project.folder / "cut")
    shutil.rmtree(project.folder / "cut/checkpoints/step_00000016")
    assert "step_00000008" in run(project, "cut", fsdp=True)
    again = load_file(project.folder / "cut/best/model.safetensors")
    assert all(value.equal(again[name]) for name, value in best.items())
