"""The names that a config may call when nobody vouches for it, and the one way to read such a config.

Exact names, never prefixes: ``torch.hub.os.system`` resolves through module attributes, so a rule "everything below
``torch``" would be no protection. Every name here builds something from numbers and texts; none runs what it is given.
Arguments of a model that would fetch or read weights (``pretrained`` and its paths) are turned off by :func:`without_pretrained`
before a model folder's model is built.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rec.other_names  # noqa: F401 - tells rec.config which names are refused
from rec.config import LazyConfig, get_config, to_native, try_get_key, without_interpolations
from rec.config.nodes import CONFIGS, children, expand_home, is_call, join, walk
from rec.config.refused import module_hint
from rec.contracts import ConfigNode
from rec.data.subwords import PREFIX
from rec.data.text import is_rule_based
from rec.data.word_vectors import TEXT_SUFFIXES
from rec.errors import UntrustedError
from rec.files import user_path
from rec.trust import MAX_SIDE, is_below, unlisted

_BACKBONES = ("CspDarkNet", "DarkNet53", "DResNet", "ResNet", "SmallResNet", "TimmBackbone", "VGG16", "YOLOX")
_MODELS = {
    "rec.models": ("MCN", "SimREC"),
    "rec.models.simrec": ("SimREC",),
    "rec.models.mcn": ("MCN",),
    "rec.models.backbones": _BACKBONES,
    "rec.models.backbones.cspdarknet": ("CspDarkNet",),
    "rec.models.backbones.darknet53": ("DarkNet53",),
    "rec.models.backbones.small_resnet": ("SmallResNet",),
    "rec.models.backbones.timm_backbone": ("DResNet", "ResNet", "TimmBackbone", "VGG16"),
    "rec.models.backbones.yolox": ("YOLOX",),
    "rec.models.fusion": ("SimpleFusion", "MultiScaleFusion", "GaranAttention"),
    "rec.models.heads": ("REChead",),
    "rec.models.mask_head": ("MaskHead",),
    "rec.models.anchor_head": ("MCNhead",),
    "rec.models.language_encoders": ("LSTM", "LSTM_SA", "Transformer"),
    "rec.models.pretrained_text": ("PretrainedText",),
    "torch.nn": ("ModuleList", "Sequential", "Identity"),
    "torch.nn.modules.container": ("ModuleList", "Sequential"),
    "torch.nn.modules.linear": ("Identity",),
}
# What a model folder's config.yaml may call: modules that build layers.
ALLOWED_TARGETS = frozenset(f"{module}.{name}" for module, names in _MODELS.items() for name in names)

# What else a run's config.yaml may call, to be trained, evaluated or browsed.
_DATA: tuple[str, ...] = ("rec.data.dataset.RefCOCODataSet", "rec.data.stream.streamed_split")
_DATA += ("rec.data.augment.RandAugment", "rec.data.augment.RandomErasing")
# SimREC's and what is common beside them; albumentations has others that read files or call what they are given.
_TRANSFORMS = """
    Affine CLAHE CoarseDropout ColorJitter Compose ElasticTransform GaussianBlur GaussNoise GridDistortion
    HueSaturationValue ImageCompression MotionBlur OneOf Perspective Posterize RandomBrightnessContrast RandomGamma
    RandomSizedBBoxSafeCrop Rotate SafeRotate Sharpen SomeOf ToGray
"""
_OPTIMIZERS = ("Adam", "AdamW", "SGD", "RMSprop", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta")
ALLOWED_RUN_TARGETS = (
    ALLOWED_TARGETS
    | {*_DATA, "rec.training.schedules.build_schedule"}
    | {f"albumentations.{name}" for name in _TRANSFORMS.split()}
    | {f"torch.optim.{name}" for name in _OPTIMIZERS}
    | {f"torch.optim.{name.lower()}.{name}" for name in _OPTIMIZERS}
)

# spaCy's own packages of word vectors, by name; any other pipeline is imported only where the caller names it.
_WORD_VECTORS = ("en_core_web_sm", "en_core_web_md", "en_core_web_lg", "en_vectors_web_lg")

# Keys of a run's config that hold paths, and what is none there.
_PATHS = re.compile(
    r"dataset\.((ann|image|mask)_path(\.[^.]+|\['[^']+'\])?(\.path)?|path|tokenizer|vocabulary|word_vectors)|"
    r"model\.(.+\.)?pretrained_weight_path|model\.language_encoder\.name|train\.(load_weight|vl_pretrain_weight|resume_path)"
)
_GENERATED = ("scenes", "scenes_hard", "")
STARTED_IN = "relative paths start from "  # the first line of a run's config.yaml, with the folder behind it

# Arguments that fetch or read weights from elsewhere; a model folder brings its own.
_OFF = {"pretrained": False, "pretrained_weight_path": None, "pretrained_emb": None}


def without_pretrained(config: Any) -> Any:
    """A copy of a native config with every ``pretrained`` flag, path and vector argument off, at any depth."""
    if isinstance(config, dict):
        return {key: _OFF[key] if key in _OFF else without_pretrained(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(without_pretrained(value) for value in config)
    return config


def unlisted_in_run(config: Any) -> list[str]:
    """What a run's native config asks for and that nobody has listed: targets, spaCy pipelines, transforms of huge sizes."""
    data = config.get("dataset")
    transforms = data.get("candidate_transforms") if isinstance(data, dict) else None
    large = [f"a transform with the number {number}" for number in _numbers(transforms) if not abs(number) <= MAX_SIDE]
    return unlisted(config, ALLOWED_RUN_TARGETS) + list(_pipelines(config)) + large


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _numbers(inner)


