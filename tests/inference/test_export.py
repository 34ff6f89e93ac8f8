"""Exported files answer as PyTorch does, on any batch and (where free) any size, and need nothing beside them."""

import ast
import copy
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_toy import SENTENCES, SIZE, VOCABULARY, folder_config, new_model, write_folder, write_mcn_folder
from PIL import Image

import rec
from rec import boxes, files, model_folder
from rec.contracts import Answer
from rec.data.images import letterbox
from rec.inference import Grounder, export, quantize
from rec.inference.export import ExportError

onnxruntime = pytest.importorskip("onnxruntime", reason="the optional extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the optional extra 'export' is not installed")
onnx = pytest.importorskip("onnx")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def simrec(tmp_path_factory):
    """A SimREC folder and its ONNX file of free size."""
    place = tmp_path_factory.mktemp("export")
    folder = write_folder(place / "simrec")
    export.export(*model_folder.read(folder), place / "simrec.onnx", dynamic_size=True)
    return folder, place / "simrec.onnx"


@pytest.fixture
def run_script(call_script):
    return partial(call_script, "export")


def test_onnx_of_simrec_equals_pytorch_on_batches_and_sizes(simrec):
    folder, file = simrec
    model, config, _ = model_folder.read(folder)
    worst = export.compare(file, model, config)
    assert worst["box"] < 0.01 and worst["score"] < 1e-4


def test_the_file_says_what_it_needs(simrec):
    _, file = simrec
    about = export.load(file)[1]
    assert (
        about["input_size"] is None and about["max_token_length"] == 6 and about["words"][:3] == ["PAD", "UNK", "CLS"]
    )
    assert about["tokens"] == "int64" and about["tokenizer"] == "simrec" and "drawn shapes only" in about["origin"]
    session = onnxruntime.InferenceSession(str(file))
    assert [(i.name, i.type) for i in session.get_inputs()] == [("image", "tensor(uint8)"), ("tokens", "tensor(int64)")]


