"""Writes the tables of docs/results.md, that of the README, and docs/figures/, from the records in docs/results/.

    python scripts/write_results.py

scripts/run_results.py makes the records. The prose around the tables is the pages' own.
"""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from page_tables import fill, table

from rec.evaluation.charts import as_file, calibration, curves
from rec.files import write_text

DOCS = Path(__file__).parents[1] / "docs"
NOT_RUN = "not run"
Read = str | tuple[str, str]  # a split, whose Acc@0.5 is meant, or a split and a metric
KINDS = ("attribute", "place", "relation")
SIZES = ("small", "medium", "large")  # COCO's classes
FORMS = ("negation", "ordinal", "two steps")  # of the hard level

# (data set, its name in the configs, splits)
DATA_SETS = (
    ("RefCOCO", "refcoco", ("val", "testA", "testB")),
    ("RefCOCO+", "refcoco+", ("val", "testA", "testB")),
    ("RefCOCOg (umd)", "refcocog", ("val", "test")),
    ("ReferItGame (RefClef)", "referit", ("val", "test")),
    ("Flickr30k Entities", "flickr", ("val", "test")),
)
# (model, config with {} for the data set, what is left to say on the command line)
MODELS = (
    ("SimREC, from scratch", "simrec_{}_scratch", ""),
    ("SimREC, pre-trained", "simrec_refcoco_finetune", "dataset.dataset={}"),
    ("SimREC, public parts only", "simrec_timm_{}_scratch", ""),
    ("MCN", "mcn_refcoco_scratch", "dataset.dataset={}"),
)
SCENES = (
    ("random object of the scene", "scenes_random_object"),
    ("SimREC small, sees no phrase", "scenes_no_phrase"),
    ("SimREC small, sees no image", "scenes_no_image"),
    ("**SimREC small (the quickstart)**", "scenes_quickstart"),
    ("SimREC small with masks", "scenes_mask"),
    ("MCN small", "scenes_mcn"),
)
ANY = (  # label, record, row of its metrics
    ("answers nothing", "scenes_any", "test/answer nothing"),
    ("SimREC small, sees no phrase", "scenes_any_no_phrase", "test"),
    ("SimREC small, sees no image", "scenes_any_no_image", "test"),
    ("SimREC small", "scenes_any", "test"),
)
PHOTOS = (
    ("SimREC of 2.5 million parameters on YOLOX-Nano", "photos"),
    ("the same weights with box voting (photo-small)", "photos_voting"),
    ("phrases by MiniLM, frozen, in place of GloVe and a GRU", "photos_minilm"),
    ("the same at 320 pixels", "photos_minilm_320"),
    ("MiniLM's layers trained, the backbone's stem and first stages frozen", "photos_minilm_trained"),
    ("the same weights with box voting", "photos_minilm_trained_voting"),
    ("photo-small's recipe, ten minutes of two idle cores", "photos_short"),
    ("the same weights with box voting", "photos_short_voting"),
    ("three epochs, backbone not pretrained", "photos_random_trunk"),
    ("three epochs, sees no phrase", "photos_no_phrase"),
)
PHOTO_FLOORS = (  # of the data, as their README has them: val, test
    ("whole image", 24.0, 25.1),
    ("best fixed box", 28.5, 29.7),
    ("best box of the phrase's last word, image not seen", 32.4, 33.6),
)
TRAINING_PHOTOGRAPHS = 7298
GROWTH = {
    5: "photos_5_percent",
    10: "photos_10_percent",
    25: "photos_25_percent",
    50: "teacher",
    100: "photos_100_percent",
}
REFCOCO = (("photo-small as it is", "photo_small_refcoco"), ("trained on 95 objects, three seeds", "photos_refcoco"))
TEACHER = (
    ("the teacher: the other half of the training photographs", "teacher"),
    ("200 true objects alone", "teacher_none"),
    ("and its labels of 2,000 photographs, unchecked", "teacher_labels"),
    ("and its labels that the mirrored photograph and a score of 0.3 confirm", "teacher_checked"),
)
OWN_OBJECTS = (100, 300, 1000)
OWN = (
    ("a photo model, trained on the other half of the photographs", "model"),
    ("COCO's backbone and neck", "trunk"),
    ("nothing", "scratch"),
)
TEXT = (
    ("GloVe and a GRU", "glove"),
    ("MiniLM, frozen", "minilm"),
    ("MiniLM, LoRA of rank 8", "lora"),
    ("MiniLM, all of it trained", "full"),
)
ABSENT = (
    ("answers nothing", "absent_after", "test/answer nothing"),
    ("trained on phrases of one object each", "absent_before", "test"),
    ("trained on none, one and several", "absent_after", "test"),
)
HARD = (
    ("random object of the scene", "scenes_random_object"),
    ("SimREC small", "scenes_hard"),
    ("SimREC small, three times as long", "scenes_hard_long"),
    ("SimREC small, 128 pixels", "scenes_hard_128"),
    ("SimREC small, a wider backbone", "scenes_hard_wide"),
    ("SimREC small, learns from 12 phrases of each scene", "scenes_hard_phrases"),
    ("the same, three times the scenes", "scenes_hard_hour"),
)
RECIPES = (
    ("the quickstart's recipe: GIoU, Adam, BCE, positives counted over the batch, EMA", "recipe_quickstart"),
    ("box loss 1 - IoU² (SimREC's, weight 5)", "recipe_iou"),
    ("box loss DIoU", "recipe_diou"),
    ("AdamW, weight decay 0.01", "recipe_adamw"),
    ("objectness: cells compete (softmax)", "recipe_softmax"),
    ("positives counted by image (exact on any division of the batch)", "recipe_by_image"),
    ("backbone frozen for the last third", "recipe_frozen_late"),
    ("phrases of an image not in one batch", "recipe_phrases_apart"),
    ("no EMA", "recipe_no_ema"),
)
VOCABULARY = (
    ("from scratch", "vocabulary_scratch"),
    ("from the quickstart's weights, words mapped", "vocabulary_mapped"),
)
SUMMARY = (  # data (empty: as above), model, record
    ("shape scenes, 3,000 unseen phrases", "SimREC small, the quickstart", "scenes_quickstart"),
    ("", "SimREC small with masks", "scenes_mask"),
    ("", "MCN small", "scenes_mcn"),
    ("", "a random object of the scene", "scenes_random_object"),
    ("hard shape scenes: ordinals, relations in two steps, negation", "SimREC small", "scenes_hard_phrases"),
    ("", "SimREC small, three times the scenes", "scenes_hard_hour"),
    ("285 photographs, 3,868 phrases of captions (a quarter of Flickr30k Entities' test)",
     "photo-small: 2.5 million parameters, YOLOX-Nano's backbone, GloVe", "photos_voting"),
    ("", "MiniLM for the phrases, trained too, in place of GloVe", "photos_minilm_trained_voting"),
)  # fmt: skip


