"""What the compatibility tests measure, by promised names alone: these functions, run on the code of 0.1, wrote ``0.1/recorded``.

Each gives numbers (``name: tensor``), which are compared bit for bit on the machine type and library versions of the corpus and
within :data:`TOLERANCES` elsewhere, and words (plain JSON values), which must always be equal, but for those whose name begins with
``bits:``: digests and whole masks, for which there is no "almost".
"""

import hashlib
import importlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

import rec
from rec import model_folder
from rec.config import LazyConfig, instantiate
from rec.data.batch import prepare
from rec.data.dataset import RefCOCODataSet
from rec.data.stream import streamed_split
from rec.inference import export

CORPUS = Path(__file__).parent / "0.1"
IMAGES = ("square.png", "wide.png", "tall.png")
PHRASES = ("the red circle", "small blue square on the left", "zebra right of the circle")
# Of the largest value of a tensor, at least of 1, by how its name begins: decoders and resizing may be a level of 255 apart and
# more at an edge, and training multiplies what rounding did.
TOLERANCE = 1e-5
TOLERANCES = {"coarse.": 0.02, "updates.": 1e-3, "metrics:": 1e-3, "optimizer": 1e-3}
LIBRARIES = ("torch", "numpy", "cv2", "timm", "safetensors")

Numbers = dict[str, Tensor]
Words = dict[str, Any]


def machine() -> dict[str, Any]:
    """What the last bits of a number depend on: processor, its instruction sets, library versions."""
    cpu = Path("/proc/cpuinfo")
    lines = dict(line.split("\t", 1) for line in cpu.read_text().splitlines() if "\t" in line) if cpu.exists() else {}
    described = {key: lines.get(key, "").lstrip(" \t:") for key in ("vendor_id", "cpu family", "model", "model name")}
    flags = hashlib.sha256(" ".join(sorted(lines.get("flags", "").split())).encode()).hexdigest()[:16]
    versions = {name: importlib.import_module(name).__version__ for name in LIBRARIES}
    known = {"system": platform.system(), "isa": torch.backends.cpu.get_cpu_capability(), "flags": flags}
    return known | described | versions


def digest(tensors: Numbers) -> str:
    """Of names, dtypes, shapes and bytes."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def uniform(name: str, *shape: int) -> Tensor:
    """float32 in [-1, 1), a function of the name: NumPy promises never to change this generator."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return torch.from_numpy(np.random.RandomState(seed).random_sample(shape).astype(np.float32)) * 2 - 1


