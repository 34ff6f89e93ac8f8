"""The answers to phrases about one picture in HTML: what the web page shows."""

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from rec import boxes
from rec.evaluation import overlay
from rec.evaluation.pictures import colour, data_address, shrunk
from rec.inference.grounding import Box, Grounding, Picture, draw

SIDE = 1600  # pixels of the shown picture's longer side, at most
MAX_SHOWN = 8  # answers whose heat maps can be switched on

STYLE = (
    overlay.STYLE
    + """
.answer .stage, .empty { aspect-ratio: 1; max-height: var(--stage); width: 100%; display: grid;
  place-items: center; container-type: size;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); border-radius: 8px }
.answer .picture { width: min(100cqw, 100cqh * var(--ratio)) }
.answer .heat { display: none }
.empty { color: var(--muted); text-align: center; padding: 1em }
.answer fieldset { display: flex; flex-wrap: wrap; align-items: center; gap: .2em 1em; border: 0; margin: .6em 0 0; padding: 0 }
.answer fieldset legend { float: left; padding: 0; margin-right: .4em } .answer label { cursor: pointer; padding: .2em 0 }
.answer input { margin-right: .35em; vertical-align: -1px }
.answer input:focus-visible, .answer a:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px }
.answer ol { list-style: none; margin: .6em 0; padding: 0 }
.answer li { margin: 0; padding: .5em 0; border-top: 1px solid var(--border-color-primary); overflow-wrap: anywhere }
.answer .number { display: inline-block; min-width: 1.7em; padding: 0 .35em; margin-right: .3em; background: var(--tint);
  color: #fff; font-weight: 600; text-align: center; border-radius: 3px }
.answer .badge { border: 1px dashed currentColor; border-radius: 3px; padding: 0 .4em; margin-left: .4em; font-size: .9em }
.answer li > p { display: block; margin: .2em 0 0 }
.answer .told, .answer .remark { color: var(--muted); font-variant-numeric: tabular-nums }
.answer .remark { font-style: italic } .answer .links { display: flex; flex-wrap: wrap; gap: .3em 1.4em; margin: .4em 0 }
.answer .links a { color: var(--link-text-color); text-decoration: underline; padding: .2em 0 }
"""
    + "".join(
        f".answer:has(.look-{n}:checked) .heat-{n} {{ display: block }}\n"
        f".answer:has(.look-{n}:checked) .mask {{ display: none }}\n"
        for n in range(1, MAX_SHOWN + 1)
    )
)


def answers_html(
    found: Sequence[Grounding],
    pixels: np.ndarray,
    size: tuple[int, int],
    name: str,
    origin: str,
    *,
    unsure: float,
    guess: str,
) -> tuple[str, str]:
    """The marked picture, what was found for each phrase, and the same to download.

    Args:
        found: the answers, in pixels of ``pixels``.
        pixels: uint8 ``(H, W, 3)`` RGB, what was asked about.
        size: height and width of the file; boxes are given in its pixels.
        name: what the file is called.
        origin: of the model.
        unsure: an answer of a lower score is called a guess.
        guess: why all of the answers are guesses; "" where they are not.

    Returns:
        How many were found, in words, and the HTML.
    """
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    small = shrunk(pixels, scale)
    shown = [in_size(one, (small.shape[0], small.shape[1]), small) for one in found]
    results = [in_size(one, size) for one in found]
    doubts = [_doubt(one, unsure) or guess for one in found]

    marks: list[overlay.Mark] = []
    layers = []
    for number, (one, doubt) in enumerate(zip(shown, doubts, strict=True), 1):
        marks = [*_marks(one, number, bool(doubt)), *marks]  # the first phrase is on top
        if one.mask is not None:
            layers.append(("mask", overlay.veil(one.mask, colour(number - 1))))
    layers += [
        (f"heat heat-{n}", overlay.heat(one.heat_map)) for n, one in enumerate(shown, 1) if one.heat_map is not None
    ]

    alt = "The picture. " + " ".join(f"{n}: {one.phrase}, {_count(one)}." for n, one in enumerate(results, 1))
    items = "".join(_item(n, one, doubt) for n, (one, doubt) in enumerate(zip(results, doubts, strict=True), 1))
    answers = {"image": name, "model": origin, "answers": [one.to_dict() for one in results]}
    plain = base64.b64encode(json.dumps(answers, ensure_ascii=False, indent=1).encode()).decode()
    stem = html.escape(name.rpartition(".")[0] or name)
    counts = [f"{sum(one.found for one in found)} of {len(found)} found"]
    if guesses := sum(bool(doubt) and one.found for one, doubt in zip(found, doubts, strict=True)):
        counts.append(f"{guesses} of them {'guesses' if guesses > 1 else 'a guess'}")
    return ", ".join(counts), (
        f'<div class="answer"><div class="stage">{overlay.picture(small, marks, layers, alt)}</div>{_looked(shown)}'
        f'<ol>{items}</ol><p class="links">'
        f'<a download="{stem}.json" href="data:application/json;base64,{plain}">Download the answers (JSON)</a>'
        f'<a download="{stem}.marked.jpg" href="{data_address(draw(shown))}">Download the marked picture</a></p></div>'
    )


