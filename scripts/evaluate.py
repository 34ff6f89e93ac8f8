"""Evaluate a trained model, or anybody's answers: a table of metrics per split, predictions.jsonl and metrics.json.

    rec evaluate RUN_FOLDER
    rec evaluate MODEL_FOLDER --config configs/x.py --splits val testA testB
    accelerate launch --num_processes 2 scripts/evaluate.py CHECKPOINT --out outputs/evaluation
    rec evaluate RUN_FOLDER --report report.html --compare other/predictions.jsonl
    rec evaluate --answers answers.jsonl --coordinates 0-1000 --config configs/x.py --splits val

The data come from the config (by default the run's own config.yaml; arguments key=value override it), the model with its
image size, normalisation and vocabulary from the folder. Metrics are the same on any number of processes.
"""

import argparse
import logging
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rec.contracts import Answer
    from rec.evaluation.report import Look

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

HEADLINES = ("Acc@0.5", "Acc@0.5:0.95", "mIoU", "mask_mIoU", "Pr@F1", "gIoU")
Rows = dict[str, dict[str, float]]
Lines = dict[str, list[dict[str, Any]]]
Say = Callable[[str], None]


class Scored(NamedTuple):
    """What came out.

    Attributes:
        what: was evaluated, in words.
        datasets, rows, lines: by split: the data, its metrics and its records.
        name: of the data set.
        look: where the model looked, as the report asks for it; None where that cannot be told.
    """

    what: str
    datasets: dict[str, Any]
    rows: Rows
    lines: Lines
    name: str
    look: "Look | None" = None


def main() -> int:
    args = parse_arguments()
    from accelerate import Accelerator

    from rec.evaluation.metrics import format_table
    from rec.evaluation.parts import rows_of_parts
    from rec.evaluation.run import write
    from rec.inference.foreign import is_foreign
    from rec.training.launch import check_devices
    from rec.training.process import end_together, keep_freed_memory

    check_devices()
    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    say = print if accelerator.is_main_process else lambda *_: None
    if args.answers or is_foreign(args.model):
        scored = score_answers(args, accelerator, say)
    else:
        scored = evaluate_model(args, accelerator, say)
    datasets, rows, lines = scored.datasets, scored.rows, scored.lines
    for split, records in lines.items():
        if args.others:  # train.evaluation.eval_iter may have ended it before the last phrase
            seen = {record.get("index") for record in records}
            others = args.others.records
            others[split] = [record for record in others[split] if record["index"] in seen]
        rows |= rows_of_parts(split, records, rows)

    if accelerator.is_main_process:
        say(f"\n{format_table(rows)}\n")
        write(args.out, rows, lines)
        say(f"metrics      {args.out / 'metrics.json'}\npredictions  {args.out / 'predictions.jsonl'}")
        say_how_sure(args, lines)
        first = next(iter(datasets))
        if args.pictures:
            from rec.evaluation.pictures import prediction_grid, save

            save(prediction_grid(datasets[first], lines[first]), args.pictures)
            say(f"pictures     {args.pictures}")
        if args.report:
            report(args, scored)
            say(f"report       {args.report}")
    end_together(accelerator)
    return 0


