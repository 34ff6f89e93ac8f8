"""Turns annotation files into a table that training reads: Arrow (or parquet) on disk, checked and counted.

The RefCOCO family, with the words of SimREC's data_process.py:

    rec prepare --data_root data --output_dir data --dataset refcoco --split unc --generate_mask

reads data/refcoco/{instances.json,refs(unc).p} and data/images/train2014, and writes data/anns/refcoco; so does --dataset
grefcoco with data/grefcoco/{instances.json,grefs(unc).json}, whose phrases name none, one or several objects. Anything else
is named by --source: SimREC's JSON, COCO JSON with phrases, an export of Label Studio, conversations in the way of LLaVA, JSONL
or CSV of your own, Visual Genome's region_descriptions.json, a Flickr30k Entities folder, parquet, a Hub id, scenes or
scenes_hard:

    rec prepare --dataset mine --source boxes.jsonl --images photos --bbox-format xywh --output_dir data

--fetch-images downloads the COCO images that are named and missing. An interrupted run continues when the same command is given
again. The last line it prints is what training needs to take the table. See docs/data.md and docs/train_on_your_images.md.
"""

import argparse
import logging
import os
from pathlib import Path
from typing import Any

COCO = "http://images.cocodataset.org"
# Data sets that configs/common/dataset.py has a path for; others are added to it.
KNOWN_NAMES = (
    *("refcoco", "refcoco+", "refcocog", "grefcoco", "referit"),
    *("flickr", "vg", "merge", "scenes", "scenes_hard"),
)


def parse_arguments() -> argparse.Namespace:
    from rec.command_line import share, whole

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    home = os.path.expanduser  # texts, not paths: a source may be a Hub id
    add(
        "--dataset",
        default="refcoco",
        help="name of the data set: refcoco, refcoco+, refcocog, grefcoco, refclef, flickr, vg, mine…",
    )
    add(
        "--data_root", type=home, default="data", help="folder that holds the REFER folders and images/ (default: data)"
    )
    add("--output_dir", type=home, help="the table goes to OUTPUT_DIR/anns/DATASET (default: --data_root)")
    add("--split", help="REFER files: who split them, unc, google, umd or berkeley (default: the usual one)")
    add("--generate_mask", action="store_true", help="keep masks, as COCO RLE")
    add(
        "--source",
        type=home,
        help="annotation file, folder or Hub id (default: DATA_ROOT/DATASET; scenes are drawn)",
    )
    add("--images", type=home, help="folder of the images, where the source does not tell")
    add("--masks", type=home, help="folder of SimREC's masks/*.npy")
    add(
        "--fetch-images",
        nargs="?",
        const=COCO,
        metavar="ADDRESS",
        help=f"download the COCO images that are named and missing (from {COCO}, or a copy of it)",
    )
    add("--bbox-format", help="xywh, xyxy, cxcywh or yxyx; JSONL and CSV must name it")
    add(
        "--coordinates",
        help="what the numbers of boxes mean: pixel (the default), 0-1, 0-999, 0-1000, florence, WIDTHxHEIGHT or letterboxed:SIDE",
    )
    add(
        "--prompt",
        nargs="+",
        help="conversations: the questions, with {} in place of the phrase, where it is not between <ref> and </ref>",
    )
    add(
        "--boxes",
        choices=["merged", "separate"],
        help="Flickr30k Entities: one box around all of an entity's (the published rule, and the default), or each by itself",
    )
    add(
        "--columns",
        type=column,
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="column map of a foreign table: sentences=answer …",
    )
    add("--configuration", help="of a Hub id that has several")
    add("--revision", help="of a Hub id: branch, tag or commit")
    add("--splits", nargs="+", help="only these splits (of a Hub id no others are downloaded)")
    add(
        "--on-bad-record",
        choices=["raise", "skip"],
        default="raise",
        help="stop at a bad record, or count and leave it out",
    )
    add(
        "--val-fraction",
        type=share,
        metavar="SHARE",
        help="make a val split of this share of the training images, such as 0.1, where there is none",
    )
    add("--overwrite", action="store_true", help="replace a table prepared before, once the new one is complete")
    add("--allow-paths", action="store_true", help="copy images and masks from anywhere, where records say so")
    add("--store", choices=["plain", "embedded", "letterboxed", "raw"], default="plain")
    add("--size", type=whole(1, 4096), default=416, help="side in pixels of --store letterboxed and raw")
    add("--format", choices=["arrow", "parquet"], default="arrow")
    add("--count", type=whole(1), help="scenes: how many per split")
    add(
        "--exclude-images-of",
        type=home,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="leave out the evaluation images of these tables",
    )
    add(
        "--check-leaks",
        type=home,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="prepare nothing; list images that these tables share",
    )
    return parser.parse_args()


