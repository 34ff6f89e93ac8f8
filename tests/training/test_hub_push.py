"""``train.hub``: model folders pushed while a run trains, through the real Hub client, to a server on localhost."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
from hub_server import HubServer

TOKEN = "hf_averysecrettoken"


@pytest.fixture
def server(tmp_path, monkeypatch):
    def start(fail_every=0):
        running = HubServer(fail_every)
        settings = {"HF_ENDPOINT": running.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
        for name, value in (settings | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}).items():
            monkeypatch.setenv(name, value)
        return running

    return start


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_best_model_is_pushed_though_one_request_in_five_fails(project, server):
    running = server(fail_every=5)
    output = project.run("train.hub.repo_id=user/own")
    assert running.files("user/own") == files(project.folder / "run" / "best") and not running.trouble
    assert "hub: pushed to" in output and TOKEN not in output
    log = "\n".join(running.log)
    assert "optimizer" not in log and TOKEN not in log
    assert not list((project.folder / "run").glob(".push-*")), "nothing set aside stays"


def test_every_save_pushes_the_weights_of_the_checkpoint(project, server):
    running = server()
    project.run("train.hub.repo_id=user/own", "train.hub.push=every_save", "train.evaluation.enabled=false")
    newest = project.folder / "run" / "checkpoints" / "step_00000024" / "ema.safetensors"
    assert running.files("user/own")["model.safetensors"] == newest.read_bytes()
    assert b"Not measured" in running.files("user/own")["README.md"]
    assert not (project.folder / "run" / ".hub").exists()


@pytest.mark.parametrize("evaluation", ["true", "false"])
def test_end_pushes_once_the_best_model_or_the_last_where_nothing_was_evaluated(project, server, evaluation):
    running, run = server(), project.folder / "run"
    (run / "best").mkdir(parents=True)  # of an earlier run, whose checkpoints were removed
    (run / "best" / "model.safetensors").write_bytes(b"earlier weights")
    said = project.run("train.hub.repo_id=user/own", "train.hub.push=end", f"train.evaluation.enabled={evaluation}")
    assert ("next: rec predict run/best" in said) == (evaluation == "true")
    expected = (
        run / "best/model.safetensors" if evaluation == "true" else run / "checkpoints/step_00000024/ema.safetensors"
    )
    assert running.files("user/own")["model.safetensors"] == expected.read_bytes()
    assert sum("/commit/" in line for line in running.log) == 1


def test_a_hub_that_refuses_stops_nothing_and_says_so_in_the_log(project, server):
    server()
    project.run("train.output_dir=quiet")
    output = project.run("train.hub.repo_id=other/own")
    assert "hub: push to other/own" in output and "refused (403)" in output and TOKEN not in output
    assert "tried again later" in output and "given up: push the folder with `rec push`" in output
    assert project.hashes("run") == project.hashes("quiet") and project.metrics("run") == project.metrics("quiet")
    assert "refused (403)" in (project.folder / "run/train.log").read_text(encoding="utf-8")
    assert not list((project.folder / "run").glob(".push-*"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.hub.push=always", "expected best or every_save or end"),
        ("train.hub.repo_id=a/b/c", "expected user/name"),
    ],
)
def test_a_bad_hub_setting_is_refused_before_training(project, override, message):
    output = project.run("train.hub.repo_id=user/own", override, status=2)
    assert message in " ".join(output.split()) and "Traceback" not in output
