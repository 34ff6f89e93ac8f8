"""scripts/migrate_config.py: SimREC's four configs, with their common/ or without, become ours, are checked and trained."""

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "scripts")]

import migrate_config  # noqa: E402
import simrec_repository as simrec  # noqa: E402

from rec.config import LazyConfig, instantiate, to_native  # noqa: E402
from rec.errors import InputError  # noqa: E402
from rec.training import build  # noqa: E402
from rec.training.weights import find_weights, load_matching  # noqa: E402


@pytest.fixture
def migrate(monkeypatch, tmp_path):
    """Runs the script; gives the path of the config it wrote."""

    def run(path: Path) -> Path:
        out = tmp_path / "out" / path.stem
        monkeypatch.setattr(sys, "argv", ["migrate_config.py", str(path), "--out", str(out)])
        assert migrate_config.main() == 0
        return out / f"{path.stem}.py"

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Annotations, images and masks in SimREC's format, word vectors and a backbone's weights as its code saves them."""
    folder = tmp_path_factory.mktemp("data")
    items = []
    for number, phrase in enumerate(("left dog", "right dog", "a red car", "the tall man")):
        for name in (f"COCO_train2014_{number:012d}.jpg", f"{number}.jpg"):  # as refcoco and merge name it
            Image.new("RGB", (80, 60), (40 * number, 90, 60)).save(folder / name)
        mask = np.zeros((60, 80), np.uint8)
        mask[10:40, 10:50] = 1
        np.save(folder / f"{number}.npy", mask)
        items.append({"iid": number, "bbox": [10, 10, 40, 30], "cat_id": 0, "refs": [phrase], "mask_id": number})
    (folder / "anns.json").write_text(json.dumps({"train": items}), encoding="utf-8")
    words = ["left", "right", "dog", "a", "red", "car", "the", "tall", "man"]
    vectors = np.random.default_rng(0).normal(size=(len(words), 300)).round(3)
    lines = [f"{word} {' '.join(map(str, row))}\n" for word, row in zip(words, vectors, strict=True)]
    (folder / "glove.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def own(cfg, data):
    """The overrides that name the generated files, and keep the run small."""
    name = cfg.dataset.dataset
    small = [f"model.fusion_manner.modules.{n}.v_planes={planes}" for n, planes in enumerate((32, 64, 128))]
    small += ["model.visual_backbone.width=0.125", "model.visual_backbone.depth=0.3"]
    places = {"ann_path": data / "anns.json", "image_path": data, "mask_path": data}
    return [f"+dataset.{key}={{'{name}': '{path}'}}" for key, path in places.items()] + [
        f"dataset.word_vectors={data / 'glove.txt'}",
        "dataset.input_shape=[64,64]",
        "train.batch_size=4",
        "train.data.num_workers=0",
        *(small if "attention_manner" in cfg.model else []),
    ]


LENGTHS = {"simrec_refcoco_scratch": (25, 10), "simrec_refcoco_finetune": (25, 1), "simrec_pretrain": (15, 1)}
LENGTHS["mcn_refcoco_scratch"] = (39, 1)


@pytest.mark.parametrize("common", [True, False], ids=["own common", "shipped common"])
@pytest.mark.parametrize("name", simrec.LEAVES)
def test_a_published_config_is_migrated_checked_and_trained_for_two_updates(name, common, migrate, data, tmp_path):
    path = migrate(simrec.write(tmp_path / "theirs", common) / f"{name}.py")
    cfg = build.read_training_config(str(path), [])
    assert cfg.dataset.use_glove and cfg.dataset.word_vectors == "en_core_web_lg"
    assert (cfg.train.epochs, cfg.train.log_period) == LENGTHS[name]
    if not common:
        return
    torch.manual_seed(0)
    cfg = build.read_training_config(str(path), own(cfg, data))
    dataset = build.build_dataset(cfg, "train", training=True)
    build.set_vocabulary_size(cfg, dataset.vocabulary)
    pretrained = cfg.model.visual_backbone.pretrained
    if pretrained:
        cfg.model.visual_backbone.pretrained_weight_path = str(data / "backbone.pth")
        kind = cfg.model.visual_backbone.copy()
        kind.pretrained = False
        weights = instantiate(kind).state_dict()
        torch.save({"state_dict": weights}, data / "backbone.pth")
    model = build.build_model(cfg, dataset).train()
    if pretrained:
        assert all(torch.equal(value, weights[key]) for key, value in model.visual_backbone.state_dict().items())
    if cfg.train.vl_pretrain_weight:
        assert cfg.train.vl_pretrain_weight == "./data/weights/SimREC_pretrain_merge"
        from safetensors.torch import save_file

        save_file(model.state_dict(), data / "whole.safetensors")
        load_matching(model, find_weights(str(data / "whole.safetensors")), dataset.vocabulary.words)
    vector = (data / "glove.txt").read_text(encoding="utf-8").split("\n")[2].split(" ")
    row = model.language_encoder.embedding.weight[dataset.vocabulary.words.index(vector[0])]
    assert torch.allclose(row, torch.tensor([float(number) for number in vector[1:]]))
    optimizer = build.build_optimizer(cfg, model)
    batch = dataset.collate([dataset[(0, number)] for number in range(4)])
    before = [parameter.clone() for parameter in model.parameters() if parameter.requires_grad]
    for _ in range(2):
        from rec.data.batch import model_input

        loss = model(model_input(batch, cfg.train.data.mean, cfg.train.data.std, None))["loss"]
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(not torch.equal(*pair) for pair in zip(before, after, strict=True)) > len(before) / 2


def test_what_is_not_changed_stays_as_it_was_written_and_what_is_says_so(migrate, tmp_path):
    path = migrate(simrec.write(tmp_path / "theirs") / "mcn_refcoco_scratch.py")
    text = (path.parent / "common/dataset.py").read_text(encoding="utf-8")
    assert '# "RandAugment": RandAugment(2, 9),' in text and "albumentations" not in text and "torchvision" not in text
    assert "# rec: transforms is left out: pixels are normalised on the device" in text
    text = (path.parent / "common/models/mcn.py").read_text(encoding="utf-8")
    assert "in_channels=512,  # rec: in_ch there" in text and "# rec: arch_mask is left out" in text
    assert "# rec: this is heeded; there it was not" in path.read_text(encoding="utf-8")
    train = (path.parent / "common/train.py").read_text(encoding="utf-8")
    assert "ddp=" not in train and "# rec: ddp is left out: SimREC's; choose a launch profile" in train
    theirs = ast.parse(simrec.TRAIN)
    kept = [keyword.arg for keyword in theirs.body[0].value.keywords if keyword.arg != "ddp"]
    assert [keyword.arg for keyword in ast.parse(train).body[0].value.keywords] == kept


def test_nothing_of_theirs_is_run_or_imported(migrate, tmp_path):
    path = tmp_path / "evil.py"
    path.write_text(
        f"import canary_package\nopen({str(tmp_path / 'canary')!r}, 'w')\ntrain = dict(train_epoch=3, epochs=2)\n"
    )
    text = migrate(path).read_text(encoding="utf-8")
    assert not (tmp_path / "canary").exists() and "canary_package" not in sys.modules
    assert "train_epoch is left out: LiBai's; use train.epochs" in text and "dict( epochs=2)" in text


def test_the_config_of_a_run_of_theirs_is_read_as_data(migrate, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: {_target_: simrec.models.simrec.SimREC, head: {_target_: simrec.models.heads.REChead, strides: [32],"
        " in_channels: !!python/tuple [512]}}\n"
        "train: {batch_size: 32, ddp: {backend: nccl}, evaluation: {eval_batch_size: 8}}\n"
        "optim: {_target_: torch.optim.adam.Adam, lr: 1e-4, betas: !!python/tuple [0.9, 0.98]}\n"
    )
    cfg = LazyConfig.load(migrate(path))
    assert to_native(cfg.model)["_target_"] == "rec.models.SimREC" and to_native(cfg.model.head.in_channels) == (512,)
    assert to_native(cfg.optim.betas) == (0.9, 0.98) and "ddp" not in cfg.train


def test_a_yaml_cannot_put_a_call_into_the_program_it_becomes(migrate, tmp_path):
    path = tmp_path / "config.yaml"
    for target in ("os.system", "simrec.x.y\nimport os", "builtins.exec", "simrec.x;os"):
        path.write_text(f"model: {{_target_: {json.dumps(target)}, command: x}}\n")
        with pytest.raises(InputError, match="neither SimREC's nor in the list"):
            migrate(path)
    path.write_text('"a = 1; import os #": 3\nmodel: {"x y": [1], "class": 2}\n')
    assert to_native(LazyConfig.load(migrate(path))) == {"model": {"x y": [1], "class": 2}}


def test_files_that_import_each_other_end_and_nothing_is_written_over(migrate, tmp_path):
    (tmp_path / "a.py").write_text("from .b import y\nx = dict(k=1)\n")
    (tmp_path / "b.py").write_text("from .a import x\ny = dict(k=2)\n")
    migrate(tmp_path / "a.py")
    with pytest.raises(InputError, match="already there"):
        migrate(tmp_path / "a.py")
    (tmp_path / "c.py").write_text("from .gone import x\n")
    with pytest.raises(InputError, match=r"c\.py:1 imports x from .*gone\.py, which is not there"):
        migrate(tmp_path / "c.py")
