"""Reads weights of the original SimREC and MCN code: names, shapes, file formats, with a report of what fitted.

Original names are those of ``state_dict`` in SimREC's checkpoints. :func:`our_name` maps one name;
:func:`convert_state_dict` maps a whole state dict and reports what is missing, unexpected, dropped or of
another shape. Nothing is ever loaded partially without saying so.
"""

import errno
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rec.errors import UntrustedError
from rec.files import user_path
from rec.models.backbones.base import ZERO_TO_ONE, Backbone
from rec.models.darknet_weights import is_darknet_file, load_darknet
from rec.models.pth import load_pth
from rec.models.soundness import unsound
from rec.trust import weight_shapes

logger = logging.getLogger(__name__)

MAX_NAME = 500  # letters of a tensor's name

# (original module, our module); * stands for a number. More specific rules come first.
_RULES = [
    # CSPDarknet, DarkNet53
    ("visual_encoder.model.9.cv1", "visual_backbone.stages.9.reduce"),
    ("visual_encoder.model.9.cv2", "visual_backbone.stages.9.merge"),
    ("visual_encoder.model.*.m.*.cv1", "visual_backbone.stages.*.bottlenecks.*.reduce"),
    ("visual_encoder.model.*.m.*.cv2", "visual_backbone.stages.*.bottlenecks.*.expand"),
    ("visual_encoder.model.*.cv1", "visual_backbone.stages.*.main"),
    ("visual_encoder.model.*.cv2", "visual_backbone.stages.*.bypass"),
    ("visual_encoder.model.*.cv3", "visual_backbone.stages.*.merge"),
    ("visual_encoder.model.*", "visual_backbone.stages.*"),
    ("visual_encoder.module_list.*.module_list.*.0", "visual_backbone.stages.*.*.reduce"),
    ("visual_encoder.module_list.*.module_list.*.1", "visual_backbone.stages.*.*.expand"),
    ("visual_encoder.module_list.*", "visual_backbone.stages.*"),
    # LSTM_SA
    ("lang_encoder.embedding", "language_encoder.embedding"),
    ("lang_encoder.lstm", "language_encoder.rnn"),
    ("lang_encoder.sa_list.*.mhatt.linear_v", "language_encoder.blocks.*.attention.value"),
    ("lang_encoder.sa_list.*.mhatt.linear_k", "language_encoder.blocks.*.attention.key"),
    ("lang_encoder.sa_list.*.mhatt.linear_q", "language_encoder.blocks.*.attention.query"),
    ("lang_encoder.sa_list.*.mhatt.linear_merge", "language_encoder.blocks.*.attention.out"),
    ("lang_encoder.sa_list.*.ffn.mlp.fc.linear", "language_encoder.blocks.*.expand"),
    ("lang_encoder.sa_list.*.ffn.mlp.linear", "language_encoder.blocks.*.contract"),
    ("lang_encoder.sa_list.*.norm1", "language_encoder.blocks.*.attention_norm"),
    ("lang_encoder.sa_list.*.norm2", "language_encoder.blocks.*.feed_forward_norm"),
    ("lang_encoder.att_flat.mlp.fc.linear", "language_encoder.pool.hidden"),
    ("lang_encoder.att_flat.mlp.linear", "language_encoder.pool.score"),
    ("lang_encoder.att_flat.linear_merge", "language_encoder.pool.out"),
    # SimpleFusion: three in SimREC, one in MCN
    ("fusion_manner.*.v_proj.0", "fusion_manner.*.image.conv"),
    ("fusion_manner.*.v_proj.1", "fusion_manner.*.image.norm"),
    ("fusion_manner.*.q_proj.0", "fusion_manner.*.text.conv"),
    ("fusion_manner.*.q_proj.1", "fusion_manner.*.text.norm"),
    ("fusion_manner.*.norm.0", "fusion_manner.*.norm"),
    ("fusion_manner.v_proj.0", "fusion_manner.image.conv"),
    ("fusion_manner.v_proj.1", "fusion_manner.image.norm"),
    ("fusion_manner.q_proj.0", "fusion_manner.text.conv"),
    ("fusion_manner.q_proj.1", "fusion_manner.text.norm"),
    ("fusion_manner.norm.0", "fusion_manner.norm"),
    # MultiScaleFusion
    ("multi_scale_manner.up_modules.*.1", "multi_scale_manner.up.*.0"),
    ("multi_scale_manner.up_modules.*.2", "multi_scale_manner.up.*.1"),
    ("multi_scale_manner.down_modules.*", "multi_scale_manner.down.*"),
    ("multi_scale_manner.bot_proj", "multi_scale_manner.out.0"),
    ("multi_scale_manner.mid_proj", "multi_scale_manner.out.1"),
    ("multi_scale_manner.top_proj", "multi_scale_manner.out.2"),
    # GaranAttention
    *(
        (f"{theirs}.{original}", f"{ours}.{name}")
        for theirs, ours in (
            ("attention_manner", "attention_manner"),
            ("det_garan", "det_attention"),
            ("seg_garan", "seg_attention"),
        )
        for original, name in (
            ("w_qs", "query"),
            ("w_kc", "collect_key"),
            ("w_kd", "diffuse_key"),
            ("w_vs", "value"),
            ("w_o", "out"),
            ("layer_norm", "norm"),
            ("w_m", "map_logits"),
        )
    ),
    # REChead, MCNhead
    ("head.stems.0", "head.stem"),
    ("head.reg_convs.0.*", "head.tower.*"),
    ("head.reg_preds.0", "head.box"),
    ("head.obj_preds.0", "head.objectness"),
    ("head.d_proj", "head.mask_energy"),
    ("head.s_proj", "head.box_energy"),
    ("head.dconv", "head.anchors"),
    ("head.sconv.0.conv*", "head.mask.branches.*"),
    ("head.sconv.0.out_proj", "head.mask.logits"),
]
# Computed by the original, read by nobody, therefore not built.
_UNREAD = re.compile(r".*\.map_logits\.|multi_scale_manner\.out\.")