def read(folder: Path) -> dict[str, Any]:
    """Name to record, of the ``*.json`` of ``folder``."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}


def summary(folder: Path) -> dict[str, str]:
    """Name to Markdown of the README's table."""
    records, rows = read(folder), []
    for data, model, name in SUMMARY:
        record = records.get(name)
        if name == "scenes_random_object" and record is not None:
            record = record | {"runs": record["runs"][:1]}
        accuracy = value(record, metric("test"), "{:.1f} %")
        if (masks := value(record, metric("test", "mask_mIoU"), "{:.1f} %")) not in (NOT_RUN, "-"):
            accuracy += f", mask mIoU {masks}"
        minutes = cost(record)[1]
        rows.append([data, model, accuracy, minutes if minutes in (NOT_RUN, "-") else f"{minutes} minutes"])
    rows.append(["RefCOCO, RefCOCO+, RefCOCOg, ReferIt, Flickr30k in full", "all configs", NOT_RUN, NOT_RUN])
    return {"summary": table(["data", "model", "Acc@0.5", "training on two CPU cores"], rows)}


def tables(folder: Path) -> dict[str, str]:
    """Name to Markdown of every table of results.md, from the ``*.json`` of ``folder``."""
    records = read(folder)

    def cells(name: str, *reads: Read) -> list[str]:
        return figures_of(records.get(name), *reads)

    return {
        "published": published(records),
        "scenes": scenes(SCENES, records, 0),
        "scenes-hard": scenes(HARD, records, 1),
        "photos": photos(records),
        "scenes-any": any_number(ANY, records),
        "teacher": table(
            ["trained on", "val, Acc@0.5", "test, Acc@0.5", "updates"],
            [
                [
                    label,
                    *cells(name, "val", "test"),
                    ", ".join(sorted({str(run["updates"]) for run in runs(records, name)})),
                ]
                for label, name in TEACHER
            ],
        ),
        "own": table(
            ["starts from", *(f"{count} objects" for count in OWN_OBJECTS)],
            [[label, *(cells(f"own_{n}_{start}", "test")[0] for n in OWN_OBJECTS)] for label, start in OWN],
        ),
        "text": table(
            ["phrases", "500 objects, test", "all objects, val", "all objects, test"],
            [
                [label, *cells(f"text_500_{name}", "test"), *cells(f"text_all_{name}", "val", "test")]
                for label, name in TEXT
            ],
        ),
        "refcoco": table(
            ["Acc@0.5", "val (55 phrases)", "testA (189)", "testB (207)"],
            [[label, *cells(name, "val", "testA", "testB")] for label, name in REFCOCO],
        ),
        "growth": table(
            ["photographs", *(f"{round(TRAINING_PHOTOGRAPHS * percent / 100):,}" for percent in GROWTH)],
            [[f"{split}, Acc@0.5", *(cells(name, split)[0] for name in GROWTH.values())] for split in ("val", "test")],
        ),
        "absent": any_number(ABSENT, records),
        "recipes": recipes(records),
        "precision": precision(records),
        "vocabulary": table(
            ["start", "Acc@0.5", "mIoU"], [[label, *cells(name, "val", ("val", "mIoU"))] for label, name in VOCABULARY]
        ),
        "by-heart": table(
            ["Acc@0.5", "mean IoU", "updates", "minutes"],
            [[*cells("refcoco_sample", "train", ("train", "mIoU")), *cost(records.get("refcoco_sample"))[:2]]],
        ),
        "by-heart-reduced": by_heart_reduced(records),
        "records": machines(records),
    }


