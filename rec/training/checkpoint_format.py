"""The format of checkpoints: their state file, whether they are whole, which is the newest.

::

    output_dir/checkpoints/
      step_00001200/
        model.safetensors          raw weights, names of the unwrapped model; complete but for what is frozen of a published
                                   text encoder, whose digest is in the config
        ema.safetensors            EMA weights, likewise, where EMA is on
        optimizer.bin, scaler.pt   optimizer and gradient scaler, as torch saves them, read with weights_only
        random_states_<rank>.pkl   random number generators of each process (likewise)
        trainer_state.json         where training stands, what it was started with, and the digest of every file above
      last                         the name of the newest complete one

``trainer_state.json`` holds a digest of its own, taken with zeros in its place. Checkpoints of version 0.1 hold sizes
in place of digests; they are still read. Written and loaded are checkpoints in :mod:`rec.training.checkpoint`.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rec.errors import CheckpointError, RecError
from rec.files import DIGEST, digest
from rec.trust import read_bytes, regular_file, weight_shapes

STATE, WEIGHTS, AVERAGED, OPTIMIZER, SCALER = (
    "trainer_state.json", "model.safetensors", "ema.safetensors", "optimizer.bin", "scaler.pt",
)  # fmt: skip
FORMAT = 2
MAX_STATE_BYTES = 64 << 20
_ZEROS = "0" * 32  # stands for the state file's digest while it is taken
_SINCE_FORMAT_2 = {"data_content": "", "vocabulary": "", "due_evaluation": False}


@dataclass
class TrainerState:
    """What is needed, besides tensors, to continue exactly where a run stopped."""

    epoch: int = 0
    update_in_epoch: int = 0
    update: int = 0
    # The evaluation after ``update``: weights that are not finite put it off, or a stop request cut it short.
    due_evaluation: bool = False
    best_metric: float | None = None
    best_metrics: dict[str, Any] = field(default_factory=dict)
    skipped_updates: int = 0
    skipped_in_a_row: int = 0
    ema_updates: int = 0
    window: dict[str, Any] = field(default_factory=lambda: {"batches": 0, "sums": {}})
    processes: int = 1
    batch_size: int = 1
    accumulation: int = 1
    data_fingerprint: str = ""
    data_content: str = ""
    vocabulary: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    # name -> {"bytes": size, "xxh3_128": digest}, filled in when the files are written; version 0.1: name -> size
    files: dict[str, Any] = field(default_factory=dict)


def random_states(rank: int) -> str:
    """The file of a process's random number generators."""
    return f"random_states_{rank}.pkl"


def folder_of(output_dir: Path, update: int) -> Path:
    return output_dir / "checkpoints" / f"step_{update:08d}"


def folders(output_dir: Path) -> list[Path]:
    """The checkpoints of a run folder, whole or not, newest first; clocks play no part."""
    numbered = (
        (re.fullmatch(r"step_(\d{8,})", path.name), path) for path in (output_dir / "checkpoints").glob("step_*")
    )
    return [path for _, path in sorted(((int(name[1]), path) for name, path in numbered if name), reverse=True)]


def clean_temporary(output_dir: Path) -> None:
    """Removes what a killed save left behind. Call with the output folder's lock held."""
    checkpoints = output_dir / "checkpoints"
    for left_over in (*checkpoints.glob(".step_*"), *output_dir.glob(".best.*")):
        shutil.rmtree(left_over, ignore_errors=True)
    single = (*output_dir.glob(".metrics.jsonl.*"), *output_dir.glob(".config.yaml.*"))
    for left_over in (*checkpoints.glob(".last.*"), *single):
        left_over.unlink(missing_ok=True)


def described(path: Path) -> dict[str, Any]:
    """The entry of a written file in ``TrainerState.files``; reads it once."""
    return {"bytes": path.stat().st_size, DIGEST: digest(path)}


def state_text(state: TrainerState) -> str:
    """The content of ``trainer_state.json``, its own digest included."""
    text = json.dumps({"format": FORMAT, DIGEST: _ZEROS} | asdict(state), indent=1)
    return text.replace(_ZEROS, digest(text.encode()), 1)


def read_state(folder: Path) -> TrainerState:
    """Reads ``trainer_state.json``.

    Raises:
        CheckpointError: it is missing, damaged or edited, or its folder was renamed.
    """
    path = folder / STATE
    try:
        content = read_bytes(path, "state of a checkpoint", MAX_STATE_BYTES)
        values = json.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError, RecError) as error:
        raise CheckpointError(f"{path} is missing, cut short or edited ({type(error).__name__}: {error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} was edited: it holds {type(values).__name__}, expected an object")
    version, own = values.pop("format", 1), str(values.pop(DIGEST, ""))
    if type(version) is not int or version not in (1, FORMAT):
        raise CheckpointError(
            f"{path} has format {version!r}, this version reads up to {FORMAT}: update rec to read it"
        )
    if version == 1:
        values = _SINCE_FORMAT_2 | values
    known = {item.name: item.type for item in fields(TrainerState)}
    for what, names in (("lacks", known.keys() - values.keys()), ("has an unknown key", values.keys() - known.keys())):
        if names:
            raise CheckpointError(f"{path} is cut short or edited: it {what} {min(names)}")
    for name, kind in known.items():
        expected, fits = _EXPECTED.get(name) or _EXPECTED[kind]
        if not fits(values[name]):
            raise CheckpointError(f"{path} was edited: {name}={repr(values[name])[:200]}, expected {expected}")
    state = TrainerState(**values)
    _check_together(path, state, version)
    named = own.encode("ascii", "replace")
    if version == FORMAT and own != digest(content.replace(named, _ZEROS.encode(), 1)):
        raise CheckpointError(f"{path} is damaged or was edited: its content does not have the digest it names")
    return state


