"""Several processes: the same samples, the same loss, the same model validated; stop requests, hangs and dead launchers."""

import os
import signal
import time
from pathlib import Path

import pytest
from checkpoint_toy import as_version_1, zeros
from train_project import children, living, sessions_of, wait_until_dead

from rec.data.loader import TrainingBatches
from rec.training.process import OutputFolderError, lock_output_folder

LONG = ("train.epochs=4000", "train.log_period=1", "train.evaluation.enabled=false")


def test_restarts_on_more_and_on_fewer_processes_see_every_sample_once_in_the_same_order(project):
    processes = {1: 1, 14: 2, 28: 1}  # from this update on
    lengths = [13, 27, 40]  # in the middle of epochs of eight updates
    outputs = [
        project.run(
            "train.log_period=1", "train.evaluation.enabled=false", f"train.train_iter={length}", processes=count
        )
        for length, count in zip(lengths, processes.values(), strict=True)
    ]
    assert "processes: 1 -> 2" in outputs[1] and "processes: 2 -> 1" in outputs[2]
    batches = TrainingBatches(67, 8, processes=1, rank=0, accumulation=1, seed=123456)
    expected = []
    for epoch in range(5):
        batches.set_position(epoch)
        epoch_batches = [[index for _, index in batch] for batch in batches]
        assert len({index for batch in epoch_batches for index in batch}) == 64
        expected += [sum(batch) for batch in epoch_batches]
    records = project.metrics("run")
    started = [max(first for first in processes if first <= record["update"]) for record in records]
    sums = [record["samples"] * processes[first] for record, first in zip(records, started, strict=True)]
    assert [record["update"] for record in records] == list(range(1, 41)) and sums == expected


COUNTED = """
import torch
from own_parts import OwnDataset
from rec.models.heads import REChead

class FrozenNorms(torch.nn.Module):
    def __init__(self, normalize_by):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 8, 8), torch.nn.ReLU())
        self.head = REChead(width=0.0625, in_channels=[16], strides=[8], box_loss="giou", normalize_by=normalize_by)

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, batch):
        return self.head.losses(self.head(self.features(batch["image"])), batch["box"])
"""
COUNTED_CONFIG = """
from config import dataset, optim, train
from counted import FrozenNorms
from rec.config import LazyCall

model = LazyCall(FrozenNorms)(normalize_by="processes")
train.evaluation.enabled = False
train.log_period, train.train_iter = 1, 20
"""


@pytest.mark.parametrize("normalize_by", ["processes", "image"])
def test_two_times_four_samples_lose_what_eight_lose(project, normalize_by):
    (project.folder / "counted.py").write_text(COUNTED, encoding="utf-8")
    (project.folder / "counted_config.py").write_text(COUNTED_CONFIG, encoding="utf-8")
    project.config = "counted_config.py"
    divided = {"on1": (1, 1), "on2": (2, 1)} | ({"accumulated": (1, 2)} if normalize_by == "image" else {})
    for name, (processes, accumulation) in divided.items():
        project.run(
            f"model.normalize_by={normalize_by}", f"train.num_accumulation_steps={accumulation}",
            f"train.output_dir={name}", processes=processes,
        )  # fmt: skip
    whole, *others = ([record["loss"] for record in project.metrics(name)] for name in divided)
    assert len(whole) == 20 and whole[-1] < whole[0]
    for losses in others:
        assert losses == pytest.approx(whole, rel=1e-5)


RECORDING = """

import hashlib
import os

_forward = OwnModel.forward

def forward(self, batch):
    outputs = _forward(self, batch)
    values = b"".join(value.detach().numpy().tobytes() for value in self.state_dict().values())
    with open(f"seen.{os.environ['RANK']}", "a", encoding="utf-8") as file:
        file.write(f"{self.training} {hashlib.sha256(values).hexdigest()}\\n")
    return outputs

OwnModel.forward = forward
"""


