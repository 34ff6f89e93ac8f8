"""Every script, called wrongly: one paragraph and status 2 (or what a missing file gives), nothing written, no traceback."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "inference"))

from inference_toy import write_folder  # noqa: E402

QUICKSTART = str(ROOT / "configs" / "simrec_small_scenes_quickstart.py")
NUMBERS = ("0", "-3", "abc", "1.5", "", "1e3", "99999999999999999999", "nan", "--")
DEVICES = ("gpu", "cuda:9", "cuda:-1", "cuda0", "tpu", "")
NO_MODEL = ("nowhere", "photo.png", "empty", "user/name/more", "", "scenes.py", "broken")

# Values that no override of training may have; in configs/simrec_small_scenes_quickstart.py.
OVERRIDES = (
    "epochs=abc", "epochs=0", "epochs=-1", "epochs=1.5", "epochs=null", "epochs=[1]", "train_iter=0", "train_iter=-5",
    "train_iter=many", "batch_size=0", "batch_size=-8", "batch_size=8.5", "num_accumulation_steps=0", "seed=-1", "seed=1.5",
    "seed=99999999999", "base_lr=0", "base_lr=fast", "warmup_lr=-1", "min_lr=-1", "warmup_epochs=-1", "warmup_ratio=5",
    "warmup_ratio=-0.1", "clip_grad_norm=-1", "clip_grad_norm=.nan", "max_skipped_updates=-1", "log_period=0", "log_period=-1",
    "save_period=0", "checkpointer.period=0", "checkpointer.max_to_keep=0", "evaluation.eval_mode=maximum",
    "evaluation.eval_metric=accuracy", "evaluation.eval_batch_size=0", "evaluation.eval_period=0", "evaluation.eval_iter=0",
    "evaluation.splits=[]", "evaluation.splits=val", "evaluation.splits=[1]", "evaluation.enabled=perhaps",
    "data.num_workers=-1", "data.num_workers=two", "data.std=[0,0,0]", "data.std=[1,1]", "data.mean=[1]", "data.mean=0",
    "data.pin_memory=2", "data.share_images=some", "trackers=[nope]", "trackers=tensorboard", "communication.hook=nope",
    "communication.timeout=0", "communication.bucket_cap_mb=0", "multi_scale_training.img_scales=[]",
    "multi_scale_training.img_scales=[[64,96]]", "multi_scale_training.img_scales=[64]", "ema.alpha=2", "ema.alpha=-1",
    "ema.alpha=1", "ema.enabled=on?", "amp.enabled=fp16", "output_dir=", "output_dir=null", "hub.push=never",
    "compile.dynamic=2", "profile.updates=0", "freeze_schedule=all", "scheduler.name=linear", "epohcs=3", "trian.epochs=3",
    "ddp.backend=nccl", "parameter_groups.backbone_lr_factor=-1", "fast_dev_run=2", "resume_path=nowhere",
    "load_weight=nowhere",
)  # fmt: skip
DATASET = (
    "input_shape=[0,0]", "input_shape=[64,96]", "input_shape=416", "input_shape=[a,b]", "input_shape=[100000,100000]",
    "max_token_length=0", "max_token_length=-2", "max_token_length=ten", "flip_lr=maybe", "label_clip=2", "label_clip=-1",
    "hide=all", "sentence_sampling=all", "vocabulary_from=test", "with_masks=3", "use_glove=2", "split=[train]", "dataset=[]",
    "dataset=3", "candidate_transforms=[1]", "tokenizer=3", "seed=null", "inputshape=[96,96]",
)  # fmt: skip


def calls() -> list[tuple[str, list[str]]]:
    """(script, arguments); file names are those of the fixture ``place``."""
    made: list[tuple[str, list[str]]] = []

    def add(script: str, *variants: list[str]) -> None:
        made.extend((script, list(words)) for words in variants)

    for override in OVERRIDES:
        add("train", ["--check" if "nowhere" not in override else "--", QUICKSTART, f"train.{override}"])
    for override in DATASET:
        add("train", ["--check", QUICKSTART, f"dataset.{override}"])
        add("browse_data", ["scenes.py", f"dataset.{override}", "--out", "out.png"])
        add("evaluate", ["model", "--config", "scenes.py", f"dataset.{override}", "--out", "out"])
    add("train", [], ["nowhere.py"], ["photo.png"], ["empty"], ["broken.py"], [QUICKSTART, "train.epochs"], [QUICKSTART, "=3"],
        [QUICKSTART, "--config", "x"], [QUICKSTART, "--epochs", "3"], ["--check", QUICKSTART, "optim.lr=x"])  # fmt: skip
    for number in NUMBERS:
        add(
            "predict",
            ["model", "photo.png", "a dog", "--top-k", number],
            ["model", "photo.png", "a dog", "--batch-size", number],
        )
        add("browse_data", ["scenes.py", "--count", number, "--out", "out.png"])
        add("demo", ["model", "--port", number])
        add("export", ["model", "--out", "out.onnx", "--size", number])
        add("prepare_data", ["--dataset", "scenes", "--output_dir", "out", "--count", number])
        if number not in ("99999999999999999999",):
            add("benchmark", ["loss", "--rounds", number])
    labels = ["model", "photo.png", "a dog", "--labels", "out.jsonl"]
    add("predict", labels[:3] + ["--mirror"], [*labels, "--agree", "2"], [*labels, "--min-score", "-1"],
        [*labels, "--second", "nowhere"], [*labels, "--review", "out.png"], [*labels, "--out", "out.png"],
        [*labels[:2], *labels[3:], "--phrases", "nowhere"], ["openai:toy", *labels[1:]],
        ["openai:toy@http://127.0.0.1:9/v1", "photo.png", "a dog"], ["transformers:", "photo.png", "a dog"],
        [*labels[:3], "--coordinates", "0-1"])  # fmt: skip
    answers = ["--answers", "answers.jsonl", "--config", "scenes.py", "--out", "out"]
    add("evaluate", [], ["model", *answers], answers[:2], [*answers, "--coordinates", "0-100"], [*answers, "--box-format", "xxyy"],
        [*answers, "--coordinates", "0x5"], [*answers, "--coordinates", "letterboxed:0"], ["--answers", "empty", *answers[2:]],
        ["--answers", "nowhere", *answers[2:]], ["--answers", "photo.png", *answers[2:]], [*answers, "--compare", "nowhere"],
        ["--answers", "/dev/zero", *answers[2:]])  # fmt: skip
    add("demo", ["model", "--port", "99999"])
    for device in DEVICES:
        add("predict", ["model", "photo.png", "a dog", "--device", device])
        add("demo", ["model", "--device", device])
    for model in NO_MODEL:
        add("predict", [model, "photo.png", "a dog", "--out", "out.png"])
        add("evaluate", [model, "--config", "scenes.py", "--out", "out"])
        add("export", [model, "--out", "out.onnx"])
        add("push_to_hub", [model, "user/name"])
    for out in ("out.xyz", "out", "out.", ".png", "out.PNG.exe"):
        add(
            "evaluate",
            ["model", "--config", "scenes.py", "--pictures", out],
            ["model", "--config", "scenes.py", "--report", out],
        )
        add("browse_data", ["scenes.py", "--out", out])
        add("export", ["model", "--out", out])
        add("plot_metrics", ["model", "--out", out])
    add("predict", ["model"], [], ["model", "photo.png"], ["model", "a dog"], ["model", "nowhere.jpg", "a dog"],
        ["model", "photo.png", "a dog", "--dtype", "int8"], ["model", "--pairs", "nowhere.jsonl"],
        ["model", "--pairs", "photo.png"], ["model", "--pairs", "empty"], ["model", "empty", "a dog"],
        ["model", "photo.png", "a dog", "--nope"])  # fmt: skip
    add("evaluate", [], ["model"], ["model", "--config", "nowhere.py"], ["model", "--config", "broken.py"],
        ["model", "--config", "scenes.py", "--splits", "nope"], ["model", "--config", "scenes.py", "--nope"])  # fmt: skip
    add(
        "migrate_config",
        [],
        ["nowhere.py"],
        ["photo.png"],
        ["empty"],
        ["broken.py"],
        ["scenes.py", "--out"],
        ["nowhere.yaml"],
    )
    add("train", [QUICKSTART, "--eval-only"], [QUICKSTART, "--num-gpus", "2"], [QUICKSTART, "--resume"])
    add("plot_metrics", [], ["nowhere"], ["empty"], ["photo.png"])
    add(
        "print_config",
        [],
        ["nowhere.py"],
        ["broken.py"],
        [QUICKSTART, "train.nope=1"],
        [QUICKSTART, "--diff", "nowhere.py"],
    )
    add("prepare_data", ["--dataset", "mine", "--source", "nowhere", "--output_dir", "out"], ["--dataset", "refcoco"],
        ["--dataset", "scenes", "--size", "0", "--store", "raw"], ["--dataset", "scenes", "--format", "csv"],
        ["--dataset", "scenes", "--splits", "nope", "--output_dir", "out"], ["--columns", "x"], ["--store", "cloud"],
        ["--dataset", "mine", "--source", "empty", "--output_dir", "out"], ["--dataset", "mine", "--source", "photo.png"],
        ["--dataset", "scenes", "--coordinates", "0-100"], ["--dataset", "scenes", "--fetch-images", "file:///etc"],
    )  # fmt: skip
    add(
        "convert_weights", [], ["nowhere.pth", "--out", "out"], ["photo.png", "--out", "out"], ["empty", "--out", "out"]
    )
    add("push_to_hub", [], ["model"], ["model", "not a name"], ["model", "a/b/c"])
    add("run_results", ["nope"], ["scenes_mask", "--seeds", "-1"], ["scenes_mask", "--seeds", "x"])
    return made


CALLS = calls()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("malformed")
    (folder / "scenes.py").write_text(
        "from rec.config import LazyCall, get_config\nfrom rec.data.dataset import RefCOCODataSet\n"
        'dataset = LazyCall(RefCOCODataSet)(dataset="scenes", ann_path={"scenes": {"path": "scenes", "count": 2, "size": 64}}, '
        'input_shape=[32, 32], split="train")\ntrain = get_config("common/train.py").train\n',
        encoding="utf-8",
    )
    (folder / "broken.py").write_text("train = dict(", encoding="utf-8")
    write_folder(folder / "model")
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "model.safetensors").write_bytes(b"nothing")
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "photo.png")
    return folder


def contents(folder: Path) -> dict[str, int]:
    return {
        str(p.relative_to(folder)): p.stat().st_size
        for p in folder.rglob("*")
        if p.is_file() and "cache" not in p.parts
    }


@pytest.mark.parametrize(
    ("script", "words"), CALLS, ids=[f"{number}-{script}" for number, (script, _) in enumerate(CALLS)]
)
def test_a_malformed_call_is_one_paragraph(script, words, place, monkeypatch, call_script):
    before = contents(place)
    monkeypatch.chdir(place)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(place / "cache"))
    status, out, err = call_script(script, *words)
    assert status in (1, 2), (out, err)
    assert err.strip() and "Traceback" not in err
    assert contents(place) == before


def test_there_are_250_and_every_script_has_some():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"page_tables", "photo_sets", "write_results"}
    assert len(CALLS) >= 250 and {script for script, _ in CALLS} == scripts
    json.dumps(CALLS)
