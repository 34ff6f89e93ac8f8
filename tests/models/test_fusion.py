"""Fusion: rearranged computations give what the plain formulas give; transposition is real and guarded."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rec.models.fusion import GaranAttention, MultiScaleFusion, SimpleFusion
from rec.models.heads import REChead
from rec.models.language_encoders import LSTM_SA, Transformer
from rec.models.layers import UpsampledConvBlock, coordinate_channels, upsample
from rec.models.mask_head import MaskHead
from rec.models.pretrained_text import PretrainedText


def plain_garan(module: GaranAttention, q: Tensor, v: Tensor) -> Tensor:
    """The formula with its convolutions over the map, as published."""

    def conv(layer: torch.nn.Linear, x: Tensor) -> Tensor:
        return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)

    count, channels, height, width = v.shape
    heads, depth = module.num_heads, channels // module.num_heads
    query = module.query(q).view(count, heads, depth)
    keys = [conv(k, v).view(count, heads, depth, -1) for k in (module.collect_key, module.diffuse_key, module.value)]
    collect = (torch.einsum("bhd,bhdn->bhn", query, keys[0]) / depth**0.5).softmax(-1)
    diffuse = (torch.einsum("bhd,bhdn->bhn", query, keys[1]) / depth**0.5).sigmoid()
    vector = torch.einsum("bhn,bhdn->bhd", collect, keys[2])
    spread = (vector[..., None] * diffuse[:, :, None]).reshape(count, channels, height, width)
    if module.transposed_output:
        spread = spread.transpose(2, 3)
    return F.leaky_relu(module.norm(conv(module.out, spread)) + v, 0.1)


@pytest.mark.parametrize("transposed", [False, True])
def test_garan_without_convolutions_is_garan(transposed: bool) -> None:
    torch.manual_seed(0)
    module = GaranAttention(12, 16, num_heads=4, dropout_rate=0.0, transposed_output=transposed).double()
    q, v = torch.randn(3, 12).double(), torch.randn(3, 16, 5, 5).double().requires_grad_()
    want = plain_garan(module, q, v)
    got, _ = module(q, v)
    torch.testing.assert_close(got, want)
    weights = torch.randn_like(want)
    wanted = torch.autograd.grad((want * weights).sum(), [v, *module.parameters()])
    found = torch.autograd.grad((got * weights).sum(), [v, *module.parameters()])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: SimpleFusion(8, 0, 8), "out_planes is 0"),
        (lambda: MultiScaleFusion((8, 8), hidden_planes=1), "half of hidden_planes is 0"),
        (lambda: MultiScaleFusion((0, 8)), "v_planes is 0"),
        (lambda: GaranAttention(8, 8, num_heads=0), "num_heads is 0"),
        (lambda: LSTM_SA(hidden_size=-4, token_size=9), "hidden_size is -4"),
        (lambda: LSTM_SA(token_size=0), "token_size is 0"),
        (lambda: Transformer(num_heads=-2, token_size=9), "num_heads is -2"),
        (lambda: PretrainedText(config={"model_type": "bert"}, hidden_size=0), "hidden_size is 0"),
        (lambda: REChead(width=0.001), "width times 256 is 0"),
        (lambda: REChead(strides=[0]), "strides is 0"),
        (lambda: REChead(prior_probability=1), "prior_probability is 1; expected a number between 0 and 1"),
        (lambda: MaskHead(sub_cells=0), "sub_cells is 0"),
        (lambda: MaskHead(dilations=[0]), "dilations is 0"),
    ],
)
def test_a_size_below_one_is_refused_by_its_name(build, said) -> None:
    with pytest.raises(ValueError, match=said):
        build()


def test_transposed_attention_swaps_rows_and_columns_and_refuses_other_shapes() -> None:
    torch.manual_seed(0)
    module = GaranAttention(8, 8, dropout_rate=0.0).eval()
    q, v = torch.randn(1, 8), torch.randn(1, 8, 6, 6)
    straight = module(q, v)[1]
    module.transposed_output = True
    torch.testing.assert_close(module(q, v)[1], straight.transpose(2, 3))
    with pytest.raises(ValueError, match="square map, this one is 4x6"):
        module(q, v[:, :, :4])


def test_convolving_before_upsampling_is_convolving_after_it() -> None:
    torch.manual_seed(0)
    block = UpsampledConvBlock(6, 4).double()
    x = torch.randn(2, 6, 5, 5).double()
    torch.testing.assert_close(block(x), block.act(block.norm(block.conv(upsample(x, 2)))))


def test_coordinates_let_a_fusion_tell_left_from_right() -> None:
    grid = coordinate_channels(torch.zeros(1, 3, 2, 4))
    assert grid[0, 0, 0].tolist() == [-0.75, -0.25, 0.25, 0.75] and grid[0, 1, :, 0].tolist() == [-0.5, 0.5]
    flat, q = torch.ones(1, 3, 4, 4), torch.randn(1, 5)
    plain = SimpleFusion(3, 8, 5).eval()(flat, q)
    placed = SimpleFusion(3, 8, 5, coordinates=True).eval()(flat, q)
    assert plain.std(dim=(2, 3)).max() < 1e-6 < placed.std(dim=(2, 3)).max()


def test_multi_scale_fusion_refuses_other_maps_than_it_was_built_for() -> None:
    module = MultiScaleFusion((4, 4), hidden_planes=8)
    with pytest.raises(ValueError, match=r"v_planes=\(4, 4\) channels, it got \(4, 5\)"):
        module([torch.zeros(1, 4, 4, 4), torch.zeros(1, 5, 2, 2)])


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_every_scale_sees_every_other(scales: int) -> None:
    torch.manual_seed(0)
    module = MultiScaleFusion((4,) * scales, hidden_planes=8).eval()
    maps = [torch.randn(1, 4, 2 ** (scales - i), 2 ** (scales - i)).requires_grad_() for i in range(scales)]
    outputs = module(maps)
    assert sorted(outputs) == list(range(scales))
    for output in outputs.values():
        gradients = torch.autograd.grad(output.sum(), maps, retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in gradients)
