"""Draws what the loader really feeds to the model: augmented, letterboxed, cut to max_token_length.

    rec browse configs/x.py [key=value ...] --out samples.png
    rec browse configs/x.py dataset.flip_lr=true --epoch 3 --count 48
    rec browse configs/x.py --split val --first 100

The box (or boxes) is drawn in green, the mask (where samples hold one) as a green veil; below are the words the model reads, with
the unknown ones as UNK, and the source and ref id.
"""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from rec.contracts import DataSet

TILE = 240  # pixels of a sample's side, at least


def picture_of(dataset: "DataSet", key: tuple[int, int]) -> Any:
    """One sample as the model sees it, at least :data:`TILE` pixels large."""
    import cv2

    from rec import boxes
    from rec.evaluation.pictures import TRUE, annotate

    sample = dataset[key]
    named = sample["boxes"] if "boxes" in sample else sample["box"][None]
    scale = max(1.0, TILE / sample["image"].shape[-1])
    marks = boxes.cxcywh_to_xyxy(named.numpy()) * sample["image"].shape[-1] * scale
    known = dataset.vocabulary.words if dataset.vocabulary is not None else ()
    words = " ".join(known[i] for i in sample["tokens"].tolist() if 0 < i < len(known))
    about = dataset.describe(key[1])

    def enlarged(pixels: "np.ndarray") -> "np.ndarray":  # a pixel stays a pixel: what the model sees is not smoothed
        return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)

    masks = [(enlarged(sample["mask"][0].numpy()) > 127, TRUE)] if "mask" in sample else []
    nothing = "" if len(named) else "names nothing here: "
    caption = f"{nothing}{words}\n({about['source']} {about['ref_id']})"
    drawn = [(box, TRUE, "") for box in marks.tolist()]
    return annotate(enlarged(sample["image"].permute(1, 2, 0).numpy()), drawn, masks, caption)


def main() -> int:
    from rec.command_line import PICTURES, InputError, add_trust_option, ending, whole

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=ending(*PICTURES), default="samples.png", help="the picture to write (default: samples.png)"
    )
    parser.add_argument("--split", help="default: dataset.split of the config")
    parser.add_argument("--count", type=whole(1, 10_000), default=24, help="how many samples (default: 24)")
    parser.add_argument(
        "--first", type=whole(0), help="consecutive samples from this index on; default: spread over the split"
    )
    parser.add_argument("--epoch", type=whole(0), default=0, help="whose random choices to show (default: 0)")

    from rec.config import ConfigError, parse_config_arguments
    from rec.model_folder.allowed import load_config
    from rec.training.keys import check_values

    add_trust_option(parser)
    arguments = parse_config_arguments(parser)
    cfg = load_config(arguments.config, arguments.overrides, arguments.trust_config)
    if problems := check_values(cfg, ("dataset",)):
        raise ConfigError("; ".join(problems))

    import numpy as np
    from torch.utils.data import IterableDataset

    from rec.evaluation.pictures import grid, save
    from rec.files import refuse_inputs
    from rec.training.build import build_dataset

    split = arguments.split or cfg.dataset.get("split", "train")
    dataset = build_dataset(cfg, split, training="train" in split.split("+"))
    if isinstance(dataset, IterableDataset):
        raise InputError(f"split {split} is a stream, whose samples cannot be asked for by number: look at --split val")
    if arguments.first is None:
        indices = np.unique(np.linspace(0, len(dataset) - 1, min(arguments.count, len(dataset))).astype(int)).tolist()
    else:
        indices = list(range(arguments.first, min(arguments.first + arguments.count, len(dataset))))
    if not indices:
        raise InputError(f"--first {arguments.first}: split {split} has {len(dataset)} samples, numbered from 0")
    refuse_inputs([arguments.out], [arguments.config], [dataset])
    save(grid([picture_of(dataset, (arguments.epoch, index)) for index in indices]), arguments.out)
    print(f"{len(indices)} of {len(dataset)} samples of split {split}, epoch {arguments.epoch}: {arguments.out}")
    return 0


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
