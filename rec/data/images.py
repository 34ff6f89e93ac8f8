"""Reading images by one rule, and the letterbox.

The rule, the same for files, bytes, PIL images, arrays and tensors: EXIF orientation applied; grayscale repeated to three
channels; palettes expanded; transparency dropped, not blended; 16-bit samples cut to their high byte; floats from 0 to 1
only; CMYK converted as Adobe's inverted CMYK. Of animated pictures the first one is taken.

Orientation is the tag 0x0112 of the file's EXIF block, of any unsigned integer type, read here (:func:`exif_orientation`)
and nowhere else: OpenCV and Pillow disagree on damaged blocks, on 32-bit values and on XMP, which does not count. TIFF, whose
own tags these are, is turned by Pillow as it loads.
"""

import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from rec import trust
from rec.errors import InputError, UntrustedError

if TYPE_CHECKING:
    import datasets
    import PIL.Image

PAD_VALUE = 127
# What Pillow may take a file for. Its full list has formats that start other programs (EPS: Ghostscript) or read other files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ORIENTATION, _UNSIGNED = 0x0112, {1: 1, 3: 2, 4: 4}  # EXIF types BYTE, SHORT, LONG to bytes
_DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_SEGMENTS = 100_000  # of a JPEG or PNG file; real ones have some hundreds


class ImageError(InputError, ValueError):
    """An image that cannot be read; the message names it and says why."""


def image_bytes(image: Mapping[str, Any], root: str | os.PathLike[str] = "") -> bytes:
    """The encoded file of a row's ``image``: its bytes, or else the file at its path below ``root``.

    Raises:
        ImageError: there is no such file, or it cannot be read.
    """
    if image["bytes"] is not None:
        return image["bytes"]
    if not image["path"]:
        raise ImageError("the record names no image file and holds no image bytes")
    return read_bytes(os.path.join(root, image["path"]))


def read_image(image: Mapping[str, Any], root: str | os.PathLike[str] = "") -> np.ndarray:
    """The pixels of a row's ``image``, as :func:`decode_image` gives them."""
    return decode_image(image_bytes(image, root), image["path"])


def picture_key(image: Mapping[str, Any]) -> str:
    """What tells the pictures of one table apart: the digest of embedded bytes, else the path. Ids do not: whoever
    shares or stores pictures by id shows one for the other where a source gives an id twice.
    """
    data = image["bytes"]
    return str(image["path"]) if data is None else f"sha256:{hashlib.sha256(data).hexdigest()}"


def picture_keys(rows: "datasets.Dataset") -> Iterator[str]:
    """The :func:`picture_key` of each row of a ``datasets.Dataset`` without an indices mapping."""
    for chunk in rows.data.column("image").chunks:
        for image in chunk:
            yield picture_key(image.as_py())


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The file's bytes.

    Raises:
        ImageError: there is no such file, it is not a regular file or too large, or it cannot be read.
    """
    try:
        return trust.read_bytes(path, "image", trust.MAX_IMAGE_BYTES)
    except OSError as error:
        raise ImageError(f"cannot read the image {os.fspath(path)}: {error.strerror or error}") from None
    except (UntrustedError, ValueError) as error:  # ValueError: a name no file system takes
        raise ImageError(f"cannot read the image {os.fspath(path)!r}: {error}") from None


def decode_image(
    image: str | os.PathLike[str] | bytes, name: str | None = None, max_pixels: int = trust.MAX_PIXELS
) -> np.ndarray:
    """Decodes an image file or its bytes.

    Args:
        image: path, or the encoded bytes.
        name: what to call the image in errors; the path by default.
        max_pixels: larger images are refused by their header, before memory is taken.

    Returns:
        uint8 ``(H, W, 3)``, RGB, contiguous.

    Raises:
        ImageError: missing, truncated, too large or no image.
    """
    data, name = _named(image, name)
    header = _header(data)
    if header is not None:
        check_size(header.width, header.height, name, max_pixels)
        if header.whole:  # OpenCV fills what is missing of a truncated file with gray and says nothing; PIL raises
            pixels = _by_opencv(data)
            if pixels is not None and pixels.shape[:2] == (header.height, header.width):
                return upright(pixels, header.orientation)
    return rgb_from_pil(open_image(data, name, max_pixels), name)


def image_size(image: str | os.PathLike[str] | bytes, name: str | None = None) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation; of whole JPEG and PNG files from the header alone.

    Raises:
        ImageError: missing, too large, no image, or broken (of a JPEG only a missing end is seen, of a PNG any change).
    """
    data, name = _named(image, name)
    header = _header(data)
    if header is None or not header.whole or not _has_right_sums(data):
        height, width = decode_image(data, name).shape[:2]
        return width, height
    check_size(header.width, header.height, name)
    return (header.height, header.width) if header.orientation >= 5 else (header.width, header.height)