def _pipelines(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        name, vectors = config.get("tokenizer"), config.get("word_vectors")
        if name is not None and not is_rule_based(str(name)) and not str(name).startswith(PREFIX):
            yield f"tokenizer {name}"
        if vectors is not None and not str(vectors).endswith(TEXT_SUFFIXES) and vectors not in _WORD_VECTORS:
            yield f"word_vectors {vectors}"
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list | tuple) else ():
        yield from _pipelines(value)


def load_config(path: str | Path, overrides: Sequence[str] = (), trust_config: bool = False) -> Any:
    """A config with its overrides, as every script reads one: a ``.yaml`` is held to the lists of this module.

    Args:
        path: ``.py``, which is a program and runs, or ``.yaml``, which may be a stranger's.
        overrides: ``key=value`` each.
        trust_config: Let a YAML file call anything and read the environment: for files of your own only.

    Raises:
        rec.config.ConfigError: It cannot be read, or an override does not fit.
        UntrustedError: It names something that is not in the list; nothing was imported.
    """
    cfg = LazyConfig.apply_overrides(fill_in(at_home(LazyConfig.load(path), path)), overrides)
    return checked_config(cfg, path, trust_config)


def at_home(cfg: Any, path: str | Path) -> Any:
    """Lets the relative paths of a run's saved config start from the folder that the run was started in, wherever it is read;
    returns ``cfg``.

    Only where the file still lies in that run's folder: a copy is a config like any other, whose paths start from here.
    """
    folder = try_get_key(cfg, "train.output_dir")
    if Path(path).suffix == ".py" or not isinstance(folder, str):
        return cfg
    with open(user_path(path), encoding="utf-8", errors="replace") as file:
        comment = file.readline(10_000).rstrip("\n").partition(STARTED_IN)
    start = Path(comment[2])
    if comment[0] != "# " or os.path.realpath(start / folder) != os.path.realpath(user_path(path).parent):
        return cfg
    if os.path.realpath(start) == os.path.realpath(""):
        return cfg
    cfg.train.output_dir = str(start / folder)
    for place, node in list(walk(cfg)):
        for key, value in list(children(node)) if isinstance(node, CONFIGS) else ():
            if isinstance(value, str) and _PATHS.fullmatch(join(place, key)) and value not in _GENERATED:
                prefix = PREFIX if value.startswith(PREFIX) else ""
                if (prefix or key != "tokenizer") and (found := start / value.removeprefix(prefix)).exists():
                    node[key] = f"{prefix}{found}"
    return cfg


def fill_in(cfg: Any) -> Any:
    """Puts the defaults of ``configs/common/train.py`` where ``cfg.train`` and its groups lack a key; returns ``cfg``."""

    def fill(group: ConfigNode, defaults: ConfigNode) -> None:
        own = dict(children(group))
        for key, value in children(defaults):
            if key not in own:
                group[key] = value
            elif all(isinstance(side, Mapping) and not is_call(side) for side in (own[key], value)):
                fill(own[key], value)

    if isinstance(try_get_key(cfg, "train"), Mapping):
        fill(cfg.train, get_config("common/train.py").train)
    return cfg


def outward(cfg: Any, path: str | Path, overrides: Sequence[str]) -> str | None:
    """What a YAML config wants that reaches beyond the current folder, and that no override says: where a run writes, and to
    which hub it is published. None where there is nothing."""
    said = {word.lstrip("+").partition("=")[0] for word in overrides}
    folder, hub = (try_get_key(cfg, key) for key in ("train.output_dir", "train.hub.repo_id"))
    if Path(path).suffix == ".py":
        return None
    own = os.path.realpath(user_path(path).parent)  # a run is continued where its config lies
    inside = not isinstance(folder, str) or is_below(folder, [""]) or os.path.realpath(folder) == own
    if "train.output_dir" not in said and not inside:
        return f"train.output_dir={str(folder)[:200]}"
    return f"train.hub.repo_id={str(hub)[:200]}" if hub and "train.hub.repo_id" not in said else None


def checked_config(cfg: Any, path: str | Path, trust_config: bool = False) -> Any:
    """A loaded config that is safe to build, ``~`` replaced: ``cfg``, or where it has interpolations a copy without; see
    :func:`load_config`."""
    expand_home(cfg)

    if trust_config or Path(path).suffix == ".py":
        return cfg
    try:
        cfg = without_interpolations(cfg)
        found = unlisted_in_run(to_native(cfg))
        if found:
            raise UntrustedError(
                f"it asks for {found[0][:100]!r}, which is not in the list of names that a YAML config may use"
                f"{module_hint(found[0])}"
            )
    except UntrustedError as error:
        raise UntrustedError(
            f"{path}: {error}; for a file of your own, give the Python config it came from, or add --trust-config where the "
            "command takes it"
        ) from None
    return cfg
