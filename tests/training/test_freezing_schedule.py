"""``train.freeze_schedule``: what it freezes stands still, what it releases is trained, on any number of processes."""

import signal

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from rec.training.freezing import FreezingSchedule
from rec.training.resume import TrainingError

# 8 updates an epoch: the convolution is released after the first, the BatchNorm after the second.
SCHEDULE = "train.freeze_schedule=[{modules: [features.0], until_update: 8}, {modules: [features.1], until_update: 16}]"
KEEP = "train.checkpointer.max_to_keep=9"


def weights(project, run, update):
    return load_file(project.folder / run / f"checkpoints/step_{update:08d}/model.safetensors")


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_frozen_parts_and_their_statistics_stand_still_until_they_are_released(project):
    project.run(SCHEDULE, KEEP, "train.checkpointer.period=4")
    assert changed(weights(project, "run", 4), weights(project, "run", 8)) == {"box.weight", "box.bias"}
    convolution = {"features.0.weight", "features.0.bias"}
    assert changed(weights(project, "run", 8), weights(project, "run", 16)) == {"box.weight", "box.bias"} | convolution
    everything = set(weights(project, "run", 24))
    assert changed(weights(project, "run", 16), weights(project, "run", 24)) == everything


def test_parts_can_be_frozen_from_an_update_on(project):
    project.run("train.freeze_schedule=[{modules: [features], from_update: 8}]", KEEP, "train.checkpointer.period=4")
    assert "features.1.running_mean" in changed(weights(project, "run", 4), weights(project, "run", 8))
    assert changed(weights(project, "run", 8), weights(project, "run", 24)) == {"box.weight", "box.bias"}


def test_a_stopped_run_continues_with_the_same_parts_frozen(project):
    slow = SCHEDULE, "train.epochs=20", "train.log_period=1", "dataset.delay=0.002"
    project.run(*slow, "train.output_dir=through")
    process = project.start(*slow)
    project.wait_for_update(process, 11)  # between the two releases
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    project.run(*slow)
    states = []
    for run in ("run", "through"):
        file = project.folder / run / "checkpoints/step_00000160/optimizer.bin"
        # By value: names of state made before and behind a restart are different string objects, and pickled as such.
        state = torch.load(file, weights_only=True)["state"]
        states.append({key: value["momentum_buffer"].tolist() for key, value in state.items()})
    assert states[0] == states[1] and len(states[0]) == 6
    hashes = [project.hashes(run) for run in ("run", "through")]
    assert all(hashes[0][name] == hashes[1][name] for name in hashes[0] if "optimizer" not in name)
    assert project.metrics("run") == project.metrics("through")


def test_two_processes_release_and_reduce_the_same_gradients_as_one(project):
    """A released parameter whose gradient was not reduced would follow half of the samples only."""
    parts = project.folder / "own_parts.py"
    plain = parts.read_text(encoding="utf-8").replace("nn.BatchNorm2d(width)", "nn.Identity()")
    parts.write_text(plain.replace("nn.Dropout(0.1)", "nn.Identity()"), encoding="utf-8")
    schedule = "train.freeze_schedule=[{modules: [features.0], until_update: 8}, {modules: [box], from_update: 16}]"
    project.run(schedule, KEEP, "train.output_dir=one")
    project.run(schedule, KEEP, "train.output_dir=two", processes=2)
    for update in (8, 16, 24):
        one, two = (weights(project, run, update) for run in ("one", "two"))
        for name in one:
            assert torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-6), (update, name)
    assert changed(weights(project, "two", 16), weights(project, "two", 24)) == {"features.0.weight", "features.0.bias"}


def test_a_frozen_beginning_runs_without_autograd_and_survives_train():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    schedule = FreezingSchedule([{"modules": ["0", "1"], "until_update": 2}], model, Accelerator(cpu=True))
    model.train()
    schedule.apply(model, optimizer, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()  # as after an evaluation
    schedule.apply(model, optimizer, 1)
    assert not model[:2](torch.rand(2, 3, 8, 8)).requires_grad
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    assert changed(before, model.state_dict()) == {"2.weight", "2.bias"}
    schedule.apply(model, optimizer, 2)
    assert model[1].training and all(parameter.requires_grad for parameter in model.parameters())


def test_fixed_statistics_hold_in_all_updates_while_scale_and_shift_are_trained():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = FreezingSchedule([], model, Accelerator(cpu=True), fixed_statistics=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for update in range(2):
        model.train()  # as at the start, and after an evaluation
        schedule.apply(model, optimizer, update)
        assert model[2].training
        model(torch.rand(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    assert changed(before, model.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_a_run_with_fixed_statistics_keeps_those_it_started_with(project):
    project.run("train.train_iter=2", "train.output_dir=first")
    good = project.folder / "first" / "best" / "model.safetensors"
    output = project.run(
        f"train.load_weight={good}", "train.fixed_statistics=true", "train.train_iter=9", "train.ema.buffer_ema=false"
    )
    assert "warning" not in output
    before, after = load_file(good), weights(project, "run", 9)
    statistics = {name for name in before if "running" in name}
    assert statistics and not statistics & changed(before, after) and changed(before, after)
    assert "train.fixed_statistics without train.load_weight" in project.run(
        "train.fixed_statistics=true", "train.train_iter=1", "train.output_dir=bare"
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"modules": ["head"]}, "no module 'head'; did you mean 0, 1"),
        ({"modules": ["0"], "until": 3}, "expected modules="),
        ({"until_update": 3}, "expected modules="),
        ({"modules": ["0"], "until_update": "late"}, "expected modules="),
        ({"modules": ["0"], "from_update": 1.5}, "expected modules="),
        ({"modules": "0"}, "expected modules="),
        ({"modules": 5}, "expected modules="),
        ({"modules": ["0"], "from_update": 9, "until_update": 3}, "expected modules="),
        ({"modules": [""]}, "no module ''; did you mean 0, 1"),
        ({"modules": [3]}, "no module 3; did you mean 0, 1"),
        ({"modules": ["0", "1"], "from_update": 7}, "everything that is trained from update 7 on"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(step, message):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(TrainingError, match=message):
        FreezingSchedule([step], model, Accelerator(cpu=True))
