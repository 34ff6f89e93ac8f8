"""scripts/evaluate.py as a user runs it: model folder, run folder, checkpoint; several processes; bad input."""

import json
import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from inference_toy import SIZE, model_node, new_model, write_folder, write_mcn_folder
from PIL import Image
from safetensors.torch import save_file

from rec.config import LazyConfig
from rec.data.text import Vocabulary
from rec.model_folder import find
from rec.training.build import build_dataset, build_datasets
from rec.training.checkpoint_format import TrainerState, described, state_text

ROOT = Path(__file__).parents[2]
CONFIG = f"""
from rec.config import LazyCall
from rec.data.dataset import RefCOCODataSet

dataset = LazyCall(RefCOCODataSet)(
    dataset="scenes",
    ann_path={{"scenes": {{"path": "scenes", "count": {{"train": 3, "val": 5, "test": 4}}, "size": {SIZE}}}}},
    input_shape=[32, 32],
    max_token_length=3,
    split="train",
)
train = dict(
    seed=0,
    data=dict(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0], num_workers=0, pin_memory=False),
    evaluation=dict(splits=["val"], eval_batch_size=4, eval_iter=None, evaluator=None),
)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "scenes.py").write_text(CONFIG, encoding="utf-8")
    write_folder(folder / "run" / "best")
    return folder


@pytest.fixture
def evaluate(place, monkeypatch, call_script):
    monkeypatch.chdir(place)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(place / "cache"))
    return partial(call_script, "evaluate")


def test_a_model_folder_is_evaluated_with_its_own_preprocessing(place, evaluate):
    status, said, _ = evaluate("run/best", "--config", "scenes.py", "--splits", "val", "test", "--out", "out",
                               "--pictures", "grid.png", "train.evaluation.eval_batch_size=3")  # fmt: skip
    assert status == 0 and "drawn shapes only" in said.splitlines()[0] and "Acc@0.5" in said
    metrics = json.loads((place / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert {"val", "test", "val/attribute", "val/place", "val/relation"} <= set(metrics)
    lines = [
        json.loads(line) for line in (place / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) == metrics["val"]["count"] + metrics["test"]["count"] == 27
    assert [metrics[f"val/{kind}"]["count"] for kind in ("attribute", "place", "relation")] == [5, 5, 5]
    assert Image.open(place / "grid.png").width > 256


def test_a_mask_model_is_judged_by_masks_at_image_size_where_the_split_has_them(place, evaluate):
    write_mcn_folder(place / "mcn")
    status, said, error = evaluate("mcn", "--config", "scenes.py", "--out", "mcn_out", "dataset.with_masks=true",
                                   "--report", "mcn_out/report.html")  # fmt: skip
    assert status == 0 and "mask_mIoU" in said, error
    assert 'class="heat"' in (place / "mcn_out" / "report.html").read_text(encoding="utf-8"), "where it looked"
    line = json.loads((place / "mcn_out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert line["mask"]["size"] == [SIZE, SIZE] and 0 <= line["mask_intersection"] <= line["mask_union"]
    alone = {key: line[key] for key in ("ref_id", "sentence", "mask")}
    (place / "masks.jsonl").write_text(json.dumps(alone) + "\n", encoding="utf-8")
    status, said, _ = evaluate(
        "run/best", "--config", "scenes.py", "dataset.with_masks=true", "--compare", "masks.jsonl"
    )
    assert status == 0 and "val: no metric that both have" in said
    status, said, _ = evaluate("mcn", "--config", "scenes.py", "--out", "mcn_out")
    assert status == 0 and "mask_mIoU" not in said and "with_masks" in said


def test_two_processes_write_the_same_files_as_one(place, evaluate):
    arguments = ["run/best", "--config", "scenes.py"]
    assert evaluate(*arguments, "--out", "one")[0] == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["HF_DATASETS_CACHE"] = str(place / "cache")
    two = subprocess.run(
        [*launch, str(ROOT / "scripts" / "evaluate.py"), *arguments, "--out", "two"],
        cwd=place, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr[-3000:]
    assert "2 process(es)" in two.stdout and two.stdout.count("intervals.json") == 1
    for name in ("metrics.json", "predictions.jsonl"):
        assert (place / "one" / name).read_bytes() == (place / "two" / name).read_bytes()


def test_answers_of_anybody_are_scored_to_the_same_digits(place, evaluate):
    assert evaluate("run/best", "--config", "scenes.py", "--out", "model", "--splits", "val", "test")[0] == 0
    answers = ("--answers", "model/predictions.jsonl", "--config", "scenes.py", "--splits", "val", "test")
    status, said, error = evaluate(
        *answers, "--out", "judged", "--report", "judged.html", "--compare", "model/predictions.jsonl"
    )
    assert status == 0 and "27 answers matched" in said and "fingerprint" in said and "0 phrases won, 0 lost" in said, (
        error
    )
    report = (place / "judged.html").read_text(encoding="utf-8")
    assert (
        "<h1>model/predictions.jsonl on scenes val, test</h1>" in report
        and "Compared with model/predictions.jsonl" in report
    )
    for name in ("metrics.json", "predictions.jsonl", "intervals.json"):
        assert (place / "judged" / name).read_bytes() == (place / "model" / name).read_bytes(), name
    metrics = json.loads((place / "judged" / "metrics.json").read_text(encoding="utf-8"))
    assert "Acc@0.5:0.95" in metrics["val"] and {"val/small", "val/medium"} & set(metrics)
    assert (place / "judged" / "changes.jsonl").exists()
    status, said, _ = evaluate(*answers, "--out", "judged", "--splits", "val")
    assert status == 0 and "15 answers matched, 12 lines belong to no phrase" in said
    assert not (place / "judged" / "changes.jsonl").exists()  # it was of answers that are no longer there
    for wrong, told in (
        (("run/best",), "one of the two"),
        (("--coordinates", "0-100"), "0-100"),
        (("--out", "model"), "predictions.jsonl"),
    ):
        status, _, error = evaluate(*wrong, *answers)
        assert status == 2 and told in error and "Traceback" not in error, wrong
    status, _, error = evaluate("--answers", "model/predictions.jsonl")
    assert status == 2 and "--config" in error


def test_a_model_is_compared_with_answers_as_they_are_declared(place, evaluate):
    model = ("run/best", "--config", "scenes.py")
    assert evaluate(*model, "--out", "whole")[0] == 0
    found = [
        json.loads(line) for line in (place / "whole" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    shares = [
        {key: line[key] for key in ("index", "sentence")} | {"box": [v / SIZE for v in line["box"]]} for line in found
    ]
    (place / "shares.jsonl").write_text("".join(json.dumps(line) + "\n" for line in shares), encoding="utf-8")
    compared = (*model, "--compare", "shares.jsonl", "--coordinates", "0-1", "--out", "compared")
    for more in (), ("train.evaluation.eval_iter=1", "--report", "compared.html"):
        status, said, error = evaluate(*compared, *more)
        assert status == 0 and "mIoU +0.00 (+0.00 to +0.00)" in said and "0 phrases won, 0 lost" in said, error
    for idle in (("--coordinates", "0-1"), ("--prompt", "{phrase}?"), ("--send-images",)):
        status, _, error = evaluate(*model, *idle)
        assert status == 2 and f"{idle[0]}: for models named" in error
    status, _, error = evaluate(*model, "--box-format", "yxyx")
    assert status == 2 and "--box-format yxyx: for the files of --answers and --compare" in error


def test_another_batch_size_moves_the_metrics_by_at_most_a_millionth(place, evaluate):
    found = []
    for size in (1, 3, 8):
        arguments = ("--out", f"batch{size}", f"train.evaluation.eval_batch_size={size}")
        assert evaluate("run/best", "--config", "scenes.py", *arguments)[0] == 0
        found.append(json.loads((place / f"batch{size}" / "metrics.json").read_text(encoding="utf-8")))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for split, metrics in found[0].items():
            assert other[split] == pytest.approx(metrics, abs=1e-6)


def test_a_run_folder_and_a_checkpoint_need_no_config(place, evaluate):
    cfg = LazyConfig.load(str(place / "scenes.py"))
    cfg.model = model_node()
    run = place / "run"
    LazyConfig.save(cfg, str(run / "config.yaml"))
    checkpoint = run / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    save_file(new_model().state_dict(), checkpoint / "ema.safetensors")
    weights = {"ema.safetensors": described(checkpoint / "ema.safetensors")}
    needed = ("model.safetensors", "optimizer.bin", "random_states_0.pkl")  # to continue the run, not to evaluate
    other = {name: {"bytes": 0, "xxh3_128": ""} for name in needed}
    state = TrainerState(update=1, ema_updates=1, files=other | weights)
    (checkpoint / "trainer_state.json").write_text(state_text(state), encoding="utf-8")
    assert evaluate("run", "--out", "from_run")[0] == 0
    overrides = [f"dataset.input_shape=[{SIZE},{SIZE}]", "dataset.max_token_length=6"]
    status, said, _ = evaluate(checkpoint, "--out", "from_checkpoint", *overrides)
    assert status == 0 and "trained on" in said and "samples" not in said, "how many were trained on is not known here"
    for name in ("metrics.json", "predictions.jsonl"):
        assert (place / "from_run" / name).read_bytes() == (place / "from_checkpoint" / name).read_bytes()
    content = bytearray((checkpoint / "ema.safetensors").read_bytes())
    content[-9] ^= 4
    (checkpoint / "ema.safetensors").write_bytes(content)
    status, _, error = evaluate(checkpoint, "--out", "flipped", *overrides)
    assert status == 2 and "content has changed since it was saved" in " ".join(error.split())
    assert not (place / "flipped").exists()


def test_a_checkpoint_of_a_run_without_best_reads_phrases_with_the_vocabulary_of_its_training(place, monkeypatch):
    """The words of another split come in another order: every phrase would be read as another one, and nothing would say so."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(place / "cache"))
    cfg = LazyConfig.load(str(place / "scenes.py"))
    trained_with = build_dataset(cfg, "train", training=True).vocabulary
    for known in (None, trained_with):
        val = build_datasets(cfg, ["val"], known)["val"]
        assert val.vocabulary.words == trained_with.words
    phrases = [val.describe(index)["sentence"] for index in range(len(val))]
    assert Vocabulary.build(phrases).words != trained_with.words, "of its own words it would have others"


