"""YOLOX's trunk and neck: the description's arithmetic, and every form of its weights gives the same function."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small import batch, simrec
from torch import nn

from rec.config import ConfigError, LazyCall
from rec.models.backbones import YOLOX, CspDarkNet, DarkNet53, SmallResNet, TimmBackbone
from rec.models.backbones.yolox import _TRUNK, Focus
from rec.models.original_weights import load_backbone, original_kind, sizes_of_backbone
from rec.training.build import build_model

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "weights"


def seasoned(**how):
    """A trunk with statistics that are not 0 and 1."""
    torch.manual_seed(0)
    trunk = YOLOX(**how)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return trunk.eval()


def original(trunk):
    """Its tensors as YOLOX names them, with a detector's head beside them."""
    state = {"head.stems.0.conv.weight": torch.zeros(64, 64, 1, 1), "head.obj_preds.0.bias": torch.zeros(1)}
    for name, tensor in trunk.state_dict().items():
        name = re.sub(r"^stages\.(\d+)", lambda m: f"backbone.backbone.{_TRUNK[int(m[1])]}", name)
        name = re.sub(r"^neck", "backbone", name).replace(".norm.", ".bn.")
        state[name] = tensor.clone()
    return state


def folded(state):
    """BatchNorm inside the convolutions, as exported graphs have it."""
    result = dict(state)
    for name in [name for name in state if name.endswith(".bn.weight")]:
        stem = name.removesuffix(".bn.weight")
        weight, bias, mean, var = (
            result.pop(f"{stem}.bn.{k}") for k in ("weight", "bias", "running_mean", "running_var")
        )
        result.pop(f"{stem}.bn.num_batches_tracked")
        scale = weight / (var + 1e-3).sqrt()
        result[f"{stem}.conv.weight"] = result[f"{stem}.conv.weight"] * scale.view(-1, 1, 1, 1)
        result[f"{stem}.conv.bias"] = bias - mean * scale
    return result


def bgr255(state):
    stem = state["backbone.backbone.stem.conv.conv.weight"]
    swapped = stem.reshape(-1, 4, 3, 3, 3).flip(2).reshape(stem.shape) / 255
    return state | {"backbone.backbone.stem.conv.conv.weight": swapped}


def test_focus_takes_the_corners_in_yoloxs_order():
    focus = Focus(12).eval()
    image = torch.arange(3 * 4 * 4.0).reshape(1, 3, 4, 4)
    seen = []
    focus.conv.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    focus(image)
    top_left, bottom_left, top_right, bottom_right = seen[0].split(3, 1)
    assert torch.equal(top_left, image[..., ::2, ::2]) and torch.equal(bottom_left, image[..., 1::2, ::2])
    assert torch.equal(top_right, image[..., ::2, 1::2]) and torch.equal(bottom_right, image[..., 1::2, 1::2])


