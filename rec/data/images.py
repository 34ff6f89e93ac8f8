"""Reading images by one rule, and the letterbox.

The rule, the same for every reader: EXIF orientation applied; grayscale repeated to three channels; palettes expanded;
transparency dropped, not blended; 16-bit samples cut to their high byte; CMYK converted as Adobe's inverted CMYK.
"""

import io
import os
from typing import Any

import cv2
import numpy as np

PAD_VALUE = 127


class ImageError(ValueError):
    """An image that cannot be read; the message names it and says why."""


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The file's bytes.

    Raises:
        ImageError: there is no such file, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"cannot read the image {os.fspath(path)}: {error.strerror or error}") from None


def decode_image(image: str | os.PathLike[str] | bytes, name: str | None = None) -> np.ndarray:
    """Decodes an image file or its bytes.

    Args:
        image: path, or the encoded bytes.
        name: what to call the image in errors; the path by default.

    Returns:
        uint8 ``(H, W, 3)``, RGB, contiguous.

    Raises:
        ImageError: missing, truncated or no image.
    """
    if isinstance(image, bytes):
        data, name = image, name or f"of {len(image)} bytes"
    else:
        data, name = read_bytes(image), name or os.fspath(image)
    if _has_end(data):  # OpenCV fills what is missing of a truncated file with gray and says nothing; PIL raises
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is not None:
            return pixels
    return rgb_from_pil(_open(data, name), name)


def rgb_from_pil(image: Any, name: str = "given") -> np.ndarray:
    """A PIL image as uint8 ``(H, W, 3)`` RGB, by the same rule as :func:`decode_image`.

    Raises:
        ImageError: the image's file turns out to be truncated or broken.
    """
    from PIL import ImageOps

    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # PIL's own conversion clips 16-bit samples to 255
            pixels = np.asarray(image)
            gray = (pixels >> 8 if pixels.max(initial=0) > 255 else pixels).astype(np.uint8)
            return np.repeat(gray[:, :, None], 3, axis=2)
        return np.ascontiguousarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"the image {name} is truncated or broken: {error}") from None


def image_size(image: str | os.PathLike[str] | bytes, name: str | None = None) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, from the header alone.

    Raises:
        ImageError: missing, no image, or cut short (seen without decoding for JPEG and PNG only).
    """
    if not isinstance(image, bytes):
        name, image = name or os.fspath(image), read_bytes(image)
    name = name or f"of {len(image)} bytes"
    opened = _open(image, name)
    if not _has_end(image):
        rgb_from_pil(opened, name)
    sideways = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (opened.height, opened.width) if sideways else (opened.width, opened.height)


def _open(data: bytes, name: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise ImageError(f"{name} is no image in a known format ({len(data)} bytes)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"the image {name} is truncated or broken: {error}") from None


def _has_end(data: bytes) -> bool:
    """Whether the end marker of a JPEG or PNG file is in its last kilobyte; other formats: False."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in data[-1024:]
    return data.startswith(b"\x89PNG") and b"IEND" in data[-1024:]


def letterbox(image: np.ndarray, geometry: np.ndarray, size: int) -> np.ndarray:
    """Resizes bilinearly to ``geometry``'s ``nh`` x ``nw`` and pads with 127 to a square.

    Args:
        image: uint8 ``(H, W, 3)``; any size (it may be stored smaller than the original), the aspect is ``geometry``'s.
        geometry: :func:`rec.boxes.letterbox_geometry` of the original image and ``size``.
        size: side of the square in pixels.

    Returns:
        uint8 ``(3, size, size)``, contiguous.
    """
    nh, nw, dx, dy = (int(value) for value in geometry[2:])
    if image.shape[:2] != (nh, nw):
        image = cv2.resize(image, (nw, nh))
    square = np.empty((3, size, size), np.uint8)
    square[:, :dy] = square[:, dy + nh :] = PAD_VALUE
    square[:, :, :dx] = square[:, :, dx + nw :] = PAD_VALUE
    cv2.split(image, [square[channel, dy : dy + nh, dx : dx + nw] for channel in range(3)])
    return square


def letterbox_mask(mask: np.ndarray, geometry: np.ndarray, size: int) -> np.ndarray:
    """The same geometry for a mask, padded with 0.

    Args:
        mask: uint8 ``(H, W)`` of 0 and 1; column-major as :func:`rec.data.masks.decode` gives it costs no copy.

    Returns:
        uint8 ``(1, size, size)``, 0 to 255; edges are soft.
    """
    nh, nw, dx, dy = (int(value) for value in geometry[2:])
    square = np.zeros((1, size, size), np.uint8)
    lying = np.ascontiguousarray(mask.T) * np.uint8(255)
    cv2.transpose(cv2.resize(lying, (nh, nw)), square[0, dy : dy + nh, dx : dx + nw])
    return square
