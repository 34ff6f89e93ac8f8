"""Text encoders of published models (BERT, RoBERTa, CLIP, SigLIP, SigLIP 2) as one module, from a plain config.

One set of state-dict names for all families, which :func:`from_published` gives the tensors of ``transformers``' files; the
numbers are those of ``transformers`` (tests/models/test_pretrained_text.py).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rec.errors import UntrustedError
from rec.trust import MAX_TOKEN_LENGTH, MAX_WORDS


@dataclass(frozen=True)
class Family:
    """What the models of one ``model_type`` have in common.

    Attributes:
        norm_first: layer norms before attention and feed-forward layer, and one at the end; else behind each, and one behind the
            embeddings.
        causal: a token attends to those before it alone.
        offset: positions begin behind the padding's id.
        fixed_length: phrases are filled up to the model's length with its padding token, which is attended to like any other.
        pool: how the token features become one vector, unless the config says otherwise.
        defaults: what a published ``config.json`` need not say.
    """

    norm_first: bool
    causal: bool
    offset: bool
    fixed_length: bool
    pool: str
    defaults: Mapping[str, Any]


_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_MORE = ("hidden_act", "layer_norm_eps", "pad_token_id")


def _defaults(*values: Any, **more: Any) -> dict[str, Any]:
    return dict(zip((*_SIZES, *_MORE), values, strict=True)) | more


_BERT = _defaults(
    30522, 768, 12, 12, 3072, 512, "gelu", 1e-12, 0, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
)
_CLIP = _defaults(49408, 512, 12, 8, 2048, 77, "quick_gelu", 1e-5, 1, attention_dropout=0.0)
_SIGLIP = _defaults(
    32000, 768, 12, 12, 3072, 64, "gelu_pytorch_tanh", 1e-6, 1, attention_dropout=0.0, projection_size=None
)
FAMILIES = {
    "bert": Family(False, False, False, False, "mean", _BERT),
    "roberta": Family(False, False, True, False, "mean", _BERT | {"vocab_size": 50265, "pad_token_id": 1}),
    "xlm-roberta": Family(False, False, True, False, "mean", _BERT | {"pad_token_id": 1}),
    "clip_text_model": Family(True, True, False, False, "eos", _CLIP),
    "siglip_text_model": Family(True, False, False, True, "last", _SIGLIP),
    "siglip2_text_model": Family(True, False, False, True, "last", _SIGLIP),
}

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
}
# Bounds, because these sizes decide how much memory is taken before weights are looked at. Two of RoBERTa's positions are not for
# tokens.
_WHOLE = {"vocab_size": (1, MAX_WORDS), "hidden_size": (1, 8192), "num_hidden_layers": (1, 96), "num_attention_heads": (1, 128),
          "intermediate_size": (1, 32768), "max_position_embeddings": (2, 8194), "pad_token_id": (0, MAX_WORDS - 1),
          "projection_size": (1, 8192)}  # fmt: skip
_SHARES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
# Settings of other architectures under the same model_type, and what would run or fetch something.
_REFUSED = {"auto_map": None, "quantization_config": None, "is_decoder": False, "add_cross_attention": False,
            "position_embedding_type": "absolute", "embedding_size": None}  # fmt: skip


def checked(config: object, origin: str = "encoder.json") -> dict[str, Any]:
    """An encoder's config that is safe to build: of a known ``model_type``, with known keys alone, within bounds.

    Args:
        config: native containers.
        origin: what messages call it.

    Raises:
        UntrustedError: it is not; names the key.
    """

    def refuse(what: str) -> UntrustedError:
        return UntrustedError(f"{origin}: {what}")

    family = FAMILIES.get(str(config.get("model_type"))) if isinstance(config, Mapping) else None
    if family is None or not isinstance(config, Mapping):
        named = config.get("model_type") if isinstance(config, Mapping) else config
        raise refuse(f"model_type is {str(named)[:80]!r}, expected one of {', '.join(FAMILIES)}")
    unknown = [str(key) for key in config if key != "model_type" and key not in family.defaults]
    if unknown:
        known = f"a {config['model_type']} has {', '.join(family.defaults)}"
        raise refuse(f"{unknown[0][:80]!r} is not in the list of keys of an encoder; {known}")
    values = dict(family.defaults) | dict(config)
    for key, (least, most) in _WHOLE.items():
        value = values.get(key, least)
        if not (type(value) is int and least <= value <= most) and not (key == "projection_size" and value is None):
            raise refuse(f"{key} is {str(value)[:80]}, expected a whole number {least} to {most:,}")
    for key in (*_SHARES, "layer_norm_eps"):
        value = values.get(key, 0.0)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise refuse(f"{key} is {str(value)[:80]}, expected a number from 0 to below 1")
    if str(values["hidden_act"]) not in _ACTIVATIONS:  # a list has no hash
        raise refuse(f"hidden_act is {str(values['hidden_act'])[:80]!r}, expected one of {', '.join(_ACTIVATIONS)}")
    if values["hidden_size"] % values["num_attention_heads"]:
        raise refuse(
            f"hidden_size {values['hidden_size']} is not divisible by {values['num_attention_heads']} attention heads"
        )
    if values["pad_token_id"] >= values["vocab_size"]:
        raise refuse(f"pad_token_id {values['pad_token_id']} is not below vocab_size {values['vocab_size']}")
    room = values["max_position_embeddings"] - (values["pad_token_id"] + 1) * family.offset
    if room < 1 or (family.fixed_length and room > MAX_TOKEN_LENGTH):
        raise refuse(f"max_position_embeddings {values['max_position_embeddings']} leaves {room} places for tokens")
    return values


def from_published_config(content: object, origin: str) -> dict[str, Any]:
    """The :func:`checked` config of a ``config.json`` as ``transformers`` writes it, of a text model or of one with a text half.

    Raises:
        UntrustedError: another architecture, or one that would run or fetch code.
    """
    if isinstance(content, dict) and isinstance(content.get("text_config"), dict):
        halves = {"clip": "clip_text_model", "siglip": "siglip_text_model", "siglip2": "siglip2_text_model"}
        kind = halves.get(str(content.get("model_type")), content.get("model_type"))
        content = (
            {key: content[key] for key in _REFUSED if key in content} | content["text_config"] | {"model_type": kind}
        )
    if not isinstance(content, dict):
        raise UntrustedError(f"{origin} is not a mapping; expected the config.json of a transformers model")
    family = FAMILIES.get(str(content.get("model_type")))
    for key, harmless in _REFUSED.items() if family else ():  # of another family they are its own affair
        if content.get(key, harmless) not in (harmless, None):
            raise UntrustedError(f"{origin}: {key} is {str(content[key])[:80]!r}, which is not supported")
    known = {"model_type", *(family.defaults if family else ())}
    # transformers also writes null for what it leaves to a default.
    return checked({key: value for key, value in content.items() if key in known and value is not None}, origin)


class TextBlock(nn.Module):
    """Self-attention and a feed-forward layer, each with residual and layer norm; ``(B, L, C)`` kept."""

    def __init__(self, config: Mapping[str, Any], family: Family) -> None:
        super().__init__()
        size, wide, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.num_heads, self.norm_first, self.causal = config["num_attention_heads"], family.norm_first, family.causal
        self.activation = _ACTIVATIONS[config["hidden_act"]]
        self.attention_dropout = config.get("attention_probs_dropout_prob", config.get("attention_dropout", 0.0))
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        self.expand, self.contract = nn.Linear(size, wide), nn.Linear(wide, size)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(size, eps), nn.LayerNorm(size, eps)
        self.dropout = nn.Dropout(config.get("hidden_dropout_prob", 0.0))

    def forward(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """``attended`` bool ``(B, 1, 1, L)``, or None where every token is."""
        if self.norm_first:
            x = x + self.attend(self.attention_norm(x), attended)
            return x + self.feed(self.feed_forward_norm(x))
        x = self.attention_norm(x + self.attend(x, attended))
        return self.feed_forward_norm(x + self.feed(x))

    def attend(self, x: Tensor, attended: Tensor | None) -> Tensor:
        query, key, value = (
            linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        rate = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attended, rate, is_causal=self.causal)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(-2)))

    def feed(self, x: Tensor) -> Tensor:
        return self.dropout(self.contract(self.activation(self.expand(x))))


class TextTransformer(nn.Module):
    """Ids of the family's own tokenizer to token features.

    Args:
        config: :func:`checked`.

    Attributes:
        length: the most tokens of a phrase.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.family = FAMILIES[config["model_type"]]
        size, eps = config["hidden_size"], config["layer_norm_eps"]
        self.length = config["max_position_embeddings"] - (config["pad_token_id"] + 1) * self.family.offset
        self.pad, self.size = config["pad_token_id"], size
        self.embedding = nn.Embedding(config["vocab_size"], size)
        self.positions = nn.Embedding(self.length, size)
        self.norm = nn.LayerNorm(size, eps)
        self.blocks = nn.ModuleList(TextBlock(config, self.family) for _ in range(config["num_hidden_layers"]))
        self.dropout = nn.Dropout(config.get("hidden_dropout_prob", 0.0))
        self.head = nn.Linear(size, config.get("projection_size") or size) if self.family.fixed_length else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids: Tensor, attended: Tensor | None) -> Tensor:
        """int64 ``(B, L)`` and bool ``(B, L)`` (None: all) to ``(B, L, C)``."""
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        if not self.family.norm_first:
            x = self.dropout(self.norm(x))
        mask = None if attended is None or self.family.causal else attended[:, None, None]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) if self.family.norm_first else x


_RENAMED = (  # of transformers' tensors, in this order
    (r"^(bert|roberta|text_model)\.", ""),
    (r"\.gamma$", ".weight"), (r"\.beta$", ".bias"),
    (r"^embeddings\.(word_embeddings|token_embedding)\.", "embedding."),
    (r"^embeddings\.(position_embeddings|position_embedding)\.", "positions."),
    (r"^(embeddings\.LayerNorm|final_layer_norm)\.", "norm."),
    (r"^encoder\.layers?\.", "blocks."),
    (r"\.attention\.self\.(query|key|value)\.", r".\1."),
    (r"\.attention\.output\.dense\.", ".out."), (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
    (r"\.intermediate\.dense\.", ".expand."), (r"\.output\.dense\.", ".contract."),
    (r"\.output\.LayerNorm\.", ".feed_forward_norm."),
    (r"\.self_attn\.q_proj\.", ".query."), (r"\.self_attn\.k_proj\.", ".key."), (r"\.self_attn\.v_proj\.", ".value."),
    (r"\.self_attn\.out_proj\.", ".out."), (r"\.layer_norm1\.", ".attention_norm."), (r"\.layer_norm2\.", ".feed_forward_norm."),
    (r"\.mlp\.fc1\.", ".expand."), (r"\.mlp\.fc2\.", ".contract."),
)  # fmt: skip


def published_name(name: str) -> str:
    """Our name of a tensor in a file of ``transformers``."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def from_published(tensors: Mapping[str, Tensor], model: TextTransformer, origin: str) -> dict[str, Tensor]:
    """The state dict of ``model``, adapters apart, from the tensors of a file as ``transformers`` writes it.

    Those of other halves are left out.

    The embedding of the first token type, which every token of a phrase has, is added to the positions; of positions that
    begin behind the padding's id the first are left out.

    Raises:
        UntrustedError: a tensor is missing, of another shape, or holds whole numbers, as those of quantised files do.
    """
    found = {published_name(name): value for name, value in tensors.items() if not name.startswith("vision_model.")}
    types = found.get("embeddings.token_type_embeddings.weight", torch.zeros(1, model.size))
    if types.ndim != 2 or not len(types) or types.shape[1] != model.size:
        raise UntrustedError(f"{origin} has token types {tuple(types.shape)}, expected (1 or more, {model.size})")
    positions = found.get("positions.weight")
    if positions is not None and positions.ndim == 2 and positions.shape[1] == model.size:
        found["positions.weight"] = positions[(model.pad + 1) * model.family.offset :].float() + types[0]
    own = {name: value for name, value in model.state_dict().items() if not name.rpartition(".")[2].startswith("lora_")}
    for name, value in own.items():
        if name not in found or found[name].shape != value.shape:
            shape = "no" if name not in found else f"{tuple(found[name].shape)} for"
            raise UntrustedError(
                f"{origin} has {shape} {name}, expected {tuple(value.shape)}: it is not of its config.json"
            )
        if not found[name].is_floating_point():
            raise UntrustedError(
                f"{origin} has {name} as {found[name].dtype}, expected floating point: no quantised file"
            )
    return {name: found[name].to(value.dtype) for name, value in own.items()}


def attention_numbers(model: TextTransformer, length: int) -> int:
    """Numbers in one attention map of a phrase of ``length`` tokens."""
    heads = max(block.num_heads for block in model.blocks if isinstance(block, TextBlock))
    return heads * (model.length if model.family.fixed_length else length) ** 2
