"""What a run draws and records besides numbers: ``train.log_image`` and ``train.profile``."""

import json

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


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
