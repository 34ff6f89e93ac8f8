"""Published text encoders on disk: taken over when a run starts, left out of checkpoints, whole in a model folder.

A run reads ``config.json`` and ``model.safetensors`` (or the parts that its index lists) of ``model.language_encoder.name`` once,
notes the config and the weights' digest in its own config (:func:`settle`), and gives the model the weights
(:func:`load_published`). A checkpoint holds what is trained; what it builds on comes from the same place again (:func:`whole`). A
model folder needs no other place.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rec.config import instantiate
from rec.contracts import ConfigNode, Words
from rec.data.pretrained import pretrained_file
from rec.data.subwords import PREFIX, TOKENIZER, Subwords
from rec.data.text import Vocabulary
from rec.errors import InputError, UntrustedError
from rec.files import digest, user_path
from rec.model_folder.allowed import ALLOWED_TARGETS
from rec.trust import MAX_CONFIG_BYTES, read_text, weight_shapes

if TYPE_CHECKING:
    from rec.models.pretrained_text import PretrainedText

WHERE, WEIGHTS = "model.language_encoder.name", "model.safetensors"
_MAX_PARTS = 100  # of weights


def encoder_of(model: object) -> Any:
    """The ``language_encoder`` of a model's config, live or native, where it is a published one; else None."""
    node = model.get("language_encoder") if isinstance(model, Mapping) else None
    target = node.get("_target_") if isinstance(node, Mapping) else None
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return node if name.rpartition(".")[2] == "PretrainedText" else None


def read_json(path: Path, what: str) -> Any:
    """JSON of a stranger's.

    Raises:
        UntrustedError: it is none, or too large.
    """
    text = read_text(path, what, MAX_CONFIG_BYTES)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UntrustedError(f"{path} is not JSON ({str(error)[:100]}); expected the {what}") from None


def settle(model: ConfigNode, words: Words | None = None) -> None:
    """Sets ``config`` and ``digest`` of a model config's published encoder from its ``name``, so that they are saved with the run.

    Args:
        model: the config.
        words: of the run's data. Where a family's phrases are filled up and the padding attended to (SigLIP), they know what with,
            if anything does; a ``config.json`` need not: SigLIP 2's has 1 by default, its tokenizer pads with 0.

    Raises:
        InputError: no name, or nothing there; ``words`` are not the encoder's.
        UntrustedError: an encoder that is not in the list (:func:`rec.models.text_transformer.checked`).
    """
    from rec.models.text_transformer import FAMILIES, checked, from_published_config

    node = encoder_of(model)
    if node is None:
        return
    if not node.get("name"):
        raise InputError(f"{WHERE} is not set: expected the folder or the Hub id of a text model, such as user/model")
    path = pretrained_file(node["name"], "config.json", WHERE)
    config = from_published_config(read_json(path, "config of a text model"), str(path))
    fixed = FAMILIES[config["model_type"]].fixed_length
    filler = _filler(words, node["name"]) if fixed and isinstance(words, Subwords) else None
    if filler is not None:
        config = checked(config | {"pad_token_id": filler}, f"{path} with the padding of its tokenizer")
    node["config"] = config
    node["digest"] = _digest(_weights_files(node["name"]))
    if words is not None:
        _check_words(words, node["name"])


def _filler(words: Subwords, name: str) -> int | None:
    """The tokenizer's own id that phrases are filled up with: its file's, else that of the ``pad_token`` beside it, because
    ``transformers`` saves a tokenizer as it was used last, which may have been without padding; None where neither says."""
    if words.filler is not None:
        return words.filler
    try:
        beside = read_json(pretrained_file(name, "tokenizer_config.json", WHERE), "config of a tokenizer")
    except InputError:
        return None
    token = beside.get("pad_token") if isinstance(beside, dict) else None
    piece = token.get("content") if isinstance(token, dict) else token
    return words.words.index(piece) - 1 if piece and piece in words.words else None


def _check_words(words: Words, name: str) -> None:
    """Raises an InputError where ``words`` number phrases otherwise than the tokenizer beside the encoder, if one is there."""
    remedy = f"set dataset.tokenizer={PREFIX}{name}"
    if isinstance(words, Vocabulary):
        raise InputError(
            f"{WHERE}={name!r} knows the ids of its own tokenizer, the data have words ({words.tokenizer}): {remedy}"
        )
    try:
        path = pretrained_file(name, TOKENIZER, WHERE)
    except InputError:
        return
    if not isinstance(words, Subwords) or (own := Subwords.load(path)).text == words.text:
        return
    pairs = enumerate(zip(own.words, words.words, strict=False))
    if differing := next(((number, *pair) for number, pair in pairs if all(pair) and pair[0] != pair[1]), None):
        number, expected, found = differing
        raise InputError(
            f"{WHERE}={name!r} has {expected!r} as piece {number - 1} of its tokenizer, the data have {found!r} ({words.origin}): "
            f"{remedy}"
        )


