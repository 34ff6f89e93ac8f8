"""Language encoders: token ids ``(B, L)`` to one vector per phrase ``(B, hidden_size)``. Id 0 is padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rec.models.layers import check_sizes
from rec.names import hands_on

# (token_size, word_embed_size)
WordVectors = np.ndarray | Tensor | Sequence[Sequence[float]]


class UnbiasedLayerNorm(nn.Module):
    """``weight * (x - mean) / (std + 1e-6) + bias`` over the last axis, with the unbiased standard deviation.

    The norm of MCAN (Yu et al., CVPR 2019), on which SimREC's and MCN's text weights depend; torch's LayerNorm
    divides by n and adds its epsilon to the variance.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + self.bias


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product self-attention (Vaswani et al., 2017) over ``(B, L, C)``."""

    def __init__(self, size: int, num_heads: int, dropout_rate: float) -> None:
        super().__init__()
        check_sizes(hidden_size=size, num_heads=num_heads)
        if size % num_heads:
            raise ValueError(f"hidden_size {size} is not divisible by num_heads {num_heads}")
        self.num_heads = num_heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """``x`` ``(B, L, C)``, ``padding`` bool ``(B, L)``; a phrase of padding alone attends evenly."""
        query, key, value = (
            linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        # The lowest finite number, not -inf: -inf makes NaN of a phrase that is all padding.
        scores = scores.masked_fill(padding[:, None, None], torch.finfo(scores.dtype).min)
        attended = self.dropout(scores.softmax(-1)) @ value
        return self.out(attended.transpose(1, 2).flatten(-2))


class SelfAttentionBlock(nn.Module):
    """Self-attention and a ReLU feed-forward layer, each with residual and norm behind it; ``(B, L, C)`` kept."""

    def __init__(self, size: int, num_heads: int, ffn_size: int, dropout_rate: float) -> None:
        super().__init__()
        self.attention = SelfAttention(size, num_heads, dropout_rate)
        check_sizes(ffn_size=ffn_size)
        self.attention_norm = UnbiasedLayerNorm(size)
        self.expand = nn.Linear(size, ffn_size)
        self.contract = nn.Linear(ffn_size, size)
        self.feed_forward_norm = UnbiasedLayerNorm(size)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, padding)))
        hidden = self.dropout(F.relu(self.expand(x)))
        return self.feed_forward_norm(x + self.dropout(self.contract(hidden)))


def self_attention_blocks(depth: int, size: int, num_heads: int, ffn_size: int, dropout_rate: float) -> nn.ModuleList:
    """``depth`` :class:`SelfAttentionBlock` of one shape."""
    return nn.ModuleList(SelfAttentionBlock(size, num_heads, ffn_size, dropout_rate) for _ in range(depth))


def attend(blocks: nn.ModuleList, x: Tensor, padding: Tensor) -> Tensor:
    """``x`` ``(B, L, C)`` through the blocks, one after another."""
    for block in blocks:
        x = block(x, padding)
    return x


class AttentionPooling(nn.Module):
    """MCAN's "AttFlat": a learnt weight per token, weighted sum, linear; ``(B, L, C)`` to ``(B, C)``.

    Args:
        glimpses: how many weighted sums are taken and concatenated.
    """

    def __init__(self, size: int, glimpses: int, dropout_rate: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, size // 2)
        self.score = nn.Linear(size // 2, glimpses)
        self.out = nn.Linear(size * glimpses, size)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        scores = self.score(self.dropout(F.relu(self.hidden(x))))
        weights = scores.masked_fill(padding[..., None], torch.finfo(scores.dtype).min).softmax(1)
        return self.out((weights.transpose(1, 2) @ x).flatten(1))


class LanguageEncoder(nn.Module):
    """Word embedding, an encoding of the sequence (:meth:`encode`), attention pooling: what the encoders share.

    Args:
        hidden_size: width C of the phrase vector.
        flat_glimpses: glimpses of :class:`AttentionPooling`.
        word_embed_size: width of the word vectors.
        dropout_rate: of every dropout.
        freeze_embedding: no gradients for the word vectors.
        use_glove: the word vectors come from outside: from ``pretrained_emb`` or later through
            :meth:`load_word_vectors`. With False ``pretrained_emb`` is ignored.
        token_size: rows of the embedding, ``len(vocabulary)``; set before the encoder is built.
        pretrained_emb: ``(token_size, word_embed_size)`` word vectors.

    Raises:
        ValueError: ``token_size`` is not set, a size is below 1, or the vectors are of another shape.
    """

    def __init__(
        self,
        hidden_size: int,
        flat_glimpses: int,
        word_embed_size: int,
        dropout_rate: float,
        freeze_embedding: bool,
        use_glove: bool,
        token_size: int | None,
        pretrained_emb: WordVectors | None,
    ) -> None:
        super().__init__()
        if token_size is None:
            raise ValueError(
                "token_size is not set: the language encoder needs the size of the vocabulary"
                " (cfg.model.language_encoder.token_size = len(dataset.vocabulary))"
            )
        sizes = {"hidden_size": hidden_size, "flat_glimpses": flat_glimpses, "word_embed_size": word_embed_size}
        check_sizes(**sizes, token_size=token_size)
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(token_size, word_embed_size)
        if use_glove and pretrained_emb is not None:
            self.load_word_vectors(pretrained_emb)
        self.embedding.weight.requires_grad_(not freeze_embedding)
        self.pool = AttentionPooling(hidden_size, flat_glimpses, dropout_rate)

    @torch.no_grad()
    def load_word_vectors(self, vectors: WordVectors) -> None:
        """Copies ``(token_size, word_embed_size)`` word vectors, an array or tensor, into the embedding."""
        vectors = torch.as_tensor(vectors)
        if vectors.shape != self.embedding.weight.shape:
            raise ValueError(
                f"word vectors of shape {tuple(vectors.shape)} do not fit the embedding"
                f" (token_size, word_embed_size) = {tuple(self.embedding.weight.shape)}"
            )
        self.embedding.weight.copy_(vectors)

    def encode(self, words: Tensor, padding: Tensor) -> Tensor:
        """Word vectors ``(B, L, word_embed_size)`` and padding ``(B, L)`` to ``(B, L, hidden_size)``."""
        raise NotImplementedError

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 token ids ``(B, L)``, 0 is padding, to phrase vectors ``(B, hidden_size)``."""
        if self.training and tokens.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # Places that no phrase of the batch reaches cost as much as words. Without them sums round otherwise, and in float32
            # trainings give the same weights to the bit as they did.
            tokens = tokens[:, : max(1, int((tokens != 0).any(0).sum()))]
        padding = tokens == 0
        return self.pool(self.encode(self.embedding(tokens), padding), padding)


