"""Config files written for one test, and every config both as written and as saved and loaded again."""

import textwrap

import pytest

import rec.other_names  # noqa: F401 - as every config that names parts of rec brings them
from rec.config import LazyConfig


@pytest.fixture
def files(tmp_path):
    """``files(name=text, ...)`` writes config files (``__`` in a name is a folder) and returns the path of the last."""

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture(params=["live", "reloaded"])
def form(request, tmp_path):
    """``form(cfg)`` is ``cfg`` itself, or what comes back after saving and loading it."""

    def shape(cfg):
        if request.param == "live":
            return cfg
        LazyConfig.save(cfg, tmp_path / "saved.yaml")
        return LazyConfig.load(tmp_path / "saved.yaml")

    return shape
