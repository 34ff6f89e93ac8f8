"""Values of train, dataset and optim are verified before anything is built.

``python tests/training/test_keys.py`` writes docs/keys.md.
"""

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

from page_tables import fill, table  # noqa: E402

from rec.config import LazyCall, LazyConfig, get_config  # noqa: E402
from rec.config.printing import flatten  # noqa: E402
from rec.training.keys import KEYS, check_values  # noqa: E402

PAGE = REPOSITORY / "docs" / "keys.md"
QUICKSTART = REPOSITORY / "configs" / "simrec_small_scenes_quickstart.py"


def defaults() -> dict:
    return {
        key: value
        for name in ("train", "dataset", "optim")
        for key, value in flatten(get_config(f"common/{name}.py")).items()
    }


def page() -> str:
    found, rows = defaults(), []
    for key in KEYS.values():
        given = found.get(
            key.name, "" if any(name.startswith((f"{key.name}.", f"{key.name}[")) for name in found) else "-"
        )
        rows.append([f"`{key.name}`", f"`{given}`" if given not in ("", "-") else given, key.rule, key.meaning])
    return fill(PAGE.read_text(encoding="utf-8"), {"keys": table(["key", "default", "may be", "meaning"], rows)})


def problems(*overrides: str) -> list[str]:
    return check_values(LazyConfig.apply_overrides(LazyConfig.load(str(QUICKSTART)), list(overrides)))


def test_the_page_is_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/training/test_keys.py"


def test_every_key_that_training_reads_is_in_the_table():
    known = [key for key in defaults() if not key.startswith("optim.") and not key.endswith("_target_")]
    assert [key for key in known if not any(f"{key}.".startswith((f"{name}.", f"{name}[")) for name in KEYS)] == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs=abc", "whole number >= 1"),
        ("train.train_iter=0", "whole number >= 1 or null"),
        ("train.seed=-1", "0..2147483647"),
        ("train.evaluation.eval_mode=maximum", "max or min"),
        ("train.evaluation.eval_metric=Acc@0.55", "which nothing measures"),
        ("train.evaluation.splits=val", "list of texts"),
        ("train.evaluation.splits=[]", "non-empty list of texts"),
        ("train.evaluation.splits=[val,test,val]", "with a split twice"),
        ("train.data.std=[0,0,0]", "3 numbers > 0"),
        ("train.trackers=[nope]", "tensorboard"),
        ("train.trackers=[1]", "expected list of trackers"),
        ("train.communication.hook=nope", "power_sgd"),
        ("train.multi_scale_training.img_scales=[[64,96]]", "squares"),
        ("train.clip_grad_norm=-1", "number >= 0 or null"),
        ("train.ema.alpha=1", "below 1"),
        ("train.output_dir=", "text"),
        ("dataset.input_shape=[96,64]", "square"),
        ("dataset.flip_lr=maybe", "true/false"),
        ("optim.lr=fast", "number >= 0"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_right_is_named_with_what_is_expected(override, expected):
    found = problems(override)
    assert len(found) == 1 and found[0].startswith(f"cfg.{override.partition('=')[0]} ") and expected in found[0]


def test_the_line_that_sets_the_value_is_named(tmp_path):
    (tmp_path / "x.py").write_text("train = dict(\n    epochs=-1,\n)\n")
    [found] = check_values(LazyConfig.load(str(tmp_path / "x.py")))
    assert found.startswith("cfg.train.epochs is -1; expected whole number >= 1") and f"{tmp_path / 'x.py'}:2" in found


def test_all_wrong_values_are_told_at_once():
    assert len(problems("train.epochs=0", "train.seed=-1", "dataset.hide=all")) == 3


def test_values_of_parts_from_elsewhere_are_left_to_them():
    cfg = LazyConfig.load(str(QUICKSTART))
    cfg.dataset = LazyCall("builtins.dict")(input_shape="any", hide=3)
    cfg.train.scheduler = LazyCall("builtins.dict")(name="mine")
    cfg.train.evaluation.evaluator, cfg.train.evaluation.eval_metric = LazyCall("builtins.dict")(), "mine"
    assert check_values(cfg) == []


def test_the_metric_of_phrases_that_name_one_object_is_refused_for_others():
    assert any("expected one of Pr@F1, N-acc" in problem for problem in problems("dataset.targets=any"))
    assert not problems("dataset.targets=any", "train.evaluation.eval_metric=Pr@F1")
    evaluated = LazyConfig.apply_overrides(LazyConfig.load(str(QUICKSTART)), ["dataset.targets=any"])
    assert not check_values(evaluated, ("dataset", "train.evaluation"))


def test_a_metric_of_masks_is_refused_without_them():
    metric = "train.evaluation.eval_metric=mask_mIoU"
    assert any("needs dataset.with_masks=true" in problem for problem in problems(metric))
    assert not problems(metric, "+dataset.with_masks=true")


def test_cuda_graphs_are_refused_where_the_work_varies():
    graphs = "train.cuda_graphs.enabled=true"
    assert problems(graphs, "train.data.share_images=true", "train.num_accumulation_steps=2") == []
    [found] = problems(
        graphs, "train.compile.enabled=true", "train.freeze_schedule=[{modules: [head], from_update: 0}]"
    )
    assert found.endswith("needs train.compile.enabled=false train.freeze_schedule=[]")


def test_switching_the_hook_off_by_name_survives_yaml():
    assert problems("train.communication.hook=no") == []


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
