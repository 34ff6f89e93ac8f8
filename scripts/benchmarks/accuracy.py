"""Section ``time_to_accuracy``: seconds of training until phrases of ``val`` are answered well, the quickstart's model and data.

Both sides start from the same weights and follow the same rates in batches of as many phrases, in float32, a few updates of
one and of the other in turn. Plain reads and looks at an image for each phrase. Evaluation, the same function for both, with
the averaged weights, is not counted.
"""

import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain_model
from benchmarks.generated import plain_dataset
from benchmarks.inputs import Options
from benchmarks.plain_data import PlainDataSet
from benchmarks.plain_loop import PlainTraining
from benchmarks.timing import ROOT, Row, clocked, median, ratio, single
from rec.boxes import box_iou, cxcywh_to_xyxy
from rec.contracts import Batch
from rec.data.batch import model_input

GOALS = (0.8, 0.9)  # Acc@0.5
AT_LEAST = ">= 3"  # on two cores
VAL = 300  # scenes of val that are asked about, three phrases each
EVERY, LIMIT = 25, 900.0  # updates between two evaluations; seconds of training, of each side and seed
Reached = dict[float, tuple[float, int]]  # goal to seconds and updates


class Ours:
    """The training of ``scripts/train.py``: its loader, its update, its average."""

    def __init__(self, cfg: Any, dataset: Any, network: Any) -> None:
        from accelerate import Accelerator
        from train import forward_and_backward, one_update

        from rec.training import build, launch, schedules
        from rec.training.ema import EMA
        from rec.training.feed import Feed
        from rec.training.run_log import Window
        from rec.training.update import Step

        accelerator, data, self.rate = Accelerator(cpu=True), cfg.train.data, cfg.optim.lr
        loader: Any = build.build_loader(cfg, accelerator, dataset, cfg.train.batch_size, 1)
        per_epoch, self.total = schedules.length(cfg.train, loader.batches.updates_per_epoch)
        self.schedule = schedules.from_config(cfg.train, self.total, per_epoch)
        self.ema, self.feed = EMA(network, cfg.train.ema.alpha), Feed(epochs(loader), 1, accelerator.device)
        self.model, self.optimizer = launch.prepare_model(
            cfg, accelerator, network, build.build_optimizer(cfg, network)
        )
        run: Any = SimpleNamespace(accelerator=accelerator, window=Window(), stop=SimpleNamespace(requested=False))
        run.compute = functools.partial(forward_and_backward, accelerator, data)
        run.step = Step(accelerator, network, list(network.parameters()), self.ema, cfg.train.clip_grad_norm)
        self.step = functools.partial(one_update, run, self.model, self.optimizer, self.feed, None)
        self.parts = [(self.feed, "take", "data"), (self.model, "forward", "forward"), (self.model.head, "losses", "loss"),
                      *last_parts(self.optimizer, self.ema)]  # fmt: skip

    def update(self, done: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * self.schedule(done)
        self.feed.take()
        self.step()

    def answer(self, batch: Batch) -> Tensor:
        return self.model(batch)["box"]


class Plain:
    """The same network and rates in the original's manner."""

    def __init__(self, cfg: Any, dataset: PlainDataSet, network: Any, schedule: Callable[[int], float]) -> None:
        train, order = cfg.train, torch.Generator().manual_seed(cfg.train.seed)
        self.model = plain_model.PlainSimREC(network)
        training = PlainTraining(self.model, cfg.optim.lr, train.clip_grad_norm, train.ema.alpha, schedule)
        loader = torch.utils.data.DataLoader(dataset, train.batch_size, shuffle=True, drop_last=True, generator=order)
        self.ema, self.step = training.ema, training.step
        self.batches = itertools.chain.from_iterable(itertools.repeat(loader))
        self.parts = [(self, "read", "data"), (self.model, "forward", "forward"), (plain_model, "plain_losses", "loss"),
                      *last_parts(training.optimizer, self.ema)]  # fmt: skip

    def read(self) -> dict[str, Tensor]:
        tokens, image, _, label, *_ = next(self.batches)
        return {"image": image, "tokens": tokens, "label": label}

    def update(self, done: int) -> None:
        self.step(self.read())

    def answer(self, batch: Batch) -> Tensor:
        return self.model(batch["image"][batch["image_index"]], batch["tokens"])["box"]


def time_to_accuracy(options: Options) -> Iterator[Row]:
    from rec.data.loader import evaluation_loader
    from rec.data.prepare import prepare
    from rec.data.tables import open_source
    from rec.model_folder.allowed import load_config
    from rec.training import build

    # The scenes as `make quickstart` prepares them, and plain's files of the same.
    table = (options.work / f"scenes_{options.images}" / "scenes").resolve()
    drawn = {"path": "scenes", "count": {"train": options.images, "val": min(VAL, options.images)}}
    prepare(open_source(drawn, name="scenes"), table, splits=["train", "val"], progress=False)
    given = [f"dataset.ann_path.scenes={table}", f"dataset.input_shape=[{options.size},{options.size}]"]
    cfg = load_config(str(ROOT / options.config), [*given, *options.overrides])
    dataset: Any = build.build_dataset(cfg, "train", training=True)
    build.set_vocabulary_size(cfg, dataset.vocabulary)
    theirs = plain_dataset(table, table, options.size, training=False, split="train")  # an item for each sentence
    theirs.words = {word: number for number, word in enumerate(dataset.vocabulary.words)}
    val: Any = build.build_dataset(cfg, "val", training=False, vocabulary=dataset.vocabulary)
    loader, pixels = evaluation_loader(val, cfg.train.evaluation.eval_batch_size, num_workers=0), cfg.train.data
    asked = [model_input(batch, pixels.mean, pixels.std) for batch in loader]

    found: dict[str, list[Reached]] = {"plain": [], "ours": []}
    spent = {side: defaultdict[str, float](float) for side in found}
    for seed in range(options.rounds):
        cfg.train.seed = seed
        torch.manual_seed(seed)
        network: Any = build.build_model(cfg, dataset)
        ours = Ours(cfg, dataset, network)
        sides = {"plain": Plain(cfg, theirs, network, ours.schedule), "ours": ours}
        for side, reached in race(sides, ours.total, asked, spent).items():
            found[side].append(reached)

    for goal in GOALS:
        yield row_of(goal, found, "" if options.overrides else AT_LEAST)
    each = {side: [parts["all"] / parts["updates"]] for side, parts in spent.items()}
    update = ratio("seconds of an update, plain over ours", each, "plain", "ours")
    yield replace(update, note="; ".join(itertools.starmap(shares, spent.items())))


def race(
    sides: Mapping[str, Any], total: int, asked: Sequence[Batch], spent: Mapping[str, dict[str, float]]
) -> dict[str, Reached]:
    """Trains the sides in turn until each has reached every goal, spent its time or done ``total`` updates.

    Args:
        asked: batches of :func:`accuracy`.
        spent: of each side, to which the seconds of its parts and of ``all``, and its ``updates``, are added.
    """
    found: dict[str, Reached] = {side: {} for side in sides}
    seconds, turns = dict.fromkeys(sides, 0.0), itertools.cycle((1, -1))
    for done in range(0, total, EVERY):
        updates = range(done, min(done + EVERY, total))
        running = [name for name in sides if len(found[name]) < len(GOALS) and seconds[name] < LIMIT]
        for name in running[:: next(turns)]:
            side = sides[name]
            with clocked(side.parts, spent[name]):
                started = time.perf_counter()
                for number in updates:
                    side.update(number)
                took = time.perf_counter() - started
            spent[name]["updates"] += len(updates)
            spent[name]["all"] += took
            seconds[name] += took
            reached = accuracy(side, asked)
            for goal in (goal for goal in GOALS if reached >= goal):
                found[name].setdefault(goal, (seconds[name], updates.stop))
    return found


@torch.no_grad()
def accuracy(side: Any, asked: Sequence[Batch]) -> float:
    """Acc@0.5 with the averaged weights, of square images: pixels of the input are those of the image by a factor."""
    own = {name: value.clone() for name, value in side.model.state_dict().items()}
    side.model.load_state_dict(side.ema.shadow)
    side.model.eval()
    right = [
        box_iou(side.answer(batch), cxcywh_to_xyxy(batch["box"]) * batch["image"].shape[-1]) > 0.5 for batch in asked
    ]
    side.model.load_state_dict(own)
    side.model.train()
    return torch.cat(right).float().mean().item()


def row_of(goal: float, found: Mapping[str, Sequence[Reached]], bound: str) -> Row:
    """Plain's seconds over ours for the seeds in which both reached the goal; the others are told."""
    what, both = (
        f"seconds of training to val Acc@0.5 {goal:.2f}, plain over ours",
        list(zip(*found.values(), strict=True)),
    )
    missed = {side: sum(goal not in reached for reached in each) for side, each in found.items()}
    notes = [
        f"{side}: not reached within {LIMIT:.0f} s or the schedule, {n} of {len(both)} seeds"
        for side, n in missed.items()
        if n
    ]
    pairs = [pair for pair in both if all(goal in reached for reached in pair)]
    if not pairs:
        return single(what, LIMIT, "s, not reached within", "; ".join(notes))
    times = {side: [pair[number][goal][0] for pair in pairs] for number, side in enumerate(found)}
    updates = (f"{side} {median(pair[number][goal][1] for pair in pairs):,.0f}" for number, side in enumerate(found))
    return replace(ratio(what, times, *found), bound=bound, note="; ".join([f"updates: {', '.join(updates)}", *notes]))


def shares(side: str, parts: Mapping[str, float]) -> str:
    """Where a side's training time goes."""
    named = {part: parts[part] for part in ("data", "forward", "loss", "backward", "optimizer and EMA")}
    named["forward"] -= named["loss"]  # which is called inside
    named["the rest"] = parts["all"] - sum(named.values())
    return f"{side}: " + ", ".join(f"{part} {100 * seconds / parts['all']:.0f} %" for part, seconds in named.items())


def last_parts(optimizer: Any, ema: Any) -> list[tuple[Any, str, str]]:
    """What both sides time alike: (object, its function, part)."""
    both = "optimizer and EMA"
    return [(torch.autograd, "backward", "backward"), (optimizer, "step", both), (ema, "update", both)]


def epochs(loader: Any) -> Iterator[Batch]:
    """One epoch after another."""
    for epoch in itertools.count():
        loader.batches.set_position(epoch, 0)
        yield from loader