def check_size(width: int, height: int, name: str, max_pixels: int = trust.MAX_PIXELS) -> None:
    """Refuses images that are too large to decode.

    Raises:
        ImageError: more than ``max_pixels`` pixels, or none.
    """
    if width * height > max_pixels:
        raise ImageError(
            f"the image {name} has {width} x {height} pixels, more than {max_pixels:,}; make it smaller first"
        )
    if width < 1 or height < 1:
        raise ImageError(f"the image {name} has {width} x {height} pixels: it is broken")


def open_image(data: bytes, name: str, max_pixels: int = trust.MAX_PIXELS) -> "PIL.Image.Image":
    """A PIL image of one of :data:`FORMATS`, not decoded yet.

    Raises:
        ImageError: none of them, broken, or larger than ``max_pixels``.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            f"the image {name} is not an image in a known format ({len(data)} bytes); known are {', '.join(FORMATS)}"
        ) from None
    except Exception as error:  # on a stranger's bytes its plugins raise anything, KeyError and struct.error too
        raise ImageError(f"the image {name} is truncated, broken or too large: {error}") from None
    check_size(*opened.size, name, max_pixels)
    return opened


def rgb_from_pil(image: "PIL.Image.Image", name: str = "given") -> np.ndarray:
    """A PIL image as uint8 ``(H, W, 3)`` RGB, by the same rule as :func:`decode_image`.

    Raises:
        ImageError: the image's file turns out to be truncated or broken, or its samples are not a picture's.
    """
    try:
        image.load()
        sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
        if sixteen:  # PIL's own conversion clips 16-bit samples to 255
            pixels = rgb_from_array(np.asarray(image).astype(np.uint16), name)
        elif image.mode in ("I", "F"):
            pixels = rgb_from_array(np.asarray(image), name)
        else:
            pixels = np.asarray((image.convert("LA") if image.mode == "La" else image).convert("RGB"))
        return upright(pixels, exif_orientation(image.info.get("exif")))
    except ImageError:
        raise
    except Exception as error:  # as in open_image
        raise ImageError(f"the image {name} is truncated or broken: {error}") from None


def rgb_from_array(array: np.ndarray, name: str = "given") -> np.ndarray:
    """Samples as uint8 ``(H, W, 3)`` RGB.

    Args:
        array: ``(H, W)`` or ``(H, W, 1 | 3 | 4)``; uint8, uint16 (cut to the high byte), bool, or floats from 0 to 1.
        name: what to call it in errors.

    Raises:
        ImageError: another shape or type, too large, NaN, or floats outside of 0 to 1.
    """
    if array.ndim not in (2, 3) or 0 in array.shape or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise ImageError(f"the image {name} is an array of shape {array.shape}; expected (H, W, 3) RGB, or (H, W)")
    check_size(array.shape[1], array.shape[0], name)
    array = array[..., :3] if array.ndim == 3 else array[..., None]
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        # A resize leaves rounding errors behind; whatever is further out is 0-255 or normalised.
        if not (low >= -1e-3 and high <= 1.001):
            raise ImageError(
                f"the image {name} holds floats from {low:g} to {high:g}; floats are read as 0 to 1: divide by their "
                "largest possible value, or give uint8 from 0 to 255"
            )
        array = (array.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype != np.uint8:
        raise ImageError(
            f"the image {name} holds {array.dtype}; which value is white cannot be told: convert it to uint8 (0 to 255), "
            "uint16 (0 to 65535) or floats (0 to 1)"
        )
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)


def exif_orientation(exif: object) -> int:
    """The orientation, 1 to 8, that an EXIF block gives; 1 where it gives none or a broken one.

    Args:
        exif: the block, a TIFF structure (https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf, 4.6), with or without
            ``Exif\\0\\0`` before it. An entry that is cut off does not count.
    """
    if not isinstance(exif, bytes):
        return 1
    exif = exif.removeprefix(b"Exif\0\0")
    order: Any = {b"II*\0": "little", b"MM\0*": "big"}.get(exif[:4])
    if order is None:
        return 1
    start = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[start : start + 2], order)
    for place in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        if int.from_bytes(exif[place : place + 2], order) == _ORIENTATION:
            size = _UNSIGNED.get(int.from_bytes(exif[place + 2 : place + 4], order), 0)
            value = int.from_bytes(exif[place + 8 : place + 8 + size], order)
            return value if 1 <= value <= 8 else 1
    return 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation; contiguous."""
    if orientation >= 5:
        pixels = cv2.transpose(pixels)
    # Which axes are mirrored then: 1 left and right, 0 up and down, -1 both.
    mirror = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return np.ascontiguousarray(pixels if mirror is None else cv2.flip(pixels, mirror))


