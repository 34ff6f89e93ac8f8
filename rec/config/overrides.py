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
from rec.config.nodes import CONFIGS, all_paths, children, is_call, join, sources_of, to_config, under, unknown_key

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
    if text[:1] not in tuple("[({'\""):
        return _scalar(text)
    try:  # bare words quoted, the text is a Python literal; the parentheses keep neighbours from being joined
        tree = ast.parse(
            _TOKEN.sub(lambda m: m[2] or f"({m[1] or _literal(_scalar(m[3].strip()))})", text), mode="eval"
        )
        if any(isinstance(node, ast.Set) for node in ast.walk(tree)):
            raise ValueError("a dict is written {key: value}")
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error) if "dict" in str(error) else "a bracket or quote is not closed, or something follows it"
        raise ConfigError(
            f"`{text}` is not a value: {reason}; to mean a string, put quotes around all of it"
        ) from error


def _literal(value: Any) -> str:
    return "1e999" if value == float("inf") else "-1e999" if value == float("-inf") else repr(value)


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
        sign = override[:1] if override[:1] in "+~" else ""
        key, equals, text = override[len(sign) :].partition("=")
        key = key.strip()
        if bool(equals) == (sign == "~") or not re.fullmatch(f"({_STEP.pattern})+", key) or override[0] in "-.":
            raise ConfigError(f"`{override}` is no override: write key=value, +key=value to add or ~key to delete")
        steps = [next(filter(None, step)) for step in _STEP.findall(key)]
        path = ""
        for step in steps:
            path = join(path, int(step) if step.isdigit() else step)
        try:
            _put(cfg, steps, parse_value(text), sign, "")
        except _Unknown as error:
            how = f"to add a new key: +{error.args[0]}=..."
            raise unknown_key(error.args[0], all_paths(cfg), how) from None
        except (ConfigError, OmegaConfBaseException) as error:
            raise error_like(error, f"override `{override}`: {str(error).splitlines()[0]}") from error
        sources = sources_of(cfg)
        for old in [old for old in sources if under(old, path)]:
            del sources[old]
        sources[path] = f"command line: {override}"
    return cfg


class _Unknown(Exception):
    """There is no such path."""


def _put(node: Any, steps: list[str], value: Any, sign: str, path: str) -> None:
    if not isinstance(node, CONFIGS):
        raise error_like(KeyError, f"`{path}` is {node!r}, it has no key `{steps[0]}`")
    step, *rest = steps
    if isinstance(node, DictConfig):
        keys = [key for key in (step, int(step) if step.isdigit() else step) if key in node.keys()]
    else:
        keys = [int(step) % len(node)] if re.fullmatch(r"-?\d+", step) and -len(node) <= int(step) < len(node) else []
    key = keys[0] if keys else step
    inner = join(path, key)
    if not keys:
        if (
            not isinstance(node, DictConfig)
            or sign == "~"
            or not (sign == "+" or (not rest and _takes(node, step, inner)))
        ):
            for rest_step in rest:
                inner = join(inner, rest_step)
            raise _Unknown(inner)
        if rest:
            node[key] = to_config({})
    if not rest and sign == "~":
        del node[key]
    elif not rest and not (isinstance(value, dict) and keys and isinstance(node[key], DictConfig)):
        node[key] = _replacement(value)
    elif not rest and value.get("_delete_"):
        node[key] = _replacement(value)
    else:
        child = node[key]
        fixed = isinstance(child, CONFIGS) and not isinstance(child, DictConfig | ListConfig)
        if fixed:  # omegaconf's tuple is immutable: change a list of the same and put it back as a tuple
            child = to_config({"list": [v for _, v in children(child)]}).list
        if rest:
            _put(child, rest, value, sign, inner)
        else:
            for inner_key, inner_value in value.items():
                _put(child, [str(inner_key)], inner_value, sign, inner)
        if fixed:
            node[key] = tuple(v for _, v in children(child))


def _takes(node: DictConfig, name: str, path: str) -> bool:
    """Whether ``node`` is a LazyCall whose target takes the argument ``name``."""
    target = node.get("_target_") if is_call(node) else None
    for _, text in unexpected(target, [name]) if callable(target) else ():
        raise error_like(KeyError, f"`{path}` → {describe(target)}: {text}")
    return target is not None  # a target given by name may be hostile: it is imported only when it is built


def _replacement(value: Any) -> Any:
    if isinstance(value, dict):
        return to_config({k: _replacement(v) for k, v in value.items() if k != "_delete_"})
    return value


def parse_config_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a script's own options in any place, then ``config`` and ``overrides``, with or without ``--cfg-options``."""
    parser.add_argument("config", help="a .py or .yaml config")
    parser.add_argument("overrides", nargs="*", help="key=value, +new.key=value, ~key; see docs/config.md")
    words = sys.argv[1:] if argv is None else argv
    return parser.parse_intermixed_args([word for word in words if word != "--cfg-options"])
