"""Words, ids, and the phrase of a mirrored image."""

import json
import pickle
import sys
import time
from pathlib import Path

import pytest
from data_toys import SAMPLE
from hypothesis import given
from hypothesis import strategies as st

from rec.data.text import Vocabulary, get_tokenizer, mirror_phrase, read_vocabulary, tokenize
from rec.errors import UntrustedError

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "utils.json").read_text(encoding="utf-8"))["tokenizer"]


def original_vocabulary():
    items = (item for split in FIXTURE["corpus"].values() for item in split)
    return Vocabulary.build(sentence for item in items for sentence in item["refs"])


def test_the_vocabulary_is_the_originals():
    assert {word: number for number, word in enumerate(original_vocabulary().words)} == FIXTURE["vocab"]


@pytest.mark.parametrize("case", FIXTURE["sentences"], ids=lambda case: case["text"][:20])
def test_tokens_and_ids_are_the_originals(case):
    assert tokenize(case["text"]) == case["tokens"]
    assert original_vocabulary().encode(case["text"], FIXTURE["max_token_length"]) == case["ids"]


@given(st.text())
def test_every_text_becomes_the_asked_number_of_ids(text):
    ids = original_vocabulary().encode(text, 15)
    assert len(ids) == 15
    assert all(0 <= number < FIXTURE["vocab_size"] for number in ids)


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("the man\u2019s hat", "the man's hat"),
        ("left\u2013most \u201cdog\u201d\u2026", 'left-most "dog"...'),
        ("cafe\u0301 hat", "caf\u00e9 hat"),
        ("\ufeffthe man\u200b's hat\u200f", "the man's hat"),
        ("the \u202aman's\u202c \u200bh\u00adat", "the man's hat"),
    ],
)
def test_a_word_with_typographic_signs_is_known_as_the_keys_write_it(typed, plain):
    words = Vocabulary.build([plain])
    assert words.encode(typed, 6) == words.encode(plain, 6) and not words.unknown(typed)
    assert Vocabulary.build([typed]).encode(typed, 6)[0] == 3  # one that training had is itself
    assert tokenize("man\u2019s") == ["man\u2019s"]  # the original's rule


def test_a_word_of_the_keys_is_known_where_training_had_typographic_signs():
    words = Vocabulary.build(["the man\u2019s hat left\u2013most man"])
    assert words.encode("the man's hat", 3) == words.encode("the man\u2019s hat", 3) == [3, 4, 5]
    assert words.unknown("the man's leftmost hat") == ["leftmost"]  # the keys write two words
    assert Vocabulary.build(["man\u2019s mans"]).encode("man's", 1) == [4]  # one that training had is itself


