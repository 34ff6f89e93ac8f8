"""Weights of the original code load by name, whole or not at all, and files that are something else are refused."""

import json
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from parity import batch_of, expected, original_state
from safetensors.torch import load_file, save_file
from small import backbone, simrec
from test_mcn_parity import build as build_mcn
from test_simrec_parity import build as build_simrec
from torch import nn

from rec.config import apply_overrides
from rec.files import default_mode
from rec.models.backbones import CspDarkNet, DarkNet53
from rec.models.original_weights import convert_state_dict, load_original, our_name, read_state_dict

BUILD = {"simrec": build_simrec, "mcn": build_mcn}
UNREAD = {
    "simrec": {"multi_scale_manner.bot_proj", "multi_scale_manner.mid_proj", "attention_manner.w_m"},
    "mcn": {"multi_scale_manner.mid_proj", "det_garan.w_m", "seg_garan.w_m"},
}


@pytest.fixture
def convert(call_script):
    return partial(call_script, "convert_weights")


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Path:
    """An annotation file in SimREC's format whose vocabulary has the fixtures' 50 entries."""
    words = [f"word{number}" for number in range(47)]
    splits = {"train": [{"refs": [" ".join(words[:20]), "word1"]}], "val": [{"refs": [" ".join(words[15:])]}]}
    path = tmp_path_factory.mktemp("annotations") / "refcoco.json"
    path.write_text(json.dumps(splits), encoding="utf-8")
    return path


def checkpoint(kind: str, path: Path) -> Path:
    """The fixture's weights as the original code saves them, from a distributed run."""
    state = {f"module.{name}": tensor for name, tensor in original_state(kind).items()}
    content = {"epoch": 24, "state_dict": state, "optimizer": {}, "scheduler": {}, "lr": np.float64(1e-6)}
    torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", BUILD)
def test_names_map_one_to_one_and_only_what_nobody_reads_is_dropped(kind: str) -> None:
    original = original_state(kind)
    with torch.device("meta"):
        model = BUILD[kind]()
    assert len({our_name(name) for name in original}) == len(original)
    state, report = convert_state_dict(original, model)
    assert set(state) == set(model.state_dict())
    assert {".".join(name.split(".")[:2]) for name in report.dropped} == UNREAD[kind]
    assert report.complete


@pytest.mark.parametrize("kind", BUILD)
def test_a_published_checkpoint_becomes_a_model_folder_that_gives_its_numbers(
    kind: str, convert, annotations, tmp_path
) -> None:
    from rec.model_folder.reader import read

    weights = checkpoint(kind, tmp_path / "model.pth")
    status, said, _ = convert(weights, "--annotations", annotations, "--out", tmp_path / "folder")
    assert status == 0 and "tensors matched" in said and "dropped" in said
    model, config, vocabulary = read(tmp_path / "folder")
    assert len(vocabulary) == 50 and vocabulary.encode("word0 word46", 15)[:2] == [3, 49]
    case = {"simrec": "eval_256_v29", "mcn": "mcn_eval_256"}[kind]
    batch = batch_of(case, 256, 2, torch.float32)
    with torch.no_grad():
        prediction = model.eval()(batch)
    want = expected(kind)[1][f"{case}/box_xyxy_score"]
    assert np.abs(prediction["box"].numpy() - want[:, :4]).max() < 1e-4 * 256
    assert config["preprocess"]["input_shape"] == [416, 416]


def test_another_annotation_file_is_refused_with_both_sizes(convert, tmp_path) -> None:
    weights = checkpoint("simrec", tmp_path / "model.pth")
    (tmp_path / "other.json").write_text(json.dumps({"train": [{"refs": ["a dog"]}]}), encoding="utf-8")
    status, _, error = convert(weights, "--annotations", tmp_path / "other.json", "--out", tmp_path / "folder")
    error = " ".join(error.split())
    assert status == 2 and "vocabulary of 5 words" in error and "trained with 50" in error
    assert not (tmp_path / "folder").exists()
    status, _, error = convert(weights, "--out", tmp_path / "folder")
    assert status == 2 and "--annotations" in error


