"""Sections ``data``, ``loop``, ``eval`` and ``predict``: from files to the network and back.

``data``: samples per second of every store, against plain and against bare decoding; preparation; memory. ``loop``: the parts
of ``scripts/train.py`` (loader with workers, transfer, normalisation, Accelerator, clipping, finite check, optimizer, EMA,
loss window) over bare forward, backward and optimizer on one batch in memory. ``eval``: sentences per second on a
RefCOCO-val-like set, from files to metrics. ``predict``: batch prediction against the model's bare forward pass, and the
cold start of predict.py.
"""

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks import QUICKSTART
from benchmarks.generated import our_dataset, plain_dataset, prepared, refer_files
from benchmarks.inputs import VOCABULARY_SIZE, Options, batch_of, build, config, our_batch, photographs
from benchmarks.network import OurTraining, as_the_original_runs, bfloat16_is_fast
from benchmarks.plain_model import PlainSimREC
from benchmarks.timing import ROOT, Row, Sides, clocked, fastest, interleave, median, ratio, ratios, single

# Of section loop. On a CPU the loader's workers take their time from the cores that train, and a batch of eight decodes in a
# hundredth of a step: without workers the loop is fastest. The last rows show what two of them cost.
LOOP_SIDES = {
    "cpu": (("letterboxed", 0), ("plain", 0), ("plain", 2)),
    "cuda": (("letterboxed", 8), ("plain", 8), ("raw", 16)),
}
PHRASE = "the red circle on the left"


def data(options: Options) -> Iterator[Row]:
    cv2.setNumThreads(0)  # per core, as in a loader's worker
    work = options.work / "data"
    source = refer_files(work, options.images, 3 * options.images)
    stores = {store: prepared(source, work / store, store=store, size=options.size)
              for store in ("plain", "letterboxed", "raw")}  # fmt: skip
    yield from samples(options, source, stores)
    yield from workers(options, stores)
    yield masks_on_disk(source, stores["plain"])
    yield from preparation(options)
    yield from memory(options, source)


def samples(options: Options, source: Path, stores: dict[str, Path]) -> Iterator[Row]:
    """One core, one sample after another, in an order without two phrases of one image in a row."""
    plain = plain_dataset(stores["plain"], source, options.size, training=True)
    order = np.random.default_rng(0).permutation(len(plain))[: min(150, len(plain))].tolist()
    files = [plain.images / f"{plain.items[number]['iid']:06d}.jpg" for number in order]
    datasets = {f"ours, {store}": our_dataset(folder, options.size, training=True) for store, folder in stores.items()}
    datasets["plain"] = plain
    datasets["ours with masks"] = our_dataset(stores["plain"], options.size, training=True, with_masks=True)
    sides: Sides = {name: partial(read, dataset, order) for name, dataset in datasets.items()}
    sides["bare decode + resize"] = lambda: [decode_and_resize(file, options.size) for file in files]
    times = {name: [seconds / len(order) for seconds in each]
             for name, each in interleave(sides, 2 * options.rounds).items()}  # fmt: skip
    over_bare, over_plain = "over bare JPEG decode + resize", "samples/s over plain"
    yield ratio(f"one sample {over_bare}", times, "ours, plain", "bare decode + resize")
    yield ratio(f"plain's sample {over_bare}", times, "plain", "bare decode + resize")
    cost = [(a - b) * 1000 for a, b in zip(times["ours with masks"], times["ours, plain"], strict=True)]
    yield Row("masks on adds, per sample", median(cost), min(cost), max(cost), unit="ms")
    yield ratio(f"{over_plain}, images as they are", times, "plain", "ours, plain")
    for store in ("letterboxed", "raw"):
        yield ratio(f"{over_plain}, --store {store}", times, "plain", f"ours, {store}")


def read(dataset: Any, order: Iterable[int]) -> None:
    """Makes samples and drops them."""
    for number in order:
        dataset[number]


def decode_and_resize(file: Path, size: int) -> Any:
    """The least a sample can cost: read, decode, resize."""
    pixels: Any = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    return cv2.resize(pixels, (int(width * scale), int(height * scale)))


