"""Anybody's answers, as lines of JSON, against the truth of a split: what ``rec evaluate --answers`` scores.

A line is one answer: ``box`` (four numbers, or null for "not there"), ``boxes`` with ``scores``, or ``text`` (what a chat
model said), and which phrase it belongs to: ``index`` with the data's ``fingerprint`` (or with the sentence, which has to
agree), ``ref_id`` and ``sentence``, or ``image`` and ``sentence``. The lines of our own ``predictions.jsonl`` are such lines.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rec import boxes
from rec.contracts import DataSet
from rec.data import masks
from rec.errors import InputError
from rec.evaluation.conventions import Convention, boxes_in_text, four_numbers, says_none, suspicion
from rec.trust import MAX_ANNOTATIONS, MAX_LINE, open_file

KEYS = ("image", "image_id", "ref_id", "sentence_index", "sentence", "source")
_HOW = "name the phrase by index and fingerprint, by ref_id and sentence, or by image and sentence"


@dataclass
class Answers:
    """A file of answers, scored on some splits.

    Attributes:
        records: ``{split: lines of predictions.jsonl}``, one per phrase; boxes xyxy in pixels of the original image.
        counts: what was counted on the way, over all splits: ``answered, missing, none, unparsable, several, outside, extra``.
        suspicion: what is odd about the numbers, if anything; see :func:`rec.evaluation.conventions.suspicion`.
    """

    records: dict[str, list[dict[str, Any]]]
    counts: dict[str, int]
    suspicion: str | None

    def summary(self) -> str:
        """The counts in a line."""
        names = {
            "answered": "answers matched", "missing": "phrases without one (wrong)", "none": "say that it is not there",
            "unparsable": "unparsable (wrong)", "several": "with several boxes (the surest, else the first, counts)",
            "outside": "boxes leave their image", "extra": "lines belong to no phrase of these splits",
        }  # fmt: skip
        return ", ".join(
            f"{self.counts[key]} {text}" for key, text in names.items() if self.counts[key] or key == "answered"
        )


@dataclass
class _Phrase:
    """One (object, sentence) of a split, and the answer it got."""

    split: str
    index: int
    described: Mapping[str, Any]
    target: np.ndarray  # float64 (4,) xyxy in pixels
    height: int
    width: int
    line: int | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)


def read_answers(path: str | os.PathLike[str], datasets: Mapping[str, DataSet], convention: Convention) -> Answers:
    """Scores the answers of one file.

    Args:
        path: the file.
        datasets: ``{split: data set of evaluation}``.
        convention: how the boxes are written. The lines of a ``predictions.jsonl`` of this project, which name their
            ``target``, are in pixels, xyxy, whatever is declared.

    Raises:
        InputError: a line is no JSON object, names no phrase or several that differ, a phrase gets two answers, none of the
            lines belongs to these splits, or a phrase of theirs names none or several objects.
    """
    phrases = [phrase for split, dataset in datasets.items() for phrase in _phrases(split, dataset)]
    keys = _Keys(phrases, {split: dataset.fingerprint for split, dataset in datasets.items()})
    extra = 0
    for number, line in _lines(Path(path)):
        where = f"{os.fspath(path)}, line {number}"
        if line.get("split") is not None and line["split"] not in datasets:
            extra += 1
            continue
        found = keys.find(line, where)
        extra += not found
        for phrase in found:
            if phrase.line is not None:
                raise InputError(
                    f"{where} answers {_named(phrase)}, which line {phrase.line} has answered; expected one answer for each "
                    "phrase: remove one of the two"
                )
            phrase.line, phrase.answer = number, line
    if all(phrase.line is None for phrase in phrases):
        raise InputError(
            f"none of the lines of {os.fspath(path)} belongs to a phrase of {', '.join(datasets)} ({len(phrases)} phrases); "
            f"{_HOW}, as `rec evaluate` writes them in predictions.jsonl"
        )
    return _score(phrases, datasets, convention, extra)


def _phrases(split: str, dataset: DataSet) -> Iterator[_Phrase]:
    for index in range(len(dataset)):
        targets, height, width = dataset.target_boxes(index)
        if len(targets) != 1:
            described = dataset.describe(index)
            raise InputError(
                f"{str(described.get('sentence'))[:80]!r} of ref_id {described.get('ref_id')} in {split} names {len(targets)} "
                "objects; answers of a file are scored for phrases of one object each: evaluate a model of yours on such data, "
                "or take a split where each phrase names one"
            )
        yield _Phrase(split, index, dataset.describe(index), targets[0].astype(np.float64), height, width)


def _named(phrase: _Phrase) -> str:
    return (
        f"{str(phrase.described.get('sentence'))[:80]!r} of ref_id {phrase.described.get('ref_id')} in {phrase.split}"
    )


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects."""
    number = 0
    with open_file(path, "answers", MAX_ANNOTATIONS) as file:
        while line := file.readline(MAX_LINE):
            number += 1
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{path}, line {number} is no JSON ({str(error)[:100]}); is the file cut off?"
                ) from None
            if not isinstance(value, dict):
                raise InputError(
                    f"{path}, line {number} is {str(value)[:80]!r}; expected an object with box, boxes or text"
                )
            yield number, value


