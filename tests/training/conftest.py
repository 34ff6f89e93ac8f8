"""A stranger's project for every test of training."""

from pathlib import Path

import pytest
from train_project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")