@pytest.mark.parametrize("neck", [False, True])
def test_every_form_of_the_weights_is_the_same_function(neck, tmp_path, caplog):
    source = seasoned(neck=True)
    state, image = original(source), torch.rand(2, 3, 64, 96)
    rgb, bgr = {"format": "pt", "input": "RGB 0..1"}, {"input": "BGR 0..255 as read by OpenCV"}
    save_file(state, tmp_path / "bn.safetensors", rgb)
    save_file(folded(state), tmp_path / "folded.safetensors", rgb)
    save_file(bgr255(state), tmp_path / "bgr.safetensors", bgr)
    torch.save({"model": bgr255(state)}, tmp_path / "yolox_nano.pth")
    save_file(source.state_dict(), tmp_path / "ours.safetensors")
    plain = YOLOX(neck=neck).eval()
    plain.load_state_dict(source.state_dict(), strict=neck)
    with torch.no_grad():
        expected = plain(image)
    for name in ("bn.safetensors", "folded.safetensors", "bgr.safetensors", "yolox_nano.pth", "ours.safetensors"):
        trunk = YOLOX(neck=neck).eval()
        left = load_backbone(trunk, tmp_path / name)
        with torch.no_grad():
            for found, wanted in zip(trunk(image), expected, strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        parts = {part.partition(".")[0] for part in left}
        assert parts == ({"head"} if name != "ours.safetensors" else set()) | (set() if neck else {"neck"}), name
    for module in load_trunk(tmp_path / "bn.safetensors").modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.eps == 1e-3 and module.running_var.max() < 1 and module.running_var.min() > 0.99


@pytest.mark.parametrize("form", [lambda state: state, folded], ids=["bn", "folded"])
def test_half_precision_costs_its_own_rounding_and_no_more(form, tmp_path):
    """Half precision has no number between 1 and 1.001: a folded BatchNorm's scale of 1.0005 has to be made in float32."""
    half = {name: t.half() if t.is_floating_point() else t for name, t in form(original(seasoned(neck=True))).items()}
    whole = {name: t.float() if t.is_floating_point() else t for name, t in half.items()}
    for name, state in (("half", half), ("whole", whole)):
        save_file(state, tmp_path / f"{name}.safetensors", {"input": "RGB 0..1"})
    found, wanted = (load_trunk(tmp_path / f"{name}.safetensors").state_dict() for name in ("half", "whole"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def load_trunk(path):
    return YOLOX(pretrained=True, pretrained_weight_path=str(path))


def test_weights_that_do_not_say_which_pixels_are_refused(tmp_path):
    save_file(original(seasoned()), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors: .*'RGB 0\.\.1' or 'BGR 0\.\.255'"):
        load_trunk(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "how", [{}, {"neck": True}, {"width": 0.375, "depthwise": False}, {"width": 0.5, "depth": 0.67, "depthwise": False}]
)
def test_sizes_are_read_off_the_file(how):
    trunk = YOLOX(**how)
    state = original(trunk)
    assert original_kind(state) == "YOLOX"
    again = YOLOX(**sizes_of_backbone("YOLOX", state))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in trunk.state_dict().items()}


def test_strides_and_one_map():
    assert (YOLOX().channels, YOLOX().strides) == ((64, 128, 256), (8, 16, 32))
    image = torch.rand(1, 3, 64, 64)
    for neck in (False, True):
        trunk = YOLOX(out_strides=(16, 8), neck=neck)
        assert [tuple(x.shape[1:]) for x in trunk(image)] == [(64, 8, 8), (128, 4, 4)] and trunk.strides == (8, 16)
        one = YOLOX(out_strides=(8, 16), multi_scale_outputs=False, neck=neck)
        assert [tuple(x.shape[1:]) for x in one(image)] == [(128, 4, 4)] and one.channels == (128,)
    with pytest.raises(ValueError, match="stride 8, 16 and 32"):
        YOLOX(out_strides=(4,))


def test_freezing_holds_the_neck_too():
    trunk = YOLOX(neck=True, freeze_backbone=True).train()
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    before = {name: value.clone() for name, value in trunk.named_buffers()}
    assert not any(x.requires_grad for x in trunk(torch.rand(2, 3, 64, 64)))
    assert all(torch.equal(value, before[name]) for name, value in trunk.named_buffers())
    trunk.freeze(0)
    assert all(part.training for part in trunk.neck.modules())
    model = simrec(YOLOX(neck=True))
    model(batch(2, 64))["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.visual_backbone.parameters())


BACKBONES = {
    "YOLOX": lambda **how: YOLOX(neck=True, **how),
    "CspDarkNet": lambda **how: CspDarkNet(width=0.05, depth=0.1, **how),
    "SmallResNet": lambda **how: SmallResNet((8, 16, 24), out_strides=(4, 8), **how),
    "DarkNet53": DarkNet53,
    "TimmBackbone": lambda **how: TimmBackbone("resnet18", **how),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_fixed_statistics_stand_still_while_scale_and_shift_are_trained(name):
    trunk = BACKBONES[name](fixed_statistics=True).train()
    before = {key: value.clone() for key, value in trunk.named_buffers()}
    sum(x.float().mean() for x in trunk(torch.rand(2, 3, 64, 64))).backward()
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(norm.weight.grad is not None and norm.bias.grad is not None for norm in norms)
    assert all(torch.equal(value, before[key]) for key, value in trunk.named_buffers())
    assert trunk.training and not trunk.eval().train().training ^ True and not norms[0].training


def test_pixels_other_than_the_pretrained_weights_know_are_refused(tmp_path):
    save_file(seasoned().state_dict(), tmp_path / "trunk.safetensors")
    trunk = LazyCall(YOLOX)(pretrained=True, pretrained_weight_path=str(tmp_path / "trunk.safetensors"))
    model = LazyCall(nn.ModuleDict)(modules={"visual_backbone": trunk})
    data = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    cfg = LazyCall(dict)(model=model, train={"data": data, "seed": 0})
    with pytest.raises(ConfigError, match=r"set train\.data\.mean=\[0,0,0\] train\.data\.std=\[1,1,1\]"):
        build_model(cfg, None)
    cfg.train.data.mean, cfg.train.data.std = [0, 0, 0], [1, 1, 1]
    build_model(cfg, None)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="YOLOX-Nano's published weights are not here")
def test_the_published_weights_are_all_used_and_agree():
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    outputs = []
    for name in ("yolox_nano_coco_rgb01", "yolox_nano_coco_bn_rgb01", "yolox_nano_coco_bn_rgb01_s256"):
        path = PUBLISHED / f"{name}.safetensors"
        trunk = YOLOX(neck=True).eval()
        left = load_backbone(trunk, path)
        assert {part.partition(".")[0] for part in left} == {"head"}
        state = load_file(path)
        assert len(left) == sum(part.startswith("head.") for part in state)
        numbers = sum(t.numel() for part, t in state.items() if part.startswith("backbone.backbone."))
        if name == "yolox_nano_coco_rgb01":
            assert numbers == 456_592
        with torch.no_grad():
            outputs.append(trunk(image))
    for other in outputs[1:]:
        for found, wanted in zip(other, outputs[0], strict=True):
            assert F.l1_loss(found, wanted) < 1e-5 and (found - wanted).abs().max() < 5e-4
