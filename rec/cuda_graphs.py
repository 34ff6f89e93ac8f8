"""Work on a GPU recorded once and replayed: Python, which is slower than a GPU, no longer takes part in it.

PyTorch, "Accelerating PyTorch with CUDA Graphs", 2021. A graph repeats the very same work on the very same memory, so there is
one for every combination of shapes, and parameters have to stay where they are.
"""

import contextlib
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

MOST_GRAPHS = 64
_state = threading.local()


def recording() -> bool:
    """Whether what is called now is recorded, or is the call before that: how long Python takes does not matter."""
    return getattr(_state, "recording", False)


class Replayed:
    """A function of tensors on a GPU whose work is recorded and replayed; elsewhere the function itself.

    The first call with arguments of some shapes is an ordinary one, in which libraries choose how to compute; the second is
    recorded; all later ones are replays. Beyond :data:`MOST_GRAPHS` combinations calls are ordinary ones.

    Args:
        function: of tensors, in lists and dicts too, and of values that decide what is computed. It must not wait for the GPU,
            and has to write gradients and statistics into memory that stays.
        copied: whether each call's results are its own; else the next call may write over them.
    """

    def __init__(self, function: Callable[..., Any], copied: bool = True) -> None:
        functools.update_wrapper(self, function)
        self._function, self._copied = function, copied
        self._recorded: dict[Hashable, _Recorded | None] = {}
        self._lock = threading.Lock()  # a graph has one place for its arguments
        self._stream: torch.cuda.Stream | None = None
        self._memory: Any = None  # one for all graphs: never do two of them run at a time

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = tree_flatten((args, kwargs))
        device = next((leaf.device for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_cuda), None)
        if device is None:
            return self._function(*args, **kwargs)
        key = (
            structure, tuple(map(_kind, leaves)), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"),
        )  # fmt: skip
        with self._lock, torch.cuda.device(device):
            if key not in self._recorded:
                if len(self._recorded) >= MOST_GRAPHS:
                    return self._function(*args, **kwargs)
                result = self._aside(args, kwargs)
                self._recorded[key] = None
                return result
            recorded = self._recorded[key]
            if recorded is None:
                recorded = self._recorded[key] = self._record(leaves, structure)
            result = recorded.replay(leaves)
            return tree_map_only(Tensor, torch.clone, result) if self._copied else result

    def _aside(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An ordinary call on the stream of the recording: what libraries and autograd keep belongs to it."""
        here = torch.cuda.current_stream()
        if self._stream is None:
            self._stream, self._memory = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream), _recordable():
            result = self._function(*args, **kwargs)
        here.wait_stream(self._stream)
        tree_map_only(Tensor, lambda tensor: tensor.record_stream(here), result)
        return result

    def _record(self, leaves: list[Any], structure: TreeSpec) -> "_Recorded":
        places = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(places, structure)
        graph = torch.cuda.CUDAGraph()
        # Other threads pin batches and copy checkpoints meanwhile: what they do is not part of the recording.
        under = torch.cuda.graph(graph, self._memory, self._stream, capture_error_mode="thread_local")
        with under, _recordable():
            result = self._function(*args, **kwargs)
        return _Recorded(graph, places, result)


class _Recorded:
    """A graph, the places of its arguments, and its results."""

    def __init__(self, graph: torch.cuda.CUDAGraph, places: list[Any], result: object) -> None:
        self._graph, self._places, self._result = graph, places, result

    def replay(self, leaves: list[Any]) -> Any:
        pairs = [(place, leaf) for place, leaf in zip(self._places, leaves, strict=True) if isinstance(place, Tensor)]
        for place, leaf in pairs:
            place.copy_(leaf, non_blocking=True)
        self._graph.replay()
        return self._result


_forward: "weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Replayed]]" = weakref.WeakKeyDictionary()


def replayed_forward(model: nn.Module) -> Replayed:
    """``model(batch)``, recorded and replayed: with what was recorded of it before, as long as its weights and statistics stay in
    the same memory. A model's graphs go with it."""
    memory = tuple(value.data_ptr() for value in itertools.chain(model.parameters(), model.buffers()))
    known, replayed = _forward.get(model, (None, None))
    if replayed is None or known != memory:
        still = weakref.ref(model)  # what is kept for a model must not keep it

        def forward(batch: dict[str, Tensor]) -> Any:
            here = still()
            assert here is not None
            return here(batch)

        replayed = Replayed(forward)
        _forward[model] = memory, replayed
    return replayed


def _kind(leaf: Tensor | Hashable) -> Hashable:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device
    return type(leaf), leaf


@contextlib.contextmanager
def _recordable() -> Iterator[None]:
    """Autocast as it is, without its memory of converted weights: a recording must convert them itself."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    _state.recording = True
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
        _state.recording = False
