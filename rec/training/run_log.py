"""What a run reports: console, ``train.log``, ``metrics.jsonl`` and Accelerate's trackers. Silent off the main process."""

import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProfileKwargs, gather_object
from tqdm import tqdm

from rec.contracts import ConfigNode, DataSet
from rec.errors import TrainingError
from rec.files import NO_SPACE, whole_file
from rec.models.pretrained_text import text_encoders
from rec.training import summary
from rec.training.checkpoint_format import TrainerState
from rec.training.process import end_together
from rec.trust import read_bytes, split_name

AFTER_DIVERGING = "Lower optim.lr or train.clip_grad_norm, look at the data (`rec browse`), or train in float32"


class RunLog:
    """Log of one run on its main process.

    Args:
        folder: the output folder.
        accelerator: its trackers are started here.
        config: plain dict, shown to the trackers as hyper-parameters.
        update: the update the run continues from; later lines of ``metrics.jsonl``, of a run that was killed, are dropped.
        due_evaluation: the evaluation after ``update`` comes anew; what there is of it is dropped too.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        config: Mapping[str, Any],
        update: int,
        due_evaluation: bool = False,
    ) -> None:
        self.accelerator = accelerator
        self.main = accelerator.is_main_process
        self.before = update
        self.started_at = update if not due_evaluation else -1
        self.metrics_file = folder / "metrics.jsonl"
        self.bar: tqdm | None = None
        self.caches: list[object] = []
        self.logger = logging.getLogger("rec")
        if not self.main:
            return
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        logging.raiseExceptions = False  # a full disk costs lines of train.log, not a traceback for each
        self.logger.handlers = [logging.FileHandler(folder / "train.log", encoding="utf-8"), _Console()]
        for handler in self.logger.handlers:
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self._drop_after(update, due_evaluation)
        if accelerator.log_with:
            flat = {key: str(value) for key, value in flatten(config).items()}
            accelerator.init_trackers("rec", config=flat)

    def _drop_after(self, update: int, due_evaluation: bool) -> None:
        """Drops what a run that was killed has logged after ``update``, and lines that are none; says if it diverged."""
        if not self.metrics_file.exists():
            return
        kept, dropped = [], []
        for line in read_bytes(self.metrics_file, "log of metrics").splitlines():
            try:
                record = json.loads(line.decode("utf-8"))
                number, kind = record["update"], record.get("kind")
                later = number > update or (number == update and due_evaluation and kind == "evaluation")
                if type(number) is not int:
                    raise TypeError("an update is a whole number")
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                dropped.append(line)
                continue
            if not later:
                kept.append(line + b"\n")
            elif kind == "diverged":
                self.line(
                    f"this run went on from here before and diverged, update {number}: unless something was changed since, "
                    f"it will again. {AFTER_DIVERGING}"
                )
        if dropped:
            more = f", and {len(dropped) - 1} more" if dropped[1:] else ""
            self.line(f"{self.metrics_file}: dropped a line that is not complete: {dropped[0][:80]!a}{more}")
        with self._naming_the_file(), whole_file(self.metrics_file) as temporary:
            temporary.write_bytes(b"".join(kept))

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = "free space" if error.errno in NO_SPACE else "check the path and its permissions"
            raise TrainingError(
                f"{self.metrics_file} cannot be written ({error.strerror}): {advice} and start the same command again, it "
                "continues from the last complete checkpoint"
            ) from error

    def line(self, text: str) -> None:
        """One line on the console and in ``train.log``."""
        if self.main:
            self.logger.info(text)

    def describe(self, lines: Iterable[str], model: torch.nn.Module, updates: int, log_period: int) -> None:
        """The lines a run begins with, and a progress bar where the console is a terminal; decides how often it logs."""
        self.period = min(log_period, max(1, updates // summary.LINES))
        for text in lines:
            self.line(text)
        on_terminal = self.main and sys.stderr.isatty()
        self.bar = tqdm(total=updates, initial=self.before, unit="update", disable=not on_terminal)
        self.caches = [encoder.cache for encoder in text_encoders(model).values() if encoder.cache is not None]
        for cache in self.caches:
            self.line(f"kept features of phrases: {cache}")

    def metrics(self, kind: str, update: int, values: Mapping[str, float], **more: Any) -> None:
        """One record to ``metrics.jsonl`` and its numbers to the trackers, under ``kind/name``."""
        if not self.main:
            return
        record = {"kind": kind, "update": update, **more, **values}
        with self._naming_the_file(), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.accelerator.log({f"{kind}/{key}": value for key, value in values.items()}, step=update)

    def update(self, window: "Window", state: TrainerState, total: int, rate: float, gradient_norm: float) -> None:
        """The line and record of a logged update; every process calls it. Empties ``window``.

        Losses are means since the last line; the gradient norm is this update's, before clipping.
        """
        elapsed, updates = time.perf_counter() - window.started, state.update - window.first_update
        speed = window.speed(self.accelerator.num_processes)
        losses = window.means(self.accelerator)
        eta = elapsed / max(1, updates) * (total - state.update)
        window.restart_clock(state.update)
        parts = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
        self.line(
            f"epoch {state.epoch}  {state.update}/{total}  {parts}  lr {rate:.2e}  gradient norm {gradient_norm:.2f}  "
            f"{speed['images_per_second']:.0f} images/s  data wait {speed['data_wait']:.0%}  {speed['memory_gb']:.1f} GB  "
            f"ETA {timedelta(seconds=round(eta))}"
        )
        numbers = {**losses, "lr": rate, "gradient_norm": gradient_norm, **speed, "eta_seconds": eta}
        self.metrics("train", state.update, numbers, epoch=state.epoch)

    def pictures(self, split: str, update: int, dataset: DataSet, records: Sequence[Mapping[str, Any]]) -> None:
        """Predictions of an evaluation, drawn: ``pictures/<split>_<update>.png``, and to the trackers that take images.

        Args:
            split: name of the split.
            update: of the evaluated weights.
            dataset: the split.
            records: as :func:`rec.evaluation.evaluate` gives them; empty off the main process.
        """
        if not records:
            return
        from rec.evaluation.pictures import prediction_grid, save

        picture = prediction_grid(dataset, records, count=12)
        save(picture, self.metrics_file.parent / "pictures" / f"{split_name(split)}_{update:08d}.png")
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                # TensorBoard alone must be told where the channels are.
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({f"predictions/{split}": np.asarray(picture)[None]}, step=update, **layout)

    def advance(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def close(self, cfg: ConfigNode, state: TrainerState, updates: int) -> None:
        """Ends the log; where all ``updates`` are done, with what came out and the next commands."""
        for cache in self.caches:
            self.line(f"kept features of phrases: {cache}")
        if state.skipped_updates:
            self.line(f"{state.skipped_updates} updates were skipped because a gradient was not finite")
        if self.bar is not None:
            self.bar.close()
        if state.update >= updates and not state.due_evaluation:
            for text in summary.ending(cfg, state, self.started_at, updates):
                self.line(text)
        end_together(self.accelerator)


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except Exception:  # a console that is gone, where rec.console does not stand in front of it
            self.handleError(record)


class Window:
    """Means of the losses since the last log line, kept on the device: nothing is read back until a line is due.

    Attributes:
        images, data_wait: images, and seconds of waiting for them, since :meth:`restart_clock`.
    """

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.batches = 0
        self.restart_clock(0)

    def restart_clock(self, update: int) -> None:
        self.first_update = update
        self.started, self.images, self.data_wait = time.perf_counter(), 0, 0.0

    def add(self, losses: Mapping[str, torch.Tensor], images: int) -> None:
        """The losses of a batch and how many images it had."""
        self.images += images
        values = {name: value.detach().float() for name, value in losses.items()}
        if known := self.sums.keys() & values.keys():  # in one operation: a GPU's host has no time for each
            torch._foreach_add_([self.sums[name] for name in known], [values[name] for name in known])
        # A copy: a compiled model may write its next losses over these.
        self.sums |= {name: value.clone() for name, value in values.items() if name not in known}
        self.batches += 1

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over the window and all processes (a collective); empties the window."""
        names, values = self._together(accelerator)
        sums = accelerator.reduce(torch.stack(values), "mean") / max(1, self.batches)
        self.sums, self.batches = {}, 0
        return dict(zip(names, sums.tolist(), strict=True))

    def state(self, accelerator: Accelerator) -> dict[str, Any]:
        """What :meth:`load` continues from, with the sums of every process (a collective)."""
        names, values = self._together(accelerator)
        each = accelerator.gather(torch.stack(values)[None]).T.tolist() if names else []
        return {"batches": self.batches, "sums": dict(zip(names, each, strict=True))}

    def _together(self, accelerator: Accelerator) -> tuple[list[str], list[torch.Tensor]]:
        """The names of all processes' losses, of which one may have had some that another had not, and this one's sums."""
        every = gather_object([list(self.sums)]) if accelerator.num_processes > 1 else [self.sums]
        names = sorted({name for known in every for name in known})
        none = torch.zeros((), device=accelerator.device)
        return names, [self.sums.get(name, none) for name in names]

    def load(self, state: Mapping[str, Any], accelerator: Accelerator, update: int) -> None:
        """Each process takes its own sums up; their mean, where there are other processes now. The clock starts at ``update``."""
        self.restart_clock(update)
        self.batches, self.sums = state["batches"], {}
        for name, each in state["sums"].items():
            each = each if isinstance(each, list) else [each]  # a single number in checkpoints of version 0.1
            own = each[accelerator.process_index] if len(each) == accelerator.num_processes else sum(each) / len(each)
            self.sums[name] = torch.tensor(own, device=accelerator.device)

    def speed(self, processes: int) -> dict[str, float]:
        """Wall-clock fields: images/s over all processes, share of the time spent waiting for data, memory in GB."""
        elapsed = max(1e-9, time.perf_counter() - self.started)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated()
        speed = {"images_per_second": self.images * processes / elapsed, "data_wait": self.data_wait / elapsed}
        return speed | {"memory_gb": memory / 1e9}


