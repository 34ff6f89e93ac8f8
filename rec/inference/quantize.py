"""Exported models in eight bits: onnxruntime's static quantisation, calibrated on samples, what it hurts kept in float32.

Full: every layer with weights (convolutions, matrix products) computes in int8, its weights with a scale for each output
channel. Mixed: the parts of the network that this hurts compute in float32. In both the other large tables (word vectors,
recurrent layers, and the weights of what computes in float32) are stored as int8 and widened where they are used, so that
either file has about a quarter of the size. Decoding, attention and whatever else has no weights computes in float32.

Weights take seven of the eight bits: older processors, and browsers, add products of full ones in sixteen bits, which overflow.
"""

import copy
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from rec.boxes import box_iou
from rec.contracts import DataSet
from rec.inference.export import ExportError, load

KINDS = ("full", "mixed")
Feed = dict[str, np.ndarray]  # `image` and `tokens` of a batch
MAX_APART = 0.01  # how far the answers of a mixed file may be from float32's: 1 - IoU, the mean over the samples
_LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_ABSORBED = ("Relu", "Clip")  # a layer's rounding does their work
_SMALL = 2048  # numbers of a table that stays as it is


@dataclass(frozen=True)
class Quantized:
    """What came out: how far a file's answers are from float32's (see :data:`MAX_APART`) and what computes in float32."""

    apart: float
    in_float: tuple[str, ...]


def quantize(
    source: Path, targets: dict[str, Path], feeds: Sequence[Feed], say: Callable[[str], object]
) -> dict[str, Quantized]:
    """Write int8 files of an exported ONNX file.

    Args:
        source: the file, of :func:`rec.inference.export.export`; below 2 GiB.
        targets: kind (of :data:`KINDS`) to the file to write.
        feeds: batches of samples of the data the model is for: the first half tells the ranges of activations, the second
            what int8 does to the answers.
        say: told what takes its time.

    Returns:
        For each kind how it came out.

    Raises:
        ExportError: too few batches, or the model has no layer that can be quantised.
    """
    if len(feeds) < 2:
        raise ExportError("int8 needs samples of the data: at least two batches of them")
    with tempfile.TemporaryDirectory() as folder:
        network = Network(source, feeds[: len(feeds) // 2], Path(folder))
        judged = feeds[len(feeds) // 2 :]
        expected = [network.run(feed["image"], feed["tokens"]) for feed in judged]

        def made(in_float: Sequence[str], path: Path) -> Quantized:
            network.write(in_float, path)
            run = load(path)[0]
            found = [run(feed["image"], feed["tokens"]) for feed in judged]
            return Quantized(apart(expected, found, network.mask_threshold), tuple(in_float))

        trial = Path(folder, "trial.onnx")
        done = {"full": made((), targets.get("full", trial))}
        if "mixed" in targets:
            say(f"int8 everywhere moves the answers by {done['full'].apart:.4f} (1 - IoU)")
            kept: list[str] = []
            if done["full"].apart > MAX_APART:
                kept = fewest(network.parts(), lambda parts: made(parts, trial).apart, say)
            done["mixed"] = made(kept, targets["mixed"])
    return {kind: done[kind] for kind in targets}


def fewest(parts: Sequence[str], cost: Callable[[Sequence[str]], float], say: Callable[[str], object]) -> list[str]:
    """As few parts in float32 as bring the answers within :data:`MAX_APART`, those that int8 hurts most first; all of them where
    none less do.

    Args:
        parts: names of all.
        cost: how far the answers are where these parts are in float32.
        say: told what hurts most.
    """
    alone = {part: cost([other for other in parts if other != part]) for part in parts}
    worst = sorted(parts, key=lambda part: -alone[part])
    say("hurt most when they alone are int8: " + ", ".join(f"{part} {alone[part]:.4f}" for part in worst[:5]))
    # The more parts, the nearer: the least number is found by halving.
    low, high = 1, len(worst)
    while low < high:
        middle = (low + high) // 2
        if cost(worst[:middle]) <= MAX_APART:
            high = middle
        else:
            low = middle + 1
    return worst[:low]


def apart(expected: Sequence[Feed], found: Sequence[Feed], mask_threshold: float = 0.5) -> float:
    """How far answers are from others: the mean of 1 - IoU, of boxes, or of masks where a model gives no boxes."""
    distances = []
    for one, other in zip(expected, found, strict=True):
        if "box" in one:
            distances.append(1 - box_iou(one["box"], other["box"]))
            continue
        a, b = (answer["mask"] > mask_threshold for answer in (one, other))
        both, either = (part.sum((1, 2, 3)) for part in (a & b, a | b))
        distances.append(1 - np.where(either > 0, both / np.maximum(either, 1), 1.0))
    return float(np.concatenate(distances).mean())


def samples(dataset: DataSet, count: int = 256, batch: int = 8) -> list[Feed]:
    """Batches of a data set's samples, evenly over all of it; so are the first and the second half of them.

    Raises:
        ExportError: its samples cannot be asked for by number.
    """
    if not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset):
        raise ExportError(
            "int8 needs samples of the training split by number, and the data are a stream: name prepared data"
        )
    evenly = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)).tolist()
    order = evenly[::2] + evenly[1::2]
    feeds = []
    for start in range(0, len(order), batch):
        made = dataset.collate([dataset[index] for index in order[start : start + batch]])
        feeds.append({name: made[name].numpy() for name in ("image", "tokens")})
    return feeds


