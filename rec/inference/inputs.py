"""Images as users have them (paths, bytes, PIL, arrays, tensors, addresses) to RGB pixels."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from rec.data.images import ImageError, decode_image, read_bytes, rgb_from_pil
from rec.files import user_path

MAX_PIXELS = 100_000_000  # 300 MB decoded


def to_pixels(image: Any, allow_urls: bool = False, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, str | None]:
    """An image of any accepted kind as pixels.

    Args:
        image: Path, encoded bytes, PIL image, NumPy uint8 ``(H, W[, 1 | 3 | 4])`` RGB, torch uint8 or float 0-1
            ``(3, H, W)``; an http(s) address where ``allow_urls``.
        allow_urls: Fetch addresses of the public internet, see :mod:`rec.inference.download`.
        max_pixels: Refuse larger images, files by their header, before memory is taken.

    Returns:
        uint8 ``(H, W, 3)`` RGB, EXIF orientation applied, and what to mind about it (or None).

    Raises:
        ImageError: it cannot be read, or has more than ``max_pixels`` pixels.
    """
    if isinstance(image, str | Path | bytes):
        name = None if isinstance(image, bytes) else str(image)
        if name and is_address(name):
            if not allow_urls:
                raise ImageError(f"{name} is an address; download it first, or load the model with allow_urls=True")
            from rec.inference.download import download

            image = download(name)
        data = image if isinstance(image, bytes) else read_bytes(user_path(image))
        return _decoded(data, name, max_pixels)
    if isinstance(image, Image.Image):
        _check_size(*image.size, "the given image", max_pixels)
        return rgb_from_pil(image), None
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ImageError(f"a tensor image is (3, H, W), not {tuple(image.shape)}")
        values = image.detach().cpu()
        scaled = (values.float().clamp(0, 1) * 255).round().byte() if values.is_floating_point() else values
        image = scaled.permute(1, 2, 0).numpy()
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image is a path, bytes, PIL image, array or tensor, not {type(image).__name__}")
    if (
        image.dtype != np.uint8
        or image.ndim not in (2, 3)
        or 0 in image.shape
        or image.shape[2:] not in ((), (1,), (3,), (4,))
    ):
        raise ImageError(f"an array image is uint8 (H, W, 3) RGB, not {image.dtype} {image.shape}")
    _check_size(image.shape[1], image.shape[0], "the given array", max_pixels)
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[..., :3]), None


def is_address(image: Any) -> bool:
    """Whether an image is named by an http(s) address."""
    return isinstance(image, str) and re.match("https?://", image, re.IGNORECASE) is not None


def _decoded(data: bytes, name: str | None, max_pixels: int) -> tuple[np.ndarray, str | None]:
    warning = None
    try:
        with Image.open(io.BytesIO(data)) as header:
            _check_size(*header.size, name or "the given image", max_pixels)
            if getattr(header, "is_animated", False):
                warning = "animated image: the first picture was taken"
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name or 'the given image'} is too large: {error}") from None
    except (UnidentifiedImageError, OSError, SyntaxError):
        pass  # decode_image says what is wrong with it
    return decode_image(data, name), warning


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{name} has {width} x {height} pixels, more than {max_pixels:,}; make it smaller first")
