"""scripts/predict.py: files, patterns, folders and pairs in; pictures and JSONL out; bad images are left out."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import foreign_toys
import numpy as np
import pytest
from inference_toy import write_folder
from PIL import Image

import rec

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model") / "best")


@pytest.fixture
def place(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("predict")
    shutil.copytree(model, folder / "model")
    (folder / "photos").mkdir()
    for number, (width, height) in enumerate([(60, 40), (40, 70), (50, 50)]):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.jpg")
    (folder / "cut.jpg").write_bytes((folder / "photos" / "0.jpg").read_bytes()[:300])
    return folder


@pytest.fixture
def predict(place, monkeypatch, call_script):
    monkeypatch.chdir(place)
    return partial(call_script, "predict")


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_the_command_that_is_told_behind_labels_prepares_them(place, predict, call_script):
    status, said, _ = predict("model", "photos", "the red circle", "--labels", place / "my photos" / "own, all.jsonl")
    assert status == 0
    told = shlex.split(said.partition("rec prepare ")[2].splitlines()[0])
    status, said, error = call_script("prepare_data", *told)
    assert status == 0, error
    assert "data/anns/mine is ready" in said and "in split [val]" in said


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


def test_it_goes_on_after_a_bad_image_and_tries_those_alone_when_it_is_asked_again(place, predict, tmp_path):
    answers, marked = tmp_path / "answers.jsonl", tmp_path / "marked"
    command = ["model", "absent.png", "cut.jpg", "photos", "a circle", "a star", "--jsonl", answers, "--out", marked]
    status, said, error = predict(*command)
    assert status == 1 and "3 of 5 images, 6 answers" in said and "2 of 5 images" in error and "cut.jpg" in error
    assert "the same command again tries these, and keeps the other answers" in error and "Traceback" not in error
    assert len(before := read(answers)) == 6
    shutil.copy(place / "photos" / "1.jpg", place / "cut.jpg")
    kept = (marked / "0.png").stat().st_mtime_ns
    (marked / "2.png").unlink()  # an answer without its picture is none
    status, said, error = predict(*command)
    assert status == 1 and "2 of 5 images were answered before; going on with the other 3" in said
    assert "4 of 5 images, 8 answers" in said and "1 of 5 images could not be used" in error
    assert (marked / "0.png").stat().st_mtime_ns == kept and (marked / "2.png").is_file()
    told = read(answers)
    assert [line["image"] for line in told] == ["cut.jpg"] * 2 + [line["image"] for line in before], "the images' order"
    assert told[2:] == before
    shutil.copy(place / "photos" / "1.jpg", place / "absent.png")
    assert predict(*command)[0] == 0 and len(read(answers)) == 10
    assert sorted(os.listdir(tmp_path)) == ["answers.jsonl", "marked"], "done: nothing is left of it"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent", "photos/0.jpg", "a circle"], "absent"),
        (["model", "photos/0.jpg"], "no phrase"),
        (["model", "photos/0.jpg", "photos"], "taken for images: photos (--phrases"),
        (["model", "photo.jpeg2", "a circle"], "no image"),
        (["model", "none*.jpg", "a circle"], "none*.jpg"),
        (["model", "photos", "a circle", "--out", "cut.jpg"], "is a file"),
        (["model", "photos/0.jpg", "a circle", "--out", "plain"], "is a file, whose name has no ending"),
        (["model", "photos/0.jpg", "a circle", "--out", "/dev/null"], "is a file, whose name has no ending"),
        (["model", "photos/0.jpg", "a circle", "--jsonl", "-"], "--jsonl -: name a file"),
        (["model", "photos/0.jpg", "a circle", "--out", "cut.jpg/x.png"], "cut.jpg"),
        (["model", "photos/0.jpg", "a circle", "--out", "marked.xyz"], ".xyz"),
        (["model", "photos/0.jpg", "a circle", "--jsonl", "cut.jpg/where.jsonl"], "cut.jpg"),
        (["model", "photos/0.jpg", "a circle", "--jsonl", "photos"], "photos"),
        (["model", "photos", "a circle", "--out", "photos"], "photos/0.png, which is read"),
        (["model", "photos/0.jpg", "a circle", "--out", "photos/../photos/0.jpg"], "0.jpg, which is read"),
        (["model", "photos/0.jpg", "a circle", "--jsonl", "model/config.yaml"], "config.yaml, which is read"),
        (["model", "--pairs", "good.jsonl", "--jsonl", "link.jsonl"], "good.jsonl, which is read"),
        (["model", "--pairs", "latin1.jsonl"], "latin1.jsonl"),
        (["model", "photos/0.jpg", "a circle", "--out", "m.png", "--jsonl", "./m.png"], "are one file"),
        (["model", "photos", "a circle", "--crops", "photos"], "--crops photos is the folder of the images"),
        (["model", "--pairs", "broken.jsonl"], "broken.jsonl:1"),
        (["model", "--pairs", "null.jsonl"], "null.jsonl:2"),
        (["model", "--pairs", "absent.jsonl"], "absent.jsonl"),
        (["model", "--pairs", "good.jsonl", "--phrases", "good.jsonl"], "--pairs gives each image its own"),
        (["model", "https://x.org/a.jpg", "a circle", "--allow-urls", "--labels", "l.jsonl"], "download it first"),
    ],
)
def test_bad_input_is_one_paragraph_and_status_2(place, predict, arguments, said):
    (place / "broken.jsonl").write_text('{"picture": 3}\n', encoding="utf-8")
    (place / "good.jsonl").write_text('{"image": "photos/0.jpg", "phrase": "a circle"}\n', encoding="utf-8")
    (place / "latin1.jsonl").write_bytes(b'{"image": "caf\xe9.jpg", "phrase": "a circle"}\n')
    pairs = [{"image": "photos/0.jpg", "phrase": "a"}, {"image": "photos/0.jpg", "phrase": ["a", None]}]
    (place / "null.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    (place / "link.jsonl").symlink_to("good.jsonl")
    (place / "plain").touch()
    Image.new("RGB", (20, 20)).save(place / "photos" / "0.png")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    status, _, error = predict(*arguments)
    assert status == 2 and said in error.replace("\n", " ") and "Traceback" not in error
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_of_two_models_each_is_asked_in_its_own_way(place, predict, tmp_path):
    server = foreign_toys.ChatServer(["[0, 0, 1000, 1000]"])
    foreign, how = f"openai:toy@{server.address}", ("--coordinates", "0-1000", "--send-images")
    for first, second in ((foreign, "model"), ("model", foreign)):
        labels = ("--labels", tmp_path / "l.jsonl", "--second", second, "--agree", "0")
        status, said, error = predict(first, "photos/0.jpg", "a circle", *labels, *how)
        assert status == 0 and "second: " in said and "are sent" not in said, error
    server.close()
    status, _, error = predict("model", "photos/0.jpg", "a circle", *how)
    assert status == 2 and "coordinates, send_images: for models named" in error


def test_errors_are_told_once_a_kind_and_names_at_the_end(place, predict, tmp_path):
    for number in range(4):
        (place / "photos" / f"empty{number}.png").write_bytes(b"")
    status, said, error = predict("model", "photos", "absent.png", "a circle", "--crops", tmp_path / "crops")
    assert (
        status == 1
        and "3 of 8 images, 3 answers" in said
        and str(tmp_path / "crops") in said
        and len(said.splitlines()) == 2
    )
    assert error.count("is not an image in a known format") == 1 and "5 of 8 images could not be used" in error
    assert "3 like photos/empty0.png: photos/empty1.png, photos/empty2.png, photos/empty3.png" in error
    left, *crops = sorted(os.listdir(tmp_path / "crops"))
    assert crops == ["0_1_1.png", "1_1_1.png", "2_1_1.png"] and left.startswith(".answers.jsonl.")


def test_crops_are_named_in_the_answers(place, predict, tmp_path):
    predict("model", "photos/0.jpg", "a circle", "a star", "--crops", tmp_path / "c", "--jsonl", tmp_path / "j")
    for number, line in enumerate(read(tmp_path / "j"), 1):
        left, top, right, bottom = line["box"]
        assert line["crops"] == [str(tmp_path / "c" / f"0_{number}_1.png")]
        size = np.array(Image.open(line["crops"][0]).size)
        assert (np.abs(size - [right - left, bottom - top]) <= 2).all()


def test_an_empty_phrase_counts_as_a_bad_pair(predict):
    status, _, error = predict("model", "photos/0.jpg", " ")
    assert status == 1 and "empty" in error


def test_every_image_has_a_picture_of_its_own_and_inputs_stay(place, predict, tmp_path):
    (place / "more").mkdir()
    for name in ("a.jpg", "a.png", "a_2.jpg", "A.bmp", "x" * 250 + ".png", "x" * 251 + ".jpg", "p[1].jpg"):
        Image.new("RGB", (30, 20)).save(place / "more" / name)
    (place / "more" / ".a.png.left-over.png").write_bytes(b"of a killed process")
    before = {path.name: path.read_bytes() for path in (place / "more").iterdir()}
    for _ in range(2):
        status, _, error = predict("model", "more", "a circle", "--out", tmp_path / "new" / "marked")
        made = sorted(os.listdir(tmp_path / "new" / "marked"))
        # A.bmp comes first: capitals before small letters
        expected = ["A.png", "a_2.png", "a_3.png", "a_4.png", "p[1].png", "x" * 240 + ".png", "x" * 240 + "_2.png"]
        assert status == 0 and made == expected, error
    assert {path.name: path.read_bytes() for path in (place / "more").iterdir()} == before


def test_patterns_below_folders_with_brackets(place, predict, tmp_path):
    shutil.copytree(place / "photos", place / "p[1]" / "deep")
    shutil.copytree(place / "photos", place / "p1" / "deep")
    status, _, _ = predict(
        "model", "p[1]/*/[01].jpg", "a circle", "--out", tmp_path / "o[1]", "--jsonl", tmp_path / "j"
    )
    assert status == 0 and sorted(os.listdir(tmp_path / "o[1]")) == ["0.png", "1.png"]
    assert [line["image"] for line in read(tmp_path / "j")] == ["p[1]/deep/0.jpg", "p[1]/deep/1.jpg"]


def test_a_pattern_without_an_ending_names_images_and_a_phrase_may_have_its_signs(place, predict, tmp_path):
    (place / "photos" / "notes.txt").write_text("about them", encoding="utf-8")
    status, _, error = predict("model", "photos/*", "is it the [red] circle?", "--jsonl", tmp_path / "j")
    assert status == 0 and [line["image"] for line in read(tmp_path / "j")] == [f"photos/{n}.jpg" for n in range(3)], (
        error
    )
    assert {line["phrase"] for line in read(tmp_path / "j")} == {"is it the [red] circle?"}


def test_long_phrases_are_phrases(place, predict, tmp_path):
    phrase = "the red circle " * 400
    status, _, error = predict("model", "photos/0.jpg", phrase, "--jsonl", tmp_path / "j")
    assert status == 0 and read(tmp_path / "j")[0]["phrase"] == phrase, error


def test_the_home_folder_is_meant_by_its_sign(place, predict, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    (place / "pairs.jsonl").write_text('{"image": "~/photos/0.jpg", "phrase": "a circle"}\n', encoding="utf-8")
    monkeypatch.chdir(place / "photos")
    assert predict("~/model", "--pairs", "~/pairs.jsonl", "--jsonl", "~/j", "--out", "~/m.png")[0] == 0
    assert predict("~/model", "~/photos/*.jpg", "~/photos", "a circle", "--out", "~/marked")[0] == 0
    assert (
        (place / "m.png").is_file() and len(os.listdir(place / "marked")) == 6 and not (place / "photos" / "~").exists()
    )
    assert read(place / "j")[0]["image"] == str(place / "photos" / "0.jpg")


def test_answers_of_before_stay_until_the_new_ones_are_whole(place, predict, tmp_path, monkeypatch):
    answers = tmp_path / "answers.jsonl"
    answers.write_text("of before\n", encoding="utf-8")
    assert predict("absent", "photos", "a circle", "--jsonl", answers)[0] == 2
    assert answers.read_text(encoding="utf-8") == "of before\n" and os.listdir(tmp_path) == ["answers.jsonl"]
    from rec.evaluation import pictures

    saved = []

    def full_at_the_second(picture, path):
        if saved:
            raise OSError(28, "No space left on device", str(path))
        saved.append(path)

    monkeypatch.setattr(pictures, "save", full_at_the_second)
    command = "model", "photos", "a circle", "a star", "--jsonl", answers, "--out", tmp_path / "marked"
    status, _, error = predict(*command)
    error = " ".join(error.split())
    (partial,) = tmp_path.glob("answers.jsonl.*.partial")
    assert (
        status == 2 and "space" in error and f"what was written so far is in {partial}, and the same command" in error
    )
    assert answers.read_text(encoding="utf-8") == "of before\n"
    assert [line["image"] for line in read(partial)] == ["photos/0.jpg"] * 2, "an image is answered or it is not"

    # The same command goes on: what a kill has cut in the middle is asked again. Another command begins.
    with partial.open("a", encoding="utf-8") as file:
        file.write(
            partial.read_text(encoding="utf-8").replace("0.jpg", "1.jpg").splitlines()[0] + "\n" + '{"image": "pho'
        )
    monkeypatch.undo()
    monkeypatch.chdir(place)
    status, said, _ = predict(*command[:2], "a circle", *command[4:])
    assert status == 0 and "going on" not in said and partial.exists() and len(read(answers)) == 3
    status, said, _ = predict(*command)
    assert status == 0 and "1 of 3 images were answered before; going on" in said and "3 of 3 images, 6 answers" in said
    assert [Path(line["image"]).name for line in read(answers)] == [f"{n}.jpg" for n in (0, 0, 1, 1, 2, 2)]
    assert sorted(os.listdir(tmp_path)) == ["answers.jsonl", "marked"]
    assert sorted(os.listdir(tmp_path / "marked")) == ["0.png", "1.png", "2.png"]


def test_names_in_no_encoding_and_a_console_of_ascii_end_no_batch(place, tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    shutil.copy(place / "photos" / "0.jpg", place / "photos" / name)
    command = [
        sys.executable,
        str(ROOT / "scripts" / "predict.py"),
        "model",
        "photos",
        "größer als 大",
    ]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    written = [*command, "--out", "marked", "--jsonl", "j"]
    for words in (written, command):  # answers are printed where no file takes them
        done = subprocess.run(words, cwd=place, env=environment, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert b"gr\\xf6\\xdfer als \\u5927" in done.stdout and b"caf\\udce9.jpg" in done.stdout
    assert sorted(os.listdir(bytes(place / "marked"))) == [b"0.png", b"1.png", b"2.png", b"caf\xe9.png"]
    lines = read(place / "j")
    assert (
        os.path.samefile(place / lines[-1]["image"], place / "photos" / name) and lines[0]["phrase"] == "größer als 大"
    )
