"""Words and sentence lengths of a table, counted once and kept in the cache of the ``datasets`` library."""

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from rec.data.content import remembered
from rec.data.tables import Table


def text_statistics(table: Table, tokenizer: str, split: Callable[[str], list[str]]) -> dict[str, Any]:
    """Counts the words of a table's sentences.

    Args:
        table: the rows.
        tokenizer: what tells it from every other, for the cache.
        split: sentence to words.

    Returns:
        ``words``: every word, in order of first appearance; ``lengths``: how many sentences have 0, 1, 2, … words.
    """

    def count() -> dict[str, Any]:
        words: dict[str, None] = {}
        lengths: Counter[int] = Counter()
        for chunk in table.rows.data.column("sentences").chunks:
            for start in range(0, len(chunk), 10_000):
                for sentence in chunk.slice(start, 10_000).flatten().to_pylist():
                    tokens = split(sentence or "")
                    lengths[len(tokens)] += 1
                    words.update(dict.fromkeys(tokens))
        return {"words": list(words), "lengths": [lengths[n] for n in range(max(lengths, default=0) + 1)]}

    key = hashlib.sha256(f"{table.fingerprint} {tokenizer}".encode()).hexdigest()[:24]
    # Not "text-…": those of earlier versions may hold words of whichever vocabulary came first.
    return remembered(f"words-{key}.json", {"words", "lengths"}, count)
