"""Word vectors: streamed from text, or from a spaCy pipeline; what is missing is drawn and told."""

import gzip
import logging

import numpy as np
import pytest

from rec.data.text import Vocabulary
from rec.data.word_vectors import look_up_vectors, vector_words

VOCABULARY = Vocabulary.build(["red circle left", "caffè"])
LINES = ["the 0.5 0.5 0.5", "red 1 2 3", "at name 9 9 9", "circle 4 5 6", "caffè -1 -2 -3", "red 7 7 7"]


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_a_glove_file_is_streamed(tmp_path, suffix, caplog):
    file = tmp_path / f"glove{suffix}"
    data = "\n".join(LINES).encode()
    file.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    with caplog.at_level(logging.INFO):
        vectors = look_up_vectors(VOCABULARY, file, seed=1)
    assert vectors.shape == (7, 3)
    assert vectors.dtype == np.float32
    assert vectors[3].tolist() == [1, 2, 3]
    assert vectors[4].tolist() == [4, 5, 6]
    assert vectors[6].tolist() == [-1, -2, -3]
    assert not vectors[0].any()
    assert vectors[5].any()
    assert (look_up_vectors(VOCABULARY, file, seed=1) == vectors).all()
    assert (look_up_vectors(VOCABULARY, file, seed=2)[5] != vectors[5]).any()
    assert "3 of 7 words (42.9 %) have a vector" in caplog.text


def test_word2vec_headers_are_skipped(tmp_path):
    (tmp_path / "w.vec").write_text("6 3\n" + "\n".join(LINES), encoding="utf-8")
    assert look_up_vectors(VOCABULARY, tmp_path / "w.vec")[3].tolist() == [1, 2, 3]


@pytest.mark.parametrize("begin", ["\ufeff", "\ufeff6 3\n", "\n"])
def test_a_byte_order_mark_and_a_blank_line_cost_no_word(tmp_path, begin):
    file = tmp_path / "glove.txt"
    file.write_text(begin + "\n".join(LINES[1:]), encoding="utf-8")
    assert look_up_vectors(VOCABULARY, file)[3].tolist() == [1, 2, 3]
    assert next(vector_words(str(file))) == "red"


def test_a_word_with_typographic_signs_has_the_vector_of_the_word_that_the_keys_write(tmp_path):
    file = tmp_path / "glove.txt"
    file.write_text("\n".join(["mans 1 2 3", "left\u2013most 7 7 7", *LINES]), encoding="utf-8")
    words = Vocabulary.build(["the man\u2019s left\u2013most"])
    vectors = look_up_vectors(words, file)
    assert vectors[words.words.index("man\u2019s")].tolist() == [1, 2, 3]
    assert vectors[words.words.index("left\u2013most")].tolist() == [7, 7, 7]


def test_tabs_may_stand_between_a_word_and_its_numbers(tmp_path):
    file = tmp_path / "vectors.txt"
    file.write_text("\n".join(line.replace(" ", "\t") for line in ["6 3", *LINES]), encoding="utf-8")
    assert list(vector_words(str(file)))[:2] == ["the", "red"]
    assert look_up_vectors(VOCABULARY, file)[4].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    "data", [b"the,1,2\nred,3,4", b'{"the": [1, 2]}', gzip.compress(b"the 1 2"), "the 1 2".encode("utf-16")]
)
def test_a_vocabulary_is_not_made_of_lines_that_are_no_words_with_numbers(tmp_path, data):
    (tmp_path / "glove.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"glove\.txt, line 1: expected a word and its numbers"):
        list(vector_words(str(tmp_path / "glove.txt")))


def test_a_vocabulary_of_all_words_of_the_file(tmp_path):
    file = tmp_path / "glove.txt"
    file.write_text("\n".join(["6 3", *LINES]))
    assert list(vector_words(str(file))) == ["the", "red", "at", "circle", "caffè", "red"]
    for source, message in (
        (None, "vocabulary_from=vectors"),
        ("en_core_web_lg", "GloVe file"),
        ("none.txt", "none.txt"),
    ):
        with pytest.raises(ValueError, match=message):
            list(vector_words(source))


def test_memory_does_not_grow_with_the_file(tmp_path):
    import tracemalloc

    file = tmp_path / "big.txt"
    numbers = " ".join(["0.12345"] * 300)
    with open(file, "w", encoding="utf-8") as stream:
        stream.writelines(f"word{n} {numbers}\n" for n in range(3000))
        stream.write(f"red {numbers}\n")
    tracemalloc.start()
    look_up_vectors(VOCABULARY, file)
    assert tracemalloc.get_traced_memory()[1] < file.stat().st_size / 4
    tracemalloc.stop()


def test_a_spacy_pipeline_by_its_folder(tmp_path):
    import spacy

    nlp = spacy.blank("en")
    nlp.vocab.reset_vectors(width=3)
    nlp.vocab.set_vector("red", np.array([1.0, 2, 3], np.float32))
    nlp.to_disk(tmp_path / "pipeline")
    vectors = look_up_vectors(VOCABULARY, tmp_path / "pipeline")
    assert vectors[3].tolist() == [1, 2, 3]


def test_sources_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.word_vectors"):
        look_up_vectors(VOCABULARY, None)
    (tmp_path / "glove.6B.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"glove\.6B\.zip is neither a GloVe file .*: unpack an archive first"):
        look_up_vectors(VOCABULARY, tmp_path / "glove.6B.zip")
    with pytest.raises(ValueError, match="no_such_pipeline is neither a GloVe file"):
        look_up_vectors(VOCABULARY, "no_such_pipeline")
    with pytest.raises(ValueError, match=r"none\.txt"):
        look_up_vectors(VOCABULARY, tmp_path / "none.txt")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress("\n".join(LINES * 99).encode())[:-20])
    with pytest.raises(ValueError, match=r"cut\.txt\.gz"):
        look_up_vectors(Vocabulary.build(["zebra"]), tmp_path / "cut.txt.gz")
    (tmp_path / "other.txt").write_text("zebra 1 2 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no vector for any of the 7 words"):
        look_up_vectors(VOCABULARY, tmp_path / "other.txt")
    (tmp_path / "broken.txt").write_text("the 1 2 3\nred 1 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.txt, line 2"):
        look_up_vectors(VOCABULARY, tmp_path / "broken.txt")


def test_compressed_files_are_no_bombs_and_pipes_are_not_waited_for(tmp_path, monkeypatch):
    import os
    import resource

    from rec import trust

    monkeypatch.setattr(trust, "SMALL_TABLE", 1 << 20)
    monkeypatch.setattr(trust, "MAX_LINE", 1 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in (("line", b"red 1 " * 3_000_000), ("lines", b"x 1\n" * 5_000_000)):
        (tmp_path / f"{name}.txt.gz").write_bytes(gzip.compress(content, 1))
        del content
        with pytest.raises(ValueError, match="line without end, or more content"):
            look_up_vectors(VOCABULARY, tmp_path / f"{name}.txt.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match="FIFO"):
        look_up_vectors(VOCABULARY, tmp_path / "pipe.txt")
    for values in ("nan 2 3", "inf 2 3", "1e999 2 3"):
        (tmp_path / "odd.txt").write_text(f"red {values}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"line 1: .*finite numbers behind 'red'"):
            look_up_vectors(VOCABULARY, tmp_path / "odd.txt")
