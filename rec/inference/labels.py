"""Labels from a teacher: a model's answers as training data of one's own, checked by agreement and by eye.

A label is kept where the score is high enough, a second model agrees, and the mirrored photograph gets the mirrored box: what holds
by chance seldom holds twice.
"""

import html
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rec import boxes
from rec.data.masks import encode
from rec.data.schema import MIN_WEIGHT
from rec.data.text import mirror_phrase
from rec.evaluation import several
from rec.evaluation.pictures import annotate, colour, data_address, shrunk
from rec.files import growing_file, write_text
from rec.inference.grounder import Grounder
from rec.inference.grounding import Grounding
from rec.inference.inputs import Pair, to_pixels


@dataclass(frozen=True)
class Checks:
    """What a label has to stand.

    Attributes:
        min_score: of the teacher's answer.
        second: another model, which has to find the same boxes, each with an IoU of at least ``agree``.
        agree: IoU, for ``second`` and ``mirror``.
        mirror: ask the teacher of the mirrored photograph too. A phrase whose sides cannot be swapped
            (:func:`rec.data.text.mirror_phrase`) is not asked, and passes.
    """

    min_score: float = 0.0
    second: Grounder | None = None
    agree: float = 0.7
    mirror: bool = False


@dataclass(frozen=True)
class Label:
    """An answer of the teacher, and why it is not kept (``reason``; None where it is)."""

    image: str
    answer: Grounding
    reason: str | None


def label(
    teacher: Grounder, pairs: Sequence[Pair], checks: Checks, batch_size: int = 8
) -> Iterator[Label | ValueError]:
    """The teacher's answers in order; an image that cannot be read gives its error.

    Args:
        teacher: any Grounder.
        pairs: images, by file, with their phrases.
        checks: what is kept.
        batch_size: images per forward pass.
    """
    answers = teacher.stream(pairs, batch_size)
    seconds = checks.second.stream(pairs, batch_size) if checks.second is not None else None
    mirrored = teacher.stream(_mirrored(pairs), batch_size, keep_images=True) if checks.mirror else None
    for (image, phrases), found in zip(pairs, answers, strict=True):
        others = next(seconds) if seconds is not None else None
        flipped = _by_phrase(phrases, next(mirrored)) if mirrored is not None else {}
        if isinstance(found, ValueError):
            yield found
            continue
        for number, answer in enumerate(found):
            second = others[number] if isinstance(others, list) else None
            yield Label(image, answer, _reason(answer, second, flipped.get(number), checks))


def _mirrored(pairs: Iterable[Pair]) -> Iterator[tuple[np.ndarray | str, list[str]]]:
    for image, phrases in pairs:
        swapped = [other for phrase in phrases if (other := mirror_phrase(phrase)) is not None]
        try:
            pixels, _ = to_pixels(image)
        except ValueError:
            yield image, swapped or phrases  # fails there as it does here
            continue
        yield np.ascontiguousarray(pixels[:, ::-1]), swapped or phrases


def _by_phrase(phrases: Sequence[str], answers: list[Grounding] | ValueError) -> dict[int, Grounding]:
    """The mirrored photograph's answer to each phrase that could be asked of it."""
    asked = [number for number, phrase in enumerate(phrases) if mirror_phrase(phrase) is not None]
    return {} if isinstance(answers, ValueError) else dict(zip(asked, answers, strict=False))


def _reason(answer: Grounding, second: Grounding | None, flipped: Grounding | None, checks: Checks) -> str | None:
    if answer.box is None:
        return "nothing found"
    if not all(boxes.is_visible(list(box), answer.picture.height, answer.picture.width) for box in answer.boxes):
        return "box outside the image"  # or without area: no label that a training takes
    if answer.score is None or min(answer.scores) < checks.min_score:
        return "low score"
    if checks.second is not None and not _agree(answer, _boxes(second), checks.agree):
        return "the second model disagrees"
    if flipped is not None:
        back = boxes.flip_left_right(_boxes(flipped), float(flipped.picture.width))
        if not _agree(answer, back, checks.agree):
            return "the mirrored photograph disagrees"
    return None


def _boxes(answer: Grounding | None) -> np.ndarray:
    """float64 ``(N, 4)`` xyxy in pixels; none of an image that gave no answer."""
    return np.array(answer.boxes if answer is not None else (), np.float64).reshape(-1, 4)


