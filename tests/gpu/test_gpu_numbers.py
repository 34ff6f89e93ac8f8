"""On a GPU the models give the original's numbers, and the CPU's boxes."""

import copy
from functools import cache

import numpy as np
import pytest
import small
import test_simrec_parity
import torch
from gpu_checks import on, set_tf32
from parity import batch_of, expected, load, relative
from torch import nn

WANT, ARRAYS = expected("simrec")
# Largest deviation from the original's float64: of box edges in shares of the image's side and of scores; of losses, relative.
TOLERANCES = {"float32": (1e-4, 1e-4), "tf32": (5e-3, 5e-3), "float16": (2e-2, 2e-2), "bfloat16": (6e-2, 6e-2)}


@cache
def published(device: torch.device) -> nn.Module:
    return load(test_simrec_parity.build(), "simrec", torch.float32).to(device, memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_predictions_and_losses_are_the_fixtures(device, precision):
    if device.type == "cpu" and precision != "float32":
        pytest.skip("TF32 and float16 are a GPU's; bfloat16 is tested with the small model")
    set_tf32(precision == "tf32", precision == "tf32")  # the fixture puts it back
    model, (of_boxes, of_losses) = published(device), TOLERANCES[precision]
    half = getattr(torch, precision) if precision in ("float16", "bfloat16") else None
    with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
        found = model.eval()(on(device, batch_of("eval_256_v29", 256, 2, torch.float32)))
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        losses = model(on(device, batch_of("train_256", 256, 4, torch.float32)))
    want = ARRAYS["eval_256_v29/box_xyxy_score"]
    assert np.abs(found["score"].cpu().numpy() - want[:, 4]).max() < of_boxes
    if precision in ("float32", "tf32"):  # in half precision another cell may win where two are nearly equal
        assert np.abs(found["box"].cpu().numpy() - want[:, :4]).max() < of_boxes * 256
    for name in ("loss", "loss_iou", "loss_obj"):
        assert losses[name].dtype == torch.float32
        assert relative(losses[name].item(), WANT["train_bn_eval_256"][name]) < of_losses, name


@pytest.mark.parametrize("kind", ["boxes", "masks", "mcn"])
def test_the_same_boxes_and_masks_as_on_the_cpu(device, kind):
    torch.manual_seed(0)
    model = (small.mcn() if kind == "mcn" else small.simrec(masks=kind == "masks")).eval()
    batch = small.batch(6, 96)
    with torch.no_grad():
        there = copy.deepcopy(model).to(device, memory_format=torch.channels_last)(on(device, batch))
        here = model(batch)
    for name, tolerance in {"box": 1e-2, "score": 1e-4, "mask": 1e-3}.items():
        if name in here:
            assert torch.allclose(there[name].cpu(), here[name], rtol=1e-4, atol=tolerance), name
