"""A fused optimizer continues exactly from a state that was saved in another memory format."""

import copy

import torch

from rec.models.layers import channels_last
from rec.training.checkpoint import match_memory_format


def step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, seed: int) -> None:
    gradient = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    weight.grad = torch.empty_like(weight).copy_(gradient)
    optimizer.step()


def adam(weight: torch.nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.Adam([weight], 0.1, fused=True)


def test_a_contiguous_state_continues_on_channels_last_weights() -> None:
    start = torch.randn(4, 6, 3, 3)
    weight = torch.nn.Parameter(start.clone())
    optimizer = adam(weight)
    step(weight, optimizer, 0)
    saved, place = copy.deepcopy(optimizer.state_dict()), weight.detach().clone()
    step(weight, optimizer, 1)
    continued = torch.nn.Parameter(place.to(memory_format=torch.channels_last))
    other = adam(continued)
    other.load_state_dict(saved)
    match_memory_format(other)
    step(continued, other, 1)
    assert torch.allclose(continued, weight)


def test_a_model_with_a_convolution_in_three_dimensions_stays_as_it_is() -> None:
    flat, deep = torch.nn.Conv2d(4, 4, 3), torch.nn.Conv3d(4, 4, 3)
    assert channels_last(torch.nn.Sequential(flat, deep))[0].weight.is_contiguous()
    assert channels_last(flat).weight.is_contiguous(memory_format=torch.channels_last)
