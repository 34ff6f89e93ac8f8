"""Runs experiments of docs/results.md, through scripts/train.py and scripts/evaluate.py, and records what they gave.

    python scripts/run_results.py                              lists the experiments
    python scripts/run_results.py scenes_mask [key=value ...]  trains, evaluates, writes docs/results/scenes_mask.json
    python scripts/run_results.py 'recipe_*' --seeds 1 2 3     every experiment of that pattern, on other seeds
    python scripts/run_results.py 'teacher*' --photos FOLDER --resume    a loop of several; --resume goes on where it was stopped
    python scripts/write_results.py                            writes docs/results.md anew from the records

A record holds the commands, date, versions, machine, seeds, length, time and memory of training, and every metric: of the last
evaluation in the run's metrics.jsonl, and of the splits that scripts/evaluate.py measured.
"""

import argparse
import fnmatch
import functools
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

SCENES = "configs/simrec_small_scenes_quickstart.py"
DRAWN = "dataset.ann_path.scenes=scenes"  # the quickstart's scenes, drawn when the run starts
ANY = "configs/simrec_small_scenes_any.py"
HARDER = "configs/simrec_small_scenes_hard.py"
HARD = ("dataset.dataset=scenes_hard", "dataset.max_token_length=20")
WIDER = (
    "model.visual_backbone.channels=[32,64,128,192,256]",
    *(f"model.fusion_manner.modules.{i}.v_planes=null" for i in range(3)),
)
# A fraction of the quickstart, its schedule shortened with it: long enough for recipes to differ, short enough for three seeds.
SHORT = ("train.train_iter=300", "train.warmup_ratio=0.15", "train.log_period=50")
LONGER = "train.train_iter=1000"
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Experiment:
    """One line of docs/results.md.

    Attributes:
        config: leaf config.
        overrides: of training; the run's saved config carries them to the evaluation.
        splits: for scripts/evaluate.py; none leaves it at the last evaluation of the training run.
        seeds: one run each; none leaves the config's own.
        start_from: experiment whose best model it starts from.
        sets: of photographs, made before (scripts/photo_sets.py). In overrides $SETS is their folder, $PHOTOS that of --photos.
        labels: options of scripts/predict.py, with which the best model of ``teacher`` labels photographs before; in overrides
            $LABELS is the file.
        judged: overrides of the evaluation alone.
        profile: launch profile it is trained under.
    """

    config: str
    overrides: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("test",)
    seeds: tuple[int, ...] = ()
    start_from: str = ""
    profile: str = ""
    sets: str = ""
    labels: tuple[str, ...] | None = None
    judged: tuple[str, ...] = ()


def recipe(*overrides: str) -> Experiment:
    return Experiment(SCENES, (DRAWN, *SHORT, *overrides), splits=(), seeds=SEEDS)


PHOTOS, BF16 = "configs/simrec_photos.py", "accelerate_configs/bf16.yaml"
MINUTES = ("train.epochs=3", "train.seed=0")  # about ten of them


def own(name: str, path: str, box_format: str = "xywh") -> tuple[str, ...]:
    """Photographs' own JSONL as a data set of a name."""
    source = f"{{path: {path}, bbox_format: {box_format}, on_bad_record: skip}}"
    return f"+dataset.ann_path.{name}={source}", f"+dataset.image_path.{name}=$PHOTOS/images"


def student(labels: tuple[str, ...] | None = None) -> Experiment:
    """200 true objects, ten times an epoch beside the teacher's labels of 2,000 photographs where there are any; as many
    updates, whatever it learns from."""
    mixture = "{few: 10}" if labels is None else "{few: 10, labelled: 1}"
    more = () if labels is None else own("labelled", "$LABELS")
    data = (*own("few", "$SETS/few"), *more, f"dataset.dataset={mixture}", "train.train_iter=1000")
    return Experiment(PHOTOS, data, seeds=SEEDS, sets="halves", labels=labels)


def few(count: int, config: str, *overrides: str, start_from: str = "") -> Experiment:
    """So many objects on photographs, for as long as the config for one's own takes; judged on test once, at the end."""
    data = (*own("mine", f"$SETS/{count}"), "dataset.dataset=mine", "train.evaluation.splits=[test]")
    length = ("train.batch_size=auto", "train.epochs=auto", "train.save_period=auto")
    once = ("train.evaluation.eval_on_start=false", "train.evaluation.eval_period=1000")
    return Experiment(config, (*data, *length, *once, *overrides), (), SEEDS, start_from, BF16, "own")


