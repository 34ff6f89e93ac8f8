"""English phrases that single out one object of a scene, for certain.

Sets of objects are bit masks (bit ``k`` = object ``k``). A phrase is accepted only where its target fits *clearly* and
every other object clearly does not: between "clearly left of" and "clearly not left of" lies a margin, and a scene with
an object in the margin gets another phrase. Positions are centres of the visible boxes, as fractions of the image.

A phrase by place or relation always describes its target by words that fit at least one other object too, so that the
place or the relation is needed.
"""

import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from rec.data.scenes.layout import SHAPES, SceneObject, pick, shuffled

KINDS = ("attribute", "place", "relation")
FORMS = ("negation", "ordinal", "two steps")
MAX_WORDS = {"easy": 15, "hard": 20}

_WORDS = {
    "circle": ("circle", "circle", "disc"),
    "cross": ("cross", "cross", "plus"),
    "purple": ("purple", "purple", "violet"),
    "small": ("small", "small", "little"),
    "big": ("big", "big", "large"),
    "plain": ("plain", "plain", "solid"),
    "dotted": ("dotted", "dotted", "spotted"),
}
_NOUNS = ("shape", "object", "thing")
_PLURALS = {"cross": "crosses", "plus": "pluses"}
ORDER = ("size", "texture", "colour", "shape")

_ENDS = {  # axis, sign of the coordinate that is least for the object at this end, wordings
    "left": (0, 1, ("the leftmost {}", "leftmost {}", "the {} furthest to the left")),
    "right": (0, -1, ("the rightmost {}", "rightmost {}", "the {} furthest to the right")),
    "top": (1, 1, ("the topmost {}", "topmost {}", "the highest {}")),
    "bottom": (1, -1, ("the bottommost {}", "bottommost {}", "the lowest {}")),
}
HALVES = ("left", "right", "top", "bottom")
ZONES = (
    *(("top", "left"), ("top", "right"), ("bottom", "left"), ("bottom", "right")),
    *((half,) for half in HALVES),
    ("middle",),
)
_UPRIGHT = {"top": ("top", "upper"), "bottom": ("bottom", "lower")}
DIRECTIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "top": ("above",),
    "bottom": ("below", "under"),
}
_ORDINALS = ("second", "third", "fourth")

_RELATION = re.compile(r"\b((left|right) of|above|below|under|(closest|nearest) to)\b")
_FORM_PATTERNS = (
    re.compile(r"\b(not|neither)\b"),
    re.compile(rf"\b({'|'.join(_ORDINALS)}) .* from the\b"),
    re.compile(rf"{_RELATION.pattern}.*{_RELATION.pattern}"),
)
_PLACE = re.compile(
    r"\b(left|right|top|bottom|upper|lower|middle|center|leftmost|rightmost|topmost|bottommost|highest|lowest)\b"
)


def phrase_kind(sentence: str) -> str:
    """Which third a phrase belongs to, from its words alone: ``attribute``, ``place`` or ``relation``."""
    if _RELATION.search(sentence):
        return "relation"
    return "place" if _PLACE.search(sentence) else "attribute"


def phrase_form(sentence: str) -> str | None:
    """Which of the hard level's :data:`FORMS` a phrase has, from its words alone; None for others."""
    return next((form for form, said in zip(FORMS, _FORM_PATTERNS, strict=True) if said.search(sentence)), None)