@cache
def _patterns() -> list[tuple[re.Pattern, str]]:
    patterns = []
    for original, ours in _RULES:
        numbers = iter(range(1, 10))
        target = re.sub(r"\*", lambda _, numbers=numbers: rf"\g<{next(numbers)}>", ours)  # type: ignore[misc]
        patterns.append((re.compile(re.escape(original).replace(r"\*", r"(\d+)") + r"(?=\.)"), target))
    return patterns


def our_name(original: str) -> str | None:
    """Our state-dict name of an entry of an original SimREC or MCN state dict; None for a name it never has.

    One to one: no two names of one model meet.
    """
    for pattern, target in _patterns():
        match = pattern.match(original)
        if match:
            return match.expand(target) + re.sub(r"\.(bn|batch_norm)\.", ".norm.", original[match.end() :])
    return None


@dataclass
class ConversionReport:
    """What became of every entry of an original state dict, and of every entry a model expects.

    Attributes:
        matched: our names that were filled.
        missing: our names that no entry filled.
        unexpected: original names that have no place in the model.
        dropped: original names of parts that the original computes and nobody reads.
        clashes: our name, shape found, shape expected.
    """

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    clashes: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Everything the model expects was filled and nothing was left over."""
        return not (self.missing or self.unexpected or self.clashes)

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} tensors matched"]
        for what, names in (
            ("dropped, computed by the original but read by nobody", self.dropped),
            ("missing from the file", self.missing),
            ("not expected by the model", self.unexpected),
            ("of another shape", [f"{n}: found {found}, expected {want}" for n, found, want in self.clashes]),
        ):
            if names:
                shown = ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "")
                lines.append(f"{len(names)} {what}: {shown}")
        return "\n".join(lines)


def convert_state_dict(original: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], ConversionReport]:
    """Renames and reshapes an original SimREC or MCN state dict for ``model``.

    Args:
        original: names as in the original's checkpoints, with or without a leading ``module.``; names of ours pass
            unchanged.
        model: a :class:`~rec.models.SimREC` or :class:`~rec.models.MCN` of the same architecture.

    Returns:
        The matched tensors under our names, and a report; ``model.load_state_dict`` takes them when it is complete.
    """
    expected = model.state_dict()
    plain = ((name.removeprefix("module."), tensor) for name, tensor in original.items())
    return _placed(((name, name if name in expected else our_name(name), tensor) for name, tensor in plain), expected)


def _placed(
    named: Iterable[tuple[str, str | None, Tensor]], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], ConversionReport]:
    """What fits among ``expected``, and what became of each: (name in the file, our name or None, tensor)."""
    state: dict[str, Tensor] = {}
    report = ConversionReport()
    for name, ours, tensor in named:
        if ours is None or ours not in expected:
            (report.dropped if ours is not None and _UNREAD.match(ours) else report.unexpected).append(name)
            continue
        shape = expected[ours].shape
        # The original has 1x1 convolutions where GaranAttention has linear layers.
        tensor = tensor.reshape(shape) if tensor.shape == (*shape, 1, 1) else tensor
        if tensor.shape == shape:
            state[ours] = tensor
            report.matched.append(ours)
        else:
            report.clashes.append((ours, tuple(tensor.shape), tuple(shape)))
    clashing = {name for name, _, _ in report.clashes}
    report.missing = [name for name in expected if name not in state and name not in clashing]
    return state, report


def load_original(model: nn.Module, original: Mapping[str, Tensor], source: str) -> ConversionReport:
    """Loads an original state dict into ``model``, all of it or nothing.

    Args:
        source: what the error calls the weights, usually the file.

    Raises:
        ValueError: something is missing, unexpected or of another shape; the message is the report.
    """
    state, report = convert_state_dict(original, model)
    if not report.complete:
        raise ValueError(f"{source} does not hold the weights of this {type(model).__name__}:\n{report}")
    model.load_state_dict(state)
    if trouble := unsound(model):
        raise ValueError(f"{source}: {trouble}; these weights cannot predict anything")
    return report


def original_kind(state: Mapping[str, Any]) -> str:
    """What a state dict under its authors' names is of: ``SimREC``, ``MCN``, ``CspDarkNet``, ``DarkNet53`` or ``YOLOX``.

    Raises:
        ValueError: none of these; names some of the entries found.
    """
    names = [name.removeprefix("module.") for name in state]
    if any(name.startswith("lang_encoder.") for name in names):
        return "MCN" if any(name.startswith("det_garan.") for name in names) else "SimREC"
    if "backbone.backbone.stem.conv.conv.weight" in names:
        return "YOLOX"
    if any(name.endswith("module_list.0.conv.weight") for name in names):
        return "DarkNet53"
    if any(name.endswith("model.0.conv.weight") for name in names):
        return "CspDarkNet"
    raise ValueError(
        "expected weights of SimREC or MCN (lang_encoder., visual_encoder., ...) or of their backbones"
        f" (model.0.conv.weight, module_list.0.conv.weight); found {', '.join(names[:6])}. A file of timm's needs no conversion:"
        " TimmBackbone reads it as it is (model_name, pretrained=True, pretrained_weight_path)"
    )


def sizes_of_backbone(kind: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments with which a backbone has the shapes of a state dict under its authors' names.

    Args:
        kind: as of :func:`original_kind`.
    """
    shapes = {
        re.sub(r"^(module\.)?(visual_encoder\.|model\.(?=model\.))*", "", name): t.shape for name, t in state.items()
    }

    def blocks(prefix: str) -> int:
        return len({name.split(".")[prefix.count(".")] for name in shapes if name.startswith(prefix)})

    if kind == "YOLOX":
        width = shapes["backbone.backbone.stem.conv.conv.weight"][0] / 64
        depthwise = "backbone.backbone.dark2.0.dconv.conv.weight" in shapes
        neck = any(name.startswith("backbone.C3_p4.") for name in shapes)
        sizes: dict[str, Any] = {"width": width, "depth": blocks("backbone.backbone.dark3.1.m.") / 9}
        return sizes | {"depthwise": depthwise, "neck": neck}
    if kind == "CspDarkNet" and "model.0.conv.weight" in shapes:
        return {"width": shapes["model.0.conv.weight"][0] / 64, "depth": blocks("model.6.m.") / 9}
    return {}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a ``.safetensors`` or ``.pth`` file: the file itself, or its ``state_dict`` or ``model``.

    Nothing in a ``.pth`` is executed: files that hold objects other than tensors and plain values are refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds objects, no tensors, or quantised ones.
        UntrustedError: a ``.pth`` that is not a regular file, or asks for more than it holds.
    """
    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such weight file (docs/weights.md says where to get them)", str(path))
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            weight_shapes(path)
        except UntrustedError as error:
            raise ValueError(str(error)) from None
        return _not_quantised(load_file(path), path)
    content = load_pth(path)
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        found = ", ".join(str(name)[:40] for name, _ in list(named)[:8])
        raise ValueError(
            f"{path} holds no tensors: expected a state dict, or a dict with one under 'state_dict' or 'model'"
            + (f"; found {found}" if found else "")
        )
    if longest := max((name for name in tensors if len(name) > MAX_NAME), key=len, default=None):
        raise ValueError(
            f"{path} names a tensor {longest[:80]}… with {len(longest):,} letters; at most {MAX_NAME} are read"
        )
    return _not_quantised(tensors, path)


def _not_quantised(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict, whose weights are floating-point numbers: whole ones would be taken for them as they are."""
    for name, value in state.items():
        if name.endswith(".weight") and not value.is_floating_point():
            raise ValueError(f"{path}: {name} is {value.dtype}, quantised; expected the weights before that, in floats")
    return state