def _check_together(path: Path, state: TrainerState, version: int) -> None:
    """What one value says about another."""
    for smaller, larger in (
        ("update_in_epoch", "update"), ("skipped_updates", "update"), ("skipped_in_a_row", "skipped_updates"),
        ("ema_updates", "update"),
    ):  # fmt: skip
        if getattr(state, smaller) > getattr(state, larger):
            raise CheckpointError(
                f"{path} was edited: {smaller}={getattr(state, smaller)} is more than {larger}={getattr(state, larger)}"
            )
    folder = path.parent
    if folder.name.startswith("step_") and folder.name != f"step_{state.update:08d}":
        raise CheckpointError(f"{path} was edited, or its folder renamed: update={state.update} in {folder.name}")
    if not all((type(entry) is int) == (version == 1) for entry in state.files.values()):
        raise CheckpointError(f"{path} was edited: files with and without a digest in format {version}")
    needed = [WEIGHTS, *map(random_states, range(state.processes))] + [AVERAGED] * (state.ema_updates > 0)
    # Sharded optimizers are written in parts, named by Accelerate and DeepSpeed.
    sharded = any(name.startswith(("optimizer_", "pytorch_model")) for name in state.files)
    for name in [*needed, *([] if sharded else [OPTIMIZER])]:
        if name not in state.files:
            raise CheckpointError(f"{path} is not complete: its list of files lacks {name}")


def damage(folder: Path, only: Iterable[str] | None = None) -> str | None:
    """Why ``folder`` is not a complete, undamaged checkpoint; None if it is one.

    Args:
        folder: the checkpoint. Every file is read.
        only: look at these files alone.
    """
    try:
        state = read_state(folder)
    except CheckpointError as error:
        return str(error)
    for name, entry in state.files.items():
        if only is not None and name not in only:
            continue
        path, size = folder / name, entry if isinstance(entry, int) else entry["bytes"]
        try:
            found = regular_file(path).stat().st_size
            if found != size:
                return f"{path}: expected {size} bytes, found {found}"
            if isinstance(entry, dict) and (content := digest(path)) != entry[DIGEST]:
                return f"{path}: its content has changed since it was saved ({DIGEST} {content}, saved {entry[DIGEST]})"
            if name.endswith(".safetensors"):
                weight_shapes(path)
        except FileNotFoundError:
            return f"{path}: expected {size} bytes, found no file"
        except (OSError, RecError) as error:
            return f"{path}: {error}"
    return None


def sizes_only(state: TrainerState) -> bool:
    """Whether the checkpoint is of version 0.1, which knew sizes in place of digests."""
    return any(isinstance(entry, int) for entry in state.files.values())


def newest(output_dir: Path, report: Callable[[str], None], passed_over: dict[Path, str] | None = None) -> Path | None:
    """The newest complete, undamaged checkpoint of a run folder.

    Args:
        output_dir: the run folder.
        report: receives a line for each damaged one.
        passed_over: those not to look at; damaged ones are added, with the reason.
    """
    passed_over = {} if passed_over is None else passed_over
    for folder in folders(output_dir):
        if folder in passed_over:
            continue
        trouble = damage(folder)
        if trouble is None:
            return folder
        passed_over[folder] = trouble
        report(f"{folder} is damaged and passed over: {trouble}")
    return None


def _count(least: int) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number of at least {least}", lambda value: type(value) is int and least <= value < 1 << 53


def _number(value: object) -> bool:
    return type(value) in (int, float)


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _window(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"batches", "sums"}
        and _count(0)[1](value["batches"])
        and isinstance(value["sums"], dict)
        and all(
            each and all(map(_number, each)) if isinstance(each, list) else _number(each)
            for each in value["sums"].values()
        )
    )


def _files(value: object) -> bool:
    """Names below the folder, each with a size or with a size and a digest."""
    return isinstance(value, dict) and all(
        re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", name, re.ASCII) and ".." not in name.split("/")
        and (_count(0)[1](entry) or (isinstance(entry, dict) and entry.keys() == {"bytes", DIGEST}
             and _count(0)[1](entry["bytes"]) and isinstance(entry[DIGEST], str)))
        for name, entry in value.items()
    )  # fmt: skip


# Of a value of the state file, by its type or, where that does not say all, its name: what is expected, and whether it is that.
_EXPECTED: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: _count(0),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("a text", lambda value: isinstance(value, str)),
    float | None: ("a number or null", lambda value: value is None or _number(value)),
    dict[str, Any]: ("an object", lambda value: isinstance(value, dict)),
    dict[str, str]: ("an object of texts", _texts),
    **dict.fromkeys(("processes", "batch_size", "accumulation"), _count(1)),
    "window": ('an object {"batches": count, "sums": {name: [number of each process]}}', _window),
    "files": ("an object of sizes and digests by name", _files),
}
