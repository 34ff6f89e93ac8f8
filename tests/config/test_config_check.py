"""``check`` finds what would go wrong without building anything; batch-size arithmetic; other tools' names."""

from pathlib import Path

import pytest
from config_targets import Head, Part, fails
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from rec.config import ConfigError, LazyCall, LazyConfig, check, solve_batch_size
from rec.config.refused import canonical_name, refused_names

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(p for p in (ROOT / "configs").rglob("*.py") if p.name != "__init__.py")


def config(**groups):
    return DictConfig(groups, flags={"allow_objects": True})


def test_a_good_config_has_no_problems_and_nothing_is_built(form):
    built = Head.built
    cfg = config(
        a=LazyCall(Head)(in_channels=1, act=LazyCall(fails)()), b=[{"c": (LazyCall("config_targets.Part")(),)}]
    )
    assert check(form(cfg)) == []
    assert Head.built == built


def test_every_problem_is_found_in_every_nested_place(form):
    cfg = config(
        model=LazyCall(Head)(in_chanels=1, act=LazyCall(Part)(nam=2)),
        items=[1, (LazyCall("config_targets.Gone")(),)],
        more={"x": {"y": LazyCall("no_such_package.K")(a=LazyCall(Part)(z=1))}},
        must="???",
        lost="${nowhere.to.go}",
        partial=LazyCall(Part)(_partial_=True, vale=1),
        unbuilt=LazyCall(Part)(_recursive_=False, value=LazyCall(Part)(vale=1)),
        named=LazyCall(Part)(value={"_object_": "config_targets.NoClass"}),
    )
    problems = check(form(cfg))
    starts = [
        "cfg.model.act → config_targets.Part: unexpected argument 'nam'; it takes value, name; did you mean `name`",
        "cfg.model → config_targets.Head: unexpected argument 'in_chanels'; it takes in_channels",
        "cfg.items[1][0]: `config_targets.Gone` cannot be imported",
        "cfg.more.x.y: `no_such_package.K` cannot be imported: ModuleNotFoundError",
        "cfg.more.x.y.a → config_targets.Part: unexpected argument 'z'",
        "cfg.must: mandatory value (???) is not set",
        "cfg.lost: Interpolation key 'nowhere",
        "cfg.partial → config_targets.Part: unexpected argument 'vale'",
        "cfg.unbuilt.value → config_targets.Part: unexpected argument 'vale'",
        "cfg.named.value: `config_targets.NoClass` cannot be imported",
    ]
    for start in starts:
        assert [p for p in problems if p.startswith(start)], (start, problems)
    assert len(problems) == len(starts)


def test_arguments_added_by_an_override_are_checked(form):
    cfg = LazyConfig.apply_overrides(config(x=LazyCall("config_targets.Part")(value=1)), ["x.nam=1", "+x.zz=1"])
    assert len(check(form(cfg))) == 2


def test_an_argument_set_to_none_on_purpose_is_no_problem():
    assert check(config(x=LazyCall(Part)(value=None), y=None)) == []


def test_one_group_can_be_checked_alone():
    assert check(config(x=LazyCall(Part)(nam=None)).x)[0].startswith(
        "cfg.x → config_targets.Part: unexpected argument 'nam'"
    )


def test_names_of_other_tools_are_problems():
    cfg = config(train={"train_epoch": 3, "epochs": 4, "dist": {"tensor_parallel_size": 2}}, graph={"enabled": True})
    problems = check(cfg)
    assert "cfg.train.train_epoch: `train.train_epoch` is LiBai's name: use train.epochs" in problems
    assert (
        len(problems) == 3 and any("one device" in p for p in problems) and any("torch.compile" in p for p in problems)
    )


def test_no_canonical_name_is_refused():
    pytest.importorskip("torch")
    cfg = LazyConfig.load(ROOT / "configs/common/train.py")
    assert refused_names(cfg) == []
    assert canonical_name("train.ddp_like") is None and canonical_name("train.ddp.backend")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_survive_saving_and_stay_without_problems(path, tmp_path, recwarn):
    pytest.importorskip("torch")
    cfg = LazyConfig.load(path)
    LazyConfig.save(cfg, tmp_path / "x.yaml")
    again = LazyConfig.load(tmp_path / "x.yaml")
    assert not [w for w in recwarn if "cannot rebuild" in str(w.message)]
    assert LazyConfig.to_py(cfg) == LazyConfig.to_py(again) and check(again) == []


@pytest.mark.parametrize(
    ("given_numbers", "solved"),
    [
        ({"total": 32}, (32, 32, 1)),
        ({"total": 32, "processes": 4}, (32, 8, 1)),
        ({"total": 32, "processes": 4, "accumulation": 2}, (32, 4, 2)),
        ({"total": 32, "per_process": 4, "processes": 4}, (32, 4, 2)),
        ({"per_process": 4, "processes": 4}, (16, 4, 1)),
        ({"per_process": 4, "accumulation": 3, "processes": 2}, (24, 4, 3)),
        ({"total": 24, "per_process": 4, "accumulation": 3, "processes": 2}, (24, 4, 3)),
        ({"total": 1}, (1, 1, 1)),
    ],
)
def test_batch_sizes_are_solved(given_numbers, solved):
    assert solve_batch_size(**given_numbers) == solved


@pytest.mark.parametrize(
    ("given_numbers", "text"),
    [
        ({"total": 33, "processes": 4}, "33 in total is not 8 per process x 4 processes x 1 accumulation steps = 32"),
        ({"total": 2, "processes": 4}, "2 in total is not 1 per process x 4 processes"),
        ({"total": 32, "per_process": 5}, "32 in total is not 5 per process"),
        ({"total": 32, "per_process": 4, "accumulation": 3, "processes": 2}, "32 in total is not 4 .* = 24"),
        ({"total": 3, "per_process": 4}, "3 in total is not 4 per process"),
        ({}, "the total or per_process given"),
        ({"total": 0}, "'total': 0.*at least 1"),
        ({"total": 8.0}, "8.0.*whole numbers"),
        ({"total": 8, "processes": 0}, "'processes': 0"),
        ({"total": True}, "True"),
        ({"total": 8, "accumulation": -1}, "-1"),
    ],
)
def test_contradictory_batch_sizes_are_refused_with_the_numbers(given_numbers, text):
    with pytest.raises(ConfigError, match=text):
        solve_batch_size(**given_numbers)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_any_one_batch_number_follows_from_the_others(per_process, processes, accumulation):
    total = per_process * processes * accumulation
    expected = (total, per_process, accumulation)
    assert solve_batch_size(total, None, processes, accumulation) == expected
    assert solve_batch_size(total, per_process, processes) == expected
    assert solve_batch_size(None, per_process, processes, accumulation) == expected