class _Keys:
    """Finds the phrases that a line may mean."""

    def __init__(self, phrases: Sequence[_Phrase], fingerprints: Mapping[str, str]) -> None:
        self.fingerprints = fingerprints
        self.by_index = {(phrase.split, phrase.index): phrase for phrase in phrases}
        self.by_name: dict[tuple[str, str, str], list[_Phrase]] = {}
        for phrase in phrases:
            described = phrase.described
            image = str(described.get("image"))
            named = {("ref_id", str(described.get("ref_id"))), ("image", str(described.get("image_id")))}
            for kind, name in named | {("image", image), ("image", os.path.basename(image))}:
                self.by_name.setdefault((kind, name, str(described.get("sentence"))), []).append(phrase)

    def find(self, line: Mapping[str, Any], where: str) -> list[_Phrase]:
        """The phrases that the line answers: several only where they share their truth; none where it is of other data.

        Raises:
            InputError: it names none, or several that differ.
        """
        if line.get("index") is not None:
            return self._at(line, where)
        sentence = line.get("sentence")
        kind = next((kind for kind in ("ref_id", "image") if line.get(kind) is not None), None)
        if kind is None or not isinstance(sentence, str):
            raise InputError(f"{where} does not say which phrase it answers: {_HOW}")
        found = self.by_name.get((kind, str(line[kind]), sentence))
        if found is None and kind == "image":
            found = self.by_name.get((kind, os.path.basename(str(line[kind])), sentence))
        found = [phrase for phrase in found or () if line.get("split") in (None, phrase.split)]
        if any(not np.array_equal(phrase.target, found[0].target) for phrase in found):
            raise InputError(
                f"{where}: {kind} {str(line[kind])[:80]!r} with {sentence[:80]!r} names {len(found)} phrases of different "
                f"objects; {_HOW}"
            )
        return found

    def _at(self, line: Mapping[str, Any], where: str) -> list[_Phrase]:
        split, index = line.get("split"), line["index"]
        if split is None:
            fitting = [s for s, fingerprint in self.fingerprints.items() if fingerprint == line.get("fingerprint")]
            split = fitting[0] if fitting else next(iter(self.fingerprints)) if len(self.fingerprints) == 1 else None
        if split is None or type(index) is not int:
            raise InputError(
                f"{where}: index {str(index)[:40]} of which split? expected a whole number, with split or fingerprint"
            )
        same = line.get("fingerprint") is not None
        if same and line["fingerprint"] != self.fingerprints[split]:
            raise InputError(
                f"{where} was made for data with the fingerprint {str(line['fingerprint'])[:40]!r}; that of {split} is "
                f"{self.fingerprints[split]!r}: its index means another phrase there"
            )
        phrase = self.by_index.get((split, index))
        if phrase is None:
            raise InputError(f"{where}: index {index} is not among those of {split}")
        told = [key for key in ("sentence", "ref_id") if line.get(key) is not None]
        if not same and "sentence" not in told:
            raise InputError(
                f"{where} has an index alone, which means another phrase in another copy of the data; add the sentence, or "
                f"fingerprint {self.fingerprints[split]!r}"
            )
        if wrong := next((key for key in told if str(line[key]) != str(phrase.described.get(key))), None):
            raise InputError(
                f"{where}: {wrong} is {str(line[wrong])[:80]!r}, but index {index} of {split} has "
                f"{str(phrase.described.get(wrong))[:80]!r}: these answers were made for other data"
            )
        return [phrase]


