"""``key=value`` overrides: their grammar, and applying them so that a misspelt key is an error."""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig

from rec.config.call import OPTIONS, describe, unexpected
from rec.config.errors import ConfigError, did_you_mean
from rec.config.namespace import REFUSED
from rec.config.nodes import CONFIGS, children, is_call, is_tuple, join, set_sources, sources_of, to_config

_WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_INT = re.compile(r"[+-]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[+-]?((\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?|inf|nan)")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_BARE = re.compile(r"(?:\$\{[^}]*\}|[^,\[\](){}'\"])+")
_KEY = re.compile(r"\s*(?:'([^']*)'|\"([^\"]*)\"|([^:,\[\](){}'\"]+))\s*:")
_STEP = re.compile(r"\.?(?:\[(?:'([^']*)'|\"([^\"]*)\"|([^\]]+))\]|([^.\[]+))")


def parse_value(text: str) -> Any:
    """The value written on the right of an override.

    ``None True False null true false``, integers, floats (``1e-4``, ``inf``), ``'quoted'`` or ``"quoted"`` strings,
    ``[lists]``, ``(tuples)`` and ``{key: dicts}`` of all of these; anything else is a string as it stands.

    Raises:
        ConfigError: a bracket or quote is not closed, or something follows it.
    """
    text = text.strip()
    if text[:1] not in ("[", "(", "{", "'", '"') or not text:
        return _scalar(text)
    value, end = _parse(text, 0)
    if text[end:].strip():
        raise ConfigError(f"`{text}`: unexpected `{text[end:].strip()}`; to mean a string, put quotes around all of it")
    return value


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _parse(text: str, at: int) -> tuple[Any, int]:
    """The value that starts at ``at`` inside a container, and where it ends."""
    while text[at : at + 1].isspace():
        at += 1
    opening = text[at : at + 1]
    if quoted := _QUOTED.match(text, at):
        body = quoted[1] if quoted[1] is not None else quoted[2]
        return re.sub(r"\\([\\'\"])", r"\1", body), quoted.end()
    if opening not in ("[", "(", "{"):
        bare = _BARE.match(text, at)
        if not bare or not bare[0].strip():
            raise ConfigError(f"`{text}`: a value is missing or a quote is not closed at `{text[at:]}`")
        return _scalar(bare[0].strip()), bare.end()
    closing = {"[": "]", "(": ")", "{": "}"}[opening]
    items: list[Any] = []
    at += 1
    while True:
        while text[at : at + 1].isspace():
            at += 1
        if text[at : at + 1] == closing:
            break
        key = _KEY.match(text, at) if opening == "{" else None
        if opening == "{" and not key:
            raise ConfigError(f"`{text}`: expected `key: value` at `{text[at:]}`")
        value, at = _parse(text, key.end() if key else at)
        items.append((next(k for k in key.groups() if k is not None).strip(), value) if key else value)
        while text[at : at + 1].isspace():
            at += 1
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != closing:
            raise ConfigError(f"`{text}`: expected `,` or `{closing}` at `{text[at:] or 'the end'}`")
    built = {"[": list, "(": tuple, "{": dict}[opening](items)
    return built, at + 1