def load_published(encoder: "PretrainedText", node: Mapping[str, Any], into: str) -> None:
    """Gives an encoder the weights of ``node``'s ``name``.

    Args:
        encoder: of the model.
        node: its config, after :func:`settle`.
        into: what builds on it, for messages.

    Raises:
        InputError: they are not there, or no longer those of ``digest``.
        UntrustedError: they do not fit.
    """
    from safetensors import safe_open

    paths = _weights_files(node["name"])
    if (found := _digest(paths)) != node.get("digest"):
        raise InputError(
            f"{into} builds on {WHERE}={node['name']!r} with the digest {node.get('digest')}; {paths[0]} has {found}: bring the "
            "same file back, or name the folder that has it"
        )
    tensors = dict[str, Any]()
    for path in paths:
        weight_shapes(path)
        with safe_open(path, "pt") as stored:
            tensors |= {name: stored.get_tensor(name) for name in stored.keys() if not name.startswith("vision_model.")}  # noqa: SIM118
    encoder.load_published(tensors, str(paths[0]))


def _weights_files(name: str) -> list[Path]:
    """The file of weights, or those that its index lists, as of large encoders.

    Raises:
        InputError: neither is there, or one that is listed is not.
        UntrustedError: the index lists something else.
    """
    try:
        return [pretrained_file(name, WEIGHTS, WHERE)]
    except InputError as lacking:
        try:
            index = pretrained_file(name, f"{WEIGHTS}.index.json", WHERE)
        except InputError:
            raise lacking from None
    content = read_json(index, "index of weights")
    listed = content.get("weight_map") if isinstance(content, dict) else None
    names = set(listed.values()) if isinstance(listed, dict) and all(type(v) is str for v in listed.values()) else set()
    if not 0 < len(names) <= _MAX_PARTS or not all(re.fullmatch(r"[\w-][\w.-]*\.safetensors", part) for part in names):
        raise UntrustedError(f"{index} does not list files of weights beside it ({{weight_map: {{tensor: file}}}})")
    return [pretrained_file(name, part, WHERE) for part in sorted(names)]


def _digest(paths: list[Path]) -> str:
    return digest(paths[0]) if len(paths) == 1 else digest(" ".join(map(digest, paths)).encode())


@contextmanager
def whole(model: dict[str, Any], weights: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """A model's native config and the weights file of a checkpoint, as a model folder has them: complete, adapters merged.

    Raises:
        InputError, UntrustedError: as :func:`settle` and :func:`load_published`.
    """
    from safetensors.torch import load_file, save_file

    from rec.models.lora import merge

    node = encoder_of(model)
    if node is None:
        yield model, weights
        return
    if node.get("config") is None:
        settle(model)
    state = load_file(weights)
    encoder = instantiate(node, ALLOWED_TARGETS)
    if encoder.borrowed:
        load_published(encoder, node, str(weights.parent))
        own = encoder.state_dict()
        state = {f"language_encoder.{name}": own[name] for name in encoder.borrowed} | state
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, weights.name)
        save_file(merge(state), path)
        yield model | {"language_encoder": dict(node) | {"lora": None}}, path


def divided(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A model folder's config without its encoder's, and that, the content of ``encoder.json``; None without a published encoder.

    Adapters are merged in a model folder, and no path of this machine is in it.
    """
    model = dict(config["model"])
    node = encoder_of(model)
    if node is None:
        return dict(config), None
    name = str(node.get("name") or "")
    is_place = user_path(name).is_dir() or Path(name).is_absolute()
    model["language_encoder"] = {key: value for key, value in node.items() if key != "config"} | {
        "name": (Path(name).name if is_place else name) or None,
        "lora": None,
    }
    return dict(config) | {"model": model}, dict(node.get("config") or {})


def joined(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The inverse of :func:`divided`: a config with what ``encoder.json`` says.

    Raises:
        UntrustedError: it is not the config of an encoder in the list.
    """
    from rec.models.text_transformer import checked

    node = dict(config["model"]["language_encoder"]) | {
        "config": checked(read_json(path, "encoder's config"), str(path))
    }
    return config | {"model": config["model"] | {"language_encoder": node}}
