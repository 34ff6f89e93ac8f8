"""Checkpoints: the one module that writes and reads them.

::

    output_dir/checkpoints/
      step_00001200/
        model.safetensors          raw weights, complete, names of the unwrapped model
        ema.safetensors            EMA weights, complete, where EMA is on
        optimizer.bin, scaler.pt   Accelerate's own state (``accelerator.load_state`` reads it, weights only)
        random_states_<rank>.pkl   random number generators of each process (likewise)
        trainer_state.json         where training stands, what it was started with, and the size of every file above
      last                         the name of the newest complete one

A checkpoint is written to a temporary folder beside its final place, synced and renamed; only then are older ones pruned,
so that at every instant the newest complete checkpoint is whole. On one process or DDP the training loop waits only for a
copy of the state in memory (:class:`Writer`); a background thread does the writing.
"""

import copy
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.checkpointing import save_accelerator_state
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_map

from rec.training.ema import EMA
from rec.training.resume import CheckpointError, TrainerState, problem, read_state


def folder_of(output_dir: Path, update: int) -> Path:
    return output_dir / "checkpoints" / f"step_{update:08d}"


def clean_temporary(output_dir: Path) -> None:
    """Removes what a killed save left behind. Call with the output folder's lock held."""
    for left_over in (*(output_dir / "checkpoints").glob(".step_*"), *output_dir.glob(".best.*")):
        shutil.rmtree(left_over, ignore_errors=True)


def load(folder: Path, accelerator: Accelerator, model: torch.nn.Module, ema: EMA | None) -> TrainerState:
    """Restores raw weights, EMA, optimizer, scaler and random states (every process calls it).

    Args:
        model: the unwrapped model.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another model.
    """
    trouble = problem(folder)
    if trouble is not None:
        raise CheckpointError(f"{folder} cannot be loaded: {trouble}")
    state = read_state(folder)

    def load_weights(models: list[Any], _: str) -> None:
        if accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            models.clear()  # Accelerate's own loader would want the names of the DDP wrapper
            load_into(model, load_file(folder / "model.safetensors"), str(folder))

    hook = accelerator.register_load_state_pre_hook(load_weights)
    try:
        accelerator.load_state(str(folder), load_kwargs={"weights_only": True})
    finally:
        hook.remove()
    if accelerator.distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        for optimizer in accelerator._optimizers:
            lay_out_as_parameters(optimizer)
    if ema is not None:
        if not (folder / "ema.safetensors").exists():
            raise CheckpointError(f"{folder} was saved without EMA: continue with train.ema.enabled=false")
        ema.load(load_file(folder / "ema.safetensors"), state.ema_updates)
    return state


def lay_out_as_parameters(optimizer: Any) -> None:
    """Gives every state tensor its parameter's memory format: fused optimizers walk both by address, and would mix up the
    weights' entries where a checkpoint comes from a run with another format."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def load_into(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], origin: str) -> None:
    """Strict ``load_state_dict`` whose error is one paragraph.

    Raises:
        CheckpointError: names or shapes differ.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    shapes = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & weights.keys())
        if own[key].shape != weights[key].shape
    ]
    if missing or unexpected or shapes:
        parts = [f"{len(found)} {what}, e.g. {found[0]}" for what, found in
                 (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)) if found]  # fmt: skip
        raise CheckpointError(
            f"the weights in {origin} belong to another model: {'; '.join(parts)}. Use the config they were trained with, "
            "another train.output_dir for a new run, or train.load_weight to start from the part that fits"
        )
    model.load_state_dict(dict(weights))


class Writer:
    """Writes checkpoints of one run.

    Args:
        output_dir: run folder.
        max_to_keep: how many complete checkpoints stay.
        report: receives one line per save or failure.
    """

    def __init__(self, output_dir: Path, max_to_keep: int, report: Callable[[str], None]) -> None:
        self.output_dir, self.max_to_keep, self.report = output_dir, max(1, max_to_keep), report
        self.failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def save(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: Any,
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
        # Every process decides alike: only the main one knows what is on the disk.
        proceed = torch.zeros(1, device=accelerator.device)
        if accelerator.is_main_process:
            proceed += problem(final) is not None and self._make(temporary)  # never twice at the same update
        if not accelerator.reduce(proceed, "sum").item():
            return
        sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        self.failure = None
        try:
            if sharded:
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
        files: dict[str, Any] = {"model.safetensors": _snapshot(dict(weights))}
        if ema is not None:
            trained = {name: value for name, value in ema.shadow.items() if name not in ema.never_trained}
            raw = files["model.safetensors"]
            files["ema.safetensors"] = _snapshot(trained) | {name: raw[name] for name in ema.never_trained}
        if not sharded:
            files["optimizer.bin"] = _snapshot(optimizer.state_dict())
        values = copy.deepcopy(asdict(state))
        blocked = time.perf_counter() - started
        self._thread = threading.Thread(target=self._write, args=(temporary, final, files, values, publish, blocked))
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
        self.failure = error
        shutil.rmtree(temporary, ignore_errors=True)
        self.report(
            f"checkpoint not saved ({type(error).__name__}: {error}); the one before it is intact and training goes on"
        )

    def _write(
        self, temporary: Path, final: Path, files: dict[str, Any], values: dict[str, Any], publish: Any, blocked: float
    ) -> None:
        started = time.perf_counter()
        try:
            for name, content in files.items():
                if name.endswith(".safetensors"):
                    contiguous = {key: value.contiguous() for key, value in content.items()}
                    save_file(contiguous, temporary / name, metadata={"format": "pt"})
                else:
                    torch.save(content, temporary / name)
            written = [path for path in temporary.rglob("*") if path.is_file()]
            values["files"] = {str(path.relative_to(temporary)): path.stat().st_size for path in sorted(written)}
            write_json(temporary / "trainer_state.json", values)
            for path in (*written, temporary):
                sync(path)
            if publish is not None:
                publish(temporary / ("ema.safetensors" if "ema.safetensors" in files else "model.safetensors"))
            shutil.rmtree(final, ignore_errors=True)  # a damaged one
            os.rename(temporary, final)
            sync(final.parent)
            replace_text(final.parent / "last", final.name + "\n")
            for old in sorted(final.parent.glob("step_*[0-9]"))[: -self.max_to_keep]:
                # Renamed first: a kill on the way leaves nothing half removed under the name of a checkpoint.
                retired = old.rename(old.with_name(f".{old.name}.old"))
                shutil.rmtree(retired, ignore_errors=True)
        except (
            Exception
        ) as error:  # a full disk, which safetensors, torch and the model folder wrap in errors of their own
            self._fail(error, temporary)
            return
        megabytes = sum(values["files"].values()) / 1e6
        seconds = time.perf_counter() - started
        self.report(f"saved {final.name}: {megabytes:.1f} MB in {seconds:.2f} s, training waited {blocked:.2f} s")


@torch.no_grad()
def _snapshot(tree: Any) -> Any:
    """A copy in main memory of every tensor in a tree of dicts and lists."""

    def copied(value: Any) -> Any:
        return value.to("cpu", copy=True) if isinstance(value, torch.Tensor) else value

    return tree_map(copied, tree)


def sync(path: Path) -> None:
    """fsync of a file or a folder: after it, a power cut cannot lose the content (or the names in the folder)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, values: Any) -> None:
    """Writes and syncs."""
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    sync(path)


def replace_text(path: Path, text: str) -> None:
    """Replaces a small text file atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