def in_size(one: Grounding, size: tuple[int, int], pixels: np.ndarray | None = None) -> Grounding:
    """The answer about the picture at another size, height and width, which is ``pixels`` where they are given."""
    height, width = size
    if (height, width) == (one.picture.height, one.picture.width) and pixels is None:
        return one
    factors = np.array([width / one.picture.width, height / one.picture.height] * 2)

    def moved(box: Box) -> Box:
        left, top, right, bottom = (np.array(box) * factors).tolist()
        return left, top, right, bottom

    mask = one.mask
    if mask is not None:
        mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    blank = np.broadcast_to(np.uint8(0), (height, width, 3))  # of a picture that nobody looks at
    return replace(
        one,
        box=None if one.box is None else moved(one.box),
        boxes=tuple(map(moved, one.boxes)),
        candidates=tuple((moved(box), score) for box, score in one.candidates),
        mask=mask,
        picture=Picture(b"", blank if pixels is None else pixels, pixels is not None, False),
    )


def _doubt(one: Grounding, unsure: float) -> str:
    """Why an answer is a guess; "" where it is none."""
    if one.warning and ("unknown to the model" in one.warning or "guess" in one.warning):
        return one.warning
    return f"the score is below {unsure:g}" if one.score is not None and one.score < unsure else ""


def _count(one: Grounding) -> str:
    if not one.found:
        return "nothing found"
    return f"{len(one.boxes)} objects" if len(one.boxes) > 1 else "found"


def _marks(one: Grounding, number: int, guess: bool) -> list[overlay.Mark]:
    """The boxes of a phrase, the best one last: answers solid, a guess dashed, what was considered too dotted."""
    sides = np.array([one.picture.width, one.picture.height] * 2, np.float64)

    def mark(box: Box, label: str, line: str) -> overlay.Mark:
        return overlay.Mark((np.array(box) / sides).tolist(), colour(number - 1), label, line)

    marks = [
        mark(
            box,
            f"{number} {one.phrase}{'?' if guess else ''}" if not place else f"{number}.{place + 1}",
            "dashed" if guess else "solid",
        )
        for place, box in enumerate(one.boxes)
    ]
    marks += [mark(box, label, "dotted") for label, box, _ in _others(one, number)]
    return marks[::-1]


def _others(one: Grounding, number: int) -> list[tuple[str, Box, float]]:
    """What the model also considered, with its label: candidates that are not an answer, up to rounding."""
    extra = [
        (box, score)
        for box, score in one.candidates
        if not any(boxes.box_iou(np.array(box), np.array(answer)) > 0.9 for answer in one.boxes)
    ]
    return [(f"{number}{chr(ord('b') + place)}", box, score) for place, (box, score) in enumerate(extra)]


def _item(number: int, one: Grounding, doubt: str) -> str:
    def line(label: str, box: Box, score: float) -> str:
        return f'<p class="told">{label}score {score:.3f}, box {", ".join(f"{value:.1f}" for value in box)}</p>'

    if not one.found:
        text = "<p><strong>Nothing found</strong>: no object in this picture fits the phrase.</p>"
    elif not one.boxes:
        text = '<p class="told">' + (f"score {one.score:.3f}, " if one.score is not None else "") + "no box</p>"
    elif len(one.boxes) == 1:
        text = line("", one.boxes[0], one.scores[0])
    else:
        text = f"<p>{len(one.boxes)} objects</p>" + "".join(
            line(f"{number}.{place}: ", box, score)
            for place, (box, score) in enumerate(zip(one.boxes, one.scores, strict=True), 1)
        )
    if others := _others(one, number):
        text += '<p class="told">Also considered:</p>' + "".join(line(f"{n}: ", box, score) for n, box, score in others)
    badge = '<span class="badge">a guess</span>' if doubt and one.found else ""
    remarks = "; ".join(dict.fromkeys(filter(None, [doubt, one.warning])))
    remark = f'<p class="remark">{html.escape(remarks)}</p>' if remarks else ""
    mark = f'<span class="number" style="--tint: rgb{colour(number - 1)}">{number}</span>'
    return f"<li>{mark}<b>{html.escape(one.phrase)}</b>{badge}{text}{remark}</li>"


def _looked(found: Sequence[Grounding]) -> str:
    """Buttons that lay a heat map over the picture, one for each phrase that has one."""
    maps = [(n, float(one.heat_map.max())) for n, one in enumerate(found, 1) if one.heat_map is not None]
    if not maps:
        return ""
    choices = '<label><input type="radio" name="look" checked>off</label>' + "".join(
        f'<label><input type="radio" name="look" class="look-{n}">for {n} (highest score {high:.2f})</label>'
        for n, high in maps
    )
    return f"<fieldset><legend>Where the model looked:</legend>{choices}</fieldset>"