def test_the_threshold_of_any_number_of_objects_is_chosen_on_val_and_never_on_test(place, evaluate):
    of_one = 'split="train",'
    scenes = CONFIG.replace(of_one, f'{of_one} targets="any",').replace('"size"', '"targets": "any", "size"')
    (place / "any.py").write_text(scenes, encoding="utf-8")
    asked = ["run/best", "--config", "any.py", "--splits"]
    status, _, error = evaluate(*asked, "test")
    assert status == 2 and "never chosen on the split it is judged by: add val to --splits" in " ".join(error.split())
    status, said, _ = evaluate(*asked, "test", "val", "--out", "any", "--report", "any/report.html")
    metrics = json.loads((place / "any" / "metrics.json").read_text(encoding="utf-8"))
    assert status == 0 and f"val: threshold {metrics['val']['threshold']:g}, chosen here" in said
    assert metrics["val"]["threshold"] == metrics["test"]["threshold"] and "chosen" not in said.partition("test: ")[2]
    assert metrics["test/answer nothing"]["N-acc"] == 1 and metrics["test"]["count"] == 12
    assert metrics["test/none"]["count"] == metrics["test/one"]["count"] == metrics["test/several"]["count"] == 4
    status, said, _ = evaluate(*asked, "test", "validation", "--out", "any")  # as others call it
    again = json.loads((place / "any" / "metrics.json").read_text(encoding="utf-8"))
    assert status == 0 and "validation: threshold" in said and again["test"] == metrics["test"]
    assert evaluate(*asked, "test", "--threshold", "0.31", "--out", "given")[0] == 0
    assert json.loads((place / "given" / "metrics.json").read_text(encoding="utf-8"))["test"]["threshold"] == 0.31
    line = json.loads((place / "given" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    nothing = {key: line[key] for key in ("ref_id", "sentence")} | {"mask": None}
    (place / "nothing.jsonl").write_text(json.dumps(nothing), encoding="utf-8")
    status, said, _ = evaluate(
        *asked, "test", "--threshold", "0.31", "dataset.with_masks=true", "--compare", "nothing.jsonl"
    )
    assert status == 0 and "test: N-acc " in said and "test: T-acc " in said, (
        "which both have, of the less common metrics"
    )
    for asked in (["run/best"], ["--answers", "given/predictions.jsonl"]):
        status, _, error = evaluate(*asked, "--config", "scenes.py", "--threshold", "0.31")
        assert status == 2 and "dataset.targets=one: leave it out" in " ".join(error.split())


def test_the_threshold_is_of_the_moment_of_the_weights_where_a_training_replaces_the_folder(
    place, evaluate, tmp_path, monkeypatch
):
    of_one, read = 'split="train",', find.read
    scenes = CONFIG.replace(of_one, f'{of_one} targets="any",').replace('"size"', '"targets": "any", "size"')
    (tmp_path / "any.py").write_text(scenes, encoding="utf-8")
    shutil.copytree(place / "run" / "best", tmp_path / "best")
    (tmp_path / "best" / "digests.json").unlink()
    config = (tmp_path / "best" / "config.yaml").read_text(encoding="utf-8")

    def write(threshold):
        told = f"answer: {{threshold: {threshold}, suppress_iou: 0.5, min_pixels: 0}}\n"
        (tmp_path / "best" / "config.yaml").write_text(config + told, encoding="utf-8")

    def read_and_replace(*arguments):
        found = read(*arguments)
        write(0.9)
        return found

    write(0.31)
    monkeypatch.setattr(find, "read", read_and_replace)
    assert evaluate(tmp_path / "best", "--config", tmp_path / "any.py", "--out", tmp_path / "out")[0] == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["val"]["threshold"] == 0.31


def test_a_split_that_is_named_in_two_ways_is_evaluated_once(place, evaluate):
    status, _, _ = evaluate("run/best", "--config", "scenes.py", "--splits", "validation", "val", "--out", "twice")
    assert status == 0 and "val" not in json.loads((place / "twice" / "metrics.json").read_text(encoding="utf-8"))
    answers = ["--answers", "twice/predictions.jsonl", "--config", "scenes.py"]
    assert evaluate(*answers, "--splits", "val", "validation", "val", "--out", "again")[0] == 0
    assert json.loads((place / "again" / "metrics.json").read_text(encoding="utf-8"))["val"]["count"] > 0


def test_a_strangers_run_config_calls_nothing(evaluate, tmp_path):
    write_folder(tmp_path / "best")
    canary = tmp_path / "canary"
    (tmp_path / "config.yaml").write_text(
        f"dataset: {{_target_: os.mkdir, path: {canary}}}\n"
        "train: {seed: 0, data: {mean: [0, 0, 0], std: [1, 1, 1]}, evaluation: {splits: [val], eval_batch_size: 1}}\n",
        encoding="utf-8",
    )
    status, _, error = evaluate(tmp_path, "--out", tmp_path / "out")
    assert status == 2 and "os.mkdir" in error and not canary.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent", "--config", "scenes.py"], "holds no model"),
        (["alone"], "--config"),
        (["run/best", "--config", "absent.py"], "absent.py"),
        (["run/best", "--config", "scenes.py", "--splits", "testC"], "testC"),
        (["run/best", "--config", "scenes.py", "train.evaluatoin.splits=[val]"], "evaluatoin"),
        (["run/best", "--config", "scenes.py", "--out", "scenes.py/out"], "scenes.py"),
    ],
)
def test_bad_input_is_one_paragraph_and_status_2(place, evaluate, arguments, said):
    if not (place / "alone").exists():
        shutil.copytree(place / "run" / "best", place / "alone")
    status, _, error = evaluate(*arguments)
    assert status == 2 and said in error and "Traceback" not in error and "\n\n" not in error.strip()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Photographs with boxes in JSONL, a config of them, and a model; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "annotations").mkdir()
    rows = []
    for number in range(3):
        Image.new("RGB", (40, 30), (number * 80, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
        rows.append({"image": f"{number}.png", "phrase": "a circle", "bbox": [5, 5, 20, 10], "split": "val"})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "annotations" / "mine.jsonl").write_text(text, encoding="utf-8")
    spec = '{"mine": {"path": "annotations/mine.jsonl", "bbox_format": "xywh"}}, image_path="photos"'
    config = CONFIG.replace(CONFIG[CONFIG.index("{") : CONFIG.index("}},\n") + 2], spec).replace(
        '"scenes",', '"mine",', 1
    )
    (tmp_path / "mine.py").write_text(config, encoding="utf-8")
    write_folder(tmp_path / "best")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pictures", "photos/1.png"], "photos/1.png is read as data"),
        (["--report", "link.html"], "link.html would be written over"),
        (
            ["--out", "annotations", "dataset.ann_path.mine.path=annotations", "--splits", "mine"],
            "annotations/metrics.json is read as data",
        ),
        (["--report", "config.html"], "config.html would be written over"),
    ],
)
def test_what_is_read_is_never_written_over(photos, evaluate, monkeypatch, arguments, said):
    monkeypatch.chdir(photos)
    (photos / "link.html").symlink_to("best/config.yaml")
    os.link(photos / "mine.py", photos / "config.html")
    before = contents(photos)
    status, _, error = evaluate("best", "--config", "mine.py", "--out", "out", *arguments)
    assert status == 2 and said in " ".join(error.split()) and contents(photos) == before