def test_weights_that_only_partly_fit_are_never_loaded() -> None:
    model = simrec()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = dict(before)
    state.pop("head.box.bias")
    state["head.objectness.weight"] = torch.zeros(7, 7)
    state["head.cls_preds.0.weight"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        load_original(model, state, "file.pth")
    text = str(error.value)
    assert "file.pth" in text and "SimREC" in text
    assert "1 missing from the file: head.box.bias" in text
    assert "1 not expected by the model: head.cls_preds.0.weight" in text
    assert "head.objectness.weight: found (7, 7), expected (1, 32, 1, 1)" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.zeros(1)}, "args": Harmful()}, "Python objects.*can run code"),
        ({"epoch": 1}, "holds no tensors.*'state_dict' or 'model'; found epoch"),
        ({"conv.weight": torch.ones(2, dtype=torch.int8)}, "conv.weight is torch.int8, quantised"),
        ([1, 2], "holds no tensors"),
    ],
)
def test_a_pth_that_holds_something_else_is_refused(content, message: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "model.pth")
    with pytest.raises(ValueError, match=f"model.pth {message}|{message}"):
        read_state_dict("model.pth")
    assert not Path("harmed").exists()


def test_quantised_weights_are_refused_in_safetensors_too(tmp_path) -> None:
    save_file({"conv.weight": torch.ones(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: conv\.weight is torch\.int8, quantised"):
        read_state_dict(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_damaged_or_absent_file_is_named(name: str, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        read_state_dict(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x50\x4b not what it says")
    with pytest.raises(ValueError, match=f"{name} is not a complete|{name} holds Python objects"):
        read_state_dict(tmp_path / name)


def as_original_backbone(kind: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("visual_encoder."): tensor
        for name, tensor in original_state(kind).items()
        if name.startswith("visual_encoder.")
    }


@pytest.mark.parametrize("wrapped", [False, True])
def test_cspdarknet_coco_weights_load_with_their_detection_head_left_out(wrapped: bool, convert, tmp_path) -> None:
    state = as_original_backbone("simrec") | {"model.24.anchors": torch.zeros(3)}
    torch.save({"model": {f"module.{n}": t for n, t in state.items()}} if wrapped else state, tmp_path / "csp.pth")
    model = CspDarkNet(pretrained=True, pretrained_weight_path=str(tmp_path / "csp.pth"))
    assert torch.equal(model.stages[9].merge.conv.weight, state["model.9.cv2.conv.weight"])
    status, said, _ = convert(tmp_path / "csp.pth", "--out", tmp_path / "csp.safetensors")
    assert status == 0 and "CspDarkNet" in said
    again = CspDarkNet(pretrained=True, pretrained_weight_path=str(tmp_path / "csp.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


def test_the_weights_that_are_read_stay_and_those_that_are_written_are_for_all(convert, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / "my [1] weights"
    place.mkdir()
    weights = place / "model.safetensors"
    save_file(as_original_backbone("simrec"), weights)
    before = weights.read_bytes()
    for out in (weights, place, tmp_path / "." / "my [1] weights" / "model.safetensors"):
        status, _, error = convert(weights, "--out", out)
        assert status == 2 and "which is read" in " ".join(error.split()) and weights.read_bytes() == before
    status, said, error = convert(weights, "--out", "~/my [1] weights/ours.safetensors")
    assert status == 0, error
    made = place / "ours.safetensors"
    assert made.stat().st_mode & 0o777 == default_mode()
    override = shlex.split(said.splitlines()[-1])[0]
    cfg = DictConfig({"model": {"visual_backbone": {"pretrained_weight_path": None}}})
    assert apply_overrides(cfg, [override]).model.visual_backbone.pretrained_weight_path == str(made)


def test_backbone_weights_of_another_architecture_are_refused_with_what_was_found(tmp_path) -> None:
    torch.save(as_original_backbone("mcn"), tmp_path / "darknet.pth")
    with pytest.raises(ValueError, match=r"darknet.pth does not hold the weights of this CspDarkNet.*module_list"):
        CspDarkNet(pretrained=True, pretrained_weight_path=str(tmp_path / "darknet.pth"))
    torch.save(as_original_backbone("simrec"), tmp_path / "large.pth")
    with pytest.raises(ValueError, match=r"found \(64, 3, 6, 6\), expected \(8, 3, 6, 6\)"):
        backbone(pretrained=True, pretrained_weight_path=str(tmp_path / "large.pth"))
    with pytest.raises(ValueError, match="pretrained_weight_path"):
        CspDarkNet(pretrained=True)


def darknet_file(path: Path, blocks: int, extra: int = 0, cut: int = 0) -> dict[str, torch.Tensor]:
    """Writes the first convolutions of the fixture's DarkNet53 in Darknet's format; gives their tensors."""
    state = as_original_backbone("mcn")
    names = [name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")][:blocks]
    order = ("batch_norm.bias", "batch_norm.weight", "batch_norm.running_mean", "batch_norm.running_var", "conv.weight")
    values = [state[f"{name}.{part}"].numpy().ravel() for name in names for part in order]
    content = np.array([0, 2, 0, 32013312, 0], "<i4").tobytes() + np.concatenate(values).astype("<f4").tobytes()
    path.write_bytes(content[: len(content) - cut] + b"\0" * 4 * extra)
    return {f"{name}.{part}": state[f"{name}.{part}"] for name in names for part in order}


def test_darknets_binary_file_loads_in_its_order_and_the_rest_of_the_file_is_left(convert, tmp_path) -> None:
    written = darknet_file(tmp_path / "yolov3.weights", 58, extra=1000)
    status, said, _ = convert(tmp_path / "yolov3.weights", "--out", tmp_path / "darknet53.safetensors")
    assert status == 0 and "DarkNet53" in said
    loaded = load_file(tmp_path / "darknet53.safetensors")
    for name, tensor in written.items():
        assert torch.equal(loaded[our_name(f"visual_encoder.{name}").removeprefix("visual_backbone.")], tensor), name


def test_a_darknet_file_of_the_trunk_alone_leaves_the_neck_trainable(convert, tmp_path, caplog) -> None:
    darknet_file(tmp_path / "darknet53.conv.74", 52)
    path = str(tmp_path / "darknet53.conv.74")
    model = DarkNet53(pretrained=True, pretrained_weight_path=path, freeze_backbone=True)
    assert model.frozen_stages == 11 and all(p.requires_grad for p in model.stages[11].parameters())
    assert "random weights" in caplog.text
    status, _, error = convert(path, "--out", tmp_path / "converted.safetensors")
    error = " ".join(error.split())
    assert status == 2 and "holds the trunk alone" in error and f"pretrained_weight_path={path}" in error
    assert not (tmp_path / "converted.safetensors").exists()


def test_a_darknet_file_cut_short_is_refused_naming_where(tmp_path) -> None:
    darknet_file(tmp_path / "yolov3.weights", 30, cut=10)
    with pytest.raises(ValueError, match=r"yolov3.weights is cut short: stages\.8\.\d.*needs values"):
        DarkNet53(pretrained=True, pretrained_weight_path=str(tmp_path / "yolov3.weights"))
    (tmp_path / "yolov3.weights").write_bytes(b"123")
    with pytest.raises(ValueError, match="3 bytes"):
        DarkNet53(pretrained=True, pretrained_weight_path=str(tmp_path / "yolov3.weights"))


def test_a_file_of_another_program_is_refused_with_what_was_found(convert, tmp_path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    status, _, error = convert(tmp_path / "linear.pth", "--out", tmp_path / "folder")
    assert status == 2 and "linear.pth" in error and "weight, bias" in error
    assert "TimmBackbone reads it as it is" in " ".join(error.split())
