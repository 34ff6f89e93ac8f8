"""Backbones give maps of the strides and channels they name; frozen parts are frozen in every respect."""

import pytest
import torch
from small import WIDTH, backbone, batch, simrec
from torch import nn

from rec.models.backbones import VGG16, CspDarkNet, DarkNet53, DResNet, ResNet, SmallResNet, TimmBackbone

# One model of each of eleven families, the smallest that timm has.
FAMILIES = [
    "resnet18", "convnext_atto", "efficientnet_b0", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224",
    "mobilenetv3_small_100", "regnety_002", "densenet121", "edgenext_xx_small", "pvt_v2_b0", "cspdarknet53",
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_any_timm_family_trains_in_simrec_without_naming_its_channels(name: str) -> None:
    trunk = TimmBackbone(name)
    assert trunk.strides == (8, 16, 32)
    model = simrec(trunk)
    model(batch(2, 96))["loss"].backward()
    assert [f.v_planes for f in model.fusion_manner] == list(trunk.channels)
    assert all(p.grad is not None for p in trunk.parameters()), "timm builds stages that nobody reads"
    with torch.no_grad():
        maps = model.eval().visual_backbone(torch.rand(1, 3, 128, 128))  # another size than before
    assert [tuple(x.shape) for x in maps] == [
        (1, c, 128 // s, 128 // s) for c, s in zip(trunk.channels, trunk.strides, strict=True)
    ]


def test_a_vision_transformer_is_built_as_deep_as_asked_and_the_log_says_where_it_is_cut(caplog) -> None:
    import timm

    published = timm.create_model("test_vit", dynamic_img_size=True).eval()
    whole = TimmBackbone("test_vit", blocks="all").eval()
    assert not caplog.records
    whole.stages[0].model.load_state_dict(published.state_dict(), strict=False)
    image = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        expected = published.forward_intermediates(image, indices=1, norm=False, intermediates_only=True)
        torch.testing.assert_close(whole.stages[0](image), expected)
    assert len(TimmBackbone("test_vit", blocks=4).stages[0].model.blocks) == 4
    assert len(TimmBackbone("test_vit").stages[0].model.blocks) == 3, "model folders of version 0.1 have three"
    assert "test_vit: the first 3 of its 6 blocks are built; for the whole of it:" in caplog.text
    with pytest.raises(ValueError, match="test_vit has 6 blocks; blocks is 7"):
        TimmBackbone("test_vit", blocks=7)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("coat_tiny", "Input height"),
        ("efficientformer_l1", "The size of tensor"),
        ("mobilevitv2_050", "its map of stride 32 has 4 x 4 cells"),
        ("mvitv2_tiny", "index 111"),
    ],
)
def test_a_timm_model_made_for_other_sizes_says_for_which(name: str, reason: str) -> None:
    side = 256 if name == "mvitv2_tiny" else 96  # it takes smaller ones
    with pytest.raises(
        ValueError, match=rf"{name} does not take images of {side} x {side} pixels \({reason}.* for 2\d\d x 2\d\d"
    ):
        TimmBackbone(name).eval()(torch.rand(1, 3, side, side))


def test_a_timm_model_that_leaves_out_its_first_map_gives_those_of_the_strides_it_names() -> None:
    trunk = TimmBackbone("dla34").eval()
    with torch.no_grad():
        maps = trunk(torch.rand(1, 3, 64, 64))
    assert [(x.shape[1], 64 // x.shape[2]) for x in maps] == list(zip(trunk.channels, trunk.strides, strict=True))


@pytest.mark.parametrize(
    ("build", "channels"),
    [
        (lambda: VGG16(), (512, 512, 512)),
        (lambda: ResNet(18), (128, 256, 512)),
        (lambda: DResNet(50), (512, 1024, 2048)),
        (lambda: DarkNet53(), (256, 512, 1024)),
        (lambda: CspDarkNet(), (256, 512, 1024)),
        (lambda: SmallResNet(), (96, 128, 192)),
        (lambda: SmallResNet((8, 16, 24), out_strides=(4, 8)), (16, 24)),
        (lambda: CspDarkNet(width=0.25, depth=0.33, out_strides=(4, 8, 16)), (32, 64, 128)),
    ],
)
def test_named_backbones_have_their_published_channels(build, channels: tuple[int, ...]) -> None:
    trunk = build().eval()
    with torch.no_grad():
        maps = trunk(torch.rand(1, 3, 64, 64))
    assert trunk.channels == channels == tuple(x.shape[1] for x in maps)
    assert [64 // x.shape[2] for x in maps] == list(trunk.strides)


@pytest.mark.parametrize(
    "build", [lambda **k: CspDarkNet(width=0.125, **k), SmallResNet, lambda **k: TimmBackbone("resnet18", **k)]
)
def test_one_map_alone_is_the_coarsest(build) -> None:
    trunk = build(multi_scale_outputs=False)
    assert trunk.strides == (32,)
    assert len(trunk(torch.rand(2, 3, 64, 64))) == 1


def test_strides_that_do_not_exist_are_refused_naming_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"vit_small_patch14_dinov2 has maps of stride \[7, 14, 28\].*\[8, 16, 32\]"):
        TimmBackbone("vit_small_patch14_dinov2")
    with pytest.raises(ValueError, match=r"4, 8, 16 and 32.*\[64\]"):
        CspDarkNet(out_strides=[64])
    with pytest.raises(ValueError, match=r"\[2, 4, 8\].*\[16\]"):
        SmallResNet((8, 8, 8), out_strides=[16])
    with pytest.raises(ValueError, match="no model 'resnet19'"):
        TimmBackbone("resnet19")
    with pytest.raises(ValueError, match="depth 18, 34"):
        ResNet(19)


def test_unreachable_pretrained_weights_say_how_to_go_on(tmp_path) -> None:
    path = str(tmp_path / "resnet18.safetensors")
    with pytest.raises(
        RuntimeError, match=r"resnet18 cannot be loaded from .*resnet18.safetensors(.|\n)*pretrained=false"
    ):
        TimmBackbone("resnet18", pretrained=True, pretrained_weight_path=path)


def test_pretrained_weights_of_a_timm_model_load_from_a_local_file(tmp_path) -> None:
    import timm

    source = timm.create_model("resnet18")
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    trunk = TimmBackbone("resnet18", pretrained=True, pretrained_weight_path=str(tmp_path / "resnet18.pth"))
    assert torch.equal(trunk.stages[0].conv1.weight, source.conv1.weight)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda s: {f"x.{name}": t for name, t in s.items()},
            "leave 100 of the model's 100 as they were drawn .*conv1",
        ),
        (lambda s: {name: t for name, t in s.items() if "layer3.1" not in name}, "leave 10 of the model's 100"),
        (
            lambda s: s | {"conv1.weight": s["conv1.weight"] * torch.nan},
            "conv1.weight holds values that are not finite",
        ),
        (lambda s: s | {"bn1.bias": s["bn1.bias"].to(torch.int8)}, "leave 1 of the model's 100 .*bn1.bias"),
    ],
)
def test_weights_that_do_not_fill_a_timm_model_are_refused(spoil, message: str, tmp_path) -> None:
    import timm

    torch.save(spoil(timm.create_model("resnet18").state_dict()), tmp_path / "resnet18.pth")
    with pytest.raises(RuntimeError, match=rf"resnet18\.pth: .*{message}"):
        TimmBackbone("resnet18", pretrained=True, pretrained_weight_path=str(tmp_path / "resnet18.pth"))


