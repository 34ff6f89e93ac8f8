"""Configs for people: as readable Python, as flat keys, and what differs between two."""

from collections.abc import Iterator
from typing import Any

from rec.config.nodes import is_call, join
from rec.config.yaml_io import to_native


def to_py(cfg: Any, prefix: str = "cfg") -> str:
    """``cfg`` as readable Python: one assignment a line, LazyCalls as calls, interpolations resolved."""
    leaves = _leaves(to_native(cfg), prefix.removesuffix("."), split=False)  # detectron2's own is "cfg."
    return "".join(f"{path} = {_layout(_tree(value), 0, len(path) + 3)}\n" for path, value in leaves)


def flatten(cfg: Any) -> dict[str, str]:
    """Every path of ``cfg`` with its value as Python text, interpolations as written, lists without groups as one."""
    return {path: _layout(_tree(value)) for path, value in _leaves(to_native(cfg, resolve=False), "", split=True)}


def diff(a: Any, b: Any) -> list[str]:
    """What differs from ``a`` to ``b``, a line each: ``~ key: old → new``, ``- key = old``, ``+ key = new``."""
    old, new = flatten(a), flatten(b)
    lines = [f"- {k} = {v}" if k not in new else f"~ {k}: {v} → {new[k]}" for k, v in old.items() if new.get(k) != v]
    return lines + [f"+ {k} = {v}" for k, v in new.items() if k not in old]


def _leaves(value: Any, path: str, split: bool) -> Iterator[tuple[str, Any]]:
    """The paths in a native config; LazyCalls, and lists with groups in them, whole or ``split`` too."""
    nested = isinstance(value, dict) and (split or not is_call(value))
    nested = nested or (split and isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value))
    if not nested or not value:
        yield path, value
    for key, child in (value.items() if isinstance(value, dict) else enumerate(value)) if nested else ():
        yield from _leaves(child, join(path, key), split)


def _tree(value: Any) -> Any:
    """A native value as text, or as (opening bracket, [(prefix, tree), ...], closing bracket)."""
    if is_call(value):
        target = value.get("_object_", value.get("_target_"))
        name = target if isinstance(target, str) else _layout(_tree(target))
        parts = [(f"{k}=", _tree(v)) for k, v in value.items() if k != "_target_"]
        return name if "_object_" in value else (f"{name}(", parts, ")")
    if isinstance(value, dict):
        return "{", [(f"{_tree(k)}: ", _tree(v)) for k, v in value.items()], "}"
    if isinstance(value, list | tuple):
        parts = [("", _tree(v)) for v in value]
        return ("[", parts, "]") if isinstance(value, list) else ("(", parts, ",)" if len(parts) == 1 else ")")
    return f'"{value}"' if isinstance(value, str) and not any(c in repr(value) for c in '"\\') else repr(value)


def _layout(tree: Any, indent: int = 0, used: int = -(1 << 30)) -> str:
    """One line where it fits into 88 columns, else one part a line, each with a comma after it."""
    if isinstance(tree, str):
        return tree
    opening, parts, closing = tree
    flat = opening + ", ".join(prefix + _layout(part) for prefix, part in parts) + closing
    if used + len(flat) <= 88 or not parts:
        return flat
    pad = " " * (indent + 4)
    lines = [f"{pad}{prefix}{_layout(part, indent + 4, indent + 5 + len(prefix))},\n" for prefix, part in parts]
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing[-1]}"