def on_photos(config: str, *overrides: str) -> Experiment:
    return Experiment(config, overrides, ("val", "test"), profile=BF16)


def share(percent: int) -> Experiment:
    """So much of the training photographs, all for as many updates as ``teacher``, which is half of them."""
    data = (*own("part", f"$SETS/{percent}"), "dataset.dataset=part", "train.train_iter=834", "train.seed=0")
    once = "train.evaluation.eval_period=1000"
    return Experiment(PHOTOS, (*data, once), ("val", "test"), profile=BF16, sets="shares")


def words_for_photos(config: str, *overrides: str) -> Experiment:
    """All photographs with one encoder of the phrases or another, for half as many updates as ``photos``."""
    length = ("train.epochs=5", "train.evaluation.eval_period=5")
    return Experiment(config, (*length, *overrides), ("val", "test"), SEEDS, profile=BF16)


SCRATCH = "model.visual_backbone.pretrained=false"
SHORTER = ("train.seed=0", "train.epochs=4", "train.train_iter=1800")
EARLY_STILL = f"train.freeze_schedule=[{{modules: [{', '.join(f'visual_backbone.stages.{n}' for n in range(3))}]}}]"
MINILM = "configs/simrec_photos_minilm.py"
TEN_EPOCHS = ("train.seed=0", "train.epochs=10")
TRAINED = ("model.language_encoder.freeze=0", "train.parameter_groups.text_lr_factor=0.02")
ALL_TRAINED = ("model.language_encoder.freeze=none", "train.parameter_groups.text_lr_factor=0.02")
LORA = "+model.language_encoder.lora={rank: 8, targets: [query, value]}"
# Phrases of none, one or several objects in photographs.
ABSENT = (*own("absent", "$SETS", "xyxy"), "dataset.dataset=absent", "dataset.targets=any",
          "train.evaluation.eval_metric=Pr@F1")  # fmt: skip
