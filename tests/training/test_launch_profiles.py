"""The launch profiles: Accelerate accepts each, and what can start on a CPU is what it says when asked from the inside."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from torch import nn
from train_project import REPOSITORY

from rec.errors import TrainingError
from rec.training.launch import check_devices, refuse_idle_parameters

PROFILES = sorted((REPOSITORY / "accelerate_configs").glob("*.yaml"))
NO, DDP, MULTI_NODE = (
    {"num_processes": 1},
    {"num_processes": 4, "multi_gpu": True},
    {"num_processes": 16, "multi_gpu": True},
)
# What `accelerate launch` understands of each.
PARSED = {
    "cpu": NO | {"mixed_precision": "no", "use_cpu": True},
    "one_device": NO | {"mixed_precision": "no"},
    "mps": NO | {"mixed_precision": "no"},
    "bf16": NO | {"mixed_precision": "bf16"},
    "fp16": NO | {"mixed_precision": "fp16"},
    "multi_gpu": DDP | {"mixed_precision": "no"},
    "multi_node": MULTI_NODE | {"mixed_precision": "bf16", "num_machines": 2, "main_process_port": 29500},
    "fsdp2": {"num_processes": 4, "mixed_precision": "bf16", "use_fsdp": True, "fsdp_version": 2},
    "deepspeed_zero2": {"num_processes": 4, "mixed_precision": "bf16", "use_deepspeed": True, "zero_stage": 2},
}


def launch_arguments(profile: Path):
    arguments = launch_command_parser().parse_args(["--config_file", str(profile), "train.py"])
    return _validate_launch_command(arguments)[0]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_accelerate_reads_every_profile_as_it_is_meant(profile):
    arguments = vars(launch_arguments(profile))
    expected = PARSED[profile.stem]
    assert {key: arguments[key] for key in expected} == expected
    content = yaml.safe_load(profile.read_text(encoding="utf-8"))
    known = vars(launch_command_parser().parse_args(["train.py"]))
    for section in ("fsdp_config", "deepspeed_config"):  # Accelerate itself passes over a misspelt key in these
        assert not content.get(section, {}).keys() - known.keys() and all(
            str(arguments[key]) == str(value) for key, value in content.get(section, {}).items()
        )
    lines = profile.read_text(encoding="utf-8").splitlines()
    assert all("#" in line or line.endswith("_config:") for line in lines), "every line is explained"


def test_the_fsdp_profile_means_fully_sharded_version_two(monkeypatch):
    for key, value in prepare_multi_gpu_env(launch_arguments(REPOSITORY / "accelerate_configs/fsdp2.yaml")).items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.auto_wrap_policy) == (2, True, None)
    assert not plugin.cpu_ram_efficient_loading and "SHARDED" in str(plugin.state_dict_type)


TORCHRUN = ("torch.distributed.run", "--nproc_per_node", "2", "--standalone")


def accelerate(profile: str) -> tuple[str, ...]:
    return "accelerate.commands.launch", "--config_file", str(REPOSITORY / "accelerate_configs" / f"{profile}.yaml")


@pytest.mark.parametrize(
    ("launcher", "environment", "expected"),
    [
        (accelerate("cpu"), {}, ("NO", 1, "no")),
        (accelerate("one_device"), {"OMP_NUM_THREADS": "1"}, ("NO", 1, "no")),
        (accelerate("bf16"), {}, ("NO", 1, "bf16")),
        (TORCHRUN, {}, ("MULTI_CPU", 2, "no")),
        (TORCHRUN, {"ACCELERATE_MIXED_PRECISION": "bf16", "OMP_NUM_THREADS": "1"}, ("MULTI_CPU", 2, "bf16")),
    ],
    ids=["cpu", "one_device", "bf16", "two processes", "two processes bf16"],
)
def test_a_started_job_finds_what_its_launcher_promised(launcher, environment, expected, tmp_path):
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    process = subprocess.run(
        [sys.executable, "-m", *launcher, str(Path(__file__).parent / "launch_probe.py"), str(tmp_path / "found")],
        env=inherited | {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"} | environment,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    files = sorted(tmp_path.glob("found.*.json"))
    assert len(files) == expected[1]
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        assert (found["distributed_type"], found["num_processes"], found["mixed_precision"]) == expected
        assert found["device"] == "cpu" and not found["sharded"] and found["per_process"] == 8 // expected[1]
        assert found["wrapped"] == ("DistributedDataParallel" if expected[1] == 2 else "Sequential")
        assert found["user_chose_threads"] == ("OMP_NUM_THREADS" in environment)
        if found["user_chose_threads"]:
            assert found["threads"] == 1, "the user's wish"
        elif found["threads_of_launcher"] == "1":
            assert found["threads"] == max(1, len(os.sched_getaffinity(0)) // expected[1]), "the launcher's default"
        assert found["computed_in"] == {"no": "torch.float32", "bf16": "torch.bfloat16"}[expected[2]]


@pytest.mark.parametrize(
    ("gpus", "environment", "said"),
    [
        (0, {"LOCAL_WORLD_SIZE": "4"}, "warning: the launch profile asks for 4 processes with a GPU each"),
        (0, {"LOCAL_WORLD_SIZE": "4", "RANK": "1"}, ""),  # one process says it
        (0, {"LOCAL_WORLD_SIZE": "4", "ACCELERATE_USE_CPU": "true"}, ""),
        (0, {}, ""),
        (0, {"ACCELERATE_DYNAMO_BACKEND": "NO", "MASTER_ADDR": "127.0.0.1"}, "`accelerate launch` has started one"),
        (0, {"ACCELERATE_DYNAMO_BACKEND": "NO", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}, ""),
        (4, {"LOCAL_WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true"}, ""),
        (2, {"LOCAL_WORLD_SIZE": "4"}, TrainingError("4 processes .* has 2 CUDA GPUs: launch with --num_processes 2")),
        (0, {"ACCELERATE_MIXED_PRECISION": "fp16"}, TrainingError("float16, which needs a GPU, .* bf16 or no")),
        (0, {"LOCAL_WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true"}, TrainingError("FSDP.*one_device")),
    ],
)
def test_devices_that_are_not_there_are_told_in_words(gpus, environment, said, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    ours = ("USE_CPU", "USE_FSDP", "MIXED_PRECISION", "DYNAMO_BACKEND")
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK", "MASTER_ADDR", *(f"ACCELERATE_{name}" for name in ours)):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is undone
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if isinstance(said, TrainingError):
        with pytest.raises(TrainingError, match=str(said)):
            check_devices()
    else:
        check_devices()
        assert (said in capsys.readouterr().out) if said else not capsys.readouterr().out
        together = gpus == 0 and "LOCAL_WORLD_SIZE" in environment  # each would train alone, into one folder
        assert (os.environ.get("ACCELERATE_USE_CPU") == "true") == together


def test_parameters_without_a_part_in_the_losses_are_named_where_ddp_counts_them():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    model[0].weight.requires_grad_(False)
    told = "Expected to have finished reduction in the prior iteration before starting a new one. [...]\n"
    told += "Parameter indices which did not receive grad for rank 0: 1 2\n In addition, you can set"
    with pytest.raises(TrainingError, match=r"the losses did not depend on 1\.weight, 1\.bias: on several processes"):
        refuse_idle_parameters(RuntimeError(told), model)
    refuse_idle_parameters(RuntimeError("something else"), model)


def test_the_page_on_distribution_lists_every_profile_and_owns_up_to_what_was_not_run():
    page = (REPOSITORY / "docs" / "distributed.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)\.yaml` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE))
    assert rows.keys() == {profile.stem for profile in PROFILES} == PARSED.keys()
    for name in ("fp16", "multi_gpu", "deepspeed_zero2", "multi_node", "mps"):
        assert rows[name].strip().startswith("not run here"), name
    assert "tests/training/test_fsdp.py" in rows["fsdp2"]