class _Published(LanguageEncoder):
    """:class:`LanguageEncoder` with the arguments' defaults of SimREC and MCN."""

    def __init__(
        self,
        hidden_size: int = 512,
        flat_glimpses: int = 1,
        word_embed_size: int = 300,
        dropout_rate: float = 0.1,
        freeze_embedding: bool = True,
        use_glove: bool = True,
        token_size: int | None = None,
        pretrained_emb: WordVectors | None = None,
    ) -> None:
        super().__init__(
            hidden_size,
            flat_glimpses,
            word_embed_size,
            dropout_rate,
            freeze_embedding,
            use_glove,
            token_size,
            pretrained_emb,
        )


@hands_on
class LSTM_SA(_Published):
    """SimREC's and MCN's encoder: a GRU (in spite of the name), ``depth`` self-attention blocks, attention pooling.

    The GRU runs over the padding too; being one-directional, it does not change what comes before.

    Args:
        depth: number of self-attention blocks (SimREC 1, MCN 3).
        num_heads: attention heads.
        ffn_size: width of the feed-forward layers.

    The other arguments are those of :class:`LanguageEncoder`.
    """

    def __init__(
        self,
        depth: int = 1,
        hidden_size: int = 512,
        num_heads: int = 8,
        ffn_size: int = 2048,
        *given: Any,
        **named: Any,
    ) -> None:
        super().__init__(hidden_size, *given, **named)
        self.rnn = nn.GRU(self.embedding.embedding_dim, hidden_size, batch_first=True)
        self.blocks = self_attention_blocks(depth, hidden_size, num_heads, ffn_size, self.pool.dropout.p)

    def encode(self, words: Tensor, padding: Tensor) -> Tensor:
        x, _ = self.rnn(words)
        return attend(self.blocks, x, padding)


