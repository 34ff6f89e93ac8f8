"""What tests of training share: a stranger's project, and short runs of ``scripts/train.py`` in this process."""

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from train_project import TRAIN, Project

from rec.command_line import exit_with

CONFIGS = TRAIN.parents[1] / "configs"
SHORT = (
    "train.batch_size=2", "train.fast_dev_run=true", "train.trackers=[]", "train.multi_scale_training.enabled=false",
    "train.data.num_workers=0", "train.evaluation.enabled=false", "dataset.input_shape=[64,64]", "dataset.use_glove=false",
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def run_script(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Runs scripts/train.py in this process; gives its exit status and stderr as one line."""
    spec = importlib.util.spec_from_file_location("train_script", TRAIN)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    logger = logging.getLogger("rec")
    for name in ("handlers", "level", "propagate"):  # a run that begins sets them for its process
        monkeypatch.setattr(logger, name, getattr(logger, name))

    def run(*words: str) -> tuple[int, str]:
        logger.handlers = []
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        with pytest.raises(SystemExit) as ended:
            exit_with(script.main)
        return int(ended.value.code or 0), " ".join(capsys.readouterr().err.split())

    return run


@pytest.fixture
def train_here(tmp_path, run_script) -> Callable[..., tuple[int, str]]:
    """Trains by a shipped config for two updates in this process."""
    out = f"train.output_dir={tmp_path / 'run'}"
    return lambda config, *overrides: run_script(str(CONFIGS / f"{config}.py"), out, *SHORT, *overrides)


@pytest.fixture
def refusal(project, run_script, monkeypatch) -> Callable[..., str]:
    """What the project's run says that is refused, in this process."""
    monkeypatch.chdir(project.folder)
    monkeypatch.syspath_prepend(project.folder)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def run(*overrides: str) -> str:
        status, said = run_script(project.config, *overrides)
        assert status == 2 and "Traceback" not in said, said
        return said

    yield run
    sys.modules.pop("own_parts", None)