def fill(module: nn.Module) -> None:
    """Weights, and statistics of norms, from :func:`uniform`, of a size that keeps signals neither dying nor growing."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                value.fill_(1)
            elif name.endswith("running_var"):
                value.copy_(1 + uniform(name, *value.shape) / 2)
            elif value.ndim < 2:
                value.copy_(uniform(name, *value.shape) / 4 + (1 if "norm" in name and name.endswith("weight") else 0))
            else:  # words count for more than chance would have it, or every phrase would get the same answer
                gain = 4 if name.startswith("language_encoder.") else 2 if ".text." in name else 1
                value.copy_(uniform(name, *value.shape) * gain * (6 / value[0].numel()) ** 0.5)


def square_images(count: int, size: int) -> Tensor:
    """uint8 ``(count, 3, size, size)``: coarse random squares, whole numbers only."""
    coarse = ((uniform(f"{count} images", count, 3, 8, 8) + 1) * 127).to(torch.uint8)
    return coarse.repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3)


# ---- models


def answers(folder: Path) -> tuple[Numbers, Words]:
    """Of a model folder through ``rec.from_pretrained``: three pictures, three phrases each, and the next best boxes."""
    grounder = rec.from_pretrained(folder, device="cpu")
    found = [grounder(CORPUS / "images" / name, list(PHRASES)) for name in IMAGES]
    plain = [answer.to_dict() for row in found for answer in row]
    numbers = {"answers.score": torch.tensor([answer["score"] for answer in plain], dtype=torch.float64)}
    words: Words = {
        f"answers.{key}": [answer[key] for answer in plain] for key in ("phrase", "warning", "width", "height")
    }
    words["answers.origin"] = grounder.origin
    words["bits:answers.mask"] = [answer["mask"] for answer in plain]
    if plain[0]["box"] is not None:
        numbers["answers.box"] = torch.tensor([answer["box"] for answer in plain], dtype=torch.float64)
        best = grounder(CORPUS / "images" / IMAGES[0], PHRASES[0], top_k=3, nms_iou=0.6)
        words["bits:answers.candidates"] = best.to_dict()["candidates"]
    return numbers, words


def outputs(folder: Path) -> tuple[Numbers, Words]:
    """Raw predictions of the plain module on two images and three phrases, and the names of its state dict."""
    model, config, vocabulary = model_folder.read(folder)
    preprocess = config["preprocess"]
    batch = {
        "image": square_images(2, preprocess["input_shape"][0]),
        "tokens": torch.tensor([vocabulary.encode(phrase, preprocess["max_token_length"]) for phrase in PHRASES]),
        "image_index": torch.tensor([0, 1, 0]),
    }
    with torch.inference_mode():
        found = model.eval()(prepare(batch, preprocess["mean"], preprocess["std"]))
        deployed = export.Deployed(model, config)(batch["image"], batch["tokens"][:2])
    numbers = {f"outputs.{name}": (value[..., ::4, ::4] if name == "mask" else value) for name, value in found.items()}
    words: Words = {"bits:outputs": {name: digest({name: value}) for name, value in found.items()}}
    words["bits:deployed"] = {name: digest({name: value}) for name, value in deployed.items()}
    words |= {"outputs": dict.fromkeys(found, True), "deployed": dict.fromkeys(deployed, True)}
    return numbers, words | {"tokens": batch["tokens"].tolist()}


def updates(folder: Path) -> tuple[Numbers, Words]:
    """Losses of two updates from the folder's weights, with plain gradient descent and no dropout."""
    model, config, vocabulary = model_folder.read(folder)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # torch does not promise the same random numbers everywhere
    size, length = config["preprocess"]["input_shape"][0], config["preprocess"]["max_token_length"]
    mask = torch.zeros(4, 1, size, size, dtype=torch.uint8)
    mask[:, :, size // 4 : size // 2, size // 8 : size // 2] = 255
    batch = {
        "image": square_images(4, size),
        "tokens": torch.tensor([vocabulary.encode(phrase, length) for phrase in (*PHRASES, "blue circle")]),
        "box": torch.tensor([[0.3, 0.4, 0.4, 0.3], [0.6, 0.5, 0.5, 0.6], [0.7, 0.3, 0.3, 0.4], [0.4, 0.6, 0.6, 0.5]]),
        "mask": mask,
    }
    batch = prepare(batch, config["preprocess"]["mean"], config["preprocess"]["std"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    model.train()
    steps = []
    for _ in range(2):
        losses = model(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        steps.append({name: value.detach() for name, value in losses.items()})
    numbers = {f"updates.{name}": torch.stack([step[name] for step in steps]) for name in steps[0]}
    words = {"losses": dict.fromkeys(steps[0], True), "trained": len(trained)}
    return numbers, words | {"bits:weights": digest(dict(model.state_dict()))}


def backbone(config: dict[str, Any]) -> tuple[Numbers, Words]:
    """Names, strides and maps of a backbone that is too large to keep the weights of."""
    module = instantiate(config)
    fill(module)
    with torch.inference_mode():
        maps = module.eval()(square_images(1, 64) / 255)
    spec = {name: list(value.shape) for name, value in module.state_dict().items()}
    words = {"strides": list(module.strides), "channels": list(module.channels), "state_dict": spec}
    words["trained"] = sorted(name for name, parameter in module.named_parameters() if parameter.requires_grad)
    return {f"map{number}": value[:, :8] for number, value in enumerate(maps)}, words


# ---- data


def dataset_of(name: str, training: bool, **options: Any) -> RefCOCODataSet:
    """The split ``train`` (in training) or ``val`` of a table of the corpus; called from a copy of it as working directory."""
    split = "train" if training else "val"
    given = {"input_shape": (32, 32), "max_token_length": 6, "with_masks": True, "seed": 5} | options
    return RefCOCODataSet(name, {name: f"tables/{name}"}, "own/pictures", split=split, training=training, **given)


def batches(dataset: RefCOCODataSet) -> tuple[Numbers, Words]:
    """What a data set gives: a batch of its first six samples in epoch 1, what it knows of itself, and how it describes them."""
    count = min(6, len(dataset))
    batch = dataset.collate([dataset[(1, index)] for index in range(count)])
    numbers, words = batch_content(batch)
    words |= {
        "fingerprint": dataset.fingerprint,
        "length": len(dataset),
        "splits": list(dataset.available_splits),
        "sources": list(dataset.sources),
        "words": [dataset.vocabulary.tokenizer, *dataset.vocabulary.words],
        "truncated": dataset.truncated,
        "described": [named(dataset.describe(index)) for index in range(count)],
        "groups": dataset.image_groups().tolist(),
        "targets": [int(dataset.target_mask(index).sum()) for index in range(count)] if not dataset.training else [],
    }
    return numbers, words


def named(description: Words) -> Words:
    """A description with its picture by name: where a data set lies is no promise."""
    return description | {"image": Path(description["image"]).name}


def mixture() -> RefCOCODataSet:
    """Two tables, one seen one and a half times; every sentence once, mirrored at random, labels clipped as in the original."""
    tables = {"plain": "tables/plain", "raw": "tables/raw"}
    return RefCOCODataSet(
        {"plain": 1, "raw": 1.5}, tables, {"plain": "own/pictures"}, input_shape=(32, 32), max_token_length=6, with_masks=True,
        split="train", training=True, sentence_sampling="per_sentence", flip_lr=True, label_clip=0.99, seed=7,
        vocabulary="vocab.json",
    )  # fmt: skip


def stream_batch() -> tuple[Numbers, Words]:
    """The first samples of a stream over the parquet table."""
    stream = streamed_split(
        "tables/embedded", "train", vocabulary="vocab.json", training=True, input_shape=(32, 32), max_token_length=6,
        with_masks=True, buffer_size=0, seed=5,
    )  # fmt: skip
    samples = iter(stream)
    numbers, words = batch_content(stream.collate([next(samples) for _ in range(4)]))
    return numbers, words | {"fingerprint": stream.fingerprint, "sources": list(stream.sources)}


def batch_content(batch: dict[str, Tensor]) -> tuple[Numbers, Words]:
    """A batch: what is whole or exact arithmetic as words, pixels as coarse means (decoders differ by a level) and a digest."""
    exact = ("tokens", "box", "geometry", "box_pixels", "index")
    words: Words = {key: batch[key].tolist() for key in exact}
    words["types"] = {key: [str(value.dtype), list(value.shape)] for key, value in sorted(batch.items())}
    words["bits:pixels"] = digest({key: batch[key] for key in ("image", "mask")})
    coarse = {key: nn.functional.avg_pool2d(batch[key].double() / 255, 16) for key in ("image", "mask")}
    return {f"coarse.{key}": value for key, value in coarse.items()}, words


# ---- runs


def run_content(folder: Path, step: str) -> tuple[Numbers, Words]:
    """Weights, optimizer state, loop state and metrics of a run folder at one checkpoint; no wall-clock times, no versions."""
    checkpoint = folder / "checkpoints" / step
    files = {"model": checkpoint / "model.safetensors", "ema": checkpoint / "ema.safetensors"}
    files["best"] = folder / "best" / "model.safetensors"
    weights = {name: load_file(file) for name, file in files.items()}
    numbers = {f"{name}:{key}": value for name in ("model", "ema") for key, value in weights[name].items()}
    optimizer = torch.load(checkpoint / "optimizer.bin", weights_only=True)
    moments = {f"{n}.{key}": value for n, state in optimizer["state"].items() for key, value in state.items()}
    numbers["optimizer"] = torch.stack([value.double().abs().sum() for value in moments.values()]).sum()
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    kept = (
        "epoch", "update_in_epoch", "update", "ema_updates", "processes", "batch_size", "accumulation",
        "data_fingerprint",
    )  # fmt: skip
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, record in enumerate(records):
        for key, value in record.items():
            if isinstance(value, float) and key not in ("images_per_second", "data_wait", "memory_gb", "eta_seconds"):
                numbers[f"metrics:{number}.{key}"] = torch.tensor(value, dtype=torch.float64)
    words = {
        "state": {key: state[key] for key in kept},
        "metrics": [
            {key: record[key] for key in ("kind", "update", "epoch")} | {"keys": dict.fromkeys(record, True)}
            for record in records
        ],
        "checkpoint": {path.name: True for path in checkpoint.iterdir()},
        "best": {path.name: True for path in (folder / "best").iterdir()},
        "bits:weights": {name: digest(tensors) for name, tensors in weights.items()},
        "bits:optimizer": digest(moments),
        "preprocess": yaml.safe_load((folder / "best" / "config.yaml").read_text(encoding="utf-8"))["preprocess"],
    }
    return numbers, words


# ---- configs


def config_content() -> tuple[Numbers, Words]:
    """Of every saved leaf config: the model's state dict on the meta device, and factors of the learning-rate schedule."""
    numbers: Numbers = {}
    words: Words = {}
    seen: dict[str, str] = {}
    for path in sorted((CORPUS / "configs").glob("*.yaml")):
        cfg = LazyConfig.load(str(path))
        cfg.model.language_encoder.token_size = 40
        if "pretrained" in cfg.model.visual_backbone:
            cfg.model.visual_backbone.pretrained = False
        text = LazyConfig.to_py(cfg.model)
        if text not in seen:  # many leaf configs share their model
            seen[text] = path.stem
            with torch.device("meta"):
                model = instantiate(cfg.model)
            words[path.stem] = {name: list(value.shape) for name, value in model.state_dict().items()}
        else:
            words[path.stem] = seen[text]
        schedule = instantiate(
            cfg.train.scheduler, base_lr=cfg.train.base_lr, warmup_lr=cfg.train.warmup_lr, min_lr=cfg.train.min_lr,
            warmup_updates=6, total_updates=100, updates_per_epoch=2,
        )  # fmt: skip
        numbers[path.stem] = torch.tensor([schedule(update) for update in range(0, 101, 5)], dtype=torch.float64)
    return numbers, words
