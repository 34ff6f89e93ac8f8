"""scripts/predict.py: files, patterns, folders and pairs in; pictures and JSONL out; bad images are left out."""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from inference_toy import write_folder
from PIL import Image

import rec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    write_folder(folder / "model")
    (folder / "photos").mkdir()
    for number, (width, height) in enumerate([(60, 40), (40, 70), (50, 50)]):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.jpg")
    (folder / "cut.jpg").write_bytes((folder / "photos" / "0.jpg").read_bytes()[:300])
    return folder


@pytest.fixture
def predict(place, monkeypatch, capsys, tmp_path):
    """Runs the script in this process; gives (exit status, stdout, stderr)."""
    monkeypatch.chdir(place)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / "predict.py"), run_name="__main__")
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_one_image_gives_a_marked_picture_and_the_models_origin_first(place, predict, tmp_path):
    status, said, _ = predict("model", "photos/0.jpg", "the red circle", "--out", tmp_path / "deep" / "marked.png")
    assert status == 0 and "drawn shapes only" in said.splitlines()[0] and "box" in said.splitlines()[1]
    marked, original = Image.open(tmp_path / "deep" / "marked.png"), Image.open(place / "photos" / "0.jpg")
    assert marked.size == original.size and (np.asarray(marked) != np.asarray(original)).any()


def test_patterns_folders_and_several_phrases_agree_with_python(place, predict, tmp_path):
    answers, marked = tmp_path / "answers.jsonl", tmp_path / "marked"
    status, _, _ = predict("model", "photos/[01].jpg", "photos", "the red circle", "small triangle",
                           "--jsonl", answers, "--out", marked, "--batch-size", "2")  # fmt: skip
    assert status == 0 and sorted(os.listdir(marked)) == ["0.png", "0_2.png", "1.png", "1_2.png", "2.png"]
    lines = read(answers)
    assert [Path(line["image"]).name for line in lines] == [f"{n}.jpg" for n in (0, 0, 1, 1, 0, 0, 1, 1, 2, 2)]
    result = rec.from_pretrained(place / "model")(place / "photos" / "2.jpg", "small triangle")
    assert lines[-1]["phrase"] == "small triangle"
    np.testing.assert_allclose(lines[-1]["box"], result.box, atol=1e-3)


def test_pairs_are_read_relative_to_their_file(place, predict, tmp_path):
    pairs = place / "pairs.jsonl"
    pairs.write_text(
        '{"image": "photos/0.jpg", "phrase": "a circle"}\n\n'
        '{"image": "photos/0.jpg", "phrase": ["a star", "a square"]}\n'
        '{"image": "photos/1.jpg", "phrase": "a circle"}\n',
        encoding="utf-8",
    )
    assert predict("model", "--pairs", pairs, "--jsonl", tmp_path / "out.jsonl", "--top-k", "2")[0] == 0
    lines = read(tmp_path / "out.jsonl")
    assert [line["phrase"] for line in lines] == ["a circle", "a star", "a square", "a circle"]
    assert all("candidates" in line for line in lines)


def test_it_goes_on_after_a_bad_image_and_says_so_at_the_end(predict, tmp_path):
    status, said, error = predict(
        "model", "absent.png", "cut.jpg", "photos/0.jpg", "a circle", "--jsonl", tmp_path / "o"
    )
    assert status == 1 and "photos/0.jpg" in said and "2 of 3 images" in error and "cut.jpg" in error
    assert [line["image"] for line in read(tmp_path / "o")] == ["photos/0.jpg"] and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent", "photos/0.jpg", "a circle"], "absent"),
        (["model", "photos/0.jpg"], "no phrase"),
        (["model", "photo.jpeg2", "a circle"], "no image"),
        (["model", "none*.jpg", "a circle"], "none*.jpg"),
        (["model", "photos", "a circle", "--out", "cut.jpg"], "is a file"),
        (["model", "photos/0.jpg", "a circle", "--out", "cut.jpg/x.png"], "cut.jpg"),
        (["model", "photos/0.jpg", "a circle", "--out", "marked.xyz"], ".xyz"),
        (["model", "photos/0.jpg", "a circle", "--jsonl", "no/where.jsonl"], "where.jsonl"),
        (["model", "--pairs", "broken.jsonl"], "broken.jsonl:1"),
        (["model", "--pairs", "absent.jsonl"], "absent.jsonl"),
    ],
)
def test_bad_input_is_one_paragraph_and_status_2(place, predict, arguments, said):
    (place / "broken.jsonl").write_text('{"picture": 3}\n', encoding="utf-8")
    status, _, error = predict(*arguments)
    assert status == 2 and said in error.replace("\n", " ") and "Traceback" not in error


def test_an_empty_phrase_counts_as_a_bad_pair(predict):
    status, _, error = predict("model", "photos/0.jpg", " ")
    assert status == 1 and "empty" in error
