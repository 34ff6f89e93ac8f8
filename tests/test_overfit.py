"""Every shipped model learns real photographs by heart: training, saving and evaluation as users run them.

pytest does it with one model and a few photographs; ``python tests/test_overfit.py [NAME ...]`` with all models and the whole
training split of the sample (about 40 minutes on two cores), and records what they reached in docs/results/overfit.json.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SAMPLE = REPOSITORY.parent / "shared" / "data" / "refcoco_sample"
RECORD = REPOSITORY / "docs" / "results" / "overfit.json"

TRAINING = (
    "dataset.dataset=few", "dataset.use_glove=false", "dataset.sentence_sampling=per_sentence", "dataset.input_shape=[128,128]",
    "train.evaluation.splits=[train]", "train.train_iter=null", "train.evaluation.eval_period=1000",
    "train.save_period=1000", "train.trackers=[]",
    "train.multi_scale_training.enabled=false", "train.data.share_images=true", "train.data.num_workers=0",
    "train.warmup_ratio=0.1", "train.clip_grad_norm=10", "train.log_period=20", "train.ema.enabled=false",
    "optim.lr=0.002", "train.base_lr=0.002", "train.scheduler.name=cosine",
)  # fmt: skip
LANGUAGE = tuple(
    f"model.language_encoder.{word}"
    for word in ("hidden_size=128", "num_heads=4", "ffn_size=256", "freeze_embedding=false", "dropout_rate=0.0")
)
BACKBONE = ("model.visual_backbone.pretrained=false", "model.visual_backbone.freeze_backbone=false")
FUSIONS = tuple(
    f"model.fusion_manner.modules.{k}.{word}"
    for k in range(3)
    for word in ("v_planes=null", "out_planes=128", "q_planes=128")
)


def attention(name: str) -> tuple[str, ...]:
    return tuple(f"model.{name}.{word}" for word in ("d_q=128", "d_v=128", "dropout_rate=0.0"))


SIMREC = (
    *BACKBONE, *LANGUAGE, *FUSIONS, *attention("attention_manner"), "model.multi_scale_manner.v_planes=null",
    "model.multi_scale_manner.hidden_planes=128", "model.head.in_channels=[128]", "model.head.width=0.5",
)  # fmt: skip
CSP = ("model.visual_backbone.width=0.25", "model.visual_backbone.depth=0.33")
MASK = ("dataset.with_masks=true",)
# name: config, what was reduced, updates, overrides
CASES = {
    "simrec": ("simrec_refcoco_scratch", "a quarter of the width", 500, (*SIMREC, *CSP)),
    "simrec_res": (
        "simrec_res_refcoco_scratch", "a quarter of the width", 800,
        (*SIMREC, *CSP, *MASK, *attention("mask_attention"), "model.mask_head.in_channels=128",
         "model.mask_head.hidden_channels=32"),
    ),
    "simrec_timm": (
        "simrec_timm_refcoco_scratch", "resnet18 from random weights", 500, (*SIMREC, "model.visual_backbone.model_name=resnet18"),
    ),
    "simrec_dresnet": (
        "simrec_timm_refcoco_scratch", "DResNet(50) from random weights", 400,
        (*SIMREC, "model.visual_backbone={_delete_: true, _target_: rec.models.backbones.DResNet, depth: 50}"),
    ),
    "simrec_vgg": (
        "simrec_timm_refcoco_scratch", "VGG16 from random weights, 96 pixels", 280,
        (*SIMREC, "model.visual_backbone={_delete_: true, _target_: rec.models.backbones.VGG16}", "dataset.input_shape=[96,96]"),
    ),
    "mcn": (
        "mcn_refcoco_scratch", "a quarter of the width behind DarkNet53, 96 pixels", 400,
        (*BACKBONE, *LANGUAGE, *MASK, "dataset.input_shape=[96,96]", "model.fusion_manner.q_planes=128",
         "model.fusion_manner.out_planes=256", "model.multi_scale_manner.v_planes=null",
         "model.multi_scale_manner.hidden_planes=128",
         *attention("det_attention"), *attention("seg_attention"), "model.head.in_channels=128", "model.head.hidden_channels=32",
         "model.head.anchors=[[32,59],[57,63],[89,63]]"),
    ),
    "simrec_small_mask": ("simrec_small_scenes_mask", "nothing", 500, MASK),
    "mcn_small": ("mcn_small_scenes", "nothing", 300, (*MASK, "model.head.anchors=[[32,59],[57,63],[89,63]]")),
}  # fmt: skip


def few_objects(folder: Path, images: int | None, updates: int) -> list[str]:
    """Writes the objects of so many images (None: all) of the RefCOCO sample, or without it of shape scenes, as JSONL.

    Returns:
        Overrides: the data, at most 134 phrases a batch, and as many epochs as ``updates`` take.
    """
    from rec.data.tables import open_table

    name = "refcoco" if SAMPLE.is_dir() else "scenes"
    spec = {"path": "scenes", "count": images or 95} if name == "scenes" else str(SAMPLE / "refcoco")
    table = open_table(
        spec, "train", name=name, image_path=str(SAMPLE / "images" / "train2014") if SAMPLE.is_dir() else None
    )
    chosen = list(dict.fromkeys(table.rows["image_id"]))[:images]
    lines = []
    for row in table.rows:
        if row["image_id"] in chosen:
            image = folder / row["image"]["path"]
            image.write_bytes(row["image"]["bytes"] or (Path(table.image_root) / row["image"]["path"]).read_bytes())
            x, y, w, h = row["bbox"]
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]  # the sample has no outlines
            lines.append({"image": image.name, "phrase": row["sentences"], "bbox": row["bbox"], "mask": [polygon]})
    (folder / "few.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    phrases = sum(len(line["phrase"]) for line in lines)
    batch = min(phrases, 134)
    return [
        f"+dataset.ann_path.few={{path: {folder / 'few.jsonl'}, bbox_format: xywh}}",
        f"+dataset.image_path.few={folder}",
        f"train.batch_size={batch}",
        f"train.epochs={-(-updates // (phrases // batch))}",
    ]


def run(*words: str) -> str:
    """Output of a script; fails with it where the script does."""
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def overfit(name: str, folder: Path, images: int | None = None) -> dict:
    """Trains one case on the objects of so many images (None: all) and evaluates its best model on them.

    Returns:
        The case's entry of the record.
    """
    config, change, updates, overrides = CASES[name]
    if images is not None:
        updates //= 2
    data = few_objects(folder, images, updates)
    started = time.perf_counter()
    run(
        "scripts/train.py", f"configs/{config}.py", *TRAINING, *overrides, *data,
        f"train.output_dir={folder / 'run'}",
    )  # fmt: skip
    seconds = time.perf_counter() - started
    run("scripts/evaluate.py", str(folder / "run"), "--splits", "train", "--out", str(folder / "out"))
    metrics = json.loads((folder / "out" / "metrics.json").read_text(encoding="utf-8"))
    return {
        "name": name, "config": f"configs/{config}.py", "change": change, "updates": updates,
        "train_seconds": round(seconds, 1), "metrics": {"train": metrics["train"]},
        "commands": [f"python tests/test_overfit.py {name}"],
    }  # fmt: skip


@pytest.mark.slow
def test_a_model_learns_a_few_objects_by_heart(tmp_path):
    entry = overfit("simrec_small_mask", tmp_path, images=8)
    assert entry["metrics"]["train"]["Acc@0.5"] >= 0.9


def main() -> int:
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    from run_results import circumstances

    worst = 1.0
    for name in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            entry = overfit(name, Path(folder))
        entries = {}
        if RECORD.exists():
            entries = {known["name"]: known for known in json.loads(RECORD.read_text(encoding="utf-8"))["runs"]}
        entries[name] = entry
        metrics = entry["metrics"]["train"]
        print(
            name,
            {key: round(metrics[key], 3) for key in ("Acc@0.5", "mIoU", "count")},
            entry["train_seconds"],
            "s",
            flush=True,
        )
        record = {"name": "overfit", **circumstances(), "runs": [entries[key] for key in CASES if key in entries]}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        worst = min(worst, metrics["Acc@0.5"])
    return 0 if worst >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
