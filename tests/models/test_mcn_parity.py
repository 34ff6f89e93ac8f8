"""MCN gives the original's numbers: boxes, masks, features, losses, assignment, gradients, one step."""

import numpy as np
import pytest
import torch
from parity import (
    Recorder,
    batch_of,
    compare_training_step,
    expected,
    fxlib,
    load,
    original_state,
    relative,
    training_step,
    worst_feature,
)

from rec.models import MCN
from rec.models.backbones import DarkNet53
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import MCNhead
from rec.models.language_encoders import LSTM_SA
from rec.models.original_weights import our_name

WANT, ARRAYS = expected("mcn")
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def build() -> MCN:
    """MCN as published, original arithmetic on, dropout off."""
    return MCN(
        visual_backbone=DarkNet53(freeze_backbone=True, update_frozen_statistics=True),
        language_encoder=LSTM_SA(depth=3, token_size=50, dropout_rate=0.0),
        multi_scale_manner=MultiScaleFusion(v_planes=(256, 512, 1024)),
        fusion_manner=SimpleFusion(1024, 1024, 512),
        det_attention=GaranAttention(512, 512, dropout_rate=0.0, transposed_output=True),
        seg_attention=GaranAttention(512, 512, dropout_rate=0.0, transposed_output=True),
        head=MCNhead(summed_losses=True),
    )


def recorded(model: MCN) -> Recorder:
    return Recorder(
        {
            "visual": model.visual_backbone,
            "lang.gru": model.language_encoder.rnn,
            **{f"lang.sa{i}": block for i, block in enumerate(model.language_encoder.blocks)},
            "lang.flat_lang_feat": model.language_encoder,
            "msf": model.multi_scale_manner,
            "seg_garan": model.seg_attention,
            "det_garan": model.det_attention,
            "head.det_raw": model.head.anchors,
            "head.seg_logits_stride8": model.head.mask,
        }
    )


def features_of(outputs: dict) -> dict[str, torch.Tensor]:
    features = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
    features |= {f"visual.{i}": value for i, value in enumerate(outputs["visual"])}
    return features | {
        "lang.gru": outputs["lang.gru"][0],
        "msf.bot": outputs["msf"][0],
        "msf.top": outputs["msf"][2],
        "seg_garan.out": outputs["seg_garan"][0],
        "seg_garan.pre_norm": outputs["seg_garan"][1],
        "det_garan.out": outputs["det_garan"][0],
        "det_garan.pre_norm": outputs["det_garan"][1],
    }


@PRECISIONS
@pytest.mark.parametrize(("case", "count", "size"), [("mcn_eval_256", 2, 256), ("mcn_eval_416", 1, 416)])
def test_boxes_masks_and_features_are_the_originals(case: str, count: int, size: int, dtype: torch.dtype) -> None:
    model = load(build(), "mcn", dtype).eval()
    batch = batch_of(case, size, count, dtype)
    with torch.no_grad(), recorded(model) as outputs:
        prediction = model({"image": batch["image"], "tokens": batch["tokens"]})
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4
    want = ARRAYS[f"{case}/box_xyxy_score"]
    assert np.abs(prediction["box"].numpy() - want[:, :4]).max() < tolerance * size
    assert np.abs(prediction["score"].numpy() - want[:, 4]).max() < tolerance
    assert np.abs(outputs["head.seg_logits_stride8"].numpy() - ARRAYS[f"{case}/seg_logits_stride8"]).max() < tolerance
    mask = (prediction["mask"][:, 0].sigmoid() > model.mask_threshold).numpy()
    mask_want = np.unpackbits(ARRAYS[f"{case}/mask_packbits"], axis=1).reshape(count, size, size).astype(bool)
    assert (mask != mask_want).sum() <= (0 if dtype == torch.float64 else WANT[case]["pixels_within_1e5_of_threshold"])
    assert worst_feature(features_of(outputs), WANT[case]["features"]) < tolerance


@PRECISIONS
@pytest.mark.parametrize("case", ["mcn_train_bn_train_256", "mcn_train_bn_eval_256"])
def test_losses_gradients_and_one_adam_step_are_the_originals(case: str, dtype: torch.dtype) -> None:
    want = WANT[case]
    model = load(build(), "mcn", dtype)
    got = training_step(model, batch_of("mcn_train_256", 256, 4, dtype), want["bn_mode"])
    compare_training_step(got, want, "mcn", dtype, ["loss", "loss_seg", "loss_xy", "loss_wh", "loss_obj"])
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4
    assert relative(got["losses"]["loss_cem"], sum(want["loss_cem_per_image"])) < tolerance


def head_only() -> tuple[MCNhead, dict[str, torch.Tensor], dict]:
    want = WANT["mcn_head_only_416"]
    head = MCNhead(summed_losses=True)
    state = {
        our_name(name).removeprefix("head."): tensor
        for name, tensor in original_state("mcn").items()
        if name.startswith("head.")
    }
    head.load_state_dict(state)
    shapes = {"top": 13, "bot": 52, "det_attn": 13, "seg_attn": 52}
    inputs = {}
    for name, grid in shapes.items():
        noise = fxlib.rng(f"mcn_head_only_416.{name}").standard_normal((4, 512, grid, grid))
        inputs[name] = torch.from_numpy((noise * (0.5 if name in ("top", "bot") else 1)).astype(np.float32)).double()
    labels = np.array(want["det_label"], np.float32)
    inputs["box"] = torch.from_numpy(labels[:, 0]).double()
    inputs["mask"] = torch.from_numpy(fxlib.box_mask(labels, 416) * 255).to(torch.uint8)
    return head.double().train(), inputs, want


def test_head_alone_reaches_all_anchors_and_an_image_without_object() -> None:
    head, inputs, want = head_only()
    raw, mask_logits = head(inputs["top"], inputs["bot"])
    losses = head.losses(raw, mask_logits, inputs["det_attn"], inputs["seg_attn"], inputs["box"], inputs["mask"])
    losses["loss"].backward()
    for name in ("loss", "loss_seg", "loss_xy", "loss_wh", "loss_obj"):
        assert relative(losses[name].item(), want[name]) < 1e-6, name
    energies = head.consistency(inputs["det_attn"], inputs["seg_attn"])
    assert np.allclose(energies.detach(), want["loss_cem_per_image"], rtol=1e-6)
    grads = {name: p.grad.norm().item() for name, p in head.named_parameters()}
    for name, norm in want["grad_norm"].items():
        if norm > 1e-6:
            assert relative(grads[our_name(f"head.{name}").removeprefix("head.")], norm) < 1e-6, name
    cell, close = head.assign(raw, inputs["box"] * 416)
    for image, anchor, row, column in want["xy_terms_nonzero"]:
        assert cell[image].item() == (anchor * 13 + row) * 13 + column
    ignored = close.clone()
    ignored[torch.arange(3), cell[:3]] = False
    assert ignored.sum(1).tolist() == want["obj_terms_zeroed_per_image"]
