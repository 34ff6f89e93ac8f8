"""Configs for people: ``to_py``, ``diff`` and ``scripts/print_config.py``."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from config_targets import Colour, Head, Part, Shape
from omegaconf import DictConfig

from rec.config import LazyCall, LazyConfig, diff

ROOT = Path(__file__).parents[2]


def config(**groups):
    return DictConfig(groups, flags={"allow_objects": True})


def test_a_config_reads_as_python():
    cfg = config(
        train={"lr": 1e-4, "name": "it's", "none": None, "empty": {}, "a b": 1, "deep": {"x": (1,), "y": [], "z": ()}},
        model=LazyCall(Part)(value=LazyCall(Head)(in_channels="${train.lr}", act=Colour.RED), name=len, _partial_=True),
        steps=[LazyCall(Part)(value="x" * 40), LazyCall(Part)(value="y" * 40)],
        shape=Shape(1),
    )
    assert (
        LazyConfig.to_py(cfg)
        == f"""\
cfg.train.lr = 0.0001
cfg.train.name = "it's"
cfg.train.none = None
cfg.train.empty = {{}}
cfg.train['a b'] = 1
cfg.train.deep.x = (1,)
cfg.train.deep.y = []
cfg.train.deep.z = ()
cfg.model = config_targets.Part(
    value=config_targets.Head(in_channels=0.0001, act=config_targets.Colour.RED),
    name=builtins.len,
    _partial_=True,
)
cfg.steps = [
    config_targets.Part(value="{"x" * 40}"),
    config_targets.Part(value="{"y" * 40}"),
]
cfg.shape = config_targets.Shape(channels=1, width=None)
"""
    )


def test_what_is_printed_is_python(form):
    cfg = config(a=LazyCall(Part)(value={"k": [1, (2, "'\"\\")], 3: LazyCall(LazyCall(Part)())(number=1)}), b="x\ny")
    ast.parse(LazyConfig.to_py(form(cfg)))


def test_values_that_are_still_missing_are_printed():
    assert LazyConfig.to_py(config(a="???", b=LazyCall(Part)(value="???"))) == (
        'cfg.a = "???"\ncfg.b = config_targets.Part(value="???")\n'
    )


def test_a_single_call_is_printed():
    assert LazyConfig.to_py(LazyCall(Part)(value=1)) == "cfg = config_targets.Part(value=1)\n"
    assert LazyConfig.to_py(config(a=1), prefix="cfg.") == "cfg.a = 1\n"  # as detectron2 gives it


def test_differences():
    a = config(train={"lr": 1, "gone": 2, "same": [1]}, m=LazyCall(Part)(value=[1, 2]), p=[{"x": 1}], t=[1])
    b = config(train={"lr": 3, "same": [1], "new": None}, m=LazyCall(Head)(value=[1, 3]), p=[{"x": 2}], t=(1,))
    assert diff(a, b) == [
        "~ train.lr: 1 → 3",
        "- train.gone = 2",
        '~ m._target_: "config_targets.Part" → "config_targets.Head"',
        "~ m.value: [1, 2] → [1, 3]",
        "~ p[0].x: 1 → 2",
        "~ t: [1] → (1,)",
        "+ train.new = None",
    ]
    assert diff(a, a) == []


@pytest.fixture
def script(files, call_script):
    path = files(
        base="train = dict(lr=0.1, epochs=25)\n",
        other="from .base import train\ntrain.epochs = 3\n",
        leaf="""
            from rec.config import LazyCall
            from .base import train
            head = LazyCall("config_targets.Head")(in_channels="${train.epochs}")
        """,
    )

    def run(*words):
        return call_script("print_config", path, *words)

    run.path = path
    return run


def test_the_script_shows_the_resolved_config(script):
    shown = "cfg.train.lr = 0.1\ncfg.train.epochs = 7\ncfg.head = config_targets.Head(in_channels=7)\n"
    assert script("train.epochs=7") == (0, shown, "")


def test_the_script_shows_differences(script):
    assert script("--diff", script.path.with_name("other.py"))[1] == (
        '~ train.epochs: 25 → 3\n- head._target_ = "config_targets.Head"\n- head.in_channels = "${train.epochs}"\n'
    )


def test_the_script_lists_keys_with_the_defaults_of_targets(script):
    assert (
        script("--keys")[1]
        == """\
train.lr = 0.1
train.epochs = 25
head._target_ = "config_targets.Head"
head.strides: (32,) by default
head.act: "silu" by default
head.in_channels = "${train.epochs}"
"""
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
def test_the_script_colours_a_terminal_only(script, variables):
    import pty

    master, slave = pty.openpty()
    words = [sys.executable, str(ROOT / "scripts/print_config.py"), str(script.path), "train.epochs=7"]
    environment = {"PYTHONPATH": f"{Path(__file__).parent}:{':'.join(p for p in sys.path if p)}", "PATH": "/usr/bin"}
    subprocess.run(words, stdout=slave, env=environment | variables, check=True)
    os.close(slave)
    text = os.read(master, 10_000).decode()
    os.close(master)
    assert ("\033[" in text) == (not variables)
    plain = re.sub(r"\033\[\d+m", "", text).replace("\r", "")
    assert plain.startswith("cfg.train.lr = 0.1\ncfg.train.epochs = 7\n")


def test_the_script_answers_mistakes_with_one_paragraph(script):
    mistakes = {
        ("train.epoch=1",): "did you mean `train.epochs`",
        ("--diff", "gone.py"): "gone.py does not exist",
        (
            "train.lr=${nowhere}",
        ): "cfg.train.lr: Interpolation key 'nowhere' not found [command line: train.lr=${nowhere}]",
        ("~head.in_channels", "head._target_=gone.Head", "--keys"): "No module named 'gone'",
    }
    for words, text in mistakes.items():
        status, out, error = script(*words)
        assert (status, out) == (2, ""), words
        told = " ".join(error.split())
        assert told.startswith("print_config.py: error: ") and text in told and "Traceback" not in told
        assert "\n\n" not in error.strip(), "one paragraph"
