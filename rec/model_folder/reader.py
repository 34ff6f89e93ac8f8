"""Reading a model folder that may be a stranger's, without running anything it names.

Safe YAML, exact allow-listed targets, ``pretrained`` off, shapes compared with the weights file's header before memory
is taken, no links out of the folder, no values that are not finite, no tokenizer that would be imported, a trial run
(:mod:`rec.model_folder.trial`) that knows what a prediction will cost, and at last the files' digests.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rec.config import ConfigError, instantiate
from rec.contracts import Words
from rec.data.subwords import IN_FILE, Subwords
from rec.data.text import Vocabulary, read_vocabulary
from rec.errors import InputError, UntrustedError
from rec.files import user_path
from rec.model_folder.allowed import ALLOWED_TARGETS, without_pretrained
from rec.model_folder.format import (
    CONFIG,
    ENCODER,
    TOKENIZER,
    VOCABULARY,
    WEIGHTS,
    ModelFolderError,
    check_digests,
    checked_file,
    read_folder_config,
    stored_digests,
)
from rec.model_folder.text_encoder import encoder_of, joined
from rec.trust import weight_shapes

if TYPE_CHECKING:
    import torch

MAX_OUTSIDE = 1 << 26  # numbers that a model computes for itself, which its weights file does not hold
MAX_CHANNELS = 1 << 16  # of a convolution


def read(
    folder: str | Path, trust_config: bool = False, device: "torch.device | str" = "cpu"
) -> tuple[Any, dict[str, Any], Any]:
    """Read a model folder, running nothing that it names unless ``trust_config``.

    Args:
        folder: The folder.
        trust_config: Allow any target in ``config.yaml``. It can then run any code: only for folders of your own.
        device: Where the model goes.

    Returns:
        The model in evaluation mode, the config as native containers, the vocabulary (None where the folder has none
        and the model no language encoder).

    Raises:
        ModelFolderError: a file is missing, a link, damaged, or does not fit the others; a target is not allowed.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise ModelFolderError(f"{folder} is not a folder; a model folder holds {WEIGHTS}, {CONFIG} and {VOCABULARY}")
    stored = stored_digests(folder)
    config = read_folder_config(checked_file(folder, CONFIG))
    if encoder_of(config["model"]) is not None:
        try:
            config = joined(config, checked_file(folder, ENCODER))
        except (UntrustedError, OSError) as error:
            raise ModelFolderError(str(error)) from error
    vocabulary = _read_vocabulary(folder, config, trust_config)
    model = load_model(config["model"], checked_file(folder, WEIGHTS), config["preprocess"], trust_config)
    if check_digests(folder) != stored:  # a training replaced the folder meanwhile: these are parts of two
        return read(folder, trust_config, device)
    return model.to(device), config, vocabulary


def load_model(node: dict[str, Any], weights: Path, preprocess: Mapping[str, Any], trust_config: bool = False) -> Any:
    """The model that a config's ``model`` describes, with the weights of a safetensors file.

    The model is first built without memory for its parameters and compared with the file's header.

    Args:
        node: Native containers.
        weights: The file; its names and shapes must be exactly the model's.
        preprocess: Of the config; it decides what a prediction costs.
        trust_config: Build any target, at any cost of a prediction.

    Returns:
        The model in evaluation mode.

    Raises:
        ModelFolderError: a target is not allowed; the file is damaged, does not fit or holds values that are not finite;
            or the model does not run, or only at a cost beyond the limits.
    """
    import torch

    from rec.model_folder.trial import trial
    from rec.models.soundness import unsound

    shapes = _weight_shapes(weights)
    model = _build(node, weights, shapes, trust_config, "meta")
    # Tensors that the weights file does not hold (index tables of timm models) must be computed.
    outside = [value for name, value in model.named_buffers() if name not in shapes]
    outside += [v for module in model.modules() for v in vars(module).values() if isinstance(v, torch.Tensor)]
    if sum(value.numel() for value in outside) > MAX_OUTSIDE:
        raise ModelFolderError(f"the model of {weights.parent} computes tables of more than {MAX_OUTSIDE:,} numbers")
    if outside:
        model = _build(node, weights, shapes, trust_config, "cpu")
    _load_weights(model, weights)
    if trouble := unsound(model):
        raise ModelFolderError(f"{weights}: {trouble}; these weights cannot predict anything")
    model.eval()
    with torch.device("cpu"):  # the trial's own tensors, whatever torch.set_default_device says
        trouble = None if trust_config else trial(model, preprocess)
    if trouble:
        raise ModelFolderError(f"{weights.parent}: {trouble[:500]}; {_OWN}")
    return model


_OWN = "trust_config=True takes such a model all the same, for folders of your own only"


def _weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the file's header, none of a convolution of absurdly many channels."""
    try:
        shapes = weight_shapes(path)
    except (OSError, UntrustedError) as error:
        raise ModelFolderError(str(error)) from error
    for name, shape in shapes.items():
        if len(shape) == 4 and max(shape) > MAX_CHANNELS:
            raise ModelFolderError(
                f"{path}: {name} has shape {shape}; a convolution has at most {MAX_CHANNELS:,} channels"
            )
    return shapes


