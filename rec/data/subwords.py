"""Fast tokenizers of ``transformers`` (``tokenizer.json``): phrases to ids of subwords, through ``tokenizers`` alone.

A ``tokenizer.json`` may be a stranger's. Its steps run in a library without Python, so it can call nothing, but it can take
time and memory without end: :func:`checked` holds it to the steps, sizes and regular expressions of common models.
"""

import base64
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from rec.data.pretrained import pretrained_file
from rec.data.text import Vocabulary, read_vocabulary
from rec.errors import InputError, UntrustedError
from rec.files import digest, write_json, write_text
from rec.trust import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, MAX_WORD, MAX_WORDS, read_text

logger = logging.getLogger(__name__)
TOKENIZER = "tokenizer.json"
PREFIX, IN_FILE = "transformers:", f"file:{TOKENIZER}"
MAX_PHRASE = 8192  # characters of a phrase that are read: far more than 512 subwords have
MAX_STEPS, MAX_GROWTH = 32, 64  # of a tokenizer: steps in all, and how many times longer they make a text
_HALVES = re.compile("[\ud800-\udfff]")  # of a character, which is not text to the library
MAX_LETTERS = 200  # of a word that WordPiece takes apart: it tries every piece of every word
_STEPS = {
    "normalizer": "BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace Sequence Strip "
    "StripAccents",
    "pre_tokenizer": "BertPreTokenizer ByteLevel CharDelimiterSplit Digits Metaspace Punctuation Sequence Split UnicodeScripts "
    "Whitespace WhitespaceSplit",
    "post_processor": "BertProcessing ByteLevel RobertaProcessing Sequence TemplateProcessing",
    "model": "BPE Unigram WordLevel WordPiece",
}  # fmt: skip


