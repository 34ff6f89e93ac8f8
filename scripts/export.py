"""Export a model folder to one file for other runtimes, decoding included.

    rec export outputs/run/best --out model.onnx
    rec export outputs/run/best --out model.onnx --dynamic-size
    rec export outputs/run/best --out model.pt2            (torch.export)

The file is compared with PyTorch on 50 samples before it gets its name. See docs/export.md for its inputs, outputs and
an example that needs neither torch nor rec. ONNX needs pip install onnx onnxscript onnxruntime.
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path


def main() -> int:
    from rec.command_line import InputError, add_trust_option, whole
    from rec.files import refuse_inputs, user_path, whole_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, run folder or hub id")
    parser.add_argument("--out", type=user_path, required=True, help="file to write: .onnx or .pt2")
    parser.add_argument(
        "--size", type=whole(32, 4096), help="side of the input image, a multiple of 32; default: the model's"
    )
    parser.add_argument("--dynamic-size", action="store_true", help="leave the side free (any multiple of 32)")
    add_trust_option(parser)
    args = parser.parse_args()
    out = args.out
    kind = {".onnx": "onnx", ".pt2": "torch"}.get(out.suffix)
    if kind is None:
        raise InputError(f"--out {out}: the ending decides the format; use .onnx or .pt2")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if kind == "onnx" and missing:
        raise InputError(f"ONNX export needs packages that are not installed: pip install {' '.join(missing)}")
    if args.size is not None and (args.size % 32):
        raise InputError(f"--size {args.size} is not a multiple of 32")
    out.parent.mkdir(parents=True, exist_ok=True)

    from rec.inference.export import compare, export
    from rec.model_folder.find import find_folder, find_trained
    from rec.model_folder.format import files_of
    from rec.model_folder.reader import read

    trained = find_trained(args.model) if user_path(args.model).is_dir() else None
    if trained is not None and trained.is_checkpoint:
        raise InputError(f"{trained.folder} is a checkpoint; export a model folder, such as best/ of the run")
    folder = trained.folder if trained else find_folder(args.model)
    refuse_inputs([out], files_of(folder))
    model, config, vocabulary = read(folder, args.trust_config)

    # Made and compared with PyTorch beside its place: what differs never gets there.
    with tempfile.TemporaryDirectory(prefix=f".{out.name[:40]}.", dir=out.parent) as place:
        made = Path(place, out.name)
        export(model, config, vocabulary, made, kind=kind, size=args.size, dynamic_size=args.dynamic_size)
        worst = compare(made, model, config)
        for part in sorted(
            made.parent.iterdir(), key=made.__eq__
        ):  # a large model's numbers are a file beside it: first
            with whole_file(out.with_name(part.name)) as temporary:
                part.replace(temporary)
    differences = ", ".join(f"{name} {value:.2g}" for name, value in worst.items())
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB; largest difference from PyTorch on 50 samples: {differences}")
    return 0


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