def figures(folder: Path) -> dict[str, str]:
    """Name to SVG of every figure of results.md, from the ``*.json`` of ``folder``; one whose records are missing is left out."""
    records, made = read(folder), dict[str, str]()
    if record := records.get("photos"):
        made["photos_reliability.svg"] = as_file(calibration(record["runs"][0]["reliability"]["val"]))
    known = {percent: records[name]["runs"][0]["metrics"] for percent, name in GROWTH.items() if name in records}
    if len(known) > 2:
        lines = {
            split: [(_place(percent), metrics[split]["Acc@0.5"]) for percent, metrics in known.items()]
            for split in ("val", "test")
        }
        ticks = [(_place(percent), f"{percent} %") for percent in GROWTH]
        made["photos_growth.svg"] = as_file(
            curves("Acc@0.5 by data", "of the training photographs", "Acc@0.5", lines, ticks)
        )
    if record := records.get("photos_minilm_320"):
        (run,) = record["runs"]
        points = [(update / run["updates"] * run["train_seconds"] / 3600, found) for update, found in run["curve"]]
        ticks = [(minutes / 60, str(minutes)) for minutes in range(0, 61, 10)]
        made["photos_minutes.svg"] = as_file(
            curves("Acc@0.5 by time", "minutes of training", "Acc@0.5", {"val": points}, ticks)
        )
    return made