def _agree(answer: Grounding, others: np.ndarray, iou: float) -> bool:
    """Whether every box of the answer has one of the others to itself, and no other is left."""
    return len(answer.boxes) == len(others) == several.matches(_boxes(answer), others, at_least=iou)


def row(found: Label, folder: Path) -> dict[str, object]:
    """A line of the project's own JSONL (``bbox``, of several objects ``boxes``, xywh in pixels), the image below ``folder`` by
    its relative name."""
    answer = found.answer
    image = os.path.abspath(found.image)
    inside = os.path.relpath(image, folder.absolute())
    xywh = [[round(value, 2) for value in box] for box in boxes.xyxy_to_xywh(_boxes(answer)).tolist()]
    line: dict[str, object] = {
        "image": image if inside.startswith("..") else inside,
        "phrase": [answer.phrase],
        **({"bbox": xywh[0]} if len(xywh) == 1 else {"boxes": xywh}),
        "split": "train",
        "score": answer.score,
        # In training the label counts as much as the teacher was sure, of its last box.
        "weight": round(min(max(min(answer.scores), MIN_WEIGHT), 1.0), 4),
    }
    return line if answer.mask is None else line | {"mask": encode(answer.mask)}


def write(path: Path, found: Iterable[Label], review: Path | None = None) -> Counter[str]:
    """Writes the labels that are kept, and a page to tick them off; returns how many were kept and why others were not.

    Args:
        path: JSONL; whole or as it was before, the labels so far beside it where the work ends early.
        found: in order.
        review: an HTML page that shows every label and saves those that stay ticked, in the browser, as JSONL.
    """
    counts: Counter[str] = Counter()
    tiles: list[str] = []
    with growing_file(path) as file:
        for one in found:
            counts[one.reason or "kept"] += 1
            if one.reason is None:
                file.write(json.dumps(row(one, path.parent), ensure_ascii=False) + "\n")
            if one.answer.box is not None and review is not None:
                tiles.append(_tile(one, row(one, path.parent), len(tiles)))
    if review is not None:
        write_text(review, _page(path.name, tiles))
    return counts


_SIDE = 300


def _tile(found: Label, line: dict[str, object], number: int) -> str:
    answer = found.answer
    pixels = answer.image
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    small = shrunk(pixels, scale)
    marked = annotate(small, [(box * scale, colour(0), "") for box in _boxes(answer)])
    score = "" if answer.score is None else f" {answer.score:.2f}"
    note = f"<small>{html.escape(found.reason)}</small>" if found.reason else ""
    data = html.escape(json.dumps(line, ensure_ascii=False), quote=True)
    picture = f'<img loading="lazy" alt="" src="{data_address(marked)}">'
    box = f'<input type="checkbox" id="l{number}" data-line="{data}"{"" if found.reason else " checked"}>'
    return f'<label class="tile" for="l{number}">{picture}<span>{box} {html.escape(answer.phrase)}{score}</span>{note}</label>'


def _page(name: str, tiles: Sequence[str]) -> str:
    title = f"Labels for {html.escape(name)}"
    script = (
        "const all=()=>[...document.querySelectorAll('input[data-line]')];"
        "const count=()=>{document.getElementById('count').textContent="
        "`${all().filter(b=>b.checked).length} of ${all().length} kept`};"
        "document.addEventListener('change',count);count();"
        "document.getElementById('save').addEventListener('click',()=>{"
        "const text=all().filter(b=>b.checked).map(b=>b.dataset.line+'\\n').join('');"
        "const link=document.createElement('a');"
        "link.href=URL.createObjectURL(new Blob([text],{type:'application/jsonl'}));"
        f"link.download={json.dumps(name)};link.click()}});"
    ).replace("</", "<\\/")
    style = (
        "body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1300px;padding:0 1em 2em}"
        "header{position:sticky;top:0;background:Canvas;padding:.7em 0;display:flex;gap:1em;align-items:center;flex-wrap:wrap}"
        "h1{font-size:1.1em;margin:0}main{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:14px}"
        ".tile{display:flex;flex-direction:column;gap:4px}.tile img{width:100%}.tile:has(input:not(:checked)){opacity:.45}"
        "small{color:GrayText}button{font:inherit;padding:.4em 1em}:root{color-scheme:light dark}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><style>{style}</style></head><body><header><h1>{title}</h1><span id="count"></span>'
        '<button id="save">Save what is ticked</button></header>'
        f"<main>{''.join(tiles)}</main><script>{script}</script></body></html>\n"
    )
