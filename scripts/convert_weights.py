"""Turn weights of the original SimREC and MCN code into files of this project.

    python scripts/convert_weights.py simrec_refcoco.pth --annotations refcoco.json --out weights/simrec_refcoco
    python scripts/convert_weights.py mcn_refcoco.pth --annotations refcoco.json --out weights/mcn_refcoco
    python scripts/convert_weights.py cspdarknet_coco.pth --out weights/cspdarknet_coco.safetensors
    python scripts/convert_weights.py yolov3.weights --out weights/darknet53.safetensors

A SimREC or MCN checkpoint becomes a model folder, for scripts/predict.py, scripts/evaluate.py and train.load_weight.
The originals carry no vocabulary: --annotations is the annotation JSON of the data set the checkpoint was trained on
(word ids are the order of first appearance over all its splits). Backbone weights become one safetensors file, for
model.visual_backbone.pretrained_weight_path. The report names what matched, what is missing, unexpected or dropped;
nothing is written unless everything fits. Nothing in a .pth is executed.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any


def main() -> int:
    from rec.files import refuse_inputs, user_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=user_path, help=".pth, .safetensors or Darknet .weights / .conv.74")
    parser.add_argument(
        "--out", type=user_path, required=True, help="model folder, or .safetensors file for a backbone"
    )
    parser.add_argument("--annotations", type=user_path, help="annotation JSON of the checkpoint's data set")
    parser.add_argument("--dataset", help="what the model was trained on; by default the annotation file's name")
    args = parser.parse_args()
    refuse_inputs([args.out], [path for path in (args.weights, args.annotations) if path is not None])
    from rec.command_line import InputError
    from rec.models.original_config import original_kind
    from rec.models.original_weights import is_darknet_file, read_state_dict

    if is_darknet_file(args.weights):
        write_backbone("DarkNet53", args.weights, args.out)
        return 0
    state = read_state_dict(args.weights)
    try:
        kind = original_kind(state)
    except ValueError as error:
        raise InputError(f"{args.weights}: {error}") from None
    if kind in ("CspDarkNet", "DarkNet53"):
        write_backbone(kind, args.weights, args.out)
        return 0
    if args.annotations is None:
        raise InputError(
            f"{args.weights} is a {kind} checkpoint, which carries no vocabulary: add --annotations with the annotation"
            " JSON of the data set it was trained on"
        )
    write_model_folder(kind, state, args)
    return 0


def write_backbone(kind: str, weights: Path, out: Path) -> None:
    from rec.command_line import InputError
    from rec.config import shell_override
    from rec.model_folder.writer import write_weights
    from rec.models import backbones

    if out.suffix != ".safetensors":
        raise InputError(f"{weights} holds a {kind} backbone; --out {out} must end in .safetensors")
    backbone = getattr(backbones, kind)(pretrained=True, pretrained_weight_path=str(weights))
    write_weights(out, backbone.state_dict())
    print(f"{weights}: {kind}, all {len(backbone.state_dict())} tensors of the backbone found")
    print(f"written: {out}\nuse it: model.visual_backbone.pretrained=true")
    print(f"        {shell_override('model.visual_backbone.pretrained_weight_path', str(out))}")


def write_model_folder(kind: str, state: dict[str, Any], args: argparse.Namespace) -> None:
    import rec
    from rec.command_line import InputError
    from rec.config import instantiate
    from rec.data.sources import load_json
    from rec.data.text import Vocabulary
    from rec.model_folder.writer import write
    from rec.models.original_config import ORIGINAL_PREPROCESS, original_config
    from rec.models.original_weights import load_original

    config = original_config(state)
    try:
        splits = load_json(args.annotations)
        vocabulary = Vocabulary.build(phrase for items in splits.values() for item in items for phrase in item["refs"])
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{args.annotations} is not in SimREC's format {{split: [{{refs: [...]}}]}}") from None
    expected = config["language_encoder"]["token_size"]
    if len(vocabulary) != expected:
        raise InputError(
            f"{args.annotations} gives a vocabulary of {len(vocabulary)} words, {args.weights} was trained with"
            f" {expected}: it belongs to another annotation file, and its word ids would mean other words"
        )
    model = instantiate(config)
    report = load_original(model, state, str(args.weights))
    dataset = args.dataset or args.annotations.stem
    about = {
        "dataset": dataset,
        "split": "train",
        "sources": [dataset],
        "converted_from": args.weights.name,
        "rec_version": rec.__version__,
    }
    write(
        args.out, model.state_dict(), {"model": config, "preprocess": ORIGINAL_PREPROCESS, "about": about}, vocabulary
    )
    print(f"{args.weights}: {kind}, vocabulary of {len(vocabulary)} words from {args.annotations}\n{report}")
    print(
        f"written: {args.out}\ntry it: python scripts/predict.py {shlex.quote(str(args.out))} photo.jpg 'the man on the left'"
    )


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
