"""Evaluate a trained model: a table of metrics per split, predictions.jsonl and metrics.json.

    python scripts/evaluate.py RUN_FOLDER
    python scripts/evaluate.py MODEL_FOLDER --config configs/x.py --splits val testA testB
    accelerate launch --num_processes 2 scripts/evaluate.py CHECKPOINT --out outputs/evaluation

The data come from the config (by default the run's own config.yaml), the model with its image size, normalisation and
vocabulary from the folder. Metrics are the same on any number of processes.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def main() -> int:
    args = parse_arguments()
    from accelerate import Accelerator

    from rec.data.loader import evaluation_loader
    from rec.errors import CheckpointError
    from rec.evaluation import evaluate
    from rec.evaluation.evaluate import write
    from rec.evaluation.metrics import format_table
    from rec.files import refuse_inputs
    from rec.model_folder.find import locate
    from rec.model_folder.format import files_of
    from rec.models.soundness import PredictionError
    from rec.training.checkpoint_format import AVERAGED, WEIGHTS, problem
    from rec.training.process import end_together, keep_freed_memory

    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    say = print if accelerator.is_main_process else lambda *_: None
    trained = locate(args.model)
    read = AVERAGED if (trained.folder / AVERAGED).exists() else WEIGHTS
    if trained.is_checkpoint and (trouble := problem(trained.folder, only=[read])):
        raise CheckpointError(f"{trouble}; evaluate another checkpoint of the run")
    cfg, vocabulary = read_run_config(args, trained)
    datasets = build_datasets(cfg, args.splits or list(cfg.train.evaluation.splits), vocabulary)
    out = args.out or Path("outputs/evaluation")
    outputs = [out / "metrics.json", out / "predictions.jsonl", *filter(None, (args.pictures, args.report))]
    refuse_inputs(outputs, [args.config, *files_of(trained.folder)], datasets.values())
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    # A checkpoint's model is the config's: a Python file is the user's own program, whatever it names.
    trust = args.trust_config or (trained.is_checkpoint and str(args.config).endswith(".py"))
    model, origin = trained.load(cfg, next(iter(datasets.values())), trust)
    model = model.to(accelerator.device)
    say(f"{trained.folder}: {type(model).__name__}, {origin}")

    data, options = cfg.train.data, cfg.train.evaluation
    rows: dict[str, dict[str, float]] = {}
    lines: dict[str, list[dict[str, Any]]] = {}
    for split, dataset in datasets.items():
        loader = evaluation_loader(
            dataset,
            options.eval_batch_size,
            processes=accelerator.num_processes,
            rank=accelerator.process_index,
            num_workers=data.num_workers,
            pin_memory=data.pin_memory,
        )
        started = time.perf_counter()
        try:
            rows[split], lines[split] = evaluate(
                model, loader, dataset, accelerator, mean=data.mean, std=data.std,
                limit=options.get("eval_iter"), evaluator=build_evaluator(cfg), progress=True,
            )  # fmt: skip
        except PredictionError as error:
            error.add_note(f"the weights are those of {trained.folder}, the split is {split}")
            raise
        seconds = time.perf_counter() - started
        count = rows[split].get("count", len(dataset))
        say(f"{split}: {count} phrases in {seconds:.1f} s on {accelerator.num_processes} process(es)")
        if any(line["mask"] is not None for line in lines[split]) and "mask_mIoU" not in rows[split]:
            say(
                f"{split}: the model predicts masks, the split has none to compare with; is dataset.with_masks=true missing?"
            )
        rows |= scene_kinds(split, lines[split])

    if accelerator.is_main_process:
        say(f"\n{format_table(rows)}\n")
        write(out, rows, lines)
        say(f"metrics      {out / 'metrics.json'}\npredictions  {out / 'predictions.jsonl'}")
        first = next(iter(datasets))
        if args.pictures:
            from rec.evaluation.pictures import prediction_grid, save

            save(prediction_grid(datasets[first], lines[first]), args.pictures)
            say(f"pictures     {args.pictures}")
        if args.report:
            from rec.evaluation.report import write_report

            write_report(args.report, datasets, lines, title=f"{trained.folder}: {origin}")
            say(f"report       {args.report}")
    end_together(accelerator)
    return 0


def parse_arguments() -> argparse.Namespace:
    from rec.command_line import PICTURES, add_trust_option, ending
    from rec.files import user_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint, or model folder")
    parser.add_argument(
        "--config", type=user_path, help="a lazy config with dataset and train; default: the run's config.yaml"
    )
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: train.evaluation.splits of the config")
    parser.add_argument(
        "--out",
        type=user_path,
        metavar="FOLDER",
        help="for metrics.json and predictions.jsonl; default outputs/evaluation",
    )
    parser.add_argument(
        "--pictures", type=ending(*PICTURES), metavar="PNG", help="draw a grid of predictions of the first split"
    )
    parser.add_argument(
        "--report", type=ending(".html", ".htm"), metavar="HTML", help="write one self-contained report of all splits"
    )
    add_trust_option(parser)
    args, overrides = parser.parse_known_args([word for word in sys.argv[1:] if word != "--cfg-options"])
    # `--splits val testA key=value`: what has a "=" is an override, wherever it stands.
    args.overrides = [word for word in [*overrides, *(args.splits or [])] if "=" in word]
    args.splits = [word for word in args.splits or [] if "=" not in word]
    unknown = [word for word in overrides if "=" not in word]
    if unknown:
        parser.error(f"unknown argument {unknown[0]}; overrides are written key=value")
    return args


def read_run_config(args: argparse.Namespace, trained: Any) -> tuple[Any, Any]:
    """The config the data come from, with the model folder's own input size, and the model's vocabulary (or None)."""
    from rec.config import ConfigError, LazyConfig, try_get_key
    from rec.model_folder.allowed import checked_config, load_config
    from rec.model_folder.format import ModelFolderError, checked_file, read_config
    from rec.model_folder.reader import load_vocabulary
    from rec.training.keys import check_values

    args.config = path = args.config or trained.run_config
    if path is None:
        raise ModelFolderError(
            f"{trained.folder} has no run config beside it; name the data with --config configs/x.py"
        )
    load_config(path, trust_config=args.trust_config)  # before anything in it is looked at
    cfg = LazyConfig.load(path)
    for group in ("dataset", "train", "train.data", "train.evaluation", *(["model"] if trained.is_checkpoint else [])):
        if not isinstance(try_get_key(cfg, group), Mapping):
            raise ModelFolderError(f"{path} has no group `{group}`, which the evaluation of {trained.folder} needs")
    if "candidate_transforms" in cfg.dataset:
        cfg.dataset.candidate_transforms = {}  # augmentation is for training; building it would only cost time
    if not trained.is_checkpoint:
        preprocess = read_config(checked_file(trained.folder, "config.yaml"))["preprocess"]
        for key in ("input_shape", "max_token_length"):
            if key in cfg.dataset:
                cfg.dataset[key] = preprocess[key]
        cfg.train.data.mean, cfg.train.data.std = preprocess["mean"], preprocess["std"]
    cfg = checked_config(LazyConfig.apply_overrides(cfg, args.overrides), path, args.trust_config)
    if problems := check_values(cfg, ("dataset", "train.data", "train.evaluation")):
        raise ConfigError("; ".join(problems))
    places = (trained.folder, trained.folder.parent.parent / "best")
    found = [checked_file(folder, "vocab.json") for folder in places if (folder / "vocab.json").exists()]
    tokenizer = cfg.dataset.get("tokenizer", "simrec")
    return cfg, load_vocabulary(found[0], args.trust_config, tokenizer) if found else None


def build_datasets(cfg: Any, splits: list[str], vocabulary: Any) -> dict[str, Any]:
    from rec.training.build import build_dataset, set_vocabulary_size

    datasets: dict[str, Any] = {}
    for split in splits:
        datasets[split] = build_dataset(cfg, split, training=False, vocabulary=vocabulary)
        vocabulary = vocabulary or getattr(datasets[split], "vocabulary", None)
    if "model" in cfg:
        set_vocabulary_size(cfg, vocabulary)
    return datasets


def build_evaluator(cfg: Any) -> Any:
    from rec.config import instantiate

    return instantiate(cfg.train.evaluation.evaluator) if cfg.train.evaluation.get("evaluator") else None


def scene_kinds(split: str, records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Metrics of the three thirds of shape scenes: phrases by attribute, place and relation."""
    if not any(str(record.get("source")).startswith("scenes") for record in records):
        return {}
    from rec.data.scenes import phrase_kind
    from rec.evaluation.metrics import breakdown

    return {f"{split}/{kind}": row for kind, row in breakdown(records, lambda r: phrase_kind(r["sentence"])).items()}


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
