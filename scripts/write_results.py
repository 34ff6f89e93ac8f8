"""Writes docs/results.md from the records in docs/results/ (scripts/run_results.py makes them).

python scripts/write_results.py
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
NOT_RUN = "not run"
KINDS = ("attribute", "place", "relation")

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
HARD = (("random object of the scene", "scenes_random_object"), ("SimREC small", "scenes_hard"))
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


def page(folder: Path) -> str:
    """The text of results.md from the ``*.json`` of ``folder``."""
    records = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    parts = [
        HEAD,
        published(records),
        scenes(records),
        recipes(records),
        precision(records),
        vocabulary(records),
        overfit(records),
        commands(records),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


HEAD = """# Results

<!-- Written by scripts/write_results.py from docs/results/*.json. Change those, not this. -->

Every figure was printed by `scripts/evaluate.py`, or by the evaluation of `scripts/train.py`, and is kept with its command, date,
versions, machine and seed in `docs/results/NAME.json`; `python scripts/run_results.py NAME` measures it again. Accuracies are per
cent: boxes with IoU > 0.5 in pixels of the original image (Acc@0.5), mean IoU of masks. "not run" is what it says."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


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

    def read(run: Mapping[str, Any]) -> float | None:
        found = run["metrics"].get(split, {}).get(name)
        return None if found is None else 100 * found

    return read


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
            told = " / ".join(f"{theirs[split]:.2f}" if split in theirs else "-" for split in splits) if theirs else "-"
            ours = value(record, metric(splits[0]), "{:.2f}")
            if record is not None:
                ours = " / ".join(value(record, metric(split), "{:.2f}") for split in splits)
            time, memory = cost(record)[1:]
            shown = f"`{stem}` {words}".replace("dataset.dataset=", "on ").strip()
            rows.append([label, " / ".join(splits), model, shown, told, ours, time, memory])
    head = ["data set", "splits", "model", "config", "published", "ours", "minutes", "GB"]
    source = figures["source"] or "The sources this project was written from give no accuracies: -."
    return f"""## RefCOCO, RefCOCO+, RefCOCOg, ReferItGame, Flickr30k

Acc@0.5 on each split. {source}

{table(head, rows)}

"Public parts only" is a timm backbone with timm's weights and word vectors learnt from the data. The other configs are the
published recipes with the right arithmetic. As published, [original arithmetic](original_arithmetic.md) included:
`configs/simrec_published.py` and `configs/mcn_published.py`, with `dataset.dataset=...` for the other data sets."""


def scene_rows(rows: Sequence[tuple[str, str]], records: Mapping[str, Any], level: int) -> list[list[str]]:
    made = []
    for label, name in rows:
        record = records.get(name)
        if name == "scenes_random_object" and record is not None:
            record = record | {"runs": [record["runs"][level]]}
        reads = [metric("test"), *(metric(f"test/{kind}") for kind in KINDS), metric("test", "mask_mIoU")]
        made.append([label, *(value(record, read, "{:.1f}") for read in reads), *cost(record)])
    return made


def scenes(records: Mapping[str, Any]) -> str:
    head = ["model", "Acc@0.5", *KINDS, "mask mIoU", "updates", "minutes", "GB"]
    return f"""## Shape scenes

1,000 scenes the model has not seen, 3,000 phrases, a third of each kind (seeds 11,000,000 on; training from 0 on), see
[scenes.md](scenes.md). Minutes and GB are those of training, on the machine named under Records.

{table(head, scene_rows(SCENES, records, 0))}

The hard level (8 to 14 objects, ordinals, relations in two steps, negation), trained and tested on it:

{table(head, scene_rows(HARD, records, 1))}"""


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
        rows.append(
            [label, value(record, metric("val"), "{:.1f}"), difference, value(record, metric("val", "mIoU"), "{:.1f}")]
        )
    return f"""## Which parts of the recipe help

One change each to the quickstart's recipe, 300 updates, seeds 1, 2 and 3: mean ± standard deviation on the 3,000 phrases of the
`val` scenes, from the runs' `metrics.jsonl`. Differences within about one standard deviation mean nothing. On one process
`head.normalize_by=processes` is the same as `batch`; it is not in the table.

{table(["recipe", "Acc@0.5", "difference", "mIoU"], rows)}"""


def precision(records: Mapping[str, Any]) -> str:
    rows = []
    for label, name in (("float32", "precision_float32"), ("bf16 autocast", "precision_bf16")):
        record = records.get(name)
        seeds = " / ".join(f"{metric('val')(run):.1f}" for run in record["runs"]) if record else NOT_RUN
        rows.append([label, value(record, metric("val"), "{:.2f}"), seeds, value(record, metric("test"), "{:.2f}")])
    return f"""## Precision

The quickstart's recipe with 1,000 updates, seeds 1, 2 and 3. `val` is evaluated in the precision of training, `test` in float32;
both have 3,000 phrases.

{table(["precision", "val, Acc@0.5", "val by seed", "test, Acc@0.5"], rows)}"""


def vocabulary(records: Mapping[str, Any]) -> str:
    rows = [
        [
            label,
            value(records.get(name), metric("val"), "{:.1f}"),
            value(records.get(name), metric("val", "mIoU"), "{:.1f}"),
        ]
        for label, name in VOCABULARY
    ]
    return f"""## Weights carried to another vocabulary

`train.load_weight` copies what fits and takes word vectors word by word. Hard scenes have other words in another order than the
easy ones the weights come from; 300 updates on them, seeds 1, 2 and 3, `val`:

{table(["start", "Acc@0.5", "mIoU"], rows)}"""


def overfit(records: Mapping[str, Any]) -> str:
    sample = records.get("refcoco_sample")
    models = records.get("overfit", {}).get("runs", [])
    rows = [
        [f"`{run['config']}`", run["change"], f"{run['metrics']['train']['Acc@0.5'] * 100:.1f}", str(run["updates"])]
        for run in models
    ] or [["every model", "", NOT_RUN, ""]]
    accuracy, iou = (value(sample, metric("train", name), "{:.1f}") for name in ("Acc@0.5", "mIoU"))
    updates, minutes, _ = cost(sample)
    return f"""## Learning real photographs by heart

A check that a model can learn, not an accuracy: `configs/simrec_small_refcoco_overfit.py` on the 95 training objects of a small
sample of RefCOCO, all their sentences, evaluated on the same. Acc@0.5: {accuracy}; mean IoU: {iou}; updates: {updates};
minutes: {minutes}.

Every model at reduced size on the same (`python tests/test_overfit.py`):

{table(["config", "reduced by", "Acc@0.5", "updates"], rows)}"""


def commands(records: Mapping[str, Any]) -> str:
    rows = []
    for name, record in records.items():
        if "runs" in record:
            versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
            rows.append([f"`{name}`", record["date"], record["machine"], versions])
    return f"""## Records

{table(["docs/results/", "date", "machine", "versions"], rows)}"""


if __name__ == "__main__":
    (DOCS / "results.md").write_text(page(DOCS / "results"), encoding="utf-8")
    print(DOCS / "results.md")
