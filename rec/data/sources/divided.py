"""A validation split for data that have none: some of the training images, with everything that is said about them."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from rec.data.images import picture_key
from rec.data.schema import BadRecord, attempt, image_of
from rec.data.sources import Source, SourceError, find_split
from rec.files import digest


def with_validation(source: Source, fraction: float) -> Source:
    """The source with a split ``val`` made of ``fraction`` of the images of its training split.

    Which images they are depends on their names below the image folder alone: images that are added later move few others.

    Args:
        source: with a training split and no validation split.
        fraction: above 0 and below 1; at least one image is taken and one is left.

    Raises:
        SourceError: another fraction, it has a validation split already, no training split, or fewer than two images there.
    """
    if not 0 < fraction < 1:
        raise SourceError(f"--val-fraction is {fraction:g}; expected a number above 0 and below 1, such as 0.1")
    train = find_split("train", source.splits)
    if train is None or find_split("val", source.splits) is not None:
        raise SourceError(
            f"{source.name} has the splits {', '.join(source.splits)}: --val-fraction divides a train split where there is no val"
        )

    def image(row: dict[str, Any] | BadRecord) -> str | None:
        picture = attempt(image_of, row)
        if isinstance(picture, BadRecord):
            return None
        key = picture_key(picture)
        inside = source.image_root and os.path.abspath(key).startswith(os.path.abspath(source.image_root) + os.sep)
        return os.path.relpath(key, source.image_root) if inside else key

    images = {name for row in source.read(train) if (name := image(row)) is not None}
    if len(images) < 2:
        raise SourceError(
            f"{source.name} has {len(images)} images: --val-fraction needs two, one to train on and one to validate on"
        )
    by_chance = sorted(images, key=lambda name: digest(os.fsencode(name)))
    chosen = frozenset(by_chance[: min(max(1, round(fraction * len(images))), len(images) - 1)])

    def read(split: str) -> Iterator[dict[str, Any] | BadRecord]:
        if split not in (train, "val"):
            yield from source.read(split)
            return
        for row in source.read(train):
            if (image(row) in chosen) == (split == "val"):  # a record without an image is told of in train
                yield row

    splits = [name for one in source.splits for name in ((one, "val") if one == train else (one,))]
    options = dict(source.options) | {"val_fraction": fraction}
    return dataclasses.replace(source, splits=tuple(splits), read=read, options=options)