def test_nothing_is_said_of_a_vocabulary_where_no_model_is_asked(photos, evaluate, monkeypatch, caplog):
    monkeypatch.chdir(photos)
    answer = {"image": "0.png", "sentence": "a circle", "box": [5, 5, 25, 15]}
    (photos / "answers.jsonl").write_text(json.dumps(answer), encoding="utf-8")
    assert evaluate("--answers", "answers.jsonl", "--config", "mine.py", "--out", "out")[0] == 0 and not caplog.records


def test_home_and_files_of_any_name(photos, evaluate, monkeypatch):
    monkeypatch.chdir(photos)
    monkeypatch.setenv("HOME", str(photos))
    name = "p[1] größer"
    shutil.copytree(photos / "best", photos / "p[1] best")
    words = [
        "--config",
        "~/mine.py",
        "--out",
        f"~/{name}/out",
        "--pictures",
        "~/grid.png",
        "--report",
        "p[1] best/r.html",
    ]
    for _ in range(2):  # and again over its own files
        status, _, error = evaluate("~/p[1] best", *words, "dataset.image_path=~/photos")
        assert status == 0, error
    assert sorted(os.listdir(photos / name / "out")) == ["intervals.json", "metrics.json", "predictions.jsonl"]
    assert (
        (photos / "grid.png").is_file() and (photos / "p[1] best" / "r.html").is_file() and not (photos / "~").exists()
    )
    image = json.loads((photos / name / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])[
        "image"
    ]
    assert image == str(photos / "photos" / "0.png")


def test_results_of_before_stay_when_the_disk_is_full(photos, evaluate, monkeypatch):
    monkeypatch.chdir(photos)
    words = ["best", "--config", "mine.py", "--out", "out"]
    assert evaluate(*words)[0] == 0
    before = contents(photos / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        status, _, error = evaluate(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2 and "predictions.jsonl: File too large; free some space" in " ".join(error.split())
    assert contents(photos / "out") == before


def test_browsing_writes_over_no_picture(photos, monkeypatch, call_script):
    for out, expected in (("photos/2.png", 2), ("~/samples.png", 0)):
        monkeypatch.setenv("HOME", str(photos))
        before = contents(photos / "photos")
        assert call_script("browse_data", "mine.py", "--split", "val", "--out", out)[0] == expected
        assert contents(photos / "photos") == before
    assert (photos / "samples.png").is_file()