def column(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OURS=THEIRS, for example sentences=answer")
    return ours, theirs


def main() -> int:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("httpx", "datasets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return check_leaks(arguments.check_leaks) if arguments.check_leaks else prepare_table(arguments)


def prepare_table(arguments: argparse.Namespace) -> int:
    from rec.config import shell_override
    from rec.data.fetch import fetch_images
    from rec.data.prepare import prepare, report_of
    from rec.data.sources import SourceError, find_split
    from rec.data.sources.divided import with_validation
    from rec.data.tables import SCENES, open_source

    default = Path(arguments.dataset if arguments.dataset in SCENES else f"{arguments.data_root}/{arguments.dataset}")
    if arguments.source is None and arguments.dataset not in SCENES and not default.exists():
        raise SourceError(
            f"there is no {default}: put the files of {arguments.dataset} there, or name them with --source"
        )
    output = Path(arguments.output_dir or arguments.data_root) / "anns" / arguments.dataset
    choices: dict[str, Any] = {"path": arguments.source or str(default)}
    choices |= {"split_by": arguments.split, "bbox_format": arguments.bbox_format, "count": arguments.count}
    choices |= {key: getattr(arguments, key) for key in ("boxes", "coordinates", "prompt", "configuration", "revision")}
    choices |= {"columns": dict(arguments.columns), "splits": arguments.splits}
    choices = {key: value for key, value in choices.items() if value}
    if arguments.masks and not os.path.isdir(arguments.masks):
        raise SourceError(f"--masks: there is no folder {arguments.masks}")
    if arguments.fetch_images and arguments.images:
        Path(arguments.images).mkdir(parents=True, exist_ok=True)
    source = open_source(choices, name=arguments.dataset, image_path=arguments.images, mask_path=arguments.masks)
    if arguments.fetch_images:
        count = fetch_images(source, arguments.splits, arguments.fetch_images)
        print(f"{count} images came, {source.image_root} has all that are named")
    if arguments.val_fraction is not None:
        source = with_validation(source, arguments.val_fraction)
        arguments.splits = arguments.splits and [*arguments.splits, "val"]  # made to be had
    info = prepare(
        source,
        output,
        splits=arguments.splits,
        with_masks=arguments.generate_mask,
        on_bad_record=arguments.on_bad_record,
        store=arguments.store,
        size=arguments.size,
        parquet=arguments.format == "parquet",
        allow_paths=arguments.allow_paths,
        overwrite=arguments.overwrite,
        exclude=evaluation_images(arguments.exclude_images_of) if arguments.exclude_images_of else None,
    )
    print_counts(info)
    name, place = arguments.dataset, str(output)
    if name not in KNOWN_NAMES and name.isidentifier():
        path = shell_override(f"+dataset.ann_path.{name}", place)
    else:
        path = shell_override("dataset.ann_path" if name in KNOWN_NAMES else "+dataset.ann_path", {name: place})
    reports = [report_of(info, split) for split in info["splits"]]
    general = any(report.none or report.several for report in reports)
    targets = " +dataset.targets=any train.evaluation.eval_metric=Pr@F1" if general else ""
    if not arguments.splits and not find_split("train", tuple(info["splits"])):
        print("WARNING: there is no split train, which training learns from: this table can be evaluated on alone")
    if find_split("train", tuple(info["splits"])) and not find_split("val", tuple(info["splits"])):
        print(
            "WARNING: there is no split val, which training evaluates on and picks the best model by. Make one with --val-fraction "
            "0.1 (and --overwrite), or train with train.evaluation.enabled=false"
        )
    print(f"\n{output} is ready: {shell_override('dataset.dataset', name)} {path}{targets}")
    return 0


def print_counts(info: dict[str, Any]) -> None:
    """Counts per split as REFER prints them, then everything that a user should look at."""
    from rec.data.prepare import report_of
    from rec.data.sources.refer import count_warnings

    name = "_".join([info["name"], info["options"].get("split_by", "")]).rstrip("_")
    splits = info["splits"]
    sentences, rows = (sum(split[key] for split in splits.values()) for key in ("sentences", "rows"))
    print(f"\ndata set [{name}] contains:")
    print(f"{sentences} expressions for {rows} refs in {info['images']} images.\n\nAmong them:")
    for split, entry in splits.items():
        print(
            f"{entry['rows']} refs are in split [{split}] ({entry['sentences']} expressions, {entry['images']} images)."
        )
    for split in splits:
        report = report_of(info, split)
        if report.none or report.several:
            print(
                f"Of the expressions in split [{split}] {report.none} name nothing, {report.several} several objects."
            )
    for split, entry in splits.items():
        lines = report_of(info, split).warnings()
        for line in lines if entry["rows"] else [*lines, "nothing is left of it"]:
            print(f"WARNING, split {split}: {line}")
    for line in count_warnings(name, {split: entry["rows"] for split, entry in splits.items()}):
        print(f"WARNING: {line}")


def evaluation_images(folders: list[str]) -> Any:
    """The images of the evaluation splits of prepared folders."""
    from rec.data.leakage import ImageIndex
    from rec.data.sources import SourceError

    index = ImageIndex()
    for folder in folders:
        tables = tables_of([folder], training=False)
        if not tables:
            raise SourceError(f"--exclude-images-of: {folder} has no split but train, so it has no evaluation images")
        for where, table in tables:
            index.add(table, where)
    return index


def tables_of(folders: list[str], training: bool) -> list[tuple[str, Any]]:
    """(folder and split, table) of the training or the evaluation splits of prepared folders."""
    from rec.data.prepare import read_info
    from rec.data.tables import open_table

    return [
        (f"{folder}, split {split}", open_table(folder, split, name=folder))
        for folder in folders
        for split in read_info(folder)["splits"]
        if split.startswith("train") == training
    ]


def check_leaks(folders: list[str]) -> int:
    """Lists images that training and evaluation splits share; the exit status is 1 where there are any."""
    from rec.console import require_output
    from rec.data.leakage import shared_images

    require_output()
    leaks = shared_images(tables_of(folders, training=True), tables_of(folders, training=False))
    for leak in leaks:
        print(f"{leak['source']} image {leak['image_id']} of {leak['training']} is in {leak['evaluation']}")
    print(f"{len(leaks)} images of training splits are in evaluation splits")
    return 1 if leaks else 0


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
