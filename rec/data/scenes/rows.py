"""Shape scenes as rows of the common schema: splits, rows, tables, and the score of guessing."""

import logging
import math
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from rec import boxes
from rec.cores import usable_cores
from rec.data import masks
from rec.data.scenes.layout import LEVELS
from rec.data.scenes.scene import Scene, make_scene
from rec.data.schema import FEATURES
from rec.data.sources import Source, SourceError

if TYPE_CHECKING:
    import datasets

    from rec.data.spec import SourceSpec

logger = logging.getLogger(__name__)

# Seeds of each split. A longer train split never reaches the seeds of the others.
SPLITS = {
    "train": range(10_000_000),
    "val": range(10_000_000, 11_000_000),
    "test": range(11_000_000, 12_000_000),
}
DEFAULT_COUNTS = {"train": 11000, "val": 1000, "test": 1000}
_CHUNK = 200  # scenes a worker process makes at a time
# Quality 95 keeps the textures; a PNG takes eight times as long to write and three times as long to read.
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]


def split_seeds(split: str, count: int | None = None) -> range:
    """The seeds of a split: its first ``count`` ones, or as many as :data:`DEFAULT_COUNTS` says.

    Raises:
        ValueError: unknown split, or a count the split does not have.
    """
    if split not in SPLITS:
        raise ValueError(f"shape scenes have no split {split!r}; choose one of {', '.join(SPLITS)}")
    count = DEFAULT_COUNTS[split] if count is None else count
    if not 0 < count <= len(SPLITS[split]):
        raise ValueError(f"shape scenes: count {count} for split {split!r}; expected 1 to {len(SPLITS[split])}")
    return SPLITS[split][:count]


def scene_rows(scene: Scene, level: str, targets: str = "one") -> list[dict[str, Any]]:
    """One row per object, or set of objects, that phrases of a scene fit, in drawing order, each with all its sentences.

    ``image_id`` is ``<seed>``, ``ref_id`` and ``ann_id`` are ``<seed>-<object numbers>``, joined by "+", or ``<seed>-none``;
    ``category`` is the shape where all have one. With ``targets="any"`` the source's name ends in ``_any``.
    """
    size = scene.image.shape[0]
    encoded = cv2.imencode(".jpg", scene.image, _JPEG)[1].tobytes()
    rows = []
    for numbers in sorted({numbers for numbers, _ in scene.answers}):
        boxes_of_row = [[float(value) for value in scene.objects[k].box] for k in numbers]
        shapes = {scene.objects[k].shape for k in numbers}
        name = f"{scene.seed:08d}"
        which = "+".join(map(str, numbers)) or "none"
        rows.append(
            {
                "image": {"bytes": encoded, "path": f"scene_{name}.jpg"},
                "image_id": name,
                "ref_id": f"{name}-{which}",
                "ann_id": f"{name}-{which}",
                "width": size,
                "height": size,
                "bbox": boxes_of_row[0] if numbers else None,
                "boxes": boxes_of_row,
                "mask": masks.encode(np.isin(scene.occupancy, [k + 1 for k in numbers])),
                "sentences": [sentence for fitting, sentence in scene.answers if fitting == numbers],
                "category": shapes.pop() if len(shapes) == 1 else None,
                "source": LEVELS[level].source + ("_any" if targets == "any" else ""),
            }
        )
    return rows


def generate_rows(
    seed_start: int,
    count: int,
    size: int = 128,
    level: str = "easy",
    phrases_per_scene: int = 3,
    processes: int = 1,
    targets: str = "one",
) -> Iterator[dict[str, Any]]:
    """Rows of the scenes ``seed_start`` to ``seed_start + count - 1``, in the order of their seeds.

    The rows are the same on any number of processes, and memory does not grow with ``count``. More than one process
    needs a script that is safe to import (``if __name__ == "__main__"``), as always in ``multiprocessing``.

    Args:
        seed_start: first seed, 0 or more.
        count: number of scenes; a scene gives one row per object, or set of objects, its phrases speak of.
        size: height and width of the images in pixels.
        level: ``easy`` or ``hard``.
        phrases_per_scene: phrases per scene, over all its rows; a third of each kind.
        processes: how many processes draw.
        targets: ``one``, every phrase fits one object; ``any``, a third each fits none, one and several.

    Raises:
        ValueError: see :func:`~rec.data.scenes.scene.make_scene`.
    """
    options = (level, size, phrases_per_scene, targets)
    make_scene(seed_start, *options)  # a wrong argument is told here, not in a worker process
    end = seed_start + count
    chunks = ((start, min(start + _CHUNK, end), *options) for start in range(seed_start, end, _CHUNK))
    if processes <= 1:
        yield from chain.from_iterable(map(_rows_of_seeds, chunks))
        return
    # A forked child may inherit a held lock of a threaded library (torch, OpenCV): start clean ones.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        pending: deque[Future[list[dict[str, Any]]]] = deque()
        for chunk in islice(chunks, 2 * processes):
            pending.append(pool.submit(_rows_of_seeds, chunk))
        while pending:
            rows = pending.popleft().result()
            pending.extend(pool.submit(_rows_of_seeds, chunk) for chunk in islice(chunks, 1))
            yield from rows