def test_a_model_of_any_number_of_objects_exports_its_candidates_and_its_threshold(tmp_path):
    model, config, vocabulary = model_folder.read(write_folder(tmp_path / "model"))
    config["answer"] = {"threshold": 0.3}  # the rest as wanted
    export.export(model, config, vocabulary, tmp_path / "model.pt2", kind="torch")
    run, about = export.load(tmp_path / "model.pt2")
    assert about["answer"] == {"threshold": 0.3, "suppress_iou": 0.5, "min_pixels": 0}
    image, tokens = export.example_inputs(SIZE, about["max_token_length"], len(about["words"]), 2)
    found = run(image.numpy(), tokens.numpy())
    assert found["candidate_boxes"].shape == (2, (SIZE // 32) ** 2, 4)
    best = found["candidate_scores"].argmax(1)
    assert np.allclose(found["candidate_boxes"][[0, 1], best], found["box"], atol=1e-3)
    assert np.allclose(found["candidate_scores"].max(1), found["score"], atol=1e-6)


def test_a_model_with_box_voting_exports_its_votes_for_any_batch_and_side(tmp_path):
    weights, config = new_model().state_dict(), folder_config() | {"answer": {"threshold": 0.4}}
    weights["head.objectness.weight"] *= 20
    weights["head.box.bias"][2:] += 1.5  # large enough that they overlap
    config["model"].head.box_voting = 0.5
    model_folder.write(tmp_path / "model", weights, config, VOCABULARY)
    model, config, vocabulary = model_folder.read(tmp_path / "model")
    export.export(model, config, vocabulary, tmp_path / "model.onnx", dynamic_size=True)
    run, about = export.load(tmp_path / "model.onnx")
    plain, pixels = copy.deepcopy(model), np.random.default_rng(0).integers(0, 255, (120, 200, 3), np.uint8)
    plain.head.box_voting = None
    voted = []
    for size in (64, 384):  # 4 cells, and more than have a vote
        config["preprocess"]["input_shape"] = [size, size]
        expected, unlike = (
            Grounder(one, config, vocabulary, device="cpu")(pixels, SENTENCES, top_k=3) for one in (model, plain)
        )
        geometry = boxes.letterbox_geometry(120, 200, size)
        square = letterbox(pixels, geometry, size)
        tokens = np.array([vocabulary.encode(phrase, about["max_token_length"]) for phrase in SENTENCES])
        images = np.stack([square] * 2)
        found = run(images, tokens)
        with torch.inference_mode():
            own = export.Deployed(model, config)(torch.from_numpy(images), torch.from_numpy(tokens))
        for row, (answer, other) in enumerate(zip(expected, unlike, strict=True)):
            every, scores = found["candidate_boxes"][row], found["candidate_scores"][row]
            sure = scores.argsort()[-50:]  # rounding may decide which is the last that has a vote
            assert np.allclose(every[sure], own["candidate_boxes"][row].numpy()[sure], atol=0.01)
            best = every[Answer(**about["answer"]).choose(every, scores)[0]]
            assert np.allclose(best, found["box"][row], atol=0.001)
            inside = boxes.from_letterbox(best, geometry).clip(0, [200, 120] * 2)
            assert (
                np.allclose(inside, answer.box, atol=0.01) and answer.boxes[0] == answer.candidates[0][0] == answer.box
            )
            voted.append(not np.allclose(answer.box, other.box, atol=0.5))
    assert any(voted)


def test_mcn_exports_with_its_mask_and_fixed_size(tmp_path, run_script):
    folder = write_mcn_folder(tmp_path / "mcn")
    status, said, error = run_script(folder, "--out", tmp_path / "mcn.onnx")
    assert status == 0 and "largest difference" in said, error
    model, config, _ = model_folder.read(folder)
    run, about = export.load(tmp_path / "mcn.onnx")
    image, tokens = export.example_inputs(SIZE, 6, 10, 3)
    found = run(image.numpy(), tokens.numpy())
    assert found["mask"].shape == (3, 1, SIZE, SIZE) and 0 <= found["mask"].min() <= found["mask"].max() <= 1
    assert about["input_size"] == SIZE and about["mask_threshold"] == 0.35
    with torch.inference_mode():
        expected = export.Deployed(model, config)(image, tokens)
    np.testing.assert_allclose(found["mask"], expected["mask"].numpy(), atol=1e-4)


def test_torch_export_answers_the_same_and_leaves_no_partial_file(tmp_path, run_script):
    folder = write_folder(tmp_path / "simrec")
    status, said, error = run_script(folder, "--out", tmp_path / "deep" / "model.pt2", "--size", "96")
    assert status == 0, error
    difference = re.search(r"largest difference from PyTorch on 50 samples: .*box ([\d.e+-]+)", said)
    assert difference and float(difference[1]) < 1e-3, said  # rounding of the fast path, in pixels
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.pt2"]
    assert export.load(tmp_path / "deep" / "model.pt2")[1]["input_size"] == 96


def test_parts_named_stay_in_float32_and_the_file_is_small_all_the_same(simrec, tmp_path):
    feeds = []
    for seed in range(4):
        image, tokens = export.example_inputs(SIZE, 6, 10, 4, seed)
        feeds.append({"image": image.numpy(), "tokens": tokens.numpy()})
    network = quantize.Network(simrec[1], feeds[:2], tmp_path)
    parts = network.parts()
    assert {"head", "visual_backbone", "language_encoder"} < {part.partition(".")[0] for part in parts}
    expected = [network.run(**feed) for feed in feeds[2:]]
    rounded = {}
    for name, kept in {"none": [], "one": parts[:1], "all": parts}.items():
        network.write(kept, tmp_path / f"{name}.onnx")
        run, about = export.load(tmp_path / f"{name}.onnx")
        assert (tmp_path / f"{name}.onnx").stat().st_size < 0.45 * simrec[1].stat().st_size and about[
            "input_size"
        ] is None
        nodes = onnx.load(tmp_path / f"{name}.onnx").graph.node
        rounded[name] = sum(node.op_type == "QuantizeLinear" for node in nodes)
        found = [run(**feed) for feed in feeds[2:]]
    assert rounded["none"] > rounded["one"] > rounded["all"] == 0, "activations are rounded in the other parts alone"
    assert quantize.apart(expected, found) < 0.02, "weights of eight bits change little"


def test_an_answer_that_differs_is_an_error(simrec):
    folder, file = simrec
    model, config, _ = model_folder.read(folder)
    with torch.no_grad():
        model.head.box.bias += 1
    with pytest.raises(ExportError, match="pixels apart"):
        export.compare(file, model, config, samples=5)


def test_no_file_of_the_model_is_written_over(simrec, run_script, tmp_path):
    folder = tmp_path / "best"
    shutil.copytree(simrec[0], folder)
    (folder / "model.onnx").symlink_to("model.safetensors")
    before = (folder / "model.safetensors").read_bytes()
    status, _, error = run_script(folder, "--out", folder / "model.onnx")
    assert (
        status == 2
        and "which is read" in " ".join(error.split())
        and (folder / "model.safetensors").read_bytes() == before
    )


def test_a_large_model_is_two_files_that_find_each_other(simrec, run_script, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MAX_ONE_FILE", 0)
    status, _, error = run_script(simrec[0], "--out", tmp_path / "model.onnx")
    assert status == 0 and sorted(os.listdir(tmp_path)) == ["model.onnx", "model.onnx.data"], error
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {oct(files.default_mode())}
    run, about = export.load(tmp_path / "model.onnx")
    image, tokens = export.example_inputs(SIZE, 6, len(about["words"]), 2)
    model, config, _ = model_folder.read(simrec[0])
    with torch.inference_mode():
        expected = export.Deployed(model, config)(image, tokens)["box"]
    np.testing.assert_allclose(run(image.numpy(), tokens.numpy())["box"], expected, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--out", "model.bin"], "ending"), (["--out", "model.onnx", "--size", "100"], "multiple of 32")],
)
def test_bad_arguments_are_one_paragraph(simrec, run_script, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    status, _, error = run_script(simrec[0], *arguments)
    assert status == 2 and said in error and not list(tmp_path.iterdir())


@pytest.mark.parametrize("int32_tokens", [False, True])
def test_the_example_without_torch_gives_the_grounders_box(simrec, tmp_path, int32_tokens):
    folder, file = simrec
    if int32_tokens:
        file = tmp_path / "int32.onnx"
        export.export(*model_folder.read(folder), file, dynamic_size=True, int32_tokens=True)
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(# Needs onnxruntime.*?)```", text, re.DOTALL).group(1)
    assert len([line for line in example.splitlines() if line.strip()]) <= 30
    imported = {n.names[0].name for n in ast.walk(ast.parse(example)) if isinstance(n, ast.Import)}
    assert imported == {"json", "re", "sys", "numpy", "onnxruntime"} | {"cv2"}
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    # Of the low one the network's box reaches into the padding: it is cut to the image.
    pixels = np.random.default_rng(3).integers(0, 255, (90 if int32_tokens else 12, 140, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    command = [sys.executable, "-X", "importtime", "example.py", file, "photo.png", "the red circle", str(SIZE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
    answer = json.loads(done.stdout)
    expected = rec.from_pretrained(folder, device="cpu")(pixels, "the red circle")
    np.testing.assert_allclose(answer["box"], expected.box, atol=0.5)
    assert abs(answer["score"] - expected.score) < 1e-3