def test_a_saved_vocabulary_is_the_same(tmp_path):
    vocabulary = Vocabulary.build(["caffè 🦊 left", "左"])
    vocabulary.save(tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json") == vocabulary


@pytest.mark.parametrize("content", ["", "[]", '{"words": ["a"]}', '{"tokenizer": "simrec", "words": ["a", "b"]}', "{"])
def test_a_file_that_is_no_vocabulary_is_named(tmp_path, content):
    (tmp_path / "vocab.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocab\.json is not a vocabulary"):
        Vocabulary.load(tmp_path / "vocab.json")


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    """An installed package whose import and ``load()`` leave a trace: its name, and whether it was touched."""
    canary = tmp_path / "canary"
    (tmp_path / "canary_pipeline").mkdir()
    (tmp_path / "canary_pipeline" / "__init__.py").write_text(
        f"import spacy\nopen({str(canary)!r}, 'w')\ndef load(**_): return spacy.blank('en')\n", encoding="utf-8"
    )
    installed = tmp_path / "canary_pipeline-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: canary_pipeline\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "spacy:canary_pipeline", canary.exists
    sys.modules.pop("canary_pipeline", None)
    get_tokenizer.cache_clear()


def test_a_files_pipeline_is_imported_only_where_the_caller_names_it(tmp_path, pipeline):
    name, touched = pipeline
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({"tokenizer": name, "words": ["PAD", "UNK", "CLS", "left"]}), encoding="utf-8")
    for other in ("simrec", "spacy:en", "spacy:en_core_web_sm"):
        with pytest.raises(UntrustedError, match=f"vocab.json names the spaCy pipeline.*dataset.tokenizer={name}"):
            Vocabulary.load(path, other)
    assert read_vocabulary(path) == (["PAD", "UNK", "CLS", "left"], name) and not touched()
    assert Vocabulary.load(path, name).encode("Left!", 2) == [3, 1] and touched()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "is not a vocabulary file"),
        ('{"tokenizer": "simrec", "words": ' + "[" * 900 + "]" * 900 + "}", "list of strings"),
        (json.dumps({"tokenizer": "simrec", "words": ["PAD", "UNK", "CLS", "x" * 1001]}), "at most 1,000,000 words"),
        (json.dumps({"tokenizer": "simrec", "words": ["PAD", "UNK", "CLS", *map(str, range(1_000_000))]}), "1,000,003"),
        (" " * (16 << 20) + "{}", "the limit for the vocabulary is 16,777,216"),
        ('{"tokenizer": "simrec", "words": [' + "1" * 5000 + "]}", "is not a vocabulary file"),
    ],
    ids=["deep", "nested words", "a long word", "many words", "a large file", "a long number"],
)
def test_a_vocabulary_that_is_too_large_is_refused_at_once(tmp_path, content, said):
    (tmp_path / "vocab.json").write_text(content, encoding="utf-8")
    started = time.perf_counter()
    with pytest.raises((ValueError, UntrustedError), match=said):
        Vocabulary.load(tmp_path / "vocab.json")
    assert time.perf_counter() - started < 5


def test_spacy_splits_what_the_original_deletes():
    assert get_tokenizer("spacy:en")("The man's hat, left!") == ["the", "man", "'s", "hat", ",", "left", "!"]


def test_unknown_tokenizers_are_refused():
    with pytest.raises(ValueError, match="spacy:no_such_pipeline"):
        get_tokenizer("spacy:no_such_pipeline")
    with pytest.raises(ValueError, match="unknown tokenizer"):
        get_tokenizer("bert")


@pytest.mark.parametrize(
    ("phrase", "mirrored"),
    [
        ("the left-handed man on the right", "the right-handed man on the left"),
        ("Leftmost guy", "Rightmost guy"),
        ("LEFT one", "RIGHT one"),
        ("bright copyright sign", "bright copyright sign"),
        ("second from left", "second from right"),
        ("right", "left"),
        ("man's left hand", "man's right hand"),
        ("the one on the right in front", "the one on the left in front"),
        ("left, not right", "right, not left"),
        ("guy in red", "guy in red"),
        ("the bottle on the left on the table", "the bottle on the right on the table"),
        ("two on the left", "two on the right"),
        ("the one on the right outside", "the one on the left outside"),
        ("man left standing", "man right standing"),
        ("the one left of the car", "the one right of the car"),
        ("the man who was left of the tree", "the man who was right of the tree"),
        ("the right one", "the left one"),
    ],
)
def test_left_and_right_change_places_on_word_boundaries(phrase, mirrored):
    assert mirror_phrase(phrase) == mirrored
    assert mirror_phrase(mirrored) == phrase


@pytest.mark.parametrize(
    "phrase",
    [
        "woman right behind her", "left over pizza", "leftovers", "only one left", "all right guy", "3 o'clock",
        "the man who left", "bike someone has left here", "two slices left", "3 pizza slices left", "some water left in the glass",
        "the cake left on the plate", "left on plate", "no food left", "what's left of the cake", "bike left unattended",
        "the bus that left", "an animal rights sign", "a right-of-way sign", "right underneath the sign", "right now",
        "the right answer", "a hat of the right size", "socks right side out",
        "the picture the right way up", "a right-angled bracket", "the last man left standing", "the food that's left",
        "the light left on", "door left ajar", "a dog left all alone",
        "the cup that was left on the bench", "the bag she left on the bench",
        "lft guy", "l man", "man, l.", "r. one", "girl on the LHS", "rhs dog", "rigth side", "eft girl",
        "man on leeft", "topleft pizza", "rightfront sandwich", "left_man", "the boat's port side",
        "man on the \uff2c\uff25\uff26\uff34",
    ],
)  # fmt: skip
def test_phrases_whose_mirror_image_is_unsure_are_not_mirrored(phrase):
    assert mirror_phrase(phrase) is None


