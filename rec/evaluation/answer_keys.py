"""Which phrase of a split an answer is of: by index, by ref id and sentence, or by image and sentence."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rec.errors import InputError
from rec.files import endings

HOW = "name the phrase by index and fingerprint, by ref_id and sentence, or by image and sentence"


@dataclass
class Phrase:
    """One (object, sentence) of a split, and the answer it got."""

    split: str
    index: int
    described: Mapping[str, Any]
    targets: np.ndarray  # float64 (N, 4) xyxy in pixels
    height: int
    width: int
    line: int | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)


class Found(NamedTuple):
    """The phrases that a line answers.

    Attributes:
        folders: of the path that names their image, how many are known.
        is_part: the path has others besides.
    """

    phrases: list[Phrase]
    folders: int = 0
    is_part: bool = False


def _truth(phrase: Phrase) -> tuple[object, ...]:
    """What phrases have to share to share an answer: nothing in one image is not nothing in another one."""
    return phrase.described.get("image"), phrase.described.get("image_id"), phrase.targets.tolist()


def image_of(phrase: Phrase) -> tuple[object, ...]:
    return phrase.split, phrase.described.get("image"), phrase.described.get("image_id")


def named(phrase: Phrase) -> str:
    return (
        f"{str(phrase.described.get('sentence'))[:80]!r} of ref_id {phrase.described.get('ref_id')} in {phrase.split}"
    )


def _text(value: object) -> str:
    """As text, whichever way its accents are stored: macOS and Windows write names of files in different ones."""
    return unicodedata.normalize("NFC", str(value))


class Keys:
    """Finds the phrases that a line may mean."""

    def __init__(self, phrases: Sequence[Phrase], fingerprints: Mapping[str, str]) -> None:
        self.fingerprints = fingerprints
        self.by_index = {(phrase.split, phrase.index): phrase for phrase in phrases}
        self.by_name: dict[tuple[str, str, str], list[Phrase]] = {}
        for phrase in phrases:
            described = phrase.described
            image = _text(described.get("image"))
            known = {("ref_id", _text(described.get("ref_id"))), ("image", _text(described.get("image_id")))}
            known |= {("image", name) for name in (image, *endings(image))}
            for kind, name in known:
                self.by_name.setdefault((kind, name, _text(described.get("sentence"))), []).append(phrase)
        self.names = {key[:2] for key in self.by_name}

    def find(self, line: Mapping[str, Any], where: str) -> Found:
        """The phrases that the line answers: several only where they share their truth; none where it is of other data.

        Raises:
            InputError: it names none, or several that differ.
        """
        if line.get("index") is not None:
            return Found(self._at(line, where))
        sentence = line.get("sentence")
        kind = next((kind for kind in ("ref_id", "image") if line.get(kind) is not None), None)
        if kind is None or not isinstance(sentence, str):
            raise InputError(f"{where} does not say which phrase it answers: {HOW}")
        name = whole = _text(line[kind])
        if kind == "image":  # the most of a path that is known: images in other folders may have the same name
            name = next((one for one in (name, *endings(name)) if (kind, one) in self.names), name)
        same = self.by_name.get((kind, name, _text(sentence)), ())
        found = [one for one in same if line.get("split") in (None, one.split)]
        if any(_truth(phrase) != _truth(found[0]) for phrase in found):
            raise InputError(
                f"{where}: {kind} {str(line[kind])[:80]!r} with {sentence[:80]!r} names {len(found)} phrases of different "
                f"objects or images; {HOW}"
            )
        return Found(found, name.count("/") if kind == "image" else 0, kind == "image" and name != whole)

    def _split(self, line: Mapping[str, Any]) -> str | None:
        """The split of a line with an index; None where it may be any."""
        if line.get("split") is not None or len(self.fingerprints) == 1:
            return line.get("split") or next(iter(self.fingerprints))
        fitting = [s for s, fingerprint in self.fingerprints.items() if fingerprint == line.get("fingerprint")]
        if not fitting and line.get("ref_id") is not None:  # a predictions.jsonl of one split names none
            told = {key: _text(line.get(key)) for key in ("ref_id", "sentence")}
            asked = {split: self.by_index.get((split, line["index"])) for split in self.fingerprints}
            fitting = [
                split
                for split, phrase in asked.items()
                if phrase and all(_text(phrase.described.get(key)) == value for key, value in told.items())
            ]
        return fitting[0] if fitting else None

    def _at(self, line: Mapping[str, Any], where: str) -> list[Phrase]:
        split, index = self._split(line), line["index"]
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
        if wrong := next((key for key in told if _text(line[key]) != _text(phrase.described.get(key))), None):
            raise InputError(
                f"{where}: {wrong} is {str(line[wrong])[:80]!r}, but index {index} of {split} has "
                f"{str(phrase.described.get(wrong))[:80]!r}: these answers were made for other data"
            )
        return [phrase]