def evaluate_model(args: argparse.Namespace, accelerator: "Accelerator", say: Say) -> Scored:
    """Runs the model over each split."""
    from rec.data.sources import find_split
    from rec.errors import CheckpointError
    from rec.evaluation import several
    from rec.evaluation.run import heat_maps
    from rec.model_folder.find import find_trained
    from rec.model_folder.format import describe_origin, files_of
    from rec.models.soundness import PredictionError
    from rec.training.build import build_dataset, build_datasets, evaluate_split, read_run_config
    from rec.training.checkpoint_format import AVERAGED, WEIGHTS, damage

    trained = find_trained(args.model)
    read = AVERAGED if (trained.folder / AVERAGED).exists() else WEIGHTS
    if trained.is_checkpoint and (trouble := damage(trained.folder, only=[read])):
        raise CheckpointError(f"{trouble}; evaluate another checkpoint of the run")
    args.config = args.config or trained.run_config
    cfg, vocabulary = read_run_config(trained, args.config, args.overrides, args.trust_config)
    if vocabulary is None and trained.is_checkpoint:
        # That of the training, while no best/ holds it: the vocabulary of another split would number the words differently.
        vocabulary = build_dataset(cfg, cfg.dataset.get("split", "train"), training=True).vocabulary
    datasets = build_datasets(cfg, args.splits or list(cfg.train.evaluation.splits), vocabulary)
    prepare_outputs(args, files_of(trained.folder), datasets, accelerator.is_main_process)
    # A checkpoint's model is the config's: a Python file is the user's own program, whatever it names.
    trust = args.trust_config or (trained.is_checkpoint and str(args.config).endswith(".py"))
    model, config = trained.load(cfg, next(iter(datasets.values())), trust)
    model, origin = model.to(accelerator.device), describe_origin(config)
    say(f"{trained.folder}: {type(model).__name__}, {origin}")
    answer = known_answer(args, trained.folder, config, datasets)

    rows: Rows = {}
    lines: Lines = {}
    # Without a known threshold the validation split comes first: it chooses the one that the others are judged with.
    chooser = find_split("val", tuple(datasets))
    for split, dataset in sorted(datasets.items(), key=lambda item: answer is None and item[0] != chooser):
        started = time.perf_counter()
        try:
            rows[split], lines[split] = evaluate_split(
                cfg,
                model,
                dataset,
                accelerator,
                limit=cfg.train.evaluation.get("eval_iter"),
                progress=True,
                answer=answer,
            )
        except PredictionError as error:
            error.add_note(f"the weights are those of {trained.folder}, the split is {split}")
            raise
        seconds = time.perf_counter() - started
        count = rows[split].get("count", len(dataset))
        say(f"{split}: {count} phrases in {seconds:.1f} s on {accelerator.num_processes} process(es)")
        if answer is None and (answer := several.chosen(rows[split])):
            say(f"{split}: threshold {answer.threshold:g}, chosen here for the best Pr@F1")
        if any(line["mask"] is not None for line in lines[split]) and not {"mask_mIoU", "gIoU"} & set(rows[split]):
            say(f"{split}: the model predicts masks, the split has none to compare with: dataset.with_masks=true?")
    data = cfg.train.data

    def look(split: str, indices: Sequence[int]) -> Mapping[int, Any]:
        return heat_maps(model, datasets[split], indices, mean=data.mean, std=data.std)

    return Scored(f"{type(model).__name__} of {trained.folder}, {origin}", datasets, rows, lines, data_name(cfg), look)


def known_answer(
    args: argparse.Namespace, folder: Path, config: Mapping[str, Any], datasets: Mapping[str, Any]
) -> "Answer | None":
    """Which boxes are the answer where phrases name any number of objects; None leaves the threshold to the split ``val``."""
    from rec.contracts import Answer
    from rec.data.sources import find_split
    from rec.errors import InputError
    from rec.evaluation.several import name_any_number
    from rec.inference.inputs import with_threshold

    answer = with_threshold(Answer.of_folder(config), args.threshold)
    if answer is None and find_split("val", tuple(datasets)) is None and name_any_number(datasets):
        raise InputError(
            f"{folder} has no threshold for its answers, and one is never chosen on the split it is judged by: add val to "
            "--splits, which then chooses it, or give --threshold"
        )
    return answer


def score_answers(args: argparse.Namespace, accelerator: "Accelerator", say: Say) -> Scored:
    """Scores a file of answers, or asks a foreign model for them, on each split."""
    from rec.contracts import Answer
    from rec.conventions import Convention
    from rec.errors import InputError
    from rec.evaluation.answers import read_answers
    from rec.evaluation.metrics import summarize_records
    from rec.training.build import build_datasets, read_data_config

    convention = Convention(args.coordinates or "pixel", args.box_format or "xyxy") if args.answers else Convention()
    if args.config is None:
        raise InputError("answers are scored on the data of a config: add --config configs/x.py and --splits")
    groups = ("dataset", "train", "train.evaluation")
    cfg = read_data_config(args.config, groups, args.overrides, args.trust_config)
    of_words = logging.getLogger("rec.data.dataset")
    of_words.disabled = True  # what a vocabulary lacks matters to nobody's answers
    try:
        datasets = build_datasets(cfg, args.splits or list(cfg.train.evaluation.splits), None)
    finally:
        of_words.disabled = False
    prepare_outputs(args, list(filter(None, [args.answers])), datasets, accelerator.is_main_process)
    threshold, what, limit = args.threshold, f"{args.answers}, {convention}", None
    if args.answers is None:
        if batches := cfg.train.evaluation.get("eval_iter"):
            limit = math.ceil(batches) * cfg.train.evaluation.eval_batch_size
        args.answers = ask_model(args, accelerator, datasets, limit)
        threshold, what = (
            Answer().threshold if threshold is None else threshold,
            f"{args.model}, kept in {args.answers}",
        )
    answers = read_answers(args.answers, datasets, convention, threshold, limit)
    say(f"{args.answers}: {answers.summary()}")
    if answers.suspicion:
        say(f"warning: {answers.suspicion}")
    for split, dataset in datasets.items():
        say(f"{split}: {len(answers.records[split])} phrases, fingerprint {dataset.fingerprint}")
    rows = {split: summarize_records(records) for split, records in answers.records.items()}
    return Scored(what, datasets, rows, answers.records, data_name(cfg))


