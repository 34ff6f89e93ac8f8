"""Learning rates equal the original's, value by value (tests/fixtures: 25 epochs of 10 updates, 3 of warm-up)."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from rec.config import LazyCall
from rec.training.schedules import build_schedule, follow_size, from_config

FIXTURES = Path(__file__).parents[1] / "fixtures"
COMMON = {
    "base_lr": 1e-4,
    "warmup_lr": 1e-7,
    "min_lr": 1e-6,
    "warmup_updates": 30,
    "total_updates": 250,
    "updates_per_epoch": 10,
}


def expected(name):
    with np.load(FIXTURES / "utils.npz") as file:
        return file[f"lr/{name}"]


@pytest.mark.parametrize(
    ("fixture", "optimizer_lr", "options"),
    [
        ("cosine", 1e-4, {}),
        ("cosine_optimizer_lr_2e-4", 2e-4, {}),
        ("step_decay_30_35_37", 1e-4, {"name": "step"}),
        ("step_decay_15_20_22", 1e-4, {"name": "step", "decay_epochs": [15, 20, 22]}),
    ],
)
def test_rates_equal_the_original(fixture, optimizer_lr, options):
    schedule = build_schedule(**options, **COMMON)
    rates = [optimizer_lr * schedule(update) for update in range(251)]
    np.testing.assert_allclose(rates, expected(fixture), rtol=1e-9, atol=1e-18)


def train_config(**changes):
    values = {"base_lr": 1e-4, "warmup_lr": 1e-7, "min_lr": 1e-6, "warmup_epochs": 3, "warmup_ratio": None}
    return values | {"scheduler": {"name": "cosine"}} | changes


def test_simrecs_plain_scheduler_dict_and_the_lazy_call_agree():
    plain = from_config(train_config(), 250, 10)
    lazy = from_config(train_config(scheduler=LazyCall(build_schedule)(name="cosine")), 250, 10)
    assert [plain(i) for i in range(250)] == [lazy(i) for i in range(250)]


def test_warmup_ratio_replaces_warmup_epochs():
    schedule = from_config(train_config(warmup_ratio=0.5), 100, 10)
    assert schedule(50) == pytest.approx(1.0)
    assert schedule(49) < 1 > schedule(51)


def linear_decay(update, total_updates):
    return 1 - update / total_updates


def own_schedule(total_updates):
    return partial(linear_decay, total_updates=total_updates)


def test_a_schedule_of_ones_own_receives_what_it_takes():
    schedule = from_config(train_config(scheduler=LazyCall(own_schedule)()), 100, 10)
    assert schedule(25) == 0.75


def test_a_step_schedule_without_decay_keeps_the_rate_after_its_warm_up():
    schedule = from_config(train_config(scheduler={"name": "step", "decay_epochs": []}), 100, 10)
    assert [schedule(update) for update in (31, 99)] == [1, 1]


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'cosine' or 'step'"):
        build_schedule("cosin", **COMMON)


@pytest.mark.parametrize(
    ("samples", "processes", "batch", "epochs", "period"),
    [
        (1, 1, 1, 300, 30),
        (5, 1, 5, 300, 30),  # the training loader refuses a batch of more than there is
        (27, 1, 8, 100, 10),
        (150, 1, 16, 34, 3),
        (1000, 1, 64, 20, 2),
        (30_000, 1, 64, 8, 1),
        (27, 3, 9, 100, 10),
    ],
)
def test_auto_follows_the_size_of_the_data(samples, processes, batch, epochs, period):
    train = OmegaConf.create(
        dict.fromkeys(("batch_size", "epochs", "save_period"), "auto") | {"num_accumulation_steps": 1}
    )
    train.evaluation = {"eval_period": "auto"}
    follow_size(train, samples, processes)
    assert (train.batch_size, train.epochs, train.evaluation.eval_period) == (batch, epochs, period)
    assert train.save_period == period
    said = OmegaConf.create(
        {"batch_size": 10, "epochs": 2, "num_accumulation_steps": 1, "evaluation": {"eval_period": 1}, "save_period": 3}
    )
    follow_size(said, samples, processes)
    assert (said.batch_size, said.epochs, said.evaluation.eval_period, said.save_period) == (10, 2, 1, 3)
