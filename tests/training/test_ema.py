"""EMA: equal to the original's numbers, exact to save and restore, without_pretrained to the model."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rec.training.ema import EMA

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "utils.json").read_text(encoding="utf-8"))["ema"]


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(FIXTURE["start"]["w"]))
        self.register_buffer("b", torch.tensor(FIXTURE["start"]["b"]))
        self.register_buffer("n", torch.tensor(FIXTURE["start"]["n"]))

    def advance(self):
        with torch.no_grad():
            self.w += torch.tensor([0.5, 0.25])
            self.b *= 1.5
            self.n += 3


@pytest.mark.parametrize("buffer_ema", [True, False])
def test_shadow_equals_the_original(buffer_ema):
    model = Toy()
    ema = EMA(model, 0.9997, buffer_ema)
    for step in FIXTURE[f"buffer_ema_{str(buffer_ema).lower()}"]:
        model.advance()
        ema.update(model)
        torch.testing.assert_close(ema.shadow["w"], torch.tensor(step["shadow_w"]), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ema.shadow["b"], torch.tensor(step["shadow_b"]), rtol=1e-6, atol=1e-6)
        assert ema.shadow["n"].item() == step["shadow_n"]


def test_without_warmup_the_start_keeps_its_share():
    model = Toy()
    start = model.w.detach().clone()
    ema, ramped = EMA(model, 0.9, warmup=False), EMA(model, 0.9)
    model.advance()
    for _ in range(5):
        ema.update(model)
        ramped.update(model)
    share = 0.9**5
    torch.testing.assert_close(ema.shadow["w"], share * start + (1 - share) * model.w.detach())
    torch.testing.assert_close(ramped.shadow["w"], model.w.detach(), rtol=1e-3, atol=1e-3)


def test_applied_gives_the_average_and_then_the_own_weights_back():
    model = Toy()
    ema = EMA(model)
    model.advance()
    ema.update(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with ema.applied(model):
        assert torch.equal(model.w, ema.shadow["w"]) and not torch.equal(model.w, before["w"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_restored_average_continues_bit_for_bit():
    model = Toy()
    through = EMA(model)
    for _ in range(3):
        model.advance()
        through.update(model)
    restored = EMA(Toy())
    restored.load({name: value.clone() for name, value in through.shadow.items()}, through.updates)
    for ema in (through, restored):
        ema.update(model)
    assert all(torch.equal(through.shadow[name], restored.shadow[name]) for name in through.shadow)


def test_a_parameter_unfrozen_later_is_averaged_from_then_on():
    model = Toy()
    model.w.requires_grad_(False)
    ema = EMA(model)
    ema.update(model)
    model.w.requires_grad_(True)
    model.advance()
    ema.update(model)
    assert torch.all(ema.shadow["w"] > torch.tensor(FIXTURE["start"]["w"]))


@pytest.mark.parametrize("buffer_ema", [True, False])
def test_all_tensors_together_are_averaged_as_each_alone(buffer_ema):
    """Bit for bit, also where a model puts a new tensor in a buffer's place, or is replaced by another."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), Toy(), nn.BatchNorm2d(3))
    model[1].weight.requires_grad_(False)
    ema = EMA(model, 0.9997, buffer_ema)
    wanted = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(4):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(step + 1)
        model[2].b = model[2].b * 1.5
        ema.update(model if step < 3 else (model := copy.deepcopy(model)))
        decay = (step + 1) / (step + 10)
        for name, value in model.state_dict().items():
            is_buffer = name.endswith(("running_mean", "running_var", "num_batches_tracked", ".b", ".n"))
            if name == "1.weight":
                continue
            if is_buffer and not buffer_ema:
                wanted[name].copy_(value)
            elif value.is_floating_point():
                wanted[name].lerp_(value, 1 - decay)
            else:
                wanted[name].copy_(wanted[name] * decay + value * (1 - decay))
    assert all(torch.equal(ema.shadow[name], value) for name, value in wanted.items())
