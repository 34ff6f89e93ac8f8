"""Section ``data``: samples per second of every store, against plain and against bare decoding; preparation; memory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.generated import our_dataset, plain_dataset, prepared, refer_files
from benchmarks.inputs import Options
from benchmarks.timing import Row, interleave, ratio, single


def run(options: Options) -> list[Row]:
    import cv2

    cv2.setNumThreads(0)  # per core, as in a loader's worker
    work = options.work / "data"
    source = refer_files(work, options.images, 3 * options.images)
    stores = {store: prepared(source, work / store, store=store, size=options.size)
              for store in ("plain", "letterboxed", "raw")}  # fmt: skip
    rows = samples(options, source, stores)
    rows += workers(options, source, stores)
    rows += masks_on_disk(source, stores["plain"])
    rows += preparation(options)
    return rows + memory(options, source)


def samples(options: Options, source: Path, stores: dict[str, Path]) -> list[Row]:
    """One core, one sample after another, in an order without two phrases of one image in a row."""
    import numpy as np

    plain = plain_dataset(stores["plain"], source, options.size, training=True)
    ours = {store: our_dataset(folder, options.size, training=True) for store, folder in stores.items()}
    with_masks = our_dataset(stores["plain"], options.size, training=True, with_masks=True)
    order = np.random.default_rng(0).permutation(len(plain))[: min(150, len(plain))].tolist()
    files = [plain.images / f"{plain.items[number]['iid']:06d}.jpg" for number in order]

    def read(dataset: Any) -> Callable[[], None]:
        def every() -> None:
            for number in order:
                dataset[number]

        return every

    sides: dict[str, Callable[[], Any]] = {f"ours, {store}": read(dataset) for store, dataset in ours.items()}
    sides |= {"plain": read(plain), "ours with masks": read(with_masks)}
    sides["bare decode + resize"] = lambda: [decode_and_resize(file, options.size) for file in files]
    times = {name: [seconds / len(order) for seconds in each]
             for name, each in interleave(sides, 2 * options.rounds).items()}  # fmt: skip
    cost = [(a - b) * 1000 for a, b in zip(times["ours with masks"], times["ours, plain"], strict=True)]
    middle = sorted(cost)[len(cost) // 2]
    return [
        ratio("one sample over bare JPEG decode + resize", times, "ours, plain", "bare decode + resize"),
        ratio("plain's sample over bare JPEG decode + resize", times, "plain", "bare decode + resize"),
        Row("masks on adds, per sample", middle, min(cost), max(cost), unit="ms"),
        ratio("samples/s over plain, images as they are", times, "plain", "ours, plain"),
        ratio("samples/s over plain, --store letterboxed", times, "plain", "ours, letterboxed"),
        ratio("samples/s over plain, --store raw", times, "plain", "ours, raw"),
    ]


def decode_and_resize(file: Path, size: int) -> Any:
    """The least a sample can cost: read, decode, resize."""
    import cv2
    import numpy as np

    pixels: Any = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    return cv2.resize(pixels, (int(width * scale), int(height * scale)))


def workers(options: Options, source: Path, stores: dict[str, Path]) -> list[Row]:
    """Batches of 32 through a DataLoader with more and more workers."""
    from rec.data.loader import TrainingBatches, training_loader

    rows = []
    batch = min(32, 3 * options.images)
    for store in ("plain", "letterboxed"):
        dataset = our_dataset(stores[store], options.size, training=True)
        loaders = {}
        for count in (0, 1, 2):
            batches = TrainingBatches(len(dataset), batch, processes=1, rank=0, accumulation=1, seed=0)
            loaders[count] = training_loader(dataset, batches, num_workers=count)
        number = max(1, len(dataset) // batch) * batch
        sides = {f"{count} workers": lambda loader=loader: sum(1 for _ in loader) for count, loader in loaders.items()}
        times = interleave(sides, max(1, options.rounds // 2), clock="wall")  # other processes work too
        for count in (1, 2):
            row = ratio(f"{count} workers over none, store {store}", times, "0 workers", f"{count} workers")
            rate = number / row.seconds[f"{count} workers"]
            row.note = f"{rate:,.0f} samples/s"
            rows.append(row)
    return rows


def masks_on_disk(source: Path, table: Path) -> list[Row]:
    """Bytes of dense ``.npy`` masks over those of the table's run-length encodings."""
    from datasets import load_from_disk

    rows = load_from_disk(str(table / "val"))
    encoded = sum(len(mask["counts"]) + 8 for mask in rows["mask"])
    dense = sum(path.stat().st_size for path in (source.parent / "masks").glob("*.npy"))
    return [single("bytes of dense masks over run-length encoded ones", dense / encoded, "x")]


