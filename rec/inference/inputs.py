"""What a Grounder is given: images as users have them (paths, bytes, PIL, arrays, tensors, addresses; folders, patterns,
batches), phrases, options; and both as a command line or a file names them."""

import glob
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from PIL import Image

from rec import trust
from rec.contracts import Answer
from rec.data.images import ImageError, check_size, decode_image, open_image, read_bytes, rgb_from_array, rgb_from_pil
from rec.data.text import is_blank
from rec.errors import InputError
from rec.files import PathLike, user_path

# What users have: a path, an http(s) address, encoded bytes, a PIL image, an array or a tensor.
ImageLike = PathLike | bytes | Image.Image | np.ndarray | torch.Tensor
Channels = Literal["rgb", "bgr"]
Phrases = str | Sequence[str]  # about one image
Pair = tuple[str, list[str]]  # an image and the phrases asked of it
MAX_PHRASES = 16 << 20  # bytes of a file of phrases
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")


class Options(TypedDict, total=False):
    """How a :class:`Grounder` is asked; see its call."""

    top_k: int
    nms_iou: float
    threshold: float | None
    batch_size: int
    keep_images: bool
    channels: Channels
    heat_maps: bool


@dataclass(frozen=True)
class How:
    """What of :class:`Options` reaches one image and its answers."""

    top_k: int
    nms_iou: float
    answer: Answer | None
    keep: bool
    channels: Channels
    heat_maps: bool = False

    def __post_init__(self) -> None:
        no_texts(keep_images=self.keep, heat_maps=self.heat_maps)
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int | np.integer) or self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k!r}; expected a whole number of at least 1")
        if not is_number(self.nms_iou) or not 0 <= self.nms_iou <= 1:
            raise ValueError(f"nms_iou is {self.nms_iou!r}; expected an overlap, 0 to 1")


def find_images(place: PathLike) -> list[str] | None:
    """The image files of a folder or a pattern (``photos/*.jpg``, ``photos/**/*``), sorted; None for what names one image.

    Hidden files and folders are left out. Folders that are called as they stand in a pattern are meant by it: ``p[1]/*.jpg``.

    Raises:
        ImageError: no image is there.
    """
    path = os.path.expanduser(place)
    if os.path.isdir(path):
        names, missing = [os.path.join(path, name) for name in os.listdir(path)], f"the folder {place} holds no image"
    elif is_address(path) or os.path.lexists(path) or not glob.has_magic(path):
        return None
    else:
        folder, parts = Path(), list(Path(path).parts)
        while len(parts) > 1 and (folder / parts[0]).is_dir():
            folder /= parts.pop(0)
        names = glob.glob(os.path.join(glob.escape(str(folder)), *parts), recursive=True)
        missing = f"no file matches {place}; looked for images"
    images = [name for name in names if name.lower().endswith(IMAGE_ENDINGS) and os.path.basename(name)[0] != "."]
    images = [name for name in images if not os.path.isdir(name)]  # a folder may be called x.jpg, too
    if not images:
        raise ImageError(f"{missing} ({', '.join(IMAGE_ENDINGS)})")
    return sorted(images)


def find_pairs(words: Sequence[str], phrases_file: Path | None = None) -> list[Pair]:
    """Images and phrases in any order: what names files, folders or patterns is images, the rest phrases, each asked of each.

    Args:
        words: as they stand on a command line.
        phrases_file: further phrases, one a line.

    Raises:
        InputError: no image, or no phrase; a folder or pattern without an image.
    """
    images: list[str] = []
    phrases: list[str] = []
    for word in words:
        path = os.path.expanduser(word)
        if os.path.isdir(path) or word.lower().endswith(IMAGE_ENDINGS):
            images += find_images(path) or [path]
        elif os.path.isfile(path) or is_address(word):
            images.append(path)
        elif matched := _matched(path):  # "photos/*"; a phrase may have such signs too
            images += matched
        else:
            phrases.append(word)
    if phrases_file:
        lines = trust.read_text(phrases_file, "phrases", MAX_PHRASES).splitlines()
        phrases += [line.strip() for line in lines if line.strip()]
    if not images:
        raise InputError(f"no image among the arguments; is the path right? Read as phrases: {', '.join(phrases)}")
    if not phrases:
        named = ", ".join(word for word in words if not word.lower().endswith(IMAGE_ENDINGS))
        hint = f"; files or folders are called so, and taken for images: {named} (--phrases FILE holds phrases)"
        raise InputError(
            f"no phrase among the arguments; say what to look for, such as 'the man on the left'{hint if named else ''}"
        )
    return [(image, phrases) for image in images]


def _matched(pattern: str) -> list[str]:
    """The images that a pattern names, none for a phrase."""
    with suppress(ImageError):
        return find_images(pattern) or []
    return []


def read_pairs(path: Path) -> list[Pair]:
    """Lines ``{"image": path, "phrase": text or list}`` of a file, paths relative to it; neighbouring lines about one image are
    put together, so that they share its pass.

    Raises:
        InputError: another line, or none.
    """
    pairs: list[Pair] = []
    for number, line in enumerate(trust.read_text(path, "pairs").split("\n"), 1):
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
            image, phrase = pair["image"], pair["phrase"]
            phrases = [phrase] if isinstance(phrase, str) else list(phrase)
            if not all(isinstance(one, str) for one in (image, *phrases)):
                raise TypeError("both are texts")
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