def data_name(cfg: Any) -> str:
    return str(cfg.dataset.get("dataset") or getattr(cfg.dataset.get("_target_"), "__name__", "data set"))


def report(args: argparse.Namespace, scored: Scored) -> None:
    """Writes the page of ``--report``."""
    import rec
    from rec.evaluation.report import Other, write_report

    splits = ", ".join(f"{split} ({len(part):,} phrases)" for split, part in scored.lines.items())
    about = {
        "Data set": f"{scored.name}: {splits}",
        "Model": scored.what,
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "Command": shlex.join(["rec", "evaluate", *sys.argv[1:]]),
        "Version": f"rec {rec.__version__}, Python {platform.python_version()}",
    }
    title = f"{(args.model or args.answers)} on {scored.name} {', '.join(scored.lines)}"
    other = Other(str(args.compare), args.others.records) if args.others else None
    write_report(args.report, scored.datasets, scored.lines, title, about, other, scored.look)


def ask_model(
    args: argparse.Namespace, accelerator: "Accelerator", datasets: Mapping[str, Any], limit: int | None
) -> Path:
    """Asks somebody else's model what it has not answered yet of the first ``limit`` phrases; the file of its answers."""
    import rec
    from rec.command_line import foreign_options
    from rec.errors import InputError
    from rec.files import alone_in
    from rec.inference.foreign.asking import answered, ask, question, waiting

    if accelerator.num_processes > 1:
        raise InputError(f"{args.model} is asked by one process: start the script without a launcher")
    path = args.out / "answers.jsonl"
    grounder: Any = rec.from_pretrained(args.model, **foreign_options(args))
    with alone_in(args.out):
        left = waiting(datasets, answered(path, datasets, question(grounder, datasets)), limit)
        print(f"model: {grounder.origin}", flush=True)
        phrases = sum(len(indices) for _, indices in left)
        total = sum(len(range(len(dataset))[:limit]) for dataset in datasets.values())
        sent = (
            f"; {len(left)} images are sent to {grounder.host}" if getattr(grounder, "is_here", True) is False else ""
        )
        print(f"{phrases} of {total} phrases are still to ask{sent}", flush=True)
        ask(grounder, datasets, left, path)
    return path


def prepare_outputs(args: argparse.Namespace, inputs: list[Path], datasets: Mapping[str, Any], make: bool) -> None:
    """What has to be right before the work, not after it: outputs that are not read, their folder, the answers to compare with."""
    from rec.conventions import Convention
    from rec.errors import InputError
    from rec.evaluation.answers import read_answers
    from rec.evaluation.several import name_any_number
    from rec.files import refuse_inputs
    from rec.inference.foreign import is_foreign

    if args.threshold is not None and not name_any_number(datasets):
        raise InputError(
            "--threshold decides which boxes are an answer where phrases name none, one or several objects, but the config has "
            "dataset.targets=one: leave it out, or add dataset.targets=any"
        )
    asks = is_foreign(args.model)
    given = {"--coordinates": not (args.answers or args.compare) and args.coordinates, "--prompt": args.prompt}
    given |= {"--max-tokens": args.max_tokens, "--send-images": args.send_images}
    if not asks and (idle := [name for name, value in given.items() if value]):
        raise InputError(
            f"{', '.join(idle)}: for models named transformers:… or openai:…, and {args.model or args.answers} is none"
        )
    if args.box_format and not (asks or args.answers or args.compare):
        raise InputError(f"--box-format {args.box_format}: for the files of --answers and --compare, and there is none")
    names = [
        "metrics.json",
        "predictions.jsonl",
        "intervals.json",
        "changes.jsonl",
        *(["answers.jsonl"] if asks else []),
    ]
    outputs = [*(args.out / name for name in names), *filter(None, (args.pictures, args.report))]
    refuse_inputs(outputs, [*filter(None, (args.config, args.compare)), *inputs], datasets.values())
    if make:
        args.out.mkdir(parents=True, exist_ok=True)
    # Of somebody else's model they tell how it answers.
    convention = Convention() if asks else Convention(args.coordinates or "pixel", args.box_format or "xyxy")
    how: dict[str, Any] = {"threshold": args.threshold, "as_answered": True}
    args.others = read_answers(args.compare, datasets, convention, **how) if args.compare else None


