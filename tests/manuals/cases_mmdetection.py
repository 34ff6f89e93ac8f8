"""mmdetection's tutorial on configs."""

import runpy

from promises import ROOT, book, raised

from rec.config import to_native
from rec.config.overrides import parse_config_arguments

promise = book("mmdetection")
BASE = """
dataset_type = 'CocoDataset'
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    type='MaskRCNN',
    pretrained='torchvision://resnet50',
    backbone=dict(type='ResNet', depth=50, out_indices=(0, 1, 2, 3), norm_cfg=dict(type='BN', requires_grad=True), norm_eval=True),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5, norm_cfg=None),
    train_cfg=dict(rpn=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.7))),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Normalize', **img_norm_cfg),
]
data = dict(samples_per_gpu=2, train=dict(type=dataset_type, pipeline=train_pipeline), val=dict(pipeline=train_pipeline))
workflow = [('train', 1)]
"""


def options(*words: str) -> list[str]:
    import argparse

    return parse_config_arguments(argparse.ArgumentParser(), ["config.py", *words]).overrides


@promise("you may run `python tools/misc/print_config.py /PATH/TO/CONFIG` to see the complete config")
def the_config_is_printed(place):
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path(str(ROOT / "scripts/print_config.py"))["main"]([str(place.file(BASE))])
    assert 'cfg.model.backbone.type = "ResNet"' in said.getvalue()


@promise("`--cfg-options model.backbone.norm_eval=False` changes ...: update config keys of dict chains")
def dict_chains(place):
    assert (
        place.load(BASE, *options("--cfg-options", "model.backbone.norm_eval=False")).model.backbone.norm_eval is False
    )


@promise("`--cfg-options data.train.pipeline.0.type=LoadImageFromWebcam`: update keys inside a list of configs")
def keys_inside_a_list(place):
    cfg = place.load(BASE, *options("--cfg-options", "data.train.pipeline.0.type=LoadImageFromWebcam"))
    assert cfg.data.train.pipeline[0].type == "LoadImageFromWebcam"


@promise('`--cfg-options workflow="[(train,1),(val,1)]"`: update values of list/tuples')
def lists_of_tuples(place):
    cfg = place.load(BASE, *options("--cfg-options", "workflow=[(train,1),(val,1)]"))
    assert to_native(cfg.workflow) == [("train", 1), ("val", 1)]


@promise("NO white space is allowed inside the quotation marks in the specified value")
def white_space_does_no_harm(place):
    assert to_native(place.load(BASE, "workflow=[(train, 1), (val, 1)]").workflow) == [("train", 1), ("val", 1)]


@promise("user may first inherit the basic structure by specifying `_base_ = ...`, then modify the necessary fields")
def base_is_inherited(place):
    cfg = place.load("_base_ = './base.py'\nmodel = dict(backbone=dict(depth=101))\n", base=BASE)
    assert (cfg.model.backbone.depth, cfg.model.backbone.type, cfg.model.neck.num_outs) == (101, "ResNet", 5)


@promise("`_base_ = ../faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py`: a file in another folder")
def base_in_another_folder(place):
    path = place.file("_base_ = '../other/base.py'\n", "mine/x.py")
    place.file(BASE, "other/base.py")
    from rec.config import LazyConfig

    assert LazyConfig.load(path).model.neck.type == "FPN"


@promise("the maximum of inheritance level is 3")
def three_levels(place):
    others = {"base": BASE, "two": "_base_ = 'base.py'\nmodel = dict(neck=dict(num_outs=6))\n"}
    cfg = place.load("_base_ = ['two.py']\nmodel = dict(backbone=dict(depth=18))\n", **others)
    assert (cfg.model.neck.num_outs, cfg.model.backbone.depth, cfg.model.neck.out_channels) == (6, 18, 256)


@promise("The `train_cfg` and `test_cfg` are deprecated in config file, please specify them in the model config")
def train_cfg_is_told(place):
    assert place.load(BASE).model.train_cfg.rpn.assigner.pos_iou_thr == 0.7
    assert "use train.epochs" in place.refused(
        "train_cfg = dict(max_epochs=12)"
    ) and "use train.evaluation" in place.refused("test_cfg = dict()")