def _read_vocabulary(folder: Path, config: dict[str, Any], trust_config: bool) -> Any:
    encoder = config["model"].get("language_encoder")
    if not (folder / VOCABULARY).exists() and encoder is None:
        return None
    path = checked_file(folder, VOCABULARY)
    vocabulary = load_vocabulary(folder, trust_config)
    if isinstance(encoder, dict) and encoder_of(config["model"]) is not None and encoder.get("token_size") is None:
        encoder["token_size"] = len(vocabulary)  # which the encoder then compares with its own
    rows = encoder.get("token_size") if isinstance(encoder, dict) else None
    if rows is not None and rows != len(vocabulary):
        raise ModelFolderError(
            f"{path} has {len(vocabulary)} words but the model was built for {rows} "
            "(model.language_encoder.token_size); take the vocabulary the model was trained with"
        )
    return vocabulary


def load_vocabulary(folder: Path, trust_config: bool = False, tokenizer: str = "simrec") -> Words:
    """The words of a model folder; unless ``trust_config`` with a tokenizer that cannot run code, or is the caller's own.

    Raises:
        ModelFolderError: they are none, too large, or name a spaCy pipeline, which would be imported.
    """
    path = checked_file(folder, VOCABULARY)
    try:
        if read_vocabulary(path)[1] == IN_FILE:
            return Subwords.load(checked_file(folder, TOKENIZER))
        return Vocabulary(*read_vocabulary(path)) if trust_config else Vocabulary.load(path, tokenizer)
    except (ValueError, OSError, UntrustedError, InputError) as error:
        raise ModelFolderError(str(error)) from error


def _build(
    node: dict[str, Any], weights: Path, shapes: dict[str, tuple[int, ...]], trust_config: bool, device: str
) -> Any:
    """The model, its tensors on ``device`` without their values, its shapes equal to those of the weights file."""
    import torch

    from rec.models.soundness import differences

    try:
        with _counted_registrations(len(shapes)), torch.device(device), _float32(), _no_random_values():
            model = instantiate(without_pretrained(node), None if trust_config else ALLOWED_TARGETS)
    except (ConfigError, RuntimeError, RecursionError, OverflowError, MemoryError) as error:
        hint = f"; {_OWN}" if isinstance(error, PermissionError) else ""  # a name that is not on the list
        raise ModelFolderError(f"the model of {weights.parent} cannot be built: {str(error)[:500]}{hint}") from error
    if not isinstance(model, torch.nn.Module):
        raise ModelFolderError(f"the config of {weights.parent} describes a {type(model).__name__}, no torch.nn.Module")
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    differing = [f"{len(names)} {what}, such as {names[0]}" for what, names in differences(own, shapes).items()]
    if differing:
        raise ModelFolderError(
            f"{weights} does not fit the model of its config: tensors {'; '.join(differing)}. "
            "Both must come from the same run"
        )
    return model


@contextmanager
def _float32() -> Iterator[None]:
    """Layers have float32 numbers, whatever ``torch.set_default_dtype`` says; where it says so, nothing is touched."""
    import torch

    before = torch.get_default_dtype()
    if before != torch.float32:
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        if before != torch.float32:
            torch.set_default_dtype(before)


def _no_random_values() -> Any:
    """A context in which random initialisation does nothing: on the meta device it gives nothing and costs 2 s."""
    import torch
    from torch.overrides import TorchFunctionMode

    init = torch.nn.init
    skipped = {torch.Tensor.normal_, torch.Tensor.uniform_, init.normal_, init.uniform_, init.kaiming_uniform_}

    class NoRandomValues(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: object,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            if func in skipped:
                return args[0] if args else (kwargs or {})["tensor"]
            return func(*args, **(kwargs or {}))

    return NoRandomValues()


@contextmanager
def _counted_registrations(tensors: int) -> Iterator[None]:
    """Stops a config that asks for endless layers: a model registers no more than a few times the file's tensors."""
    from torch.nn.modules import module

    left, thread = 20 * tensors + 1000, threading.get_ident()

    def count(*_: Any) -> None:
        nonlocal left
        if threading.get_ident() != thread:
            return
        left -= 1
        if left < 0:
            raise RuntimeError(f"the config describes far more layers than {WEIGHTS} has tensors")

    with (
        module.register_module_module_registration_hook(count),
        module.register_module_parameter_registration_hook(count),
    ):
        yield


def _load_weights(model: "torch.nn.Module", path: Path) -> None:
    from safetensors.torch import load_file

    own = model.state_dict()
    weights = {}
    for name, value in load_file(path).items():
        if value.dtype != own[name].dtype and not (value.is_floating_point() and own[name].is_floating_point()):
            raise ModelFolderError(f"{path}: {name} is {value.dtype}, the model has {own[name].dtype}")
        weights[name] = value.to(own[name].dtype)
    model.load_state_dict(weights, assign=True)
