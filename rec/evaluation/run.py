"""Run a model over a split once, exactly, on any number of processes.

Every process predicts its own samples; the per-sample results (not their means) are gathered, de-duplicated and sorted
by the sample's index, and metrics are computed from that table. So from the same predictions the metrics are identical
to the last digit on any number of processes, whatever the batch size and however unevenly samples are shared out.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from tqdm import tqdm

from rec import boxes
from rec.contracts import Answer, DataSet, Evaluator, abilities
from rec.cuda_graphs import replayed_forward
from rec.data.adapter import as_data_set
from rec.data.batch import Returning, model_input
from rec.data.masks import encode
from rec.errors import InputError, RecError
from rec.evaluation import masks, metrics, several
from rec.evaluation.answers import KEYS
from rec.files import user_path, write_json, write_json_lines
from rec.models.soundness import PredictionError, not_finite

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = dict[str, torch.Tensor]


class EvaluationStopped(RecError):
    """An evaluation was given up because its caller asked for it."""


class BoxAndMaskEvaluator:
    """The built-in :class:`Evaluator`: IoU of boxes and masks in original pixels.

    Args:
        dataset: The evaluated data set: ``describe(i)``, and ``target_mask(i)`` for models that predict masks.
        mask_threshold: A mask pixel is on where its probability is above this.
        mask_any_overlap: SimREC's mask arithmetic, needed for published mask figures (see :func:`masks.to_image`).
        answer: Which boxes are the answer where phrases name none, one or several objects; None chooses the threshold that
            gives the best ``Pr@F1`` on this split.
    """

    def __init__(
        self,
        dataset: DataSet,
        mask_threshold: float = 0.5,
        mask_any_overlap: bool = False,
        answer: Answer | None = None,
    ):
        self.dataset, self.answer = as_data_set(dataset), answer
        self.mask_threshold = mask_threshold
        self.mask_any_overlap = mask_any_overlap
        self.results: dict[int, dict[str, Any]] = {}
        self._described: dict[int, Mapping[str, Any]] = {}

    def update(self, outputs: Batch, batch: Batch) -> None:
        """Results of one batch: ``box`` xyxy in letterboxed pixels, ``score``, ``mask`` logits ``(B, 1, S, S)``; where phrases name
        any number of objects, ``candidate_boxes`` ``(B, N, 4)`` and ``candidate_scores`` ``(B, N)``."""
        geometry = _numpy(batch["geometry"])
        target = _numpy(batch["box_pixels"])
        columns: dict[str, list[Any]] = {"target": target.tolist()}
        if "box" in outputs:
            box = boxes.from_letterbox(_numpy(outputs["box"]), geometry)
            columns |= {"iou": boxes.box_iou(box, target).tolist(), "box": box.tolist()}
        if "score" in outputs:
            columns["score"] = _numpy(outputs["score"]).tolist()
        if "box_count" in batch:
            columns |= self._any_number(outputs, batch, geometry)
        probabilities = outputs["mask"].float().sigmoid()[:, 0].cpu().numpy() if "mask" in outputs else None
        for i, index in enumerate(batch["index"].tolist()):
            result = {name: values[i] for name, values in columns.items()}
            if probabilities is not None:
                result |= self._mask_result(index, probabilities[i], geometry[i], result)
            self.results[index] = result
            # Here, beside the device's work, rather than at the end.
            self._described[index] = self.dataset.describe(index)

    def _any_number(self, outputs: Batch, batch: Batch, geometry: np.ndarray) -> dict[str, list[Any]]:
        """The columns ``targets`` and ``candidates`` of a batch, see :mod:`rec.evaluation.several`."""
        true, counts = _numpy(batch["boxes_pixels"]), batch["box_count"].tolist()
        columns: dict[str, list[Any]] = {"targets": [rows[:n].tolist() for rows, n in zip(true, counts, strict=True)]}
        columns["target"] = [rows[0] if rows else None for rows in columns["targets"]]
        columns |= {"boxes": [None] * len(counts), "candidates": [None] * len(counts)}
        if "box" not in outputs:
            return columns
        # Those that any threshold might let pass; which do is decided when all are there.
        given = self.answer or Answer()
        every = replace(given, threshold=min(several.THRESHOLDS[0], given.threshold))
        if "candidate_boxes" in outputs:
            found, scores = _numpy(outputs["candidate_boxes"]), _numpy(outputs["candidate_scores"])
        else:  # a model of one answer: its score decides whether it is one
            found, scores = _numpy(outputs["box"])[:, None], _numpy(outputs["score"])[:, None]
        for i in range(len(counts)):
            kept = every.choose(found[i], scores[i])
            in_image = boxes.from_letterbox(found[i][kept], geometry[i])
            columns["candidates"][i] = list(zip(in_image.tolist(), scores[i][kept].tolist(), strict=True))
        return columns

    def _mask_result(
        self, index: int, probability: np.ndarray, geometry: np.ndarray, known: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the record of a sample, of which ``known`` is known already, says of masks."""
        predicted = masks.to_image(probability, geometry, self.mask_threshold, self.mask_any_overlap)
        result: dict[str, Any] = {"mask_area": int(predicted.sum())} if "targets" in known else {}
        result["mask"] = encode(predicted)
        target = self.dataset.target_mask(index)
        if target is not None:
            result["mask_intersection"], result["mask_union"] = masks.overlap(predicted, target)
        # Without boxes, the mask decides whether there is something at all.
        alone = "targets" in known and known["candidates"] is None
        return several.emptied(result) if alone and not (self.answer or Answer()).sees(predicted) else result

    def gather(self) -> None:
        """Bring the results of all processes together on each, in index order, every sample once."""
        from accelerate.utils import gather_object

        everyone = gather_object([self.results])
        self.results = {index: part[index] for part in reversed(everyone) for index in part}
        self.results = dict(sorted(self.results.items()))

    def compute(self) -> dict[str, float]:
        """Gather, then :func:`metrics.summarize_records` over all samples; with the ``threshold`` of the answers where phrases
        name any number of objects and the model gives boxes."""
        self.gather()
        found = list(self.results.values())
        if not found or found[0].get("candidates") is None:
            return metrics.summarize_records(found)
        threshold = self.answer.threshold if self.answer else several.best_threshold(found)
        self.results = {index: several.answered(result, threshold) for index, result in self.results.items()}
        summary = metrics.summarize_records(list(self.results.values()))
        return {"threshold": threshold} | summary

    def records(self) -> list[dict[str, Any]]:
        """Lines of ``predictions.jsonl``, in index order; call after :meth:`compute`."""
        lines = []
        for index, result in self.results.items():
            described = self._described.get(index) or self.dataset.describe(index)
            lines.append({"index": index} | {key: described.get(key) for key in KEYS} | _NO_PREDICTION | result)
        return lines


