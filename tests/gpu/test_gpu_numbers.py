"""On a GPU the models give the original's numbers, and the CPU's boxes."""

import copy
import importlib.util
import itertools
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import small
import test_simrec_parity
import torch
from gpu_checks import ROOT, on, set_tf32
from parity import batch_of, expected, load, relative
from torch import nn

from rec.models import fusion, layers
from rec.models.layers import ACTIVATIONS

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


@pytest.fixture(scope="module")
def kernels():
    """The module of the kernels, as it is: compiled for a GPU, interpreted where Triton was asked to."""
    spec = importlib.util.spec_from_file_location("kernels", ROOT / "rec" / "models" / "fused_norm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fused_norm(device, request):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("its kernels are Triton's, which is not installed: torch for CUDA brings it")
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("interpreted, in a process of its own: the last test here")
    return request.getfixturevalue("kernels")


@pytest.mark.parametrize(
    "shape", [(2, 70, 9, 7), (5, 70, 1, 1), (1, 70, 3, 2), (3, 70, 1, 4), (3, 70, 4, 1), (4, 1, 2, 2)]
)
def test_norm_and_activation_in_one_are_torchs(device, fused_norm, shape):
    """Values, gradients and statistics, where the mean is large, for channels and places that fill no tile, and for maps whose
    sides are 1, of which strides say nothing; kernels interpreted on a CPU."""
    channels = shape[1]
    torch.manual_seed(0)
    x = torch.randn(*shape, device=device).to(memory_format=torch.channels_last) * 2 + 20
    gradient, in_torchs_order = torch.randn_like(x), torch.randn(*shape, device=device)
    acts = {name: make() for name, make in ACTIVATIONS.items()} | {"none": nn.Identity()}
    for act, training in itertools.product(acts, (True, False)):
        norms, found = [nn.BatchNorm2d(channels).to(device).train(training)], []
        with torch.no_grad():
            for value in (norms[0].weight, norms[0].bias, norms[0].running_mean):
                value.normal_()
        norms.append(copy.deepcopy(norms[0]))
        for norm in norms:
            given = x.clone().requires_grad_()
            more = gradient.clone().requires_grad_()
            y = fused_norm.norm_act(given, norm, act, more) if norm is norms[0] else acts[act](norm(given)) + more
            joined, of_joined = torch.cat([x, y], 1), torch.cat([x, gradient], 1)
            joined.backward(of_joined, retain_graph=True)  # its gradient is a part of a map
            y.backward(in_torchs_order)
            found.append([y, given.grad, more.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()])
        for ours, torchs in zip(*found, strict=True):
            most = 1e-4 * torchs.float().abs().max().item()
            assert torch.allclose(ours.float(), torchs.float(), rtol=1e-4, atol=most), (act, training)


def test_every_gradient_of_a_model_is_torchs(device, fused_norm, monkeypatch):
    """With norm and activation in one, on maps and phrases as they are in training."""
    torch.manual_seed(0)
    model, batch = (
        small.simrec(small.backbone(width=0.125)).to(device, memory_format=torch.channels_last),
        small.batch(6, 64),
    )
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    found = []

    def in_one(x, norm, act, name, added=None):
        return fused_norm.norm_act(x.contiguous(memory_format=torch.channels_last), norm, name, added)

    for one in (layers.norm_act, in_one):
        for module in (layers, fusion):
            monkeypatch.setattr(module, "norm_act", one)
        twin = copy.deepcopy(model)
        twin(on(device, batch))["loss"].backward()
        found.append({name: weight.grad for name, weight in twin.named_parameters() if weight.grad is not None})
    assert any(name.startswith("language_encoder") for name in found[0]) and found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert (found[1][name] - gradient).norm() < 2e-3 * gradient.norm() + 1e-4, name


def test_the_kernels_pass_interpreted():
    """The two tests above on a CPU: Triton has to be asked for its interpreter before it is imported, which torch may do."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("the tests above ran the kernels themselves")
    words = [sys.executable, "-m", "pytest", __file__, "-k", "torchs and cpu", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "7 passed" in done.stdout, done.stdout[-2000:]
