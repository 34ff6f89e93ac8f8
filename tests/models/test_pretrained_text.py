"""Published text encoders: the numbers of ``transformers``, freezing, adapters, hostile configs."""

import pytest
import torch
from text_toy import FAMILIES, config_of, published

from rec.errors import UntrustedError
from rec.models import lora
from rec.models.pretrained_text import PretrainedText, borrowed_names
from rec.models.text_transformer import checked, from_published_config


def ids_of(kind, lengths=(3, 7, 10), width=10):
    """Random ids as the family's tokenizer gives them, padded as its processor does, and the attention mask."""
    end, pad = 3, config_of(kind)["pad_token_id"]
    width = config_of(kind)["max_position_embeddings"] if kind.startswith("siglip") else width
    ids = torch.full((len(lengths), width), pad)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, 60, (length,))
        ids[row, 0], ids[row, length - 1] = (0 if "roberta" in kind else 2), end
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return ids, mask


def encoder_of(kind, theirs, **options):
    encoder = PretrainedText(
        config=from_published_config(theirs.config.to_dict(), "config.json"), hidden_size=8, **options
    )
    encoder.load_published(theirs.state_dict(), "model.safetensors")
    return encoder.eval()


def batch_of(ids, mask, width=10):
    return torch.where(mask, ids + 1, 0)[:, :width]


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_numbers_are_those_of_transformers(kind):
    pytest.importorskip("transformers")
    theirs = published(kind)
    ids, mask = ids_of(kind)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=None if kind.startswith("siglip") else mask.long())
        features, vector = encoder_of(kind, theirs).tokens_and_vector(batch_of(ids, mask))
    used = mask[:, :10]
    torch.testing.assert_close(features[used], expected.last_hidden_state[:, :10][used], atol=2e-5, rtol=1e-4)
    if kind.startswith(("clip", "siglip")):
        pooled = expected.pooler_output
    else:
        weight = mask[..., None].float()
        pooled = (expected.last_hidden_state * weight).sum(1) / weight.sum(1)
    torch.testing.assert_close(vector, pooled, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_file_that_transformers_saves_is_read_and_layers_are_counted(kind, tmp_path):
    pytest.importorskip("transformers")
    from safetensors.torch import load_file

    theirs = published(kind, tmp_path)
    encoder = PretrainedText(config=checked(config_of_saved(tmp_path)), layers=2, hidden_size=8)
    encoder.load_published(load_file(tmp_path / "model.safetensors"), "model.safetensors")
    ids, mask = ids_of(kind)
    with torch.no_grad():
        hidden = theirs(
            input_ids=ids, attention_mask=None if kind.startswith("siglip") else mask.long(), output_hidden_states=True
        ).hidden_states[2]
        features, _ = encoder.eval().tokens_and_vector(batch_of(ids, mask))
        hidden = encoder.text.norm(hidden) if encoder.text.family.norm_first else hidden
    torch.testing.assert_close(features[mask[:, :10]], hidden[:, :10][mask[:, :10]], atol=2e-5, rtol=1e-4)


def config_of_saved(folder):
    import json

    return from_published_config(json.loads((folder / "config.json").read_text(encoding="utf-8")), "config.json")


def plain(kind="bert", **options):
    torch.manual_seed(0)
    known = {
        key: value
        for key, value in config_of(kind).items()
        if key not in ("type_vocab_size", "eos_token_id", "bos_token_id")
    }
    return PretrainedText(config=known, hidden_size=8, **options)


TOKENS = torch.tensor([[3, 9, 12, 4, 0, 0], [3, 7, 4, 0, 0, 0], [0, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize("kind", ("bert", "roberta", "clip_text_model", "siglip_text_model"))
@pytest.mark.parametrize("pool", ("mean", "cls", "eos", "last"))
def test_more_padding_changes_nothing_but_the_last_place(kind, pool):
    encoder = plain(kind, pool=pool).eval()
    wider = torch.nn.functional.pad(TOKENS, (0, 5))
    same = torch.allclose(encoder(TOKENS), encoder(wider), atol=1e-6)
    assert same or (pool == "last" and not kind.startswith("siglip"))
    assert encoder(TOKENS).isfinite().all(), "a phrase of padding alone"


@pytest.mark.parametrize("kind", ("bert", "roberta", "clip_text_model", "siglip_text_model"))
def test_training_leaves_out_the_places_that_no_phrase_reaches(kind, monkeypatch):
    encoder, lengths = plain(kind, freeze="none"), []
    compute = encoder.tokens_and_vector
    monkeypatch.setattr(encoder, "tokens_and_vector", lambda ids: lengths.append(ids.shape[1]) or compute(ids))
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for block in encoder.text.blocks:
        block.attention_dropout = 0.0
    vectors, gradients = [], []
    for mode in (False, True):
        encoder.train(mode).zero_grad()
        vectors.append(encoder(TOKENS))
        vectors[-1].square().sum().backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert lengths == ([6, 6] if encoder.pool == "last" else [6, 4])
    torch.testing.assert_close(*vectors, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"freeze": "all"}, 2),
        ({"freeze": "none"}, 54),
        ({"freeze": 2}, 18),
        ({"lora": {"rank": 2, "targets": ["query", "out"]}}, 14),
    ],
)
def test_what_is_trained_is_what_freeze_and_lora_say(options, trained):
    encoder = plain(**options)
    names = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert len(names) == trained and {"project.weight", "project.bias"} <= names
    assert borrowed_names(torch.nn.ModuleDict({"part": encoder})) == {
        f"part.{name}" for name, parameter in encoder.named_parameters() if not parameter.requires_grad
    }
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # adapters begin with one half at 0, whose other half moves in the second update
        encoder.train()(TOKENS[:2]).square().sum().backward()
        optimizer.step()
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved <= names and len(moved) > len(names) - 4  # a key's bias has no gradient: softmax does not see it


def test_frozen_encoders_answer_alike_in_training_and_evaluation():
    encoder = plain(freeze="all").train()
    assert torch.equal(encoder(TOKENS), encoder(TOKENS)) and not encoder.text.training
    layers = plain(freeze=3).train()  # all there are: the features of its phrases are kept, too
    assert layers.is_frozen and torch.equal(layers(TOKENS), layers(TOKENS))
    assert not plain(freeze=1).train().text.dropout.training, "that of embeddings which stand still"
    trained = plain(freeze="none").train()
    assert not torch.equal(trained(TOKENS), trained(TOKENS)), "its dropout is on"


def test_adapters_begin_as_the_published_encoder_and_merge_into_it():
    encoder, bare = plain(lora={"rank": 3, "targets": ["query", "value"]}).eval(), plain().eval()
    bare.load_state_dict({n: v for n, v in encoder.state_dict().items() if "lora" not in n})
    assert torch.equal(encoder(TOKENS), bare(TOKENS))
    for name, parameter in encoder.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted = encoder(TOKENS)
    own = {name: value.clone() for name, value in encoder.state_dict().items()}
    bare.load_state_dict(lora.merge(encoder.state_dict()))  # strict: under the names of a model without adapters
    assert not torch.allclose(adapted, bare.project(torch.zeros(3, 16)), atol=1e-3)
    torch.testing.assert_close(bare(TOKENS), adapted, atol=1e-5, rtol=1e-4)
    with lora.merged(encoder):
        assert torch.equal(encoder(TOKENS), bare(TOKENS)), "what is measured is what is published"
    assert all(torch.equal(value, own[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(encoder(TOKENS), adapted)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layers": 4}, "layers is 4, the encoder has 3"),
        ({"freeze": "some"}, "freeze is 'some'"),
        ({"freeze": 4}, "freeze is 4"),
        ({"freeze": "none", "lora": {"rank": 2}}, "freeze=all"),
        ({"lora": {"rank": 0}}, "lora is"),
        ({"lora": 8}, "lora is 8, expected"),
        ({"lora": {"rank": 2, "targets": 3}}, "lora is"),
        ({"lora": {"rank": 2, "targets": [["query"]]}}, "lora is"),
        ({"lora": {"rank": 2, "targets": ["attention"]}}, "no layer 'attention'"),
        ({"pool": "max"}, "pool is 'max'"),
        ({"token_size": 62}, "the tokenizer has 61 ids, the encoder 60 .* resize_token_embeddings"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, told):
    with pytest.raises(ValueError, match=told):
        plain(**options)


def test_a_phrase_longer_than_the_encoder_is_an_error_that_names_the_key():
    with pytest.raises(ValueError, match=r"dataset\.max_token_length=20"):
        plain()(torch.ones(1, 21, dtype=torch.int64))


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"}, {"model_type": ["bert"]}, {"vocab_size": 10**9}, {"hidden_size": 10**6}, {"hidden_size": 17},
        {"num_hidden_layers": 10**9}, {"num_hidden_layers": True}, {"num_attention_heads": 0}, {"hidden_act": "os.system"},
        {"hidden_act": None}, {"hidden_act": ["gelu"]},
        {"layer_norm_eps": float("nan")}, {"hidden_dropout_prob": 1.0}, {"pad_token_id": 60},
        {"pad_token_id": -1}, {"max_position_embeddings": 10**6}, {"auto_map": {"AutoModel": "code.py"}},
        {"attn_implementation": "hub/kernel"}, {"quantization_config": {}}, {"_attn_implementation": "x"},
        {"intermediate_size": 1e3},
    ],
    ids=str,
)  # fmt: skip
def test_hostile_encoder_configs_are_refused(change):
    with pytest.raises(UntrustedError, match=r"encoder\.json"):
        checked({key: value for key, value in config_of("bert").items() if key != "type_vocab_size"} | change)


def test_siglips_fixed_length_is_bounded():
    with pytest.raises(UntrustedError, match="max_position_embeddings"):
        checked(config_of("siglip_text_model", max_position_embeddings=8192))


@pytest.mark.parametrize(
    "change", [{"auto_map": {"AutoModel": "x"}}, {"quantization_config": {"bits": 4}}, {"is_decoder": True}]
)
def test_published_configs_of_other_architectures_are_refused(change):
    with pytest.raises(UntrustedError, match=next(iter(change))):
        from_published_config(config_of("bert") | change, "config.json")
    with pytest.raises(UntrustedError, match=next(iter(change))):
        from_published_config(
            {"model_type": "clip", "text_config": config_of("clip_text_model")} | change, "config.json"
        )


def test_a_published_config_may_leave_its_defaults_null():
    nulls = dict.fromkeys(("pad_token_id", "hidden_dropout_prob", "quantization_config"))
    assert from_published_config(config_of("bert") | nulls, "config.json") == checked(
        {key: value for key, value in config_of("bert").items() if key not in ("type_vocab_size", "pad_token_id")}
    )


def test_an_encoder_of_8192_places_behind_its_padding_is_taken():
    long = from_published_config(config_of("xlm-roberta", max_position_embeddings=8194), "config.json")  # as BGE-M3
    assert PretrainedText(config=long).text.length == 8192


def test_another_family_is_refused_by_its_name():
    with pytest.raises(UntrustedError, match="model_type is 'electra', expected one of bert, roberta"):
        from_published_config(config_of("bert") | {"model_type": "electra", "embedding_size": 8}, "config.json")


def test_weights_that_do_not_fit_are_named():
    encoder = plain()
    with pytest.raises(UntrustedError, match=r"model\.safetensors has no embedding\.weight"):
        encoder.load_published({}, "model.safetensors")


def test_weights_that_are_not_finite_are_refused():
    tensors = published("bert").state_dict()
    tensors["encoder.layer.1.output.dense.weight"][3, 3] = float("nan")
    with pytest.raises(
        UntrustedError, match=r"model\.safetensors: blocks\.1\.contract\.weight holds values that are not finite"
    ):
        plain().load_published(tensors, "model.safetensors")


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embeddings.token_type_embeddings.weight", torch.zeros(2, 5)),
        ("embeddings.token_type_embeddings.weight", torch.zeros(0, 16)),
        ("embeddings.token_type_embeddings.weight", torch.zeros(())),
        ("embeddings.position_embeddings.weight", torch.zeros(())),
        ("embeddings.position_embeddings.weight", torch.zeros(20, 5)),
        ("embeddings.word_embeddings.weight", torch.zeros(60, 16, dtype=torch.int8)),
    ],
)
def test_tensors_of_another_form_are_named(kind, name, value):
    pytest.importorskip("transformers")
    with pytest.raises(UntrustedError, match=r"^model\.safetensors has "):
        plain(kind).load_published(published(kind).state_dict() | {name: value}, "model.safetensors")


def test_weights_of_half_the_precision_are_read():
    pytest.importorskip("transformers")
    theirs = published("roberta").to(torch.bfloat16)
    encoder = plain("roberta")
    encoder.load_published(theirs.state_dict(), "model.safetensors")
    where, types = theirs.embeddings.position_embeddings.weight, theirs.embeddings.token_type_embeddings.weight
    assert torch.equal(encoder.text.positions.weight, where[2:].float() + types[0].float())
