"""Attention to words: the separable sums are the formula's, padding is nothing, both kinds of encoder, what it can follow."""

import pytest
import torch
from small import WIDTH, batch, encoder, mcn, simrec
from test_pretrained_text import plain
from torch import Tensor, nn

from rec.models.fusion import MultiScaleFusion
from rec.models.language_encoders import LSTM, Phrase, Transformer
from rec.models.layers import coordinate_channels
from rec.models.word_attention import WordAttention


def phrases(count: int = 2, words: int = 5, width: int = 8) -> Phrase:
    padding = torch.arange(words) >= torch.tensor([words - 2, words, *[1] * (count - 2)])[:, None]
    return Phrase(torch.randn(count, width).double(), torch.randn(count, words, width).double(), padding)


def pair_by_pair(module: WordAttention, phrase: Phrase, v: Tensor) -> Tensor:
    """The formula as it is written, over all pairs of cells."""
    grid = coordinate_channels(v[:1]).flatten(2).mT[0]
    x = v.flatten(2).mT + module.place(grid)
    offsets = (grid[:, None] - grid) / 2  # of cell j, seen from cell i
    for c in module.instructions(phrase).unbind(1):
        seen = module.norm(x)
        key = module.key(c).view(len(v), module.num_heads, -1) * 2 / module.d_v**0.5
        marks = torch.sigmoid(torch.einsum("bhc,bnc->bhn", key, seen) + module.key_bias(c)[..., None])
        u, w = (
            part.mix(torch.sigmoid((offsets[..., axis, None] - part.edges) * 30) - 0.5)
            for axis, part in enumerate((module.columns, module.rows))
        )
        a = module.kernel(c).view(len(v), module.num_heads, -1) / u.shape[-1] ** 0.5
        counts = torch.einsum("bhj,bhji->bhi", marks, torch.einsum("bhr,jir->bhji", a, u * w))
        scale, shift = module.modulation(c)[:, None].chunk(2, -1)
        told = module.maps(torch.cat([counts, marks], 1).mT)
        x = x + module.out((module.cells(seen) * (1 + scale) + shift + told).relu())
    return x.mT.view_as(v)


def test_two_sums_along_columns_and_rows_are_the_sum_over_all_pairs_of_cells() -> None:
    torch.manual_seed(0)
    module = WordAttention(8, 12, num_heads=4, steps=3, kernels=5).double()
    phrase, v = phrases(), torch.randn(2, 12, 4, 6).double()
    found, added = module(phrase, v)
    torch.testing.assert_close(found, pair_by_pair(module, phrase, v))
    torch.testing.assert_close(found - v, added)


def test_padding_is_nothing_and_a_phrase_of_padding_alone_is_finite() -> None:
    torch.manual_seed(0)
    module, phrase, v = WordAttention(8, 12, num_heads=4).double(), phrases(), torch.randn(2, 12, 4, 4).double()
    scrambled = torch.where(phrase.padding[..., None], 1e6, phrase.words)
    longer = (
        nn.functional.pad(phrase.words, (0, 0, 0, 3), value=7.0),
        nn.functional.pad(phrase.padding, (0, 3), value=True),
    )
    for other in (phrase._replace(words=scrambled), Phrase(phrase.vector, *longer)):
        torch.testing.assert_close(module(other, v), module(phrase, v))
    assert module(phrase._replace(padding=torch.ones_like(phrase.padding)), v)[0].isfinite().all()
    reversed_words = phrase._replace(words=phrase.words.flip(1), padding=phrase.padding.flip(1))
    torch.testing.assert_close(module(reversed_words, v), module(phrase, v))  # order is the encoder's business


