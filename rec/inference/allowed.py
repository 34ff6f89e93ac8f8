"""The names a model folder's config may call, when nobody vouches for the folder.

Exact names, never prefixes: ``torch.hub.os.system`` resolves through module attributes, so a rule "everything below
``torch``" would be no protection. Every name here is a ``torch.nn.Module`` that builds layers from numbers; none reads
a file, opens a connection or takes a name that leads to code. Arguments that would (``pretrained`` and its paths) are
turned off by :func:`harmless` before anything is built.
"""

from typing import Any

_BACKBONES = ("CspDarkNet", "DarkNet53", "DResNet", "ResNet", "SmallResNet", "TimmBackbone", "VGG16")
_MODELS = {
    "rec.models": ("MCN", "SimREC"),
    "rec.models.simrec": ("SimREC",),
    "rec.models.mcn": ("MCN",),
    "rec.models.backbones": _BACKBONES,
    "rec.models.backbones.cspdarknet": ("CspDarkNet",),
    "rec.models.backbones.darknet53": ("DarkNet53",),
    "rec.models.backbones.small_resnet": ("SmallResNet",),
    "rec.models.backbones.timm_backbone": ("DResNet", "ResNet", "TimmBackbone", "VGG16"),
    "rec.models.fusion": ("SimpleFusion", "MultiScaleFusion", "GaranAttention"),
    "rec.models.heads": ("REChead",),
    "rec.models.mask_head": ("MaskHead",),
    "rec.models.anchor_head": ("MCNhead",),
    "rec.models.language_encoders": ("LSTM", "LSTM_SA", "Transformer"),
    "torch.nn": ("ModuleList", "Sequential", "Identity"),
    "torch.nn.modules.container": ("ModuleList", "Sequential"),
    "torch.nn.modules.linear": ("Identity",),
}
ALLOWED_TARGETS = frozenset(f"{module}.{name}" for module, names in _MODELS.items() for name in names)

# What the data set of a run's config.yaml may call when it is evaluated.
ALLOWED_DATA_TARGETS = frozenset({"rec.data.dataset.RefCOCODataSet", "rec.data.stream.streamed_split"})

# What a run's config.yaml may call when it is trained again.
_OPTIMIZERS: tuple[str, ...] = ("torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD")
_OPTIMIZERS += ("torch.optim.adam.Adam", "torch.optim.adamw.AdamW", "torch.optim.sgd.SGD")
ALLOWED_RUN_TARGETS = ALLOWED_TARGETS | ALLOWED_DATA_TARGETS | {*_OPTIMIZERS, "rec.training.schedules.build_schedule"}

# Arguments that fetch or read weights from elsewhere; a model folder brings its own.
_OFF = {"pretrained": False, "pretrained_weight_path": None, "pretrained_emb": None}


def harmless(config: Any) -> Any:
    """A copy of a native config with every ``pretrained`` flag, path and vector argument off, at any depth."""
    if isinstance(config, dict):
        return {key: _OFF[key] if key in _OFF else harmless(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(harmless(value) for value in config)
    return config


def strangers(config: Any, allowed: frozenset[str]) -> list[str]:
    """Names that a native config would call or import and that are not ``allowed``, in order."""
    if isinstance(config, dict):
        named = [str(config[key]) for key in ("_target_", "_object_") if key in config]
        inner = [name for value in config.values() for name in strangers(value, allowed)]
        return [name for name in named if name not in allowed] + inner
    if isinstance(config, list | tuple):
        return [name for value in config for name in strangers(value, allowed)]
    return []
