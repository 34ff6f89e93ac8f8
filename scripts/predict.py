"""Find what phrases name in images.

    rec predict MODEL photo.jpg "the man on the left" --out marked.png
    rec predict MODEL photo.jpg "the man" "the red car" --out marked.png
    rec predict MODEL 'photos/*.jpg' folder_of_images "the dog" --out marked/ --jsonl answers.jsonl
    rec predict MODEL --pairs pairs.jsonl --jsonl answers.jsonl

MODEL is a model folder or a hub id; nothing else is needed on disk. Arguments that name files, folders or patterns are
images, the others phrases; every phrase is asked of every image. A line of --pairs is {"image": path, "phrase": text or
list}, paths relative to the file. A bad image is reported and left out; the exit status is then 1.
"""

import argparse
import glob
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rec.console import require_output

if TYPE_CHECKING:
    from rec.inference import Grounder, Grounding

MAX_PHRASES = 16 << 20  # bytes of --phrases
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def main() -> int:
    args = parse_arguments()
    if not (args.out or args.jsonl or args.labels):
        require_output()
    pairs = find_pairs(args)
    pictures = picture_places(args.out, pairs)
    from tqdm import tqdm

    import rec
    from rec.command_line import foreign_options
    from rec.evaluation.pictures import save
    from rec.files import growing_file, refuse_inputs, user_path
    from rec.inference.grounder import draw
    from rec.model_folder.format import files_of
    from rec.training.process import keep_freed_memory

    # Before the model is loaded: no output is an input.
    outputs = [place for place in [*pictures, args.jsonl, args.labels, args.review] if place is not None]
    read = [*(image for image, _ in pairs), *([args.pairs] if args.pairs else []), *files_of(user_path(args.model))]
    refuse_inputs(outputs, read)
    if args.device in ("auto", "cpu"):
        keep_freed_memory()
    grounder = rec.from_pretrained(
        args.model, device=args.device, dtype=args.dtype, trust_config=args.trust_config, allow_urls=args.allow_urls,
        threshold=args.threshold, **foreign_options(args),
    )  # fmt: skip
    print(f"model: {grounder.origin}", flush=True)
    if args.send_images:
        print(f"{len(pairs)} images are sent", flush=True)
    if args.labels:
        return write_labels(args, grounder, pairs)

    # Answers as they come; an image that cannot be used is told and left out.
    failed = []
    progress = tqdm(total=len(pairs), disable=None if len(pairs) > 1 else True, leave=False)
    stream = grounder.stream(pairs, args.batch_size, top_k=args.top_k, keep_images=args.out is not None)
    with growing_file(args.jsonl) if args.jsonl else nullcontext() as answers_file:
        for (image, _), picture, answers in zip(pairs, pictures, stream, strict=True):
            progress.update()
            if isinstance(answers, ValueError):
                failed.append(image)
                progress.write(f"{image}: {answers}", file=sys.stderr)
                continue
            for answer in answers:
                if answers_file is not None:
                    answers_file.write(json.dumps({"image": image} | answer.to_dict(), ensure_ascii=False) + "\n")
                progress.write(one_line(image, answer))
            if picture is not None:
                save(draw(answers), picture)
    progress.close()
    if failed:
        print(f"{len(failed)} of {len(pairs)} images could not be used, the first: {failed[0]}", file=sys.stderr)
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    from rec.command_line import THRESHOLD, add_foreign_options, add_trust_option, device, ending, share, whole
    from rec.files import user_path

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, hub id user/name, transformers:ID or openai:MODEL@ADDRESS")
    parser.add_argument(
        "inputs", nargs="*", metavar="IMAGE|PHRASE", help="images (files, folders, patterns) and phrases"
    )
    parser.add_argument("--pairs", type=user_path, metavar="JSONL", help="lines of image and phrase instead")
    parser.add_argument(
        "--out", type=user_path, metavar="PNG|FOLDER", help="marked picture; a folder where there are several images"
    )
    parser.add_argument(
        "--jsonl", type=user_path, metavar="FILE", help="write one line per answer: boxes, scores, mask, warning"
    )
    parser.add_argument(
        "--top-k", type=whole(1, 1000), default=1, help="also give the next best boxes that do not overlap"
    )
    parser.add_argument("--threshold", type=share, metavar="SCORE", help=THRESHOLD)
    parser.add_argument("--batch-size", type=whole(1), default=8, help="images per forward pass")
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="bfloat16 and float16 run faster")
    parser.add_argument("--allow-urls", action="store_true", help="fetch images given as http(s) addresses")
    add_trust_option(parser)
    add_foreign_options(parser)
    labels = parser.add_argument_group("labels for a training of one's own, by this model as the teacher")
    labels.add_argument(
        "--labels", type=user_path, metavar="JSONL", help="write what stands the checks as training data"
    )
    labels.add_argument("--phrases", type=user_path, metavar="FILE", help="phrases to ask, one a line")
    labels.add_argument("--min-score", type=share, default=0.0, help="of the teacher's answer")
    labels.add_argument("--second", metavar="MODEL", help="another model that has to agree")
    labels.add_argument("--mirror", action="store_true", help="the mirrored photograph has to agree")
    labels.add_argument("--agree", type=share, default=0.7, metavar="IOU", help="of the boxes that have to agree; 0.7")
    labels.add_argument("--review", type=ending(".html", ".htm"), metavar="HTML", help="a page to tick the labels off")
    args = parser.parse_args()
    if not args.labels and (args.second or args.mirror or args.review or args.min_score):
        parser.error("--second, --mirror, --review and --min-score are for --labels FILE")
    if args.labels and (args.out or args.jsonl):
        parser.error("--labels writes labels; --out and --jsonl are for answers")
    if (args.pairs is None) == (not args.inputs):
        parser.error("name images and phrases, or --pairs a file of them")
    return args


