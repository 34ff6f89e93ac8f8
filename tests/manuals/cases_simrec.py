"""SimREC's manual (SimREC Config, Installation, Getting Started): every key, example and command."""

import functools
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import simrec_repository as simrec
from PIL import Image
from promises import ROOT, book, raised

from rec.config import LazyConfig, check, instantiate, to_native, try_get_key
from rec.config.call import locate, parameters

promise = book("SimREC")

# Import lines are all that is changed in the manual's texts; docs/coming_from.md has them as a table.
IMPORTS = {
    "simrec.config": "rec.config",
    "simrec.models.simrec": "rec.models",
    "simrec.models.mcn": "rec.models",
    "simrec.models.": "rec.models.",
    "simrec.layers.fusion_layer": "rec.models.fusion",
    "simrec.datasets.dataset": "rec.data.dataset",
    "simrec.datasets.transforms.randaug": "rec.data.augment",
}


def ours(text: str) -> str:
    return functools.reduce(lambda told, pair: told.replace(*pair), IMPORTS.items(), text)


def write(folder: Path) -> Path:
    """The manual's common/ with our import lines; train.ddp, which is refused, is left out of the run's config."""
    for name, text in simrec.COMMON.items():
        path = folder / "common" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ours(text), encoding="utf-8")
    lines = "".join(f"from .common.{name} import {name}\n" for name in ("dataset", "train", "optim"))
    leaf = f"{lines}from .common.models.simrec import model\ndel train.ddp\ndataset.word_vectors = 'en_core_web_lg'\n"
    (folder / "leaf.py").write_text(leaf)
    return folder


@functools.cache
def config():
    """A run of the manual's own blocks, checked."""
    from rec.training.build import read_training_config

    with tempfile.TemporaryDirectory() as folder:
        return read_training_config(str(write(Path(folder)) / "leaf.py"), [])


# Keys of the manual's blocks: path, value there, its comment. A value that cannot be right shows that the key is read.
TRAIN = [
    ("output_dir", "./test", "Directory where to save the output files."),
    ("warmup_epochs", 3, "Warmup epochs and total epochs for training."),
    ("epochs", 25, "Warmup epochs and total epochs for training."),
    ("base_lr", 1e-4, "Learning rate settings for lr-scheduler."),
    ("warmup_lr", 1e-7, "Learning rate settings for lr-scheduler."),
    ("min_lr", 1e-6, "Learning rate settings for lr-scheduler."),
    ("evaluation.sequential", False, "if set sequential=True, which will use SequentialSampler during validating."),
    ("log_period", 1, "Log the training infos every log_period times of iterations."),
    ("save_period", 1, "Save the checkpoints every save_period times"),
    ("data.pin_memory", True, "Basic data config."),
    ("data.num_workers", 8, "Basic data config."),
    ("data.mean", [0.0, 0.0, 0.0], "Basic data config."),
    ("data.std", [1.0, 1.0, 1.0], "Basic data config."),
    ("scheduler.name", "cosine", "Scheduler config."),
    ("scheduler.decay_epochs", [30, 35, 37], "Scheduler config."),
    ("scheduler.lr_decay_rate", 0.2, "Scheduler config."),
    ("amp.enabled", False, "Enable automatic mixed precision for training"),
    ("ema.enabled", True, "Enable model ema during training or not."),
    ("ema.alpha", 0.9997, "Enable model ema during training or not."),
    ("ema.buffer_ema", True, "Enable model ema during training or not."),
    ("sync_bn.enabled", False, "Automatically convert batchnorm to sync batchnorm layers."),
    ("clip_grad_norm", 0.15, "Clip gradient."),
    ("auto_resume.enabled", True, "Resume training."),
    ("vl_pretrain_weight", "", "Resume training."),
    ("multi_scale_training.enabled", True, "Multi-scale training."),
    ("multi_scale_training.img_scales", [[side, side] for side in range(224, 609, 32)], "Multi-scale training."),
    ("log_image", False, "Log image during training."),
    ("seed", 123456, "Training seed."),
]
DATASET = [
    ("ann_path", None, "path to the files"),
    ("image_path", None, "path to the files"),
    ("mask_path", None, "path to the files"),
    ("input_shape", [416, 416], "original input image shape"),
    ("flip_lr", False, "original input image shape"),
    ("candidate_transforms", {}, "candidate transforms"),
    ("max_token_length", 15, "the max truncated length for language tokens"),
    ("use_glove", True, "use glove pretrained embeddings or not"),
    ("split", "train", "datasets splits"),
]
MODEL = {
    "visual_backbone": "pretrained pretrained_weight_path freeze_backbone multi_scale_outputs",
    "language_encoder": "depth hidden_size num_heads ffn_size flat_glimpses word_embed_size dropout_rate freeze_embedding "
    "use_glove",
    "multi_scale_manner": "v_planes scaled",
    "fusion_manner": "modules",
    "attention_manner": "d_q d_v",
    "head": "label_smooth num_classes width strides in_channels act depthwise",
}


