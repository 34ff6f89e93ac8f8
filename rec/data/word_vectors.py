"""Word vectors of a vocabulary: from a spaCy pipeline, or from a GloVe text file that is streamed."""

import gzip
import logging
import os
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rec import trust
from rec.contracts import Words
from rec.data.text import MAX_WORD, MAX_WORDS, Vocabulary
from rec.files import user_path
from rec.names import moved

logger = logging.getLogger(__name__)
__getattr__ = moved(__name__, __name__, {"load_word_vectors": "look_up_vectors"})
_LINE = re.compile(rb"\S+( +[-+]?[\d.]+(e[-+]?\d+)?)+\s*", re.IGNORECASE)  # a word and its numbers
TEXT_SUFFIXES = (".txt", ".txt.gz", ".vec", ".vec.gz")


def look_up_vectors(vocabulary: Words, source: str | os.PathLike[str] | None, *, seed: int = 0) -> np.ndarray:
    """Looks up the vectors of all words; logs how many were found.

    Args:
        vocabulary: of V words.
        source: name or folder of a spaCy pipeline with vectors, or a GloVe file (``.txt``, ``.txt.gz``; word2vec's text
            format ``.vec`` too).
        seed: of the vectors of words that are not found, as they are or as the keys write them: normal, of the
            mean and spread of those that are.

    Returns:
        float32 ``(V, D)``; the row of PAD is 0 where the source has no such word.

    Raises:
        ValueError: no source, one that cannot be read, or one that has no vector of the vocabulary.
    """
    if source is None:
        raise ValueError(
            "dataset.use_glove is true, but no word vectors are named: set dataset.word_vectors to a spaCy pipeline "
            "with vectors (for example en_core_web_lg) or to a GloVe file (glove.840B.300d.txt), or go without, "
            "dataset.use_glove=false model.language_encoder.freeze_embedding=false"
        )
    is_text = os.fspath(source).endswith(TEXT_SUFFIXES)
    path = user_path(source)
    ids = {word: number for number, word in enumerate(vocabulary.words)}
    typed = vocabulary.typed if isinstance(vocabulary, Vocabulary) else {}
    wanted = dict.fromkeys([*ids, *typed.values()])
    by_word = dict(_from_text(wanted, path) if is_text else _from_spacy(wanted, str(path)))
    found = {ids[word]: vector for word, vector in by_word.items() if word in ids}
    found |= {n: by_word[word] for n, word in typed.items() if n not in found and word in by_word}
    if not found:
        raise ValueError(f"{source} has no vector for any of the {len(vocabulary)} words of the vocabulary")
    known = np.stack(list(found.values()))
    vectors = np.random.default_rng(seed).normal(known.mean(), known.std(), (len(vocabulary), known.shape[1]))
    vectors[0] = 0
    vectors[list(found)] = known
    share = len(found) / len(vocabulary)
    logger.info("%d of %d words (%.1f %%) have a vector in %s", len(found), len(vocabulary), 100 * share, source)
    return vectors.astype(np.float32)


def vector_words(source: str | None) -> Iterator[str]:
    """All words of a GloVe file, in its order.

    Raises:
        ValueError: no such file is named, it cannot be read, begins otherwise than with a word and its numbers, or has more
            words than a vocabulary may.
    """
    if source is None or not source.endswith(TEXT_SUFFIXES):
        raise ValueError(
            f"dataset.vocabulary_from=vectors takes its words from a text file: set dataset.word_vectors to a GloVe file "
            f"({', '.join(TEXT_SUFFIXES)}), not to {source}, or dataset.vocabulary_from=train"
        )
    number, begun = 0, False
    try:
        for number, line in enumerate(_lines(user_path(source)), 1):
            if line.strip() and not begun and not (begun := bool(_LINE.fullmatch(line))):
                raise ValueError(
                    f"expected a word and its numbers, with blanks between them and as UTF-8, got {line[:40]!r}"
                )
            if number > MAX_WORDS:
                raise ValueError(f"more than {MAX_WORDS:,} words: keep its first, most frequent ones")
            word = line.partition(b" ")[0].strip().decode("utf-8", "replace")
            is_head = number == 1 and line.count(b" ") == 1  # word2vec begins with two numbers
            if 0 < len(word) <= MAX_WORD and not is_head:
                yield word
    except (OSError, EOFError, zlib.error, ValueError, trust.UntrustedError) as error:
        raise ValueError(f"cannot read word vectors from {source}, line {number}: {error}") from None


def _from_text(words: Iterable[str], path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Those of the words that a GloVe file has, with their vectors; only their lines are parsed."""
    wanted = set(words)
    dimension, number = 0, 0
    try:
        for number, line in enumerate(_lines(path), 1):  # noqa: B007
            word, _, rest = line.partition(b" ")
            if not dimension:
                dimension = len(rest.split())
                if dimension == 1 and rest.strip().isdigit() and word.isdigit():
                    dimension = int(rest)  # word2vec's first line: number of words, dimension
                    continue
            if (text := word.decode("utf-8", "replace")) in wanted:
                values = rest.split()
                if len(values) != dimension:
                    if len(values) > dimension:  # a "word" with a space in it, as GloVe 840B has
                        continue
                    raise ValueError(f"{len(values)} numbers in place of {dimension}")
                vector = np.array(values, np.float64)
                if not 0 < len(vector) <= trust.MAX_DIMENSION or not np.isfinite(vector).all():
                    raise ValueError(f"expected 1 to {trust.MAX_DIMENSION:,} finite numbers behind {text!r}")
                wanted.remove(text)
                yield text, vector
    except (OSError, EOFError, zlib.error, ValueError, trust.UntrustedError) as error:
        raise ValueError(f"cannot read word vectors from {path}, line {number}: {error}") from None


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a text file or a compressed one, tabs as blanks, as long as they are no more than such a file holds."""
    with trust.open_file(path, "word vectors") as file:
        room = trust.MAX_EXPANSION * os.fstat(file.fileno()).st_size + trust.SMALL_TABLE
        begin = BOM_UTF8
        with gzip.open(file) if path.suffix == ".gz" else file as content:
            while line := content.readline(trust.MAX_LINE):
                room -= len(line)
                if room < 0 or len(line) == trust.MAX_LINE:
                    raise ValueError("a line without end, or more content than word vectors are compressed to")
                yield line.removeprefix(begin).replace(b"\t", b" ")
                begin = b""


def _from_spacy(words: Iterable[str], name: str) -> Iterator[tuple[str, np.ndarray]]:
    import spacy

    try:
        nlp = spacy.load(name, exclude=["tagger", "parser", "ner", "lemmatizer", "attribute_ruler", "tok2vec"])
    except (ImportError, OSError, ValueError) as error:
        advice = f"get it with `python -m spacy download {name}`"
        if name == "en_vectors_web_lg":
            advice = (
                "it is for spaCy 2 only: take en_core_web_lg, or the GloVe file it was made of, glove.840B.300d.txt"
            )
        elif os.path.isfile(name):
            advice = "unpack an archive first, and name the text file in it; write other files as text"
        raise ValueError(
            f"dataset.word_vectors={name} is neither a GloVe file ({', '.join(TEXT_SUFFIXES)}) nor a spaCy pipeline that "
            f"is installed: {advice}, or go without it, dataset.use_glove=false "
            f"model.language_encoder.freeze_embedding=false ({error})"
        ) from None
    for word in words:
        if nlp.vocab.has_vector(word):
            yield word, np.asarray(nlp.vocab.get_vector(word), np.float64)
