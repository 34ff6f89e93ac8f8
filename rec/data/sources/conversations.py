"""Conversations about images that ask for boxes: instruction data of LLaVA, Qwen-VL, InternVL and their kin.

Format (https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md): a list, or lines, of ``{id, image,
conversations: [{from: human, value}, {from: gpt, value}]}``; or of ``{images: […], messages: [{role: user, content}, {role:
assistant, content}]}``, where content is a text or a list of ``{type: text, text}`` and ``{type: image, image}`` (``url`` and
``path`` too), or OpenAI's ``{type: image_url, image_url: {url}}``: the name of a file, or the picture itself as
``data:image/jpeg;base64,…``. What the numbers mean is declared, never guessed: see :mod:`rec.conventions`.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rec.conventions import NAMES, boxes_in_text, says_none
from rec.data.schema import BadRecord, LeftOut, attempt, is_missing, shown
from rec.data.sources import Source, SourceError, find_split, given, own_split
from rec.data.sources.tabular import check_bbox_format

if TYPE_CHECKING:
    from rec.data.spec import SourceSpec

# The question of LLaVA's RefCOCO data.
PROMPTS = ("Please provide the bounding box coordinate of the region this sentence describes: {}",)
_MARKS = (("<ref>", "</ref>"), ("<|object_ref_start|>", "<|object_ref_end|>"), ("<p>", "</p>"))
_NAMED = re.compile("|".join(f"{re.escape(a)}([^<]{{1,10000}}){re.escape(b)}" for a, b in _MARKS))
_IMAGE = re.compile(r"<image>|<img>[^<]{0,1000}</img>|Picture \d+:")
_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant", "chatgpt")
_OTHER = "turns that ask for no box"


def is_conversations(first: object) -> bool:
    """Whether a record is a conversation."""
    return isinstance(first, dict) and not is_missing(first.get("conversations", first.get("messages")))


def open_conversations(
    path: Path, records: Callable[[], Iterable[Any]], name: str, image_root: str | None, chosen: "SourceSpec"
) -> Source:
    """Opens conversations.

    A question with its answer is a row: the phrase is what the question has between ``<ref>`` and ``</ref>`` (or Qwen's
    ``<|object_ref_start|>``, or ``<p>``), or in place of ``{}`` in a ``prompt``; the boxes are those of the answer, or none
    where it says so in JSON (``null``, ``[]``). An answer that marks phrases itself, each with boxes behind it, is a row for
    each. Turns that are neither are left out, and counted.

    Args:
        path: the file.
        records: those of the file, as often as asked; a :class:`~rec.data.schema.BadRecord` stands for a broken line.
        name: of the data set, for the rows' ``source``.
        image_root: folder of the images; by default the file's.
        chosen: its ``coordinates`` must be named; ``bbox_format`` is xyxy without; ``prompt`` are questions with ``{}``,
            besides :data:`PROMPTS`.

    Raises:
        SourceError: no coordinates named, or a prompt without ``{}``.
    """
    if chosen.coordinates is None:
        raise SourceError(
            f"{path}: say what the numbers of its boxes mean, coordinates = {', '.join(NAMES)}, WIDTHxHEIGHT or letterboxed:SIDE "
            "(--coordinates of `rec prepare`): no file says it, and models differ"
        )
    bbox_format = check_bbox_format(chosen.bbox_format or "xyxy", str(path))
    prompt = chosen.prompt or ()
    prompts = (*([prompt] if isinstance(prompt, str) else prompt), *PROMPTS)
    if wrong := [one for one in prompts if str(one).count("{}") != 1]:
        raise SourceError(f"{path}: prompt is {wrong[0]!r}; expected the question, with {{}} in place of the phrase")
    root = Path(image_root) if image_root else path.parent
    otherwise = find_split(path.stem, ("train", "val", "test")) or "train"
    found = [attempt(_split, record, otherwise) for record in records()]
    named = tuple(dict.fromkeys(split for split in found if isinstance(split, str))) or ("train",)
    splits = [split if isinstance(split, str) else named[0] for split in found]

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        left = 0
        for number, (record, own) in enumerate(zip(records(), splits, strict=False)):
            if own != split:
                continue
            turns = attempt(_turns, record, prompts, where=f"{path.name}, record number {number}")
            if isinstance(turns, BadRecord):
                yield turns
                continue
            for count, turn in enumerate(turns):
                if turn is None:
                    left += 1
                    continue
                where = f"{path.name}, record number {number}, turn {count}"
                row = attempt(_row, record, turn, f"{path.stem}-{number}-{count}", root, name, where=where)
                yield row if isinstance(row, BadRecord) else row | {"bbox_format": bbox_format}
        if left:
            yield LeftOut(_OTHER, left)

    options = {"kind": "conversations", "bbox_format": bbox_format, "prompts": prompts}
    return Source(name, named, read, (path,), str(root), options)


def _split(record: dict[str, Any], otherwise: str) -> str:
    if not is_conversations(record):
        raise BadRecord("broken record", f"{shown(record)} is not an object with conversations or messages")
    return own_split(record.get("split"), otherwise)


def _turns(record: dict[str, Any], prompts: Sequence[str]) -> list[tuple[str, list[list[float]]] | BadRecord | None]:
    """(Phrase, boxes) of each question and answer; None for those that ask for no box."""
    _split(record, "train")
    said = record.get("conversations", record.get("messages"))
    if not isinstance(said, list):
        raise BadRecord("broken record", f"its conversation is {shown(said)}; expected a list of turns")
    pairs, asked = [], list[str]()  # several turns of one question: the picture may have one of its own
    for turn in said:
        speaker = given(turn.get("from"), turn.get("role"))
        if speaker in _ASKS:
            asked.append(_text(turn))
        elif speaker in _ANSWERS and asked:
            pairs.append((" ".join(filter(None, asked)), _text(turn)))
            asked = []
    return [turn for question, answer in pairs for turn in _targets(question, answer, prompts)]


def _text(turn: dict[str, Any]) -> str:
    """What a turn says, in words."""
    said = given(turn.get("value"), turn.get("content"))
    if isinstance(said, list):
        said = " ".join(str(part.get("text", "")) for part in said if part.get("type") == "text")
    if not isinstance(said, str):
        raise BadRecord("broken record", f"a turn says {shown(said)}; expected a text")
    return " ".join(_IMAGE.sub(" ", said).split())


def _targets(
    question: str, answer: str, prompts: Sequence[str]
) -> list[tuple[str, list[list[float]]] | BadRecord | None]:
    asked, marked = list(_NAMED.finditer(question)), list(_NAMED.finditer(answer))
    phrase = _phrase(question, prompts) if len(asked) < 2 else None
    if phrase is None and marked:
        ends = [*(mark.start() for mark in marked[1:]), len(answer)]
        found = [(_inside(m), boxes_in_text(answer[m.end() : end])) for m, end in zip(marked, ends, strict=True)]
        return [(words, several) if several else None for words, several in found]
    several = boxes_in_text(_NAMED.sub(" ", answer))
    if len(asked) > 1 and (several or says_none(answer)):
        told = f"the question {shown(question)} names {len(asked)}, and {shown(answer)} does not say whose boxes it has"
        return [BadRecord("several phrases", f"{told}: mark each phrase in the answer too, or ask for one at a time")]
    if phrase is None:
        fault = f"the question {shown(question)} is answered with boxes; which part of it is the phrase? Name it with --prompt"
        return [BadRecord("no phrase", f"{fault} 'words before {{}} and behind'") if several else None]
    if not several and not says_none(answer):
        return [BadRecord("no box", f"the answer for {shown(phrase)} is {shown(answer)}, which holds no box")]
    return [(phrase, several)]


def _phrase(question: str, prompts: Sequence[str]) -> str | None:
    if mark := _NAMED.search(question):
        return _inside(mark)
    for prompt in prompts:
        before, _, behind = (" ".join(part.split()) for part in prompt.partition("{}"))
        if question.startswith(before) and question.endswith(behind) and len(question) > len(before) + len(behind):
            return question[len(before) : len(question) - len(behind)].strip()
    return None


def _inside(mark: re.Match[str]) -> str:
    return next(words for words in mark.groups() if words is not None).strip()


def _row(record: dict[str, Any], turn: Any, place: str, root: Path, name: str) -> dict[str, Any]:
    image = given(record.get("image"), record.get("images"))
    if is_missing(image) or image == []:
        parts = [
            part
            for one in given(record.get("messages"), ())
            if isinstance(one.get("content"), list)
            for part in one["content"]
        ]
        image = [part for part in parts if part.get("type") in ("image", "image_url")] or image
    images = [
        _named_in(one) if isinstance(one, dict) else one for one in (image if isinstance(image, list) else [image])
    ]
    if len(images) != 1 or not isinstance(images[0], str) or not images[0]:
        raise BadRecord("no image", f"its image is {shown(image)}; expected the name of one file")
    file = images[0].removeprefix("file://")
    phrase, several = turn
    picture, image_id = (str(root / file), file) if not file.startswith("data:") else _embedded(file)
    return {
        "image": picture,
        "image_id": image_id,
        "ref_id": place,
        "boxes": several,
        "sentences": [phrase],
        "source": name,
    }


def _named_in(part: dict[str, Any]) -> Any:
    """The name or address in what stands for an image, such as a part of a message."""
    named = next((part[key] for key in ("image", "image_url", "url", "path") if not is_missing(part.get(key))), None)
    return named.get("url") if isinstance(named, dict) else named


def _embedded(address: str) -> tuple[dict[str, Any], str]:
    """The picture that a ``data:`` address is, and what tells it from others."""
    kind, _, content = address.partition(",")
    if not kind.endswith(";base64"):
        raise BadRecord("no image", f"its image is {shown(address)}; expected data:image/…;base64,…")
    data = base64.b64decode(content)
    return {"path": None, "bytes": data}, hashlib.sha1(data).hexdigest()[:16]