def _key(path: str, value: object) -> None:
    from rec.training.keys import check_values

    cfg = config()
    assert value is None or to_native(try_get_key(cfg, path)) == value
    wrong = LazyConfig.apply_overrides(LazyConfig.load(ROOT / "configs/simrec_refcoco_scratch.py"), [f"{path}=-7.5"])
    assert any(line.startswith(f"cfg.{path} ") for line in check_values(wrong))


for _group, _rows in (("train", TRAIN), ("dataset", DATASET)):
    for _path, _value, _sentence in _rows:
        promise(f"{_group}.{_path}: {_sentence}")(lambda _, p=f"{_group}.{_path}", v=_value: _key(p, v))
for _part, _names in MODEL.items():
    for _name in _names.split():

        def _argument(_, part=_part, name=_name):
            target = config().model[part]._target_
            assert (
                name in parameters(locate(target) if isinstance(target, str) else target)
                and name in config().model[part]
            )

        promise(f"model.{_part}.{_name}: the example of a SimREC model config file")(_argument)
for _name in ("refcoco", "refcoco+", "refcocog", "referit", "flickr", "vg", "merge"):

    def _named(_, name=_name):
        data = config().dataset
        assert name in data.ann_path and name in data.image_path
        said = raised(ValueError, instantiate, data, dataset=name, ann_path={name: "nowhere.json"}, use_glove=False)
        assert f"ann_path of '{name}': nowhere.json" in said

    promise(f'dataset.dataset: choose from ["refcoco", "refcoco+", "refcocog", "referit", "vg", "merge"]: {_name}')(
        _named
    )


@promise("Here is the example of loading `SimREC` model config file")
def the_model_is_built(_):
    import torch

    cfg = config().copy()
    cfg.model.language_encoder.token_size = 20
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert (
        len(model.fusion_manner) == 3
        and model.head.stride == 32
        and model.language_encoder.embedding.num_embeddings == 20
    )


@promise(
    "from common.models.simrec import model; model.visual_backbone.pretrained = True  # modify config according to your own needs"
)
def absolute_imports_of_configs_find_the_file_beside(place):
    text = "from common.models.simrec import model\nmodel.visual_backbone.pretrained = True\n"
    cfg = place.load(text, common__models__simrec=ours(simrec.MODEL))
    assert cfg.model.visual_backbone.pretrained is True and cfg.model.head.num_classes == 0


@promise(
    "some param like `model.language_encoder.pretrained_emb` will be set in train loop before instantiating the model"
)
def the_vocabulary_sets_the_size(_):
    from rec.training.build import set_vocabulary_size

    cfg = config().copy()
    set_vocabulary_size(cfg, range(17))
    assert cfg.model.language_encoder.token_size == 17


@promise("Total batch size, if you run SimREC on 4 GPUs, each gpu will handle only (batch / 4) samples.")
def the_batch_size_is_the_total(_):
    from rec.config import solve_batch_size

    assert solve_batch_size(config().train.batch_size, processes=4)[1] == 2


@promise("train = dict(...): the default dataset config, as a block of one's own")
def a_block_without_our_keys_is_filled_in(_):
    assert config().train.evaluation.splits == ["val"] and config().train.checkpointer.max_to_keep == 2


@promise("evaluation=dict(eval_batch_size=8, ...)", "evaluation in batches")
def eval_batch_size_is_per_process(_):
    from rec.training.keys import KEYS

    assert KEYS["train.evaluation.eval_batch_size"].meaning == "phrases per process"


@promise('ddp=dict(backend="nccl", init_method="env://"): Distributed training settings.', "train.ddp")
def ddp_is_refused_by_name(place):
    assert "launch profile" in place.refused("train = dict(train, ddp=dict(backend='nccl', init_method='env://'))")


