"""The config examples in the docs work: they are checked and built."""

import re
import shutil
from pathlib import Path

import pytest

from rec.config import LazyConfig, instantiate
from rec.config.overrides import apply_overrides

ROOT = Path(__file__).parents[2]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_in_the_docs_is_checked_and_built_by_the_lines_below_it(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from rec.training.build import read_training_config

    example, lines = blocks("config.md")[:2]
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "configs/my_model.py").write_text(example, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert read_training_config("configs/my_model.py", []).dataset.ann_path.mine == "data/mine.jsonl"
    built = {}
    with torch.device("meta"):
        exec(lines, built)
    assert built["cfg"].train.batch_size == 64 and built["cfg"].train.epochs == 12
    assert built["optimizer"].param_groups[0]["weight_decay"] == 0.01


def test_the_config_lines_of_the_training_page_are_checked_and_built(files):
    torch = pytest.importorskip("torch")
    from rec.training.build import read_training_config, set_vocabulary_size
    from rec.training.freezing import FreezingSchedule

    names = "dataset, model, optim, train"
    freezing, stream = (block for block in blocks("train.md") if "train." in block or "dataset =" in block)
    base = "from rec.config import get_config\n_base = get_config('simrec_refcoco_scratch.py')\n"
    base += f"{names} = (_base[name] for name in '{names}'.split(', '))\n"
    for example in (freezing, stream):
        cfg = read_training_config(str(files(leaf=base + example)), [])
    assert cfg.dataset.buffer_size == 1000
    cfg = read_training_config(str(files(leaf=base + freezing)), ["model.visual_backbone.pretrained=false"])
    set_vocabulary_size(cfg, range(20))
    with torch.device("meta"):
        model = instantiate(cfg.model)
    accelerator = type("Accelerator", (), {"distributed_type": "NO"})()
    assert len(FreezingSchedule(cfg.train.freeze_schedule, model, accelerator).steps) == 3


def test_the_overrides_in_the_docs_are_overrides(files):
    text = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    table = text.split("| write | meaning |")[1].split("\n\n")[0]
    config = LazyConfig.load(
        files(
            a="""
                from rec.config import LazyCall
                train = dict(batch_size=1, ema=dict(alpha=1), evaluation=dict(splits=["val"]))
                pipeline = (dict(type="a"),)
                dataset = dict(ann_path={"refcoco+": "y"})
                a = {"x.y": 0}
                optim = LazyCall("torch.optim.Adam")(lr=1)
                model = dict(head=LazyCall("my.Other")(depth=1))
            """
        )
    )
    overrides = re.findall(r"`([^`]+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if "`" in row))
    assert len(overrides) == 12
    overrides.remove("~train.ema")
    apply_overrides(config, [*overrides, "~train.ema"])
    assert config.train.evaluation.splits == ["val", "testA"]
    assert config.model.head == {"_target_": "my.Head", "width": 2} and "ema" not in config.train
