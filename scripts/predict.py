"""Find what phrases name in images.

    rec predict MODEL photo.jpg "the man on the left" --out marked.png
    rec predict MODEL photo.jpg "the man" "the red car" --out marked.png
    rec predict MODEL 'photos/*.jpg' folder_of_images "the dog" --out marked/ --jsonl answers.jsonl
    rec predict MODEL --pairs pairs.jsonl --jsonl answers.jsonl

MODEL is a run folder (its best/), a model folder or a hub id; nothing else is needed on disk. Arguments that name files,
folders or patterns are images, the others phrases; every phrase is asked of every image. A line of --pairs is
{"image": path, "phrase": text or list}, paths relative to the file. A bad image is reported and left out; the exit status is
then 1. The same command again goes on where it was cut off, and of a finished one asks only the images that failed.
"""

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

from rec.console import require_output

if TYPE_CHECKING:
    from rec.inference import Grounder, Grounding
    from rec.inference.inputs import Pair

SHOWN = 20  # names of further images that failed alike


def main() -> int:
    args = parse_arguments()
    tells = not (args.out or args.crops or args.jsonl or args.labels)
    if tells:
        require_output()
    from rec.command_line import InputError
    from rec.inference.inputs import find_pairs, is_address, read_pairs

    pairs = read_pairs(args.pairs) if args.pairs else find_pairs(args.inputs, args.phrases)
    if args.labels and (address := next((image for image, _ in pairs if is_address(image)), None)):
        raise InputError(f"--labels: training reads files, and {address} is an address: download it first")
    pictures = picture_places(args.out, pairs)
    crops = crop_places(args.crops, args.out, pairs)
    from tqdm import tqdm

    import rec
    from rec.evaluation.pictures import save
    from rec.files import growing_file, refuse_inputs, user_path
    from rec.inference.grounder import draw
    from rec.model_folder.format import files_of
    from rec.training.process import keep_freed_memory

    # Before the model is loaded: no output is an input.
    outputs = [place for place in [*pictures, args.jsonl, args.labels, args.review] if place is not None]
    folder = user_path(args.model)
    read = [*(image for image, _ in pairs), *([args.pairs] if args.pairs else []), *files_of(folder)]
    refuse_inputs(outputs, [*read, *files_of(folder / "best")])
    if args.device in ("auto", "cpu"):
        keep_freed_memory()
    options = options_of(args, args.model, args.second)
    grounder = rec.from_pretrained(args.model, dtype=args.dtype, allow_urls=args.allow_urls, **options)
    tell("model", grounder, pairs)
    if args.labels:
        return write_labels(args, grounder, pairs)

    # The journal is the file of answers, or where none is asked for one that is hidden beside the pictures. What an earlier
    # start of the same work has answered is in it, and not asked again; images that failed are.
    started = time.perf_counter()
    journal = args.jsonl
    if journal is None and len(pairs) > 1:
        journal = next((place / ".answers.jsonl" for place in (args.out, args.crops) if place is not None), None)
    failures, answered = Failures(len(pairs)), Counter[bool]()
    task = work(args, grounder, pairs)
    with growing_file(journal, task, lambda: failures.count > 0) if journal else nullcontext() as file:
        todo = unanswered(pairs, pictures, file, answered)
        if len(todo) < (before := len(pairs)):
            print(
                f"{before - len(todo)} of {before} images were answered before; going on with the other {len(todo)}",
                flush=True,
            )
        # Answers as they come; an image that cannot be used is reported and left out.
        progress = tqdm(total=len(todo), disable=None if len(pairs) > 1 else True, leave=False, unit=" images")
        keep = args.out is not None or crops is not None
        stream = grounder.stream((pairs[n] for n in todo), args.batch_size, top_k=args.top_k, keep_images=keep)
        for number, answers in zip(todo, stream, strict=True):
            image, picture = pairs[number][0], pictures[number]
            progress.update()
            if isinstance(answers, ValueError):
                if text := failures.add(image, answers):
                    progress.write(text, file=sys.stderr)
                continue
            if picture is not None:
                save(draw(answers), picture)
            cut = [
                [] if crops is None else write_crops(answer, crops[number], place)
                for place, answer in enumerate(answers, 1)
            ]
            if file is not None:  # in one piece, after the pictures: an image is answered or it is not
                records = [
                    {"image": image} | answer.to_dict() | ({"crops": names} if crops else {})
                    for answer, names in zip(answers, cut, strict=True)
                ]
                file.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
            answered.update(answer.found for answer in answers)
            for answer in answers if tells or len(pairs) == 1 else ():
                progress.write(f"{image}  {answer}")
        progress.close()
        if todo != list(range(len(pairs) - len(todo), len(pairs))):  # some in the middle: back to the images' order
            unanswered(pairs, pictures, file, Counter())
    if journal is not None and journal is not args.jsonl:
        journal.unlink()

    if len(pairs) > 1:
        where = ", ".join(str(place) for place in (args.jsonl, args.out, args.crops) if place is not None)
        print(
            f"{len(pairs) - failures.count} of {len(pairs)} images, {answered.total()} answers, {answered[False]} of them nothing "
            f"found, in {time.perf_counter() - started:.1f} s{': ' if where else ''}{where}"
        )
    if failures.count:
        again = "; the same command again tries these, and keeps the other answers" if journal is not None else ""
        print(f"{failures.summary()}{again}", file=sys.stderr)
    return 1 if failures.count else 0