@promise(
    "optim = LazyCall(Adam)(lr=0.0001, betas=(0.9, 0.98), eps=1e-9); optim.params is meant to be set before instantiating"
)
def the_optimizer_is_built(_):
    import torch

    from rec.training.build import build_optimizer

    optimizer = build_optimizer(config(), torch.nn.Linear(2, 2))
    group = optimizer.param_groups[0]
    assert (group["lr"], tuple(group["betas"]), group["eps"]) == (1e-4, (0.9, 0.98), 1e-9)


@promise(
    "transforms=LazyCall(transforms.Compose)([ToTensor, Normalize(mean=train.data.mean, std=train.data.std)]): basic transforms"
)
def basic_transforms_are_taken(_):
    from rec.data.augment import check_transforms

    check_transforms(instantiate(config().dataset.transforms))


@promise(
    'candidate_transforms = {"RandAugment": RandAugment(2, 9), "ElasticTransform": A.ElasticTransform(p=0.5), ...}'
)
def candidate_transforms_are_drawn(_):
    import albumentations as A
    from torchvision.transforms import transforms

    from rec.data.augment import Augmentation, RandAugment

    candidates = {
        "RandAugment": RandAugment(2, 9),
        "ElasticTransform": A.ElasticTransform(p=0.5),
        "GridDistortion": A.GridDistortion(p=0.5),
        "RandomErasing": transforms.RandomErasing(p=0.3, scale=(0.02, 0.2), ratio=(0.05, 8), value="random"),
    }
    image = np.full((64, 64, 3), 90, np.uint8)
    for name, candidate in candidates.items():
        after = Augmentation({name: candidate})(image, np.array([8.0, 8, 56, 56]), None, np.random.default_rng(0))
        assert after[0].dtype == np.uint8


@promise("You can use the default config file provided in SimREC by importing them as the python file")
def a_leaf_of_the_manual(place):
    shutil.copytree(ROOT / "configs/common", place.folder / "common", ignore=shutil.ignore_patterns("__pycache__"))
    cfg = place.load(
        """
        # import the default config
        from rec.config import LazyCall
        from .common.dataset import dataset
        from .common.train import train
        from .common.optim import optim
        from .common.models.simrec import model

        # refine the cfg
        train.output_dir = "./your/own/path"
        train.batch_size = 32
        train.save_period = 1
        train.log_period = 10
        train.evaluation.eval_batch_size = 32
        train.sync_bn.enabled = False
        """
    )
    assert (cfg.train.output_dir, cfg.train.batch_size, cfg.train.evaluation.eval_batch_size) == (
        "./your/own/path",
        32,
        32,
    )
    assert list(cfg) == ["dataset", "train", "optim", "model"]


@promise("from simrec.config import LazyCall", "import lines")
def import_lines_are_told(place):
    for line in ("from simrec.config import LazyCall", "import simrec", "from detectron2.config import LazyCall"):
        said = raised(ModuleNotFoundError, place.load, line)
        assert "docs/coming_from.md" in said and "rec migrate" in said and "config.py:1" in said


@promise("from simrec.models.heads import REHead (as one page spells it)")
def the_misspelt_import_is_migrated(place):
    sys.path.insert(0, str(ROOT / "scripts"))
    from migrate_config import migrate

    path = place.file("from simrec.models.heads import REHead\nhead = REChead\n")
    assert "from rec.models.heads import REChead\n" in migrate(path, path.read_bytes())[path]


@promise(
    "bash tools/train.sh configs/simrec_refcoco_scratch.py 1 (or 4, by simply modifying the last number)",
    "tools/train.sh",
)
def accelerate_launches(place):
    import yaml

    assert yaml.safe_load((ROOT / "accelerate_configs/multi_gpu.yaml").read_text(encoding="utf-8"))["num_processes"] > 1
    said = place.refused("", "4")
    assert "`4` is not an override" in said


@promise("bash tools/eval.sh config/simrec_refcoco_scratch.py 4 /path/to/checkpoint", "tools/eval.sh")
def a_pth_says_which_script_converts_it(place):
    import rec
    from rec.model_folder.format import ModelFolderError

    assert "rec convert" in raised(ModelFolderError, rec.from_pretrained, place.file("", "ckpt_epoch_3.pth"))


@promise("bash tools/train.sh configs/simrec_refcoco_scratch.py 4 train.sync_bn.enabled=True")
def overrides_follow_the_config(place):
    assert place.run("", "train.sync_bn.enabled=True").train.sync_bn.enabled is True


