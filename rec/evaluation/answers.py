"""Anybody's answers, as lines of JSON, against the truth of a split: what ``rec evaluate --answers`` scores.

A line is one answer: ``box`` (four numbers, or null for "not there"), ``boxes`` with ``scores``, or ``text`` (what a chat
model said), and which phrase it belongs to: ``index`` with the data's ``fingerprint`` (or with the sentence, which has to
agree), ``ref_id`` and ``sentence``, or ``image`` and ``sentence``. It may have a ``mask``; where no line has anything else,
the masks are the answers. The lines of our own ``predictions.jsonl`` are such lines.
"""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rec import boxes
from rec.contracts import Answer, DataSet
from rec.conventions import Convention, boxes_in_text, four_numbers, says_none, suspicion
from rec.data import masks
from rec.data.schema import whole
from rec.data.sources import find_split
from rec.errors import InputError
from rec.evaluation import several
from rec.evaluation.answer_keys import HOW, Found, Keys, Phrase, image_of, named
from rec.evaluation.masks import overlap
from rec.trust import MAX_ANNOTATIONS, MAX_LINE, open_file

KEYS = ("image", "image_id", "ref_id", "sentence_index", "sentence", "source")
_OURS = Convention()
# What a line of our own predictions has; others that name their "target" may write boxes in any way.
_OWN = {"index", *KEYS, "box", "target", "iou", "score", "mask"}
_ASKED = {"split", "index", "fingerprint", "asked"}  # what one of our asking has, see rec.inference.foreign.asking


@dataclass
class Answers:
    """A file of answers, scored on some splits.

    Attributes:
        records: ``{split: lines of predictions.jsonl}``, one per phrase; boxes xyxy in pixels of the original image.
        counts: what was counted on the way, over all splits: ``answered, missing, none, unparsable, several, outside, unmasked,
            extra``.
        suspicion: what is odd about the numbers, if anything; see :func:`rec.conventions.suspicion`.
    """

    records: dict[str, list[dict[str, Any]]]
    counts: dict[str, int]
    suspicion: str | None

    def summary(self) -> str:
        """The counts in a line."""
        names = {
            "answered": "answers matched", "missing": "phrases without one (wrong)", "none": "say that it is not there",
            "unparsable": "unparsable (wrong)", "several": "with several boxes (the surest counts where one is asked for)",
            "outside": "with boxes that leave their image", "unmasked": "without a mask, where others have one (empty)",
            "extra": "lines belong to no phrase of these splits",
        }  # fmt: skip
        return ", ".join(
            f"{self.counts[key]} {text}" for key, text in names.items() if self.counts.get(key) or key == "answered"
        )