def test_weights_of_a_timm_model_in_several_processes_load_and_draw_nothing(tmp_path) -> None:
    import timm

    source = timm.create_model("resnet18")
    torch.save({f"module.{name}": t for name, t in source.state_dict().items()}, tmp_path / "resnet18.pth")
    drawn = []
    for pretrained in (False, True):
        torch.manual_seed(0)
        trunk = TimmBackbone("resnet18", pretrained=pretrained, pretrained_weight_path=str(tmp_path / "resnet18.pth"))
        drawn.append(torch.rand(1))
    assert torch.equal(trunk.stages[0].conv1.weight, source.conv1.weight)
    assert torch.equal(*drawn)  # what is drawn after it is what it was without the check


FROZEN = {
    "CspDarkNet": lambda **k: backbone(**k),
    "timm": lambda **k: TimmBackbone("resnet18", **k),
}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_stages_keep_weights_and_statistics_through_training_and_build_no_graph(name: str) -> None:
    model = simrec(FROZEN[name](freeze_backbone=True)).train()
    trunk = model.visual_backbone
    frozen = trunk.stages[: trunk.frozen_stages]
    before = {key: tensor.clone() for key, tensor in frozen.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made_graph = []
    frozen[-1].register_forward_hook(
        lambda _m, _i, out: made_graph.append(any(x.requires_grad for x in (out if isinstance(out, list) else [out])))
    )
    for _ in range(2):
        model.train()
        model(batch(2))["loss"].backward()
        optimizer.step()
    assert made_graph == [False, False]
    assert all(torch.equal(tensor, before[key]) for key, tensor in frozen.state_dict().items())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any(m.training for m in frozen.modules() if isinstance(m, nn.BatchNorm2d))
    assert any(p.requires_grad for p in model.parameters())


def test_originals_frozen_statistics_keep_moving_on_request() -> None:
    model = simrec(backbone(freeze_backbone=True, update_frozen_statistics=True)).train()
    mean = model.visual_backbone.stages[0].norm.running_mean.clone()
    weight = model.visual_backbone.stages[0].conv.weight.clone()
    model(batch(2))["loss"].backward()
    assert not torch.equal(model.visual_backbone.stages[0].norm.running_mean, mean)
    assert torch.equal(model.visual_backbone.stages[0].conv.weight, weight)
    assert model.visual_backbone.stages[0].conv.weight.grad is None


def test_stages_can_be_released_between_epochs() -> None:
    model = simrec(backbone(freeze_backbone=True)).train()
    trunk = model.visual_backbone
    trunk.freeze(2)
    model(batch(2))["loss"].backward()
    has_gradient = [all(p.grad is not None for p in stage.parameters()) for stage in trunk.stages]
    assert has_gradient == [False, False] + [True] * (len(trunk.stages) - 2)
    assert trunk.stages[2].training and not trunk.stages[1].training
    assert model.fusion_manner[0].v_planes == WIDTH


def test_activation_checkpointing_changes_neither_gradients_nor_statistics():
    plain, saving = CspDarkNet(width=0.125, depth=0.33), CspDarkNet(width=0.125, depth=0.33)
    saving.load_state_dict(plain.state_dict())
    saving.checkpoint_stages = True
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for trunk in (plain, saving):
        sum(x.square().mean() for x in trunk.train()(image)).backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    for (name, one), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