@promise("All of the checkpoints, logs and tensorboard logs will be saved to `cfg.train.output_dir`")
def outputs_go_to_output_dir(place):
    assert place.run('train.output_dir = "/your/own/path"').train.trackers == ["tensorboard"]


@promise("find if there is `last_checkpoint.pth` in `cfg.train.output_dir` and automatically resume from it")
def the_newest_checkpoint_is_continued(place):
    import torch
    from safetensors.torch import save_file

    from rec.training import resume
    from rec.training.checkpoint_format import WEIGHTS, TrainerState, described, state_text

    cfg = place.run("train.resume_path = 'elsewhere'")
    cfg.train.output_dir = str(place.folder / "run")
    checkpoint = place.file("", "run/checkpoints/step_00000001/empty").parent
    names = (WEIGHTS, "optimizer.bin", "random_states_0.pkl")
    for name in names:
        save_file({"a": torch.zeros(1)}, checkpoint / name)
    state = TrainerState(update=1, files={name: described(checkpoint / name) for name in names})
    (checkpoint / "trainer_state.json").write_text(state_text(state), encoding="utf-8")
    assert resume.starting_point(cfg, {}) == checkpoint


@promise('train.auto_resume.enabled=False; train.resume_path = "path/to/specific/checkpoint.pth"', "checkpoints")
def a_pth_cannot_be_continued(place):
    from rec.training import resume

    cfg = place.run(f"train.auto_resume.enabled=False\ntrain.resume_path = '{place.file('', 'c.pth')}'")
    cfg.train.output_dir = str(place.folder / "run")
    assert "rec convert" in raised(resume.CheckpointError, resume.starting_point, cfg, {})


@promise(
    "cd $ROOT/data; python data_process.py --data_root ... --output_dir ... --dataset refcoco --split unc --generate_mask",
    "data_process.py",
)
def the_options_of_data_process_are_those_of_prepare_data(_):
    text = (ROOT / "scripts/prepare_data.py").read_text(encoding="utf-8")
    assert all(f'"--{name}"' in text for name in ("data_root", "output_dir", "dataset", "split", "generate_mask"))


@promise("$ROOT/data: refcoco/instances.json, refs(unc).p, ... images/train2014: the file structure should look like")
def refer_folders_are_found_below_data_root(place):
    sys.path.insert(0, str(ROOT / "tests" / "data"))
    from data_toys import make_refer

    from rec.data.dataset import RefCOCODataSet

    make_refer(place.folder, splits=("train", "val"))
    data = RefCOCODataSet("refcoco", str(place.folder / "refcoco"), str(place.folder / "images/train2014"), split="val")
    assert len(data) == 3


@promise("the directory `$ROOT/data` should look like: anns/refcoco/refcoco.json")
def the_annotation_file_may_lie_in_a_folder_of_its_name(place):
    from rec.data.dataset import RefCOCODataSet

    Image.new("RGB", (40, 40)).save(place.folder / "COCO_train2014_000000000001.jpg")
    item = {"iid": 1, "bbox": [2, 2, 20, 20], "cat_id": 0, "refs": ["a dog"], "mask_id": 0}
    place.file(json.dumps({"train": [item]}), "anns/refcoco/refcoco.json")
    data = RefCOCODataSet("refcoco", str(place.folder / "anns/refcoco.json"), str(place.folder))
    assert len(data) == 1


@promise("Install Spacy and initialize the GloVe: pip install en_vectors_web_lg-2.1.0.tar.gz", "en_vectors_web_lg")
def the_pipeline_of_today_is_named(_):
    from rec.data.text import Vocabulary
    from rec.data.word_vectors import look_up_vectors

    vocabulary = Vocabulary.build(["a dog"])
    assert "en_core_web_lg" in raised(ValueError, look_up_vectors, vocabulary, "en_vectors_web_lg")


@promise("Please download the following weights into `$ROOT/data/weights`: cspdarknet_coco.pth")
def weights_of_the_backbone_are_read_from_a_pth(_):
    assert config().model.visual_backbone.pretrained_weight_path == "./data/weights/cspdarknet_coco.pth"
    from rec.models.backbones import CspDarkNet

    assert "nowhere.pth" in raised(FileNotFoundError, CspDarkNet, pretrained=True, pretrained_weight_path="nowhere.pth")


@promise("namespaces `model`, `dataset`, `optim`, `train`")
def four_namespaces_have_no_problem(_):
    assert [problem for problem in check(config()) if "params" not in problem] == []
