"""Find what phrases name in images.

    python scripts/predict.py MODEL photo.jpg "the man on the left" --out marked.png
    python scripts/predict.py MODEL photo.jpg "the man" "the red car" --out marked.png
    python scripts/predict.py MODEL 'photos/*.jpg' folder_of_images "the dog" --out marked/ --jsonl answers.jsonl
    python scripts/predict.py MODEL --pairs pairs.jsonl --jsonl answers.jsonl

MODEL is a model folder or a hub id; nothing else is needed on disk. Arguments that name files, folders or patterns are
images, the others phrases; every phrase is asked of every image. A line of --pairs is {"image": path, "phrase": text or
list}, paths relative to the file. A bad image is reported and left out; the exit status is then 1.
"""

import argparse
import glob
import json
import sys
from pathlib import Path
from typing import Any

from rec.console import require_output

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def main() -> int:
    args = parse_arguments()
    if not (args.out or args.jsonl):
        require_output()
    pairs = find_pairs(args)
    pictures = picture_names(args.out, pairs)
    answers_file = open(args.jsonl, "w", encoding="utf-8") if args.jsonl else None  # noqa: SIM115 - optional
    from tqdm import tqdm

    import rec
    from rec.inference.grounder import draw
    from rec.training.process import keep_freed_memory

    if args.device in ("auto", "cpu"):
        keep_freed_memory()
    grounder = rec.from_pretrained(
        args.model, device=args.device, dtype=args.dtype, trust_config=args.trust_config, allow_urls=args.allow_urls
    )
    print(f"model: {grounder.origin}", flush=True)
    failed = []
    progress = tqdm(total=len(pairs), disable=None if len(pairs) > 1 else True, leave=False)
    stream = grounder.stream(pairs, args.batch_size, top_k=args.top_k)
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
            draw(answers).save(picture)
    progress.close()
    if answers_file is not None:
        answers_file.close()
    if failed:
        print(f"{len(failed)} of {len(pairs)} images could not be used, the first: {failed[0]}", file=sys.stderr)
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    from rec.inference.command_line import add_trust_option

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder or hub id user/name")
    parser.add_argument(
        "inputs", nargs="*", metavar="IMAGE|PHRASE", help="images (files, folders, patterns) and phrases"
    )
    parser.add_argument("--pairs", metavar="JSONL", help="lines of image and phrase instead")
    parser.add_argument("--out", metavar="PNG|FOLDER", help="marked picture; a folder where there are several images")
    parser.add_argument("--jsonl", metavar="FILE", help="write one line per answer: box, score, mask, warning")
    parser.add_argument("--top-k", type=int, default=1, help="also give the next best boxes that do not overlap")
    parser.add_argument("--batch-size", type=int, default=8, help="images per forward pass")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="bfloat16 and float16 run faster")
    parser.add_argument("--allow-urls", action="store_true", help="fetch images given as http(s) addresses")
    add_trust_option(parser)
    args = parser.parse_args()
    if (args.pairs is None) == (not args.inputs):
        parser.error("name images and phrases, or --pairs a file of them")
    return args


def find_pairs(args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Every image with its phrases."""
    from rec.inference.command_line import InputError

    if args.pairs:
        return read_pairs(Path(args.pairs))
    images: list[str] = []
    phrases: list[str] = []
    for word in args.inputs:
        path = Path(word)
        if path.is_dir():
            inside = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
            if not inside:
                raise InputError(f"the folder {word} holds no image ({', '.join(IMAGE_ENDINGS)})")
            images += inside
        elif path.is_file() or word.startswith(("http://", "https://")) or word.lower().endswith(IMAGE_ENDINGS):
            matches = sorted(glob.glob(word, recursive=True)) if glob.has_magic(word) and not path.is_file() else [word]
            if not matches:
                raise InputError(f"no file matches {word}")
            images += matches
        else:
            phrases.append(word)
    if not images:
        raise InputError(f"no image among the arguments; is the path right? Read as phrases: {', '.join(phrases)}")
    if not phrases:
        raise InputError("no phrase among the arguments; say what to look for, such as 'the man on the left'")
    return [(image, phrases) for image in images]


def read_pairs(path: Path) -> list[tuple[str, list[str]]]:
    """Lines of a file; neighbouring lines about one image are put together, so that they share its pass."""
    from rec.inference.command_line import InputError

    pairs: list[tuple[str, list[str]]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                pair = json.loads(line)
                image, phrase = str(pair["image"]), pair["phrase"]
                phrases = [phrase] if isinstance(phrase, str) else [str(one) for one in phrase]
            except (ValueError, KeyError, TypeError) as error:
                text = f'{path}:{number}: expected {{"image": …, "phrase": …}}, got {line.strip()[:80]!r} ({error!r})'
                raise InputError(text) from None
            image = image if image.startswith(("http://", "https://")) else str(path.parent / image)
            if pairs and pairs[-1][0] == image:
                pairs[-1][1].extend(phrases)
            else:
                pairs.append((image, phrases))
    if not pairs:
        raise InputError(f"{path} has no lines")
    return pairs


def picture_names(out: str | None, pairs: list[tuple[str, list[str]]]) -> list[Path | None]:
    """Where each marked picture goes: ``out`` itself for one image, else a name of its own in the folder ``out``.

    The folder is made, so that a place that cannot be written is told before the work.
    """
    from PIL import Image

    from rec.inference.command_line import InputError

    if out is None:
        return [None] * len(pairs)
    place = Path(out)
    if len(pairs) == 1 and place.suffix and not place.is_dir():
        if place.suffix.lower() not in Image.registered_extensions():
            raise InputError(f"--out {out}: pictures cannot be written as {place.suffix}; use .png or .jpg")
        place.parent.mkdir(parents=True, exist_ok=True)
        return [place]
    if place.is_file():
        raise InputError(f"--out {out} is a file, but there are {len(pairs)} images; name a folder")
    place.mkdir(parents=True, exist_ok=True)
    taken: dict[str, int] = {}
    names: list[Path | None] = []
    for image, _ in pairs:
        stem = Path(image).stem
        taken[stem] = taken.get(stem, 0) + 1
        names.append(place / (f"{stem}.png" if taken[stem] == 1 else f"{stem}_{taken[stem]}.png"))
    return names


def one_line(image: str, answer: Any) -> str:
    where = "no box" if answer.box is None else " ".join(f"{value:.1f}" for value in answer.box)
    warning = f"  ({answer.warning})" if answer.warning else ""
    return f"{image}  {answer.phrase!r}  box {where}  score {answer.score:.3f}{warning}"


if __name__ == "__main__":
    from rec.inference.command_line import exit_with

    exit_with(main)
