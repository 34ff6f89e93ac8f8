"""Rows of a table of metrics for the parts of a split."""

from collections.abc import Mapping, Sequence
from typing import Any

from rec.data.scenes import phrase_form, phrase_kind
from rec.evaluation import several
from rec.evaluation.bootstrap import mean_accuracy, size_class
from rec.evaluation.metrics import breakdown


def rows_of_parts(
    split: str, records: Sequence[Mapping[str, Any]], rows: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Rows by size of the object and, of shape scenes, by kind and form of phrase.

    Of phrases of none, one or several objects, by their number instead of size, and the baseline.

    Args:
        split: its name, with which theirs begin.
        records: its lines of ``predictions.jsonl``.
        rows: the table so far; the split's own row gets its mean accuracy, ``Acc@0.5:0.95``.
    """
    if not records:
        return {}
    if (accuracy := mean_accuracy(records)) is not None and "count" in rows[split]:
        rows[split] = rows[split] | {"Acc@0.5:0.95": accuracy, "count": rows[split].pop("count")}
    parts: dict[Any, dict[str, float]] = {}
    if any(str(record.get("source")).startswith("scenes") for record in records):
        parts |= breakdown(records, lambda record: phrase_kind(record["sentence"]))
        parts |= breakdown(records, lambda record: phrase_form(record["sentence"]))
    any_number = "targets" in records[0]
    if not any_number:
        parts |= breakdown(records, size_class)
    named = {f"{split}/{part}": row for part, row in parts.items()}
    return named | (several.rows(split, records) if any_number else {})
