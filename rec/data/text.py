"""Phrases: tokenizers, vocabulary, and the left/right words of a mirrored image."""

import functools
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable

from rec.data.phrase_words import ENGLISH, OTHER_SIDES, SIDE_SIGNS
from rec.errors import UntrustedError
from rec.files import digest, user_path, write_json
from rec.trust import MAX_VOCABULARY_BYTES, MAX_WORD, MAX_WORDS, read_text

PAD, UNK, CLS = "PAD", "UNK", "CLS"
_REMOVED = re.compile(r"""[.,'!?"()*#:;]""")
# Quotation marks and dashes that telephones and word processors write by themselves, and those of the keys; signs that
# nobody sees, which come along with copied text.
_TYPOGRAPHIC = dict.fromkeys([*range(0x2018, 0x2020), 0x2039, 0x203A, 0xAB, 0xBB, 0xB4], "'")
_TYPOGRAPHIC |= dict.fromkeys([*range(0x2010, 0x2016), 0x2212], "-")
_TYPOGRAPHIC |= dict.fromkeys([0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), 0x2060, 0xFEFF], "")
_SIGNS = frozenset(map(chr, _TYPOGRAPHIC))


def tokenize(sentence: str) -> list[str]:
    """SimREC's words: lower case; ``. , ' ! ? " ( ) * # : ;`` deleted; ``-`` and ``/`` to spaces; split on white space."""
    return _REMOVED.sub("", sentence.lower()).replace("-", " ").replace("/", " ").split()


def _as_typed(word: str) -> str:
    """A word with the signs and letters of the keys in place of typographic ones."""
    return unicodedata.normalize("NFKC", word if _SIGNS.isdisjoint(word) else word.translate(_TYPOGRAPHIC))


def is_blank(sentence: str) -> bool:
    """Whether nothing of a phrase can be seen: it is white space, zero-width characters, a byte order mark."""
    return all(letter.isspace() or unicodedata.category(letter) in ("Cf", "Cc") for letter in sentence)


def is_rule_based(name: str) -> bool:
    """Whether a tokenizer's name can only lead to rules: ``"simrec"`` or ``"spacy:<two letters>"``. Any other is a spaCy
    pipeline: a package that is imported, or a folder whose settings choose what is called."""
    return name == "simrec" or re.fullmatch("spacy:[a-z]{2}", name) is not None


@functools.cache
def get_tokenizer(name: str) -> Callable[[str], list[str]]:
    """``"simrec"`` (:func:`tokenize`), or ``"spacy:<language code or pipeline>"``, for example ``"spacy:en"``.

    A two-letter code is spaCy's rule-based tokenizer of that language; anything else is a pipeline's name or folder.
    spaCy tokens are lower-cased, white space dropped.

    Raises:
        ValueError: unknown name, or a pipeline that is not installed.
    """
    if name == "simrec":
        return tokenize
    kind, _, pipeline = name.partition(":")
    if kind != "spacy" or not pipeline:
        kinds = "'simrec', 'spacy:<language code or pipeline>' or 'transformers:<folder or Hub id>'"
        raise ValueError(f"unknown tokenizer {name!r}: expected {kinds}")
    import spacy

    try:
        nlp = spacy.blank(pipeline) if is_rule_based(name) else spacy.load(pipeline)
    except (ImportError, OSError) as error:
        raise ValueError(f"tokenizer {name!r}: spaCy cannot load {pipeline!r} ({error})") from None
    make_doc = nlp.make_doc
    return lambda sentence: [token.lower_ for token in make_doc(sentence) if not token.is_space]


