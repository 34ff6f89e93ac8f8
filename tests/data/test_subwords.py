"""Tokenizers of published models: ids, limits, hostile files."""

import json
import pickle
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from data_toys import make_refer
from text_toy import multilingual_tokenizer, word_tokenizer

from rec.data.subwords import Subwords, is_plain_pattern, load_words
from rec.data.text import Vocabulary, read_vocabulary
from rec.errors import InputError, UntrustedError


def content(**changes):
    return json.loads(word_tokenizer()) | changes


def test_ids_are_the_tokenizers_plus_one_and_its_own_padding_and_truncation_are_off():
    words = Subwords(word_tokenizer())
    assert words.encode("The left man", 8) == [3, 5, 11, 14, 4, 0, 0, 0]
    assert words.encode("the big red dog on the left", 5) == [3, 5, 9, 7, 4], "cut, with both ends kept"
    assert words.encode("", 3) == [3, 4, 0] and words.encode("the dog", 1) == [3]
    assert words.reserved == 2 and words.tokens("Dogs leftmost") == ["dog", "##s", "left", "##most"]
    assert words.unknown("the Zebra") == ["Zebra"] and words.unknown("the dog") == []
    assert words.words[0] == "" and words.words[3] == "[CLS]" and len(words) == len(words.words) == 25
    assert pickle.loads(pickle.dumps(words)) == words


def test_other_languages_are_divided_into_pieces_and_id_0_is_a_token():
    words = Subwords(multilingual_tokenizer())
    assert words.encode("Der rote Hund", 7) == [1, 6, 7, 8, 3, 0, 0]
    assert words.tokens("赤い犬") == ["▁赤い", "犬"] and words.tokens("собака") == ["▁собака"]
    assert words.unknown("la cebra") and not words.unknown("la mujer")


@pytest.mark.parametrize("phrase", ["\ud800 dog", "dog\udcff", "\ud83e\udd93"])
def test_half_a_character_is_an_unknown_piece_or_none(phrase):
    """Bytes of a command line that are not UTF-8 arrive as such halves."""
    for words in (Subwords(word_tokenizer()), Subwords(multilingual_tokenizer())):
        assert len(words.encode(phrase, 6)) == 6 and words.tokens(phrase) is not None
        assert all(part in phrase for part in words.unknown(phrase))
    assert Subwords(word_tokenizer()).encode("\ud800 dog", 4) == Subwords(word_tokenizer()).encode("dog", 4)


def test_what_the_library_refuses_at_a_phrase_names_the_file(monkeypatch):
    words = Subwords(word_tokenizer(), "folder/tokenizer.json")
    monkeypatch.setattr(words, "_made", None)
    with pytest.raises(UntrustedError, match=r"folder/tokenizer\.json is not a tokenizer that can be used"):
        words.encode("the dog", 6)


def test_a_vocabulary_file_names_the_tokenizer_beside_it_and_no_place(tmp_path):
    words = Subwords(word_tokenizer())
    words.save(tmp_path / "vocab.json")
    assert read_vocabulary(tmp_path / "vocab.json") == ([], "file:tokenizer.json")
    assert load_words(tmp_path / "vocab.json") == words and load_words(f"transformers:{tmp_path}") == words
    assert load_words(tmp_path / "vocab.json").identity == words.identity != Subwords(multilingual_tokenizer()).identity
    Vocabulary.build(["a dog"]).save(tmp_path / "plain.json")
    assert load_words(tmp_path / "plain.json") == Vocabulary.build(["a dog"])
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_words(tmp_path / "vocab.json")
    with pytest.raises(InputError, match=r"has no tokenizer\.json.*AutoTokenizer\.from_pretrained"):
        load_words(f"transformers:{tmp_path}")


