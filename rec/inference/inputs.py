"""Images as users have them (paths, bytes, PIL, arrays, tensors, addresses) to RGB pixels."""

import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rec import trust
from rec.data.images import ImageError, check_size, decode_image, open_image, read_bytes, rgb_from_array, rgb_from_pil
from rec.files import user_path

# What users have: a path, an http(s) address, encoded bytes, a PIL image, an array or a tensor.
ImageLike = str | Path | bytes | Image.Image | np.ndarray | torch.Tensor


def to_pixels(
    image: ImageLike, allow_urls: bool = False, max_pixels: int = trust.MAX_PIXELS
) -> tuple[np.ndarray, str | None]:
    """An image of any accepted kind as pixels.

    Args:
        image: Path, encoded bytes, PIL image, NumPy ``(H, W[, 1 | 3 | 4])`` RGB, torch ``(1 | 3, H, W)``, their samples
            as :func:`rec.data.images.rgb_from_array` takes them; an http(s) address where ``allow_urls``.
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
        check_size(*image.size, "the given image", max_pixels)
        return rgb_from_pil(image), None
    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ImageError(f"a tensor image is (3, H, W), not {tuple(image.shape)}")
        values = image.detach().cpu()
        image = (values.float() if values.is_floating_point() else values).permute(1, 2, 0).numpy()
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image is a path, bytes, PIL image, array or tensor, not {type(image).__name__}")
    return rgb_from_array(image, "given", max_pixels), None


def is_address(image: object) -> bool:
    """Whether an image is named by an http(s) address."""
    return isinstance(image, str) and re.match("https?://", image, re.IGNORECASE) is not None


def _decoded(data: bytes, name: str | None, max_pixels: int) -> tuple[np.ndarray, str | None]:
    name = name or f"of {len(data)} bytes"
    pixels = decode_image(data, name, max_pixels)
    if not data.startswith(b"\xff\xd8"):  # a second picture in a JPEG file is a preview
        with suppress(Exception):  # the first picture was read; of a broken second one Pillow's plugins raise anything
            if getattr(open_image(data, name, max_pixels), "is_animated", False):
                return pixels, "animated image: the first picture was taken"
    return pixels, None
