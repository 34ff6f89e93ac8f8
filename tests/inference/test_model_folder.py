"""Model folders: what is written can be used with nothing else, is whole at every moment, and is reproducible."""

import ast
import json
import os
import re
import resource
import shlex
import shutil
import threading
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from inference_toy import SIZE, VOCABULARY, WithTables, folder_config, model_node, new_model, write_folder
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from rec import model_folder
from rec.config import LazyCall, instantiate, to_native
from rec.errors import CheckpointError
from rec.model_folder.find import find_folder, find_trained
from rec.model_folder.format import ModelFolderError
from rec.models.backbones import TimmBackbone
from rec.training.weights import find_weights, load_matching

FILES = {"model.safetensors", "config.yaml", "vocab.json", "README.md", "digests.json"}


def test_a_written_folder_gives_back_the_same_model(tmp_path):
    folder = write_folder(tmp_path / "best")
    model, config, vocabulary = model_folder.read(folder)
    batch = {
        "image": torch.rand(2, 3, SIZE, SIZE),
        "tokens": torch.tensor([VOCABULARY.encode("the red circle", 6)] * 2),
    }
    with torch.inference_mode():
        found, expected = model(batch), new_model()(batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert vocabulary == VOCABULARY and config["preprocess"]["input_shape"] == [SIZE, SIZE]
    assert not model.training and next(model.parameters()).device.type == "cpu"


def test_a_model_that_comes_with_the_project_goes_by_its_name(tmp_path, monkeypatch):
    package = tmp_path / "refexp_toy_small"  # as if it were installed
    write_folder(package)
    (package / "__init__.py").write_text("raise SystemExit('it was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_folder("toy-small") == package == find_trained("toy-small").folder == find_weights("toy-small")
    (tmp_path / "toy-small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_folder("toy-small") == Path("toy-small")  # an existing folder wins
    with pytest.raises(ModelFolderError, match=r"pip install \./models/photo-small"):
        find_folder("toy-smaller")
    shutil.move(package, tmp_path / "toy-small")  # the folder it is installed from
    inside = Path("toy-small") / package.name
    assert find_folder("toy-small") == inside == find_trained("./toy-small").folder == find_weights("toy-small")


def test_photo_smalls_distribution_brings_the_licence_of_the_weights_it_is_made_of():
    place = Path(__file__).parents[2] / "models" / "photo-small"
    project = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [(place / name).read_text(encoding="utf-8") for name in project["license-files"]]
    assert any("Apache License" in text and "4. Redistribution." in text for text in texts)


def test_read_parameters_can_be_trained_on(tmp_path):
    model, _, _ = model_folder.read(write_folder(tmp_path / "best"))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_folder_names_no_path_of_this_machine_and_fetches_nothing(tmp_path):
    text = (write_folder(tmp_path / "best") / "config.yaml").read_text(encoding="utf-8")
    assert "secret.pth" not in text and yaml.safe_load(text)["model"]["visual_backbone"]["pretrained"] is False


def test_writing_twice_gives_the_same_bytes(tmp_path):
    first, second = write_folder(tmp_path / "a" / "best"), write_folder(tmp_path / "b" / "best")
    for name in FILES:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (
            "model.safetensors",
            lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        ),  # one bit of one number
        ("config.yaml", lambda content: content.replace(b"samples: 8", b"samples: 9")),
        ("vocab.json", lambda content: content.replace(b"circle", b"cirkle")),
    ],
)
def test_a_file_that_is_not_the_one_written_is_named_and_taken_without_the_digests(name, damage, tmp_path):
    folder = write_folder(tmp_path / "best")
    (folder / "README.md").write_text("my own card", encoding="utf-8")
    model_folder.read(folder)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    expected = json.loads((folder / "digests.json").read_text(encoding="utf-8"))[name]
    with pytest.raises(ModelFolderError) as caught:
        model_folder.read(folder)
    assert all(
        part in str(caught.value) for part in (f"{folder / name} is not", expected, "copy or download", "delete")
    )
    with pytest.raises(CheckpointError, match=f"{name} is not the file"):
        load_matching(new_model(), folder, VOCABULARY.words)
    (folder / "digests.json").unlink()  # as in a folder of version 0.1, or of somebody who edited it on purpose
    model_folder.read(folder)


def test_a_weights_file_is_hard_linked(tmp_path):
    checkpoint = tmp_path / "ema.safetensors"
    save_file(new_model().state_dict(), checkpoint)
    model_folder.write(tmp_path / "best", checkpoint, folder_config(), VOCABULARY)
    assert os.stat(tmp_path / "best" / "model.safetensors").st_ino == checkpoint.stat().st_ino
    model_folder.read(tmp_path / "best")


def test_readers_see_a_whole_folder_while_it_is_replaced(tmp_path):
    folder, trouble, stop = tmp_path / "best", [], threading.Event()
    (tmp_path / ".best.killed.tmp").mkdir()
    write_folder(folder)

    def look():
        while not stop.is_set():
            listed = os.stat(folder).st_ino
            names = set(os.listdir(folder))
            # A listing goes on in the folder that it began in, also while that is removed.
            if names != FILES and listed == os.stat(folder).st_ino:
                trouble.append(names)

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(5):
        write_folder(folder)
    stop.set()
    watcher.join()
    assert not trouble and os.listdir(tmp_path) == ["best"], "and nothing temporary stays"


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_bytes(b"photo")
    with pytest.raises(ModelFolderError, match="not a model folder"):
        write_folder(tmp_path / "holiday")
    assert os.listdir(tmp_path / "holiday") == ["photo.jpg"]


def test_a_place_that_cannot_be_written_is_one_clear_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelFolderError, match="cannot be written"):
        write_folder(tmp_path / "file" / "best")
    with pytest.raises(ModelFolderError, match="cannot be written"):
        model_folder.write(tmp_path / "best", tmp_path / "absent.safetensors", folder_config(), VOCABULARY)
    assert os.listdir(tmp_path) == ["file"]