@pytest.mark.parametrize("lower", [True, False])
def test_lower_case_is_as_the_config_beside_the_tokenizer_says(lower, tmp_path, caplog):
    """As in ``transformers``, where the two contradict each other."""
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(content(normalizer=content()["normalizer"] | {"lowercase": not lower})), encoding="utf-8"
    )
    config = {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    words = load_words(f"transformers:{tmp_path}")
    assert words.unknown("the Dog") == ([] if lower else ["Dog"]) and "do_lower_case" in caplog.text
    assert Subwords(words.text) == words  # so the model folder has it
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert [number + 1 for number in theirs("the Dog").input_ids] == words.encode("the Dog", 4)
    for other in (config | {"tokenizer_class": "PreTrainedTokenizerFast"}, {}, [], "x"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(other), encoding="utf-8")
        assert load_words(f"transformers:{tmp_path}").text == (tmp_path / "tokenizer.json").read_text(encoding="utf-8")


def test_a_data_set_takes_the_tokenizer_and_counts_its_ids(tmp_path, monkeypatch, caplog):
    from rec.data.dataset import RefCOCODataSet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    make_refer(tmp_path, splits=("train", "val"))
    (tmp_path / "tokenizer.json").write_text(word_tokenizer(), encoding="utf-8")
    options = {"ann_path": str(tmp_path / "refcoco"), "input_shape": (32, 32)}
    longest = RefCOCODataSet(tokenizer=f"transformers:{tmp_path}", max_token_length=-1, split="val", **options)
    with caplog.at_level("INFO"):
        cut = RefCOCODataSet(vocabulary=longest.vocabulary, max_token_length=5, split="val", **options)
    assert "sentences of split val are cut to 3 subwords" in caplog.text, "two ids are the ends"
    words = longest.vocabulary
    lengths = [words.reserved + len(words.tokens(longest.describe(i)["sentence"])) for i in range(len(longest))]
    assert longest.max_token_length == max(lengths) > 5 and cut.truncated == sum(length > 5 for length in lengths) > 0
    with pytest.raises(ValueError, match=r"max_token_length is 2, .* 2 ids at the ends .* at least 3"):
        RefCOCODataSet(vocabulary=words, max_token_length=2, split="val", **options)
    assert longest[0]["tokens"].tolist() == words.encode(longest.describe(0)["sentence"], max(lengths))


TEMPLATE = content()["post_processor"]
EVIL = {
    "no JSON": "[",
    "deep": "[" * 100_000,
    "a list": "[]",
    "no model": json.dumps({}),
    "another model": content(model={"type": "Script", "vocab": {"a": 0}}),
    "an empty vocabulary": content(model={"type": "WordPiece", "vocab": {}, "unk_token": "x"}),
    "no number": content(model={"type": "WordLevel", "vocab": {"a": "0"}, "unk_token": "a"}),
    "an id beyond memory": content(model={"type": "WordLevel", "vocab": {"a": 1 << 40}, "unk_token": "a"}),
    "a score that is none": content(model={"type": "Unigram", "vocab": [["a", float("inf")]], "unk_id": 0}),
    "pieces of another form": content(model={"type": "Unigram", "vocab": [["a"]], "unk_id": 0}),
    "no unknown piece": content(model={"type": "WordPiece", "vocab": {"the": 0}, "unk_token": "[UNK]"}),
    "no unknown piece in a text that is cleaned": content(model=content()["model"] | {"unk_token": "[NONE]"}),
    "an end that is not a piece": content(
        post_processor=TEMPLATE | {"special_tokens": TEMPLATE["special_tokens"] | {"[CLS]": {
            "id": "[CLS]", "ids": [999_999], "tokens": ["[CLS]"]}}}
    ),
    "another end that is not a piece": content(
        post_processor={"type": "BertProcessing", "sep": ["[SEP]", 25], "cls": ["[CLS]", 2]}
    ),
    "endless words": content(model=content()["model"] | {"max_input_chars_per_word": 10**9}),
    "a step that is not in the list": content(normalizer={"type": "Python"}),
    "a step that is a number": content(normalizer=3),
    "endless backtracking": content(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}),
    "replacements of replacements": content(
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"} for _ in range(20)]}
    ),
    "a long prefix": content(normalizer={"type": "Prepend", "prepend": "a" * 100_000}),
    "many steps": content(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 1000}),
    "nested steps": content(normalizer=json.loads('{"type": "Sequence", "normalizers": [' * 60 + '{"type": "NFC"}' + "]}" * 60)),
    "a long template": content(post_processor=TEMPLATE | {"single": [{"Sequence": {"id": "A", "type_id": 0}}] * 999}),
    "a template of numbers": content(post_processor=TEMPLATE | {"single": 3}),
    "a broken table": content(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "no table": content(normalizer={"type": "Precompiled", "precompiled_charsmap": "§"}),
    "an empty added token": content(added_tokens=[content()["added_tokens"][0] | {"content": ""}]),
    "added tokens that are none": content(added_tokens=[1]),
    "a null where a text is": content(normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": None}),
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_hostile_tokenizers_are_refused_at_once(name):
    text = EVIL[name] if isinstance(EVIL[name], str) else json.dumps(EVIL[name])
    with pytest.raises(UntrustedError, match=r"evil\.json"):
        Subwords(text, "evil.json")


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UntrustedError, match="limit"):
        Subwords.load(tmp_path / "tokenizer.json")


def test_phrases_without_end_are_cut():
    words = Subwords(word_tokenizer())
    started = time.process_time()
    assert len(words.encode("the " * 5_000_000, 512)) == 512 and words.encode("x" * 10_000_000, 4)[1] == 2
    assert time.process_time() - started < 60


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        (r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", True),
        (r"\s+", True),
        (" {2,}", True),
        (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]", True),
        ("(a+)+b", False),
        ("(a|aa)+", False),
        ("a*a*b", False),
        (r"(?=a)", False),
        (r"a+\1", False),
        (r"[a-z]+?b+", False),
        ("x{0,999}{0,999}", False),
        ("[a", False),
        (3, False),
    ],
)
def test_only_plain_patterns_are_run(pattern, plain):
    assert is_plain_pattern(pattern) is plain
