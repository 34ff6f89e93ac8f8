"""Draws the curves of one or several runs: losses, learning rate and accuracy over the updates.

    rec plot RUN [RUN ...] [--out curves.pdf] [--losses loss loss_iou] [--accuracies Acc@0.5 mIoU]

RUN is a run folder or a metrics.jsonl file; --out ends in .png, or for papers in .pdf or .svg. Needs matplotlib:
pip install matplotlib.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rec.command_line import InputError, ending, exit_with
from rec.config.errors import did_you_mean
from rec.files import refuse_inputs, user_path, whole_file
from rec.trust import read_text

MAX_RECORDS = 256 << 20
Records = list[dict[str, Any]]


def read_records(run: Path) -> Records:
    """Records of a run's ``metrics.jsonl``; a last line that is being written is left out.

    Raises:
        InputError: there is no such file, a line of it is not a record, or it is empty.
    """
    file = run / "metrics.jsonl" if run.is_dir() else run
    if not file.is_file():
        raise InputError(f"{file} does not exist: give run folders (train.output_dir) or their metrics.jsonl")
    lines = read_text(file, "records of a run", MAX_RECORDS).splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            split = record.get("split", "")
            if not (isinstance(record["kind"], str) and isinstance(split, str) and type(record["update"]) is int):
                raise TypeError
            numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
            records.append({"kind": record["kind"], "split": split} | {k: float(v) for k, v in numbers.items()})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if number < len(lines):
                raise InputError(
                    f"{file}, line {number}: expected a record with kind and update, found {line[:80]!r}"
                ) from error
    if not records:
        raise InputError(f"{file} has no record yet: the first comes after train.log_period updates")
    return records


def curve(records: Records, kind: str, name: str, split: str = "") -> tuple[list[float], list[float]]:
    """Updates and values of ``name`` in the records of ``kind`` (and ``split``) that have it."""
    found = [(r["update"], r[name]) for r in records if r["kind"] == kind and name in r and r["split"] == split]
    return [update for update, _ in found], [value for _, value in found]


def check_names(runs: dict[str, Records], kind: str, names: list[str]) -> None:
    """Makes sure that each name that was asked for is in some run's records of a kind.

    Raises:
        InputError: one is in none; lists those there are.
    """
    known = {name for records in runs.values() for record in records if record["kind"] == kind for name in record}
    known -= {"kind", "split", "update", "epoch"}
    for name in names:
        if name not in known:
            there = f"known are {', '.join(sorted(known))}" if known else "there is none yet"
            raise InputError(f"no {kind} record of any run has {name}{did_you_mean(name, known)}: {there}")


LOSSES, ACCURACIES = ["loss"], ["Acc@0.5"]


def draw(runs: dict[str, Records], losses: list[str], accuracies: list[str], out: Path) -> None:
    """Three panels (losses, learning rate, accuracies of every evaluated split) with one colour per run.

    Raises:
        InputError: matplotlib is not installed, or no run has any of the named values.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(
            "the curves are drawn with matplotlib, which is not installed: pip install matplotlib"
        ) from error
    matplotlib.use("agg")  # draws into files, also where there is no display
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    styles = ("-", "--", ":", "-.")
    for number, (run, records) in enumerate(runs.items()):
        splits = dict.fromkeys(record["split"] for record in records if record["kind"] == "evaluation")
        wanted = [
            [("train", name, "") for name in losses],
            [("train", "lr", "")],
            [("evaluation", name, split) for split in splits for name in accuracies],
        ]
        for panel, curves in zip(panels, wanted, strict=True):
            for style, (kind, name, split) in enumerate(curves):
                updates, values = curve(records, kind, name, split)
                if updates:
                    label = " ".join(part for part in (run, split, name) if part)
                    line = {"color": f"C{number % 10}", "linestyle": styles[style % len(styles)]}
                    panel.plot(
                        updates,
                        values,
                        label=label.replace("$", r"\$"),
                        marker="." if len(updates) < 30 else "",
                        **line,
                    )
    for panel, title in zip(panels, ("loss", "learning rate", "accuracy"), strict=True):
        panel.set(title=title, xlabel="update")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize="small")
    if not panels[0].lines and not panels[2].lines:
        known = sorted({name for records in runs.values() for record in records for name in record})
        raise InputError(f"no run has any of {', '.join(losses + accuracies)}: known are {', '.join(known)}")
    with whole_file(out) as temporary:
        figure.savefig(temporary, dpi=120, format=out.suffix[1:].lower())
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="run folder or metrics.jsonl")
    parser.add_argument(
        "--out", type=ending(".png", ".pdf", ".svg"), default="curves.png", help="file to write (default: curves.png)"
    )
    parser.add_argument("--losses", nargs="+", default=LOSSES, help="values of the training records (default: loss)")
    parser.add_argument(
        "--accuracies", nargs="+", default=ACCURACIES, help="values of the evaluation records (default: Acc@0.5)"
    )
    args = parser.parse_args()
    refuse_inputs([args.out], [run / "metrics.jsonl" if run.is_dir() else run for run in args.runs])
    names = [(run if run.is_dir() else run.parent).resolve().name for run in args.runs]
    labels = names if len(set(names)) == len(names) else [str(run) for run in args.runs]
    runs = dict(zip(labels, map(read_records, args.runs), strict=True))
    for kind, asked, usual in (("train", args.losses, LOSSES), ("evaluation", args.accuracies, ACCURACIES)):
        if asked is not usual:  # a run of another kind may lack what is drawn unasked
            check_names(runs, kind, asked)
    draw(runs, args.losses, args.accuracies, Path(args.out))
    print(f"{args.out}: {', '.join(labels)}")
    return 0


if __name__ == "__main__":
    exit_with(main)