BLIND = (
    "dataset.ann_path.scenes.phrases_per_scene=3",
    "train.batch_size=48",
    "train.epochs=1",
    "train.train_iter=null",
)
RANDOM_OBJECT = "scenes_random_object"  # the one experiment without a model
ADAMW = ("optim._target_=torch.optim.AdamW", "optim.weight_decay=0.01")
EXPERIMENTS = {
    "scenes_quickstart": Experiment(SCENES, (DRAWN,)),
    "scenes_no_phrase": Experiment(SCENES, (DRAWN, "dataset.hide=phrase", "train.epochs=1")),
    "scenes_no_image": Experiment(SCENES, (DRAWN, "dataset.hide=image", "train.epochs=1")),
    "scenes_hard": Experiment(SCENES, HARD),
    "scenes_hard_long": Experiment(SCENES, (*HARD, "train.epochs=9")),
    "scenes_hard_128": Experiment(SCENES, (*HARD, "dataset.input_shape=[128,128]")),
    "scenes_hard_wide": Experiment(SCENES, (*HARD, *WIDER)),
    "scenes_hard_phrases": Experiment(HARDER, judged=("dataset.ann_path.scenes_hard.phrases_per_scene=3",)),
    "scenes_hard_hour": Experiment(
        HARDER,
        ("+dataset.ann_path.scenes_hard.count={train: 33000}", "train.epochs=6", "train.evaluation.eval_period=6"),
        judged=("dataset.ann_path.scenes_hard.phrases_per_scene=3",),
    ),
    "scenes_mask": Experiment("configs/simrec_small_scenes_mask.py"),
    "scenes_mcn": Experiment("configs/mcn_small_scenes.py"),
    "scenes_any": Experiment(ANY, profile=BF16, judged=("dataset.ann_path.scenes.phrases_per_scene=3",)),
    "scenes_any_no_phrase": Experiment(ANY, (*BLIND, "dataset.hide=phrase")),
    "scenes_any_no_image": Experiment(ANY, (*BLIND, "dataset.hide=image")),
    "photos": on_photos(PHOTOS, "train.seed=0"),
    "photos_short": on_photos(
        PHOTOS, *SHORTER, "train.evaluation.eval_period=4", EARLY_STILL, "train.parameter_groups.text_lr_factor=0.2"
    ),
    "photos_random_trunk": on_photos(PHOTOS, *MINUTES, SCRATCH),
    "photos_no_phrase": on_photos(PHOTOS, *MINUTES, "dataset.hide=phrase"),
    "photos_minilm": on_photos(MINILM, *TEN_EPOCHS),
    "photos_minilm_trained": on_photos(
        MINILM, *TRAINED, EARLY_STILL, "train.seed=0", "train.epochs=13", "train.evaluation.eval_period=3"
    ),
    "photos_minilm_320": on_photos(
        MINILM, *TEN_EPOCHS, "dataset.input_shape=[320,320]", "train.evaluation.eval_period=1"
    ),
    **{f"photos_{percent}_percent": share(percent) for percent in (5, 10, 25, 100)},
    "text_500_glove": few(500, PHOTOS),
    "text_500_minilm": few(500, MINILM),
    "text_500_lora": few(500, MINILM, LORA),
    "text_500_full": few(500, MINILM, *ALL_TRAINED),
    "text_all_glove": words_for_photos(PHOTOS),
    "text_all_minilm": words_for_photos(MINILM),
    "text_all_lora": words_for_photos(MINILM, LORA, "train.parameter_groups.text_lr_factor=0.25"),
    "text_all_full": words_for_photos(MINILM, *ALL_TRAINED),
    **{f"own_{n}_model": few(n, "configs/simrec_own_photos.py", start_from="teacher") for n in (100, 300, 1000)},
    **{f"own_{n}_trunk": few(n, PHOTOS) for n in (100, 300, 1000)},
    **{f"own_{n}_scratch": few(n, PHOTOS, SCRATCH) for n in (100, 300, 1000)},
    "photos_refcoco": Experiment(
        "configs/simrec_own_photos.py",
        ("+dataset.ann_path.refcoco=data/anns/refcoco", "dataset.dataset=refcoco"),
        ("val", "testA", "testB"),
        SEEDS,
        profile=BF16,
    ),
    "teacher": Experiment(PHOTOS, (*own("half", "$SETS/half"), "dataset.dataset=half"), sets="halves"),
    "teacher_none": student(),
    "teacher_labels": student(()),
    "teacher_checked": student(("--mirror", "--agree", "0.7", "--min-score", "0.3")),
    "absent_before": Experiment(PHOTOS, splits=("val", "test"), sets="absent", judged=ABSENT),
    "absent_after": Experiment(PHOTOS, ABSENT, splits=("val", "test"), sets="absent"),
    "refcoco_sample": Experiment("configs/simrec_small_refcoco_overfit.py", splits=("train",)),
    "recipe_quickstart": recipe(),
    "recipe_iou": recipe("model.head.box_loss=iou", "model.head.box_loss_weight=5.0"),
    "recipe_diou": recipe("model.head.box_loss=diou"),
    "recipe_adamw": recipe(*ADAMW),
    "recipe_softmax": recipe("model.head.objectness_loss=softmax"),
    "recipe_by_image": recipe("model.head.normalize_by=image"),
    "recipe_frozen_late": recipe("train.freeze_schedule=[{modules: [visual_backbone], from_update: 200}]"),
    "recipe_phrases_apart": recipe("train.data.share_images=false"),
    "recipe_no_ema": recipe("train.ema.enabled=false"),
    "precision_float32": Experiment(SCENES, (DRAWN, LONGER), seeds=SEEDS),
    "precision_bf16": Experiment(SCENES, (DRAWN, LONGER), seeds=SEEDS, profile=BF16),
    "vocabulary_scratch": Experiment(SCENES, (*HARD, *SHORT), splits=(), seeds=SEEDS),
    "vocabulary_mapped": Experiment(SCENES, (*HARD, *SHORT), splits=(), seeds=SEEDS, start_from="scenes_quickstart"),
}