class SceneView:
    """The objects of one scene, prepared for asking which of them a description fits."""

    def __init__(self, objects: Sequence[SceneObject], image_size: int) -> None:
        self.objects = objects
        self.everything = (1 << len(objects)) - 1
        self.fits: dict[str, int] = {}
        for k, item in enumerate(objects):
            for value in (item.shape, item.colour, item.size, item.texture):
                self.fits[value] = self.fits.get(value, 0) | 1 << k
        self._described: dict[int, list[tuple[tuple[str, ...], int]]] = {}
        boxes = [item.box for item in objects]
        self.centres = [((x + w / 2) / image_size, (y + h / 2) / image_size) for x, y, w, h in boxes]
        self.edges = [(x, y, -(x + w), -(y + h)) for x, y, w, h in boxes]  # the least one is furthest out

    def members(self, mask: int) -> list[int]:
        """Object numbers in a set."""
        return [k for k in range(len(self.objects)) if mask >> k & 1]

    def fitting(self, description: tuple[str, ...]) -> int:
        """The set of objects that have all of these attributes."""
        mask = self.everything
        for value in description:
            mask &= self.fits[value]
        return mask

    def descriptions(self, k: int) -> list[tuple[tuple[str, ...], int]]:
        """All 16 choices among the attributes of object ``k``, each with the set of objects it fits."""
        if k not in self._described:
            pairs: list[tuple[tuple[str, ...], int]] = [((), self.everything)]
            for field in ORDER:
                value = getattr(self.objects[k], field)
                pairs += [((*words, value), mask & self.fits[value]) for words, mask in pairs]
            self._described[k] = pairs
        return self._described[k]

    def toward(self, direction: str, k: int, landmark: int) -> tuple[float, float]:
        """How far object ``k`` lies in ``direction`` from ``landmark``, and how far aside."""
        dx = self.centres[k][0] - self.centres[landmark][0]
        dy = self.centres[k][1] - self.centres[landmark][1]
        ahead, aside = (dx, dy) if direction in ("left", "right") else (dy, dx)
        return (-ahead if direction in ("left", "top") else ahead), abs(aside)

    def depth(self, direction: str, k: int) -> float:
        """Distance of the centre from the image's edge on that side."""
        value = self.centres[k][0 if direction in ("left", "right") else 1]
        return value if direction in ("left", "top") else 1 - value

    def inside(self, zone: tuple[str, ...], k: int) -> bool:
        """Whether object ``k`` clearly lies in a corner, a half or the middle of the image."""
        if zone == ("middle",):
            return self._off_centre(k) < 0.14
        return all(self.depth(direction, k) < 0.4 for direction in zone)

    def outside(self, zone: tuple[str, ...], k: int) -> bool:
        """Whether object ``k`` clearly does not lie there."""
        if zone == ("middle",):
            return self._off_centre(k) > 0.27
        return not all(self.depth(direction, k) < 0.56 for direction in zone)

    def _off_centre(self, k: int) -> float:
        return max(abs(value - 0.5) for value in self.centres[k])

    def distance(self, a: int, b: int) -> float:
        """Between two centres."""
        return ((self.centres[a][0] - self.centres[b][0]) ** 2 + (self.centres[a][1] - self.centres[b][1]) ** 2) ** 0.5


def _descriptions(view: SceneView, rng: random.Random, target: int) -> list[tuple[tuple[str, ...], int]]:
    """Every choice of the target's attributes with the set it fits, at random, or the short ones first."""
    order = shuffled(rng, view.descriptions(target))
    return sorted(order, key=lambda pair: len(pair[0])) if rng.random() < 0.5 else order


def say(rng: random.Random, description: tuple[str, ...], many: bool = False) -> str:
    """A description as a noun phrase without article, of one or of many; a general noun where the shape is not told."""
    words = [pick(rng, _WORDS.get(value, (value,))) for value in description]
    if not description or description[-1] not in SHAPES:
        words.append(pick(rng, _NOUNS))
    return " ".join([*words[:-1], _PLURALS.get(words[-1], f"{words[-1]}s")] if many else words)


def say_zone(rng: random.Random, zone: tuple[str, ...]) -> str:
    """``in the top left corner``, ``on the right``, ``in the middle``."""
    if zone == ("middle",):
        return pick(rng, ("in the middle", "in the center"))
    if len(zone) == 2:
        return f"in the {pick(rng, _UPRIGHT[zone[0]])} {zone[1]}{pick(rng, ('', '', ' corner'))}"
    return f"on the {zone[0]}{pick(rng, ('', ' side'))}" if zone[0] in ("left", "right") else f"at the {zone[0]}"


def maybe_the(rng: random.Random) -> str:
    return "the " if rng.random() < 0.7 else ""


def _shared(view: SceneView, rng: random.Random, target: int) -> list[tuple[tuple[str, ...], int]]:
    """Descriptions of the target that fit other objects too, with the sets they fit."""
    return [pair for pair in _descriptions(view, rng, target) if pair[1] != 1 << target]


def by_attributes(view: SceneView, rng: random.Random, target: int) -> str | None:
    """``the small striped triangle``."""
    for description, mask in _descriptions(view, rng, target):
        if mask == 1 << target:
            return maybe_the(rng) + say(rng, description)
    return None


def by_negation(view: SceneView, rng: random.Random, target: int) -> str | None:
    """``the circle that is not red``, ``the small shape that is neither a star nor a ring``."""
    item = view.objects[target]
    for description, mask in _shared(view, rng, target):
        others = [view.objects[k] for k in view.members(mask & ~(1 << target))]
        for field in shuffled(rng, ORDER):
            values = sorted({getattr(other, field) for other in others})
            if getattr(item, field) in values or len(values) > 2:
                continue
            article = "a " if field == "shape" else ""
            said = [article + pick(rng, _WORDS.get(value, (value,))) for value in shuffled(rng, values)]
            not_these = f"not {said[0]}" if len(said) == 1 else f"neither {said[0]} nor {said[1]}"
            return f"{maybe_the(rng)}{say(rng, description)} that is {not_these}"
    return None