def seconds(runs: Mapping[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """The median time of each of these calls, which take turns, so that whatever else the machine does meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number > 1:  # the first ones set up memory
                times[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in times.items()}


class Network:
    """An exported file with BatchNorm folded and constants computed, and the ranges of its activations on some samples.

    Args:
        source: The file.
        feeds: The samples.
        folder: For what is made on the way.
    """

    def __init__(self, source: Path, feeds: Sequence[Feed], folder: Path) -> None:
        import onnx
        from onnxruntime.quantization import quant_pre_process
        from onnxruntime.quantization.calibrate import create_calibrator

        self.run, self.about = load(source)
        self.mask_threshold = float(self.about["mask_threshold"])
        plain, ready = onnx.load(source), folder / "ready.onnx"
        names = _part_names(plain)
        quant_pre_process(source, ready, skip_symbolic_shape=True)
        self.model = onnx.load(ready)
        tables = {table.name for table in self.model.graph.initializer}
        self.layers = {
            node.name: names.get(node.name, node.name)
            for node in self.model.graph.node
            if node.op_type in _LAYERS and node.input[1] in tables
        }
        if not self.layers:
            raise ExportError(f"{source} has no layer that int8 would change")
        calibrator = create_calibrator(ready, [*_LAYERS, *_ABSORBED], str(folder / "augmented.onnx"))
        typed = (feed | {"tokens": feed["tokens"].astype(self.about["tokens"])} for feed in feeds)
        calibrator.collect_data(SimpleNamespace(get_next=partial(next, typed, None)))
        self.ranges = calibrator.compute_data()

    def parts(self) -> list[str]:
        """Names of the parts of the network that have layers, in the order they compute."""
        return list(dict.fromkeys(self.layers.values()))

    def write(self, in_float: Sequence[str], path: Path) -> None:
        """The int8 file in which these parts compute in float32."""
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType

        model = copy.deepcopy(self.model)
        layers = {name for name, part in self.layers.items() if part not in in_float}
        if layers:  # an empty list would mean every node
            made_by = {output: node.name for node in model.graph.node for output in node.output}
            absorbed = [
                node.name
                for node in model.graph.node
                if node.op_type in _ABSORBED and made_by.get(node.input[0]) in layers
            ]
            quantizer = QDQQuantizer(
                model, True, True, QuantType.QInt8, QuantType.QUInt8, self.ranges, [*layers, *absorbed], [],
                [*_LAYERS, *_ABSORBED], {},
            )  # fmt: skip
            quantizer.quantize_model()
            model = quantizer.model.model
        _store_tables(model)
        onnx.helper.set_model_props(model, {"rec": json.dumps(self.about)})
        onnx.save(model, path)


def _part_names(model: Any) -> dict[str, str]:
    """For each node which part of the network it belongs to: up to three steps of the module's path, such as
    ``visual_backbone.stages.2``."""
    names = {}
    for node in model.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        paths = [scope for scope in scopes.strip("[]").replace("'", "").split(", ") if scope.startswith("model.")]
        names[node.name] = ".".join(paths[-1].split(".")[1:4]) if paths else node.name
    return names


def _store_tables(model: Any) -> None:
    """Keeps large float32 tables as int8 with a scale for each output (each row of word vectors), widened where they are used."""
    import onnx
    from onnx import TensorProto, numpy_helper

    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    kept, widening = [], []
    for table in model.graph.initializer:
        shape = list(table.dims)
        if table.data_type != TensorProto.FLOAT or len(shape) < 2 or np.prod(shape) < _SMALL:
            kept.append(table)
            continue
        kinds = {node.op_type for node in users.get(table.name, ())}
        axis = len(shape) - 1 if "MatMul" in kinds else 1 if kinds & {"GRU", "LSTM", "RNN", "ConvTranspose"} else 0
        values = numpy_helper.to_array(table)
        largest = np.abs(values).max(tuple(i for i in range(values.ndim) if i != axis), keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        small, scales = f"{table.name}_int8", f"{table.name}_scale"
        kept.append(numpy_helper.from_array(np.round(values / scale).astype(np.int8), small))
        kept.append(numpy_helper.from_array(scale.reshape(-1), scales))
        widening.append(
            onnx.helper.make_node("DequantizeLinear", [small, scales], [table.name], f"{table.name}_widen", axis=axis)
        )
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*widening, *nodes])