def load_backbone(backbone: Backbone, path: str | Path | None) -> list[str]:
    """Loads backbone weights, all of them or nothing; returns the names in the file that have no place in the backbone.

    Args:
        backbone: a CspDarkNet, DarkNet53 or YOLOX.
        path: a Darknet file (``.weights``, ``.conv.74``), or a state dict (see :func:`read_state_dict`) of the
            backbone, or of a model that contains it, under the original's names or ours. What the file holds besides
            the backbone is left out and logged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no path, or the file does not fill the backbone.
    """
    if not path:
        raise ValueError(
            f"{type(backbone).__name__}(pretrained=True) needs pretrained_weight_path; set it, or"
            " model.visual_backbone.pretrained=false to start from random weights"
        )
    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(
            errno.ENOENT,
            f"no such file of {type(backbone).__name__} weights (docs/weights.md says how to get one; for random weights,"
            " model.visual_backbone.pretrained=false model.visual_backbone.freeze_backbone=false)",
            str(path),
        )
    if is_darknet_file(path):
        load_darknet(backbone, path)
        left = []
    else:
        left = _load_state(backbone, path)
    if trouble := unsound(backbone):
        raise ValueError(f"{path}: {trouble}; these weights cannot see anything")
    backbone.expects = ZERO_TO_ONE
    return left