def read_answers(
    path: str | os.PathLike[str],
    datasets: Mapping[str, DataSet],
    convention: Convention,
    threshold: float | None = None,
    limit: int | None = None,
    as_answered: bool = False,
) -> Answers:
    """Scores the answers of one file.

    Args:
        path: the file.
        datasets: ``{split: data set of evaluation}``.
        convention: how the boxes are written. The lines of a ``predictions.jsonl`` of this project, which name their
            ``target``, are in pixels, xyxy, whatever is declared.
        threshold: where phrases name none, one or several objects, boxes of at least this score are the answer; those without
            a score always are, and without a threshold all are, but of our asking those of 0.5.
        limit: the first phrases of each split that count; answers to further ones are passed over.
        as_answered: the lines of a ``predictions.jsonl`` are the answers that they were, whatever ``threshold`` is.

    Raises:
        InputError: a line is not JSON object, names no phrase or several that differ, a phrase gets two answers, none of the
            lines belongs to these splits, or a phrase of theirs names none or several objects.
    """
    phrases = [phrase for split, dataset in datasets.items() for phrase in _phrases(split, dataset)]
    keys = Keys(phrases, {split: dataset.fingerprint for split, dataset in datasets.items()})
    extra, told, folders = 0, list[tuple[int, dict[str, Any], Found]](), dict[Any, int]()
    for number, line in _lines(Path(path)):
        if line.get("split") is not None:
            line["split"] = find_split(str(line["split"]), tuple(datasets))
            if line["split"] is None:
                extra += 1
                continue
        line |= {key: whole(line[key]) for key in ("index", "ref_id", "image") if key in line}
        if line.get("mask") == []:  # no outline
            line["mask"] = None
        found = keys.find(line, f"{os.fspath(path)}, line {number}")
        for phrase in found.phrases:
            folders[image_of(phrase)] = max(found.folders, folders.get(image_of(phrase), 0))
        told.append((number, line, found))
    for number, line, found in told:
        # Where another line's path agrees with more of an image's, this one is of another image of that name.
        other = found.is_part and any(found.folders < folders[image_of(phrase)] for phrase in found.phrases)
        answers = [] if other else found.phrases
        extra += not answers
        for phrase in answers:
            if phrase.line is not None:
                raise InputError(
                    f"{os.fspath(path)}, line {number} answers {named(phrase)}, which line {phrase.line} has answered; expected "
                    "one answer for each phrase: remove one of the two"
                )
            phrase.line, phrase.answer = number, line
    if not told and not extra:
        raise InputError(f"{os.fspath(path)} has no answers: it is empty")
    if all(phrase.line is None for phrase in phrases):
        raise InputError(
            f"none of the lines of {os.fspath(path)} belongs to a phrase of {', '.join(datasets)} ({len(phrases)} phrases); "
            f"{HOW}, as `rec evaluate` writes them in predictions.jsonl"
        )
    counting = [phrase for phrase in phrases if limit is None or phrase.index < limit]
    given = [phrase.answer.keys() for phrase in counting if phrase.line is not None]
    if as_answered and all(keys >= _OWN for keys in given):
        threshold = None
    elif threshold is None and all(keys >= _ASKED for keys in given):
        threshold = Answer().threshold
    return _score(os.fspath(path), counting, datasets, convention, extra, threshold)


def _phrases(split: str, dataset: DataSet) -> Iterator[Phrase]:
    for index in range(len(dataset)):
        targets, height, width = dataset.target_boxes(index)
        if len(targets) != 1 and dataset.targets == "one":
            raise InputError(f"index {index} of {split} has {len(targets)} boxes; expected one, or dataset.targets=any")
        yield Phrase(split, index, dataset.describe(index), targets.astype(np.float64), height, width)


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
                    f"{path}, line {number} is not JSON ({str(error)[:100]}); expected one object a line, as UTF-8 text: is "
                    "the file cut off, compressed, or of another kind?"
                ) from None
            if not isinstance(value, dict):
                raise InputError(
                    f"{path}, line {number} is {str(value)[:80]!r}; expected one object a line, with box, boxes or text"
                )
            yield number, value


