"""Writing checkpoints; their format is in :mod:`rec.training.checkpoint_format`, their loading in ``checkpoint_loading``.

A checkpoint is written to a temporary folder beside its final place, synced and renamed; only then are older ones pruned,
so that at every instant the newest complete checkpoint is whole. On one process or DDP the training loop waits only for a
copy of the state in memory (:class:`CheckpointWriter`); a background thread does the writing.
"""

import copy
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.checkpointing import save_accelerator_state
from safetensors.torch import save_file
from torch.utils._pytree import tree_map

from rec.errors import CheckpointError
from rec.evaluation.run import share_buffers
from rec.files import default_mode, swap, sync, write_text
from rec.models.pretrained_text import borrowed_names
from rec.training.checkpoint_format import (
    AVERAGED,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    TrainerState,
    clean_temporary,
    damage,
    described,
    folder_of,
    folders,
    read_state,
    state_text,
)
from rec.training.checkpoint_loading import SHARDED, load, match_memory_format
from rec.training.ema import EMA

__all__ = ["CheckpointWriter", "clean_temporary", "folder_of", "load", "match_memory_format"]


@dataclass
class _Copy:
    """What is to be written: the state and the content of files as they were when training went on."""

    temporary: Path
    final: Path
    files: dict[str, Any]
    parameters: set[str]
    state: TrainerState
    publish: Callable[[Path], None] | None
    blocked: float


