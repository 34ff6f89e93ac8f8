"""Export a model folder to one file for other runtimes, decoding included.

    rec export outputs/run/best --out model.onnx
    rec export outputs/run/best --out model.onnx --dynamic-size
    rec export outputs/run/best --out model.pt2            (torch.export)
    rec export outputs/run/best --out model.onnx --int8    (calibrated and measured on the run's own data)
    rec export outputs/run/best --web page                 (a folder for a web server: the model runs in the browser)

The file is compared with PyTorch on 50 samples before it gets its name. See docs/export.md for its inputs, outputs and
an example that needs neither torch nor rec. ONNX needs pip install onnx onnxscript onnxruntime.
"""

import argparse
import importlib.util
import math
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from rec.contracts import DataSet
    from rec.model_folder.find import Trained


def main() -> int:
    from rec.command_line import InputError
    from rec.files import named, refuse_inputs, whole_file

    args = parse_arguments()
    kind = "torch" if args.out and args.out.suffix == ".pt2" else "onnx"
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if kind == "onnx" and missing:
        raise InputError(f"ONNX export needs packages that are not installed: pip install {' '.join(missing)}")

    from rec.files import user_path
    from rec.inference import web
    from rec.inference.export import MAX_ONE_FILE, compare, export, load
    from rec.model_folder.find import Trained, find_folder, find_trained
    from rec.model_folder.format import files_of
    from rec.model_folder.reader import read

    trained = find_trained(args.model) if user_path(args.model).is_dir() else None
    if trained is not None and trained.is_checkpoint:
        raise InputError(f"{trained.folder} is a checkpoint; export a model folder, such as best/ of the run")
    trained = trained or Trained(find_folder(args.model), False, None)
    out = args.out or args.web / web.MODEL
    refuse_inputs(web.outputs(args.web) if args.web else [out], files_of(trained.folder))
    if args.web:
        web.runtime_files(args.runtime)
    model, config, vocabulary = read(trained.folder, args.trust_config)
    if args.web and vocabulary is not None:
        web.check(vocabulary.tokenizer, args.dynamic_size)
    if (args.int8 or args.web) and sum(parameter.nbytes for parameter in model.parameters()) > MAX_ONE_FILE:
        raise InputError(f"{trained.folder}: a model of more than 1 GiB is two files; --int8 and --web take one")
    data = read_data(args, trained) if args.int8 else {}

    # Made and compared with PyTorch beside its place: what differs never gets there.
    out.parent.mkdir(parents=True, exist_ok=True)
    with named(out), tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}.", dir=out.parent) as place:
        made = Path(place, out.name)
        export(
            model, config, vocabulary, made, kind=kind, size=args.size, dynamic_size=args.dynamic_size,
            int32_tokens=args.int32_tokens or args.web is not None,
        )  # fmt: skip
        worst = compare(made, model, config)
        if args.int8:
            made = to_int8(made, args.int8, model, config, data)
        if args.web:
            web.write(args.web, made, load(made)[1], args.runtime)
        else:
            # A large model's numbers are a file beside it: first.
            for part in sorted(made.parent.iterdir(), key=made.__eq__):
                with whole_file(out.with_name(part.name)) as temporary:
                    part.replace(temporary)
    differences = ", ".join(f"{name} {value:.2g}" for name, value in worst.items())
    before = ", before int8" if args.int8 else ""
    print(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB; largest difference from PyTorch on 50 samples{before}: {differences}"
    )
    if args.web:
        print(f"to see it: python -m http.server --bind 127.0.0.1 --directory {args.web}")
    return 0


def parse_arguments() -> argparse.Namespace:
    from rec.command_line import InputError, add_trust_option, whole
    from rec.files import user_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, run folder or hub id")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=user_path, help="file to write: .onnx or .pt2")
    target.add_argument("--web", type=user_path, metavar="FOLDER", help="write a web page with the model in it instead")
    parser.add_argument(
        "--size", type=whole(32, 4096), help="side of the input image, a multiple of 32; default: the model's"
    )
    parser.add_argument("--dynamic-size", action="store_true", help="leave the side free (any multiple of 32)")
    parser.add_argument(
        "--int32-tokens", action="store_true", help="take words' ids as int32 (default int64; --web: int32)"
    )
    parser.add_argument(
        "--int8",
        nargs="?",
        const="mixed",
        choices=("full", "mixed"),
        help="a quarter of the size: every layer in int8, or (mixed, the default) without the parts that it hurts",
    )
    parser.add_argument("--config", type=user_path, help="of the data --int8 looks at; default: the run's config.yaml")
    parser.add_argument("--split", default="val", help="whose phrases tell what --int8 costs; default val")
    parser.add_argument("--phrases", type=whole(1), default=1000, help="how many of them; default 1000")
    parser.add_argument(
        "--runtime",
        type=user_path,
        default=Path("node_modules/onnxruntime-web"),
        metavar="FOLDER",
        help="the npm package onnxruntime-web, for --web; default: %(default)s",
    )
    add_trust_option(parser)
    args = parser.parse_args()
    if args.out and args.out.suffix not in (".onnx", ".pt2"):
        raise InputError(f"--out {args.out}: the ending decides the format; use .onnx or .pt2")
    if args.size is not None and (args.size % 32):
        raise InputError(f"--size {args.size} is not a multiple of 32")
    if args.int8 and (args.dynamic_size or (args.out and args.out.suffix != ".onnx")):
        raise InputError("--int8 makes .onnx files of a fixed size: leave out --dynamic-size, and end --out in .onnx")
    return args


