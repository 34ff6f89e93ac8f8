"""The step that a device decides on: as the host's, skipped bit for bit, and nothing of it fixed when it was recorded."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from rec.errors import InputError
from rec.training import update
from rec.training.ema import EMA

ALONE = SimpleNamespace(clip_grad_norm_=nn.utils.clip_grad_norm_, num_processes=1, scaler=None, is_fsdp2=False)
# Where the host would have to know a number of the device's, or the device one of Python's.
WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "lift_fresh"}


class Graph(TorchDispatchMode):
    """Stands in for :class:`rec.cuda_graphs.Replayed` and a CUDA graph: from the third call on the operations of the second one are
    done again, on the same memory, without a line of Python of the function's."""

    def __init__(self, function, copied):
        super().__init__()
        self.function, self.calls, self.operations = function, 0, []

    def __call__(self, optimizer, *arguments):
        self.calls += 1
        if self.calls == 1:
            return self.function(optimizer, *arguments)
        if self.calls == 2:
            self.places = [argument.clone() for argument in arguments]
            with self:
                self.result = self.function(optimizer, *self.places)
            return self.result
        for place, argument in zip(self.places, arguments, strict=True):
            place.copy_(argument)
        for operation, args, kwargs, result in self.operations:
            for kept, now in zip(
                *(tree_flatten(each)[0] for each in (result, operation(*args, **kwargs))), strict=True
            ):
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != now.data_ptr():
                    kept.copy_(now)
        return self.result

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.__name__.partition(".")[0]
        assert name not in WAITS, f"{name} waits for the device"
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, result))
        return result


def side(kind, buffer_ema, graphs):
    """A model with statistics, counters and a frozen part, its optimizer, average and step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4, dtype=torch.float32))
    model[2].requires_grad_(False)
    weights = list(model.parameters())
    groups = [
        {"params": model[0].parameters(), "lr": 1.0},
        {"params": [*model[1].parameters(), *model[3].parameters()]},
    ]
    optimizer = (
        torch.optim.SGD(groups, lr=1.0) if kind == "SGD" else getattr(torch.optim, kind)(groups, 1.0, fused=True)
    )
    ema = EMA(model, 0.3, buffer_ema)
    return SimpleNamespace(
        model=model, optimizer=optimizer, ema=ema, step=update.Step(ALONE, model, weights, ema, 0.5, graphs)
    )


def tensors(side):
    """Everything that a step changes."""
    moments = [value for state in side.optimizer.state.values() for value in state.values()]
    return [*side.model.parameters(), *moments, *side.ema.shadow.values()]


@pytest.mark.parametrize(("kind", "buffer_ema"), [("Adam", True), ("AdamW", False), ("SGD", True)])
def test_a_recorded_step_is_the_hosts_and_skips_bit_for_bit(monkeypatch, kind, buffer_ema):
    """Its rates change with every update; SGD, which cannot skip by itself, steps as without graphs."""
    monkeypatch.setattr(update, "Replayed", Graph)
    host, device = side(kind, buffer_ema, False), side(kind, buffer_ema, True)
    for number in range(7):
        skipped, norms, waits = number in (3, 4), [], []
        torch.manual_seed(number)
        batch = torch.randn(8, 3)
        for one in (host, device):
            for group, rate in zip(one.optimizer.param_groups, (1e-2, 1e-3), strict=True):
                group["lr"] = rate * (number + 1)
            one.optimizer.zero_grad(set_to_none=one is host)  # a recording writes over them
            (one.model(batch).square().sum() * (math.inf if skipped else 1.0)).backward()
            mean = one.model[1].running_mean.clone()
            one.model[1].running_mean.fill_(math.nan if skipped else 0.5)  # as of a batch that is not finite
            before = [value.clone() for value in tensors(one)]
            groups = copy.deepcopy([{**group, "params": None} for group in one.optimizer.param_groups])
            norm, stops = one.step(one.optimizer, number == 2, partial(waits.append, None))
            norms.append(norm)
            one.model[1].running_mean.copy_(mean)
            assert stops == (number == 2) and math.isfinite(norm) != skipped
            if skipped:
                assert all(map(torch.equal, tensors(one), before))
            assert [{**group, "params": None} for group in one.optimizer.param_groups] == groups
            assert not hasattr(one.optimizer, "found_inf")
        assert len(waits) == 2 and norms[1] == pytest.approx(norms[0], rel=1e-6, nan_ok=True)
        assert host.ema.updates == device.ema.updates
        for wanted, got in zip(tensors(host), tensors(device), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    assert device.step._replayed.calls == (0 if kind == "SGD" else 7)
    assert device.ema.updates == 5


def test_recorded_gradients_stay_where_they_were_and_are_those_of_the_update_alone():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    places = set()

    def compute(batch):
        model(batch).square().sum().backward()

    recorded = update.recorded(compute, list(model.parameters()), accumulation=2)
    for _ in range(3):
        batches = torch.randn(2, 4, 3)
        for batch in batches:
            recorded(batch)
        wanted = torch.autograd.grad(sum(model(batch).square().sum() for batch in batches), model.parameters())
        assert all(map(torch.allclose, (weight.grad for weight in model.parameters()), wanted))
        places.add(tuple(weight.grad.data_ptr() for weight in model.parameters()))
    assert len(places) == 1


def test_a_model_of_ones_own_is_told_what_its_losses_are_to_be():
    loss = torch.ones((), requires_grad=True)
    assert update.losses_of({"loss": loss, "shift": 0.5})["loss"] is loss
    for outputs, told in (
        (loss, "got Tensor"),
        ({"loss_box": loss}, r"got \['loss_box'\]"),
        ({"loss": 0.5}, "a tensor 'loss'"),
        ({"loss": torch.ones(1)}, r"'loss' has the shape \(1,\)"),
        ({"loss": loss, "kind": "giou"}, "'kind' is a str"),
    ):
        with pytest.raises(InputError, match=told):
            update.losses_of(outputs)