def _place(percent: int) -> float:
    """Of a share on a logarithmic axis."""
    return math.log(percent / min(GROWTH)) / math.log(max(GROWTH) / min(GROWTH))


def value(record: Mapping[str, Any] | None, read: Callable[[Mapping[str, Any]], float | None], form: str) -> str:
    """A figure over the runs of a record: the one, or mean ± standard deviation; "not run" and "-" for none."""
    if record is None:
        return NOT_RUN
    values = [found for run in record["runs"] if (found := read(run)) is not None]
    if not values:
        return "-"
    mean = form.format(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {form.format(statistics.stdev(values))}"


def metric(split: str, name: str = "Acc@0.5") -> Callable[[Mapping[str, Any]], float | None]:
    """Reads a metric of a run in per cent."""

    def of_run(run: Mapping[str, Any]) -> float | None:
        found = run["metrics"].get(split, {}).get(name)
        return None if found is None else 100 * found

    return of_run


def figures_of(record: Mapping[str, Any] | None, *reads: Read) -> list[str]:
    """Figures over the runs of a record in per cent: of a split its Acc@0.5, or (split, metric)."""
    return [value(record, metric(*([read] if isinstance(read, str) else read)), "{:.1f}") for read in reads]


def runs(records: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return records[name]["runs"] if name in records else []


def cost(record: Mapping[str, Any] | None) -> list[str]:
    """Updates, minutes and gigabytes of training."""
    return [
        value(record, lambda run: run.get("updates"), "{:.0f}") if record and len(record["runs"]) == 1 else "-",
        value(record, lambda run: run["train_seconds"] / 60 if "train_seconds" in run else None, "{:.1f}"),
        value(record, lambda run: run.get("memory_gb"), "{:.1f}"),
    ]


def published(records: Mapping[str, Any]) -> str:
    figures = records.get("published", {"source": "", "figures": {}})
    rows = []
    for label, name, splits in DATA_SETS:
        for model, config, more in MODELS:
            stem, words = config.format(name), more.format(name) if name != "refcoco" else ""
            if stem.startswith("mcn") and name == "flickr":  # it has no masks
                continue
            record = records.get(f"{stem}_{name}" if more else stem)
            theirs = figures["figures"].get(model, {}).get(name, {})
            cell = " / ".join(f"{theirs[split]:.2f}" if split in theirs else "-" for split in splits) if theirs else "-"
            ours = value(record, metric(splits[0]), "{:.2f}")
            if record is not None:
                ours = " / ".join(value(record, metric(split), "{:.2f}") for split in splits)
            time, memory = cost(record)[1:]
            shown = f"`{stem}` {words}".replace("dataset.dataset=", "on ").strip()
            rows.append([label, " / ".join(splits), model, shown, cell, ours, time, memory])
    head = ["data set", "splits", "model", "config", "published", "ours", "minutes", "GB"]
    source = figures["source"] or "The sources this project was written from give no accuracies: -."
    return f"{source}\n\n{table(head, rows)}"


def scenes(models: Sequence[tuple[str, str]], records: Mapping[str, Any], level: int) -> str:
    """Shape scenes of the easy (0) or hard (1) level."""
    rows, parts = [], KINDS + FORMS * level
    for label, name in models:
        record = records.get(name)
        if name == "scenes_random_object" and record is not None:
            record = record | {"runs": [record["runs"][level]]}
        found = figures_of(record, "test", *(f"test/{part}" for part in parts), ("test", "mask_mIoU"))
        rows.append([label, *found, *cost(record)])
    return table(["model", "Acc@0.5", *parts, "mask mIoU", "updates", "minutes", "GB"], rows)


def any_number(models: Sequence[tuple[str, str, str]], records: Mapping[str, Any]) -> str:
    """Phrases of none, one or several objects."""
    rows = []
    for label, name, part in models:
        record = records.get(name)
        reads = [(part, key) for key in ("Pr@F1", "N-acc", "T-acc")]
        reads += [(f"{part}/{number}", "Pr@F1") for number in ("none", "one", "several")]
        trained = cost(record) if part == "test" else ["-"] * 3
        rows.append([label, *figures_of(record, *reads), *trained])
    return table(["model", "Pr@F1", "N-acc", "T-acc", "none", "one", "several", "updates", "minutes", "GB"], rows)


def photos(records: Mapping[str, Any]) -> str:
    """Flickr30k Entities on the photographs that are also in Flickr8k."""
    rows = [[label, f"{val:.1f}", f"{test:.1f}", *["-"] * 8] for label, val, test in PHOTO_FLOORS]
    for label, name in PHOTOS:
        record = records.get(name)
        ends = [bounds for run in runs(records, name) if (bounds := run.get("intervals", {}).get("test"))]
        shown = " to ".join(f"{100 * end:.1f}" for end in ends[0]["Acc@0.5"]) if len(ends) == 1 else "-"
        accuracies, sizes = figures_of(record, "val", "test", ("test", "mIoU")), (f"test/{size}" for size in SIZES)
        rows.append([label, *accuracies, shown, *figures_of(record, *sizes), *cost(record)])
    head = ["model", "val Acc@0.5", "test Acc@0.5", "test mIoU", "test, 95 %", *(f"test, {size}" for size in SIZES)]
    return table([*head, "updates", "minutes", "GB"], rows)


def recipes(records: Mapping[str, Any]) -> str:
    base = records.get("recipe_quickstart")
    reference = None if base is None else statistics.mean(run["metrics"]["val"]["Acc@0.5"] for run in base["runs"])
    rows = []
    for label, name in RECIPES:
        record = records.get(name)
        difference = NOT_RUN
        if record is not None and reference is not None:
            mean = statistics.mean(run["metrics"]["val"]["Acc@0.5"] for run in record["runs"])
            difference = "" if name == "recipe_quickstart" else f"{100 * (mean - reference):+.1f}"
        accuracy, iou = figures_of(record, "val", ("val", "mIoU"))
        rows.append([label, accuracy, difference, iou])
    return table(["recipe", "Acc@0.5", "difference", "mIoU"], rows)


def precision(records: Mapping[str, Any]) -> str:
    rows = []
    for label, name in (("float32", "precision_float32"), ("bf16 autocast", "precision_bf16")):
        record = records.get(name)
        seeds = " / ".join(f"{metric('val')(run):.1f}" for run in record["runs"]) if record else NOT_RUN
        rows.append([label, value(record, metric("val"), "{:.2f}"), seeds, value(record, metric("test"), "{:.2f}")])
    return table(["precision", "val, Acc@0.5", "val by seed", "test, Acc@0.5"], rows)


def by_heart_reduced(records: Mapping[str, Any]) -> str:
    rows = [
        [f"`{run['config']}`", run["change"], f"{run['metrics']['train']['Acc@0.5'] * 100:.1f}", str(run["updates"])]
        for run in records.get("overfit", {}).get("runs", [])
    ] or [["every model", "", NOT_RUN, ""]]
    return table(["config", "reduced by", "Acc@0.5", "updates"], rows)


def machines(records: Mapping[str, Any]) -> str:
    rows = []
    for name, record in records.items():
        if "runs" in record:
            versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
            rows.append([f"`{name}`", record["date"], record["machine"], versions])
    return table(["docs/results/", "date", "machine", "versions"], rows)


if __name__ == "__main__":
    for page, made in ((DOCS.parent / "README.md", summary), (DOCS / "results.md", tables)):
        write_text(page, fill(page.read_text(encoding="utf-8"), made(DOCS / "results")))
    for name, figure in figures(DOCS / "results").items():
        write_text(DOCS / "figures" / name, figure)
    print(DOCS / "results.md")