def options_of(args: argparse.Namespace, model: str, other: str | None) -> dict[str, Any]:
    """Arguments of :func:`rec.from_pretrained` for one of two models: what is said of somebody else's is not for ours beside it."""
    from rec.command_line import foreign_options, model_options
    from rec.inference.foreign import is_foreign

    options = model_options(args)
    if is_foreign(other or "") and not is_foreign(model):
        options |= dict.fromkeys(foreign_options(args))
    return options


def tell(name: str, grounder: "Grounder", pairs: "Sequence[Pair]") -> None:
    """Prints where the model is from, and how many images leave this machine."""
    print(f"{name}: {grounder.origin}", flush=True)
    if not getattr(grounder, "is_here", True):
        print(f"{len(pairs)} images are sent to {getattr(grounder, 'host', 'another machine')}", flush=True)


class Failures:
    """Images that could not be used: each kind of failure is printed once, the names at the end."""

    def __init__(self, total: int) -> None:
        self.total, self.kinds = total, dict[str, list[str]]()

    def add(self, image: str, error: ValueError) -> str | None:
        """What to say of it now: the error, where it is the first of its kind."""
        text = str(error)
        kind = re.sub(r"\d+", "#", text.replace(image, "").replace(str(Path(image)), ""))
        self.kinds.setdefault(kind, []).append(image)
        if len(self.kinds[kind]) > 1:
            return None
        return text if image in text else f"{image}: {text}"

    @property
    def count(self) -> int:
        return sum(map(len, self.kinds.values()))

    def summary(self) -> str:
        lines = [f"{self.count} of {self.total} images could not be used"]
        for first, *more in self.kinds.values():
            if more:
                lines.append(
                    f"  {len(more)} like {first}: {', '.join(more[:SHOWN])}{' …' if len(more) > SHOWN else ''}"
                )
        return "\n".join(lines)


def work(args: argparse.Namespace, grounder: "Grounder", pairs: "Sequence[Pair]") -> str:
    """All that the answers depend on: the model's weights, the options, the images and phrases."""
    from rec import __version__

    state = os.stat(grounder.weights) if os.path.isfile(grounder.weights) else None
    model = [grounder.weights, None if state is None else (state.st_size, state.st_mtime_ns)]
    beside = ("inputs", "pairs", "device", "batch_size", "trust_config")
    options = {name: str(value) for name, value in vars(args).items() if name not in beside}
    return json.dumps([__version__, model, options, pairs])