def several(image: object) -> Sequence[ImageLike] | Iterator[ImageLike] | None:
    """The images of what holds several (a folder, a pattern, a batch of four axes, a sequence, an iterable); None for one."""
    if isinstance(image, str | os.PathLike):
        return find_images(image)
    if isinstance(image, np.ndarray | torch.Tensor):
        return list(image) if image.ndim == 4 else None
    if isinstance(image, bytes | bytearray | memoryview | Image.Image | Mapping) or hasattr(image, "read"):
        return None  # a row of a table and an open file are iterables, too, and no images
    if isinstance(image, Sequence):
        return image
    if isinstance(image, Collection):
        return list(image)  # a column of pandas, what a dict or a set holds
    return iter(image) if isinstance(image, Iterable) else None


def to_pixels(image: ImageLike, allow_urls: bool = False, channels: Channels = "rgb") -> tuple[np.ndarray, str | None]:
    """An image of any accepted kind as pixels.

    Args:
        image: Path, encoded bytes, PIL image, NumPy ``(H, W[, 1 | 3 | 4])``, torch ``(1 | 3, H, W)``, their samples
            as :func:`rec.data.images.rgb_from_array` takes them; an http(s) address where ``allow_urls``.
        allow_urls: Fetch addresses of the public internet, see :mod:`rec.inference.download`.
        channels: Order of an array's or tensor's channels; OpenCV's frames are ``"bgr"``.

    Returns:
        uint8 ``(H, W, 3)`` RGB, EXIF orientation applied, and what to mind about it (or None).

    Raises:
        ImageError: it cannot be read, or has more than :data:`rec.trust.MAX_PIXELS` pixels: told of a file by its header,
            before memory is taken.
    """
    if channels not in ("rgb", "bgr"):
        raise ImageError(f"channels is {channels!r}; expected rgb, or bgr for frames of OpenCV")
    if isinstance(image, str | os.PathLike | bytes):
        name = None if isinstance(image, bytes) else os.fspath(image)
        if name and is_address(name):
            if not allow_urls:
                raise ImageError(f"{name} is an address; download it first, or load the model with allow_urls=True")
            from rec.inference.download import download

            image = download(name)
        data = image if isinstance(image, bytes) else read_bytes(user_path(image))
        return _decoded(data, name)
    if isinstance(image, Image.Image):
        check_size(*image.size, "given")
        return rgb_from_pil(image), None
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ImageError(f"a tensor image is (3, H, W), not {tuple(image.shape)}")
        values = image.detach().cpu()
        image = (values.float() if values.is_floating_point() else values).permute(1, 2, 0).numpy()
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image is a path, bytes, PIL image, array or tensor, not {type(image).__name__}")
    pixels = rgb_from_array(image)
    return (pixels if channels == "rgb" else np.ascontiguousarray(pixels[..., ::-1])), None


def is_address(image: object) -> bool:
    """Whether an image is named by an http(s) address."""
    return isinstance(image, str) and re.match("https?://", image, re.IGNORECASE) is not None


def _decoded(data: bytes, name: str | None) -> tuple[np.ndarray, str | None]:
    name = name or f"of {len(data)} bytes"
    pixels = decode_image(data, name)
    if not data.startswith(b"\xff\xd8"):  # a second picture in a JPEG file is a preview
        with suppress(Exception):  # the first picture was read; of a broken second one Pillow's plugins raise anything
            if getattr(open_image(data, name), "is_animated", False):
                return pixels, "animated image: the first picture was taken"
    return pixels, None


def is_number(value: object) -> bool:
    """Whether it is a number or a scalar of one: not text, as forms and environment variables give it, and not True."""
    return isinstance(value, Real | torch.Tensor | np.ndarray) and not isinstance(value, bool)


def no_texts(**switches: object) -> None:
    """Refuses text for True or False, out of a form or the environment: "no" would count as yes.

    Raises:
        InputError: names the switch.
    """
    for name, value in switches.items():
        if isinstance(value, str):
            raise InputError(f"{name} is {value!r}; expected True or False")


def with_threshold(answer: Answer | None, threshold: float | None) -> Answer | None:
    """``answer`` with another threshold, where one is given."""
    if threshold is None:
        return answer
    if not is_number(threshold) or not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold!r}; expected a score, 0 to 1")
    return replace(answer or Answer(), threshold=threshold)


def phrases_of(phrase: Phrases) -> list[str]:
    phrases = list(phrase) if isinstance(phrase, Iterable) and not isinstance(phrase, str | bytes | dict) else [phrase]
    if not phrases:
        raise ValueError("no phrase was given")
    for one in phrases:
        if not isinstance(one, str):
            raise ValueError(f"a phrase is a string, not {type(one).__name__}: {one!r}")
        if is_blank(one):
            raise ValueError("the phrase is empty; say what to look for, such as 'the man on the left'")
    return phrases
