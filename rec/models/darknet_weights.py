"""Darknet's binary ``.weights`` files (Redmon's framework): ``yolov3.weights``, ``darknet53.conv.74``.

Format: int32 major, minor, revision; number of images seen, int64 (int32 before version 0.2); then float32 per
convolution in network order: BatchNorm bias, weight, running mean, running variance, convolution weights.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rec.models.backbones.base import Backbone
from rec.models.layers import ConvBlock
from rec.trust import regular_file

logger = logging.getLogger(__name__)

TRUNK_STAGES = 11  # DarkNet53 proper; the stages behind it are the first layers of YOLOv3's neck


def is_darknet_file(path: str | Path) -> bool:
    """Whether a file's name is that of a binary Darknet file: ``.weights`` or, for a trunk, ``.conv.74``."""
    return Path(path).suffix in (".weights", ".74")


def load_darknet(backbone: Backbone, path: Path) -> None:
    """Loads a Darknet file into a DarkNet53; what lies behind the backbone's layers in the file is not read.

    A file that holds the trunk alone (``darknet53.conv.74``) leaves the three neck stages at their initialisation;
    these are then released if they were frozen.

    Raises:
        ValueError: the file is cut short.
        UntrustedError: it is not a regular file.
    """
    size = regular_file(path, "weights").stat().st_size
    if size < 20:
        raise ValueError(f"{path} is cut short: {size} bytes do not even hold a Darknet header")
    major, minor = np.fromfile(path, "<i4", 2).tolist()
    header = 20 if major * 10 + minor >= 2 else 16
    values = np.memmap(path, "<f4", "r", header, ((size - header) // 4,))  # no more is read than the backbone takes
    start = 0
    state: dict[str, Tensor] = {}
    for number, stage in enumerate(backbone.stages):
        if number == TRUNK_STAGES and start == len(values):
            backbone.freeze(min(backbone.frozen_stages, TRUNK_STAGES))
            logger.warning("%s holds the trunk alone: the last three stages start from random weights", path)
            break
        blocks = [
            name for name, module in stage.named_modules(prefix=f"stages.{number}") if isinstance(module, ConvBlock)
        ]
        for name in blocks:
            for part in ("norm.bias", "norm.weight", "norm.running_mean", "norm.running_var", "conv.weight"):
                shape = backbone.get_submodule(name).state_dict()[part].shape
                end = start + shape.numel()
                if end > len(values):
                    raise ValueError(
                        f"{path} is cut short: {name}.{part} needs values {start} to {end}, the file has {len(values)}"
                        f" ({size:,} bytes). Expected darknet53.conv.74 or yolov3.weights, whole"
                    )
                state[f"{name}.{part}"] = torch.from_numpy(np.array(values[start:end])).reshape(shape)
                start = end
    backbone.load_state_dict(state, strict=False)
    logger.info(
        "backbone weights from %s: %d tensors, %d values behind them not read", path, len(state), len(values) - start
    )
