"""Attention that reads the words: in a few steps, cells learn which others there are, how many, and which way they lie."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rec.models.language_encoders import Phrase
from rec.models.layers import coordinate_channels


class Offsets(nn.Module):
    """``kernels`` learnt functions of the offset between two columns, or two rows, as a fraction of the map's side."""

    def __init__(self, kernels: int) -> None:
        super().__init__()
        # Dense about 0, where a step decides which of two neighbours is further left.
        close, far = torch.linspace(-0.2, 0.2, 13), torch.linspace(0.3, 0.9, 5)
        self.edges = nn.Parameter(torch.cat([-far.flip(0), close, far]))
        self.mix = nn.Linear(len(self.edges), kernels)

    def forward(self, places: Tensor) -> Tensor:
        """Places ``(n,)`` from -1 to 1 to ``(n, n, kernels)``: of what is at the first, seen from the second."""
        offsets = (places[:, None] - places) / 2
        return self.mix(torch.sigmoid((offsets[..., None] - self.edges) * 30) - 0.5)


class WordAttention(nn.Module):
    """Reasoning in steps over the words, in place of :class:`~rec.models.fusion.GaranAttention` on a head's map.

    One vector for the phrase must hold "star", "above", "square", "left of" and "big circle" at once, and what it is
    multiplied with, cell by cell, cannot tell which other cells there are. Here step t has an instruction c_t of its own:
    learnt queries attend to the word states (:class:`~rec.models.language_encoders.Phrase`), plus a linear map of the
    phrase vector. By it every head h marks cells, and tells each cell i how many marked cells j lie how from it:

    ``g_hj = sigmoid(key_h(c_t) . norm(x_j) + b_h(c_t))``,
    ``m_hi = sum_j g_hj sum_r a_hr(c_t) u_r(column_j - column_i) v_r(row_j - row_i)``,
    ``x_i <- x_i + out(relu(cells(norm(x_i)) (1 + s(c_t)) + z(c_t) + maps(m_i, g_i)))``.

    Two steps follow "above the square that is left of the circle"; sums, not means, count what "second from the left" asks
    for. The steps share their weights, so that a word means the same in each (as in Hudson and Manning, "Compositional
    Attention Networks", ICLR 2018). The kernels u_r and v_r are learnt functions of the offset as a fraction of the image,
    so maps may have any size; as they are separable, N cells in H rows and W columns take N (H + W) products, not N².

    Args:
        d_q: width of the word states and the phrase vector.
        d_v: channels of the map.
        num_heads: marks per step, and heads of the attention to the words.
        steps: how many.
        kernels: separable kernels of the relative place.

    Raises:
        ValueError: ``d_q`` is not divisible by ``num_heads``.
    """

    reads_words = True

    def __init__(self, d_q: int = 512, d_v: int = 512, num_heads: int = 8, steps: int = 4, kernels: int = 16) -> None:
        super().__init__()
        if d_q % num_heads:
            raise ValueError(f"d_q {d_q} is not divisible by num_heads {num_heads}")
        self.d_q, self.d_v, self.num_heads = d_q, d_v, num_heads
        self.query = nn.Parameter(torch.randn(steps, num_heads, d_q // num_heads) / 2)
        self.word_key, self.word_value, self.gist = (nn.Linear(d_q, d_q) for _ in range(3))
        self.place = nn.Linear(2, d_v)
        self.columns, self.rows = Offsets(kernels), Offsets(kernels)
        self.key, self.key_bias = nn.Linear(d_q, num_heads * d_v), nn.Linear(d_q, num_heads)
        self.kernel = nn.Linear(d_q, num_heads * kernels)
        self.norm = nn.LayerNorm(d_v)
        self.cells, self.maps = nn.Linear(d_v, 2 * d_v), nn.Linear(2 * num_heads, 2 * d_v)
        self.modulation, self.out = nn.Linear(d_q, 4 * d_v), nn.Linear(2 * d_v, d_v)
        nn.init.constant_(self.key_bias.bias, -1.0)  # most cells are not what a word speaks of

    def instructions(self, phrase: Phrase) -> Tensor:
        """What each step is to do, ``(B, steps, d_q)``."""
        key, value = (
            part(phrase.words).unflatten(-1, (self.num_heads, -1)) for part in (self.word_key, self.word_value)
        )
        scores = torch.einsum("shc,blhc->bshl", self.query, key) / key.shape[-1] ** 0.5
        # The lowest finite number, not -inf: -inf makes NaN of a phrase that is all padding.
        scores = scores.masked_fill(phrase.padding[:, None, None], torch.finfo(scores.dtype).min)
        read = torch.einsum("bshl,blhc->bshc", scores.softmax(-1), value).flatten(2)
        return read + self.gist(phrase.vector)[:, None]

    def forward(self, phrase: Phrase, v: Tensor) -> tuple[Tensor, Tensor]:
        """Phrases and maps ``(B, d_v, H, W)`` to the map after the steps and what they added, both ``(B, d_v, H, W)``."""
        places = coordinate_channels(v[:1])
        columns, rows = self.columns(places[0, 0, 0]), self.rows(places[0, 1, :, 0])
        start = v.flatten(2).mT
        x = start + self.place(places.flatten(2).mT)
        for instruction in self.instructions(phrase).unbind(1):
            seen = self.norm(x)
            key = self.key(instruction).unflatten(-1, (self.num_heads, -1)) / (self.d_v / 4) ** 0.5
            marks = (key @ seen.mT + self.key_bias(instruction)[..., None]).sigmoid()
            # Along the columns, then along the rows, of which the head takes its mixture of kernels.
            along = torch.einsum("bhyx,xur->bhyur", marks.unflatten(-1, v.shape[-2:]), columns)
            kernel = self.kernel(instruction).unflatten(-1, (self.num_heads, -1)) / self.rows.mix.out_features**0.5
            along = along * kernel[:, :, None, None]
            counts = torch.einsum("bhyur,ywr->bhwu", along, rows).flatten(2)
            scale, shift = self.modulation(instruction)[:, None].chunk(2, -1)
            told = self.maps(torch.cat([counts, marks], 1).mT)
            x = x + self.out(F.relu(self.cells(seen) * (1 + scale) + shift + told))
        after, added = (part.mT.unflatten(-1, v.shape[-2:]) for part in (x, x - start))
        return after, added
