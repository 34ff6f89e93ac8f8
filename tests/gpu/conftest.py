"""What runs on a GPU, and skips without one; what needs no call of CUDA's own runs on the CPU too, so that it was run before."""

import os
from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState
from gpu_checks import set_tf32

NO_GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA GPU here: torch.cuda.is_available() is False"
)
# Covered on the CPU by tests of their own (tests/training, tests/inference): here they are rehearsed by `make gpu DEVICE=cpu`.
REHEARSED = pytest.mark.skipif("REC_GPU_REHEARSAL" not in os.environ, reason="on the CPU in `make gpu DEVICE=cpu` only")
ON_GPU = pytest.param("cuda", marks=NO_GPU)


@pytest.fixture(params=["cpu", ON_GPU])
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=[pytest.param("cpu", marks=REHEARSED), ON_GPU])
def rehearsed(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=[ON_GPU])
def gpu(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def as_on_the_cpu(monkeypatch, request) -> Iterator[None]:
    """float32 without TF32, and Accelerate on the device of the test."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    set_tf32(False, False)
    asked = {"device", "rehearsed", "gpu"} & set(request.fixturenames)
    on_cpu = not asked or request.getfixturevalue(asked.pop()).type == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(on_cpu).lower())
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    set_tf32(*before)