def main() -> int:
    from rec.command_line import whole
    from rec.files import user_path, write_json

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments or patterns, and overrides key=value")
    parser.add_argument("--seeds", nargs="+", type=whole(0, 2**31 - 1), help="in place of the experiment's own")
    add = functools.partial(parser.add_argument, type=user_path)
    add("--records", default="docs/results", help="where NAME.json goes (default: docs/results)")
    add("--runs", default="outputs/results", help="where the run folders go (default: outputs/results)")
    add("--photos", metavar="FOLDER", help="photographs of Flickr30k Entities, see scripts/photo_sets.py")
    parser.add_argument("--resume", action="store_true", help="keep what is finished and continue what is not")
    parser.add_argument("--launch", metavar="PROFILE", help="train under accelerate launch --config_file PROFILE")
    args = parser.parse_args()
    overrides = [word for word in args.names if "=" in word]
    patterns = [word for word in args.names if "=" not in word]
    if not patterns:
        print(RANDOM_OBJECT)
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:<24} {experiment.config} {' '.join(experiment.overrides)}")
        return 0
    for pattern in patterns:
        if not (names := fnmatch.filter([RANDOM_OBJECT, *EXPERIMENTS], pattern)):
            parser.error(f"no experiment {pattern!r}; there are {RANDOM_OBJECT}, {', '.join(EXPERIMENTS)}")
        for name in names:
            random = name == RANDOM_OBJECT
            record = random_object() if random else run(name, overrides, args)
            file = args.records / f"{name}.json"
            write_json(file, record)
            print(f"recorded in {file}", flush=True)
    return 0