def _load_state(backbone: Backbone, path: str | Path) -> list[str]:
    expected, content = backbone.state_dict(), read_state_dict(path)
    try:
        found = backbone.from_original(content, _metadata(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    state, report = _placed(((name, _backbone_name(name, expected), found[name]) for name in found), expected)
    left, missing = report.unexpected, [n for n in expected if n not in state and not n.endswith("num_batches_tracked")]
    if missing:
        clashes = [f"{n}: found {found}, expected {want}" for n, found, want in report.clashes]
        raise ValueError(
            f"{path} does not hold the weights of this {type(backbone).__name__}: {len(state)} tensors matched,"
            f" {len(missing)} missing ({', '.join(missing[:4])}, ...), {len(clashes)} of another shape"
            f" ({'; '.join(clashes[:4])}), {len(left)} without a place ({', '.join(left[:4])})"
        )
    backbone.load_state_dict(state, strict=False)
    logger.info("backbone weights from %s: %d tensors matched, %d left out", path, len(state), len(left))
    return left


def _metadata(path: str | Path) -> dict[str, str]:
    """What a weight file says of itself."""
    if Path(path).suffix != ".safetensors":
        return {"format": "pth"}
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _backbone_name(name: str, expected: Mapping[str, Any]) -> str | None:
    """Our name inside the backbone of ``name``, which may carry the prefixes of whole models and wrappers."""
    while True:
        ours = our_name(f"visual_encoder.{name}")
        for candidate in (name, ours.removeprefix("visual_backbone.") if ours else name):
            if candidate in expected:
                return candidate
        prefix = _WRAPPERS.match(name)
        if prefix is None:
            return None
        name = name[prefix.end() :]


_WRAPPERS = re.compile(r"(module|visual_encoder|visual_backbone|backbone|model(?=\.model))\.")
