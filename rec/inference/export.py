"""A model as one file for other runtimes: ONNX or ``torch.export``, decoding included.

Inputs of the exported graph: ``image`` uint8 ``(B, 3, S, S)``, RGB, letterboxed (:func:`rec.data.images.letterbox`:
long side scaled to S, centred, padded with 127); ``tokens`` int64 or int32 ``(B, L)``, ids of the vocabulary (of a
``tokenizer.json``: plus one), 0 is padding. Outputs: ``box`` float32 ``(B, 4)`` xyxy in letterboxed pixels and
``score`` ``(B,)``; for mask models ``mask`` float32 ``(B, 1, S, S)``, probabilities; for models that answer with none,
one or several objects ``candidate_boxes`` float32 ``(B, N, 4)`` and ``candidate_scores`` ``(B, N)``, of which the
answer is chosen (``answer``, below). Scaling to 0-1 and normalisation are in the graph. B is free; S is fixed or a
multiple of 32; L is fixed.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rec.contracts import Answer, Batch, Words
from rec.data.batch import model_input
from rec.data.subwords import Subwords
from rec.errors import RecError
from rec.files import user_path
from rec.model_folder.format import describe_origin
from rec.models.soundness import not_finite

FORMATS = ("onnx", "torch")
MAX_ONE_FILE = 1 << 30  # bytes of parameters in an .onnx itself (Protobuf ends at 2 GiB); more go into a file beside it
_OUTPUTS = ("box", "score", "mask", "candidate_boxes", "candidate_scores")
MAX_BOX_DIFFERENCE = 0.5  # pixels, between the exported file and PyTorch
Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


class ExportError(RecError):
    """The model cannot be exported, or the exported file answers differently; the text says what and by how much."""


class Deployed(nn.Module):
    """A model with its preprocessing: uint8 letterboxed images and token ids in, boxes, scores and masks out.

    Args:
        model: Keeps the model contract.
        config: Of its model folder.
    """

    def __init__(self, model: nn.Module, config: dict[str, Any]) -> None:
        super().__init__()
        self.model = model.eval()
        self.mean, self.std = list(config["preprocess"]["mean"]), list(config["preprocess"]["std"])
        self.any_number = Answer.of_folder(config) is not None

    def forward(self, image: Tensor, tokens: Tensor) -> dict[str, Tensor]:
        """See the module's description."""
        tokens = tokens.long()  # nothing in the graph where they are
        batch: Batch = {"image": image, "tokens": tokens}
        if self.any_number:  # by which a model knows that every cell's box is wanted
            batch["box_count"] = torch.zeros_like(tokens[:, 0])
        outputs = self.model(model_input(batch, self.mean, self.std))
        if "mask" in outputs:
            outputs["mask"] = outputs["mask"].sigmoid()
        return {name: outputs[name].float() for name in _OUTPUTS if name in outputs}


