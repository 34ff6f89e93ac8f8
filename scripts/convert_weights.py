"""Turn weights of the original SimREC and MCN code, and of YOLOv5, YOLOv3 and YOLOX backbones, into files of this project.

    rec convert simrec_refcoco.pth --annotations refcoco.json --out weights/simrec_refcoco
    rec convert mcn_refcoco.pth --annotations refcoco.json --out weights/mcn_refcoco
    rec convert cspdarknet_coco.pth --out weights/cspdarknet_coco.safetensors
    rec convert yolov3.weights --out weights/darknet53.safetensors
    rec convert yolox_nano.pth --out weights/yolox_nano.safetensors

A SimREC or MCN checkpoint becomes a model folder, for `rec predict`, `rec evaluate` and train.load_weight.
The originals carry no vocabulary: --annotations is the annotation JSON of the data set the checkpoint was trained on
(word ids are the order of first appearance over all its splits). Backbone weights become one safetensors file, for
model.visual_backbone.pretrained_weight_path. The report names what matched, what is missing, unexpected or dropped;
nothing is written unless everything fits. Nothing in a .pth is executed.
"""

import argparse
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main() -> int:
    from rec.files import refuse_inputs, user_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=user_path, help=".pth, .safetensors or Darknet .weights")
    parser.add_argument(
        "--out", type=user_path, required=True, help="model folder, or .safetensors file for a backbone"
    )
    parser.add_argument("--annotations", type=user_path, help="annotation JSON of the checkpoint's data set")
    parser.add_argument("--dataset", help="what the model was trained on; by default the annotation file's name")
    args = parser.parse_args()
    refuse_inputs([args.out], [path for path in (args.weights, args.annotations) if path is not None])
    from rec.command_line import InputError
    from rec.models.darknet_weights import is_darknet_file
    from rec.models.original_weights import original_kind, read_state_dict

    if is_darknet_file(args.weights):
        write_backbone("DarkNet53", {}, args.weights, args.out)
        return 0
    state = read_state_dict(args.weights)
    try:
        kind = original_kind(state)
    except ValueError as error:
        raise InputError(f"{args.weights}: {error}") from None
    if kind in ("CspDarkNet", "DarkNet53", "YOLOX"):
        write_backbone(kind, state, args.weights, args.out)
        return 0
    if args.annotations is None:
        raise InputError(
            f"{args.weights} is a {kind} checkpoint, which carries no vocabulary: add --annotations with the annotation"
            " JSON of the data set it was trained on"
        )
    write_model_folder(kind, state, args)
    return 0


def write_backbone(kind: str, state: Mapping[str, Any], weights: Path, out: Path) -> None:
    from rec.command_line import InputError
    from rec.config import shell_override
    from rec.model_folder.writer import write_weights
    from rec.models import backbones
    from rec.models.original_weights import load_backbone, sizes_of_backbone

    if out.suffix != ".safetensors":
        raise InputError(f"{weights} holds a {kind} backbone; --out {out} must end in .safetensors")
    sizes = sizes_of_backbone(kind, state)
    backbone = getattr(backbones, kind)(**sizes, freeze_backbone=True)
    frozen = backbone.frozen_stages
    left = load_backbone(backbone, weights)
    if backbone.frozen_stages < frozen:  # what the file leaves at random was released
        name = shell_override("model.visual_backbone.pretrained_weight_path", str(weights))
        raise InputError(
            f"{weights} holds the trunk alone: once converted, the random numbers of the layers behind it would pass for trained "
            f"ones. It is read as it is: {name}"
        )
    write_weights(out, backbone.state_dict())
    how = ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in sizes.items()
    )
    print(f"{weights}: {kind}({how}), all {len(backbone.state_dict())} tensors of the backbone found")
    if left:
        parts = Counter(name.partition(".")[0] for name in left)
        print(f"left out: {', '.join(f'{count} tensors of {part}' for part, count in parts.items())}")
    print(
        f"written: {out}\nuse it, in a config with visual_backbone=LazyCall({kind})({how}): model.visual_backbone.pretrained=true"
    )
    print(f"        {shell_override('model.visual_backbone.pretrained_weight_path', str(out))}")


def published_run(kind: str, weights: Path, state: Mapping[str, Any]) -> Any:
    """The config ``{kind}_published.py`` with the sizes of the checkpoint's language encoder.

    Args:
        kind: ``SimREC`` or ``MCN``.
        weights: the checkpoint's file.
        state: its entries, under the original's names.
    """
    from rec.command_line import InputError
    from rec.config import get_config

    names = [name.removeprefix("module.") for name in state]
    embedding = dict(zip(names, state.values(), strict=True)).get("lang_encoder.embedding.weight")
    if embedding is None or embedding.ndim != 2:
        raise InputError(f"{weights} holds no lang_encoder.embedding.weight: its vocabulary size is unknown")
    blocks = {match[1] for name in names if (match := re.match(r"lang_encoder\.sa_list\.(\d+)\.", name))}
    if blocks != set(map(str, range(len(blocks)))):
        found = ", ".join(sorted(blocks))[:80]
        raise InputError(f"{weights}: the blocks of lang_encoder.sa_list are numbered {found}, expected 0, 1, …")
    cfg = get_config(f"{kind.lower()}_published.py")
    cfg.model.visual_backbone.pretrained = False
    encoder = cfg.model.language_encoder
    encoder.depth = len(blocks)
    encoder.token_size, encoder.word_embed_size = embedding.shape
    return cfg


def write_model_folder(kind: str, state: dict[str, Any], args: argparse.Namespace) -> None:
    import rec
    from rec.command_line import InputError
    from rec.config import instantiate
    from rec.data.sources import load_json
    from rec.data.text import Vocabulary
    from rec.model_folder import from_run, write
    from rec.models.original_weights import load_original

    cfg = published_run(kind, args.weights, state)
    try:
        splits = load_json(args.annotations)
        vocabulary = Vocabulary.build(phrase for items in splits.values() for item in items for phrase in item["refs"])
    except (AttributeError, KeyError, TypeError):
        raise InputError(f"{args.annotations} is not in SimREC's format {{split: [{{refs: [...]}}]}}") from None
    expected = cfg.model.language_encoder.token_size
    if len(vocabulary) != expected:
        raise InputError(
            f"{args.annotations} gives a vocabulary of {len(vocabulary)} words, {args.weights} was trained with"
            f" {expected}: it belongs to another annotation file, and its word ids would mean other words"
        )
    model = instantiate(cfg.model)
    report = load_original(model, state, str(args.weights))
    dataset = args.dataset or args.annotations.stem
    about = {"dataset": dataset, "split": "train", "sources": [dataset], "converted_from": args.weights.name}
    config = from_run(cfg, None) | {"about": about | {"rec_version": rec.__version__}}
    write(args.out, model.state_dict(), config, vocabulary)
    print(f"{args.weights}: {kind}, vocabulary of {len(vocabulary)} words from {args.annotations}\n{report}")
    print(f"written: {args.out}\ntry it: rec predict {shlex.quote(str(args.out))} photo.jpg 'the man on the left'")


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