def _rows_of_seeds(chunk: tuple[int, int, str, int, int, str]) -> list[dict[str, Any]]:
    start, end, level, size, phrases_per_scene, targets = chunk
    scenes = (make_scene(seed, level, size, phrases_per_scene, targets) for seed in range(start, end))
    return [row for scene in scenes for row in scene_rows(scene, level, targets)]


def open_scenes(chosen: "SourceSpec") -> Source:
    """Scenes as a source, by the ``count``, ``size``, ``phrases_per_scene`` and ``targets`` of ``chosen``; its path is the level.

    Raises:
        SourceError: a count that is none.
    """
    level = "hard" if chosen.path == "scenes_hard" else "easy"
    counts = {} if chosen.count is None else chosen.count
    options = chosen.chosen("size", "phrases_per_scene", "targets")
    listed = counts.values() if isinstance(counts, Mapping) else [counts]
    if any(type(count) is not int and count is not None for count in listed):
        raise SourceError(f"count of {chosen.path} is {str(counts)[:80]!r}; expected a number, or split to number")
    try:
        of_split = {s: split_seeds(s, counts if isinstance(counts, int) else counts.get(s)) for s in SPLITS}
    except ValueError as error:
        raise SourceError(str(error)) from None

    def read(split: str) -> Iterable[dict[str, Any]]:
        seeds = of_split[split]
        processes = max(1, min(usable_cores(), len(seeds) // 500))
        return generate_rows(seeds.start, len(seeds), level=level, processes=processes, **options)

    return Source(chosen.path, tuple(SPLITS), read, options={"level": level, "count": counts} | options)


def build_table(
    split: str,
    count: int | None = None,
    size: int = 128,
    level: str = "easy",
    phrases_per_scene: int = 3,
    processes: int | None = None,
    targets: str = "one",
) -> "datasets.Dataset":
    """A split of shape scenes as a table of :data:`rec.data.schema.FEATURES`, held in memory (about 8 KB per row).

    Args:
        split: ``train``, ``val`` or ``test``; their seeds are disjoint.
        count: number of scenes; None takes :data:`DEFAULT_COUNTS`.
        size, level, phrases_per_scene, targets: see :func:`generate_rows`.
        processes: how many processes draw; None takes every core, or one for a few hundred scenes.

    Returns:
        The table; ``info.description`` tells level, split and seeds.

    Raises:
        ValueError: see :func:`split_seeds` and :func:`~rec.data.scenes.scene.make_scene`.
    """
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo
    from datasets.table import InMemoryTable

    seeds = split_seeds(split, count)
    if processes is None:
        processes = min(usable_cores(), math.ceil(len(seeds) / (2 * _CHUNK)))
    rows = generate_rows(seeds.start, len(seeds), size, level, phrases_per_scene, processes, targets)
    schema = FEATURES.arrow_schema
    batches = []
    while batch := list(islice(rows, 1000)):
        batches.append(pa.RecordBatch.from_pylist(batch, schema))
    named = f"level {level}" if targets == "one" else f"level {level}, targets {targets}"
    description = f"shape scenes, {named}, split {split}, seeds {seeds.start} to {seeds.stop - 1}"
    logger.info("%s", description)
    return Dataset(
        InMemoryTable(pa.Table.from_batches(batches, schema)),
        info=DatasetInfo(description=description, features=FEATURES),
    )


def random_object_accuracy(rows: Iterable[dict[str, Any]]) -> float:
    """Expected Acc@0.5 (IoU > 0.5) of choosing one of the scene's objects at random, over all sentences, 0-1.

    The other objects' boxes are not in the rows; the scenes are made again from their seeds.

    Args:
        rows: rows of this package, such as a table of :func:`build_table`.

    Raises:
        ValueError: no rows, or a row that is not a shape scene.
    """
    levels = {level.source: name for name, level in LEVELS.items()}
    seen: tuple[Any, ...] = ()
    candidates = np.empty((0, 4))
    hits, total = 0.0, 0
    for row in rows:
        if row["source"] not in levels:
            raise ValueError(f"ref_id {row['ref_id']} is of source {row['source']!r}, not a shape scene")
        wanted = (int(row["image_id"]), levels[row["source"]], row["width"])
        if wanted != seen:
            seen = wanted
            scene = make_scene(*wanted, phrases_per_scene=1)
            candidates = boxes.xywh_to_xyxy(np.array([item.box for item in scene.objects], np.float64))
        target = boxes.xywh_to_xyxy(np.array(row["bbox"], np.float64))
        hits += len(row["sentences"]) * float(np.mean(boxes.box_iou(candidates, target) > 0.5))
        total += len(row["sentences"])
    if not total:
        raise ValueError("the accuracy of a random object needs at least one row")
    return hits / total
