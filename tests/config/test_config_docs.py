"""The config examples in the docs and in SimREC's manual work."""

import re
import shutil
from pathlib import Path

import pytest

from rec.config import LazyConfig, check, instantiate
from rec.config.overrides import apply_overrides

ROOT = Path(__file__).parents[2]

MANUAL = """
import torch.nn as nn

from rec.config import LazyCall
from rec.models import SimREC
from rec.models.backbones import CspDarkNet
from rec.models.heads import REChead
from rec.models.language_encoders import LSTM_SA
from rec.models.fusion import SimpleFusion, MultiScaleFusion, GaranAttention

model = LazyCall(SimREC)(
    visual_backbone=LazyCall(CspDarkNet)(
        pretrained=False,
        pretrained_weight_path="./data/weights/cspdarknet_coco.pth",
        freeze_backbone=True,
        multi_scale_outputs=True,
    ),
    language_encoder=LazyCall(LSTM_SA)(
        depth=1,
        hidden_size=512,
        num_heads=8,
        ffn_size=2048,
        flat_glimpses=1,
        word_embed_size=300,
        dropout_rate=0.1,
        freeze_embedding=True,
        use_glove=True,
    ),
    multi_scale_manner=LazyCall(MultiScaleFusion)(
        v_planes=(512, 512, 512),
        scaled=True
    ),
    fusion_manner=LazyCall(nn.ModuleList)(
        modules = [
            LazyCall(SimpleFusion)(v_planes=256, out_planes=512, q_planes=512),
            LazyCall(SimpleFusion)(v_planes=512, out_planes=512, q_planes=512),
            LazyCall(SimpleFusion)(v_planes=1024, out_planes=512, q_planes=512),
        ]
    ),
    attention_manner=LazyCall(GaranAttention)(
        d_q=512,
        d_v=512
    ),
    head=LazyCall(REChead)(
        label_smooth=0.,
        num_classes=0,
        width=1.0,
        strides=[32,],
        in_channels=[512,],
        act="silu",
        depthwise=False
    )
)
"""


def test_the_model_of_simrecs_manual_is_built_with_new_import_lines_only(files, form):
    torch = pytest.importorskip("torch")
    path = files(model=MANUAL, leaf="from .model import model\nmodel.visual_backbone.pretrained = True\n")
    config = form(LazyConfig.load(path))
    assert check(config) == []
    config.model.visual_backbone.pretrained = False
    config.model.language_encoder.token_size = 20
    with torch.device("meta"):
        model = instantiate(config.model)
    assert len(model.fusion_manner) == 3 and isinstance(model, torch.nn.Module)


def test_the_example_in_the_docs_has_no_problems(tmp_path):
    pytest.importorskip("torch")
    text = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(# configs/my_model\.py.*?)```", text, re.DOTALL)[0]
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "configs/my_model.py").write_text(example, encoding="utf-8")
    config = LazyConfig.load(tmp_path / "configs/my_model.py")
    assert check(config) == []
    assert config.dataset.ann_path.mine == "data/mine.jsonl"


def test_the_overrides_in_the_docs_are_overrides(files):
    text = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    table = text.split("| write | meaning |")[1].split("\n\n")[0]
    config = LazyConfig.load(
        files(
            a="""
                from rec.config import LazyCall
                train = dict(batch_size=1, ema=dict(alpha=1))
                pipeline = (dict(type="a"),)
                dataset = dict(ann_path={"refcoco+": "y"})
                a = {"x.y": 0}
                optim = LazyCall("torch.optim.Adam")(lr=1)
                model = dict(head=LazyCall("my.Other")(depth=1))
            """
        )
    )
    overrides = re.findall(r"`([^`]+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if "`" in row))
    assert len(overrides) == 10
    overrides.remove("~train.ema")
    apply_overrides(config, [*overrides, "~train.ema"])
    assert config.model.head == {"_target_": "my.Head", "width": 2} and "ema" not in config.train