class CheckpointWriter:
    """Writes checkpoints of one run.

    Args:
        output_dir: run folder.
        max_to_keep: how many complete checkpoints stay.
        report: receives one line per save or failure.

    Attributes:
        failure: why the last save failed; None where it did not. On the main process.
        diverged: whether weights to be saved were found not to be finite; the same on every process after a save.
    """

    def __init__(self, output_dir: Path, max_to_keep: int, report: Callable[[str], None]) -> None:
        self.output_dir, self.max_to_keep, self.report = output_dir, max(1, max_to_keep), report
        self.failure: Exception | None = None
        self.diverged = False
        self._not_finite = False
        self._thread: threading.Thread | None = None

    def save(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: EMA | None,
        state: TrainerState,
        publish: Callable[[Path], None] | None = None,
    ) -> None:
        """Saves; returns once the state is copied, while the writing goes on. Every process calls it.

        Args:
            model: as ``accelerator.prepare`` returned it.
            publish: called with the file of the weights to use (EMA where on) before the checkpoint gets its final name.
        """
        started = time.perf_counter()
        final = folder_of(self.output_dir, state.update)
        temporary = final.with_name(f".{final.name}.tmp")
        self.wait()

        # Every process decides alike: only the main one knows what is on the disk, and what its thread has found.
        decision = torch.zeros(2, device=accelerator.device)
        if accelerator.is_main_process:
            decision[1] = self._not_finite
            # Never twice at the same update, but where the evaluation was made up for.
            wanted = damage(final) is not None or read_state(final).due_evaluation
            decision[0] = not self._not_finite and wanted and self._make(temporary)
        proceed, self.diverged = (value > 0 for value in accelerator.reduce(decision, "sum").tolist())
        if not proceed:
            return

        # What every process writes of its own: random states; where parameters are sharded, its part of everything.
        sharded = accelerator.distributed_type in SHARDED
        self.failure = None
        try:
            if sharded:
                share_buffers(accelerator.unwrap_model(model))  # of what is not divided any process may write its own
                accelerator.save_state(str(temporary))
            else:
                scaler = accelerator.scaler if accelerator.is_main_process else None
                save_accelerator_state(
                    str(temporary), [], [], [], [], accelerator.process_index, accelerator.step, scaler
                )
        except Exception as error:  # a full disk, which torch wraps in errors of its own
            self.failure = error
        weights = accelerator.get_state_dict(model)
        # Also a barrier: every process has written its random states, or the checkpoint would be taken for complete.
        failed = torch.full((1,), float(self.failure is not None), device=accelerator.device)
        failures = accelerator.reduce(failed, "sum").item()
        if not accelerator.is_main_process:
            return
        if failures:
            self._fail(self.failure or OSError("another process could not write its random states"), temporary)
            return

        # The rest is the main process's: a copy in memory now, files while training goes on.
        bare = accelerator.unwrap_model(model)
        left_out = borrowed_names(bare)
        files: dict[str, Any] = {WEIGHTS: _snapshot({n: v for n, v in weights.items() if n not in left_out})}
        if ema is not None:
            trained = {name: value for name, value in ema.shadow.items() if name not in ema.never_trained}
            raw = files[WEIGHTS]
            files[AVERAGED] = _snapshot(trained) | {name: raw[name] for name in ema.never_trained - left_out}
        if not sharded:
            files[OPTIMIZER] = _snapshot(optimizer.state_dict())
        names = {name for name, _ in bare.named_parameters()}
        copied = _Copy(temporary, final, files, names, copy.deepcopy(state), publish, time.perf_counter() - started)
        self._thread = threading.Thread(target=self._write, args=(copied,))
        self._thread.start()

    def wait(self) -> None:
        """Returns once the last save is on the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _make(self, temporary: Path) -> bool:
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        except OSError as error:
            self._fail(error, temporary)
            return False
        return True

    def _fail(self, error: Exception, temporary: Path) -> None:
        if "inline_container" in str(error):  # all that torch says of what it could not write
            error = OSError(f"a file could not be written whole, most often because the disk is full: {error}")
        self.failure = error
        shutil.rmtree(temporary, ignore_errors=True)
        self.report(f"checkpoint not saved ({type(error).__name__}: {error}); {self._before()}, and training goes on")

    def _before(self) -> str:
        return "the one before it is intact" if folders(self.output_dir) else "there is none before it"

    def _write(self, copied: "_Copy") -> None:
        started, temporary, final, files = time.perf_counter(), copied.temporary, copied.final, copied.files
        # Weights that have diverged must not push out those that have not.
        if (name := _not_finite(files[WEIGHTS], copied.parameters)) is not None:
            self._not_finite = True
            self.failure = CheckpointError(f"{name} holds values that are not finite")
            shutil.rmtree(temporary, ignore_errors=True)
            self.report(f"checkpoint not saved: {self.failure}; {self._before()}")
            return
        try:
            for name, content in files.items():
                if name.endswith(".safetensors"):
                    contiguous = {key: value.contiguous() for key, value in content.items()}
                    save_file(contiguous, temporary / name, metadata={"format": "pt"})
                    (temporary / name).chmod(default_mode())  # safetensors makes it its owner's alone
                else:
                    torch.save(content, temporary / name)
            # Digests are taken of what the files hold, those of other processes too; it is still in the page cache.
            written = sorted(path for path in temporary.rglob("*") if path.is_file())
            state = replace(copied.state, files={str(path.relative_to(temporary)): described(path) for path in written})
            write_text(temporary / STATE, state_text(state))
            for path in (*written, temporary):
                sync(path)

            # Published while still under its temporary name: a checkpoint that counts has a best/ that belongs to it.
            if copied.publish is not None:
                copied.publish(temporary / (AVERAGED if AVERAGED in files else WEIGHTS))
            # The move that makes it the newest; older ones go only after it.
            swap(temporary, final)
            shutil.rmtree(temporary, ignore_errors=True)  # what was there: a damaged one, or one not evaluated
            sync(final.parent)
            name_newest(final)
            # What is newer than this one was damaged when the run started, and counts for nothing.
            for old in [folder for folder in folders(self.output_dir) if folder.name <= final.name][self.max_to_keep :]:
                # Renamed first: a kill on the way leaves nothing half removed under the name of a checkpoint.
                retired = old.rename(old.with_name(f".{old.name}.old"))
                shutil.rmtree(retired, ignore_errors=True)
        except Exception as error:
            # A full disk, which safetensors, torch and the model folder wrap in errors of their own.
            self._fail(error, temporary)
            return
        megabytes = sum(entry["bytes"] for entry in state.files.values()) / 1e6
        seconds = time.perf_counter() - started
        self.report(
            f"saved {final.name}: {megabytes:.1f} MB in {seconds:.2f} s, training waited {copied.blocked:.2f} s"
        )


def name_newest(folder: Path) -> None:
    """Notes in ``last``, beside a checkpoint, that it is the newest complete one."""
    last = folder.parent / "last"
    if not last.is_file() or last.read_bytes() != f"{folder.name}\n".encode():
        write_text(last, f"{folder.name}\n")


@torch.no_grad()
def _snapshot(tree: object) -> Any:
    """A copy in main memory of every tensor in a tree of dicts and lists."""

    def copied(value: object) -> Any:
        return value.to("cpu", copy=True) if isinstance(value, torch.Tensor) else value

    return tree_map(copied, tree)


@torch.no_grad()
def _not_finite(weights: Mapping[str, torch.Tensor], parameters: set[str]) -> str | None:
    """The first parameter or running statistic that holds NaN or infinity; other buffers may (masks hold -inf)."""
    for name, value in weights.items():
        looked_at = name in parameters or name.endswith(("running_mean", "running_var"))
        # A sum costs no memory; only where it is not finite are the values looked at one by one.
        if looked_at and value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all():
            return name
    return None
