"""Asking a model every phrase of a split, into a file of answers that a later run continues."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rec.contracts import DataSet
from rec.data.sources import find_split
from rec.errors import InputError
from rec.evaluation import several
from rec.files import digest, named
from rec.inference.foreign.base import UNREADABLE, ForeignGrounder
from rec.trust import MAX_ANNOTATIONS, read_bytes

KEYS = ("image", "ref_id", "sentence")


def question(grounder: ForeignGrounder, datasets: Mapping[str, DataSet]) -> str:
    """What answers depend on besides the data, in a line: the model, a chat model's prompt and way to write a box (as a digest),
    how long its answers may be, where that was said, and whether all of its boxes are kept."""
    parts = [grounder.weights.partition("@http")[0]]  # a server may move
    parts += [digest(repr(grounder.family).encode())[:8]] if grounder.family else []
    parts += [f"{grounder.max_tokens} tokens"] if grounder.max_tokens else []
    return " ".join([*parts, *(["all boxes"] if several.name_any_number(datasets) else [])])


def answered(path: Path, datasets: Mapping[str, DataSet], asked: str) -> set[tuple[str, int]]:
    """The (split, index) that a file of answers already has; a line that was cut off is taken out of it.

    Raises:
        InputError: its answers are of other data, or to another :func:`question` than ``asked``.
    """
    if not path.exists():
        return set()
    content = read_bytes(path, "answers", MAX_ANNOTATIONS)
    whole = content[: content.rfind(b"\n") + 1]
    done = set()
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            answer = json.loads(line)
            split, index, fingerprint = str(answer["split"]), int(answer["index"]), answer["fingerprint"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{path}, line {number} is not an answer of an evaluation: name another --out") from None
        split = find_split(split, tuple(datasets)) or split
        if split in datasets and fingerprint != datasets[split].fingerprint:
            raise InputError(
                f"{path}, line {number} was asked about other data than split {split} is now: name another --out"
            )
        if answer.get("asked", asked) != asked:
            raise InputError(
                f"{path}, line {number} is the answer of {str(answer['asked'])[:200]!r}, and {asked!r} is asked now "
                "(the model, and what stands for prompt and coordinates): name another --out"
            )
        done.add((split, index))
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return done


def waiting(
    datasets: Mapping[str, DataSet], done: set[tuple[str, int]], limit: int | None = None
) -> list[tuple[str, list[int]]]:
    """What is still to ask, of the first ``limit`` phrases of each split: (split, indices about one image), neighbours together."""
    left: list[tuple[str, list[int]]] = []
    for split, dataset in datasets.items():
        before: Any = None
        for index in range(len(dataset))[:limit]:
            if (split, index) in done:
                continue
            described = dataset.describe(index)
            image = described.get("image_id"), described.get("image")
            if left and left[-1][0] == split and image == before and image != (None, None):
                left[-1][1].append(index)
            else:
                left.append((split, [index]))
            before = image
    return left


def ask(
    grounder: ForeignGrounder, datasets: Mapping[str, DataSet], left: list[tuple[str, list[int]]], path: Path
) -> None:
    """Asks what is left and adds the answers to ``path``, in lines that :func:`rec.evaluation.answers.read_answers` takes.

    Boxes are xyxy in pixels of the original image, as the model writes them. Where phrases may name any number of objects, a line
    has all boxes that do not overlap a better one, whatever their score: which are the answer is decided when they are read.
    """
    any_number, asked = several.name_any_number(datasets), question(grounder, datasets)
    grounder.as_written = True

    def pairs() -> Iterator[tuple[Any, list[str]]]:
        for split, indices in left:
            dataset = datasets[split]
            yield dataset.picture(indices[0]), [str(dataset.describe(index)["sentence"]) for index in indices]

    # What a server has answered of a batch is lost where it ends in it: no more images than keep its requests open.
    total, at_once = sum(len(indices) for _, indices in left), getattr(grounder, "at_once", None)
    batch_size = -(-at_once * len(left) // total) if at_once and total else 8
    stream = grounder.stream(pairs(), batch_size, threshold=0.0 if any_number else None)
    shown = tqdm(total=total, disable=None, leave=False)
    with named(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        for (split, indices), answers in zip(left, stream, strict=True):
            if isinstance(answers, ValueError):
                raise answers
            dataset = datasets[split]
            for index, answer in zip(indices, answers, strict=True):
                _, height, width = dataset.target_boxes(index)
                line: dict[str, Any] = {
                    "split": split,
                    "index": index,
                    "fingerprint": dataset.fingerprint,
                    "asked": asked,
                }
                line |= {key: dataset.describe(index).get(key) for key in KEYS}
                scale = width / answer.picture.width, height / answer.picture.height  # the data may hold a smaller copy
                found = [[v * scale[k % 2] for k, v in enumerate(box)] for box in answer.boxes]
                if answer.box is None and UNREADABLE in (answer.warning or ""):
                    line |= {"text": "", "warning": answer.warning}  # what it quotes would be read as an answer
                elif any_number:
                    line |= {"boxes": found, "scores": list(answer.scores)}
                else:
                    line |= {"box": found[0] if found else None, "score": answer.score}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            shown.update(len(indices))
    shown.close()
