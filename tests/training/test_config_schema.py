"""The check of a whole training config: unread names, groups where calls belong, missing arguments; defaults; warnings."""

import pytest

from rec.config import ConfigError, LazyConfig, to_native
from rec.errors import UntrustedError
from rec.model_folder.card import model_card
from rec.training.build import read_training_config
from rec.training.summary import warnings

BASE = """
from rec.config import LazyCall, get_config
_base = get_config("simrec_small_scenes_quickstart.py")
model, dataset, optim, train = _base.model, _base.dataset, _base.optim, _base.train
"""


@pytest.fixture
def read(tmp_path):
    """The checked config of the quickstart with ``text`` behind it."""

    def run(text: str, *overrides: str):
        path = tmp_path / "x.py"
        path.write_text(f"{BASE}{text}\n", encoding="utf-8")
        return read_training_config(str(path), list(overrides))

    return run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train = dict(train, epohcs=3)", "cfg.train.epohcs: nothing reads this; did you mean `train.epochs`"),
        ("trian = dict(train)", "cfg.trian: nothing reads this; did you mean `train`?"),
        ("epochs = 50", "cfg.epochs: nothing reads this; did you mean `train.epochs`"),
        ("size = 64", "cfg.size: nothing reads this"),
        ("train.data = dict(nun_workers=3)", "nun_workers: nothing reads this; did you mean `train.data.num_workers`"),
        ("train.scheduler = dict(nmae='cosine')", "cfg.train.scheduler.nmae"),
        ("t = get_config('common/train.py').train\nt.epohcs = 3", "`train.epohcs`: there is no such key"),
        ("train.ema = 3", "cfg.train.ema is 3; expected a group of alpha, buffer_ema, enabled"),
        ("train = 3", "cfg.train is 3; expected a group"),
        ("model = dict(type='SimREC', a=1)", "cfg.model is dict(type='SimREC', ...), which mmdetection builds from a registry"),
        ("model = dict(backbone=dict(depth=101))", "cfg.model is a group without a target; expected a LazyCall"),
        ("optim = 'adam'", "cfg.optim is 'adam'; expected a LazyCall"),
        ("from torch.optim import SGD as optim", "no optim: import it from common/, or write optim = LazyCall(Class)(...)"),
        ("model = LazyCall(dict)", "cfg.model is LazyCall(builtins.dict), which is not called yet"),
        ("dataset = None", "cfg.dataset is None; expected a LazyCall"),
        ("dataset = [1]", "cfg.dataset is [1]; expected a LazyCall"),
        ("optim = [1]", "cfg.optim is [1]; expected a LazyCall"),
        ("model.head = dict(width=2)", "cfg.model → rec.models.SimREC: 'head' is a group without a target; write a LazyCall"),
        ("model.language_encoder = [1]", "'language_encoder' is [1]; expected torch.nn.modules.module.Module"),
        ("model.head = 3", "'head' is 3; expected torch.nn.modules.module.Module | None"),
        ("model.language_encoder.freeze_embedding = 'no'", "'freeze_embedding' is 'no'; expected bool"),
        ("optim.fused = 'no'", "cfg.optim → torch.optim.Adam: 'fused' is 'no'; expected bool | None"),
        ("model.fusion_manner.modules[0] = dict(type='F')", "cfg.model.fusion_manner.modules[0] is dict(type='F', ...)"),
        ("dataset.candidate_transforms = dict(x=dict(type='Flip'))", "cfg.dataset.candidate_transforms.x is dict(type='Flip'"),
        ("del model.language_encoder", "cfg.model → rec.models.SimREC: missing argument 'language_encoder'"),
        ("log_level = 'INFO'", "cfg.log_level: `log_level` is mmdetection's name"),
        ("model.head._args_ = [1]", "`_args_` is hydra's: arguments are given by keyword"),
        ("optim._convert_ = 'all'", "`_convert_` is hydra's: leave it out"),
        ("train.output_dir = 'x/{{fileBasenameNoExtension}}'", "Path(__file__).stem"),
        ("optim.params = LazyCall(list)()", "cfg.optim.params is {'_target_': <class 'list'>}, which the run would replace"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_before_anything_is_built(read, text, said):
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert said in str(refused.value)


def test_a_value_that_the_table_of_keys_refuses_is_told_once(read):
    with pytest.raises(ConfigError) as refused:
        read("dataset.with_masks = 'no'")
    assert str(refused.value).count("with_masks is 'no'; expected") == 1 and "'with_masks'" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "size = 64\ntrain.multi_scale_training.img_scales = [[size, size]]",
        "_size = 64",
        "size = 64\ndataset.input_shape = ['${size}', '${size}']",
        "head = LazyCall('rec.models.heads.REChead')()\nhead.update(model.head)\nmodel.head = head",
        "from omegaconf import open_dict\nwith open_dict(train): train.mine = 3",
    ],
)
def test_what_the_file_reads_and_what_is_added_on_purpose_stays(read, text):
    assert set(read(text)) <= {"model", "dataset", "optim", "train", "size"}


