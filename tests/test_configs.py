"""Every file in configs/ loads, passes the check, builds, and trains two steps (shrunk by overrides)."""

from pathlib import Path

import pytest
import torch

from rec.config import LazyConfig, check, instantiate
from rec.training.build import build_optimizer, set_vocabulary_size
from rec.training.keys import check_values

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))

TINY_BERT = {
    "model_type": "bert", "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 24, "pad_token_id": 0, "max_position_embeddings": 20,
}  # fmt: skip


def shrunk(path: Path):
    cfg = LazyConfig.load(str(path))
    if "mask_head" in cfg.model or "seg_attention" in cfg.model:
        assert cfg.dataset.with_masks, "a mask model needs masks"
    if "pretrained" in cfg.model.visual_backbone:
        cfg.model.visual_backbone.pretrained = False
    if "PretrainedText" in str(cfg.model.language_encoder["_target_"]):
        cfg.model.language_encoder.config = TINY_BERT  # a run takes it from the encoder's folder
    set_vocabulary_size(cfg, range(40))
    return cfg


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_checked_built_and_trained_two_steps(path):
    assert check_values(LazyConfig.load(str(path))) == []
    cfg = shrunk(path)
    assert check(cfg) == []
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    optimizer = build_optimizer(cfg, model)
    size = 64
    batch = {
        "image": torch.rand(2, 3, size, size),
        "tokens": torch.tensor([[3, 4, 0], [5, 6, 7]]),
        "box": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.3, 0.5]]),
        "mask": torch.full((2, 1, size, size), 255, dtype=torch.uint8),
    }
    before = {
        name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    for _ in range(2):
        loss = model(batch)["loss"]
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = dict(model.named_parameters())
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    with torch.no_grad():
        answer = model.eval()(batch)
    assert answer["box"].shape == (2, 4) and torch.isfinite(answer["box"]).all()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_leaf_configs_are_short_and_name_a_folder_of_their_own(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 25
    assert LazyConfig.load(str(path)).train.output_dir.startswith("outputs/")


def test_a_saved_config_rebuilds_the_same_model(tmp_path):
    cfg = shrunk(CONFIGS[-1])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    first, second = (instantiate(config.model) for config in (cfg, again))
    assert [(n, p.shape) for n, p in first.named_parameters()] == [(n, p.shape) for n, p in second.named_parameters()]


@pytest.mark.parametrize("name", ["simrec", "mcn"])
def test_original_arithmetic_can_be_turned_on_as_a_whole(name):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("original", CONFIGS[0].parent / "common" / "original.py")
    original = module_from_spec(spec)
    spec.loader.exec_module(original)
    cfg = LazyConfig.load(str(CONFIGS[0].parent / f"{name}_refcoco_scratch.py"))
    getattr(original, name)(cfg.model, cfg.dataset)
    assert check(cfg) == []