def test_files_are_for_whom_the_umask_lets_and_an_older_folder_keeps_its_mode(tmp_path):
    def modes(folder):
        return {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}, oct(folder.stat().st_mode & 0o777)

    before = os.umask(0o002)
    try:
        assert modes(write_folder(tmp_path / "best")) == ({"0o664"}, "0o775")
        (tmp_path / "best").chmod(0o750)
        assert modes(write_folder(tmp_path / "best")) == ({"0o664"}, "0o750")
    finally:
        os.umask(before)


def test_a_full_disk_is_one_clear_error_and_the_older_folder_stays(tmp_path):
    folder = write_folder(tmp_path / "best")
    before = (folder / "model.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(ModelFolderError, match=r"cannot be written: .*free space"):
            write_folder(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "model.safetensors").read_bytes() == before and os.listdir(tmp_path) == ["best"]


@pytest.mark.parametrize("name", ["p[1]", "my best's $HOME", 'a"b', "größer\u00a0大", "x" * 250])
def test_a_folder_may_be_called_anything_in_utf8(tmp_path, name):
    left_over = tmp_path / f".{name[:40]}.killed.tmp"
    left_over.mkdir()
    folder = write_folder(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    model_folder.read(folder)
    with pytest.raises(ModelFolderError, match="not UTF-8"):
        write_folder(tmp_path / os.fsdecode(b"caf\xe9") / name)
    card = (folder / "README.md").read_text(encoding="utf-8")
    command = next(line for line in card.splitlines() if line.startswith("rec predict"))
    code = next(line for line in card.splitlines() if line.startswith("grounder = "))
    shown = name.encode("utf-8", "replace").decode()
    assert shlex.split(command)[2] == shown
    assert (
        ast.literal_eval(re.search(r"from_pretrained\((.*)\)  #", code)[1]).encode("utf-8", "replace").decode() == shown
    )


def test_the_card_states_origin_and_measured_metrics(tmp_path):
    card = (write_folder(tmp_path / "best") / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["model-index"][0]["results"][0]["metrics"] == [{"type": "Acc@0.5", "value": 0.75}]
    assert "drawn shapes only" in card and "| val | 0.7500 |" in card and "rec.from_pretrained" in card


def test_origin_is_one_printable_line():
    line = model_folder.describe_origin({"about": {"sources": ["scenes\x1b[31m\nrm"], "samples": 3, "split": "train"}})
    assert line.isprintable() and "shapes only" in line
    photos = {"about": {"dataset": "refcoco", "sources": ["refcoco"]}}
    assert "shapes" not in model_folder.describe_origin(photos)


def test_the_config_comes_from_a_run_with_interpolations_resolved():
    class Rows:
        sources, max_token_length = ("refcoco",), 9

        def __len__(self):
            return 42

    cfg = OmegaConf.create(
        {
            "model": {"_target_": "torch.nn.Identity", "a": "${dataset.dataset}"},
            "dataset": {"dataset": "refcoco", "input_shape": [96, 96], "max_token_length": -1, "split": "train"},
            "train": {"data": {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}},
        }
    )
    config = model_folder.from_run(cfg, Rows(), update=7)
    assert config["model"]["a"] == "refcoco"
    assert config["preprocess"] == {
        "input_shape": [96, 96], "mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], "max_token_length": 9
    }  # fmt: skip
    assert config["about"] | {"rec_version": ""} == {
        "dataset": "refcoco", "split": "train", "sources": ["refcoco"], "samples": 42, "updates": 7, "rec_version": ""
    }  # fmt: skip


@pytest.mark.parametrize("start", ["photo-small", "models/photo-small", "/home/me/photo-small/best"])
def test_a_model_that_started_from_anothers_weights_says_so_and_claims_no_licence(start, tmp_path):
    cfg = OmegaConf.create(
        {
            "model": to_native(model_node()),
            "dataset": {"dataset": "mine", "input_shape": [64, 64], "max_token_length": 6},
            "train": {"data": {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]}, "load_weight": start},
        }
    )
    config = model_folder.from_run(cfg, [0] * 42, update=7)
    assert model_folder.describe_origin(config) == "trained on mine (train, 42 samples), started from photo-small"
    folder = model_folder.write(tmp_path / "best", new_model().state_dict(), config, VOCABULARY)
    assert "license: other" in (folder / "README.md").read_text(encoding="utf-8")
    cfg.train.load_weight = ""
    assert "licence" not in model_folder.from_run(cfg, [0] * 42)["about"]


def test_half_precision_files_are_read_as_the_models_own_type(tmp_path):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in new_model().state_dict().items()}
    model, _, _ = model_folder.read(model_folder.write(tmp_path / "best", halves, folder_config(), VOCABULARY))
    assert next(model.parameters()).dtype == torch.float32


def test_tensors_that_the_file_does_not_hold_are_computed(tmp_path):
    config = folder_config() | {"model": {"_target_": "inference_toy.WithTables", "rows": 3}}
    model_folder.write(tmp_path / "best", WithTables(3).state_dict(), config, None)
    model, _, _ = model_folder.read(tmp_path / "best", trust_config=True)
    assert model.table.tolist() == [0, 1, 2] and model.plain.tolist() == [1.0, 1.0, 1.0]
    change = (tmp_path / "best" / "config.yaml").read_text(encoding="utf-8").replace("rows: 3", f"rows: {10**9}")
    (tmp_path / "best" / "config.yaml").write_text(change, encoding="utf-8")
    with pytest.raises(ModelFolderError, match="tables"):
        model_folder.read(tmp_path / "best", trust_config=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "vocab.json"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = write_folder(tmp_path / "best")
    (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=name):
        model_folder.read(folder)


def test_weights_of_another_model_are_refused_with_examples(tmp_path):
    folder = write_folder(tmp_path / "best")
    weights = load_file(folder / "model.safetensors")
    weights["stranger"] = weights.pop("head.box.weight")
    weights["head.box.bias"] = torch.zeros(9)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"missing, such as head.box.weight.*stranger.*\(9,\) instead of \(4,\)"):
        model_folder.read(folder)


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    folder = write_folder(tmp_path / "best")
    content = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    content["words"].append("extra")
    (folder / "vocab.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelFolderError, match="token_size"):
        model_folder.read(folder)


def test_the_live_lazy_call_and_the_read_config_describe_the_same_model(tmp_path):
    _, config, _ = model_folder.read(write_folder(tmp_path / "best"))
    assert config["model"]["head"]["_target_"] == "rec.models.heads.REChead"
    assert set(config["model"]) == set(model_node())


@pytest.mark.parametrize(("name", "sizes"), [("test_maxvit", (160, 320)), ("test_coatnet", (160,))])
def test_a_model_that_takes_no_small_image_is_tried_on_one_that_it_was_made_for(tmp_path, name, sizes):
    node = model_node()
    node.visual_backbone = LazyCall(TimmBackbone)(model_name=name)
    for planes, fusion in zip((64, 96, 128), node.fusion_manner.modules, strict=True):
        fusion.v_planes = planes
    for size in sizes:
        config = folder_config() | {"model": node}
        config["preprocess"]["input_shape"] = [size, size]
        folder = model_folder.write(tmp_path / "best", instantiate(node).state_dict(), config, VOCABULARY)
        assert model_folder.read(folder)[0].visual_backbone.model_name == name
    config["preprocess"]["input_shape"] = [96, 96]
    folder = model_folder.write(tmp_path / "best", instantiate(node).state_dict(), config, VOCABULARY)
    with pytest.raises(ModelFolderError, match=f"{name} does not take images of 32 x 32 pixels"):
        model_folder.read(folder)