def _named(image: str | os.PathLike[str] | bytes, name: str | None) -> tuple[bytes, str]:
    if isinstance(image, bytes):
        return image, name or f"of {len(image)} bytes"
    return read_bytes(image), name or os.fspath(image)


def _by_opencv(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), _DECODE)
    except cv2.error:
        return None


class _Header(NamedTuple):
    """Of a JPEG or PNG file: size as stored, orientation, and whether the file goes on to its end."""

    width: int
    height: int
    orientation: int
    whole: bool


def _header(data: bytes) -> _Header | None:
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg_header(data)
    return _png_header(data) if data.startswith(_PNG) else None


def _jpeg_header(data: bytes) -> _Header | None:
    """Reads the segments up to the scan (ITU-T T.81, annex B): the frame header, and the first block of EXIF."""
    place, width, height, exif = 2, 0, 0, None
    for _ in range(_MAX_SEGMENTS):
        place = data.find(b"\xff", place)
        if place < 0 or place + 4 > len(data):
            break
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        if marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # no segment behind it
            place += 2
            continue
        if marker in (0xD9, 0xDA):
            break
        content = place + 4
        if marker == 0xE1 and exif is None and data.startswith(b"Exif\0\0", content):
            exif = data[content : place + 2 + int.from_bytes(data[place + 2 : content], "big")]
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not width:
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (content + 1, content + 3))
        place += 2 + int.from_bytes(data[place + 2 : content], "big")
    return _Header(width, height, exif_orientation(exif), b"\xff\xd9" in data[-1024:]) if width else None


def _png_header(data: bytes) -> _Header | None:
    """Reads the chunks (https://www.w3.org/TR/png-3/, 5.3): the header, and EXIF wherever it is."""
    if data[12:16] != b"IHDR":
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    kind, exif = b"", None
    for kind, start, end in _png_chunks(data):
        if kind == b"eXIf":
            exif = data[start:end]
    return _Header(width, height, exif_orientation(exif), kind == b"IEND")


def _has_right_sums(data: bytes) -> bool:
    """False for a PNG file one of whose critical chunks has a wrong check sum; True for anything else."""
    return not data.startswith(_PNG) or all(
        zlib.crc32(data[start - 4 : end]) == int.from_bytes(data[end : end + 4], "big")
        for kind, start, end in _png_chunks(data)
        if not kind[0] & 32
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the content of each chunk that is whole."""
    place = len(_PNG)
    for _ in range(_MAX_SEGMENTS):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            return
        kind = data[place + 4 : place + 8]
        yield kind, place + 8, end
        if kind == b"IEND":
            return
        place = end + 4


def letterbox(image: np.ndarray, geometry: np.ndarray, size: int) -> np.ndarray:
    """Resizes bilinearly to ``geometry``'s ``nh`` x ``nw`` and pads with 127 to a square.

    Args:
        image: uint8 ``(H, W, 3)``; any size (it may be stored smaller than the original), the aspect is ``geometry``'s.
        geometry: :func:`rec.boxes.letterbox_geometry` of the original image and ``size``.
        size: side of the square in pixels.

    Returns:
        uint8 ``(3, size, size)``, contiguous.

    Raises:
        ImageError: an image of another type; OpenCV would leave the square as uninitialised as it is.
    """
    if image.dtype != np.uint8 or image.shape[2:] != (3,):
        raise ImageError(f"an image of {image.dtype} {image.shape} cannot be letterboxed; expected uint8 (H, W, 3)")
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
