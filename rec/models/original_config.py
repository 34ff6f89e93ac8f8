"""The config of the model an original SimREC or MCN checkpoint belongs to, original arithmetic on."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# The original's image pipeline: pixels / 255, no normalisation, 416 x 416, 15 words.
ORIGINAL_PREPROCESS: dict[str, Any] = {
    "input_shape": [416, 416],
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "max_token_length": 15,
}


def original_kind(state: Mapping[str, Any]) -> str:
    """What a state dict under the original's names is of: ``SimREC``, ``MCN``, ``CspDarkNet`` or ``DarkNet53``.

    Raises:
        ValueError: none of these; names some of the entries found.
    """
    names = [name.removeprefix("module.") for name in state]
    if any(name.startswith("lang_encoder.") for name in names):
        return "MCN" if any(name.startswith("det_garan.") for name in names) else "SimREC"
    if any(name.endswith("module_list.0.conv.weight") for name in names):
        return "DarkNet53"
    if any(name.endswith("model.0.conv.weight") for name in names):
        return "CspDarkNet"
    raise ValueError(
        "expected weights of SimREC or MCN (lang_encoder., visual_encoder., ...) or of their backbones"
        f" (model.0.conv.weight, module_list.0.conv.weight); found {', '.join(names[:6])}"
    )


def original_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """``{"_target_": ..., ...}`` of the published model; vocabulary size and depth are read from the tensors.

    Args:
        state: under the original's names.

    Raises:
        ValueError: see :func:`original_kind`, or the embedding or a block is missing.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    kind = original_kind(state)
    embedding = state.get("lang_encoder.embedding.weight")
    if embedding is None or embedding.ndim != 2:
        raise ValueError("the checkpoint holds no lang_encoder.embedding.weight: its vocabulary size is unknown")
    token_size, word_embed_size = embedding.shape
    blocks = {match[1] for name in state if (match := re.match(r"lang_encoder\.sa_list\.(\d+)\.", name))}
    depth = len(blocks)
    if blocks != set(map(str, range(depth))):
        raise ValueError(
            f"the blocks of lang_encoder.sa_list are numbered {', '.join(sorted(blocks))[:80]}, expected 0, 1, …"
        )
    language_encoder = {
        "_target_": "rec.models.language_encoders.LSTM_SA",
        "depth": depth,
        "word_embed_size": word_embed_size,
        "freeze_embedding": True,
        "use_glove": True,
        "token_size": token_size,
    }
    attention = {"_target_": "rec.models.fusion.GaranAttention", "d_q": 512, "d_v": 512, "transposed_output": True}
    frozen = {"freeze_backbone": True, "update_frozen_statistics": True}
    multi_scale = "rec.models.fusion.MultiScaleFusion"
    if kind == "MCN":
        return {
            "_target_": "rec.models.mcn.MCN",
            "visual_backbone": {"_target_": "rec.models.backbones.darknet53.DarkNet53", **frozen},
            "language_encoder": language_encoder,
            "multi_scale_manner": {"_target_": multi_scale, "v_planes": [256, 512, 1024]},
            "fusion_manner": _fusion(1024, 1024),
            "det_attention": attention,
            "seg_attention": dict(attention),
            "head": {"_target_": "rec.models.anchor_head.MCNhead", "summed_losses": True},
            "mask_threshold": 0.35,
            "mask_any_overlap": True,
        }
    return {
        "_target_": "rec.models.simrec.SimREC",
        "visual_backbone": {"_target_": "rec.models.backbones.cspdarknet.CspDarkNet", **frozen},
        "language_encoder": language_encoder,
        "multi_scale_manner": {"_target_": multi_scale, "v_planes": [512, 512, 512]},
        "fusion_manner": {
            "_target_": "torch.nn.modules.container.ModuleList",
            "modules": [_fusion(planes, 512) for planes in (256, 512, 1024)],
        },
        "attention_manner": attention,
        "head": {"_target_": "rec.models.heads.REChead"},
    }


def _fusion(v_planes: int, out_planes: int) -> dict[str, Any]:
    return {
        "_target_": "rec.models.fusion.SimpleFusion",
        "v_planes": v_planes,
        "out_planes": out_planes,
        "q_planes": 512,
    }