ENCODERS = {
    "LSTM_SA": encoder,
    "LSTM": lambda: LSTM(hidden_size=WIDTH, token_size=20),
    "Transformer": lambda: Transformer(hidden_size=WIDTH, num_heads=4, token_size=20),
    "bert": lambda: plain("bert"),
    "siglip": lambda: plain("siglip_text_model"),
}


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_every_encoder_gives_its_words_beside_the_vector(name: str) -> None:
    language = ENCODERS[name]().eval()

    def read(tokens: Tensor) -> Phrase:
        return language(tokens, words=True)

    tokens = torch.tensor([[3, 4, 5, 0], [6, 7, 0, 0]])
    phrase, longer = read(tokens), read(nn.functional.pad(tokens, (0, 2)))
    torch.testing.assert_close(phrase.vector, language(tokens))
    assert phrase.words.shape == (2, 4, language.hidden_size) and phrase.padding.tolist() == (tokens == 0).tolist()
    torch.testing.assert_close(
        longer.words[:, :4][~phrase.padding], phrase.words[~phrase.padding], atol=1e-5, rtol=1e-5
    )
    other = read(torch.tensor([[3, 4, 9, 0], [6, 7, 0, 0]]))
    changed = (other.words - phrase.words).abs().amax(-1) > 1e-5
    assert changed[0, 2] and not changed[1, :2].any()


def test_it_learns_which_mark_is_the_second_from_the_side_that_the_word_says() -> None:
    """Two words, one map: the answer is the second marked cell of eight from the left, or from the right."""
    torch.manual_seed(0)
    module = WordAttention(8, 16, num_heads=2, steps=2, kernels=4)
    words, paint, score = nn.Embedding(2, 8), nn.Conv2d(1, 16, 1), nn.Conv2d(16, 1, 1)
    parts = nn.ModuleList([module, words, paint, score])
    optimizer = torch.optim.Adam(parts.parameters(), 0.01)

    def answers(count: int) -> tuple[Tensor, Tensor]:
        marked = torch.rand(count, 8).argsort(1)[:, :4].sort(1).values
        side = torch.randint(0, 2, (count,))
        v = torch.zeros(count, 8).scatter(1, marked, 1.0)
        state = words(side)
        phrase = Phrase(state, state[:, None], torch.zeros(count, 1, dtype=torch.bool))
        return score(module(phrase, paint(v[:, None, None]))[0]).flatten(1), marked.gather(1, 1 + side[:, None])[:, 0]

    for _ in range(250):
        optimizer.zero_grad()
        nn.functional.cross_entropy(*answers(64)).backward()
        optimizer.step()
    logits, wanted = answers(500)
    assert (logits.argmax(1) == wanted).float().mean() > 0.95


def test_boxes_and_masks_may_read_words_each_by_itself() -> None:
    torch.manual_seed(0)
    both = mcn().eval()
    both.det_attention = WordAttention(WIDTH, WIDTH)
    data = batch()
    tokens = data["tokens"]
    with torch.no_grad():
        found = both(data)
        assert found["box"].isfinite().all() and found["mask"].isfinite().all()
        swapped = both({**data, "tokens": tokens[:, [1, 0, 2, 3]]})
    assert (swapped["box"] - found["box"]).abs().max() > 0


def test_parts_that_do_not_fit_are_refused_naming_both() -> None:
    with pytest.raises(ValueError, match="8 is not divisible by num_heads 3"):
        WordAttention(8, 8, num_heads=3)
    with pytest.raises(ValueError, match=f"vectors of {WIDTH}, the attention of head .d_q. expects 16"):
        simrec(words=WordAttention(16, WIDTH))
    with pytest.raises(ValueError, match="WordAttention, which reads words, and Embedding gives phrase vectors alone"):
        simrec(words=WordAttention(WIDTH, WIDTH), language=nn.Embedding(20, WIDTH))
    with pytest.raises(ValueError, match=r"maps of \(32, 64, 128\) channels"):
        simrec(words=WordAttention(WIDTH, WIDTH), scales=MultiScaleFusion((32, 32, 32), hidden_planes=WIDTH))