@pytest.mark.parametrize("ema", ["true", "false"])
def test_all_processes_validate_the_model_of_the_first(project, ema):
    parts = project.folder / "own_parts.py"
    parts.write_text(parts.read_text(encoding="utf-8") + RECORDING, encoding="utf-8")
    project.run("train.epochs=2", f"train.ema.enabled={ema}", processes=2)
    seen = [(project.folder / f"seen.{rank}").read_text(encoding="utf-8").split() for rank in range(2)]
    hashes = [
        {
            mode: [value for kind, value in zip(words[::2], words[1::2], strict=True) if kind == mode]
            for mode in words[::2]
        }
        for words in seen
    ]
    assert hashes[0]["True"] != hashes[1]["True"], "BatchNorm statistics differ between processes after an update"
    assert set(hashes[0]["False"]) == set(hashes[1]["False"]) and len(set(hashes[0]["False"])) == 2, (
        "one model per epoch"
    )


def test_what_one_process_cannot_load_all_pass_over(project):
    project.run("train.output_dir=through", processes=2)
    project.run("train.train_iter=16", processes=2)
    newest = project.folder / "run/checkpoints/step_00000016"
    zeros(newest / "random_states_1.pkl")
    as_version_1(newest)  # sizes alone: the second process finds out
    output = project.run(processes=2)
    assert f"{newest.name} is damaged and passed over" in output and "random_states_1.pkl" in output
    assert "continuing from run/checkpoints/step_00000008" in output
    assert project.hashes("run") == project.hashes("through") and project.metrics("run") == project.metrics("through")


@pytest.mark.parametrize(("told", "stop"), [("launcher", signal.SIGINT), ("second rank", signal.SIGTERM)])
def test_a_stop_request_to_one_process_stops_all_after_the_same_update(project, told, stop):
    process = project.start(*LONG, processes=2)
    project.wait_for_update(process, 5)
    sessions, ranks = sessions_of(process.pid), children(process.pid)
    os.kill(process.pid if told == "launcher" else ranks[1], stop)
    output, _ = process.communicate(timeout=180)
    wait_until_dead(sessions, 60)
    update = project.last_update()
    assert f"stopped after update {update} (" in output and process.returncode != 0
    assert (project.folder / "run/checkpoints/last").read_text(encoding="utf-8") == f"step_{update:08d}\n"


def test_a_second_ctrl_c_stops_at_once(project):
    process = project.start(*LONG, "dataset.delay=5")  # 40 s for one update
    log = project.folder / "run" / "train.log"
    while not (log.exists() and "training samples" in log.read_text(encoding="utf-8")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first waits for the end of the update"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=25)
    assert process.returncode == 130 and not (project.folder / "run" / "checkpoints").exists()


def test_a_process_that_hangs_and_lost_its_launcher_is_named_ends_in_time_and_the_run_continues(project):
    timeout = 20
    frequent = (*LONG, "train.checkpointer.period=5")
    process = project.start(*frequent, f"train.communication.timeout={timeout}", processes=2)
    project.wait_for_update(process, 20)
    sessions, (first, second) = sessions_of(process.pid), children(process.pid)
    os.kill(second, signal.SIGSTOP)
    process.kill()
    process.wait()  # not for the end of its output, which the two still hold open
    named = f"process {first}, an orphan: its launcher, process {process.pid}, is gone.*kill -9 {first}"
    with pytest.raises(OutputFolderError, match=named):
        lock_output_folder(project.folder / "run")
    wait_until_dead({first}, timeout + 15)
    os.kill(second, signal.SIGCONT)
    wait_until_dead(sessions, timeout + 15)
    assert not living(sessions)
    assert "continuing from" in project.run(*frequent, "train.train_iter=30")


def test_processes_whose_launcher_dies_while_they_import_end_in_time(project):
    process = project.start(*LONG, "train.communication.timeout=3", processes=2)
    deadline = time.monotonic() + 120
    ranks = []
    while len(ranks) < 2 or not all("libtorch" in Path(f"/proc/{rank}/maps").read_text() for rank in ranks):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
        ranks = children(process.pid)
    sessions = sessions_of(process.pid)
    process.kill()
    process.wait()
    wait_until_dead(sessions, 90)