@hands_on
class LSTM(_Published):
    """A bidirectional LSTM with attention pooling; padding is not read (packed sequences).

    Args:
        depth: LSTM layers.

    The other arguments are those of :class:`LanguageEncoder`; ``hidden_size`` counts both directions.
    """

    def __init__(self, depth: int = 1, hidden_size: int = 512, *given: Any, **named: Any) -> None:
        super().__init__(hidden_size, *given, **named)
        if hidden_size % 2:
            raise ValueError(f"hidden_size {hidden_size} is odd: half of it goes to each direction of the LSTM")
        self.rnn = nn.LSTM(
            self.embedding.embedding_dim,
            hidden_size // 2,
            depth,
            batch_first=True,
            bidirectional=True,
            dropout=self.pool.dropout.p if depth > 1 else 0.0,
        )

    def encode(self, words: Tensor, padding: Tensor) -> Tensor:
        # Lengths of at least one: packing refuses an empty phrase.
        lengths = (~padding).sum(1).clamp(min=1)
        if words.is_cuda:  # packing reads the lengths on the host, which would wait for them
            return self.encode_unpacked(words, lengths)
        packed = nn.utils.rnn.pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], True, total_length=words.shape[1])
        return states

    def encode_unpacked(self, words: Tensor, lengths: Tensor) -> Tensor:
        """The states that packing gives, of ``(B, L, word_embed_size)`` and lengths ``(B,)`` that stay where they are.

        The second direction reads each phrase turned round within its own length; padding comes behind in both.
        """
        rnn, place = self.rnn, torch.arange(words.shape[1], device=words.device)
        turned = ((lengths[:, None] - 1 - place) % words.shape[1])[..., None]  # its own inverse
        inside = (place < lengths[:, None])[..., None]
        x = words
        for layer in range(rnn.num_layers):
            directions = []
            for suffix in ("", "_reverse"):
                names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                weights = [getattr(rnn, f"{name}_l{layer}{suffix}") for name in names]
                inputs = x.gather(1, turned.expand_as(x)) if suffix else x
                start = x.new_zeros(1, len(x), rnn.hidden_size)
                states = torch.lstm(inputs, (start, start), weights, True, 1, 0.0, self.training, False, True)[0]
                directions.append(states.gather(1, turned.expand_as(states)) if suffix else states)
            x = torch.cat(directions, -1) * inside
            if layer + 1 < rnn.num_layers:
                x = F.dropout(x, rnn.dropout, self.training)
        return x


@hands_on
class Transformer(_Published):
    """A small transformer: linear map of the word vectors, sinusoidal positions, ``depth`` self-attention blocks.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017. The arguments are those of :class:`LSTM_SA`.
    """

    def __init__(
        self,
        depth: int = 2,
        hidden_size: int = 512,
        num_heads: int = 8,
        ffn_size: int = 2048,
        *given: Any,
        **named: Any,
    ) -> None:
        super().__init__(hidden_size, *given, **named)
        self.project = nn.Linear(self.embedding.embedding_dim, hidden_size)
        self.blocks = self_attention_blocks(depth, hidden_size, num_heads, ffn_size, self.pool.dropout.p)

    def encode(self, words: Tensor, padding: Tensor) -> Tensor:
        x = self.project(words)
        x = x + sinusoidal_positions(x.shape[1], x.shape[2], x.device).to(x.dtype)
        return attend(self.blocks, x, padding)


def sinusoidal_positions(length: int, size: int, device: torch.device | str | None = None) -> Tensor:
    """float32 ``(length, size)``: sines and cosines of wavelengths 2 pi to 20,000 pi, interleaved."""
    wavelengths = 10000 ** (torch.arange(0, size, 2, device=device) / size)
    angles = torch.arange(length, device=device)[:, None] / wavelengths
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :size]


def check_width(module: nn.Module, expected: int, what: str) -> None:
    """Raises a ValueError when a language encoder's ``hidden_size`` is not ``expected``."""
    width = getattr(module, "hidden_size", expected)
    if width != expected:
        raise ValueError(f"the language encoder gives vectors of {width}, {what} expects {expected}")
