"""One row and one sentence to one sample: decode, augment, letterbox, tokenise."""

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import xxhash
from torch.utils.data import default_collate

from rec import boxes
from rec.contracts import Words
from rec.data import masks
from rec.data.augment import Augmentation, check_transforms
from rec.data.images import PAD_VALUE, ImageError, letterbox, letterbox_mask, picture_key, read_image
from rec.data.schema import ONE_ONLY, BadRecord, attempt, boxes_of, weight_of
from rec.data.store import is_raw, read_raw
from rec.data.tables import Table
from rec.data.text import mirror_phrase

# What a sample is made of; masks come on top where they are wanted.
SAMPLE_COLUMNS = ("image", "image_id", "ref_id", "width", "height", "bbox", "boxes", "sentences", "source", "weight")
TARGETS = ("one", "any")


def _named(row: dict[str, Any]) -> str:
    return f"{row['source']}, ref_id {row['ref_id']}, image_id {row['image_id']}"


def _check(row: dict[str, Any]) -> None:
    """Refuses what no preparation writes, but a damaged or foreign table may hold."""
    numbers, several = [row["width"], row["height"]], boxes_of(row)
    whole = all(box is not None and len(box) == 4 and None not in box for box in several)
    whole &= not isinstance(attempt(weight_of, row), BadRecord)
    sentences = row["sentences"] or [None]
    if not whole or None in numbers or min(numbers) < 1 or None in sentences or row["image"] is None:
        raise BadRecord("broken row", f"{_named(row)}: the table is damaged, or of somebody else: prepare it again")


def _picture(table: Table, row: dict[str, Any]) -> tuple[str, ...]:
    return table.fingerprint, table.image_root, picture_key(row["image"])


def _corners(row: dict[str, Any]) -> np.ndarray:
    """float64 ``(N, 4)`` xyxy in pixels of the image."""
    return boxes.xywh_to_xyxy(np.array(boxes_of(row), np.float64).reshape(-1, 4))


def collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Samples to tensors with a leading dimension B; boxes of phrases that name fewer than others get rows of zeros, and
    samples that do not say their weight one of 1 where another one does."""
    if any("weight" in sample for sample in samples):
        samples = [{"weight": torch.ones(())} | sample for sample in samples]
    if samples and "boxes" in samples[0]:
        most = max(1, *(len(sample["boxes"]) for sample in samples))
        padded = {
            name: [F.pad(sample[name], (0, 0, 0, most - len(sample[name]))) for sample in samples]
            for name in ("boxes", "boxes_pixels")
        }
        samples = [sample | {name: padded[name][i] for name in padded} for i, sample in enumerate(samples)]
    return default_collate(list(samples))


class SampleMaker:
    """Makes samples; its arguments are those of :class:`rec.data.dataset.RefCOCODataSet`, ``size`` is the square's
    side.
    """

    def __init__(
        self,
        vocabulary: Words,
        *,
        size: int,
        max_token_length: int,
        training: bool,
        flip_lr: bool = False,
        transforms: object = None,
        candidate_transforms: Mapping[str, Any] | None = None,
        with_masks: bool = False,
        label_clip: float | None = None,
        hide: str | None = None,
        targets: str = "one",
        share_images: bool = False,
    ) -> None:
        if targets not in TARGETS:
            raise ValueError(f"dataset.targets is {targets!r}; expected one of {', '.join(map(repr, TARGETS))}")
        if hide not in (None, "phrase", "image"):
            raise ValueError(f"dataset.hide is {hide!r}; expected null, 'phrase' or 'image'")
        if max_token_length <= vocabulary.reserved:
            raise ValueError(
                f"dataset.max_token_length is {max_token_length}, and the tokenizer puts {vocabulary.reserved} ids at the ends of "
                f"every phrase: expected at least {vocabulary.reserved + 1}"
            )
        if transforms is not None or (training and candidate_transforms):
            check_transforms(transforms)
        self.vocabulary, self.size, self.max_token_length = vocabulary, size, max_token_length
        self.flip_lr = flip_lr and training
        self.augmentation = Augmentation(candidate_transforms) if training and candidate_transforms else None
        self.training, self.with_masks, self.label_clip, self.hide = training, with_masks, label_clip, hide
        self.targets, self.share_images = targets, share_images
        self._in_one_go = self.augmentation is not None and share_images and not with_masks

    def met(self, rows: Iterable[tuple[Table, dict[str, Any]]]) -> dict[Any, Any]:
        """What the samples of a batch are to share, as ``decoded`` of each: at first the boxes of the phrases of each picture."""
        decoded: dict[Any, Any] = {}
        for table, row in rows if self._in_one_go else ():
            _check(row)
            box = _corners(row)
            decoded.setdefault((*_picture(table, row), "boxes"), {})[box.tobytes()] = box
        return decoded

    def __call__(
        self,
        table: Table,
        row: dict[str, Any],
        sentence_number: int | None,
        index: int,
        random_key: tuple[int, ...],
        decoded: dict[Any, Any],
    ) -> dict[str, torch.Tensor]:
        """A sample.

        Args:
            table: where the row is from.
            row: of :data:`rec.data.schema.FEATURES`.
            sentence_number: None draws one.
            index: goes into the sample.
            random_key: everything random is a function of it.
            decoded: images met so far in this batch, so that phrases of one image share them; added to.

        Raises:
            ImageError: the image is missing or broken; names the file and the record.
            BadRecord: the row is none that preparation lets pass.
        """
        _check(row)
        rng = np.random.default_rng(random_key) if self.training else None
        # The phrase, and what it names in the image as it was annotated.
        sentences = row["sentences"]
        if sentence_number is None:
            sentence_number = int(rng.integers(len(sentences))) if rng is not None else 0
        sentence = sentences[sentence_number]
        box = _corners(row)
        if self.targets == "one" and len(box) != 1:
            raise BadRecord("none or several boxes", f"{_named(row)} has {len(box)} boxes; {ONE_ONLY}")
        mask = self._mask(row) if self.with_masks else None
        height, width = row["height"], row["width"]
        # The image on the model's square. Phrases of one picture share its decoding, and without augmentation the square itself.
        key = _picture(table, row)
        # With shared images the changes are drawn once per picture and epoch, so that its phrases still share it wherever they
        # come out alike; else anew for each sample.
        drawn = rng
        if rng is not None and self.share_images and (self.flip_lr or self.augmentation is not None):
            drawn = np.random.default_rng((*random_key[:-1], zlib.crc32(key[-1].encode())))
        if self.augmentation is None:
            mirrored = self._mirrored(sentence, drawn.random() if self.flip_lr and drawn is not None else 1.0)
            if mirrored is not None:
                key = *key, "mirrored"
                box, mask = _flipped(box, mask, width)
            geometry = boxes.letterbox_geometry(height, width, self.size)
            image = decoded.get(key)
            if image is None:
                image = decoded[key] = torch.from_numpy(self._square(table, row, geometry, mirrored is not None))
        else:
            pixels = decoded.get(key)
            if pixels is None:
                pixels = decoded[key] = self.pixels(table, row)
            # It may be stored smaller than the original.
            stored = np.array([pixels.shape[1] / width, pixels.shape[0] / height] * 2)
            alike = (*key, "changes", *random_key[:-1])
            changes = decoded.get(alike, {})
            if box.tobytes() not in changes:
                # What the batch asks of this picture moves with it, in one go where it is changed alike.
                of_picture = [*decoded.get((*key, "boxes"), {}).values()] or [box]
                scaled = [one * stored for one in of_picture]
                changed = self.augmentation.each(pixels, scaled, mask, cast(np.random.Generator, drawn))
                changes = {one.tobytes(): sample for one, sample in zip(of_picture, changed, strict=True)}
                if self._in_one_go:
                    decoded[alike] = changes
            pixels, box, mask, number = changes[box.tobytes()]
            height, width = pixels.shape[:2]
            if (mirrored := self._mirrored(sentence, number)) is not None:
                pixels = cv2.flip(pixels, 1)
                box, mask = _flipped(box, mask, width)
            key = *key, xxhash.xxh3_64_hexdigest(pixels.tobytes()) if self.share_images else str(random_key)
            geometry = boxes.letterbox_geometry(height, width, self.size)
            image = decoded.get(key)
            if image is None:
                image = decoded[key] = torch.from_numpy(letterbox(pixels, geometry, self.size))
        sentence = sentence if mirrored is None else mirrored
        if self.hide == "image":
            image = torch.full_like(image, PAD_VALUE)
        # Labels and words as the model takes them.
        label = boxes.xyxy_to_cxcywh(boxes.to_letterbox(box, geometry.astype(np.float64))) / self.size
        if self.label_clip is not None:
            label = label.clip(0, self.label_clip)
        if self.hide == "phrase":
            # Words at random, not padding: BatchNorm over phrases that are all alike divides by nothing.
            words = np.random.default_rng((*random_key, 1)).integers(1, len(self.vocabulary), self.max_token_length)
            tokens = torch.from_numpy(words)
        else:
            tokens = torch.from_numpy(np.array(self.vocabulary.encode(sentence, self.max_token_length), np.int64))
        sample = {
            "image": image,
            "image_key": torch.from_numpy(np.array(xxhash.xxh3_64_intdigest(repr(key).encode()) >> 1, np.int64)),
            "tokens": tokens,
            "box": _first(label),
            "geometry": torch.from_numpy(geometry),
            "box_pixels": _first(box),
            "index": torch.from_numpy(np.array(index, np.int64)),
        }
        if self.targets == "any":
            sample["boxes"] = torch.from_numpy(label.astype(np.float32))
            sample["boxes_pixels"] = torch.from_numpy(box.astype(np.float32))
            sample["box_count"] = torch.from_numpy(np.array(len(box), np.int64))
        if mask is not None:
            sample["mask"] = torch.from_numpy(letterbox_mask(mask, geometry, self.size))
        if self.training and (weight := weight_of(row)) is not None:
            sample["weight"] = torch.tensor(weight)
        return sample

    def _mirrored(self, sentence: str, number: float) -> str | None:
        """The phrase of the mirrored image, or None where the image is not to be mirrored: ``number`` is drawn from 0 to 1."""
        return mirror_phrase(sentence) if self.flip_lr and number < 0.5 else None

    def _square(self, table: Table, row: dict[str, Any], geometry: np.ndarray, mirrored: bool) -> np.ndarray:
        """uint8 ``(3, S, S)``."""
        if table.stored_size == self.size and is_raw(row["image"]["path"]) and not mirrored:
            return read_raw(os.path.join(table.image_root, row["image"]["path"]), self.size)
        pixels = self.pixels(table, row)
        return letterbox(cv2.flip(pixels, 1) if mirrored else pixels, geometry, self.size)

    def pixels(self, table: Table, row: dict[str, Any]) -> np.ndarray:
        """uint8 ``(H, W, 3)``, RGB, as stored."""
        path = row["image"]["path"]
        if table.stored_size is not None and is_raw(path):
            square = read_raw(os.path.join(table.image_root, path), table.stored_size)
            nh, nw, dx, dy = boxes.letterbox_geometry(row["height"], row["width"], table.stored_size)[2:].astype(int)
            return np.ascontiguousarray(square[:, dy : dy + nh, dx : dx + nw].transpose(1, 2, 0))
        try:
            pixels = read_image(row["image"], table.image_root)
            shape = row["height"], row["width"]
            if table.stored_size is None and pixels.shape[:2] != shape:
                raise ImageError(
                    f"the image {path} is {pixels.shape[:2]} pixels (height, width), its record says {shape}"
                )
        except ImageError as error:
            raise ImageError(f"{error} ({_named(row)})") from None
        return pixels

    def _mask(self, row: dict[str, Any]) -> np.ndarray:
        """uint8 ``(H, W)`` of the row's image."""
        if row["mask"] is None:
            raise ImageError(
                f"{_named(row)} has no mask, but the model asks for masks: prepare the data with --generate_mask, or leave it out"
            )
        try:
            if list(row["mask"]["size"]) != [row["height"], row["width"]]:
                raise ValueError(f"a mask of {row['mask']['size']} rows and columns")
            return masks.decode(row["mask"])
        except (TypeError, ValueError) as error:
            shape = f"{row['height']} x {row['width']}"
            raise ImageError(f"the mask of an image of {shape} is broken: {error} ({_named(row)})") from None


def _flipped(box: np.ndarray, mask: np.ndarray | None, width: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Boxes and mask of the mirrored image."""
    return boxes.flip_left_right(box, width), None if mask is None else np.asfortranarray(mask[:, ::-1])


def _first(box: np.ndarray) -> torch.Tensor:
    """The only or first of ``(N, 4)`` boxes, float32 ``(4,)``; zeros where there is none."""
    return torch.from_numpy((box[0] if len(box) else np.zeros(4)).astype(np.float32))
