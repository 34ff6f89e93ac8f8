"""Configs for people: as readable Python, as a list of keys, and what differs between two."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from rec.config.call import describe, locate, parameters
from rec.config.nodes import CONFIGS, SCALARS, SEQUENCES, children, is_call, is_tuple, join

_WIDTH = 88


def to_py(cfg: Any, prefix: str = "cfg") -> str:
    """``cfg`` as readable Python: one assignment a line, LazyCalls as calls, interpolations resolved."""
    return "".join(f"{line}\n" for line in _assignments(cfg, prefix))


def _assignments(node: Any, path: str) -> Iterator[str]:
    for key, child in _values(node, True):
        inner = join(path, key)
        if isinstance(child, Mapping) and len(child) and not is_call(child):
            yield from _assignments(child, inner)
        else:
            yield f"{inner} = {_layout(_tree(child, True), 0, len(inner) + 3)}"


def _values(node: Any, resolve: bool) -> Iterator[tuple[Any, Any]]:
    return ((k, node[k] if resolve and isinstance(node, CONFIGS) else v) for k, v in children(node))


def _tree(value: Any, resolve: bool) -> Any:
    """A value as text, or as (opening bracket, [(prefix, tree), ...], closing bracket)."""
    if is_call(value):
        target = value["_object_"] if "_object_" in value else value["_target_"]
        name = _layout(_tree(target, resolve), 0, 0) if isinstance(target, Mapping) else describe(target)
        parts = [(f"{k}=", _tree(v, resolve)) for k, v in _values(value, resolve) if k != "_target_"]
        return (f"{name}(", parts, ")") if "_target_" in value else name
    if isinstance(value, Mapping):
        return "{", [(f"{_text(k)}: ", _tree(v, resolve)) for k, v in _values(value, resolve)], "}"
    if isinstance(value, SEQUENCES):
        parts = [("", _tree(v, resolve)) for _, v in _values(value, resolve)]
        return ("(", parts, ",)" if len(parts) == 1 else ")") if is_tuple(value) else ("[", parts, "]")
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str) and not any(c in repr(value) for c in '"\\'):
        return f'"{value}"'
    return repr(value) if isinstance(value, SCALARS) else describe(value)


def _layout(tree: Any, indent: int, used: int) -> str:
    """One line where it fits into the width, else one part a line, each with a comma after it."""
    if isinstance(tree, str):
        return tree
    opening, parts, closing = tree
    flat = opening + ", ".join(prefix + _layout(part, 0, -(10**6)) for prefix, part in parts) + closing
    if used + len(flat) <= _WIDTH or not parts:
        return flat
    pad = " " * (indent + 4)
    lines = [f"{pad}{prefix}{_layout(part, indent + 4, indent + 5 + len(prefix))},\n" for prefix, part in parts]
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing[-1]}"


def flatten(cfg: Any, path: str = "", defaults: bool = False) -> dict[str, str]:
    """Every key of ``cfg`` with its value as Python text, interpolations as written.

    With ``defaults``, also the parameters of each LazyCall's target that the config leaves alone, marked so.
    """
    found: dict[str, str] = {}
    for key, child in children(cfg):
        inner = join(path, key)
        nested = [v for _, v in children(child)] if isinstance(child, (Mapping, *SEQUENCES)) else []
        if nested and (isinstance(child, Mapping) or any(isinstance(v, Mapping) for v in nested)):
            found |= flatten(child, inner, defaults)
        else:
            found[inner] = describe(child) if key == "_target_" else _layout(_tree(child, False), 0, -(10**6))
    if defaults and is_call(cfg) and isinstance(target := cfg.get("_target_"), str) | callable(target):
        for name, parameter in (parameters(locate(target) if isinstance(target, str) else target) or {}).items():
            default = (
                "(required)"
                if parameter.default is inspect.Parameter.empty
                else f"{_text(parameter.default)}  (default)"
            )
            found.setdefault(join(path, name), default)
    return found


def list_keys(cfg: Any) -> list[str]:
    """Every key with its value, and of each LazyCall the parameters left at the target's defaults."""
    return [f"{key} = {value}" for key, value in flatten(cfg, defaults=True).items()]


def diff(a: Any, b: Any) -> list[str]:
    """What differs from ``a`` to ``b``, a line each: ``~ key: old → new``, ``- key = old``, ``+ key = new``."""
    old, new = flatten(a), flatten(b)
    lines = [f"- {k} = {v}" if k not in new else f"~ {k}: {v} → {new[k]}" for k, v in old.items() if new.get(k) != v]
    return lines + [f"+ {k} = {v}" for k, v in new.items() if k not in old]
