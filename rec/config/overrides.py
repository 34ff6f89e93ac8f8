"""``key=value`` overrides: their grammar, and applying them so that a misspelt key is an error."""

import argparse
import ast
import functools
import json
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rec.config.call import object_name, unexpected
from rec.config.errors import ConfigError, error_like
from rec.config.nodes import CONFIGS, LISTS, children, is_tuple, join, set_strict, sources, to_node, unknown_key, walk
from rec.config.refused import REFUSED

_WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_OPENING = ("[", "(", "{", "'", '"')
_INT = re.compile(r"[+-]?(0|[1-9](_?[0-9])*)")
_FLOAT = re.compile(r"[+-]?((\d(_?\d)*\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?|inf)|nan")
_TOKEN = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|([\[\](){},:\s])|((?:\$\{[^}]*\}|[^\[\](){},:'"])+)""")
_STEP = re.compile(r"""\.?\[(?:'([^']+)'|"([^"]+)"|([^]'"]+))\]|\.?([^.\[\]]+)""")


def parse_value(text: str) -> Any:
    """The value on the right of an override.

    ``None True False null true false``, integers, floats (``1e-4``, ``inf``), ``'quoted'`` or ``"quoted"`` strings,
    ``[lists]``, ``(tu, ples)`` and ``{key: dicts}`` of all of these; anything else is a string as it stands.
    """
    text = text.strip()
    if not text.startswith(_OPENING):
        number = int if _INT.fullmatch(text) else float if _FLOAT.fullmatch(text) else str
        return _WORDS[text] if text in _WORDS else number(text)
    try:  # as a Python literal, bare words quoted; the parentheses keep neighbouring strings from being joined
        tree = ast.parse(_TOKEN.sub(lambda t: t[2] or f"({t[1] or repr(parse_value(t[3]))})", text), mode="eval")
        if any(isinstance(node, ast.Set) for node in ast.walk(tree)):
            raise ValueError("{a, b} is not a dict")
        value = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        hint = "is a bracket or quote not closed? To mean a string, put quotes around all of it"
        raise ConfigError(f"`{text}` is not a value: {hint}") from error
    for node in ast.walk(tree):
        keys = [ast.dump(key) for key in node.keys if key] if isinstance(node, ast.Dict) else []
        if len(set(keys)) < len(keys):
            raise ConfigError(f"`{text}` has a key twice: write each once")
    return value


def shell_override(path: str, value: Any) -> str:
    """``path=value`` as one word for a shell, which :func:`apply_overrides` reads back as that value.

    Args:
        path: of the key, such as ``model.head`` or ``+dataset.ann_path['my data']``.
        value: a scalar, or a dict of them.
    """
    return f"{shlex.quote(path)}={shlex.quote(_written(value))}"


def _written(value: Any, inside: bool = False) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_written(key, True)}: {_written(inner, True)}" for key, inner in value.items()) + "}"
    if not isinstance(value, str):
        return repr(value)
    plain = re.fullmatch(r"[\w./+-]+", value) if inside else not value.strip().startswith(_OPENING)
    if plain and parse_value(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()  # lone surrogates


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Change ``cfg`` in place by ``key=value`` (existing key), ``+key=value`` (add) and ``~key`` (delete); returns it.

    A dict value is merged into an existing group; with ``_delete_: true`` in it, it replaces the group. ``a,b`` onto a list
    is ``[a, b]``; ``++`` is hydra's ``+``. A new argument of a LazyCall needs no ``+`` if the target takes it. Raises
    ConfigError, for an unknown key also a ``KeyError``.
    """
    set_strict(cfg, False)
    for override in (f"+{word[2:]}" if word[:2] == "++" else word for word in overrides):
        sign = override[:1] if override[:1] in ("+", "~") else ""
        key, equals, text = override[len(sign) :].partition("=")
        if bool(equals) == (sign == "~") or not re.fullmatch(f"({_STEP.pattern})+", key) or override[0] in "-.":
            raise ConfigError(f"`{override}` is not an override: write key=value, +key=value to add or ~key to delete")
        steps = [int(s) if s.isdecimal() else s for s in (next(filter(None, step)) for step in _STEP.findall(key))]
        try:
            _put(cfg, steps, parse_value(text), sign)
        except (ConfigError, OmegaConfBaseException) as error:
            raise error_like(error, f"override `{override}`: {str(error).splitlines()[0]}") from error
        except LookupError as error:
            path = str(error.args[0])
            how = error.args[1] or ("nothing is deleted" if sign == "~" else f"to add it: +{path}=...")
            raise unknown_key(path, [known for known, _ in walk(cfg)], how) from None
        sources(cfg)[functools.reduce(join, steps, "")] = f"command line: {override}"
    return cfg


def _put(node: Any, steps: list[Any], value: Any, sign: str, path: str = "") -> None:
    step, *rest = str(steps[0]), *steps[1:]
    if not isinstance(node, CONFIGS):
        raise error_like(KeyError, f"`{path}` is {node!r}, which has no `{step}`")
    keys = {str(key): key for key, _ in children(node)}
    key = keys.get(step, step)
    if step not in keys:
        target = node.get("_target_") if isinstance(node, DictConfig) and not rest and not sign else None
        for _, text in unexpected(target, [step]):  # a target given by name may be hostile: only building it imports it
            raise error_like(KeyError, f"`{path}` → {object_name(target)}: {text}")
        if not isinstance(node, DictConfig) or (sign != "+" and target is None):
            how = f"to change the length of `{path}`, write all of it" if isinstance(node, LISTS) else ""
            raise LookupError(functools.reduce(join, steps, path), how)
        node[key] = {} if rest else None
    old = node[key] if rest or isinstance(value, dict) else None
    if rest or (isinstance(old, DictConfig) and not value.get("_delete_")):
        for inner, inner_value in [(rest, value)] if rest else [([str(k)], v) for k, v in value.items()]:
            _put(old, inner, inner_value, sign, join(path, key))
    elif sign == "~":
        del node[key]
    else:
        if isinstance(value, str) and "," in value and isinstance(listed := node._get_node(key), LISTS):
            value = (tuple if is_tuple(listed) else list)(
                parse_value(item) for item in value.removesuffix(",").split(",")
            )
        typed = (
            isinstance(node, DictConfig) and node._is_typed()
        )  # a dataclass, whose fields take plain values of their type
        node[key] = value if typed else to_node(value, key, node)


def parse_config_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a script's options in any place, then ``config`` and ``overrides``. Options of other tools that mean nothing here
    (``--cfg-options``, ``--config-file``) are passed over, those that are refused are answered with what to do."""
    parser.add_argument("config", help="a .py or .yaml config")
    overrides = parser.add_argument("overrides", nargs="*", help="key=value, +new.key=value, ~key; see docs/config.md")
    overrides.required = False  # nor are they asked for where `config` is missing
    words = []
    for word in sys.argv[1:] if argv is None else argv:
        option, equals, rest = word.partition("=")
        if option[:2] == "--" and option in REFUSED:
            parser.error(REFUSED[option])
        skipped = option in ("--cfg-options", "--config", "--config-file")
        words += ([rest] if equals else []) if skipped else [word]
    return parser.parse_intermixed_args(words)
