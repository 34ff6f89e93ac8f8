"""Configs as YAML that any safe loader reads, and reading YAML that came from anywhere."""

import re
import warnings
from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import yaml

from rec.config.call import object_name, parameters
from rec.config.errors import ConfigError, error_like
from rec.config.nodes import CONFIGS, SCALARS, SEQUENCES, children, is_structured, is_tuple, join

MAX_BYTES, MAX_DEPTH, MAX_NODES = 1 << 20, 64, 50_000
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.1 as PyYAML reads it takes 1e-4 for a string; everyone who writes it means the number.
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.inf$|\.nan$"
)


class _Loader(_BASE):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key `{key.value}`", key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else "")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_data({"_tuple_": list(value)}))
for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [rule for rule in rules if not rule[0].endswith((":timestamp", ":float"))]
        for first, rules in _kind.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def safe_load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file that may be hostile, as native containers and scalars; nothing is run or imported.

    Refuses every tag beyond YAML's own, files over 1 MiB, nesting deeper than 64 levels, and more than 50,000 values
    once aliases are expanded. ``{_tuple_: [...]}`` is a tuple.

    Raises:
        ConfigError: with file and line.
    """
    return read_yaml(Path(path))[0]


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """:func:`safe_load_yaml`, and the ``file:line`` of each path in it."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{path}: a config has at most {MAX_BYTES} bytes")
        _limit(text, path)
        loader = _Loader(text)
        root = loader.get_single_node()
        loaded = loader.construct_document(root) if root is not None else {}
    except (OSError, UnicodeDecodeError) as error:
        raise error_like(error, f"config {path} cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        raise ConfigError(f"{path}{f':{mark.line + 1}' if mark else ''}: not a safe YAML config: {problem}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: a config is a mapping of names, this file holds a {type(loaded).__name__}")
    return _decode(loaded), dict(_lines(root, "", path))


def _limit(text: str, path: Path) -> None:
    """Count values and depth before anything is built: the builder recurses, and an alias bomb grows in memory."""
    sizes: dict[str, int] = {}
    stack: list[tuple[str, int]] = []
    total = 0
    for event in yaml.parse(text, _BASE):
        if isinstance(event, yaml.AliasEvent):  # of an undefined anchor, or of one that is still open: too many
            total += sizes.get(event.anchor, MAX_NODES)
        elif isinstance(event, yaml.NodeEvent):
            stack.append((event.anchor, total))
            total += 1
        if len(stack) > MAX_DEPTH or total > MAX_NODES:
            limit = f"at most {MAX_DEPTH} levels and {MAX_NODES} values, aliases expanded"
            raise ConfigError(f"{path}:{event.start_mark.line + 1}: a config has {limit}")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionEndEvent):
            anchor, before = stack.pop()
            sizes[anchor] = total - before


def _lines(node: Any, path: str, file: Path) -> Any:
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
    text = yaml.dump(_encode(cfg, "", False, lost), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    Path(path).write_text(text, encoding="utf-8")
    if lost:
        warnings.warn(f"{path} is readable but cannot rebuild {', '.join(lost)}: no importable name", stacklevel=2)


def to_native(cfg: Any) -> Any:
    """``cfg`` as native containers and scalars, interpolations resolved, callables as dotted names."""
    return _encode(cfg, "", True, [])


def _encode(value: Any, path: str, resolve: bool, lost: list[str]) -> Any:
    if isinstance(value, (Mapping, *SEQUENCES)):
        found = [(k, value[k] if resolve and isinstance(value, CONFIGS) else v) for k, v in children(value)]
        if is_structured(value):
            kind = value._metadata.object_type
            found = [("_target_", kind), *((k, v) for k, v in found if k in (parameters(kind) or {}))]
        encoded = {k: _encode(v, join(path, k), resolve, lost) for k, v in found}
        return encoded if isinstance(value, Mapping) else (tuple if is_tuple(value) else list)(encoded.values())
    if isinstance(value, Number) and hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if type(value) in (*SCALARS, bytes):
        return value
    if isinstance(value, Path):
        return str(value)
    name = object_name(value)
    if name is None:
        lost.append(path)
        return repr(value)
    return name if path.endswith("_target_") else {"_object_": name}
