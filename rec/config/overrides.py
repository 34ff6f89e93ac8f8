"""``key=value`` overrides: their grammar, and applying them so that a misspelt key is an error."""

import argparse
import ast
import re
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from rec.config.call import describe, unexpected
from rec.config.errors import ConfigError, error_like
from rec.config.nodes import CONFIGS, children, is_call, join, notes, to_config, unknown_key, walk

_WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_INT = re.compile(r"[+-]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[+-]?((\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?|inf)|nan")
_TOKEN = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|([\[\](){},:\s])|((?:\$\{[^}]*\}|[^\[\](){},:'"])+)""")
_STEP = re.compile(r"""\.?\[(?:'([^']+)'|"([^"]+)"|([^]'"]+))\]|\.?([^.\[\]]+)""")


def parse_value(text: str) -> Any:
    """The value on the right of an override.

    ``None True False null true false``, integers, floats (``1e-4``, ``inf``), ``'quoted'`` or ``"quoted"`` strings,
    ``[lists]``, ``(tu, ples)`` and ``{key: dicts}`` of all of these; anything else is a string as it stands.
    """
    text = text.strip()
    if not text.startswith(("[", "(", "{", "'", '"')):
        return _scalar(text)

    def python(token: re.Match[str]) -> str:  # the parentheses keep neighbouring strings from being joined
        word = None if token[1] or token[2] else repr(_scalar(token[3].strip()))
        return token[2] or f"({token[1] or (word or '').replace('inf', '1e999' if word in ('inf', '-inf') else 'inf')})"

    try:
        tree = ast.parse(_TOKEN.sub(python, text), mode="eval")
        if any(isinstance(node, ast.Set) for node in ast.walk(tree)):
            raise ValueError("{a, b} is no dict")
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        hint = "is a bracket or quote not closed? To mean a string, put quotes around all of it"
        raise ConfigError(f"`{text}` is no value: {hint}") from error


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _INT.fullmatch(text) else float(text) if _FLOAT.fullmatch(text) else text


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Change ``cfg`` in place by ``key=value`` (existing key), ``+key=value`` (add) and ``~key`` (delete); returns it.

    A dict value is merged into an existing group; with ``_delete_: true`` in it, it replaces the group. A new argument
    of a LazyCall needs no ``+`` if the target's signature takes it.

    Raises:
        ConfigError: malformed override; as a ``KeyError``: a key that does not exist, with the nearest ones, or a path
            through a value that has no keys.
    """
    for override in overrides:
        sign = override[:1] if override[:1] in ("+", "~") else ""
        key, equals, text = override[len(sign) :].partition("=")
        if bool(equals) == (sign == "~") or not re.fullmatch(f"({_STEP.pattern})+", key) or override[0] in "-.":
            raise ConfigError(f"`{override}` is no override: write key=value, +key=value to add or ~key to delete")
        steps, path = [next(filter(None, step)) for step in _STEP.findall(key)], ""
        for step in steps:
            path = join(path, int(step) if step.isdigit() else step)
        try:
            _put(cfg, steps, parse_value(text), sign)
        except _UnknownKey:
            how = f"to add a new key: +{path}=..."
            raise unknown_key(path, [known for known, _ in walk(cfg)], how) from None
        except (ConfigError, OmegaConfBaseException) as error:
            raise error_like(error, f"override `{override}`: {str(error).splitlines()[0]}") from error
        notes(cfg)["sources"][path] = f"command line: {override}"
    return cfg


class _UnknownKey(Exception):
    pass


def _put(node: Any, steps: list[str], value: Any, sign: str) -> None:
    step, *rest = steps
    if not isinstance(node, CONFIGS):
        raise error_like(KeyError, f"there is no `{step}` in {node!r}, which is no group")
    keys = {str(key): key for key, _ in children(node)}
    key = keys.get(step, step)
    if step not in keys:
        if not isinstance(node, DictConfig) or not (sign == "+" or (not sign and not rest and _takes(node, step))):
            raise _UnknownKey
        node[key] = to_config({}) if rest else None
    old = node[key] if rest or isinstance(value, dict) else None
    if rest or (isinstance(old, DictConfig) and not value.get("_delete_")):
        # omegaconf's tuple is immutable: change a list of the same, and put it back as a tuple
        fixed = isinstance(old, CONFIGS) and not isinstance(old, DictConfig | ListConfig)
        group = to_config({"items": [v for _, v in children(old)]})["items"] if fixed else old
        for inner, inner_value in [(rest, value)] if rest else [([str(k)], v) for k, v in value.items()]:
            _put(group, inner, inner_value, sign)
        if fixed:
            node[key] = tuple(v for _, v in children(group))
    elif sign == "~":
        del node[key]
    else:
        node[key] = _without_delete(value)


def _takes(node: DictConfig, name: str) -> bool:
    """Whether ``node`` is a LazyCall whose target takes the argument ``name``."""
    target = node.get("_target_") if is_call(node) else None
    for _, text in unexpected(target, [name]) if callable(target) else ():
        raise error_like(KeyError, f"{describe(target)}: {text}")
    return target is not None  # a target given by name may be hostile: it is imported only when it is built


def _without_delete(value: Any) -> Any:
    group = isinstance(value, dict)
    return to_config({k: _without_delete(v) for k, v in value.items() if k != "_delete_"}) if group else value


def parse_config_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a script's own options in any place, then ``config`` and ``overrides``, with or without ``--cfg-options``."""
    parser.add_argument("config", help="a .py or .yaml config")
    parser.add_argument("overrides", nargs="*", help="key=value, +new.key=value, ~key; see docs/config.md")
    words = sys.argv[1:] if argv is None else argv
    return parser.parse_intermixed_args([word for word in words if word != "--cfg-options"])
