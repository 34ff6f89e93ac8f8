"""What is measured: the model of a config, batches for it, and a data set of generated photographs."""

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from rec.contracts import Batch

VOCABULARY_SIZE = 10_000


@dataclass(frozen=True)
class Options:
    """Choices of the command line, see ``scripts/benchmark.py --help``."""

    config: str = "configs/simrec_refcoco_scratch.py"
    overrides: tuple[str, ...] = ()
    size: int = 416
    batches: tuple[int, ...] = (8, 32)
    rounds: int = 5
    images: int = 200
    refs: int = 50_000
    device: str = "cpu"
    work: Path = field(default_factory=lambda: Path("outputs/benchmark"))


def config(options: Options) -> Any:
    """The lazy config with its overrides and a vocabulary size."""
    from rec.model_folder.allowed import load_config

    cfg = load_config(options.config, options.overrides)
    cfg.model.language_encoder.token_size = VOCABULARY_SIZE
    cfg.model.visual_backbone.pretrained = False
    cfg.dataset.input_shape = [options.size, options.size]
    return cfg


def build(options: Options, original_arithmetic: bool = False) -> Any:
    """The config's model with seeded weights; with ``original_arithmetic`` frozen BatchNorm follows the batch.

    BatchNorm has the statistics of a few images, so that evaluation mode sees signals of a trained network's size.
    """
    built = _built(replace(options, batches=(), rounds=0, device="cpu"), original_arithmetic)
    return copy.deepcopy(built).to(options.device)


@functools.cache
def _built(options: Options, original_arithmetic: bool) -> Any:
    from rec.config import instantiate

    cfg = config(options)
    if original_arithmetic:
        cfg.model.visual_backbone.update_frozen_statistics = True
    torch.manual_seed(0)
    model = instantiate(cfg.model).train()
    norms = [layer.train() for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    batch = batch_of(16, replace(options, size=min(options.size, 128)))
    for layer in norms:
        layer.momentum = None
    with torch.no_grad():
        model({"image": batch["image"].float() / 255, "tokens": batch["tokens"], "box": batch["box"]})
    for layer in norms:
        layer.momentum = 0.1
    return model.train()


def batch_of(count: int, options: Options, images: int | None = None, length: int = 15) -> Any:
    """A collated batch as the loader gives it: uint8 images, ids, boxes; ``images`` of them shared by the phrases."""
    generator = torch.Generator().manual_seed(count)
    size, shared = options.size, images or count
    coarse = torch.rand(shared, 3, 8, 8, generator=generator) * 255
    image = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 255)
    tokens = torch.randint(3, VOCABULARY_SIZE, (count, length), generator=generator)
    words = torch.randint(2, length, (count, 1), generator=generator)
    centre = torch.rand(count, 2, generator=generator) * 0.6 + 0.2
    extent = torch.rand(count, 2, generator=generator) * 0.4 + 0.2
    batch = {
        "image": image.to(torch.uint8),
        "tokens": tokens * (torch.arange(length) < words),
        "box": torch.cat([centre, extent], 1),
    }
    if images is not None:
        batch["image_index"] = torch.arange(count) * images // count
    return {name: value.to(options.device) for name, value in batch.items()}


def our_batch(batch: Batch) -> Any:
    """The same batch as our models receive it: normalised on the device."""
    from rec.data.batch import model_input

    return model_input(batch, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def plain_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """The same batch as the original's loader gives it: float32 images, label ``(B, 1, 4)``."""
    image = batch["image"] if "image_index" not in batch else batch["image"][batch["image_index"]]
    return {
        "image": (image.float() / 255).contiguous(),
        "tokens": batch["tokens"],
        "label": batch["box"][:, None],
    }


def photographs(folder: Path, count: int, width: int = 640, height: int = 480) -> list[Path]:
    """``count`` JPEG files with a photograph's mixture of smooth areas and texture, about 100 kB each; kept if there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if path.exists():
            continue
        rng = np.random.default_rng(number)
        image = np.zeros((height, width, 3), np.float32)
        for cells in (4, 16, 64, 160):
            noise = rng.standard_normal((cells * height // width + 1, cells, 3)).astype(np.float32)
            image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * (60 / cells**0.35)
        for _ in range(12):
            x, y = int(rng.integers(width)), int(rng.integers(height))
            corner = x + int(rng.integers(20, 200)), y + int(rng.integers(20, 200))
            cv2.rectangle(image, (x, y), corner, rng.uniform(-80, 80, 3).tolist(), -1 if rng.random() < 0.5 else 3)
        image += rng.standard_normal(image.shape).astype(np.float32) * 4
        cv2.imwrite(str(path), np.clip(image + 120, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def phrases(rng: Any, count: int) -> list[str]:
    """Phrases of RefCOCO's length (median 3 words)."""
    words = ["man", "left", "red", "woman", "right", "shirt", "middle", "front", "dog", "chair", "blue", "the"]
    return [" ".join(rng.choice(words, int(rng.integers(1, 8)))) for _ in range(count)]


def ellipse(box: Sequence[float], points: int) -> list[float]:
    """An ellipse inside an xywh box, as COCO writes polygons."""
    x, y, w, h = box
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    corners = np.stack([x + w / 2 * (1 + np.cos(angle)), y + h / 2 * (1 + np.sin(angle))], 1)
    return corners.round(2).flatten().tolist()


def boxes(rng: Any, count: int, width: int = 640, height: int = 480) -> Sequence[list[float]]:
    """xywh boxes inside the image."""
    found = []
    for _ in range(count):
        w, h = rng.uniform(40, width / 2), rng.uniform(40, height / 2)
        found.append([float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h)), float(w), float(h)])
    return found
