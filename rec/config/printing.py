"""Configs for people: as readable Python, as a list of keys, and what differs between two."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from rec.config.call import OPTIONS, describe, locate, parameters
from rec.config.errors import ConfigError
from rec.config.nodes import SCALARS, SEQUENCES, children, is_call, is_tuple, join

_WIDTH = 88


def to_py(cfg: Any, prefix: str = "cfg.") -> str:
    """``cfg`` as readable Python, one assignment a line, calls as calls, interpolations resolved.

    Raises:
        omegaconf.errors.InterpolationResolutionError: an interpolation leads nowhere.
    """
    return "".join(f"{line}\n" for line in _assignments(cfg, prefix.removesuffix(".")))


def _assignments(node: Any, path: str) -> Iterator[str]:
    for key, child in children(node, resolve=True):
        child_path = join(path, key)
        if isinstance(child, Mapping) and len(child) and not is_call(child):
            yield from _assignments(child, child_path)
        else:
            yield f"{child_path} = {_layout(_tree(child), 0, len(child_path) + 3)}"


def _tree(value: Any) -> Any:
    """A value as text, or as (opening bracket, parts, closing bracket) where a part is (its prefix, tree)."""
    if is_call(value) and "_object_" in value:
        return str(value["_object_"])
    if is_call(value):
        target = value["_target_"]
        name = describe(target) if not isinstance(target, Mapping) else to_py({"": target}, "")[3:].strip()
        return f"{name}(", [(f"{k}=", _tree(v)) for k, v in children(value, True) if k != "_target_"], ")"
    if isinstance(value, Mapping):
        return "{", [(f"{_text(k)}: ", _tree(v)) for k, v in children(value, True)], "}"
    if isinstance(value, SEQUENCES):
        parts = [("", _tree(v)) for _, v in children(value, True)]
        return ("(", parts, ",)" if len(parts) == 1 else ")") if is_tuple(value) else ("[", parts, "]")
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        text = repr(value)
        return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text and "\\'" not in text else text
    return repr(value) if isinstance(value, SCALARS) else describe(value)


def _layout(tree: Any, indent: int, used: int) -> str:
    """One line where it fits in 88 columns, else one part a line with a trailing comma."""
    if isinstance(tree, str):
        return tree
    flat = _flat(tree)
    opening, parts, closing = tree
    if used + len(flat) <= _WIDTH or not parts:
        return flat
    pad = " " * (indent + 4)
    lines = [f"{pad}{prefix}{_layout(part, indent + 4, indent + 5 + len(prefix))},\n" for prefix, part in parts]
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing[-1]}"


def _flat(tree: Any) -> str:
    if isinstance(tree, str):
        return tree
    return tree[0] + ", ".join(prefix + _flat(part) for prefix, part in tree[1]) + tree[2]


def flatten(cfg: Any, path: str = "") -> dict[str, str]:
    """Every key of ``cfg`` with its value as Python text, unresolved; containers without nested groups stay whole."""
    found: dict[str, str] = {}
    for key, child in children(cfg):
        child_path = join(path, key)
        if isinstance(child, (Mapping, *SEQUENCES)) and (
            (isinstance(child, Mapping) and len(child)) or any(isinstance(v, Mapping) for _, v in children(child))
        ):
            found |= flatten(child, child_path)
        else:
            found[child_path] = describe(child) if key == "_target_" else _flat(_raw_tree(child))
    return found


def _raw_tree(value: Any) -> Any:
    if isinstance(value, SEQUENCES):
        parts = [("", _raw_tree(v)) for _, v in children(value)]
        return ("(", parts, ",)" if len(parts) == 1 else ")") if is_tuple(value) else ("[", parts, "]")
    return "{}" if isinstance(value, Mapping) else _text(value)


def diff(a: Any, b: Any) -> list[str]:
    """What differs from ``a`` to ``b``, a line each: ``~ key: old → new``, ``- key = old``, ``+ key = new``."""
    left, right = flatten(a), flatten(b)
    lines = []
    for key in [*left, *(k for k in right if k not in left)]:
        if key not in right:
            lines.append(f"- {key} = {left[key]}")
        elif key not in left:
            lines.append(f"+ {key} = {right[key]}")
        elif left[key] != right[key]:
            lines.append(f"~ {key}: {left[key]} → {right[key]}")
    return lines


def list_keys(cfg: Any) -> list[str]:
    """Every key with its value; under each LazyCall also the parameters left at the target's defaults, marked so."""
    return list(_keys(cfg, ""))


def _keys(node: Any, path: str) -> Iterator[str]:
    for key, child in children(node):
        child_path = join(path, key)
        nested = flatten({"": child}, "")
        if isinstance(child, (Mapping, *SEQUENCES)) and list(nested) != ["[''"]:
            if is_call(child) and "_target_" in child:
                yield f"{child_path} = LazyCall({describe(child['_target_'])})"
            yield from _keys(child, child_path)
        elif key not in OPTIONS:
            yield f"{child_path} = {_flat(_raw_tree(child))}"
    if is_call(node) and "_target_" in node:
        yield from _defaults(node, path)


def _defaults(node: Any, path: str) -> Iterator[str]:
    target = node["_target_"]
    try:
        target = locate(target) if isinstance(target, str) else target
    except ConfigError as error:
        yield f"{path}: {error}"
        return
    for name, parameter in (parameters(target) or {}).items() if callable(target) else ():
        if name not in node:
            given = "(required)" if parameter.default is inspect.Parameter.empty else f"{_text(parameter.default)}  (default)"
            yield f"{join(path, name)} = {given}"
