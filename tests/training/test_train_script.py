"""``scripts/train.py`` as its users start it."""

import json
import shutil

import numpy as np
import pytest


def test_a_strangers_model_and_data_set_train_and_improve(project):
    output = project.run("train.epochs=8")
    evaluations = [record for record in project.metrics("run") if record["kind"] == "evaluation"]
    assert len(evaluations) == 8 and evaluations[-1]["count"] == 67
    assert evaluations[-1]["mIoU"] > evaluations[0]["mIoU"]
    best = json.loads((project.folder / "run/checkpoints/step_00000064/trainer_state.json").read_text(encoding="utf-8"))
    assert best["best_metric"] == max(record["Acc@0.5"] for record in evaluations)
    assert "67 training samples, 64 updates of 8 = 8 per process x 1 x 1" in output
    assert sorted(path.name for path in (project.folder / "run/checkpoints").iterdir()) == [
        "last", "step_00000056", "step_00000064",
    ]  # fmt: skip


def test_weights_that_training_makes_worse_stay_the_best_ones(project):
    project.run("train.output_dir=first", "train.epochs=8")
    good = project.folder / "first" / "best" / "model.safetensors"
    ruin = (f"train.load_weight={good}", "train.evaluation.eval_on_start=true", "optim.lr=100", "train.base_lr=100",
            "train.clip_grad_norm=0", "train.save_period=1")  # fmt: skip
    output = project.run(*ruin, "train.epochs=1")
    start, after = [record for record in project.metrics("run") if record["kind"] == "evaluation"]
    assert (start["update"], after["update"]) == (0, 8) and start["Acc@0.5"] > after["Acc@0.5"]
    assert (
        f"best Acc@0.5 on val: {start['Acc@0.5']:.4f}, of the weights it started from, which training did not" in output
    )
    assert (project.folder / "run" / "best" / "model.safetensors").read_bytes() == good.read_bytes()
    # One that is killed after that evaluation continues behind it.
    for checkpoint in (project.folder / "run" / "checkpoints").glob("step_00000008*"):
        shutil.rmtree(checkpoint)
    before = project.metrics("run")
    assert "continuing" in project.run(*ruin, "train.epochs=1") and project.metrics("run") == before


def test_a_finished_run_started_again_changes_nothing(project):
    project.run()
    config = project.folder / "run/config.yaml"
    before = project.hashes("run"), project.metrics("run"), config.read_bytes()
    (project.folder / "run/checkpoints/last").write_text("step_00000016\n")  # as a kill before the newest was named
    project.run("optim.lr=0.5")
    assert (project.hashes("run"), project.metrics("run"), config.read_bytes()) == before


def test_a_saved_config_alone_rebuilds_the_run_and_runs_only_listed_names(project, refusal):
    project.run("train.output_dir=first")
    saved = project.folder / "config_of_first.yaml"
    saved.write_bytes((project.folder / "first" / "config.yaml").read_bytes())
    project.config = saved.name
    assert "not in the list of names" in refusal("train.output_dir=again")
    project.run("--trust-config", "train.output_dir=again")
    assert project.hashes("again") == project.hashes("first")
    assert project.metrics("again") == project.metrics("first")


def test_gradient_accumulation_sees_the_same_samples_per_update(project):
    project.run("model.width=4", "train.output_dir=whole")
    project.run("model.width=4", "train.output_dir=halves", "train.num_accumulation_steps=2")
    whole, halves = (
        [record["loss"] for record in project.metrics(run) if record["kind"] == "train"] for run in ("whole", "halves")
    )
    whole, halves = (np.reshape(losses, (8, 3)).mean(1) for losses in (whole, halves))  # of three updates each
    assert whole == pytest.approx(halves, rel=0.2)  # BatchNorm sees other batches; the samples are the same


def test_fast_dev_run_does_two_batches_of_everything(project):
    project.run("train.fast_dev_run=true", "train.log_period=1")
    assert [record["update"] for record in project.metrics("run")] == [1, 2, 2]


def test_a_loss_that_is_not_finite_is_skipped_and_then_stops_the_run(project, refusal):
    (project.folder / "own_parts.py").write_text(
        (project.folder / "own_parts.py").read_text(encoding="utf-8").replace(".abs().mean()", ".abs().mean() * float('nan')"),
        encoding="utf-8",
    )  # fmt: skip
    assert "update 4: the loss or its gradient was not finite in 4 updates in a row" in refusal(
        "train.max_skipped_updates=3"
    )


DIVERGING = """
_forward = OwnModel.forward

def forward(self, batch):
    outputs = _forward(self, batch)
    if self.training:
        self.box.steps += 1
        if 20 < self.box.steps <= LAST:
            outputs["loss"] = outputs["loss"] * float("nan")
    return outputs

_init = OwnModel.__init__

def init(self, width=8):
    _init(self, width)
    self.box.register_buffer("steps", torch.zeros((), dtype=torch.int64))

OwnModel.__init__, OwnModel.forward = init, forward
"""


