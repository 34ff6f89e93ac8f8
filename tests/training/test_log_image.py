"""What a run draws and records besides numbers: ``train.log_image`` and ``train.profile``."""

import json
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rec.training import run_log
from rec.training.run_log import Profiler

TRACKER = """
from accelerate.tracking import GeneralTracker


class Lines(GeneralTracker):
    name, requires_logging_directory = "lines", False

    def __init__(self, file):
        super().__init__()
        self.file = open(file, "w", buffering=1)

    @property
    def tracker(self):
        return self.file

    def store_init_configuration(self, values):
        self.file.write("begin\\n")

    def log(self, values, step=None, **more):
        self.file.write("\\n".join([*values, ""]))
"""


def test_log_image_draws_each_evaluation_into_the_run_folder_and_to_the_tracker(project):
    project.run("train.log_image=true", "train.trackers=[tensorboard]", "train.evaluation.splits=[val,test]")
    pictures = sorted(path.name for path in (project.folder / "run/pictures").iterdir())
    assert pictures == sorted(f"{split}_{update:08d}.png" for split in ("val", "test") for update in (8, 16, 24))
    drawn = np.asarray(Image.open(project.folder / "run/pictures/val_00000024.png"))
    green, red = ((drawn == colour).all(-1).any() for colour in ((46, 160, 67), (218, 54, 51)))
    assert green and red, "the true and the predicted box"
    events = EventAccumulator(str(project.folder / "run/rec"), size_guidance={"images": 0}).Reload()
    assert {"predictions/val", "predictions/test"} <= set(events.Tags()["images"])
    shown = events.Images("predictions/val")
    assert [event.step for event in shown] == [8, 16, 24]
    assert (shown[-1].height, shown[-1].width) == drawn.shape[:2]


def test_pictures_are_off_by_default_and_change_nothing(project):
    project.run("train.output_dir=without")
    project.run("train.output_dir=drawn", "train.log_image=true")
    assert not (project.folder / "without/pictures").exists()
    assert project.hashes("without") == project.hashes("drawn")


def test_profile_leaves_a_trace_of_the_updates_asked_for_on_every_process(project):
    options = "train.profile.enabled=true", "train.profile.first_update=2", "train.profile.updates=3"
    output = project.run(*options, "model.width=4", processes=2)
    for rank in range(2):
        trace = json.loads((project.folder / f"run/profile/profile_{rank}.json").read_text(encoding="utf-8"))
        steps = [event for event in trace["traceEvents"] if event.get("name", "").startswith("Optimizer.step#")]
        assert len(steps) == 3, "one for each profiled update"
    assert "profile of 3 updates" in output


def test_a_run_shorter_than_the_profile_still_leaves_its_trace(project):
    project.run("train.profile.enabled=true", "train.profile.first_update=1", "train.train_iter=2")
    assert (project.folder / "run/profile/profile_0.json").stat().st_size > 1000


def test_a_run_says_how_many_updates_its_profile_has_and_why_there_is_none(tmp_path):
    lines, options = [], OmegaConf.create({"enabled": True, "first_update": 2, "updates": 3})
    for updates in (2, 3):
        profiler = Profiler(options, tmp_path, Accelerator(cpu=True), lines.append)
        for _ in range(updates):
            profiler.before_update()
        profiler.close()
    assert lines == [
        "no profile: train.profile.first_update=2, and this process had 2 updates",
        f"profile of 1 updates: {tmp_path / 'profile'}",
    ]


def test_a_tracker_of_ones_own_is_a_lazy_call(project, run_script, monkeypatch):
    (project.folder / "own_tracker.py").write_text(TRACKER, encoding="utf-8")
    monkeypatch.chdir(project.folder)
    monkeypatch.syspath_prepend(project.folder)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    own = "train.trackers=[{_target_: own_tracker.Lines, file: lines.txt}]"
    status, said = run_script(project.config, own, "train.train_iter=3")
    assert status == 0, said
    lines = (project.folder / "lines.txt").read_text(encoding="utf-8").split()
    assert lines[0] == "begin" and {"train/loss", "evaluation/mIoU"} <= set(lines)


def test_a_loss_that_another_process_alone_had_is_logged_and_saved_by_all(monkeypatch):
    monkeypatch.setattr(run_log, "gather_object", lambda own: [*own, ["loss", "masks"]])
    same = SimpleNamespace(
        num_processes=2, device="cpu", reduce=lambda values, how: values, gather=lambda values: values
    )
    window = run_log.Window()
    window.add({"loss": torch.tensor(2.0)}, 4)
    assert window.state(same) == {"batches": 1, "sums": {"loss": [2.0], "masks": [0.0]}}
    assert window.means(same) == {"loss": 2.0, "masks": 0.0}
