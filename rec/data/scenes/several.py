"""English phrases that fit none of a scene's objects, or several, for certain.

As in :mod:`rec.data.scenes.phrases` every object clearly fits or clearly does not, with a margin between. A phrase that fits
nothing names what is nearly there: every shorter choice of its attributes fits something, or its words fit something
elsewhere. Wordings of many (``all red circles``, ``the two red circles``) are used for none as well, so that the words alone do
not tell how many there are; a number is only said where it is the true one, or of what is not there.
"""

import random
from collections.abc import Callable
from itertools import product

from rec.data.scenes.layout import eligible_targets, pick, shuffled
from rec.data.scenes.phrases import (
    DIRECTIONS,
    HALVES,
    ORDER,
    ZONES,
    SceneView,
    by_attributes,
    make_phrase,
    maybe_the,
    say,
    say_zone,
)

COUNTS = ("none", "one", "several")
_NUMBERS = {2: "two", 3: "three", 4: "four"}

Description = tuple[str, ...]
Found = tuple[tuple[int, ...], str]  # object numbers, and the phrase that fits them


def _many(rng: random.Random, description: Description, count: int) -> str:
    """``all red circles``, ``every red circle``, ``the two red circles``: a noun phrase for ``count`` objects."""
    wordings = ["all {}", "the {}", "{}", "every"]
    if count in _NUMBERS:
        wordings += [f"the {_NUMBERS[count]} {{}}", "both {}" if count == 2 else f"{_NUMBERS[count]} {{}}"]
    wording = pick(rng, wordings)
    return f"every {say(rng, description)}" if wording == "every" else wording.format(say(rng, description, many=True))


def _none(rng: random.Random, description: Description) -> str:
    """A noun phrase for what is not there: of one object, or of many."""
    return (
        maybe_the(rng) + say(rng, description) if rng.random() < 0.5 else _many(rng, description, pick(rng, (2, 2, 3)))
    )


def _said(rng: random.Random, description: Description, chosen: int) -> str:
    return _many(rng, description, chosen.bit_count()) if chosen else _none(rng, description)


def _descriptions(view: SceneView, rng: random.Random) -> list[tuple[Description, int]]:
    """Every choice of any object's attributes with the set it fits, at random, or the short ones first."""
    pairs = dict.fromkeys(pair for k in range(len(view.objects)) for pair in view.descriptions(k))
    order = shuffled(rng, list(pairs))
    return sorted(order, key=lambda pair: len(pair[0])) if rng.random() < 0.5 else order


def _missing(view: SceneView, rng: random.Random) -> Description | None:
    """Attributes that no object has together, while any one of them left out, the others fit something."""
    present = [[None, *sorted({getattr(item, field) for item in view.objects})] for field in ORDER]
    found = []
    for choice in product(*present):
        words = tuple(value for value in choice if value is not None)
        if len(words) < 2 or view.fitting(words):
            continue
        if all(view.fitting(words[:i] + words[i + 1 :]) for i in range(len(words))):
            found.append(words)
    return pick(rng, found) if found else None


def by_common_attributes(view: SceneView, rng: random.Random, many: bool) -> Found | None:
    """``the two red circles``, ``every striped shape``; of none ``the green triangle``."""
    if not many:
        missing = _missing(view, rng)
        return None if missing is None else ((), _none(rng, missing))
    for description, mask in _descriptions(view, rng):
        if description and mask.bit_count() > 1:
            return tuple(view.members(mask)), _many(rng, description, mask.bit_count())
    return None


def by_common_zone(view: SceneView, rng: random.Random, many: bool) -> Found | None:
    """``all stars on the left``; of none, there are stars elsewhere, and something else on the left."""
    everywhere = range(len(view.objects))
    for description, mask in _descriptions(view, rng):
        for zone in shuffled(rng, ZONES):
            chosen = sum(1 << k for k in view.members(mask) if view.inside(zone, k))
            clear = all(view.outside(zone, k) for k in view.members(mask & ~chosen))
            wanted = chosen.bit_count() > 1 and chosen != mask if many else not chosen and description
            if clear and wanted and (many or any(view.inside(zone, k) for k in everywhere)):
                return tuple(view.members(chosen)), f"{_said(rng, description, chosen)} {say_zone(rng, zone)}"
    return None


def by_common_direction(view: SceneView, rng: random.Random, many: bool) -> Found | None:
    """``all stars left of the square``, each as clearly as one is; of none, all stars are on the other side."""
    descriptions = _descriptions(view, rng)
    pairs = [(direction, k) for direction in HALVES for k in range(len(view.objects))]
    for direction, landmark in shuffled(rng, pairs):
        place = {k: view.toward(direction, k, landmark) for k in range(len(view.objects)) if k != landmark}
        ahead = sum(1 << k for k, (forward, aside) in place.items() if forward >= 0.12 and aside <= forward)
        behind = sum(1 << k for k, (forward, _) in place.items() if forward <= -0.03)
        for description, mask in descriptions:
            others = mask & ~(1 << landmark)
            chosen = others & ahead
            wanted = chosen.bit_count() > 1 and chosen != mask if many else not chosen and others and description
            if not wanted or others & ~ahead & ~behind:
                continue
            described = by_attributes(view, rng, landmark)
            if described is None:
                break  # this landmark cannot be described, whatever the words for the others
            relation = f"{pick(rng, DIRECTIONS[direction])} the {described.removeprefix('the ')}"
            return tuple(view.members(chosen)), f"{_said(rng, description, chosen)} {relation}"
    return None


_MAKERS: dict[str, Callable[[SceneView, random.Random, bool], Found | None]] = {
    "attribute": by_common_attributes,
    "place": by_common_zone,
    "relation": by_common_direction,
}


def make_any_phrase(view: SceneView, rng: random.Random, level: str, kind: str, count: str) -> Found | None:
    """A random phrase of a kind for none, one or several of the objects; None where none is certain.

    Args:
        view, rng, level, kind: as of :func:`~rec.data.scenes.phrases.make_phrase`.
        count: ``none``, ``one`` or ``several``.
    """
    if count == "one":
        found = make_phrase(view, rng, level, kind, eligible_targets(view.objects))
        return None if found is None else ((found[0],), found[1])
    return _MAKERS[kind](view, rng, count == "several")