def diverging(project, last):
    """Makes the losses of updates 21 to ``last`` NaN, in a run that was continued too."""
    parts = project.folder / "own_parts.py"
    parts.write_text(parts.read_text(encoding="utf-8") + DIVERGING.replace("LAST", str(last)), encoding="utf-8")
    return ("train.checkpointer.period=2", "train.log_period=1", "train.max_skipped_updates=5", "train.epochs=5")


def test_a_run_that_diverges_keeps_its_healthy_checkpoints_and_its_restart_says_what_to_change(project):
    command = diverging(project, 10**6)
    output = " ".join(project.run(*command, status=2).split())
    assert "update 26: the loss or its gradient was not finite in 6 updates in a row. Lower optim.lr" in output
    assert "the last healthy checkpoint is run/checkpoints/step_00000020" in output
    saved = sorted(path.name for path in (project.folder / "run/checkpoints").iterdir())
    assert saved == ["last", "step_00000018", "step_00000020"]
    evaluated = [record["update"] for record in project.metrics("run") if record["kind"] == "evaluation"]
    assert evaluated == [8, 16]
    again = " ".join(project.run(*command, "optim.lr=0.04", status=2).split())
    assert "continuing from run/checkpoints/step_00000020" in again
    assert (
        "went on from here before and diverged, update 26: unless something was changed since, it will again" in again
    )
    assert sorted(path.name for path in (project.folder / "run/checkpoints").iterdir()) == saved


def test_what_falls_due_while_updates_are_skipped_is_done_after_them_and_never_at_the_end(project):
    command = diverging(project, 24)
    project.run(*command, "train.train_iter=27", "train.checkpointer.max_to_keep=4")
    saved = sorted(path.name for path in (project.folder / "run/checkpoints").glob("step_*"))
    assert saved == ["step_00000020", "step_00000025", "step_00000026", "step_00000027"]
    evaluated = [record["update"] for record in project.metrics("run") if record["kind"] == "evaluation"]
    assert evaluated == [8, 16, 25, 27]
    ended = " ".join(project.run(*command, "train.train_iter=23", "train.output_dir=ended", status=2).split())
    assert "not finite in 3 updates in a row" in ended and "is ended/checkpoints/step_00000020" in ended


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.batchsize=4"], "did you mean"),
        (["train.batch_size=100"], "lower train.batch_size to at most 67"),
        (["train.batch_size=9", "train.num_accumulation_steps=2"], "9"),
        (["model.widht=3"], "widht"),
        (["train.output_dir=/proc/nothing/here"], "cannot be written"),
        (["train.amp.enabled=true"], "disagrees with the launch profile"),
        (["train.resume_path=nowhere"], "is not a checkpoint or run folder"),
        (["train.evaluation.eval_metric=accuracy"], "which nothing measures"),
        (["train.evaluation.eval_metric=mask_mIoU"], "measured were Acc@0.5"),
        (["train.sync_bn.enabled=true"], "use train.sync_bn.enabled=false"),
        (
            ["optim={_target_: torch.optim.LBFGS, _delete_: true, lr: 0.1}"],
            "builds LBFGS, whose step computes the loss",
        ),
        (
            ["optim={_target_: torch.optim.SparseAdam, _delete_: true}"],
            "builds SparseAdam, which takes sparse gradients",
        ),
    ],
)
def test_bad_input_is_one_paragraph_that_names_the_key_and_the_remedy(refusal, overrides, message):
    assert message in refusal(*overrides)


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ("best/notes.txt", "run/best exists and is not a model folder"),
        ("best", "run/best exists and is not a model folder"),
        ("checkpoints", "run/checkpoints is not a folder that can be written"),
    ],
)
def test_what_stands_where_a_run_will_write_is_told_before_it_trains(project, refusal, taken, message):
    place = project.folder / "run" / taken
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    assert message in refusal()
    assert place.read_text() == "mine" and not (project.folder / "run" / "metrics.jsonl").exists()


def test_a_second_run_on_the_same_folder_is_refused_while_the_first_lives(project):
    first = project.start("train.epochs=2000", "train.log_period=1")
    try:
        project.wait_for_update(first, 2)
        assert "another run" in project.run(status=2)
    finally:
        first.kill()
        first.wait()
    assert "continuing from" in project.run("train.epochs=2000", "train.train_iter=40", "train.log_period=1")


def test_another_config_in_the_output_folder_is_refused_with_what_differs(project, refusal):
    project.run()
    assert "model.width: 8 -> 16" in refusal("model.width=16")