class Profiler:
    """Leaves a trace of some updates of each process, in Chrome's format, as ``profile/profile_<rank>.json``.

    Args:
        options: ``train.profile``: ``enabled``; ``first_update`` and ``updates``, counted from the start of this process.
        folder: the output folder.
        accelerator: the run's.
        report: receives one line when the trace is written, or where the process ends before its first profiled update.
    """

    def __init__(
        self, options: ConfigNode, folder: Path, accelerator: Accelerator, report: Callable[[str], None]
    ) -> None:
        self.first = options.first_update if options.enabled else -1
        self.last = self.first + options.updates
        self.done, self.recording = 0, ExitStack()
        self.accelerator, self.folder, self.report = accelerator, folder / "profile", report

    def before_update(self) -> None:
        """Call before each update."""
        if self.done == self.last:
            self.close()
        if self.done == self.first:
            how = ProfileKwargs(output_trace_dir=str(self.folder), record_shapes=True, profile_memory=True)
            self.recording.enter_context(self.accelerator.profile(how))
            self.recording.callback(lambda: self.report(f"profile of {self.done - self.first} updates: {self.folder}"))
        self.done += 1

    def close(self) -> None:
        """Writes what was recorded, also of a run that ends before its last profiled update."""
        if self.done <= self.first:
            self.report(
                f"no profile: train.profile.first_update={self.first}, and this process had {self.done} updates"
            )
        self.recording.close()


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": [1]}}`` to ``{"a.b.0": 1}``."""
    if isinstance(config, Mapping):
        items = [(str(key), value) for key, value in config.items()]
    elif isinstance(config, list | tuple):
        items = [(str(index), value) for index, value in enumerate(config)]
    else:
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat
