"""A published text encoder as a model's ``language_encoder``."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rec.errors import UntrustedError
from rec.models.layers import check_sizes
from rec.models.lora import adapt
from rec.models.soundness import unsound
from rec.models.text_transformer import TextTransformer, checked, from_published

POOLS = ("mean", "cls", "eos", "last")


class PretrainedText(nn.Module):
    """Phrases to vectors by a published text encoder (BERT, RoBERTa, XLM-RoBERTa, CLIP, SigLIP, SigLIP 2), and one linear layer.

    Token ids are those of the encoder's own tokenizer plus one, 0 is padding (:class:`rec.contracts.Words`): it subtracts the one
    again and makes its own attention mask. What a family asks for beyond that is done here: SigLIP's phrases are filled up to its
    fixed length.

    Args:
        name: folder or Hub id (``transformers``' ``config.json``, ``model.safetensors``) that a training run takes the encoder
            from; from then on it only says where it came from.
        layers: how many of its layers to keep; null keeps all.
        freeze: ``"all"``, ``"none"``, or a number: the embeddings and that many layers are frozen.
        lora: ``{"rank": 8, "targets": ["query", "value"]}`` trains low-rank updates of these layers, all else of the encoder is
            frozen. Targets: query, key, value, out, expand, contract.
        hidden_size: width of the vectors.
        pool: ``"mean"`` of the tokens, ``"cls"`` (the first), ``"eos"`` (the last one of the phrase), ``"last"`` (the last place,
            and SigLIP's head); by default the family's own: mean for BERT and RoBERTa, eos for CLIP, last for SigLIP.
        token_size: ``len(vocabulary)``, one more than the ids of the tokenizer; set when a run starts.
        config: of the encoder, ``encoder.json`` in a model folder; set from ``name`` when a run starts.
        digest: of the encoder's weights file; set from ``name`` when a run starts.

    Attributes:
        cache: keeps the pooled features of phrases met before, for a frozen encoder; a training run sets it
            (:class:`rec.training.phrase_cache.PhraseCache`).
        is_frozen: whether nothing before the linear layer is trained.
        borrowed: names of the tensors that are frozen and the published ones: checkpoints leave them out.

    Raises:
        ValueError: arguments that do not fit each other or the encoder.
        UntrustedError: ``config`` is not in the list, or beyond its bounds.
    """

    def __init__(
        self,
        name: str | None = None,
        layers: int | None = None,
        freeze: str | int = "all",
        lora: Mapping[str, Any] | None = None,
        hidden_size: int = 512,
        pool: str | None = None,
        token_size: int | None = None,
        config: Mapping[str, Any] | None = None,
        digest: str | None = None,
    ) -> None:
        super().__init__()
        if config is None:
            raise ValueError(
                "config is not set: a training run takes it from name (rec.model_folder.text_encoder.settle), a model folder "
                "has it in encoder.json"
            )
        settings = checked(config)
        depth = settings["num_hidden_layers"] if layers is None else layers
        if type(depth) is not int or not 1 <= depth <= settings["num_hidden_layers"]:
            raise ValueError(f"layers is {layers!r}, the encoder has {settings['num_hidden_layers']}")
        if token_size is not None and token_size > settings["vocab_size"] + 1:
            raise ValueError(
                f"the tokenizer has {token_size - 1} ids, the encoder {settings['vocab_size']} (vocab_size): it is another "
                "encoder's (set dataset.tokenizer to transformers:<name> with the encoder's own name), or tokens were added to it "
                "that the encoder has no vectors for (take it without them, or save the encoder after resize_token_embeddings)"
            )
        check_sizes(hidden_size=hidden_size)
        self.hidden_size, self.name = hidden_size, name
        self.text = TextTransformer(settings | {"num_hidden_layers": depth})
        self.pool = pool or self.text.family.pool
        if self.pool not in POOLS:
            raise ValueError(f"pool is {pool!r}, expected one of {', '.join(POOLS)}")
        head = self.text.head if self.pool == "last" else None
        if head is None:
            self.text.head = None
        self.project = nn.Linear(self.text.size if head is None else head.out_features, hidden_size)
        self._frozen = self._freeze(freeze, lora, depth)
        still = {id(parameter) for parameter in self.text.parameters() if not parameter.requires_grad}
        self.borrowed = frozenset(n for n, p in self.named_parameters() if id(p) in still)
        self.cache: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor] | None = None
        self.is_frozen = all(not parameter.requires_grad for parameter in self.text.parameters())

    def _freeze(self, freeze: str | int, lora: Mapping[str, Any] | None, depth: int) -> list[nn.Module]:
        """Turns gradients off; returns the modules that are frozen, whose dropout is off too."""
        is_count = type(freeze) is int and 0 <= freeze <= depth
        if freeze not in ("all", "none") and not is_count:
            raise ValueError(f"freeze is {freeze!r}, expected all, none or a number of layers up to {depth}")
        if lora is not None:
            given = {"targets": ("query", "value")} | (dict(lora) if isinstance(lora, Mapping) else {})
            rank, targets = given.get("rank"), given["targets"]
            named = isinstance(targets, Sequence) and len(targets) > 0 and all(type(name) is str for name in targets)
            if (
                given.keys() != {"rank", "targets"}
                or type(rank) is not int
                or not 1 <= rank <= self.text.size
                or not named
            ):
                raise ValueError(f"lora is {lora}, expected {{rank: 1 to {self.text.size}, targets: [query, value]}}")
            if freeze != "all":
                raise ValueError(
                    f"freeze is {freeze!r} with lora: adapters are trained where all else is frozen (freeze=all)"
                )
            self.text.requires_grad_(False)
            adapt(self.text, rank, targets)
            return []
        if freeze == "none":
            return []
        text: Any = self.text
        frozen = [text] if freeze == "all" else [text.embedding, text.positions, *text.blocks[:freeze]]
        if freeze != "all" and not text.family.norm_first:  # both are behind the embeddings, and in front of the layers
            frozen += [text.norm, text.dropout]
        for module in frozen:
            module.requires_grad_(False)
        return frozen

    def load_published(self, tensors: Mapping[str, Tensor], origin: str) -> None:
        """Takes the tensors of ``transformers``' weights file; adapters stay.

        Raises:
            UntrustedError: they do not fit, or are not numbers.
        """
        self.text.load_state_dict(from_published(tensors, self.text, origin), strict=False)
        if trouble := unsound(self.text):
            raise UntrustedError(f"{origin}: {trouble}; these weights cannot read anything")

    def train(self, mode: bool = True) -> "PretrainedText":
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def tokens_and_vector(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """int64 ``(B, L)``, 0 is padding, to token features ``(B, L, C)`` and pooled ones ``(B, C')``, before the linear layer.

        Raises:
            ValueError: more tokens than the encoder has places for.
        """
        length, text = tokens.shape[1], self.text
        if length > text.length:
            raise ValueError(
                f"the language encoder has places for {text.length} tokens, the phrases have {length}: set "
                f"dataset.max_token_length={text.length}"
            )
        # The first place is always attended to: a phrase of padding alone would divide by nothing.
        used = (tokens != 0) | (torch.arange(length, device=tokens.device) == 0)
        ids = torch.where(tokens != 0, tokens - 1, text.pad)
        attended: Tensor | None = used
        if text.family.fixed_length:
            ids, attended = nn.functional.pad(ids, (0, text.length - length), value=text.pad), None
        features = text(ids, attended)
        if self.pool == "mean":
            weight = used.to(features.dtype)[..., None]
            vector = (features[:, :length] * weight).sum(1) / weight.sum(1)
        elif self.pool == "cls":
            vector = features[:, 0]
        elif self.pool == "last":
            vector = features[:, -1] if text.head is None else text.head(features[:, -1])
        else:
            # A product with one-hot rows in place of indexing by tensors, which exports to a plain graph.
            ends = used & ~nn.functional.pad(used[:, 1:], (0, 1))
            vector = (features[:, :length] * ends.to(features.dtype)[..., None]).sum(1)
        return features[:, :length], vector

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 token ids ``(B, L)``, 0 is padding, to phrase vectors ``(B, hidden_size)``."""
        if self.cache is not None:
            return self.project(self.cache(tokens, lambda new: self.tokens_and_vector(new)[1]))
        if self.training and tokens.device.type == "cpu" and self.pool != "last":
            # Places that no phrase of the batch reaches cost as much as words. On a GPU the host would wait for their number.
            tokens = tokens[:, : max(1, int((tokens != 0).any(0).sum()))]
        with torch.no_grad() if self.is_frozen else nullcontext():
            vector = self.tokens_and_vector(tokens)[1]
        return self.project(vector)


def text_encoders(model: nn.Module) -> dict[str, PretrainedText]:
    """The published encoders in a model, by their name in it."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PretrainedText)}


def borrowed_names(model: nn.Module) -> set[str]:
    """State-dict names of the tensors that a model has from published encoders, unchanged."""
    return {f"{name}.{own}".lstrip(".") for name, encoder in text_encoders(model).items() for own in encoder.borrowed}
