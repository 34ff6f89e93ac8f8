"""Configs for people: as readable Python, as a list of keys, and what differs between two."""

import inspect
from collections.abc import Iterator
from typing import Any

from rec.config.call import is_call, locate, parameters
from rec.config.errors import ConfigError
from rec.config.nodes import join
from rec.config.yaml_io import to_native

_WIDTH = 88


def to_py(cfg: Any, prefix: str = "cfg") -> str:
    """``cfg`` as readable Python: one assignment a line, LazyCalls as calls, interpolations resolved."""
    return "".join(f"{line}\n" for line in _assignments(to_native(cfg), prefix))


def _assignments(node: dict, path: str) -> Iterator[str]:
    for key, value in node.items():
        inner = join(path, key)
        if isinstance(value, dict) and value and not is_call(value):
            yield from _assignments(value, inner)
        else:
            yield f"{inner} = {_layout(_tree(value), 0, len(inner) + 3)}"


def _tree(value: Any) -> Any:
    """A native value as text, or as (opening bracket, [(prefix, tree), ...], closing bracket)."""
    if is_call(value):
        target = value.get("_object_", value.get("_target_"))
        name = target if isinstance(target, str) else _flat(target)
        parts = [(f"{k}=", _tree(v)) for k, v in value.items() if k != "_target_"]
        return name if "_object_" in value else (f"{name}(", parts, ")")
    if isinstance(value, dict):
        return "{", [(f"{_tree(k)}: ", _tree(v)) for k, v in value.items()], "}"
    if isinstance(value, list | tuple):
        parts = [("", _tree(v)) for v in value]
        return ("[", parts, "]") if isinstance(value, list) else ("(", parts, ",)" if len(parts) == 1 else ")")
    return f'"{value}"' if isinstance(value, str) and not any(c in repr(value) for c in '"\\') else repr(value)


def _layout(tree: Any, indent: int, used: int) -> str:
    """One line where it fits into the width, else one part a line, each with a comma after it."""
    if isinstance(tree, str):
        return tree
    opening, parts, closing = tree
    flat = opening + ", ".join(prefix + _layout(part, 0, -(1 << 30)) for prefix, part in parts) + closing
    if used + len(flat) <= _WIDTH or not parts:
        return flat
    pad = " " * (indent + 4)
    lines = [f"{pad}{prefix}{_layout(part, indent + 4, indent + 5 + len(prefix))},\n" for prefix, part in parts]
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing[-1]}"


def _flat(value: Any) -> str:
    return _layout(_tree(value), 0, -(1 << 30))


def flatten(node: Any, path: str = "", defaults: bool = False) -> dict[str, str]:
    """Every key of a native config with its value as Python text, lists without groups in them as one.

    With ``defaults``, also the parameters of each target that the config leaves alone, marked so.
    """
    found: dict[str, str] = {}
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        nested = isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value)
        if nested or (isinstance(value, dict) and value):
            found |= flatten(value, join(path, key), defaults)
        else:
            found[join(path, key)] = value if key in ("_target_", "_object_") else _flat(value)
    if defaults and is_call(node) and isinstance(node.get("_target_"), str):
        try:
            takes = parameters(locate(node["_target_"])) or {}
        except ConfigError:
            takes = {}
        for name, parameter in takes.items():
            left = "(required)" if parameter.default is inspect.Parameter.empty else f"{parameter.default!r}  (default)"
            found.setdefault(join(path, name), left)
    return found


def list_keys(cfg: Any) -> list[str]:
    """Every key with its value, and of each LazyCall the parameters left at the target's defaults."""
    return [f"{key} = {value}" for key, value in flatten(to_native(cfg, resolve=False), defaults=True).items()]


def diff(a: Any, b: Any) -> list[str]:
    """What differs from ``a`` to ``b``, a line each: ``~ key: old → new``, ``- key = old``, ``+ key = new``."""
    old, new = (flatten(to_native(cfg, resolve=False)) for cfg in (a, b))
    lines = [f"- {k} = {v}" if k not in new else f"~ {k}: {v} → {new[k]}" for k, v in old.items() if new.get(k) != v]
    return lines + [f"+ {k} = {v}" for k, v in new.items() if k not in old]
