"""What a run says of itself at its beginning and its end."""

import errno
import os
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from omegaconf import OmegaConf

from rec.errors import TrainingError
from rec.training.checkpoint_format import TrainerState
from rec.training.publish import is_best
from rec.training.run_log import RunLog
from rec.training.summary import beginning, ending


def config(folder):
    train = {"output_dir": str(folder), "batch_size": 8, "evaluation": {"eval_metric": "Acc@0.5"}}
    return OmegaConf.create({"train": train, "dataset": {"dataset": "mine", "input_shape": [96, 64]}})


class Split(list):
    vocabulary, weighted_rows = ("PAD", "UNK", "red"), 0


def test_the_beginning_tells_folder_data_parts_and_device_in_words(tmp_path):
    model = torch.nn.ModuleDict({"eyes": torch.nn.Linear(3, 4), "ears": torch.nn.Linear(2, 2), "glue": torch.nn.ReLU()})
    model["ears"].requires_grad_(False)
    splits = [("train", Split(range(40))), ("val", Split(range(7)))]
    lines = list(beginning(config(tmp_path / "out"), Accelerator(cpu=True), model, splits, 15, 4, 2))
    assert lines[0].startswith(f"this run is in {tmp_path}/out: config.yaml, train.log")
    assert lines[1] == "data: mine, 7 val samples, images of 96 x 64 pixels, 3 words"
    assert lines[2] == "model: ModuleDict; eyes 16 trained; ears 6 frozen; glue without parameters"
    assert lines[3].startswith(
        "40 training samples, 15 updates of 8 = 4 per process x 1 x 2 accumulation; 22 parameters, 16 train"
    )
    assert lines[3].endswith("one process on CPU, float32")


def test_the_end_tells_the_best_score_where_it_is_and_what_to_do_next(tmp_path, monkeypatch):
    state = SimpleNamespace(best_metric=0.875, best_metrics={"val": {"Acc@0.5": 0.875}})
    folder = tmp_path / "a run"
    (folder / "best").mkdir(parents=True)
    assert list(ending(config(folder), TrainerState(), 0, 15)) == []  # nothing was evaluated: best/ is an earlier run's
    best, following = ending(config(folder), state, 0, 15)
    assert best == f"best Acc@0.5 on val: 0.8750; that model is in {folder}/best/"
    assert following.startswith(f"next: rec predict '{folder}/best' photo.jpg") and following.endswith(
        f"rec evaluate '{folder}'"
    )
    monkeypatch.chdir(folder)
    os.makedirs("-dash/best")
    assert list(ending(config("-dash"), state, 0, 15))[1].endswith("rec evaluate ./-dash")
    first, *rest = ending(config(folder), state, 15, 15)
    assert first.startswith("already finished: all 15 updates were done before") and rest == [best, following]


@pytest.mark.parametrize(
    ("mode", "earlier", "later", "better"),
    [
        ("max", (0.5, 0.4), (0.6, 0.1), True),
        ("max", (0.5, 0.4), (0.5, 0.41), True),
        ("max", (0.5, 0.4), (0.5, 0.4), False),
        ("max", (0.5, 0.4), (0.4, 0.9), False),
        ("max", (0.5, 0.4), (0.5, float("nan")), False),
        ("min", (0.5, 0.4), (0.4, 0.1), True),
        ("min", (0.5, 0.4), (0.5, 0.5), True),
        ("max", (0.5, 0.4), (float("nan"), 0.9), False),
    ],
)
def test_of_two_evaluations_that_are_equal_the_boxes_decide(mode, earlier, later, better):
    options, state = OmegaConf.create({"eval_metric": "Acc@0.5", "eval_mode": mode}), TrainerState()
    earlier, later = (dict(zip(("Acc@0.5", "mIoU"), values, strict=True)) for values in (earlier, later))
    assert is_best(options, state, "val", earlier)
    assert is_best(options, state, "val", later) == better
    assert state.best_metrics == {"val": later if better else earlier}


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free space and start"), (errno.EACCES, "check the path and its permissions and start")],
)
def test_a_log_of_metrics_that_cannot_be_written_says_what_to_look_at(tmp_path, monkeypatch, number, advice):
    log = RunLog(tmp_path, SimpleNamespace(is_main_process=False), {}, 0)
    log.main = True
    monkeypatch.setattr(
        "pathlib.Path.open", lambda *_, **__: (_ for _ in ()).throw(OSError(number, os.strerror(number)))
    )
    with pytest.raises(TrainingError, match=f"metrics.jsonl cannot be written .*: {advice} the same command again"):
        log.metrics("train", 1, {"loss": 1.0})
