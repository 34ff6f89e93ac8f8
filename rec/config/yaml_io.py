"""Configs as YAML that any safe loader reads, and a loader for files that came from anywhere."""

import re
import warnings
from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import yaml

from rec.config.call import object_name
from rec.config.errors import ConfigError
from rec.config.nodes import SCALARS, SEQUENCES, children, is_structured, is_tuple, join

MAX_BYTES, MAX_DEPTH, MAX_NODES = 1 << 20, 64, 50_000
# YAML 1.1 as PyYAML reads it takes 1e-4 for a string; everyone who writes it means the number.
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key `{key.value}`", key.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_tuple(self, data: tuple) -> yaml.Node:
        return self.represent_mapping("tag:yaml.org,2002:map", {"_tuple_": list(data)}, flow_style=True)


def _flow_lists(dumper: _Dumper, data: list) -> yaml.Node:
    flat = all(isinstance(v, SCALARS) for v in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(tuple, _Dumper.represent_tuple)
_Dumper.add_representer(list, _flow_lists)
for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if not tag.endswith((":timestamp", ":float"))]
        for first, rules in _kind.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def safe_load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file that may be hostile: native containers and scalars only, nothing run or imported.

    Refuses every tag beyond YAML's own, files over 1 MiB, nesting deeper than 64, and aliases that grow the document
    beyond 50,000 values. ``{_tuple_: [...]}`` becomes a tuple.

    Raises:
        ConfigError: with file and line.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path}: {size} bytes; a config has at most {MAX_BYTES}")
        text = Path(path).read_text(encoding="utf-8")
        _limit(text, path)
        loaded = yaml.load(text, _Loader)  # noqa: S506 - _Loader is a safe loader
    except FileNotFoundError as error:
        raise ConfigError.like(error, f"{path} does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{path}{f':{mark.line + 1}' if mark else ''}: not a safe YAML config: {problem}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: a config is a mapping of names, this file holds a {type(loaded).__name__}")
    return _decode(loaded)


def _limit(text: str, path: str | Path) -> None:
    """Count values with aliases expanded before anything is built: the builder recurses, and a bomb grows in memory."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        line = f"{path}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ConfigError(f"{line}: alias *{event.anchor} is undefined or contains itself")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        if len(open_nodes) > MAX_DEPTH:
            raise ConfigError(f"{line}: nested deeper than {MAX_DEPTH} levels")
        if total > MAX_NODES:
            raise ConfigError(f"{line}: more than {MAX_NODES} values once aliases are expanded")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"_tuple_"} and isinstance(value["_tuple_"], list):
            return tuple(_decode(v) for v in value["_tuple_"])
        return {k: _decode(v) for k, v in value.items()}
    return [_decode(v) for v in value] if isinstance(value, list) else value


def save_yaml(cfg: Any, path: str | Path) -> None:
    """Write ``cfg`` as YAML that :func:`safe_load_yaml` reads back; warn with the keys that cannot be read back."""
    lost: list[str] = []
    text = yaml.dump(encode(cfg, "", lost), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    Path(path).write_text(text, encoding="utf-8")
    if lost:
        keys = ", ".join(f"`{key}`" for key in lost)
        warnings.warn(f"{path} is readable but cannot rebuild the config: no importable name for {keys}", stacklevel=3)


def encode(value: Any, path: str, lost: list[str]) -> Any:
    """``value`` as native containers and scalars, interpolations kept; what has no such form is its repr, path in ``lost``."""
    if is_structured(value):
        kind = value._metadata.object_type
        return encode({"_target_": kind, **{k: v for k, v in children(value)}}, path, lost)
    if isinstance(value, Mapping):
        return {k: encode(v, join(path, k), lost) for k, v in children(value)}
    if isinstance(value, SEQUENCES):
        items = [encode(v, join(path, i), lost) for i, v in children(value)]
        return tuple(items) if is_tuple(value) else items
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Number) and hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if type(value) in (*SCALARS, bytes):
        return value
    name = object_name(value)
    if name is None:
        lost.append(path)
        return repr(value)
    return name if path.endswith("_target_") else {"_object_": name}