# What the built-in evaluator reads of a batch, and of a model's outputs.
_KNOWN = ("index", "geometry", "box_pixels", "boxes_pixels", "box_count")
_ANSWERS = ("box", "score", "mask", "candidate_boxes", "candidate_scores")
_NO_PREDICTION: dict[str, Any] = {"box": None, "target": None, "iou": None, "score": None, "mask": None}


def evaluate(
    model: torch.nn.Module,
    loader: Iterable[Batch],
    dataset: DataSet,
    accelerator: "Accelerator | None" = None,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    limit: int | None = None,
    evaluator: Evaluator | None = None,
    progress: bool = False,
    stop: Callable[[], bool] | None = None,
    answer: Answer | None = None,
    replay: bool = False,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics and per-sample records of ``model`` on one split.

    Every process must call it. The model runs in evaluation mode under the accelerator's autocast and is put back into
    its former mode. Under DDP the bare module runs, so processes may have different numbers of batches, none included;
    where parameters are sharded (FSDP, DeepSpeed) every forward is a collective, so processes that run out of batches
    repeat sample 0 and drop the answer. Buffers (BatchNorm statistics) are first set to those of process 0.

    Args:
        model: Keeps the model contract: ``model(batch)`` gives ``box``, ``score`` and, for masks, ``mask``. Its
            attributes ``mask_threshold`` (probability) and ``mask_any_overlap``, where it has them, decide its masks.
        loader: This process's batches (see ``docs/architecture.md``); any sharding over processes.
        dataset: The split; any map-style data set (:func:`rec.data.adapter.as_data_set`).
        accelerator: The run's accelerator; None for a single process on the model's own device.
        mean: Normalisation mean, three channels, for pixels in 0-1.
        std: Normalisation standard deviation, three channels.
        limit: Stop after this many batches on each process.
        evaluator: An :class:`Evaluator` in place of the built-in one; records are then whatever its ``records()``
            returns, if it has one.
        progress: Show a progress bar, on the main process and a terminal.
        stop: Asked before every batch; where it says True on any process, the evaluation is given up on all of them.
            Not asked where parameters are sharded: processes would wait for one that left.
        answer: Of the built-in evaluator, where phrases name none, one or several objects. None chooses the threshold on this
            split, which must then be one for validation.
        replay: On a GPU record the model's work and replay it (:func:`rec.cuda_graphs.replayed_forward`); one process.

    Returns:
        Metrics, equal on all processes (see :func:`rec.evaluation.metrics.summarize`), and on the main process the
        lines of ``predictions.jsonl`` in index order (elsewhere an empty list).

    Raises:
        EvaluationStopped: ``stop`` said so; on all processes.
        PredictionError: some predictions are not finite; on all processes.
        RuntimeError: without ``limit``, some samples of the split never arrived.
    """
    from accelerate.utils import gather_object, send_to_device

    # Who runs where, on one model: BatchNorm statistics differ between processes after an update.
    bare = accelerator.unwrap_model(model) if accelerator is not None else model
    runner: Any = model if _is_sharded(accelerator) else bare
    runner = replayed_forward(bare) if replay else runner
    device = accelerator.device if accelerator is not None else next(bare.parameters()).device
    autocast = accelerator.autocast if accelerator is not None else contextlib.nullcontext
    share_buffers(bare)
    dataset, can = as_data_set(dataset), abilities(bare)
    judge: Any = evaluator or BoxAndMaskEvaluator(dataset, can.mask_threshold, can.mask_any_overlap, answer)
    judging = _Judging(judge, is_ours=evaluator is None)
    is_main = accelerator is None or accelerator.is_main_process
    shown = tqdm(
        _batches(loader, dataset, accelerator, limit),
        total=len(loader) if isinstance(loader, Sized) else None,
        disable=None if progress and is_main else True,  # None: off where stderr is not a terminal
        leave=False,
    )

    # Every process judges its own batches.
    was_training, stopped = bare.training, False
    bare.eval()
    try:
        with torch.inference_mode():
            for batch, counts in shown:
                if stop is not None and not _is_sharded(accelerator) and (stopped := stop()):
                    break
                ready = model_input(send_to_device(batch, device, non_blocking=True), mean, std)
                if "image_index" in ready and can.encode_image is None:  # a model that shares no images
                    ready["image"] = ready["image"][ready.pop("image_index")]
                with autocast():
                    outputs = runner(ready)
                if counts:
                    judging.take(batch, ready, outputs)
            if not stopped:
                judging.finish()
    finally:
        bare.train(was_training)
    shown.close()

    # All processes end alike: with the metrics of everyone's samples, or with the same error.
    everyone = gather_object([(stopped, judging.refused)])
    if any(one for one, _ in everyone):
        raise EvaluationStopped("the evaluation was given up on request")
    _refuse(sorted(sample for _, samples in everyone for sample in samples), bare, dataset)
    result = judge.compute()
    if evaluator is None and limit is None and result["count"] != len(dataset):
        raise RuntimeError(
            f"evaluation saw {result['count']} of the split's {len(dataset)} samples; "
            "the evaluation loader must give every index to one process (no dropped last batch)"
        )
    return result, judge.records() if is_main and hasattr(judge, "records") else []


class _Judging:
    """Judges a batch while the device computes the next one.

    Attributes:
        refused: samples whose prediction is not finite; they are judged by nobody.
    """

    def __init__(self, judge: Evaluator, is_ours: bool) -> None:
        self.judge: Any = judge
        self.is_ours, self.refused = is_ours, list[int]()
        self._returning: Returning | None = None

    def take(self, batch: Batch, ready: Mapping[str, object], outputs: Batch) -> None:
        if not self.is_ours:
            self.judge.update(outputs, ready)
        elif missing := {"index", "geometry", "box_pixels"} - batch.keys():
            raise InputError(f"an evaluation needs {', '.join(sorted(missing))} in every sample of the data set")
        # Of what the host has, nothing travels.
        before, known = self._returning, {name: batch[name] for name in _KNOWN if name in batch}
        answers = {name: outputs[name] for name in _ANSWERS if name in outputs}
        self._returning = Returning(known | answers | {"refused": not_finite(outputs)})
        self._judge_on_host(before)

    def finish(self) -> None:
        self._judge_on_host(self._returning)

    def _judge_on_host(self, returned: Returning | None) -> None:
        if returned is None:
            return
        host = returned.wait()
        self.refused += host["index"][host.pop("refused").nonzero()[:, 0]].tolist()
        if self.is_ours:
            self.judge.update(host, host)


def heat_maps(
    model: torch.nn.Module, dataset: DataSet, indices: Sequence[int], *, mean: Sequence[float], std: Sequence[float]
) -> dict[int, np.ndarray]:
    """Where a model looked in some samples: by index its head's scores over the image, see :func:`masks.heat_map`.

    Args:
        model: on its device; a model whose head does not score the places of an image gives no maps.
        dataset: The split.
        indices: Few enough for one batch.
        mean, std: as of :func:`evaluate`.
    """
    from accelerate.utils import send_to_device

    can = abilities(model)
    if not indices or can.candidates is None or can.encode_image is None or not can.stride:
        return {}
    dataset = as_data_set(dataset)
    batch = dataset.collate([dataset[index] for index in indices])
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        ready = model_input(send_to_device(batch, next(model.parameters()).device), mean, std)
        scores = can.candidates(can.encode_image(ready["image"]), ready["tokens"], None)["candidate_scores"]
    model.train(was_training)
    size = batch["image"].shape[-1]
    maps = zip(_numpy(scores), _numpy(batch["geometry"]), strict=True)
    return dict(zip(indices, (masks.heat_map(one, where, size, can.stride) for one, where in maps), strict=True))


def _refuse(samples: list[int], model: torch.nn.Module, dataset: DataSet) -> None:
    """Raises a PredictionError where there are any ``samples``: counted as misses they would hide what happened."""
    if not samples:
        return
    first = dataset.describe(samples[0])
    known = f", {str(first.get('sentence'))[:80]!r} on {first.get('image')}" if first else ""
    raise PredictionError(
        f"{len(samples)} predictions of this {type(model).__name__} are not finite, the first for sample {samples[0]}"
        f"{known}: its weights are damaged, or their training diverged, or float16 is too narrow for them. Take those of "
        "another checkpoint, or evaluate in float32 or bf16; in training, lower optim.lr or train.clip_grad_norm"
    )


def share_buffers(model: torch.nn.Module) -> None:
    """Set every process's buffers to process 0's; after a DDP step BatchNorm statistics differ between processes."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return
    for buffer in model.buffers():
        distributed.broadcast(buffer, 0)


def _batches(
    loader: Iterable[Batch], dataset: DataSet, accelerator: "Accelerator | None", limit: int | None
) -> Iterable[tuple[Batch, bool]]:
    """This process's batches, each with whether it counts; fillers keep sharded models' collectives in step."""
    for batch in _in_step(loader, accelerator) if _is_sharded(accelerator) else loader:
        if limit is not None and limit <= 0:
            return
        limit = None if limit is None else limit - 1
        yield (batch, True) if batch is not None else (cast(Batch, dataset.collate([dataset[0]])), False)


def _is_sharded(accelerator: "Accelerator | None") -> bool:
    return accelerator is not None and accelerator.distributed_type in ("FSDP", "DEEPSPEED", "MEGATRON_LM")


def _in_step(loader: Iterable[Batch], accelerator: "Accelerator") -> Iterable[Batch | None]:
    """The loader's batches, then None until every process has run out."""
    iterator = iter(loader)
    while True:
        batch = next(iterator, None)
        waiting = torch.tensor([batch is not None], dtype=torch.int32, device=accelerator.device)
        if not accelerator.reduce(waiting, "sum").item():
            return
        yield batch


def write(folder: str | Path, split_metrics: Mapping[str, Mapping[str, float]], records: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` and ``predictions.jsonl`` into ``folder``, each replaced in one move.

    Args:
        folder: Made if absent.
        split_metrics: ``{split: metrics}``, fractions 0-1.
        records: ``{split: records}``; with more than one split every line names its own.
    """
    folder = user_path(folder)
    several_splits = len(records) > 1
    lines = (
        ({"split": split} if several_splits else {})
        | {key: line[key] for key in line if key not in ("candidates", "predicted")}
        for split, part in records.items()
        for line in part
    )
    write_json_lines(folder / "predictions.jsonl", lines)
    # JSON knows neither NaN nor infinity.
    finite = {s: {k: v if math.isfinite(v) else None for k, v in row.items()} for s, row in split_metrics.items()}
    write_json(folder / "metrics.json", finite, indent=2)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