@promise("An Example of Mask R-CNN: the config of model, data, evaluation, optimizer, runner, hooks", "registries")
def names_are_told_one_by_one(place):
    theirs = {
        "data": "use dataset", "evaluation": "use train.evaluation", "optimizer": "use optim",
        "optimizer_config": "train.clip_grad_norm", "lr_config": "train.scheduler", "runner": "train.epochs",
        "checkpoint_config": "train.save_period", "log_config": "train.log_period", "dist_params": "launch profile",
        "log_level": "drop it", "load_from": "train.load_weight", "resume_from": "train.resume_path",
        "workflow": "train.evaluation.enabled", "work_dir": "train.output_dir",
    }  # fmt: skip
    said = place.refused(
        "".join(f"{name} = dict()\n" for name in theirs)
        + "model = dict(type='MaskRCNN', backbone=dict(type='ResNet'))\n"
    )
    for name, instead in theirs.items():
        assert f"cfg.{name}: `{name}` is " in said and instead in said, name
    assert "write LazyCall(MaskRCNN)(...)" in said and "write LazyCall(ResNet)(...)" in said


for _path, _value in (
    ("model.type", "MaskRCNN"), ("model.backbone.out_indices", (0, 1, 2, 3)), ("model.backbone.norm_cfg.requires_grad", True),
    ("model.neck.in_channels", [256, 512, 1024, 2048]), ("data.samples_per_gpu", 2), ("workflow", [("train", 1)]),
    ("dataset_type", "CocoDataset"), ("img_norm_cfg.to_rgb", True),
):  # fmt: skip

    def _read(place, path=_path, value=_value):
        from rec.config import try_get_key

        assert to_native({"x": try_get_key(place.load(BASE), path)})["x"] == value

    promise(f"An Example of Mask R-CNN, read as a config: {_path}")(_read)


@promise("The `_delete_=True` would replace all old keys in `backbone` field with new keys.")
def delete_replaces(place):
    text = """
    _base_ = 'base.py'
    model = dict(
        pretrained='open-mmlab://msra/hrnetv2_w32',
        backbone=dict(_delete_=True, type='HRNet', extra=dict(stage1=dict(num_modules=1, num_blocks=(4, )))))
    """
    cfg = place.load(text, base=BASE)
    assert to_native(cfg.model.backbone) == {
        "type": "HRNet",
        "extra": {"stage1": {"num_modules": 1, "num_blocks": (4,)}},
    }
    assert cfg.model.pretrained.startswith("open-mmlab") and cfg.model.neck.type == "FPN"


@promise("user need to pass the intermediate variables into corresponding fields again")
def intermediate_variables(place):
    text = "_base_ = 'base.py'\ntrain_pipeline = [dict(type='Pad', size_divisor=32)]\n"
    assert len(place.load(text, base=BASE).data.train.pipeline) == 2
    cfg = place.load(text + "data = dict(train=dict(pipeline=train_pipeline))\n", base=BASE)
    assert (
        to_native(cfg.data.train.pipeline) == [{"type": "Pad", "size_divisor": 32}] and len(cfg.data.val.pipeline) == 2
    )


@promise("Some intermediate variables are used in the configs files: no warning about what the file itself reads")
def variables_of_the_file_are_no_mistake(place):
    assert "size" not in place.run(
        "size = 32\nscales = [[size, size]]\ntrain.multi_scale_training.img_scales = scales\n"
    )
    assert "cfg.size: nothing reads this" in place.refused("size = 32\n")


@promise("to switch from `SyncBN` to `BN`, we need to substitute every `norm_cfg` in the config")
def norm_cfg_is_substituted(place):
    text = "_base_ = 'base.py'\nnorm_cfg = dict(type='SyncBN', requires_grad=True)\n"
    text += "model = dict(backbone=dict(norm_cfg=norm_cfg), neck=dict(norm_cfg=norm_cfg))\n"
    said = raised(TypeError, place.load, text.replace("backbone=dict(norm_cfg", "pretrained=dict(norm_cfg"), base=BASE)
    assert "_delete_=True" in said
    cfg = place.load(text, base=BASE)
    assert cfg.model.backbone.norm_cfg.type == cfg.model.neck.norm_cfg.type == "SyncBN"


@promise("dict(type='Normalize', **img_norm_cfg): keys of img_norm_cfg are used here as arguments")
def double_star(place):
    assert place.load(BASE).data.train.pipeline[1].std[0] == 58.395