def unanswered(
    pairs: "Sequence[Pair]", pictures: Sequence[Path | None], file: TextIO | None, answered: "Counter[bool]"
) -> list[int]:
    """Which pairs the lines of ``file`` do not answer; those of the others stay in it, in the order of the pairs.

    An image is answered where the lines of all its phrases are there, its picture and its crops; ``answered`` counts what those
    have found.
    """
    from rec.errors import InputError

    if file is None or not file.readable():
        return list(range(len(pairs)))
    file.seek(0)
    lines = list(file)
    known = defaultdict[tuple[str, str], list[tuple[str, bool]]](list)
    try:
        for line in lines:
            record = json.loads(line)
            if all(os.path.isfile(place) for place in record.get("crops", ())):
                known[record["image"], record["phrase"]].append((line, bool(record["found"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file.name} holds what are not answers ({error!r}): delete it, and all is asked anew"
        ) from None
    todo: list[int] = []
    kept: list[str] = []
    for number, ((image, phrases), picture) in enumerate(zip(pairs, pictures, strict=True)):
        asked = Counter((image, phrase) for phrase in phrases)
        if any(len(known[key]) < count for key, count in asked.items()) or not (picture is None or picture.is_file()):
            todo.append(number)
            continue
        for phrase in phrases:
            line, found = known[image, phrase].pop(0)
            kept.append(line)
            answered[found] += 1
    if kept != lines:
        file.truncate(0)
        file.write("".join(kept))
    return todo


def crop_places(folder: Path | None, out: Path | None, pairs: "Sequence[Pair]") -> list[Path] | None:
    """What the names of each image's crops begin with; the folder is made."""
    from rec.errors import InputError

    if folder is None:
        return None
    images = [image for image, _ in pairs]
    folder.mkdir(parents=True, exist_ok=True)
    taken = {os.path.dirname(os.path.realpath(image)) for image in images}
    taken |= {os.path.realpath(os.path.dirname(image)) for image in images} | (
        {os.path.realpath(out)} if out else set()
    )
    if os.path.realpath(folder) in taken:
        raise InputError(
            f"--crops {folder} is the folder of the images or of --out: choose another, so that none is overwritten"
        )
    return [folder / name for name in picture_names(images)]


def write_crops(answer: "Grounding", stem: Path, number: int) -> list[str]:
    """Writes what is in each box of the answer to the image's ``number``-th phrase; returns the files."""
    from rec.evaluation.pictures import save

    places = [stem.with_name(f"{stem.name}_{number}_{box}.png") for box in range(1, len(answer.boxes) + 1)]
    for box, place in enumerate(places):
        save(answer.crop(box), place)
    return [str(place) for place in places]


def parse_arguments() -> argparse.Namespace:
    from rec.command_line import add_model_options, ending, share, whole
    from rec.files import user_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="run or model folder, hub id user/name, transformers:ID or openai:MODEL@ADDRESS")
    add("inputs", nargs="*", metavar="IMAGE|PHRASE", help="images (files, folders, patterns) and phrases")
    add("--pairs", type=user_path, metavar="JSONL", help="lines of image and phrase instead")
    out = "marked picture; a folder where there are several images"
    add("--out", type=user_path, metavar="PNG|FOLDER", help=out)
    add("--crops", type=user_path, metavar="FOLDER", help="what is in each box, cut out, as PNG")
    add("--jsonl", type=user_path, metavar="FILE", help="write one line per answer: boxes, scores, mask, warning")
    add("--top-k", type=whole(1, 1000), default=1, help="also give the next best boxes that do not overlap")
    add("--batch-size", type=whole(1), default=8, help="images per forward pass")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="bfloat16 and float16 run faster")
    add("--allow-urls", action="store_true", help="fetch images given as http(s) addresses")
    add_model_options(parser)
    add = parser.add_argument_group("labels for a training of one's own, by this model as the teacher").add_argument
    add("--labels", type=user_path, metavar="JSONL", help="write what stands the checks as training data")
    add("--phrases", type=user_path, metavar="FILE", help="phrases to ask, one a line")
    add("--min-score", type=share, default=0.0, help="of the teacher's answer")
    add("--second", metavar="MODEL", help="another model that has to agree")
    add("--mirror", action="store_true", help="the mirrored photograph has to agree")
    add("--agree", type=share, default=0.7, metavar="IOU", help="of the boxes that have to agree; 0.7")
    add("--review", type=ending(".html", ".htm"), metavar="HTML", help="a page to tick the labels off")
    args = parser.parse_args()
    for name in ("out", "crops", "jsonl", "labels"):
        if str(getattr(args, name)) == "-":
            parser.error(f"--{name} -: name a file or folder; answers written to none are printed")
    if not args.labels and (args.second or args.mirror or args.review or args.min_score):
        parser.error("--second, --mirror, --review and --min-score are for --labels FILE")
    if args.labels and (args.out or args.crops or args.jsonl):
        parser.error("--labels writes labels; --out, --crops and --jsonl are for answers")
    if (args.pairs is None) == (not args.inputs):
        parser.error("name images and phrases, or --pairs a file of them")
    if args.pairs and args.phrases:
        parser.error("--phrases is for images among the arguments; --pairs gives each image its own")
    return args