def by_end(view: SceneView, rng: random.Random, target: int) -> str | None:
    """``leftmost circle``: centre at least 6 % of the image further out than any other, and the edge too."""
    for description, mask in _shared(view, rng, target):
        others = view.members(mask & ~(1 << target))
        for direction in shuffled(rng, HALVES):
            axis, sign, wordings = _ENDS[direction]
            edge = axis if sign > 0 else axis + 2
            if all(
                view.depth(direction, target) + 0.06 <= view.depth(direction, k)
                and view.edges[target][edge] < view.edges[k][edge]
                for k in others
            ):
                return pick(rng, wordings).format(say(rng, description))
    return None


def by_zone(view: SceneView, rng: random.Random, target: int) -> str | None:
    """``square in the top right``, ``red ring on the left``, ``the star in the middle``."""
    zones = [zone for zone in ZONES if view.inside(zone, target)]
    for description, mask in _shared(view, rng, target):
        others = view.members(mask & ~(1 << target))
        for zone in shuffled(rng, zones):
            where = say_zone(rng, zone)
            if all(view.outside(zone, k) for k in others):
                return f"{maybe_the(rng)}{say(rng, description)} {where}"
    return None


def by_order(view: SceneView, rng: random.Random, target: int) -> str | None:
    """``second circle from the left``: its neighbours in the row at least 5 % of the image away along it."""
    for description, mask in _shared(view, rng, target):
        for direction in shuffled(rng, HALVES):
            row = sorted((view.depth(direction, k), k) for k in view.members(mask))
            place = [k for _, k in row].index(target)
            gaps = [after - before for (before, _), (after, _) in pairwise(row[: place + 2])]
            if 1 <= place <= len(_ORDINALS) and min(gaps) >= 0.05:
                noun = say(rng, description)
                return f"{maybe_the(rng)}{_ORDINALS[place - 1]} {noun} from the {direction}"
    return None


def by_direction(view: SceneView, rng: random.Random, target: int, joint: str = "", steps: int = 1) -> str | None:
    """``the red circle left of the big blue square``; with two steps the landmark has a landmark itself.

    The target lies at least 12 % of the image in that direction and not further aside; no other object that fits the
    words lies on that side of the landmark at all (3 % tolerance).
    """
    shared = _shared(view, rng, target)
    pairs = [(direction, k) for direction in HALVES for k in range(len(view.objects)) if k != target]
    for direction, landmark in shuffled(rng, pairs):
        ahead, aside = view.toward(direction, target, landmark)
        if ahead < 0.12 or aside > ahead:
            continue
        for description, mask in shared:
            others = view.members(mask & ~(1 << target | 1 << landmark))
            if any(view.toward(direction, k, landmark)[0] > -0.03 for k in others):
                continue
            if steps == 1:
                said = by_attributes(view, rng, landmark)
            else:
                said = by_direction(view, rng, landmark, joint="that is ", steps=steps - 1)
            if said is None:
                break  # this landmark cannot be described, whatever the words for the target
            noun = say(rng, description)
            return f"{maybe_the(rng)}{noun} {joint}{pick(rng, DIRECTIONS[direction])} the {said.removeprefix('the ')}"
    return None


def by_two_directions(view: SceneView, rng: random.Random, target: int) -> str | None:
    """``the star above the square that is left of the big circle``."""
    return by_direction(view, rng, target, steps=2)


def by_distance(view: SceneView, rng: random.Random, target: int) -> str | None:
    """``the ring closest to the white star``: any other is at least 1.3 times and 8 % of the image further away."""
    for description, mask in _shared(view, rng, target):
        for landmark in shuffled(rng, view.members(view.everything & ~(1 << target))):
            own = view.distance(target, landmark)
            others = view.members(mask & ~(1 << target | 1 << landmark))
            if not others or any(view.distance(k, landmark) < max(1.3 * own, own + 0.08) for k in others):
                continue
            said = by_attributes(view, rng, landmark)
            if said is not None:
                noun = say(rng, description)
                return f"{maybe_the(rng)}{noun} {pick(rng, ('closest', 'nearest'))} to the {said.removeprefix('the ')}"
    return None


Maker = Callable[[SceneView, random.Random, int], str | None]
_MAKERS: dict[str, dict[str, tuple[Maker, ...]]] = {
    "easy": {"attribute": (by_attributes,), "place": (by_end, by_zone), "relation": (by_direction,)},
    "hard": {
        "attribute": (by_negation, by_negation, by_attributes),
        "place": (by_order, by_order, by_end, by_zone),
        "relation": (by_two_directions, by_two_directions, by_direction, by_distance),
    },
}


def make_phrase(
    view: SceneView, rng: random.Random, level: str, kind: str, targets: Sequence[int]
) -> tuple[int, str] | None:
    """A random phrase of a kind for one of ``targets``: (target, sentence), or None where none is certain."""
    makers = _MAKERS[level][kind]
    for target in shuffled(rng, targets):
        sentence = pick(rng, makers)(view, rng, target)
        if sentence is not None and sentence.count(" ") < MAX_WORDS[level]:
            return target, sentence
    return None