def preparation(options: Options) -> list[Row]:
    """Seconds to prepare REFER files, with and without masks from polygons."""
    import shutil

    work = options.work / f"refer_{options.refs}"
    source = refer_files(work, min(options.images, 50), options.refs)
    rows = []
    for with_masks in (False, True):
        folder = work / "prepared"
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        prepared(source, folder, with_masks=with_masks)
        what = f"preparing {options.refs:,} refs, {'masks from polygons' if with_masks else 'without masks'}"
        rows.append(single(what, time.perf_counter() - started, "s"))
    return rows


MEASURE_MEMORY = """
import json, re, sys, time
import torch, datasets, cv2, rec.data.dataset, rec.data.loader
from rec.data.dataset import RefCOCODataSet
from rec.data.loader import TrainingBatches, training_loader
started = time.perf_counter()
folder, root, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
dataset = RefCOCODataSet("refcoco", folder, root, input_shape=[size, size], split="train", vocabulary_from="all")
batches = TrainingBatches(len(dataset), 8, processes=1, rank=0, accumulation=1, seed=0)
iterator = iter(training_loader(dataset, batches, num_workers=1))
next(iterator)
first = time.perf_counter() - started
for _ in range(40):
    next(iterator)
status = open(f"/proc/{iterator._workers[0].pid}/status").read()
print(json.dumps([first, int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]) / 1024]))
"""


def memory(options: Options, source: Path) -> list[Row]:
    """Anonymous memory of a loader's worker and time to the first batch, few and many rows."""
    table = prepared(source, options.work / "data" / "without_masks", with_masks=False)
    root = json.loads((table / "prepared.json").read_text(encoding="utf-8"))["image_root"]
    found = {}
    counts = max(400, options.refs // 50), max(600, options.refs // 5), max(800, 20 * options.refs)
    for count in counts:
        folder = repeated(table / "val", options.work / f"rows_{count}", count)
        for _ in range(2):  # the first run counts the words of the vocabulary and keeps them
            command = [sys.executable, "-c", MEASURE_MEMORY, str(folder), root, str(options.size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[count] = json.loads(done.stdout)
    fewest, few, many = counts
    return [
        single(f"anonymous memory of a loader worker, {few:,} to {many:,} rows", found[many][1] - found[few][1], "MB",
               f"{found[few][1]:.0f} MB and {found[many][1]:.0f} MB"),
        single(f"first batch after imports, {fewest:,} rows", found[fewest][0], "s"),
        single(f"first batch after imports, {few:,} rows", found[few][0], "s"),
        single(f"first batch after imports, {many:,} rows, vocabulary cached", found[many][0], "s"),
    ]  # fmt: skip


def repeated(table: Path, folder: Path, count: int) -> Path:
    """A saved table of ``count`` rows, those of ``table`` again and again; kept if there."""
    import pyarrow as pa
    from datasets import load_from_disk

    if (folder / "state.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = load_from_disk(str(table))
    content = rows.data.table
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, content.schema) as out,
    ):
        for start in range(0, count, len(rows)):
            out.write_table(content.slice(0, min(len(rows), count - start)), max_chunksize=1000)
    rows.info.write_to_directory(str(folder))
    state = json.loads((table / "state.json").read_text(encoding="utf-8"))
    state |= {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": f"benchmark{count}"}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return folder