def workers(options: Options, stores: dict[str, Path]) -> Iterator[Row]:
    """Batches of 32 through a DataLoader with more and more workers."""
    batch = min(32, 3 * options.images)
    for store in ("plain", "letterboxed"):
        dataset = our_dataset(stores[store], options.size, training=True)
        number = max(1, len(dataset) // batch) * batch
        sides: Sides = {f"{n} workers": partial(deque, our_loader(dataset, batch, n), maxlen=0) for n in (0, 1, 2)}
        times = interleave(sides, max(1, options.rounds // 2), clock="wall")  # other processes work too
        for count in (1, 2):
            row = ratio(f"{count} workers over none, store {store}", times, "0 workers", f"{count} workers")
            yield replace(row, note=f"{number / row.seconds[f'{count} workers']:,.0f} samples/s")


def our_loader(dataset: Any, batch: int, workers: int) -> Any:
    """Training batches of ``dataset`` on one process."""
    from rec.data.loader import TrainingBatches, training_loader

    batches = TrainingBatches(len(dataset), batch, processes=1, rank=0, accumulation=1, seed=0)
    return training_loader(dataset, batches, num_workers=workers)


def masks_on_disk(source: Path, table: Path) -> Row:
    """Bytes of dense ``.npy`` masks over those of the table's run-length encodings."""
    from datasets import load_from_disk

    encoded = sum(len(mask["counts"]) + 8 for mask in load_from_disk(str(table / "val"))["mask"])
    dense = sum(path.stat().st_size for path in (source.parent / "masks").glob("*.npy"))
    return single("bytes of dense masks over run-length encoded ones", dense / encoded, "x")


def preparation(options: Options) -> Iterator[Row]:
    """Seconds to prepare REFER files, with and without masks from polygons."""
    work = options.work / f"refer_{options.refs}"
    source = refer_files(work, min(options.images, 50), options.refs)
    for with_masks, how in ((False, "without masks"), (True, "masks from polygons")):
        shutil.rmtree(work / "prepared", ignore_errors=True)
        started = time.perf_counter()
        prepared(source, work / "prepared", with_masks=with_masks)
        yield single(f"preparing {options.refs:,} refs, {how}", time.perf_counter() - started, "s")


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


def memory(options: Options, source: Path) -> Iterator[Row]:
    """Anonymous memory of a loader's worker and time to the first batch, few and many rows."""
    table = prepared(source, options.work / "data" / "without_masks", with_masks=False)
    root = json.loads((table / "prepared.json").read_text(encoding="utf-8"))["image_root"]
    counts = max(400, options.refs // 50), max(600, options.refs // 5), max(800, 20 * options.refs)
    (_, few, many), found = counts, {}
    for count in counts:
        folder = repeated(table / "val", options.work / f"rows_{count}", count)
        for _ in range(2):  # the first run counts the words of the vocabulary and keeps them
            command = [sys.executable, "-c", MEASURE_MEMORY, str(folder), root, str(options.size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[count] = json.loads(done.stdout)
    grown, note = found[many][1] - found[few][1], f"{found[few][1]:.0f} MB and {found[many][1]:.0f} MB"
    yield single(f"anonymous memory of a loader worker, {few:,} to {many:,} rows", grown, "MB", note)
    for count in counts:
        cached = ", vocabulary cached" if count == many else ""
        yield single(f"first batch after imports, {count:,} rows{cached}", found[count][0], "s")


def repeated(table: Path, folder: Path, count: int) -> Path:
    """A saved table of ``count`` rows, those of ``table`` again and again; kept if there."""
    import pyarrow as pa
    from datasets import load_from_disk

    if (folder / "state.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = load_from_disk(str(table))
    content, file = rows.data.table, "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_stream(sink, content.schema) as out:
        for start in range(0, count, len(rows)):
            out.write_table(content.slice(0, min(len(rows), count - start)), max_chunksize=1000)
    rows.info.write_to_directory(str(folder))
    state = json.loads((table / "state.json").read_text(encoding="utf-8"))
    state |= {"_data_files": [{"filename": file}], "_fingerprint": f"benchmark{count}"}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    return folder


class Loop:
    """The update of ``scripts/train.py`` over a loader.

    Attributes:
        shares: on a CPU, of each update, the share of its time outside forward, backward and optimizer, by the clock inside the
            loop: it is not disturbed by how long the same convolutions take from one turn to the next.
    """

    def __init__(self, options: Options, accelerator: Any, loader: Any) -> None:
        from train import forward_and_backward, one_update

        from rec.training.feed import Feed
        from rec.training.run_log import Window
        from rec.training.update import Step, recorded

        training, on_gpu = OurTraining(options), options.device == "cuda"
        model, optimizer = accelerator.prepare(training.model, training.optimizer)
        compute: Any = partial(forward_and_backward, accelerator, SimpleNamespace(mean=[0.0] * 3, std=[1.0] * 3))
        weights = list(model.parameters())
        run: Any = SimpleNamespace(
            accelerator=accelerator, window=Window(), stop=SimpleNamespace(requested=False),
            compute=recorded(compute, weights) if on_gpu else compute,
            step=Step(accelerator, training.model, weights, training.ema, 0.15, on_gpu),
        )  # fmt: skip
        self._feed = Feed(itertools.chain.from_iterable(itertools.repeat(loader)), 1, accelerator.device)
        self._one_update = partial(one_update, run, model, optimizer, self._feed, None)
        network = ((model, "forward"), (torch.autograd, "backward"), (optimizer, "step"), (optimizer, "zero_grad"))
        self._parts = [] if on_gpu else [(*part, "network") for part in network]
        self.shares: list[float] = []

    def update(self) -> None:
        spent: dict[str, float] = defaultdict(float)
        with clocked(self._parts, spent):
            started = time.perf_counter()
            self._feed.take()
            self._one_update()
            self.shares.append(1 - spent["network"] / (time.perf_counter() - started))


def loop(options: Options) -> Iterator[Row]:
    from accelerate import Accelerator

    device, count = options.device, min(options.batches)
    on_gpu = device == "cuda"  # in bf16 there
    # A GPU's updates are short: many in a row, more than a loader has ready when it starts, all out of one epoch.
    turns = 30 if on_gpu else 1
    work = options.work / ("loop" if on_gpu else "data")
    refs = count * turns * (3 * options.rounds + 3) if on_gpu else 3 * options.images
    source = refer_files(work, options.images, refs)
    accelerator = Accelerator(mixed_precision="bf16") if on_gpu else Accelerator(cpu=True)
    for store, number in LOOP_SIDES[device]:
        table = prepared(source, work / store, store=store, size=options.size)
        ours = Loop(options, accelerator, our_loader(our_dataset(table, options.size, training=True), count, number))
        bare = partial(OurTraining(options, graphs=on_gpu).bare, our_batch(batch_of(count, options)), True, on_gpu)
        sides = {"loop": partial(repeat, ours.update, turns), "bare": partial(repeat, bare, turns)}
        if on_gpu:  # the same update, on one batch that is there
            step = partial(OurTraining(options, graphs=True).step, batch_of(count, options), bf16=True)
            sides["update"] = partial(repeat, step, turns)
        # By the wall clock: the workers' time counts.
        times = interleave(sides, 3 * options.rounds, device, clock="wall")
        times = {side: [seconds / turns for seconds in each] for side, each in times.items()}
        where = f"batch {count}, {number} workers, store {store}"
        yield ratio(f"whole loop over bare forward + backward + optimizer, {where}", times, "loop", "bare")
        if on_gpu:
            yield ratio(f"whole loop over its updates on one batch in memory, {where}", times, "loop", "update")
        else:
            shares = ours.shares[2:]  # after imports and first allocations
            name = f"share of the loop outside forward, backward and optimizer, {where}"
            yield Row(name, median(shares), min(shares), max(shares), unit="")


def repeat(run: Callable[[], Any], count: int) -> None:
    """Calls it ``count`` times."""
    for _ in range(count):
        run()


def eval(options: Options) -> Iterator[Row]:
    from torch.utils.data import DataLoader

    from benchmarks.plain_loop import plain_evaluate
    from rec.data.loader import evaluation_loader
    from rec.evaluation import evaluate

    device, batch = options.device, max(options.batches)
    images = max(2, options.images // 8) if device == "cpu" else 8 * options.images
    work = options.work / f"eval_{images}"
    source = refer_files(work, min(images, options.images), 3 * images)
    table = prepared(source, work / "plain")
    dataset = our_dataset(table, options.size, training=False)
    model = build(options).to(memory_format=torch.channels_last).eval()
    accuracy: dict[str, float] = {}
    number = 0 if device == "cpu" else 8  # on a CPU workers take their time from the cores that compute
    loader = partial(evaluation_loader, dataset, batch, num_workers=number)

    def ours(bf16: bool) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            how: Any = {"mean": [0.0] * 3, "std": [1.0] * 3, "replay": device == "cuda"}
            accuracy["ours"] = evaluate(model, loader(), dataset, **how)[0]["Acc@0.5"]

    sides: Sides = {"ours bf16": partial(ours, True)} if bfloat16_is_fast(device) else {}
    if device == "cpu":
        plain_set = plain_dataset(table, source, options.size, training=False)
        plain = PlainSimREC(model)

        @as_the_original_runs
        def theirs() -> None:
            found = plain_evaluate(plain, DataLoader(plain_set, batch), source.parent / "masks")
            accuracy["plain"] = found["Acc@0.5"]

        sides |= {"ours": partial(ours, False), "plain": theirs}
    else:  # where the loader is what an evaluation can be as fast as
        sides["loader"] = lambda: deque(loader(), maxlen=0)
    times = interleave(sides, max(1, options.rounds // 2), device)
    of = f"{len(dataset) / images:.1f} sentences per image, batch {batch}"
    yield from ratios(
        times,
        (f"evaluation end to end, {of}, float32", "plain", "ours"),
        (f"evaluation end to end, {of}, bf16", "plain", "ours bf16"),
        (f"evaluation over its loader alone, {of}, bf16", "loader", "ours bf16"),
    )
    for side, each in times.items():
        yield single(f"sentences/s, {side}", len(dataset) / median(each), "sentences/s")
    if device == "cpu":
        ours(False)
        yield single("Acc@0.5, ours minus plain", abs(accuracy["ours"] - accuracy["plain"]), "")


def predict(options: Options) -> Iterator[Row]:
    from rec.data.text import CLS, PAD, UNK, Vocabulary
    from rec.inference.grounder import Grounder

    words = dict.fromkeys([PAD, UNK, CLS, *PHRASE.split(), *(f"word{n}" for n in range(VOCABULARY_SIZE))])
    vocabulary = Vocabulary(list(words)[:VOCABULARY_SIZE])
    grounder = Grounder(build(options), folder_config(config(options)), vocabulary, device=options.device)
    files, size = photographs(options.work / "photographs", min(64, options.images)), 8
    batch = our_batch(batch_of(size, options, length=15))
    batch["image"] = batch["image"].to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(0, len(files), size):
            grounder.model(batch)

    def answer() -> None:
        assert len(grounder(files, PHRASE, batch_size=size)) == len(files)

    name = f"batch prediction from {len(files)} JPEG files, images/s, over the bare forward pass, batches of {size}"
    times = interleave({"forward": bare, "prediction": answer}, options.rounds, options.device)
    yield ratio(name, times, "forward", "prediction")
    yield cold_start(options, files[0], vocabulary)


def folder_config(cfg: Any) -> dict[str, Any]:
    from rec.config import to_native

    preprocess: dict[str, Any] = {"input_shape": list(cfg.dataset.input_shape), "mean": [0.0] * 3, "std": [1.0] * 3}
    preprocess["max_token_length"] = 15
    return {"model": to_native(cfg.model), "preprocess": preprocess, "about": {"sources": ["generated"]}}


def cold_start(options: Options, image: Path, vocabulary: Any) -> Row:
    """Whole run time of predict.py on one image with the quickstart's model, less that of ``import torch``."""
    from rec import model_folder
    from rec.config import LazyConfig, instantiate

    cfg = LazyConfig.load(str(ROOT / QUICKSTART))
    cfg.model.language_encoder.token_size = VOCABULARY_SIZE
    folder = (options.work / "quickstart_model").resolve()
    model_folder.write(folder, instantiate(cfg.model).state_dict(), folder_config(cfg), vocabulary)
    out = ["--out", str((options.work / "marked.png").resolve())]
    answer = ["scripts/predict.py", str(folder), str(image.resolve()), PHRASE, *out]
    started, imported = fastest(answer, options.rounds), fastest(["-c", "import torch"], options.rounds)
    note = f"{started:.2f} s in all, import torch {imported:.2f} s"
    return single("cold start of predict.py, quickstart model, beyond importing torch", started - imported, "s", note)