def find_pairs(args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Every image with its phrases."""
    from rec.errors import InputError
    from rec.inference.inputs import is_address
    from rec.trust import read_text

    if args.pairs:
        return read_pairs(args.pairs)
    images: list[str] = []
    phrases: list[str] = []
    for word in args.inputs:
        path = os.path.expanduser(word)
        if os.path.isdir(path):
            inside = sorted(str(p) for p in Path(path).iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
            inside = [name for name in inside if not Path(name).name.startswith(".")]
            if not inside:
                raise InputError(f"the folder {word} holds no image ({', '.join(IMAGE_ENDINGS)})")
            images += inside
        elif os.path.isfile(path) or is_address(word):
            images.append(path)
        elif word.lower().endswith(IMAGE_ENDINGS):
            matches = matching(path) if glob.has_magic(word) else [path]
            if not matches:
                raise InputError(f"no file matches {word}")
            images += matches
        else:
            phrases.append(word)
    if args.phrases:
        phrases += [
            line.strip() for line in read_text(args.phrases, "phrases", MAX_PHRASES).splitlines() if line.strip()
        ]
    if not images:
        raise InputError(f"no image among the arguments; is the path right? Read as phrases: {', '.join(phrases)}")
    if not phrases:
        raise InputError("no phrase among the arguments; say what to look for, such as 'the man on the left'")
    return [(image, phrases) for image in images]


def matching(pattern: str) -> list[str]:
    """Files of a pattern, sorted. Folders that are called as they stand there are meant by it: ``p[1]/*.jpg``."""
    folder, parts = Path(), list(Path(pattern).parts)
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    return sorted(glob.glob(os.path.join(glob.escape(str(folder)), *parts), recursive=True))


def read_pairs(path: Path) -> list[tuple[str, list[str]]]:
    """Lines of a file; neighbouring lines about one image are put together, so that they share its pass."""
    from rec.errors import InputError
    from rec.files import user_path
    from rec.inference.inputs import is_address
    from rec.trust import read_text

    pairs: list[tuple[str, list[str]]] = []
    for number, line in enumerate(read_text(path, "pairs").split("\n"), 1):
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
            image, phrase = str(pair["image"]), pair["phrase"]
            phrases = [phrase] if isinstance(phrase, str) else [str(one) for one in phrase]
        except (ValueError, KeyError, TypeError) as error:
            text = f'{path}:{number}: expected {{"image": …, "phrase": …}}, got {line.strip()[:80]!r} ({error!r})'
            raise InputError(text) from None
        image = image if is_address(image) else str(path.parent / user_path(image))
        if pairs and pairs[-1][0] == image:
            pairs[-1][1].extend(phrases)
        else:
            pairs.append((image, phrases))
    if not pairs:
        raise InputError(f"{path} has no lines")
    return pairs


def picture_places(out: Path | None, pairs: list[tuple[str, list[str]]]) -> list[Path | None]:
    """Where each marked picture goes: ``out`` itself for one image, else a name of its own in the folder ``out``.

    The folder is made, so that a place that cannot be written is told before the work.
    """
    from PIL import Image

    from rec.errors import InputError

    if out is None:
        return [None] * len(pairs)
    if len(pairs) == 1 and out.suffix and not out.is_dir():
        Image.init()
        if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
            raise InputError(f"--out {out}: pictures cannot be written as {out.suffix}; use .png or .jpg")
        out.parent.mkdir(parents=True, exist_ok=True)
        return [out]
    if out.is_file():
        raise InputError(f"--out {out} is a file, but there are {len(pairs)} images; name a folder")
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


def write_labels(args: argparse.Namespace, grounder: "Grounder", pairs: list[tuple[str, list[str]]]) -> int:
    """Writes the teacher's answers that stand the checks; the exit status is 1 where images could not be used."""
    from collections.abc import Iterator

    from tqdm import tqdm

    import rec
    from rec.command_line import foreign_options
    from rec.inference.labels import Checks, Label, label, write

    second = None
    if args.second:
        second = rec.from_pretrained(
            args.second, device=args.device, trust_config=args.trust_config, **foreign_options(args)
        )
        print(f"second: {second.origin}", flush=True)
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
    print(
        f"train on it  dataset.ann_path={{own: {{path: {args.labels}, bbox_format: xywh}}}}, see docs/train_on_your_images.md"
    )
    if failed:
        print(f"{len(failed)} of {len(pairs)} images could not be used", file=sys.stderr)
    return 1 if failed else 0


def one_line(image: str, answer: "Grounding") -> str:
    if answer.boxes:
        pairs = zip(answer.boxes, answer.scores, strict=True)
        where = "; ".join(f"box {' '.join(f'{v:.1f}' for v in box)}  score {score:.3f}" for box, score in pairs)
    else:
        where = f"no box  score {answer.score:.3f}" if answer.found else "nothing found"
    warning = f"  ({answer.warning})" if answer.warning else ""
    return f"{image}  {answer.phrase!r}  {where}{warning}"


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