class Subwords:
    """A tokenizer whose ids are those of a published model, shifted by one: in a batch 0 is padding.

    Args:
        text: content of a ``tokenizer.json``.
        origin: what messages call it.

    Attributes:
        tokenizer: what ``vocab.json`` says: that the tokenizer is in the file beside it.
        reserved: ids of a phrase that are not part of it, such as ``[CLS]`` and ``[SEP]``.

    Raises:
        UntrustedError: it is none, or beyond the limits of this module.
        InputError: the package ``tokenizers`` is not installed.
    """

    tokenizer = IN_FILE

    def __init__(self, text: str, origin: str = TOKENIZER) -> None:
        try:
            import tokenizers
        except ImportError:
            raise InputError(f"{origin} needs the package tokenizers: pip install tokenizers") from None
        content = checked(text, origin)
        self.text, self.origin = text, origin
        with _usable(origin):
            self._made = tokenizers.Tokenizer.from_str(json.dumps(content))
            ends = self._made.encode("").ids
        if strange := [number for number in ends if self._made.id_to_token(number) is None]:
            raise UntrustedError(
                f"{origin} puts the id {strange[0]} at the ends of a phrase (post_processor), but has no piece with that id"
            )
        # What no vocabulary has and no normalizer drops: a private sign, a hieroglyph.
        self._pieces("the man on the left \ue000 \U00013000")
        self.reserved = self._made.num_special_tokens_to_add(False)
        model = content["model"]
        named = model.get("unk_token")
        self._unknown = model.get("unk_id") if named is None else self._made.token_to_id(named)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Subwords":
        """Reads a ``tokenizer.json``, which may be a stranger's.

        Raises:
            UntrustedError, InputError: as the class.
            FileNotFoundError: there is no such file.
        """
        return cls(read_text(path, "tokenizer", MAX_TOKENIZER_BYTES), os.fspath(path))

    @classmethod
    def of(cls, name: str) -> "Subwords":
        """The tokenizer of ``transformers:<folder or Hub id>``, as ``dataset.tokenizer`` names it."""
        made = cls.load(pretrained_file(name.removeprefix(PREFIX), TOKENIZER, "dataset.tokenizer"))
        text = _as_configured(made.text, name.removeprefix(PREFIX))
        return made if text == made.text else cls(text, made.origin)

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subwords) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The pieces by id of a batch; ids that nothing has are empty, as 0 is."""
        numbered = {number + 1: piece for piece, number in self._made.get_vocab(True).items()}
        return tuple(numbered.get(number, "") for number in range(max(numbered) + 1))

    @cached_property
    def identity(self) -> str:
        """Digest of the tokenizer: with another one, ids mean something else."""
        return digest(self.text.encode())

    @cached_property
    def filler(self) -> int | None:
        """The tokenizer's own id that its file fills phrases up with (``padding``); None where it does not say."""
        padding = json.loads(self.text).get("padding")
        number = padding.get("pad_id") if isinstance(padding, dict) else None
        return number if type(number) is int else None

    def encode(self, sentence: str, max_token_length: int) -> list[int]:
        """``max_token_length`` ids: the model's own plus one, padded with 0; longer phrases are cut, their ends kept."""
        pieces = self._pieces(sentence)
        pieces.truncate(max(0, max_token_length - self.reserved))
        ids = [number + 1 for number in self._made.post_process(pieces).ids[:max_token_length]]
        return ids + [0] * (max_token_length - len(ids))

    def tokens(self, sentence: str) -> list[str]:
        """The subwords of a phrase, without the :attr:`reserved` ones, untruncated."""
        return list(self._pieces(sentence).tokens)

    def unknown(self, sentence: str) -> list[str]:
        """What of the phrase has no subword of its own, as it is written."""
        pieces = self._pieces(sentence)
        pairs = zip(pieces.ids, pieces.offsets, strict=True)
        return [sentence[start:end] for number, (start, end) in pairs if number == self._unknown]

    def _pieces(self, sentence: str) -> Any:
        whole = _HALVES.sub("\ufffd", sentence[:MAX_PHRASE])
        with _usable(self.origin):
            return self._made.encode(whole, add_special_tokens=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes ``vocab.json``, which names the file beside it, and that file, ``tokenizer.json``."""
        write_json(path, {"tokenizer": IN_FILE, "words": []}, indent=0)
        write_text(os.path.join(os.path.dirname(path), TOKENIZER), self.text)


def _as_configured(text: str, name: str) -> str:
    """BERT's ``tokenizer.json`` with the ``do_lower_case`` of the ``tokenizer_config.json`` beside it, by which ``transformers``
    goes where the two contradict each other."""
    content = json.loads(text)
    normalizer = content.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return text
    try:
        beside = pretrained_file(name, "tokenizer_config.json", "dataset.tokenizer")
        config = json.loads(read_text(beside, "config of a tokenizer", MAX_CONFIG_BYTES))
    except (InputError, UntrustedError, ValueError, RecursionError):
        return text
    lower = config.get("do_lower_case") if isinstance(config, dict) else None
    is_bert = isinstance(lower, bool) and str(config.get("tokenizer_class") or "Bert").startswith("Bert")
    if not is_bert or normalizer.get("lowercase") is lower:
        return text
    logger.warning(
        "%s: do_lower_case is %s in tokenizer_config.json, not so in %s; it is followed", name, lower, TOKENIZER
    )
    return json.dumps(content | {"normalizer": normalizer | {"lowercase": lower}})


@contextmanager
def _usable(origin: str) -> Iterator[None]:
    """In the block, whatever the library says of a tokenizer becomes an UntrustedError that names its file."""
    try:
        yield
    except BaseException as error:  # a panic of the library is not an Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UntrustedError(f"{origin} is not a tokenizer that can be used: {reason}") from None


def load_words(source: str | os.PathLike[str], tokenizer: str = "simrec") -> Vocabulary | Subwords:
    """What ``dataset.vocabulary`` names: a ``vocab.json`` (with its ``tokenizer.json`` beside it), or ``transformers:<name>``.

    Args:
        source: the file, or the name.
        tokenizer: as of :meth:`rec.data.text.Vocabulary.load`.

    Raises:
        ValueError, UntrustedError, InputError, FileNotFoundError: as :meth:`rec.data.text.Vocabulary.load`, :class:`Subwords`.
    """
    if os.fspath(source).startswith(PREFIX):
        return Subwords.of(os.fspath(source))
    if read_vocabulary(source)[1] == IN_FILE:
        return Subwords.load(os.path.join(os.path.dirname(source), TOKENIZER))
    return Vocabulary.load(source, tokenizer)


def checked(text: str, origin: str = TOKENIZER) -> dict[str, Any]:
    """A ``tokenizer.json`` as native containers, reduced to what phrases need: steps, model, added tokens.

    Padding and truncation are dropped (the batch decides), the decoder is, and random merges (BPE's dropout) are.

    Raises:
        UntrustedError: no such file, or beyond the limits; names what.
    """

    def refuse(what: str) -> UntrustedError:
        return UntrustedError(
            f"{origin} {what}; expected the tokenizer.json of a transformers model with a fast tokenizer"
        )

    if len(text) > MAX_TOKENIZER_BYTES:
        raise refuse(f"has {len(text):,} characters, the limit is {MAX_TOKENIZER_BYTES:,}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refuse(f"is not JSON: {str(error)[:100]}") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise refuse("has no model")
    added = content.get("added_tokens") or []
    try:
        trouble = _steps_trouble(content) or _vocabulary_trouble(model, added)
    except (TypeError, AttributeError, KeyError, ValueError) as error:  # as a number where a list is expected
        trouble = f"a part of another form than tokenizers have ({type(error).__name__}: {str(error)[:80]})"
    if trouble:
        raise refuse(f"has {trouble}")
    kept = {key: content.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor")}
    plain = {"version": "1.0", "truncation": None, "padding": None, "decoder": None, "added_tokens": added, **kept}
    return plain | {"model": model | ({"dropout": None} if model["type"] == "BPE" else {})}


def _steps_trouble(content: Mapping[str, Any]) -> str | None:
    growth, types = 1.0, []
    for part, known in _STEPS.items():
        for step in _steps(content.get(part), part):
            if not isinstance(step, dict) or step.get("type") not in known.split():
                named = step.get("type") if isinstance(step, dict) else step
                return f"the {part} {str(named)[:80]!r}, which is not in the list"
            if trouble := _trouble(step):
                return f"the {part} {step['type']} with {trouble}"
            growth *= _growth(step)
            types.append(step["type"])
    if len(types) > MAX_STEPS or growth > MAX_GROWTH or types.count("Precompiled") > 1:
        return (
            f"{len(types)} steps that make a text up to {growth:.3g} times longer (limits: {MAX_STEPS}, {MAX_GROWTH})"
        )
    return None


def _steps(step: object, part: str) -> Iterator[Any]:
    """A step and those that it is a sequence of, as deep as :data:`MAX_STEPS`."""
    waiting, count = [] if step is None else [step], 0
    while waiting and count <= MAX_STEPS:
        step, count = waiting.pop(), count + 1
        yield step
        if isinstance(step, dict) and step.get("type") == "Sequence":
            inner = step.get({"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}.get(part, "processors"))
            waiting += inner if isinstance(inner, list) else []


def _trouble(step: Mapping[str, Any]) -> str | None:
    """What in a step takes time or memory without end."""
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and "Regex" in pattern and not is_plain_pattern(pattern["Regex"]):
        return f"the regular expression {str(pattern['Regex'])[:80]!r}, which could take time without end"
    template = [item for key in ("single", "pair") for item in (step.get(key) or [])]
    if len(template) > MAX_STEPS:
        return f"a template of {len(template)} items"
    named = step.get("special_tokens") or {}
    ids = [number for token in named.values() for number in token["ids"]] if isinstance(named, dict) else []
    if len(ids) > MAX_STEPS:
        return f"{len(ids)} special tokens"
    if step["type"] == "Precompiled":
        # Four bytes with the length of a search tree, the tree, the replacements, each ended by a zero.
        table = base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
        longest = max(map(len, table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")))
        return f"a replacement of {longest} bytes" if longest > MAX_GROWTH else None
    letters = step.get("max_input_chars_per_word")
    return f"words of {letters} letters" if letters is not None and not 0 < letters <= MAX_LETTERS else None


def _growth(step: Mapping[str, Any]) -> float:
    """How many times longer a step can make a text."""
    return 1 + len(step.get("content", "")) if step["type"] == "Replace" else 1 + len(step.get("prepend", "")) / 8


def _vocabulary_trouble(model: Mapping[str, Any], added: object) -> str | None:
    pieces = model.get("vocab")
    if isinstance(pieces, list):  # Unigram: [piece, log probability] by id
        if not all(type(score) in (int, float) and math.isfinite(score) for _, score in pieces):
            return "a vocabulary with a score that is not a number"
        pieces = {piece: number for number, (piece, _) in enumerate(pieces)}
    if not isinstance(pieces, dict) or not pieces:
        return "no vocabulary"
    for piece, number in pieces.items():
        if not _is_piece(piece, number):
            return f"a vocabulary with {str((piece, number))[:80]}"
    if not isinstance(added, list) or len(added) > MAX_WORDS:
        return "added tokens that are not a list"
    for token in added:
        if not (isinstance(token, dict) and token.get("content") and _is_piece(token["content"], token.get("id"))):
            return f"an added token {str(token)[:80]}"
    return None


def _is_piece(text: object, number: object) -> bool:
    return isinstance(text, str) and len(text) <= MAX_WORD and type(number) is int and 0 <= number < MAX_WORDS


_ATOM = re.compile(
    r"\\[pP](?:\{\^?\w+\}|\w)|\\x\{?[0-9a-fA-F]{1,6}\}?|\\.|\[(?:\\.|[^\[\]\\])+\]|[^\\\[\](){}*+?|]", re.DOTALL
)
_QUANTIFIER = re.compile(r"[*+?]|\{\d{0,3}(?:,\d{0,3})?\}")


def is_plain_pattern(pattern: object) -> bool:
    """Whether a regular expression takes time of at most the square of the text: alternatives of characters and classes without
    groups, each with one repetition at most, so that there is nothing to go back to."""
    if not isinstance(pattern, str) or len(pattern) > MAX_WORD:
        return False
    at, repeated = 0, 0
    while at < len(pattern):
        if pattern[at] == "|":
            at, repeated = at + 1, 0
            continue
        atom = _ATOM.match(pattern, at)
        if atom is None:
            return False
        # \1 and \k refer back.
        if re.fullmatch(r"\\[1-9kg]", atom[0]):
            return False
        at = atom.end()
        while quantifier := _QUANTIFIER.match(pattern, at):
            repeated, at = repeated + (quantifier[0] != "?"), quantifier.end()
        if repeated > 1:
            return False
    return pattern.count("?") <= MAX_STEPS