def read_data(args: argparse.Namespace, trained: "Trained") -> dict[str, Any]:
    """What ``--int8`` looks at: the data sets ``train`` and ``measured``, the name of that split, and how many phrases."""
    from rec.training.build import build_datasets, read_run_config

    overrides = [f"dataset.input_shape=[{args.size},{args.size}]"] if args.size else []
    cfg, vocabulary = read_run_config(trained, args.config, overrides, args.trust_config)
    train = cfg.dataset.get("split", "train")
    datasets = build_datasets(cfg, [train, args.split], vocabulary)
    return {"train": datasets[train], "measured": datasets[args.split], "split": args.split, "phrases": args.phrases}


def to_int8(
    made: Path, kind: str, model: "torch.nn.Module", config: Mapping[str, Any], data: Mapping[str, Any]
) -> Path:
    """The int8 file of an exported one, with what it costs in its metadata and on the screen; everything beside ``made``."""
    from rec.inference.export import annotate
    from rec.inference.quantize import quantize, samples

    files = {name: made.with_name(f"{name}.onnx") for name in ("full", kind)}
    done = quantize(made, files, samples(data["train"]), print)
    rows = measure({"float32": made, **{f"int8 {name}": path for name, path in files.items()}}, model, config, data)
    names = [name for name in ("Acc@0.5", "mIoU", "mask_mIoU", "Pr@F1", "gIoU") if name in rows["float32"]]
    print(f"\n{'':<14}{'MB':>8}{'ms':>9}" + "".join(f"{name:>11}" for name in names))
    for name, row in rows.items():
        size = f"{row['megabytes']:>8.2f}" if "megabytes" in row else " " * 8
        print(f"{name:<14}{size}{row['milliseconds']:>9.2f}" + "".join(f"{100 * row[n]:>11.2f}" for n in names))
    print(f"(one phrase on two threads; {rows['float32']['count']:.0f} phrases of {data['split']})\n")
    chosen = done[kind]
    print("in float32: " + (", ".join(chosen.in_float) or "nothing that has weights"))
    int8 = {"kind": kind, "in_float32": chosen.in_float, "split": data["split"], "measured": rows}
    annotate(files[kind], int8=int8)
    made.unlink()
    for name, path in files.items():
        if name != kind:
            path.unlink()
    return files[kind].rename(made)


def measure(
    files: Mapping[str, Path], model: "torch.nn.Module", config: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Metrics, size and time for a phrase of each file, and of PyTorch in bfloat16."""
    import torch

    from rec.contracts import Answer, abilities
    from rec.data.loader import evaluation_loader
    from rec.evaluation import evaluate
    from rec.inference.export import Deployed, Exported, load
    from rec.inference.quantize import samples, seconds

    dataset: DataSet = data["measured"]
    batch, plain = 16, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    limit = math.ceil(min(data["phrases"], len(dataset)) / batch) if data["phrases"] < len(dataset) else None

    def metrics(of: torch.nn.Module, **normalised: Any) -> dict[str, float]:
        loader = evaluation_loader(dataset, batch, pin_memory=False)
        answer = Answer.of_folder(config)
        return evaluate(of, loader, dataset, limit=limit, progress=True, answer=answer, **normalised)[0]

    rows: dict[str, dict[str, float]] = {}
    runs: dict[str, Callable[[], object]] = {}
    one = samples(dataset, 1)[0]
    for name, path in files.items():
        rows[name] = metrics(Exported(path, abilities(model).mask_any_overlap), **plain)
        rows[name]["megabytes"] = path.stat().st_size / 1e6
        runs[name] = partial(load(path, threads=2)[0], **one)
    deployed = Deployed(model, dict(config))
    image, tokens = torch.from_numpy(one["image"]), torch.from_numpy(one["tokens"])
    threads = torch.get_num_threads()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        rows["PyTorch bf16"] = metrics(model, mean=config["preprocess"]["mean"], std=config["preprocess"]["std"])
        torch.set_num_threads(2)
        runs["PyTorch bf16"] = lambda: deployed(image, tokens)
        took = seconds(runs)
        torch.set_num_threads(threads)
    return {name: row | {"milliseconds": 1000 * took[name]} for name, row in rows.items()}


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
