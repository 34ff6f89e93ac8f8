"""Memory that runs out, for real, is one paragraph with the run's numbers and what to lower."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from rec.command_line import explained
from rec.config import LazyConfig
from rec.errors import TrainingError
from rec.training import run_log
from rec.training.memory import explained_memory

QUICKSTART = Path(__file__).parents[2] / "configs" / "simrec_small_scenes_quickstart.py"
SCALES = "train.multi_scale_training.enabled=true"
TOO_MUCH = 1 << 50  # bytes


def test_the_log_tells_bytes_whatever_the_system_counts_in(monkeypatch):
    told = {}
    for system in ("linux", "darwin"):  # kilobytes there, bytes here
        monkeypatch.setattr(run_log.sys, "platform", system)
        told[system] = run_log.Window().speed(1)["memory_gb"]
    assert told["linux"] == pytest.approx(1024 * told["darwin"], rel=0.1)


def paragraph(fill, *overrides: str) -> str:
    Accelerator(cpu=True)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(str(QUICKSTART)), list(overrides))
    with pytest.raises(TrainingError) as caught, explained_memory(cfg):
        fill()
    text = explained(caught.value)
    assert text is not None and str(TOO_MUCH) in text and "\n" not in text
    return text


def fill() -> None:
    torch.empty(TOO_MUCH, dtype=torch.uint8)


def evaluate_splits() -> None:
    fill()


@pytest.mark.parametrize(
    ("where", "overrides", "said", "unsaid"),
    [
        (fill, (), ("48 samples of 96 x 96", "accumulation_steps=2", "24 samples", "checkpoint.enabled=true", "bf16"), "scale"),
        (fill, (SCALES, "train.num_accumulation_steps=4"), ("12 samples of up to 608 x 608", "take 608 out of"), "eval_batch"),
        (fill, ("train.batch_size=2", "train.activation_checkpoint.enabled=true"), ("lower train.batch_size=2",), "accumulation"),
        (evaluate_splits, (SCALES,), ("100 samples of 96 x 96", "lower train.evaluation.eval_batch_size=100"), "train.batch_size"),
    ],
)  # fmt: skip
def test_the_paragraph_has_the_numbers_of_the_run_and_only_what_would_help(where, overrides, said, unsaid):
    text = paragraph(where, *overrides)
    assert all(part in text for part in said) and unsaid not in text, text


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("", ("48 samples of 96 x 96", "(a MemoryError)")),  # as Python itself raises it
        ("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback ...\nMemoryError: 9 GiB for an array",
         ("in a loader worker: lower train.data.num_workers=0, or train.batch_size=48", "MemoryError: 9 GiB for an array)")),
    ],
)  # fmt: skip
def test_memory_that_runs_out_without_a_word_or_in_a_loader_worker_is_told(error, said):
    cfg = LazyConfig.load(str(QUICKSTART))
    with pytest.raises(TrainingError) as caught, explained_memory(cfg):
        raise MemoryError(error)
    assert all(part in str(caught.value) for part in said), caught.value


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), explained_memory(None):
        1 / 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError()]
)
def test_every_script_explains_it(error):
    assert "memory ran out" in (explained(error) or "") and explained(RuntimeError("a defect")) is None
