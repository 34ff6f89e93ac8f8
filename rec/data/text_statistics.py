"""Words and sentence lengths of a table, counted once and kept in the cache of the ``datasets`` library."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rec.data.tables import Table
from rec.files import write_json

logger = logging.getLogger(__name__)


def text_statistics(table: Table, tokenizer: str, split: Callable[[str], list[str]]) -> dict[str, Any]:
    """Counts the words of a table's sentences.

    Args:
        table: the rows.
        tokenizer: what tells it from every other, for the cache.
        split: sentence to words.

    Returns:
        ``words``: every word, in order of first appearance; ``lengths``: how many sentences have 0, 1, 2, … words.
    """
    from datasets import config

    key = hashlib.sha256(f"{table.fingerprint} {tokenizer}".encode()).hexdigest()[:24]
    path = Path(config.HF_DATASETS_CACHE) / "rec" / f"text-{key}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    words: dict[str, None] = {}
    lengths: Counter[int] = Counter()
    for chunk in table.rows.data.column("sentences").chunks:
        for start in range(0, len(chunk), 10_000):
            for sentence in chunk.slice(start, 10_000).flatten().to_pylist():
                tokens = split(sentence or "")
                lengths[len(tokens)] += 1
                words.update(dict.fromkeys(tokens))
    result = {"words": list(words), "lengths": [lengths[n] for n in range(max(lengths, default=0) + 1)]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
    except OSError as error:
        logger.warning("word counts are not kept: %s", error)
    return result