def export(
    model: nn.Module,
    config: dict[str, Any],
    vocabulary: Words | None,
    path: str | Path,
    *,
    kind: str = "onnx",
    size: int | None = None,
    dynamic_size: bool = False,
    int32_tokens: bool = False,
) -> None:
    """Write the model to one file, with all that is needed to use it: vocabulary, sizes, thresholds, origin.

    ONNX keeps these as metadata properties, ``torch.export`` as the extra file ``rec.json``; their JSON has the keys
    ``answer`` (null, or threshold, suppress_iou and min_pixels, see :class:`rec.contracts.Answer`), ``input_size``
    (null: any multiple of 32), ``tokens`` (their type; older files do not say: int64), ``max_token_length``, ``tokenizer``,
    ``words``, ``tokenizer_file`` (the content of ``tokenizer.json``, for the package ``tokenizers``; null for a vocabulary
    of words), ``mask_threshold`` and ``origin``.

    Args:
        model, config, vocabulary: As :func:`rec.model_folder.read` gives them.
        path: The file to write.
        kind: ``onnx`` or ``torch``.
        size: Side of the input in pixels; by default the model folder's.
        dynamic_size: Leave the side free.
        int32_tokens: Take ``tokens`` as int32, which JavaScript and phones have, in place of int64.

    Raises:
        ExportError: the model holds something the format cannot express.
    """
    if kind not in FORMATS:
        raise ExportError(f"unknown format {kind!r}; expected one of {', '.join(FORMATS)}")
    if vocabulary is None:
        raise ExportError("the model folder has no vocab.json, so the exported file could not be used")
    size, length = size or int(config["preprocess"]["input_shape"][0]), config["preprocess"].get("max_token_length")
    if length is None:
        raise ExportError("the model folder has no preprocess.max_token_length, so the exported file could not be used")
    deployed, answer = Deployed(model.cpu(), config), Answer.of_folder(config)
    # An example to trace, and which of its sizes stay free.
    # Traced sizes that happen to be equal are taken for the same one: the example's batch is unlike any map's side.
    count = next(n for n in (3, 5, 7, 11, 13) if n not in (size // 32, size // 16, size // 8, length))
    image, tokens = example_inputs(size, length, len(vocabulary), count)
    tokens = tokens.int() if int32_tokens else tokens
    batch = torch.export.Dim("batch", min=1, max=4096)
    side = 32 * torch.export.Dim("cells", min=2, max=128) if dynamic_size else None
    shapes = {"image": {0: batch} | ({2: side, 3: side} if dynamic_size else {}), "tokens": {0: batch}}
    # What a user of the file needs besides it.
    about = {
        "input_size": None if dynamic_size else size,
        "tokens": "int32" if int32_tokens else "int64",
        "max_token_length": length,
        "tokenizer": vocabulary.tokenizer,
        "words": list(vocabulary.words),
        "tokenizer_file": vocabulary.text if isinstance(vocabulary, Subwords) else None,
        "mask_threshold": getattr(model, "mask_threshold", 0.5),
        "answer": None if answer is None else answer.to_folder(),  # whole, though a folder may name the threshold alone
        "origin": describe_origin(config),
    }
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself, dozens of lines
            program = torch.export.export(deployed, (image, tokens), dynamic_shapes=shapes)
            if kind == "torch":
                torch.export.save(program, user_path(path), extra_files={"rec.json": json.dumps(about)})
                return
            names = list(deployed(image, tokens))
            onnx = torch.onnx.export(
                program,
                (image, tokens),
                input_names=["image", "tokens"],
                output_names=names,
                dynamo=True,
                verbose=False,
            )
    except (torch._dynamo.exc.TorchDynamoException, torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(f"{type(model).__name__} cannot be exported to {kind}: {reason}") from error
    assert onnx is not None
    onnx.model.metadata_props["rec"] = json.dumps(about)
    onnx.save(user_path(path), external_data=sum(p.nbytes for p in model.parameters()) > MAX_ONE_FILE)


def example_inputs(size: int, length: int, words: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs of a deployed model: smooth random images uint8 ``(count, 3, size, size)`` and token ids ``(count, length)``."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.uniform(0, 255, (count, 3, 8, 8)).astype(np.float32))
    image = nn.functional.interpolate(coarse, (size, size), mode="bilinear").byte()
    tokens = generator.integers(min(3, words - 1), words, (count, length))
    for row, used in enumerate(generator.integers(1, length + 1, count)):
        tokens[row, used:] = 0
    return image, torch.from_numpy(tokens)


def compare(path: str | Path, model: nn.Module, config: dict[str, Any], samples: int = 50) -> dict[str, float]:
    """The largest differences between the exported file and PyTorch, over batches (and sides, where free) of all sizes.

    Returns:
        Output name to largest absolute difference: ``box`` in pixels.

    Raises:
        ExportError: boxes differ by more than :data:`MAX_BOX_DIFFERENCE` pixels, or an answer is not finite.
    """
    run, about = load(path)
    side = about["input_size"] or int(config["preprocess"]["input_shape"][0])
    deployed = Deployed(model, config)
    worst: dict[str, float] = {}
    done = 0
    while done < samples:
        count = min(1 + done % 8, samples - done)
        size = side if about["input_size"] or done % 2 else side + 32
        image, tokens = example_inputs(size, about["max_token_length"], len(about["words"]), count, seed=done + 1)
        with torch.inference_mode():
            expected = deployed(image, tokens)
        if bool(not_finite(expected).any()):
            raise ExportError(
                "the model answers with numbers that are not finite; take the weights of another checkpoint"
            )
        for name, found in run(image.numpy(), tokens.numpy()).items():
            if not np.isfinite(found).all():
                raise ExportError(f"{path} answers with a {name} that is not finite, PyTorch does not")
            difference = float(np.abs(found - expected[name].numpy()).max())
            worst[name] = max(worst.get(name, 0.0), difference)
        done += count
    if not worst.get("box", 0.0) < MAX_BOX_DIFFERENCE:
        raise ExportError(f"{path} answers differently from PyTorch: boxes are up to {worst['box']:.3f} pixels apart")
    return worst


def load(path: str | Path, threads: int = 0) -> tuple[Run, dict[str, Any]]:
    """A function from NumPy ``image`` and ``tokens``, of any integer type, to NumPy outputs by name, and what the file says of
    itself; ``threads`` of onnxruntime, 0: one per core."""
    if str(path).endswith(".onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(user_path(path)), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        about = json.loads(session.get_modelmeta().custom_metadata_map["rec"])

        def run(image: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
            given = {"image": image, "tokens": tokens.astype(about.get("tokens", "int64"))}
            return dict(zip(names, session.run(names, given), strict=True))

    else:
        extra = {"rec.json": ""}
        program = torch.export.load(user_path(path), extra_files=extra).module()
        about = json.loads(extra["rec.json"])

        def run(image: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
            with torch.inference_mode():
                ids = torch.from_numpy(tokens.astype(about.get("tokens", "int64")))
                outputs = program(torch.from_numpy(image), ids)
            return {name: value.numpy() for name, value in outputs.items()}

    return run, about


def annotate(path: str | Path, **more: Any) -> None:
    """Adds to what an ONNX file says of itself."""
    import onnx

    model = onnx.load(user_path(path))
    about = json.loads({item.key: item.value for item in model.metadata_props}["rec"])
    onnx.helper.set_model_props(model, {"rec": json.dumps(about | more)})
    onnx.save(model, user_path(path))


class Exported(nn.Module):
    """An exported file with the face of a model, so that it can be evaluated; it takes pixels from 0 to 1, not normalised.

    Args:
        path: The file.
        mask_any_overlap: As of the model it was made of (:class:`rec.contracts.Abilities`).
    """

    def __init__(self, path: str | Path, mask_any_overlap: bool = False) -> None:
        super().__init__()
        self.run, about = load(path)
        self.mask_threshold, self.mask_any_overlap = about["mask_threshold"], mask_any_overlap
        self.nowhere = nn.Parameter(torch.empty(0))  # a model is where its parameters are: on the CPU

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """A prepared batch to predictions, see :mod:`rec.evaluation.run`."""
        image = (batch["image"] * 255).round().to(torch.uint8).contiguous()
        found = {
            name: torch.from_numpy(value) for name, value in self.run(image.numpy(), batch["tokens"].numpy()).items()
        }
        if "mask" in found:
            found["mask"] = found["mask"].logit(1e-6)
        return found
