"""The fast path of convolution, BatchNorm and activation is the mathematics beside it, whenever weights change."""

import pytest
import small
import torch
import torch.nn.functional as F
from torch import nn

from rec.models import folding, fusion, layers
from rec.models.backbones.base import batch_norms
from rec.models.fusion import Projection
from rec.models.layers import ACTIVATIONS, ConvBlock, UpsampledConvBlock

pytestmark = pytest.mark.skipif(not folding._dtypes(), reason="torch was built without oneDNN")


def shaken(module: nn.Module) -> nn.Module:
    """Evaluation mode, with BatchNorm statistics and weights that are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module.eval()


def both(monkeypatch: pytest.MonkeyPatch, run) -> tuple:
    """Results with and without the fast path."""
    fast = run()
    for module in (layers, fusion):
        monkeypatch.setattr(module, "foldable", lambda *_: False)
    slow = run()
    monkeypatch.undo()
    return fast, slow


@pytest.mark.parametrize("block", [
    *(ConvBlock(6, 10, 3, 2, act=act) for act in ACTIVATIONS),
    ConvBlock(8, 8, 3, dilation=2), ConvBlock(8, 8, 3, groups=8), UpsampledConvBlock(8, 12), Projection(8, 12),
])  # fmt: skip
@pytest.mark.parametrize("autocast", [False, True])
def test_a_folded_block_is_the_block(block, autocast, monkeypatch) -> None:
    if autocast and torch.bfloat16 not in folding._dtypes():
        pytest.skip("this CPU has no bfloat16 convolutions")
    x = torch.randn(2, 6 if getattr(block.conv, "in_channels", 0) == 6 else 8, 17, 17)

    def run():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return shaken(block)(x).float()

    fast, slow = both(monkeypatch, run)
    assert not torch.equal(fast, slow), "the fast path did not run"
    assert (fast - slow).abs().max() < (0.02 if autocast else 1e-5) * slow.abs().max()


def gradients(block: nn.Module, x: torch.Tensor, autocast: bool) -> dict[str, torch.Tensor]:
    """Of all weights and of x, and the result."""
    block, x = shaken(block).train(), x.clone().requires_grad_()
    for norm in batch_norms(block):
        norm.eval()
    block.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = block(x)
    (y.float() * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return {name: weight.grad for name, weight in block.named_parameters()} | {"x": x.grad, "y": y.detach().float()}


@pytest.mark.parametrize(("block", "autocast"), [
    (ConvBlock(8, 10, 3, 2), False), (Projection(8, 12), False), (UpsampledConvBlock(8, 12), False),
    # A leaky ReLU's gradient jumps where bfloat16 rounds its input to the other side of 0: SiLU's does not.
    (ConvBlock(8, 10, 3, 2, act="silu"), True), (ConvBlock(8, 8, 3, 2, groups=8, act="silu"), True),
    (UpsampledConvBlock(8, 12, act="silu"), True),
])  # fmt: skip
def test_where_statistics_stand_still_a_block_is_trained_by_the_same_gradients(block, autocast, monkeypatch) -> None:
    if autocast and torch.bfloat16 not in folding._dtypes():
        pytest.skip("this CPU has no bfloat16 convolutions")
    x = torch.randn(2, 8, 16, 16)
    fast = gradients(block, x, autocast)
    for module in (layers, fusion):
        monkeypatch.setattr(module, "trainable", lambda *_: False)
    slow = gradients(block, x, autocast)
    assert not torch.equal(fast["y"], slow["y"]), "the fast path did not run"
    exact = gradients(block, x, autocast=False)
    for name, gradient in exact.items():
        errors = [(found[name] - gradient).norm() / gradient.norm() for found in (fast, slow)]
        assert errors[0] < (2 * errors[1] + 0.002 if autocast else 1e-5), (name, errors)


@pytest.mark.parametrize("wanted", [(True, True, True), (False, True, False), (True, False, False)])
def test_a_strided_depthwise_convolution_gets_the_gradients_of_any_other(wanted) -> None:
    if torch.bfloat16 not in folding._dtypes():
        pytest.skip("this CPU has no bfloat16 convolutions")
    conv = nn.Conv2d(16, 16, 3, 2, padding=1, groups=16)
    x = torch.randn(3, 16, 17, 18).to(torch.bfloat16, memory_format=torch.channels_last)
    found = []
    for compute in (folding.convolved, lambda x, weight, bias, conv: F.conv2d(x, weight, bias, 2, 1, 1, 16)):
        inputs = [
            t.detach().clone().requires_grad_(w) for t, w in zip((x, conv.weight, conv.bias), wanted, strict=True)
        ]
        y = compute(*(t if t.dtype == torch.bfloat16 else t.bfloat16() for t in inputs), conv)
        y.backward(torch.ones_like(y) / 3)
        found.append([t.grad for t in inputs])
    for ours, torchs in zip(*found, strict=True):
        assert (ours is None) is (torchs is None) and (ours is None or torch.equal(ours, torchs))


def test_a_model_answers_the_same_with_and_without_the_fast_path(monkeypatch) -> None:
    model = shaken(small.simrec())
    with torch.no_grad():
        fast, slow = both(monkeypatch, lambda: model(small.batch()))
    assert torch.allclose(fast["box"], slow["box"], atol=1e-3) and torch.allclose(fast["score"], slow["score"])


def test_changed_weights_are_folded_anew() -> None:
    block, x = shaken(ConvBlock(8, 8, 3)), torch.randn(1, 8, 9, 9)
    changes = [
        lambda: block.norm.running_mean.add_(1),
        lambda: block.load_state_dict(shaken(ConvBlock(8, 8, 3)).state_dict()),
        lambda: torch.optim.SGD(block.parameters(), 0.1).step(),
    ]
    block(x).sum().backward()
    for change in changes:
        change()
        with torch.no_grad():
            assert torch.allclose(block(x), block.act(block.norm(block.conv(x))), atol=1e-5)


def test_training_gradients_and_other_precisions_take_the_mathematics() -> None:
    block, x = ConvBlock(8, 8, 3), torch.randn(1, 8, 9, 9)
    assert not folding.foldable(x, block.conv, block.norm), "statistics of the batch"
    block.eval()
    assert not folding.foldable(x, block.conv, block.norm), "gradients are wanted"
    with torch.no_grad():
        assert folding.foldable(x, block.conv, block.norm)
        assert not folding.foldable(x.double(), block.conv, block.norm)


def test_a_compiled_block_is_one_graph_also_where_no_gradient_is_wanted() -> None:
    block, x = shaken(ConvBlock(4, 6, 3)), torch.rand(2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(block, backend="eager", fullgraph=True)(x), block(x))


def test_frozen_stages_are_folded_in_training_and_give_the_same_loss(monkeypatch) -> None:
    torch.manual_seed(0)
    model = shaken(small.simrec(small.backbone(freeze_backbone=True))).train()
    fast, slow = both(monkeypatch, lambda: model(small.batch())["loss"].item())
    assert fast == pytest.approx(slow, rel=1e-5)