def picture_places(out: Path | None, pairs: "Sequence[Pair]") -> list[Path | None]:
    """Where each marked picture goes: ``out`` itself for one image, else a name of its own in the folder ``out``.

    The folder is made, so that a place that cannot be written is reported before the work.
    """
    from rec.errors import InputError
    from rec.evaluation.pictures import check_ending

    if out is None:
        return [None] * len(pairs)
    if len(pairs) == 1 and out.suffix and not out.is_dir():
        check_ending(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        return [out]
    if out.exists() and not out.is_dir():
        why = f"but there are {len(pairs)} images" if len(pairs) > 1 else "whose name has no ending of a picture's"
        raise InputError(f"--out {out} is a file, {why}; name a folder{'' if len(pairs) > 1 else ', or a .png'}")
    out.mkdir(parents=True, exist_ok=True)
    return [out / f"{name}.png" for name in picture_names([image for image, _ in pairs])]


def picture_names(images: list[str]) -> list[str]:
    """A name for each image, the same for the same list: its own without the ending; a number is added where another
    image has that name. They differ on file systems that take capitals for small letters too.
    """
    from rec.inference.inputs import is_address
    from rec.trust import file_name

    stems = [file_name(urlsplit(image).path, "image") if is_address(image) else Path(image).stem for image in images]
    stems = [os.fsdecode(os.fsencode(stem)[:240]) for stem in stems]  # a file's name has at most 255 bytes
    of_an_image, taken = {stem.casefold() for stem in stems}, set[str]()
    numbers: dict[str, int] = {}
    names = []
    for stem in stems:
        name, number = stem, numbers.get(stem, 1)
        while name.casefold() in taken or (number > 1 and name.casefold() in of_an_image):
            number += 1
            name = f"{stem}_{number}"
        numbers[stem] = number
        taken.add(name.casefold())
        names.append(name)
    return names


def write_labels(args: argparse.Namespace, grounder: "Grounder", pairs: "Sequence[Pair]") -> int:
    """Writes the teacher's answers that stand the checks; the exit status is 1 where images could not be used."""
    from collections.abc import Iterator

    from tqdm import tqdm

    import rec
    from rec.inference.labels import Checks, Label, label, write

    second = None
    if args.second:
        second = rec.from_pretrained(args.second, **options_of(args, args.second, args.model) | {"threshold": None})
        tell("second", second, pairs)
    checks = Checks(args.min_score, second, args.agree, args.mirror)
    failed: list[str] = []

    def good() -> Iterator[Label]:
        total = sum(len(phrases) for _, phrases in pairs)
        for found in tqdm(label(grounder, pairs, checks, args.batch_size), total=total, disable=None, leave=False):
            if isinstance(found, ValueError):
                failed.append(str(found))
                tqdm.write(str(found), file=sys.stderr)
            else:
                yield found

    counts = write(args.labels, good(), args.review)
    print(f"labels       {args.labels}: " + ", ".join(f"{count} {reason}" for reason, count in counts.most_common()))
    if args.review:
        print(f"review       {args.review}: open it in a browser, untick what is wrong, save")
    if counts["kept"]:
        prepare = f"rec prepare --dataset mine --source {shlex.quote(str(args.labels))} --bbox-format xywh"
        print(f"train on it  {prepare} --val-fraction 0.1 --output_dir data")
        print("             and on, as docs/train_on_your_images.md says")
    if failed:
        print(f"{len(failed)} of {len(pairs)} images could not be used", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
