"""A run is continued on the same data wherever they lie, and on no others."""

import json
import os
import shutil
from pathlib import Path

import pytest

from rec.data import scenes
from rec.data.prepare import prepare
from rec.data.tables import open_source
from rec.training.checkpoint_format import TrainerState, read_state
from rec.training.resume import differences

CONFIG = "simrec_small_scenes_quickstart"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with images and a prepared table."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "first"
    folder.mkdir()
    lines = []
    for row in scenes.generate_rows(0, 2, size=64):
        (folder / row["image"]["path"]).write_bytes(row["image"]["bytes"])
        lines.append({"image": row["image"]["path"], "phrase": row["sentences"], "bbox": row["bbox"]})
    (folder / "few.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    source = open_source({"path": str(folder / "few.jsonl"), "bbox_format": "xywh"}, name="few")
    prepare(source, folder / "out", progress=False)
    return folder


def data_at(place: Path) -> tuple[str, ...]:
    return (
        "dataset.dataset=few",
        f"+dataset.ann_path.few={place / 'out'}",
        f"+dataset.image_path.few={place}",
    )


def test_a_run_goes_on_with_its_data_in_another_place_and_not_with_edited_ones(
    place, train_here, tmp_path, monkeypatch
):
    # Its lock lives as long as the process, which here begins several times.
    monkeypatch.setattr("rec.training.process.lock_output_folder", lambda folder: folder.mkdir(exist_ok=True))
    assert train_here(CONFIG, *data_at(place), "train.train_iter=1")[0] == 0
    scratch = tmp_path / "scratch"
    shutil.copytree(place, scratch, copy_function=shutil.copyfile)
    shutil.rmtree(place)
    status, error = train_here(CONFIG, *data_at(scratch))
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    assert status == 0, error
    assert f"dataset.ann_path.few: {place / 'out'} -> {scratch / 'out'} (the same data)" in log
    assert f"dataset.image_path.few: {place} -> {scratch} (the same data)" in log
    image = next(path for path in scratch.iterdir() if path.suffix in (".jpg", ".png"))
    data = image.read_bytes()
    image.write_bytes(data + b"edited")
    status, error = train_here(CONFIG, *data_at(scratch))
    assert status == 2 and "content of the data, its rows or its images" in error and "belongs to another run" in error
    image.write_bytes(data)
    os.utime(image)
    assert train_here(CONFIG, *data_at(scratch))[0] == 0


def changed(old: dict, new: dict, **states) -> tuple[list[str], list[str]]:
    """What :func:`differences` says of two runs that differ in their configs and, name=(old, new), in their states."""
    before, after = TrainerState(config=old), TrainerState(config=new)
    for name, (first, second) in states.items():
        setattr(before, name, first)
        setattr(after, name, second)
    return differences(before, after)


MOVED = (
    {"dataset": {"ann_path": {"a": "/x"}, "image_path": "/i"}},
    {"dataset": {"ann_path": {"a": "/y"}, "image_path": "/j"}},
)


PLACES_DIFFER = ["dataset.ann_path.a", "dataset.image_path"]


@pytest.mark.parametrize(
    ("content", "fingerprint", "refused"),
    [
        (("c", "c"), ("f", "f"), []),
        (("c", "c"), ("f", "g"), []),  # a saved table's own depends on its place
        (("", "c"), ("f", "f"), []),  # a checkpoint of version 0.1
        (("c", "d"), ("f", "f"), ["content of the data", *PLACES_DIFFER]),
        (("", "c"), ("f", "g"), ["data fingerprint", *PLACES_DIFFER]),
        (("", ""), ("", ""), PLACES_DIFFER),  # nobody knows what they hold
    ],
)
def test_places_are_of_no_account_while_the_content_is_known_to_be_the_same(content, fingerprint, refused):
    found, warned = changed(*MOVED, data_content=content, data_fingerprint=fingerprint)
    assert [line.partition(":")[0].partition(",")[0] for line in found] == refused
    assert [line.endswith("(the same data)") for line in warned] == ([] if refused else [True, True])


def test_other_words_are_refused_and_their_file_may_move():
    moved = ({"dataset": {"vocabulary": "/a/vocab.json"}}, {"dataset": {"vocabulary": "/b/vocab.json"}})
    assert changed(*moved, vocabulary=("w", "w")) == (
        [],
        ["dataset.vocabulary: /a/vocab.json -> /b/vocab.json (the same words)"],
    )
    assert changed(*moved, vocabulary=("", "w"))[0], "version 0.1 did not know its words"
    same = {"dataset": {"vocabulary": "/a/vocab.json"}}
    assert changed(same, same, vocabulary=("w", "v"))[0] == ["words of the vocabulary: w -> v"]


def test_pretrained_weights_may_move_and_another_optimizer_is_refused():
    old = {
        "model": {"visual_backbone": {"pretrained_weight_path": "/a.pth"}},
        "optim": {"_target_": "torch.optim.adam.Adam"},
    }
    new = {
        "model": {"visual_backbone": {"pretrained_weight_path": "/b.pth"}},
        "optim": {"_target_": "torch.optim.Adam"},
    }
    refused, warned = changed(old, new)
    assert refused == [] and len(warned) == 2 and warned[0].endswith("(the checkpoint's weights are taken)")
    start = changed({"train": {"load_weight": ""}}, {"train": {"load_weight": "w"}})
    assert start == ([], ["train.load_weight:  -> w (the checkpoint's weights are taken)"])
    assert changed(old, new | {"optim": {"_target_": "torch.optim.SGD"}})[0] == [
        "optim._target_: torch.optim.adam.Adam -> torch.optim.SGD"
    ]


def test_an_option_that_keeps_more_state_is_refused_and_a_rate_is_not():
    options = {"_target_": "torch.optim.Adam", "weight_decay": 0.0}
    more = options | {"amsgrad": True, "weight_decay": 0.1}
    assert changed({"optim": options}, {"optim": more}) == (
        ["optim.amsgrad: None -> True"],
        ["optim.weight_decay: 0.0 -> 0.1"],
    )
    assert changed({"optim": options}, {"optim": options | {"amsgrad": False}})[0] == []  # what it is by default
    assert changed({"optim": more}, {"optim": options})[0] == []
    still = {"_target_": "torch.optim.RMSprop", "momentum": 0.0}
    assert changed({"optim": still}, {"optim": still | {"momentum": 0.9}})[0] == ["optim.momentum: 0.0 -> 0.9"]
    of_sgd = still | {"_target_": "torch.optim.SGD"}
    assert changed({"optim": of_sgd}, {"optim": of_sgd | {"momentum": 0.9}}) == ([], ["optim.momentum: 0.0 -> 0.9"])
    moving = still | {"momentum": 0.8}
    assert changed({"optim": moving}, {"optim": still | {"momentum": 0.9}}) == ([], ["optim.momentum: 0.8 -> 0.9"])


def test_a_checkpoint_notes_data_and_words(place, train_here, tmp_path):
    assert train_here(CONFIG, *data_at(place))[0] == 0
    (newest,) = (tmp_path / "run" / "checkpoints").glob("step_*")
    state = read_state(newest)
    assert state.data_fingerprint and len(state.data_content) == len(state.vocabulary) == 32
    assert state.versions["mixed precision"] == "no"


def test_another_precision_and_other_libraries_are_told():
    before = {"torch": "2.13", "mixed precision": "bf16"}
    after = {"torch": "2.14", "mixed precision": "no", "python": "3.11"}
    assert changed({}, {}, versions=(before, after)) == (
        [],
        ["mixed precision: bf16 -> no", "torch: version 2.13 -> 2.14"],
    )
    assert changed({}, {}, versions=({}, after)) == ([], [])  # an earlier version did not note it


def test_the_relative_paths_of_a_saved_config_start_where_the_run_did(tmp_path, monkeypatch):
    from rec.config import LazyConfig
    from rec.model_folder.allowed import STARTED_IN, load_config, outward

    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "data" / "scenes", home / "scenes", home / "simrec", home / "run", elsewhere):
        folder.mkdir(parents=True)
    own = {"path": "data/scenes", "bbox_format": "xywh"}
    config = {
        "dataset": {
            "dataset": "scenes",
            "ann_path": {"a": "./data", "own": own, "scenes": "scenes", "gone": "data/no"},
            "tokenizer": "simrec",
            "vocabulary": "transformers:data",
        },
        "train": {"output_dir": "run", "load_weight": "", "resume_path": "data"},
    }
    saved = home / "run" / "config.yaml"
    LazyConfig.save(config, saved, f"{STARTED_IN}{home}")
    monkeypatch.chdir(home)
    assert load_config(saved).dataset == config["dataset"], "as written"
    monkeypatch.chdir(elsewhere)
    cfg = load_config("../home/run/config.yaml", ["+dataset.image_path=here"])
    assert cfg.train.output_dir == str(home / "run") and cfg.train.resume_path == str(home / "data")
    assert cfg.dataset.ann_path.a == str(home / "data") and cfg.dataset.ann_path.own.path == str(
        home / "data" / "scenes"
    )
    assert cfg.dataset.ann_path.own.bbox_format == "xywh" and cfg.dataset.ann_path.gone == "data/no"
    assert cfg.dataset.dataset == cfg.dataset.ann_path.scenes == "scenes" and cfg.dataset.image_path == "here"
    assert cfg.dataset.tokenizer == "simrec" and cfg.dataset.vocabulary == f"transformers:{home / 'data'}"
    assert outward(cfg, saved, []) is None, "a run is continued where its config lies"
    published = load_config(saved, ["dataset.tokenizer=transformers:here"])
    assert published.dataset.tokenizer == "transformers:here", "what the command says starts from here"
    LazyConfig.save(config | {"dataset": {"tokenizer": "transformers:data"}}, saved, f"{STARTED_IN}{home}")
    assert load_config(saved).dataset.tokenizer == f"transformers:{home / 'data'}"
    LazyConfig.save(config, saved, f"{STARTED_IN}{home}")
    shutil.copy(saved, elsewhere / "config.yaml")
    copied = load_config("config.yaml")
    assert copied.dataset == config["dataset"] and copied.train.output_dir == "run", "a copy is a config like any other"
