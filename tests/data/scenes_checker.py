"""What a phrase about a shape scene means, found from its words and the object list alone.

This is the second opinion on the phrase generator: a small recursive parser with its own word lists and its own, plain
reading of places and relations. It imports nothing from the generator, so a slip there shows up as a disagreement here.

Plain reading: the position of an object is the centre of its box; "left of" is a smaller x, "on the left" the left
half, "in the top left" that quarter, "in the middle" within a fifth of the image from its centre, "leftmost" and
"second from the left" an ordering by x, "closest to" the least distance between centres. "The" before a landmark
promises that there is only one: a phrase whose landmark fits several objects, or none, fits nothing. So does a phrase that
says a number ("both", "three") where there are not so many.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_WORDS_OF_FIELD = {
    "shape": "circle square triangle star ring cross diamond heart",
    "colour": "red orange yellow green blue purple white black",
    "size": "small big",
    "texture": "plain striped dotted checkered",
}
_FIELD_OF_WORD: dict[str, tuple[str, str]] = {
    **{word: (field, word) for field, words in _WORDS_OF_FIELD.items() for word in words.split()},
    "disc": ("shape", "circle"),
    "plus": ("shape", "cross"),
    "violet": ("colour", "purple"),
    "little": ("size", "small"),
    "large": ("size", "big"),
    "solid": ("texture", "plain"),
    "spotted": ("texture", "dotted"),
}
_ANYTHING = {"shape", "object", "thing"}
_NUMBERS = {"both": 2, "two": 2, "three": 3, "four": 4}
_SINGULAR = {"crosses": "cross", "pluses": "plus"}
_NOUNS = {word for word, (field, _) in _FIELD_OF_WORD.items() if field == "shape"}
# Coordinate (0 = x, 1 = y) and whether the extreme one has the largest value.
_EXTREMES = {
    "leftmost": (0, False),
    "rightmost": (0, True),
    "topmost": (1, False),
    "highest": (1, False),
    "bottommost": (1, True),
    "lowest": (1, True),
}
_SIDES = {
    "left": (0, False),
    "right": (0, True),
    "top": (1, False),
    "upper": (1, False),
    "bottom": (1, True),
    "lower": (1, True),
}
_RANKS = {"second": 1, "third": 2, "fourth": 3}
_COMPARISONS = {"left": (0, False), "right": (0, True), "above": (1, False), "below": (1, True), "under": (1, True)}


class PhraseError(ValueError):
    """A phrase that is not in the language of shape scenes."""


def resolve(phrase: str, objects: Sequence[Any], image_size: tuple[float, float] = (128, 128)) -> list[int]:
    """Indices of the objects that a phrase fits, in ascending order.

    Args:
        phrase: such as ``the star above the square that is left of the big circle``.
        objects: mappings, or objects with attributes, with ``shape``, ``colour``, ``size``, ``texture`` and ``box``
            (xywh, pixels).
        image_size: width and height in pixels.

    Raises:
        PhraseError: a word, or an order of words, that the language does not have.
    """
    return _Reader(phrase, objects, image_size).read()


class _Reader:
    def __init__(self, phrase: str, objects: Sequence[Any], image_size: tuple[float, float]) -> None:
        self.phrase = phrase
        self.words = phrase.split()
        self.next = 0
        self.records = [item if isinstance(item, Mapping) else _as_mapping(item) for item in objects]
        self.points = []
        for record in self.records:
            x, y, w, h = (float(value) for value in record["box"])
            self.points.append(((x + 0.5 * w) / image_size[0], (y + 0.5 * h) / image_size[1]))

    def read(self) -> list[int]:
        fitting = self.whole_phrase()
        if self.next < len(self.words):
            raise self.error("the end of the phrase")
        return sorted(fitting)

    # -- words ---------------------------------------------------------------------------------------------------

    def error(self, expected: str) -> PhraseError:
        found = repr(self.words[self.next]) if self.next < len(self.words) else "the end"
        return PhraseError(f"cannot read {self.phrase!r}: expected {expected} at word {self.next + 1}, found {found}")

    def peek(self) -> str:
        return self.words[self.next] if self.next < len(self.words) else ""

    def accept(self, *sequence: str) -> bool:
        """Moves past these words if they come next."""
        if tuple(self.words[self.next : self.next + len(sequence)]) != sequence:
            return False
        self.next += len(sequence)
        return True

    def take(self, table: Iterable[str], expected: str) -> str:
        word = self.peek()
        if word not in table:
            raise self.error(expected)
        self.next += 1
        return word

    # -- grammar -------------------------------------------------------------------------------------------------

    def whole_phrase(self) -> set[int]:
        """``every star``, ``all stars``, ``the two stars``, ``both stars``, or a noun phrase of one or many."""
        if self.accept("every"):
            return self.noun_phrase(many=False)
        if self.accept("all"):
            return self.noun_phrase(many=True)
        self.accept("the")
        if self.peek() in _NUMBERS:
            number = _NUMBERS[self.take(_NUMBERS, "")]
            fitting = self.noun_phrase(many=True)
            return fitting if len(fitting) == number else set()
        return self.noun_phrase(many=None)

    def noun_phrase(self, many: bool | None = False) -> set[int]:
        """A noun with what comes before and after it; ``many`` says whether it must be in the plural, None leaves it open."""
        self.accept("the")
        extreme = self.take(_EXTREMES, "") if self.peek() in _EXTREMES else None
        rank = self.take(_RANKS, "") if self.peek() in _RANKS else None
        fitting = set(range(len(self.records)))
        while True:
            word = self.peek()
            noun = _SINGULAR.get(word, word.removesuffix("s"))
            plural = noun != word and (noun in _ANYTHING or noun in _NOUNS)
            if (plural and many is False) or (many and (word in _ANYTHING or word in _NOUNS)):
                raise self.error("a noun of one" if plural else "a noun of many")
            word = noun if plural else word
            if word not in _FIELD_OF_WORD.keys() | _ANYTHING:
                raise self.error("an attribute or a noun")
            self.next += 1
            if word not in _ANYTHING:
                fitting &= self.having(word)
            if word in _ANYTHING or word in _NOUNS:
                break
        if rank is not None:
            if not self.accept("from", "the"):
                raise self.error("'from the'")
            line = self.in_line(fitting, *_SIDES[self.take(_SIDES, "a side")])
            fitting = {line[_RANKS[rank]]} if len(line) > _RANKS[rank] else set()
        if extreme is not None:
            fitting = set(self.in_line(fitting, *_EXTREMES[extreme])[:1])
        return self.modified(fitting)

    def modified(self, fitting: set[int]) -> set[int]:
        """Applies whatever follows the noun."""
        if self.accept("furthest", "to", "the"):
            return set(self.in_line(fitting, *_SIDES[self.take(_SIDES, "a side")])[:1])
        if self.accept("on", "the") or self.accept("at", "the"):
            side = _SIDES[self.take(_SIDES, "a side")]
            self.accept("side")
            return {k for k in fitting if self.in_half(k, *side)}
        if self.accept("in", "the"):
            if self.peek() in ("middle", "center"):
                self.next += 1
                return {k for k in fitting if all(abs(value - 0.5) < 0.2 for value in self.points[k])}
            vertical = _SIDES[self.take(("top", "upper", "bottom", "lower"), "a corner or 'middle'")]
            horizontal = _SIDES[self.take(("left", "right"), "'left' or 'right'")]
            self.accept("corner")
            return {k for k in fitting if self.in_half(k, *vertical) and self.in_half(k, *horizontal)}
        if self.accept("that", "is", "not"):
            return fitting - self.denied()
        if self.accept("that", "is", "neither"):
            first = self.denied()
            if not self.accept("nor"):
                raise self.error("'nor'")
            return fitting - first - self.denied()
        linked = self.accept("that", "is")
        if self.accept("closest", "to") or self.accept("nearest", "to"):
            landmark = self.landmark()
            rivals = sorted(fitting - {landmark}, key=lambda k: self.squared_distance(k, landmark))
            return set(rivals[:1]) if landmark is not None else set()
        prefixed = self.accept("to", "the")
        if self.peek() in _COMPARISONS:
            word = self.take(_COMPARISONS, "")
            if word in ("left", "right") and not self.accept("of"):
                raise self.error("'of'")
            axis, larger = _COMPARISONS[word]
            landmark = self.landmark()
            if landmark is None:
                return set()
            border = self.points[landmark][axis]
            return {k for k in fitting if (self.points[k][axis] > border if larger else self.points[k][axis] < border)}
        if linked or prefixed:
            raise self.error("a relation")
        return fitting

    def landmark(self) -> int | None:
        """The one object that the noun phrase ahead fits; None if it fits several or none."""
        if self.peek() != "the":
            raise self.error("'the' and a landmark")
        found = self.noun_phrase()
        return found.pop() if len(found) == 1 else None

    def denied(self) -> set[int]:
        self.accept("a")
        return self.having(self.take(_FIELD_OF_WORD, "an attribute"))

    # -- meaning -------------------------------------------------------------------------------------------------

    def having(self, word: str) -> set[int]:
        field, value = _FIELD_OF_WORD[word]
        return {k for k, record in enumerate(self.records) if record[field] == value}

    def in_line(self, among: set[int], axis: int, from_largest: bool) -> list[int]:
        return sorted(among, key=lambda k: self.points[k][axis], reverse=from_largest)

    def in_half(self, k: int, axis: int, upper: bool) -> bool:
        return self.points[k][axis] > 0.5 if upper else self.points[k][axis] < 0.5

    def squared_distance(self, a: int, b: int | None) -> float:
        if b is None:
            return 0.0
        return (self.points[a][0] - self.points[b][0]) ** 2 + (self.points[a][1] - self.points[b][1]) ** 2


def _as_mapping(item: Any) -> dict[str, Any]:
    return {field: getattr(item, field) for field in ("shape", "colour", "size", "texture", "box")}