@pytest.mark.parametrize(
    "phrase",
    [
        "der linke Mann", "Mann rechts", "de man links in de bus", "la mujer de la izquierda", "el de la derecha",
        "a mulher à esquerda", "o homem da direita", "l'homme de gauche", "femme à droite", "la donna a sinistra",
        "uomo a destra", "noia de l'esquerra", "bărbatul din stânga", "mannen till vänster", "kvinden til højre",
        "mannen til høyre", "vasemmalla oleva mies", "a bal oldali nő", "mężczyzna po lewej", "muž vpravo",
        "žena vľavo", "muškarac lijevo", "soldaki adam",
        "sağdaki kadın",  # noqa: RUF001
        "người đàn ông bên trái", "orang di sebelah kiri", "kanan", "мужчина слева", "женщина справа",
        "чоловік ліворуч", "мъжът вляво",
        "ο άντρας αριστερά",  # noqa: RUF001
        "الرجل على اليسار", "מימין", "مرد سمت چپ", "बाईं ओर का आदमी", "ডান দিকের লোক", "ผู้ชายทางซ้าย", "왼쪽 남자",
        "右の男", "左边的人", "man 左", "the woman on the right 右边", "the man on the links", "mtu wa mkono wa kuume",
        "umugabo uri ibumoso", "gizona eskuinean",
    ],
)  # fmt: skip
def test_sides_of_other_languages_keep_their_image(phrase):
    assert mirror_phrase(phrase) is None
    assert mirror_phrase(phrase.upper()) is None


@pytest.mark.parametrize(
    "phrase",
    [
        "umpire", "giraffe", "zebras", "babies", "beanies", "glasses", "22", "#5", "🦊", "man w/ frisbee",
        "lady's purse", "the night light in the loft", "bright upright copyright sign",
        "a playwright who lifts eight tight boxes", "a dog named Fiffi", "Mann in red jacket",
    ],
)  # fmt: skip
def test_english_phrases_without_sides_are_mirrored_as_they_are(phrase):
    assert mirror_phrase(phrase) == phrase


def test_half_of_the_words_must_be_english():
    assert mirror_phrase("left xylokarp") == "right xylokarp"
    assert mirror_phrase("left xylokarp brzgt") is None
    assert mirror_phrase("xylokarp") is None


SAID = st.sampled_from(
    ["left", "RIGHT", "Leftmost", "right-hand", "bright", "the", "man", "on", "to", "22", "xylokarp"]
)


@given(st.lists(SAID).map(" ".join))
def test_mirrored_twice_is_the_phrase_again(phrase):
    mirrored = mirror_phrase(phrase)
    assert mirrored is None or mirror_phrase(mirrored) in (phrase, None)


@given(st.text())
def test_a_text_that_names_no_side_is_never_changed(text):
    assert mirror_phrase(text) in (text, None) or "left" in text.lower() or "right" in text.lower()


needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of real data, ../shared/data, is not there")


@needs_sample
def test_english_referring_expressions_are_mirrored():
    sentences = []
    for name, split_by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        refs = pickle.loads((SAMPLE / name / f"refs({split_by}).p").read_bytes())
        sentences += [sentence["sent"] for ref in refs for sentence in ref["sentences"]]
    assert len(sentences) == 719 + 718 + 190
    assert sum(mirror_phrase(sentence) is not None for sentence in sentences) >= 0.99 * len(sentences)


def test_every_phrase_of_the_scenes_is_mirrored():
    from rec.data import scenes

    phrases = {p for level in ("easy", "hard") for seed in range(40) for _, p in scenes.make_scene(seed, level).phrases}
    assert [phrase for phrase in phrases if mirror_phrase(phrase) is None] == []