def run(name: str, overrides: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """Trains and evaluates an experiment on each of its seeds; gives its record."""
    from rec.files import write_json

    experiment, folder = EXPERIMENTS[name], args.runs
    prepared, places = make_sets(name, args)
    overrides = [*filled(experiment.overrides, places), *overrides]
    if experiment.start_from:
        overrides.append(f"train.load_weight={folder / experiment.start_from / 'run' / 'best'}")
    profile = args.launch or experiment.profile
    launch = ["accelerate", "launch", "--config_file", profile] if profile else ["python"]
    runs = []
    for seed in args.seeds or experiment.seeds or (None,):
        output = folder / name / ("run" if seed is None else f"seed_{seed}")
        seeded = overrides if seed is None else [*overrides, f"train.seed={seed}"]
        train = [*launch, "scripts/train.py", experiment.config, *seeded, f"train.output_dir={output}"]
        commands = [*prepared, train]
        if experiment.splits:
            evaluate = ["python", "scripts/evaluate.py", str(output / "best"), "--config", str(output / "config.yaml")]
            evaluate += ["--splits", *experiment.splits, "--out", str(output / "test")]
            commands.append([*evaluate, *filled(experiment.judged, places)])
        said = [shlex.join(words) for words in commands]
        finished = output / "finished.json"
        found = json.loads(finished.read_text("utf-8")) if args.resume and finished.is_file() else {}
        if found.get("commands") == said:
            print(f"{finished} is kept", flush=True)
            runs.append(found)
            continue
        # Without --resume times and figures are those of one run from start to end.
        continued = args.resume and output.exists()
        finished.unlink(missing_ok=True)
        if not continued:
            shutil.rmtree(output, ignore_errors=True)
        seconds = command(train)
        logged = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = [line for line in logged if line["kind"] == "train"]
        metrics = {line["split"]: measured(line) for line in logged if line["kind"] == "evaluation"}
        if experiment.splits:
            command(commands[-1])
            metrics |= json.loads((output / "test" / "metrics.json").read_text(encoding="utf-8"))
        memory = round(max(line["memory_gb"] for line in steps), 2)
        entry = {"seed": seed, "commands": said, "updates": steps[-1]["update"]}
        entry["curve"] = [
            [line["update"], round(line["Acc@0.5"], 4)]
            for line in logged
            if line["kind"] == "evaluation" and "Acc@0.5" in line and line["split"] == next(iter(metrics))
        ]
        entry |= {} if continued else {"train_seconds": round(seconds, 1)}
        entry |= {"memory_gb": memory, "metrics": metrics}
        if experiment.splits:
            entry["intervals"] = json.loads((output / "test" / "intervals.json").read_text(encoding="utf-8"))
            entry["reliability"] = reliability(output / "test" / "predictions.jsonl", experiment.splits[0])
        runs.append(entry)
        write_json(finished, runs[-1])
    return {"name": name, **circumstances(), "runs": runs}


def make_sets(name: str, args: argparse.Namespace) -> tuple[list[list[str]], dict[str, str]]:
    """Makes what an experiment on photographs needs, as far as it is not there; the commands, and what stands for its places."""
    from photo_sets import make

    from rec.errors import InputError

    experiment = EXPERIMENTS[name]
    if not experiment.sets:
        return [], {}
    if args.photos is None:
        raise InputError(f"{name} is an experiment on photographs: name their folder with --photos")
    sets, labels = args.runs / "photo_sets" / experiment.sets, args.runs / name / "labels.jsonl"
    make(experiment.sets, args.photos, sets)
    commands = []
    if experiment.labels is not None:
        teacher = args.runs / "teacher" / "run" / "best"
        commands.append(["python", "scripts/predict.py", str(teacher), "--pairs", str(sets / "pairs.jsonl")])
        commands[0] += ["--labels", str(labels), *experiment.labels]
        if not (args.resume and labels.is_file()):
            command(commands[0])
    return commands, {"$SETS": str(sets), "$PHOTOS": str(args.photos), "$LABELS": str(labels)}


def filled(words: Iterable[str], places: Mapping[str, str]) -> list[str]:
    """Overrides with the places of this machine in them."""
    return [functools.reduce(lambda text, name: text.replace(name, places[name]), places, word) for word in words]


def random_object() -> dict[str, Any]:
    """The record of guessing: the expected accuracy of a random object of the scene, over all phrases and by kind."""
    from rec.data import scenes

    runs = []
    for level in ("easy", "hard"):
        rows = scenes.build_table("test", level=level).to_list()
        metrics = {"test": {"Acc@0.5": scenes.random_object_accuracy(rows)}}
        groups: list[tuple[str, Callable[[str], str | None]]] = [(kind, scenes.phrase_kind) for kind in scenes.KINDS]
        groups += [(form, scenes.phrase_form) for form in scenes.FORMS if level == "hard"]
        for group, of in groups:
            chosen = [row | {"sentences": [s for s in row["sentences"] if of(s) == group]} for row in rows]
            metrics[f"test/{group}"] = {"Acc@0.5": scenes.random_object_accuracy(chosen)}
        runs.append(
            {"level": level, "commands": [f"python scripts/run_results.py {RANDOM_OBJECT}"], "metrics": metrics}
        )
    return {"name": RANDOM_OBJECT, **circumstances(), "runs": runs}


def reliability(predictions: Path, only: str) -> dict[str, list[tuple[int, float, float]]]:
    """Of each split of a ``predictions.jsonl`` whose answers have scores, :func:`rec.evaluation.charts.reliability`; lines of one
    split do not name it: they are of ``only``."""
    from rec.evaluation import charts, report

    splits: dict[str, list[dict[str, Any]]] = {}
    for line in predictions.read_text(encoding="utf-8").splitlines():
        splits.setdefault((record := json.loads(line)).get("split", only), []).append(record)
    return {split: bins for split, records in splits.items() if (bins := charts.reliability(report.scored(records)))}


def measured(line: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation line of metrics.jsonl."""
    return {key: value for key, value in line.items() if key not in ("kind", "update", "split", "epoch")}


def command(words: list[str]) -> float:
    """Runs a command of this environment; gives the seconds it took. Ends the program with its status where it fails."""
    print(shlex.join(words), flush=True)
    started = time.perf_counter()
    status = subprocess.run([str(Path(sys.executable).with_name(words[0])), *words[1:]], check=False).returncode
    if status:
        sys.exit(status)
    return time.perf_counter() - started


def circumstances() -> dict[str, Any]:
    """When and where something was measured: date, versions, processor."""
    import torch

    import rec

    used = os.environ.get("OMP_NUM_THREADS", "")
    cores = f"{used} of {os.cpu_count()} CPU cores" if used else f"{os.cpu_count()} CPU cores"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cores
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{device}, {platform.machine()}",
        "versions": {"python": platform.python_version(), "rec": rec.__version__}
        | {package: version(package) for package in ("torch", "accelerate")},
    }


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
