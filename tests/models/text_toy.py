"""Tiny random encoders of every family, as ``transformers`` makes and saves them; tokenizers made in memory."""

import json

FAMILIES = ("bert", "roberta", "xlm-roberta", "clip_text_model", "siglip_text_model", "siglip2_text_model")
WORDS = ("the", "a", "red", "blue", "big", "small", "left", "right", "of", "man", "woman", "on")
WORDS += ("circle", "square", "giraffe", "dog", "near")


def config_of(kind, **more):
    small = {
        "vocab_size": 60,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 24,
    }
    roberta = {"pad_token_id": 1, "max_position_embeddings": 22, "type_vocab_size": 1}
    siglip = {"pad_token_id": 1, "max_position_embeddings": 16}
    own = {
        "bert": {"pad_token_id": 0, "max_position_embeddings": 20},
        "roberta": roberta,
        "xlm-roberta": roberta,
        "clip_text_model": {"pad_token_id": 1, "max_position_embeddings": 20, "eos_token_id": 3, "bos_token_id": 2},
        "siglip_text_model": siglip,
        "siglip2_text_model": siglip,
    }
    return {"model_type": kind} | small | own[kind] | more


def published(kind, folder=None, seed=0, **more):
    """A random model of ``transformers`` in evaluation mode; saved to ``folder`` where given."""
    import torch
    import transformers

    classes = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "clip_text_model": "CLIPText",
               "siglip_text_model": "SiglipText", "siglip2_text_model": "Siglip2Text"}  # fmt: skip
    content = config_of(kind, **more)
    config = getattr(transformers, f"{classes[kind]}Config")(**{k: v for k, v in content.items() if k != "model_type"})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{classes[kind]}Model")(config).eval()
    for name, value in model.named_parameters():  # biases and norms that begin at 0 and 1 would hide mistakes
        torch.nn.init.normal_(value, 1.0 if "norm" in name.lower() and "weight" in name else 0.0, 0.3)
    if folder is not None:
        model.save_pretrained(folder)
    return model


def special_tokens(pieces):
    """The first four pieces of a vocabulary as ``added_tokens`` of a ``tokenizer.json``."""
    kept = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": number, "content": piece, **kept, "special": True} for number, piece in enumerate(pieces[:4])]


def word_tokenizer(words=WORDS, template=("[CLS]", "[SEP]")):
    """A ``tokenizer.json`` as BERT's are: lower case, pieces of words, ``[CLS]`` and ``[SEP]``."""
    pieces = ["[PAD]", "[UNK]", *template, *words, *(f"##{end}" for end in ("s", "ish", "most"))]
    start, end = ({"SpecialToken": {"id": piece, "type_id": 0}} for piece in template)
    return json.dumps(
        {
            "version": "1.0", "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                        "pad_type_id": 0, "pad_token": "[PAD]"},
            "added_tokens": special_tokens(pieces),
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                           "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing", "single": [start, {"Sequence": {"id": "A", "type_id": 0}}, end], "pair": [],
                "special_tokens": {piece: {"id": piece, "ids": [2 + number], "tokens": [piece]}
                                   for number, piece in enumerate(template)},
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": {piece: number for number, piece in enumerate(pieces)}},
        }
    )  # fmt: skip


def multilingual_tokenizer():
    """A ``tokenizer.json`` as XLM-RoBERTa's are: Unigram pieces of several scripts, ``<s>`` with id 0."""
    pieces = [
        "<s>", "<pad>", "</s>", "<unk>", "▁", "▁der", "▁rote", "▁hund", "▁la", "▁mujer", "▁赤い", "犬", "▁собака", "s",
        "e",
    ]  # fmt: skip
    start, end = ({"SpecialToken": {"id": piece, "type_id": 0}} for piece in ("<s>", "</s>"))
    return json.dumps(
        {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": special_tokens(pieces),
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            "post_processor": {"type": "TemplateProcessing", "pair": [],
                               "single": [start, {"Sequence": {"id": "A", "type_id": 0}}, end],
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                                                  "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
            "decoder": None,
            "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": False,
                      "vocab": [[piece, -float(number)] for number, piece in enumerate(pieces)]},
        }
    )  # fmt: skip
