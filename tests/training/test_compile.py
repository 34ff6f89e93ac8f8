"""``train.compile`` with multi-scale training, activation checkpointing and accumulation: few graphs, the same training."""

import pytest
import torch
from safetensors.torch import load_file

# Counts the graphs that torch.compile makes, and lets AOTAutograd handle them as inductor would, without its C++ compiler.
PARTS = """
import os
from pathlib import Path

import torch
from own_parts import OwnModel
from torch import nn
from torch._dynamo.backends.debugging import aot_eager

from rec.models.backbones.base import Backbone


@torch._dynamo.register_backend(name="counted")
def counted(graph, inputs):
    with Path(os.environ["GRAPHS"]).open("a") as file:
        file.write("graph\\n")
    return aot_eager(graph, inputs)


class Last(Backbone):
    def forward(self, image):
        return super().forward(image)[-1]


class StagedModel(OwnModel):
    def __init__(self, width=8):
        super().__init__(width)
        convolution = lambda inputs, stride: nn.Conv2d(inputs, width, 3, stride, 1)
        first = nn.Sequential(convolution(3, 2), nn.BatchNorm2d(width), nn.SiLU())
        second = nn.Sequential(convolution(width, 1), nn.BatchNorm2d(width), nn.SiLU())
        self.features = Last([first, second], {1: (2, width)})

    def enable_activation_checkpointing(self):
        self.features.checkpoint_stages = True
"""
SIZES = [32, 40, 48, 56, 64, 72]
TOGETHER = (
    "train.multi_scale_training.enabled=true",
    f"train.multi_scale_training.img_scales={[[size, size] for size in SIZES]}".replace(" ", ""),
    "train.num_accumulation_steps=2",
    "train.activation_checkpoint.enabled=true",
)


@pytest.fixture
def staged(project):
    (project.folder / "staged_parts.py").write_text(PARTS, encoding="utf-8")
    config = (project.folder / "config.py").read_text(encoding="utf-8")
    config = config.replace("from own_parts", "from staged_parts import StagedModel\nfrom own_parts")
    config = config.replace("LazyCall(OwnModel)", "LazyCall(StagedModel)")
    (project.folder / "config.py").write_text(config, encoding="utf-8")
    return project


@pytest.mark.parametrize(("dynamic", "least", "most"), [("null", 2, 4), ("false", len(SIZES), len(SIZES) + 2)])
def test_compiled_multi_scale_training_makes_few_graphs_and_the_same_weights(staged, monkeypatch, dynamic, least, most):
    """Two graphs for training, of the first size and of any other, or one for each; up to two more for evaluation."""
    monkeypatch.setenv("GRAPHS", str(staged.folder / "graphs.txt"))
    staged.run(*TOGETHER, "train.output_dir=plain", "train.activation_checkpoint.enabled=false")
    compiled = "train.compile.enabled=true", "train.compile.backend=counted", f"train.compile.dynamic={dynamic}"
    output = staged.run(*TOGETHER, *compiled)
    graphs = len((staged.folder / "graphs.txt").read_text(encoding="utf-8").splitlines())
    assert least <= graphs <= most, output
    plain, run = (
        load_file(staged.folder / name / "checkpoints/step_00000024/model.safetensors") for name in ("plain", "run")
    )
    assert plain.keys() == run.keys()
    for name in plain:
        assert torch.allclose(plain[name], run[name], rtol=1e-3, atol=1e-5), name


def test_a_backend_that_does_not_exist_is_named(staged, monkeypatch):
    output = staged.run("train.compile.enabled=true", "train.compile.backend=fast", status=2)
    assert "train.compile.backend" in output and "Traceback" not in output