def _score(
    path: str,
    phrases: Sequence[Phrase],
    datasets: Mapping[str, DataSet],
    convention: Convention,
    extra: int,
    threshold: float | None,
) -> Answers:
    counts = dict.fromkeys(("answered", "missing", "none", "unparsable", "several", "outside"), 0) | {"extra": extra}
    records: dict[str, list[dict[str, Any]]] = {split: [] for split in datasets}
    written: list[tuple[list[float], int, int]] = []
    if not any(phrase.answer.keys() & {"box", "boxes", "text", "mask"} for phrase in phrases):
        one = next(", ".join(phrase.answer) for phrase in phrases if phrase.line is not None)
        raise InputError(f"no answer has box, boxes, text or mask: the first one has {one[:200]}")
    others = [phrase.answer[key] for phrase in phrases for key in ("box", "boxes", "text") if key in phrase.answer]
    # Without others, masks that are all null are those of a model that found nothing anywhere.
    masked = not others or any(phrase.answer.get("mask") is not None for phrase in phrases)
    boxed = not masked or any(other is not None for other in others)
    for phrase in phrases:
        dataset = datasets[phrase.split]
        kind, values, scores = _boxes_of_answer(phrase, boxed, dataset.targets == "one")
        found = np.empty((0, 4))
        if values:
            own = _own_convention(phrase.answer, convention, f"{path}, line {phrase.line}")
            if own is convention or phrase.answer.keys() >= _ASKED:
                written.append((values[0], phrase.width, phrase.height))
            size = np.array([[phrase.width, phrase.height]] * len(values), np.float64)
            found = own.to_pixels(np.array(values, np.float64), size[:, 0], size[:, 1])
            counts["outside"] += bool((found[:, :2] < -1).any() or (found[:, 2:] > size + 1).any())
        mask = _mask(phrase, dataset, kind) if masked else {}
        if not boxed and "mask_union" not in mask:
            raise InputError(
                f"the answers are masks alone, and index {phrase.index} of {phrase.split} has none to compare with"
            )
        if masked and values and phrase.answer.get("mask") is None:
            counts["unmasked"] = counts.get("unmasked", 0) + 1
        counts["answered"] += kind != "missing"
        if kind != "one":
            counts[kind] += 1
        record = {"index": phrase.index} | {key: phrase.described.get(key) for key in KEYS}
        if dataset.targets == "any":
            record |= _any_number(phrase, kind, found.tolist() if boxed else None, scores, mask, threshold)
        else:
            iou = float(boxes.box_iou(found[0], phrase.targets[0])) if len(found) else 0.0
            record |= {"box": found[0].tolist() if len(found) else None, "target": phrase.targets[0].tolist()}
            record |= {"iou": iou if boxed else None, "score": scores[0] if scores else None, "mask": None} | mask
        records[phrase.split].append(record)
    unread = "no answer can be read: a box is a list of four numbers, or <loc_…> or <loc…> in a text"
    if first := next((phrase.answer["warning"] for phrase in phrases if phrase.answer.get("warning")), None):
        unread = f"no answer can be read, the first: {first}"  # of our asking
    odd = unread if counts["unparsable"] == counts["answered"] else None
    if written:
        numbers, widths, heights = (np.array(column, np.float64) for column in zip(*written, strict=True))
        asked = any(phrase.answer.keys() >= _ASKED for phrase in phrases)
        odd = suspicion(_OURS if asked else convention, numbers, widths, heights, asked)
    return Answers(records, counts, odd)


_NO_ANSWER = [-1.0, -1.0, -1.0, -1.0]
_LOST = ("missing", "unparsable")


def _any_number(
    phrase: Phrase,
    kind: str,
    found: list[Any] | None,
    scores: list[float | None] | None,
    mask: dict[str, Any],
    threshold: float | None,
) -> dict[str, Any]:
    """The rest of the record of a phrase that may name none, one or several objects, see :mod:`rec.evaluation.several`.

    Where nothing is there, no answer at all must not pass for the right one: it counts as a box that matches nothing.

    Args:
        found: boxes xyxy in pixels; None where masks are the answers.
    """
    targets = phrase.targets.tolist()
    record: dict[str, Any] = {"target": targets[0] if targets else None, "targets": targets, "mask": None} | mask
    if found is None:
        return record | {"boxes": None, "candidates": None, "box": None, "score": None, "iou": None}
    if kind in _LOST and not targets:
        found, scores = [_NO_ANSWER], None
    lowest = -np.inf if threshold is None else threshold
    surest = [max(1.0, lowest) if score is None else score for score in scores or [None] * len(found)]
    candidates = list(zip(found, surest, strict=True))
    return several.answered(record | {"candidates": candidates}, lowest) | {"threshold": threshold}