def _score(phrases: Sequence[_Phrase], datasets: Mapping[str, DataSet], convention: Convention, extra: int) -> Answers:
    counts = dict.fromkeys(("answered", "missing", "none", "unparsable", "several", "outside"), 0) | {"extra": extra}
    records: dict[str, list[dict[str, Any]]] = {split: [] for split in datasets}
    written: list[tuple[list[float], int, int]] = []
    for phrase in phrases:
        kind, values, score = _box_of(phrase.answer) if phrase.line is not None else ("missing", None, None)
        box = None
        if values is not None:
            own = _own_convention(phrase.answer, convention)
            if own is convention:
                written.append((values, phrase.width, phrase.height))
            size = np.array([phrase.width, phrase.height], np.float64)
            box = own.to_pixels(np.array([values], np.float64), size[0:1], size[1:2])[0]
            outside = min(box[:2]) < -1 or box[2] > phrase.width + 1 or box[3] > phrase.height + 1
            counts["outside"] += bool(outside)
        counts["answered"] += kind != "missing"
        if kind != "one":
            counts[kind] += 1
        iou = 0.0 if box is None else float(boxes.box_iou(box, phrase.target))
        record = {"index": phrase.index} | {key: phrase.described.get(key) for key in KEYS}
        record |= {"box": None if box is None else box.tolist(), "target": phrase.target.tolist(), "iou": iou}
        record |= {"score": score, "mask": None} | _mask(phrase, datasets[phrase.split])
        records[phrase.split].append(record)
    odd = None
    if written:
        told, widths, heights = (np.array(column, np.float64) for column in zip(*written, strict=True))
        odd = suspicion(convention, told, widths, heights)
    return Answers(records, counts, odd)


def _box_of(answer: Mapping[str, Any]) -> tuple[str, list[float] | None, float | None]:
    """Kind (``one, several, none, unparsable``), the box that counts, and its score."""
    score = answer.get("score")
    score = (
        float(score) if isinstance(score, int | float) and not isinstance(score, bool) and abs(score) < 1e9 else None
    )
    if answer.get("text") is not None:
        found = boxes_in_text(answer["text"]) if isinstance(answer["text"], str) else []
        kind = (
            "one"
            if len(found) == 1
            else "several"
            if found
            else "none"
            if says_none(str(answer["text"]))
            else "unparsable"
        )
        return kind, found[0] if found else None, score
    many = answer.get("boxes")
    if many is None:
        if "box" in answer and answer["box"] is None:
            return "none", None, score
        box = four_numbers(answer.get("box"))
        return ("unparsable" if box is None else "one"), box, score
    if many == []:
        return "none", None, score
    found_boxes = [four_numbers(box) for box in many] if isinstance(many, list) else [None]
    scores = answer.get("scores")
    if None in found_boxes:
        return "unparsable", None, score
    best = 0
    if scores is not None:
        numbers = four_numbers([*scores, 0, 0, 0, 0][:4]) if isinstance(scores, list) else None
        if numbers is None or len(scores) != len(many) or any(four_numbers([s, 0, 0, 0]) is None for s in scores):
            return "unparsable", None, None
        best = int(np.argmax(scores))
        score = float(scores[best])
    return ("several" if len(found_boxes) > 1 else "one"), found_boxes[best], score


def _own_convention(answer: Mapping[str, Any], declared: Convention) -> Convention:
    """A line of our own predictions, or one with the ``size`` of its resized image, says itself how it is written."""
    if "target" in answer and "iou" in answer:
        return declared if declared == Convention() else Convention()
    size = answer.get("size")
    if size is None or not (declared.coordinates == "pixel" or "x" in declared.coordinates):
        return declared
    if not isinstance(size, list) or len(size) != 2 or any(type(v) is not int or not 1 <= v < 100_000 for v in size):
        raise InputError(
            f"an answer's size is {str(size)[:80]}; expected [width, height] in pixels of the image its box is in"
        )
    return Convention(f"{size[0]}x{size[1]}", declared.box_format)


def _mask(phrase: _Phrase, dataset: DataSet) -> dict[str, Any]:
    """``mask`` and its overlap with the true one, where the answer has a mask (COCO RLE at the original size)."""
    rle = phrase.answer.get("mask")
    if rle is None:
        return {}
    try:
        if not isinstance(rle, dict):
            raise ValueError(f"it is {type(rle).__name__}")
        masks.check(rle, phrase.height, phrase.width)
        predicted = masks.decode(rle).astype(bool)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(f"the mask of the answer to {_named(phrase)} is no COCO RLE of its image: {error}") from None
    target = dataset.target_mask(phrase.index)
    if target is None:
        return {"mask": rle}
    from rec.evaluation.masks import overlap

    intersection, union = overlap(predicted, target)
    return {"mask": rle, "mask_intersection": intersection, "mask_union": union}