def test_a_key_added_by_an_override_stays_and_a_helper_is_no_part_of_the_run(read):
    assert read("", "+train.mine.key=3").train.mine.key == 3
    assert "size" not in read("size = 64\ntrain.batch_size = size")


def test_what_a_train_block_lacks_is_filled_in_before_overrides(read):
    block = "train = dict(output_dir='x', epochs=2, data=dict(num_workers=0), scheduler=dict(name='step'))"
    cfg = read(f"{block}\n", "train.trackers=[]", "train.evaluation.splits=val,test")
    assert cfg.train.data.std == [1.0, 1.0, 1.0] and cfg.train.epochs == 2 and cfg.train.trackers == []
    assert cfg.train.evaluation.splits == ["val", "test"] and to_native(cfg.train.scheduler) == {"name": "step"}


def test_a_key_of_ours_may_be_set_in_a_train_block_that_lacks_it(tmp_path):
    (tmp_path / "theirs.py").write_text("train = dict(epochs=2, evaluation=dict(eval_batch_size=8))\n")
    leaf = tmp_path / "leaf.py"
    leaf.write_text("from .theirs import train\ntrain.load_weight = 'x'\ntrain.evaluation.splits = ['val']\n")
    assert LazyConfig.load(leaf).train.evaluation.splits == ["val"]
    leaf.write_text("from .theirs import train\ntrain.load_wieght = 'x'\n")
    with pytest.raises(KeyError, match="load_wieght"):
        LazyConfig.load(leaf)


def test_a_saved_config_of_simrecs_says_which_command_writes_it_anew(tmp_path):
    (tmp_path / "c.yaml").write_text("model: {_target_: simrec.models.simrec.SimREC, x: !!python/tuple [1]}\n")
    with pytest.raises(UntrustedError, match=r"`simrec` is SimREC's module.*`rec migrate FILE`"):
        read_training_config(str(tmp_path / "c.yaml"), [])


def test_frozen_and_random_parts_are_told_by_name_and_stand_in_the_card(read):
    frozen = "model.visual_backbone.freeze_backbone = True\nmodel.language_encoder.freeze_embedding = True"
    said = warnings(read(frozen))
    assert [line for line in said if "model.visual_backbone (freeze_backbone=true, pretrained=false)" in line]
    assert [line for line in said if "word vectors of model.language_encoder" in line] and len(said) == 2
    assert warnings(read("")) == [] == warnings(read(f"{frozen}\ntrain.load_weight = 'somewhere'"))
    [line] = warnings(read("train.evaluation.splits = ['testA', 'val']"))
    assert "are chosen on testA, the first of train.evaluation.splits" in line
    assert warnings(read("train.evaluation.splits = ['val', 'testA']")) == []
    about = {
        "dataset": "scenes",
        "frozen_and_random": ["model.visual_backbone (freeze_backbone=true, pretrained=false)"],
    }
    config = {
        "model": {"_target_": "rec.models.SimREC"},
        "preprocess": {"input_shape": [96, 96], "max_token_length": 8},
    }
    card = model_card(config | {"about": about}, {}, "trained on scenes", "best")
    assert "Frozen and random, never trained: model.visual_backbone" in card
    assert "Frozen" not in model_card(config | {"about": {"dataset": "scenes"}}, {}, "trained on scenes", "best")