def say_how_sure(args: argparse.Namespace, lines: Lines) -> None:
    """Prints and writes intervals over images, and how the answers differ from those of ``--compare``."""
    from rec.evaluation import bootstrap
    from rec.files import write_json, write_json_lines

    found = {split: bootstrap.intervals(records) for split, records in lines.items()}
    write_json(args.out / "intervals.json", found)
    print(f"intervals    {args.out / 'intervals.json'} (95 %, {bootstrap.ROUNDS} draws of the images)")
    for split, names in found.items():
        known = [(name, *names[name][:2]) for name in HEADLINES if name in names]
        shown = ", ".join(f"{name} {100 * low:.1f} to {100 * high:.1f}" for name, low, high in known)
        print(f"             {split}: {shown}")
    if (others := args.others) is None:
        (args.out / "changes.jsonl").unlink(missing_ok=True)  # of other predictions than are there now
        return
    print(f"compared     with {args.compare}: {others.summary()}")
    if others.suspicion:
        print(f"warning: {args.compare}: {others.suspicion}")
    changes: list[dict[str, Any]] = []
    for split, records in lines.items():
        shared = bootstrap.paired(records, others.records[split])
        if not shared:
            print(f"             {split}: no metric that both have, such as of boxes beside masks alone")
        for name in [name for name in shared if name in HEADLINES] or shared:
            mean, low, high = shared[name]
            print(f"             {split}: {name} {100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})")
        changes += [{"split": split} | line for line in bootstrap.changed(records, others.records[split])]
    write_json_lines(args.out / "changes.jsonl", changes)
    won = sum(line["won"] for line in changes)
    print(f"changes      {args.out / 'changes.jsonl'}: {won} phrases won, {len(changes) - won} lost")


def parse_arguments() -> argparse.Namespace:
    from rec.command_line import PICTURES, THRESHOLD, add_foreign_options, add_trust_option, ending, share
    from rec.files import user_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, places = parser.add_argument, "run folder, checkpoint, model folder"
    add("model", nargs="?", help=f"{places}, transformers:ID or openai:MODEL@ADDRESS")
    add("--answers", type=user_path, metavar="JSONL", help="score these answers, of any model, in place of MODEL")
    add_foreign_options(parser)
    differs = "other answers, or a predictions.jsonl: what differs, and how surely"
    add("--compare", type=user_path, metavar="JSONL", help=differs)
    add("--config", type=user_path, help="a lazy config with dataset and train; default: the run's config.yaml")
    add("--splits", nargs="+", metavar="SPLIT", help="default: train.evaluation.splits of the config")
    where = "for metrics.json and predictions.jsonl; default outputs/evaluation"
    add("--out", type=user_path, metavar="FOLDER", help=where)
    add("--pictures", type=ending(*PICTURES), metavar="PNG", help="draw a grid of predictions of the first split")
    pages = ending(".html", ".htm")
    add("--report", type=pages, metavar="HTML", help="write one self-contained report of all splits")
    add("--threshold", type=share, metavar="SCORE", help=THRESHOLD)
    add_trust_option(parser)
    args, overrides = parser.parse_known_args([word for word in sys.argv[1:] if word != "--cfg-options"])
    # `--splits val testA key=value`: what has a "=" is an override, wherever it stands.
    args.overrides = [word for word in [*overrides, *(args.splits or [])] if "=" in word]
    args.splits = [word for word in args.splits or [] if "=" not in word]
    args.out = args.out or Path("outputs/evaluation")
    unknown = [word for word in overrides if "=" not in word]
    if args.model and "=" in args.model and args.answers:  # an override that stands first
        args.model, args.overrides = None, [args.model, *args.overrides]
    if bool(args.model) == bool(args.answers):
        parser.error("name a model (run folder, checkpoint or model folder), or --answers FILE: one of the two")
    if unknown:
        parser.error(f"unknown argument {unknown[0]}; overrides are written key=value")
    return args


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