def _boxes_of_answer(
    phrase: Phrase, boxed: bool, one_only: bool
) -> tuple[str, list[list[float]], list[float | None] | None]:
    """Kind (``one, several, none``, or one of :data:`_LOST`), the boxes as they are written, best first, and their scores; those
    without one are the last.

    Text beside a box is what it was read from, or a remark; boxes beside it, where one is asked for, are candidates.
    """
    answer = phrase.answer
    if phrase.line is None:
        return "missing", [], None
    if not boxed:
        if answer.get("mask") is not None:
            return "one" if masks.decode(_rle(phrase)).any() else "none", [], None
        return "none" if answer.keys() & {"mask", "box", "boxes"} else "unparsable", [], None
    if answer.get("text") is not None and not (answer.get("box") or answer.get("boxes")):
        text = answer["text"] if isinstance(answer["text"], str) else ""
        found = boxes_in_text(text)
        return _kind(found) if found or says_none(text) else "unparsable", found, None
    many, scores = answer.get("boxes"), answer.get("scores")
    if many is None or (one_only and answer.get("box")):
        many, scores = ([] if answer.get("box", 0) in (None, []) else [answer.get("box")]), [answer.get("score")]
        scores = scores if _number(scores[0]) else None
    listed = [four_numbers(box) for box in many] if isinstance(many, list) else [None]
    if None in listed:
        return "unparsable", [], None
    found = [box for box in listed if box is not None]
    if not found or scores is None or (isinstance(scores, list) and scores == [None] * len(found)):
        return _kind(found), found, None
    known = isinstance(scores, list) and all(score is None or _number(score) for score in scores)
    if not known or len(scores) != len(found):
        return "unparsable", [], None
    told = [None if score is None else float(score) for score in scores]
    order = np.argsort([math.inf if score is None else -score for score in told], kind="stable")
    return _kind(found), [found[number] for number in order], [told[number] for number in order]


def _kind(found: Sequence[object]) -> str:
    return ("none", "one", "several")[min(len(found), 2)]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and four_numbers([value, 0, 0, 0]) is not None


def _own_convention(answer: Mapping[str, Any], declared: Convention, where: str) -> Convention:
    """A line of our own predictions or asking, or one with the ``size`` of its resized image, says itself how it is written."""
    if answer.keys() >= _OWN or answer.keys() >= _ASKED:
        return _OURS
    size = answer.get("size")
    if size is None or not re.fullmatch(r"pixel|\d+x\d+", declared.coordinates):
        return declared
    if not isinstance(size, list) or len(size) != 2 or any(type(v) is not int or not 1 <= v < 100_000 for v in size):
        raise InputError(
            f"{where}: size is {str(size)[:80]}; expected [width, height] in pixels of the image its box is in"
        )
    return Convention(f"{size[0]}x{size[1]}", declared.box_format)


def _mask(phrase: Phrase, dataset: DataSet, kind: str) -> dict[str, Any]:
    """``mask`` (COCO RLE at the original size) and its overlap with the true one, in a file of answers with masks.

    An answer without one says that nothing is there. Where that would be right though the answer is lost, it counts as a mask
    of the whole image.
    """
    if phrase.answer.get("mask") is not None:
        rle = _rle(phrase)
        predicted = masks.decode(rle).astype(bool)
    else:
        predicted = np.full((phrase.height, phrase.width), kind in _LOST and not len(phrase.targets))
        rle = masks.encode(predicted)
    columns: dict[str, Any] = {"mask": rle} | ({"mask_area": int(predicted.sum())} if dataset.targets == "any" else {})
    target = dataset.target_mask(phrase.index)
    if target is None:
        return columns
    intersection, union = overlap(predicted, target)
    return columns | {"mask_intersection": intersection, "mask_union": union}


def _rle(phrase: Phrase) -> dict[str, Any]:
    """The mask of its answer.

    Raises:
        InputError: it is not a mask of the phrase's image.
    """
    try:
        return masks.from_coco(phrase.answer["mask"], phrase.height, phrase.width)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError(
            f"line {phrase.line}: the mask of the answer to {named(phrase)} is not COCO RLE of its image: {error}"
        ) from None
