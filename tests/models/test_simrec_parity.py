"""SimREC gives the original's numbers: outputs, features, losses, assignment, gradients, one step."""

import numpy as np
import pytest
import torch
from parity import (
    Recorder,
    assigned,
    batch_of,
    compare_training_step,
    expected,
    load,
    relative,
    training_step,
    worst_feature,
)
from torch import nn

from rec.models import SimREC
from rec.models.backbones import CspDarkNet
from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import REChead
from rec.models.language_encoders import LSTM_SA
from rec.models.losses import centred_iou
from rec.models.original_weights import our_name

WANT, ARRAYS = expected("simrec")
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


TRAINING_CASES = ["train_bn_train_256", "train_bn_eval_256", "train_bn_train_l1_256", "train_bn_train_unfrozen_256"]


def build(freeze: bool = True, use_l1: bool = False) -> SimREC:
    """SimREC as published, original arithmetic on, dropout off."""
    return SimREC(
        visual_backbone=CspDarkNet(freeze_backbone=freeze, update_frozen_statistics=True),
        language_encoder=LSTM_SA(token_size=50, dropout_rate=0.0),
        multi_scale_manner=MultiScaleFusion(v_planes=(512, 512, 512)),
        fusion_manner=nn.ModuleList(SimpleFusion(c, 512, 512) for c in (256, 512, 1024)),
        attention_manner=GaranAttention(512, 512, dropout_rate=0.0, transposed_output=True),
        head=REChead(use_l1=use_l1),
    )


def recorded(model: SimREC) -> Recorder:
    modules = {
        "lang.gru": model.language_encoder.rnn,
        "lang.sa0": model.language_encoder.blocks[0],
        "lang.flat_lang_feat": model.language_encoder,
        "visual": model.visual_backbone,
        "msf": model.multi_scale_manner,
        "attn": model.attention_manner,
        "head.stem": model.head.stem,
        "head.reg_feat": model.head.tower,
        "head": model.head,
    }
    modules |= {f"visual_layer.{i}": model.visual_backbone.stages[i] for i in (0, 4, 6, 8)}
    return Recorder(modules)


def features_of(outputs: dict) -> dict[str, torch.Tensor]:
    features = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor) and name != "head"}
    features |= {f"visual.{i}": value for i, value in enumerate(outputs["visual"])}
    return features | {
        "lang.gru": outputs["lang.gru"][0],
        "msf.top": outputs["msf"][2],
        "attn.out": outputs["attn"][0],
        "attn.pre_norm(w_o)": outputs["attn"][1],
        "head.reg_raw": outputs["head"][:, :4],
        "head.obj_raw": outputs["head"][:, 4:],
    }


@PRECISIONS
@pytest.mark.parametrize(("case", "count", "size"), [("eval_256_v29", 2, 256), ("eval_416_v35", 1, 416)])
def test_boxes_scores_and_features_are_the_originals(case: str, count: int, size: int, dtype: torch.dtype) -> None:
    model = load(build(), "simrec", dtype).eval()
    batch = batch_of(case, size, count, dtype)
    with torch.no_grad(), recorded(model) as outputs:
        prediction = model({"image": batch["image"], "tokens": batch["tokens"]})
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4
    want = ARRAYS[f"{case}/box_xyxy_score"]
    assert np.abs(prediction["box"].numpy() - want[:, :4]).max() < tolerance * size
    assert np.abs(prediction["score"].numpy() - want[:, 4]).max() < tolerance
    decoded = model.head.decode(outputs["head"]).numpy()
    assert np.abs(decoded - ARRAYS[f"{case}/decoded_cxcywh_score"][..., :4]).max() < tolerance * size
    assert (outputs["head"][:, 4].flatten(1).argmax(1).numpy() == ARRAYS[f"{case}/argmax_anchor"]).all()
    assert worst_feature(features_of(outputs), WANT[case]["features"]) < tolerance


@PRECISIONS
@pytest.mark.parametrize("case", TRAINING_CASES)
def test_losses_gradients_and_one_adam_step_are_the_originals(case: str, dtype: torch.dtype) -> None:
    want = WANT[case]
    model = load(build(want["freeze_backbone"], want["use_l1"]), "simrec", dtype)
    batch = batch_of("train_256", 256, 4, dtype)
    with recorded(model) as outputs:
        got = training_step(model, batch, want["bn_mode"])
    parts = ["loss", "loss_iou", "loss_obj"] + ["loss_l1"] * want["use_l1"]
    assert set(got["losses"]) == set(parts)
    compare_training_step(got, want, "simrec", dtype, parts)
    features = 1e-6 if dtype == torch.float64 else 1e-4
    for name, buffer in want["running_stats_after_forward"].items():
        assert worst_feature({name: got["buffers"][our_name(name)]}, {name: buffer}) < features, name
    if dtype == torch.float64:
        # The recorder holds the second forward.
        assignment = assigned(model.head, outputs["head"], batch["box"] * 256)
        for row, image in enumerate(want["assignment_second_forward"]):
            assert sorted(assignment.cells[row][assignment.positive[row]].tolist()) == image["fg_index"]


@pytest.mark.parametrize("grid", [7, 13, 19])
@pytest.mark.parametrize("variant", ["default", "with_l1"])
def test_head_alone_assigns_and_weighs_cells_like_the_original(grid: int, variant: str) -> None:
    case = f"head_only_g{grid}"
    want = WANT[case][variant]
    raw = torch.from_numpy(ARRAYS[f"{case}/raw_reg4_obj1"]).double().requires_grad_()
    box = torch.from_numpy(ARRAYS[f"{case}/det_label"][:, 0]).double()
    head = REChead(use_l1=variant == "with_l1")
    losses = head.losses(raw, box)
    for name, value in losses.items():
        assert relative(value.item(), want[name]) < 1e-6
    losses["loss"].backward()
    assert np.abs(raw.grad.numpy() - ARRAYS[f"{case}/grad_raw_{variant}"]).max() < 1e-6
    assignment = assigned(head, raw.detach(), box * 32 * grid)
    ious = centred_iou(head.decode(raw.detach()), box[:, None] * 32 * grid)
    images = {image["image"]: image for image in want["assignment"]}
    for row in range(8):
        cells = assignment.cells[row][assignment.positive[row]].sort().values
        image = images.get(row, {"fg_index": [], "matched_iou": []})
        assert cells.tolist() == image["fg_index"]
        assert np.allclose(ious[row][cells], image["matched_iou"], atol=1e-6)
