"""Models, weights and data that do not fit each other end ``scripts/train.py`` with one paragraph: expected, found, remedy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rec.data import scenes

NARROW = (
    "model.visual_backbone.width=0.125",
    "model.visual_backbone.depth=0.33",
    "model.visual_backbone.pretrained=false",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Objects of a few scenes as JSONL, without masks, and weight files that are wrong in one way each."""
    made = tmp_path_factory.mktemp("bad")
    lines = []
    for row in scenes.generate_rows(0, 2, size=64):
        (made / row["image"]["path"]).write_bytes(row["image"]["bytes"])
        lines.append({"image": row["image"]["path"], "phrase": row["sentences"], "bbox": row["bbox"]})
    (made / "few.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    torch.save({"state_dict": {}, "config": Path("x")}, made / "objects.pth")
    torch.save(torch.nn.Linear(2, 3).state_dict(), made / "linear.pth")
    (made / "cut.weights").write_bytes(np.array([0, 2, 0, 0, 0], "<i4").tobytes() + bytes(4 * 5000))
    return made


@pytest.fixture
def train(folder, train_here):
    """Two updates on the objects of ``folder``, which stands for FOLDER in overrides."""

    def run(config: str, *overrides: str) -> tuple[int, str]:
        data = ("dataset.dataset=few", f"+dataset.ann_path.few={{path: {folder / 'few.jsonl'}, bbox_format: xywh}}")
        return train_here(config, *data, *(word.replace("FOLDER", str(folder)) for word in overrides))

    return run


@pytest.mark.parametrize(
    ("config", "overrides", "named"),
    [
        (
            "simrec_refcoco_scratch",
            (*NARROW, "model.visual_backbone.out_strides=[8,16]"),
            ("3 fusions", "2 maps (strides (8, 16))"),
        ),
        ("simrec_refcoco_scratch", NARROW, ("(32, 64, 128) channels", "v_planes are (256, 512, 1024)")),
        (
            "simrec_small_scenes_quickstart",
            ("dataset.input_shape=[72,72]",),
            ("72x72 pixels", "multiples of", "dataset.input_shape"),
        ),
        ("simrec_small_scenes_mask", ("dataset.with_masks=false",), ("no mask", "dataset.with_masks=true")),
        ("mcn_small_scenes", ("dataset.with_masks=false",), ("no mask", "dataset.with_masks=true")),
        ("simrec_small_scenes_mask", ("dataset.with_masks=true",), ("have no mask", "--generate_mask")),
        (
            "simrec_refcoco_scratch",
            ("model.visual_backbone.pretrained_weight_path=FOLDER/objects.pth",),
            ("objects.pth holds Python objects", "Save its state_dict alone"),
        ),
        (
            "simrec_refcoco_scratch",
            ("model.visual_backbone.pretrained_weight_path=FOLDER/linear.pth",),
            ("linear.pth does not hold the weights of this CspDarkNet", "missing", "weight, bias"),
        ),
        (
            "mcn_refcoco_scratch",
            ("model.visual_backbone.pretrained_weight_path=FOLDER/cut.weights", "dataset.with_masks=false"),
            ("cut.weights is cut short", "the file has 5000", "Expected darknet53.conv.74 or yolov3.weights"),
        ),
        (
            "simrec_refcoco_scratch",
            ("model.visual_backbone.pretrained_weight_path=FOLDER/absent.pth",),
            ("absent.pth", "docs/weights.md", "model.visual_backbone.pretrained=false"),
        ),
        (
            "simrec_small_scenes_quickstart",
            ("train.load_weight=FOLDER/linear.pth",),
            ("train.load_weight", "linear.pth is a file of PyTorch's", "scripts/convert_weights.py"),
        ),
        (
            "simrec_small_scenes_quickstart",
            ("train.vl_pretrain_weight=FOLDER/absent.ckpt",),
            ("absent.ckpt is a file of PyTorch's", "scripts/convert_weights.py"),
        ),
        (
            "simrec_small_scenes_quickstart",
            ("train.resume_path=FOLDER/linear.pth",),
            ("train.resume_path", "scripts/convert_weights.py"),
        ),
        (
            "simrec_small_scenes_quickstart",
            ("dataset.use_glove=true", "dataset.word_vectors=no_such_pipeline"),
            ("python -m spacy download no_such_pipeline", "dataset.use_glove=false"),
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_the_remedy(train, config, overrides, named):
    status, error = train(config, *overrides)
    assert status == 2 and "Traceback" not in error
    assert all(part in error for part in named), error


def test_a_safetensors_file_starts_a_run(train, folder, tmp_path):
    file = tmp_path / "first.safetensors"
    assert train("simrec_small_scenes_quickstart")[0] == 0
    (newest,) = (tmp_path / "run" / "checkpoints").glob("step_*")
    (newest / "model.safetensors").rename(file)
    (tmp_path / "run").rename(tmp_path / "first")
    status, error = train("simrec_small_scenes_quickstart", f"train.load_weight={file}")
    assert status == 0, error
    assert f"tensors from {file}" in (tmp_path / "run" / "train.log").read_text(encoding="utf-8")


def test_a_run_goes_on_when_the_weights_it_started_from_are_gone(train, tmp_path):
    file, run = tmp_path / "first.safetensors", tmp_path / "run"
    assert train("simrec_small_scenes_quickstart")[0] == 0
    (newest,) = (run / "checkpoints").glob("step_*")
    (newest / "model.safetensors").rename(file)
    run.rename(tmp_path / "first")
    assert train("simrec_small_scenes_quickstart", f"train.load_weight={file}")[0] == 0
    file.unlink()
    (run / ".lock").unlink()  # this process holds it
    status, error = train("simrec_small_scenes_quickstart", f"train.load_weight={file}")
    assert status == 0, error
    assert "continuing from" in (run / "train.log").read_text(encoding="utf-8")


def test_nothing_may_be_null_and_a_schedule_may_answer_with_a_number_of_any_kind(train, tmp_path):
    nothing = (
        f"train.{key}=null" for key in ("trackers", "freeze_schedule", "load_weight", "resume_path", "hub.repo_id")
    )
    own = "train.scheduler={_delete_: true, _target_: numpy.float32, _partial_: true}"  # the update's number
    status, error = train("simrec_small_scenes_quickstart", *nothing, own, "train.log_period=1")
    assert status == 0, error
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert [line["lr"] for line in lines if line["kind"] == "train"] == [0, 0.003]
