"""Configs as YAML that any safe loader reads, and reading YAML that came from anywhere."""

import re
import warnings
from collections.abc import Iterator, Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import yaml

from rec.config.call import object_name, parameters
from rec.config.errors import ConfigError, error_like
from rec.config.nodes import CONTAINERS, SCALARS, children, is_structured, is_tuple, join

MAX_BYTES, MAX_DEPTH, MAX_VALUES = 1 << 20, 64, 50_000
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.1 as PyYAML reads it takes 1e-4 for a string; everyone who writes it means the number.
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9_]+|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$"
)


class _Loader(_BASE):
    """A safe loader."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_data({"_tuple_": list(value)}))
for _kind in (_Loader, _Dumper):
    _rules = {
        k: [r for r in v if r[0][-5:] not in ("float", "stamp")] for k, v in _kind.yaml_implicit_resolvers.items()
    }
    _kind.yaml_implicit_resolvers = _rules
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def safe_load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file that may be hostile, as native containers and scalars; nothing is run or imported.

    Refuses every tag beyond YAML's own, duplicate keys, files over 1 MiB, nesting deeper than 64 levels, and more than
    50,000 values once aliases are expanded. ``{_tuple_: [...]}`` is a tuple. Raises ConfigError with file and line.
    """
    return read_yaml(Path(path))[0]


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """:func:`safe_load_yaml`, and the ``file:line`` of each path in it."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
        _limit(text, path)
        loader = _Loader(text)
        root = loader.get_single_node()
        sources: dict[str, str] = {}
        for key, place in _lines(root, "", path):
            if key in sources:
                raise ConfigError(f"{place}: duplicate key `{key}`, first set at {sources[key]}")
            sources[key] = place
        loaded = loader.construct_document(root) if root is not None else {}
    except (OSError, yaml.YAMLError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        text = f"config {path}{f':{mark.line + 1}' if mark else ''} cannot be read as safe YAML: {problem}"
        raise error_like(error, text) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: a config is a mapping of names, this file holds a {type(loaded).__name__}")
    return _decode(loaded), sources


def _limit(text: str, path: Path) -> None:
    """Count values and depth before anything is built: the builder recurses, and an alias bomb grows in memory."""
    sizes: dict[str, int] = {}
    stack: list[tuple[str, int]] = []
    total = MAX_VALUES if len(text) > MAX_BYTES else 0
    for event in yaml.parse(text, _BASE):
        if isinstance(event, yaml.AliasEvent):  # of an undefined anchor, or of one that is still open: too many
            total += sizes.get(event.anchor, MAX_VALUES)
        elif isinstance(event, yaml.NodeEvent):
            stack.append((event.anchor, total))
            total += 1
        if len(stack) > MAX_DEPTH or total > MAX_VALUES:
            limit = f"{MAX_BYTES} bytes, {MAX_DEPTH} levels and {MAX_VALUES} values, aliases expanded"
            raise ConfigError(f"{path}:{event.start_mark.line + 1}: a config has at most {limit}")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionEndEvent):
            anchor, before = stack.pop()
            sizes[anchor] = total - before


def _lines(node: Any, path: str, file: Path) -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        mapping = isinstance(node, yaml.MappingNode)
        for key, child in [(k.value, v) for k, v in node.value] if mapping else enumerate(node.value):
            yield join(path, key), f"{file}:{child.start_mark.line + 1}"
            yield from _lines(child, join(path, key), file)


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"_tuple_"} and isinstance(value["_tuple_"], list):
            return tuple(_decode(v) for v in value["_tuple_"])
        return {k: _decode(v) for k, v in value.items()}
    return [_decode(v) for v in value] if isinstance(value, list) else value


def save_yaml(cfg: Any, path: str | Path) -> None:
    """Write ``cfg`` as YAML for a safe loader: callables as dotted names, interpolations as written.

    What has no importable name (a lambda, a class defined in the config) is written readable, with a warning that
    names its keys.
    """
    lost: list[str] = []
    text = yaml.dump(_native(cfg, "", False, lost), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    Path(path).write_text(text, encoding="utf-8")
    if lost:
        warnings.warn(f"{path} is readable but cannot rebuild {', '.join(lost)}: no importable name", stacklevel=2)


def to_native(cfg: Any, resolve: bool = True) -> Any:
    """``cfg`` as native containers and scalars, callables as dotted names; interpolations resolved or as written."""
    return _native(cfg, "", resolve, [])


def _native(value: Any, path: str, resolve: bool, lost: list[str]) -> Any:
    if isinstance(value, CONTAINERS):
        items = list(children(value, resolve))
        if is_structured(value):
            kind = value._metadata.object_type
            items = [("_target_", kind), *((k, v) for k, v in items if k in (parameters(kind) or {}))]
        found = {k: _native(v, join(path, k), resolve, lost) for k, v in items}
        return found if isinstance(value, Mapping) else (tuple if is_tuple(value) else list)(found.values())
    if isinstance(value, Number) and hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if type(value) in (*SCALARS, bytes):
        return value
    name = str(value) if isinstance(value, Path) else object_name(value)
    if name is None:
        lost.append(path)
    return (
        name or repr(value)
        if name is None or isinstance(value, Path) or path.endswith("_target_")
        else {"_object_": name}
    )
