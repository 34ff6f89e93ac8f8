"""Language encoders: padding does not leak, empty phrases work, word vectors are checked."""

import numpy as np
import pytest
import torch

from rec.models.language_encoders import LSTM, LSTM_SA, Transformer, sinusoidal_positions

SIZES = {"hidden_size": 32, "word_embed_size": 12, "token_size": 20, "dropout_rate": 0.0}
ENCODERS = {
    "LSTM_SA": lambda **k: LSTM_SA(**SIZES | {"depth": 2, "num_heads": 4, "ffn_size": 64} | k),
    "LSTM": lambda **k: LSTM(**SIZES | {"depth": 2} | k),
    "Transformer": lambda **k: Transformer(**SIZES | {"depth": 2, "num_heads": 4, "ffn_size": 64} | k),
}
ALL = pytest.mark.parametrize("name", ENCODERS)


@ALL
def test_more_padding_does_not_change_a_phrase(name: str) -> None:
    encoder = ENCODERS[name]().eval()
    short = torch.tensor([[3, 4, 5, 0], [6, 7, 0, 0]])
    long = torch.nn.functional.pad(short, (0, 11))
    torch.testing.assert_close(encoder(short), encoder(long), rtol=1e-5, atol=1e-5)


@ALL
@pytest.mark.parametrize("autocast", [True, False])
def test_a_training_in_bfloat16_reads_no_padding_behind_the_longest_phrase(name: str, autocast: bool) -> None:
    encoder, read = ENCODERS[name]().train(), []
    tokens = torch.tensor([[3, 4, 5, 0, 0, 0], [6, 7, 0, 0, 0, 0]])
    encoder.embedding.register_forward_hook(lambda _, given, __: read.append(given[0].shape[1]))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        vectors = encoder(tokens)
        expected = encoder.eval()(tokens)
    torch.testing.assert_close(vectors.float(), expected.float(), rtol=2e-2, atol=2e-2)
    assert read == [3 if autocast else 6, 6]


@ALL
def test_word_order_and_words_matter(name: str) -> None:
    encoder = ENCODERS[name]().eval()
    vectors = encoder(torch.tensor([[3, 4, 5], [5, 4, 3], [3, 4, 6]]))
    assert vectors.shape == (3, 32)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-4
    assert (vectors[0] - vectors[2]).abs().max() > 1e-4


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_phrase_of_padding_alone_gives_finite_numbers(name: str, dtype: torch.dtype) -> None:
    encoder = ENCODERS[name]().to(dtype)
    vectors = encoder(torch.tensor([[0, 0, 0], [3, 0, 0]]))
    vectors.sum().backward()
    assert vectors.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


@ALL
def test_word_vectors_are_copied_and_stay_frozen(name: str) -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 12)).astype(np.float32)
    encoder = ENCODERS[name](pretrained_emb=vectors)
    assert np.array_equal(encoder.embedding.weight.numpy(), vectors)
    assert not encoder.embedding.weight.requires_grad
    assert ENCODERS[name](freeze_embedding=False).embedding.weight.requires_grad


def test_vectors_of_another_size_and_an_unset_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(7, 12\).*\(20, 12\)"):
        ENCODERS["LSTM_SA"](pretrained_emb=np.zeros((7, 12)))
    with pytest.raises(ValueError, match="token_size is not set"):
        ENCODERS["LSTM_SA"](token_size=None)
    with pytest.raises(ValueError, match="32 is not divisible by num_heads 5"):
        ENCODERS["LSTM_SA"](num_heads=5)


def test_positions_are_distinct_and_bounded_for_any_length_and_width() -> None:
    positions = sinusoidal_positions(40, 31)
    assert positions.shape == (40, 31) and positions.abs().max() <= 1
    distances = torch.cdist(positions, positions) + 10 * torch.eye(40)
    assert distances.min() > 0.1


def test_an_lstm_gives_the_states_of_packed_phrases_without_their_lengths_on_the_host() -> None:
    torch.manual_seed(0)
    encoder = ENCODERS["LSTM"]().double()
    words = torch.randn(4, 6, 12, dtype=torch.float64)
    lengths = torch.tensor([6, 3, 1, 5])
    packed = encoder.encode(words, torch.arange(6) >= lengths[:, None])
    packed.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in encoder.rnn.parameters()]
    encoder.zero_grad()
    unpacked = encoder.encode_unpacked(words, lengths)
    unpacked.square().sum().backward()
    torch.testing.assert_close(unpacked, packed, rtol=1e-10, atol=1e-12)
    for parameter, gradient in zip(encoder.rnn.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