def parse_path(text: str) -> list[str]:
    """``a.b[0]["x.y"].c`` as its steps ``["a", "b", "0", "x.y", "c"]``."""
    steps, at = [], 0
    while at < len(text):
        match = _STEP.match(text, at)
        if not match:
            raise ConfigError(f"`{text}` is not a key such as `train.batch_size` or `pipeline[0].type`")
        steps.append(next(g for g in match.groups() if g is not None))
        at = match.end()
    return steps


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Change ``cfg`` in place by ``key=value`` (existing key), ``+key=value`` (add) and ``~key`` (delete); returns it.

    A dict value is merged into an existing group, key by key; with ``_delete_: true`` in it, it replaces the group.
    A new argument of a LazyCall needs no ``+`` if the target's signature takes it.

    Raises:
        ConfigError: malformed override; as a ``KeyError``: a key that does not exist, with the nearest ones, or a path
            through a value that has no keys.
    """
    for override in overrides:
        add, delete = override[:1] == "+", override[:1] == "~"
        key, equals, text = override[add or delete :].partition("=")
        if not key.strip() or bool(equals) == delete:
            hint = "; options start with `--` and keys do not" if override[:1] == "-" else ""
            raise ConfigError(f"`{override}` is no override: write key=value, +key=value to add or ~key to delete{hint}")
        try:
            steps = parse_path(key.strip())
            _put(cfg, steps, None if delete else parse_value(text), add, delete)
        except ConfigError as error:
            raise ConfigError.like(error, f"override `{override}`: {error}") from error
        path = ""
        for step in steps:
            path = join(path, int(step) if step.isdigit() else step)
        sources = sources_of(cfg)
        kept = {k: v for k, v in sources.items() if k != path and not k.startswith((path + ".", path + "["))}
        set_sources(cfg, kept | {path: f"command line: {override}"})
    return cfg


def _put(cfg: Any, steps: list[str], value: Any, add: bool, delete: bool) -> None:
    node, trail = cfg, ""
    parents: list[tuple[Any, Any]] = []
    for step in steps[:-1]:
        key = _existing(node, step)
        if key is None and add and isinstance(node, DictConfig):
            node[step] = to_config({})
            key = step
        if key is None:
            raise _unknown(cfg, node, trail, steps)
        parents.append((node, key))
        node, trail = node[key], join(trail, key)
    step = steps[-1]
    key = _existing(node, step)
    path = join(trail, step if key is None else key)
    if not isinstance(node, CONFIGS):
        raise ConfigError.like(KeyError, f"`{trail}` is {node!r}, it has no key `{step}`")
    if key is None and (delete or not _may_add(node, step, path, add)):
        raise _unknown(cfg, node, trail, steps)
    key = step if key is None else key
    if not isinstance(node, DictConfig | ListConfig):  # an omegaconf tuple: rebuild it in its parent
        items = [v for _, v in children(node)]
        items[key : key + 1] = [] if delete else [value]
        parent, parent_key = parents[-1]
        if not isinstance(parent, DictConfig | ListConfig):
            _put(cfg, [str(k) for _, k in parents], tuple(items), add, False)
        else:
            parent[parent_key] = tuple(items)
    elif delete:
        del node[key]
    elif isinstance(value, dict) and isinstance(node, DictConfig) and key in node and isinstance(node[key], DictConfig):
        _merge(cfg, node, key, value, [*steps[:-1], str(key)], add)
    else:
        node[key] = _without_delete(value)


def _merge(cfg: Any, node: DictConfig, key: Any, value: dict, steps: list[str], add: bool) -> None:
    if value.get("_delete_"):
        node[key] = _without_delete(value)
        return
    for inner, inner_value in value.items():
        if inner != "_delete_":
            _put(cfg, [*steps, inner], inner_value, add, False)


def _without_delete(value: Any) -> Any:
    if isinstance(value, dict):
        return to_config({k: _without_delete(v) for k, v in value.items() if k != "_delete_"})
    return value


def _existing(node: Any, step: str) -> Any:
    """The key or index that ``step`` means in ``node``, or None."""
    if isinstance(node, DictConfig):
        return step if step in node else int(step) if step.isdigit() and int(step) in node else None
    if isinstance(node, CONFIGS) and re.fullmatch(r"-?\d+", step) and -len(node) <= int(step) < len(node):
        return int(step) % len(node)
    return None


def _may_add(node: Any, step: str, path: str, add: bool) -> bool:
    """Whether a key that is not there may be set: with ``+``, or as an argument that the LazyCall's target takes."""
    if not isinstance(node, DictConfig):
        return False
    target = node.get("_target_") if is_call(node) else None
    if callable(target) and step not in OPTIONS:
        for _, text in unexpected(target, [step]):
            raise ConfigError.like(KeyError, f"`{path}` → {describe(target)}: {text}")
    # A target given by name is imported, and its arguments checked, only when it is built: the name may be hostile.
    return add or target is not None


def _unknown(cfg: Any, node: Any, trail: str, steps: list[str]) -> ConfigError:
    path = ""
    for step in steps:
        path = join(path, step)
    if not isinstance(node, CONFIGS):
        return ConfigError.like(KeyError, f"`{trail}` is {node!r}, it has no keys")
    if isinstance(node, ListConfig) or is_tuple(node):
        return ConfigError.like(KeyError, f"`{trail}` has {len(node)} elements, no `{path[len(trail) :].lstrip('.')}`")
    if path in REFUSED:
        return ConfigError.like(KeyError, f"`{path}`: {REFUSED[path]}")
    known = list(_paths(cfg, ""))
    leaf = [k for k in known if k.endswith("." + steps[-1])]
    near = [k for k in known if k.rpartition(".")[0] == trail]
    hint = did_you_mean(path, leaf) if leaf else did_you_mean(path, near) or did_you_mean(path, known)
    hint = hint or (f"; did you mean `{leaf[0]}`?" if leaf else "")
    return ConfigError.like(KeyError, f"there is no `{path}`{hint} (to add a new key: +{path}=...)")


def _paths(node: Any, path: str) -> Iterator[str]:
    for key, child in children(node):
        yield join(path, key)
        if isinstance(child, (Mapping, *CONFIGS)):
            yield from _paths(child, join(path, key))


def parse_config_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a script's command line: its own options in any place, then ``config`` and ``overrides``.

    A ``--cfg-options`` before the overrides, as mmdetection users write it, changes nothing.
    """
    parser.add_argument("config", help="a .py or .yaml config")
    parser.add_argument("overrides", nargs="*", help="key=value, +new.key=value, ~key; see docs/config.md")
    words = list(sys.argv[1:] if argv is None else argv)
    return parser.parse_intermixed_args([word for word in words if word != "--cfg-options"])