class Vocabulary:
    """Words by id; ids are positions, ``PAD, UNK, CLS`` are 0, 1, 2.

    Args:
        words: the list with ``PAD, UNK, CLS`` first.
        tokenizer: see :func:`get_tokenizer`; travels with the vocabulary, because ids mean nothing without it.

    Attributes:
        words: tuple of words.
        tokenizer: name of the tokenizer.
        typed: those with typographic signs or letters as the keys write them, by id.
        reserved: ids of a phrase that are not a word of it; none here.
    """

    reserved = 0

    def __init__(self, words: Iterable[str], tokenizer: str = "simrec") -> None:
        self.words, self.tokenizer = tuple(words), tokenizer
        if self.words[:3] != (PAD, UNK, CLS):
            raise ValueError(f"a vocabulary begins with {PAD}, {UNK}, {CLS}; this one with {list(self.words[:3])}")
        self._ids = {word: number for number, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise ValueError("the vocabulary holds a word twice")
        self._split = get_tokenizer(tokenizer)
        self.typed = dict[int, str]()
        for number, word in enumerate(self.words[3:], 3):
            plain = word if word.isascii() else _as_typed(word)
            if plain != word and len(typed := self._split(plain)) == 1:
                self.typed[number] = typed[0]
                self._ids.setdefault(typed[0], number)  # phrases may be typed with the keys where training's were not

    @classmethod
    def build(cls, sentences: Iterable[str], tokenizer: str = "simrec") -> "Vocabulary":
        """Ids by first appearance in ``sentences``."""
        split = get_tokenizer(tokenizer)
        words = dict.fromkeys((PAD, UNK, CLS))
        for sentence in sentences:
            words.update(dict.fromkeys(split(sentence)))
        return cls(words, tokenizer)

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.words, self.tokenizer) == (other.words, other.tokenizer)

    def __hash__(self) -> int:
        return hash((self.words, self.tokenizer))

    def tokens(self, sentence: str) -> list[str]:
        """The words of a sentence, known or not, untruncated. One without an id that has typographic signs or letters
        (such as an apostrophe of a telephone's) is taken as if it had been typed with those of the keys.
        """
        words = self._split(sentence)
        if sentence.isascii():
            return words
        taken = []
        for word in words:
            plain = word if word in self._ids else _as_typed(word)
            taken += [word] if plain == word else self._split(plain)
        return taken

    def unknown(self, sentence: str) -> list[str]:
        """Those of the words that have no id."""
        return [word for word in self.tokens(sentence) if word not in self._ids]

    @property
    def identity(self) -> str:
        """Digest of the words: with others, ids mean something else."""
        return digest(json.dumps(list(self.words)).encode())

    def encode(self, sentence: str, max_token_length: int) -> list[int]:
        """``max_token_length`` ids: unknown words are ``UNK`` (1), longer sentences are cut, shorter ones padded with
        0.
        """
        get, unknown = self._ids.get, self._ids[UNK]
        ids = [get(word, unknown) for word in self.tokens(sentence)[:max_token_length]]
        return ids + [0] * (max_token_length - len(ids))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes ``vocab.json``: ``{"tokenizer": …, "words": […]}``."""
        write_json(user_path(path), {"tokenizer": self.tokenizer, "words": list(self.words)}, indent=0)

    @classmethod
    def load(cls, path: str | os.PathLike[str], tokenizer: str = "simrec") -> "Vocabulary":
        """Reads ``vocab.json``, which may be a stranger's.

        Args:
            path: the file.
            tokenizer: a spaCy pipeline that it may name, because the caller does; without, only rules.

        Raises:
            ValueError: the file is not such a vocabulary; names the file.
            UntrustedError: it names another pipeline, which would be imported, or is too large.
            FileNotFoundError: there is no such file.
        """
        words, named = read_vocabulary(path)
        if not is_rule_based(named) and named != tokenizer:
            raise UntrustedError(
                f"{os.fspath(path)} names the spaCy pipeline {named[:100]!r}, which can run code: only 'simrec' and spaCy's "
                "rule-based ones (spacy:en) are loaded for a file. If it is your own, name the pipeline yourself: "
                f"dataset.tokenizer={named[:100]}, or --trust-config (trust_config=True) for a model"
            )
        try:
            return cls(words, named)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} is not a vocabulary: {error}") from None


def read_vocabulary(path: str | os.PathLike[str]) -> tuple[list[str], str]:
    """Words and tokenizer's name of a ``vocab.json``; nothing is built from them.

    Raises:
        ValueError, UntrustedError, FileNotFoundError: as :meth:`Vocabulary.load`.
    """
    text = read_text(user_path(path), "vocabulary", MAX_VOCABULARY_BYTES)
    try:
        content = json.loads(text)
        words, tokenizer = content["words"], content["tokenizer"]
        if not (isinstance(tokenizer, str) and isinstance(words, list) and all(isinstance(w, str) for w in words)):
            raise TypeError("words must be a list of strings, tokenizer a string")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        shape = "{'tokenizer': …, 'words': […]}"
        raise ValueError(f"{os.fspath(path)} is not a vocabulary file {shape}: {str(error)[:200]!r}") from None
    if len(words) > MAX_WORDS or max(map(len, words), default=0) > MAX_WORD:
        limits = f"at most {MAX_WORDS:,} words of at most {MAX_WORD:,} letters"
        raise UntrustedError(f"{os.fspath(path)} has {len(words):,} words; a vocabulary has {limits}")
    return words, tokenizer


_SIDE = re.compile(r"\b(left|right)(?=(?:most|hand|handed|side|sided|ish|er|est|wards?|y|ies|ie|s)?\b)", re.IGNORECASE)
# "right" before one of these is often no direction ("right behind her"), and "left" before one of those not always ("the cake left
# on the plate"), unless a word of _PLACE stands before it ("the man on the right behind her").
_ADVERB = re.compile(
    r"(?:\b([a-z]+)\W+)?\b(?:right\s+(?:above|across|after|against|ahead|along|alongside|among|angles?|around|at|away|back|before"
    r"|behind|below|beneath|beside|between|beyond|by|down|here|in|inside|into|near|next|now|off|on|onto|opposite|out|outside|over"
    r"|past|there|through|to|under|underneath|up|upon|where|within)"
    r"|left\s+(?:at|in|on)\s+(?:(?:an?|the|his|her|its|their)\s+)?(?:beach|bowl|box|bottle|car|counter|cup|dish|floor|glass|grass"
    r"|ground|pan|plate|rain|road|sand|sidewalk|sink|snow|street|sun|table|tray))\b",
    re.IGNORECASE,
)
# What remains: "two slices left", but not "two on the left", by the same words.
_FEW = re.compile(
    r"\b(?:\d+|two|three|four|five|six|seven|eight|nine|ten|few|half|more|much|no|several|some)\s+(?:[a-z]+\s+)?([a-z]+)\s+left"
    r"(?:\W*$|\s+(?:at|for|from|in|on|to)\b)",
    re.IGNORECASE,
)
_PLACE = frozenset(
    ["at", "back", "bottom", "center", "far", "front", "her", "his", "its", "lower", "middle", "most", "my", "on"]
    + ["our", "the", "to", "top", "upper", "very", "your"]
)
# Remains, idioms and clock positions: swapping words would not mirror the meaning.
_UNSURE = re.compile(
    r"\ball\s+right\b|\bright\W*side\W*(?:out|up)\b|\bright\W*angled?\b"
    r"|\bright\s+(?:(?:answer|choice|thing)s?|amount|kind|moment|size|time|way)\b"
    r"|\bleft\W*overs?\b|\bleft\s+(?:ajar|(?:all\s+)?alone|behind|empty|open|out|unattended|uneaten)\b|\bleft\s+o(?:n|ff)\W*$"
    r"|\b(?:is|are|was|were|that\W?s|only\s+\w+|last\s+\w+)\s+left(?:\s+standing)?\W*$|\bw(?:as|ere)\s+left\s+(?:at|in|on|to)\b"
    r"|\b(?:i|you|he|she|we|they|who|has|have|had|just|never|nothing|none|what\W*s|what\s+is)\s+left\b"
    r"|\bright\W*of\W*way\b|\brights\b"
    r"|\bthat\s+left(?:\W*$|\s+(?:the|a|her|his|its|their)\b)"
    r"|\bport\W*side\b|\bo\W*clock\b|clockwise\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+")
# Words that hold "left" or "right" and tell no side; in any other such word ("topleft") one is told that is not swapped.
_NO_SIDE = re.compile(
    "bright|fright|upright|copyright|outright|downright|forthright|birthright|alright|wright|cleft|theft"
)


def _slips(word: str) -> set[str]:
    """All spellings with one letter too many, too few, wrong, or changed over with its neighbour."""
    cuts = [(word[:n], word[n:]) for n in range(len(word) + 1)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    fewer = {a + b[1:] for a, b in cuts if b} | {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    return fewer | {a + letter + rest for a, b in cuts for letter in letters for rest in (b, b[1:])}


_MISSPELT = {word for word in _slips("left") | _slips("right") if word not in ENGLISH and not _SIDE.match(word)}
_SIDES_NOT_SWAPPED = OTHER_SIDES | _MISSPELT


def mirror_phrase(sentence: str) -> str | None:
    """The phrase that fits the mirrored image, or None where that cannot be told.

    The words left and right, alone or in leftmost, right-handed, leftish, …, change places, on word boundaries and with
    their case kept ("bright" and "copyright" stay). Handedness changes too: a mirrored left-handed man is right-handed.
    Not mirrored are phrases that tell a side in any other way (misspelt, shortened, in another language or script), and
    those of which less than half of the words are common English ones, since there a side could go unnoticed.
    """
    plain = sentence if sentence.isascii() else unicodedata.normalize("NFKC", sentence)
    plain = plain.lower()
    words = _WORD.findall(plain)
    if not _SIDES_NOT_SWAPPED.isdisjoint(words) or (not plain.isascii() and SIDE_SIGNS.search(plain)):
        return None
    told = (match.group(1) or "" for pattern in (_ADVERB, _FEW) for match in pattern.finditer(plain))
    if _UNSURE.search(plain) or not _PLACE.issuperset(told):
        return None
    mirrored, swapped = _SIDE.subn(_swap_side, sentence)
    sides = _NO_SIDE.sub("", plain)
    if sides.count("left") + sides.count("right") != swapped or not _is_english(words):
        return None
    return mirrored


def _is_english(words: list[str]) -> bool:
    def is_plural(word: str) -> bool:
        return word.endswith("s") and not ENGLISH.isdisjoint((word[:-1], word[:-2], f"{word[:-3]}y"))

    return 2 * sum(word in ENGLISH or is_plural(word) for word in words) >= len(words)


def _swap_side(match: re.Match[str]) -> str:
    word = match.group(1)
    other = "right" if word.lower() == "left" else "left"
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
