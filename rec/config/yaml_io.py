"""Configs as YAML that any safe loader reads, and reading YAML that came from anywhere."""

import re
import warnings
from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import yaml

from rec.config.call import Builder, object_name
from rec.config.errors import ConfigError, error_like
from rec.config.nodes import CONTAINERS, SCALARS, children, is_tuple, join
from rec.errors import UntrustedError
from rec.files import user_path, write_text
from rec.trust import MAX_CONFIG_BYTES, MAX_CONFIG_DEPTH, MAX_CONFIG_NODES, read_text

_LIMIT = f"a config has at most {MAX_CONFIG_DEPTH} levels, {MAX_CONFIG_NODES:,} keys and values, and no aliases (write ${{key}})"
MAX_NUMBER = 100  # characters; Python would take minutes for some numbers of a megabyte
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.1 as PyYAML reads it takes 1e-4 for a string; everyone who writes it means the number.
_FLOAT = re.compile(r"[-+]?(\d[\d_]*\.[\d_]*|\.[\d_]+|\d[\d_]*(?=[eE]))([eE][-+]?\d+)?$|[-+]?\.inf$|\.nan$", re.ASCII)
_Dumper: Any = type("_Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda self, data: True})
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_data({"_tuple_": list(value)}))
_Loader: Any = type("_Loader", (_BASE,), {})
# What other tools' YAML files (yaml.dump's) call plain values; a tuple is a sequence until it is built.
_PLAIN = {"none": "null", "unicode": "str", "long": "int", "list": "seq", "tuple": "seq", "dict": "map"}
_PLAIN |= {kind: kind for kind in ("bool", "str", "int", "float")}
_TAG = "tag:yaml.org,2002:"
_PYTHON = {f"{_TAG}python/{theirs}": f"{_TAG}{ours}" for theirs, ours in _PLAIN.items()}
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789."))
for _rules in _Loader.yaml_implicit_resolvers.values():  # 2020-01-01 is a string, as omegaconf has it
    _rules[:] = [rule for rule in _rules if "timestamp" not in rule[0]]


def safe_load_yaml(path: str | Path, sources: dict[str, str] | None = None) -> dict[str, Any]:
    """The mapping in a YAML file that may be hostile, as native containers and scalars; nothing is run or imported.

    Refuses, with file and line, tags beyond YAML's own and ``!!python/tuple`` and its like for plain values, aliases, duplicate
    keys, and what is larger than the limits of :mod:`rec.trust`. ``{_tuple_: [...]}`` is a tuple. ``sources`` receives the
    ``file:line`` of each path.
    """
    depth = nodes = 0
    places = {} if sources is None else sources
    try:
        text = read_text(path, "config", MAX_CONFIG_BYTES)
        # Before anything is built, which recurses. Aliases can grow a few lines into gigabytes.
        for event in yaml.parse(text, _BASE):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            nodes += isinstance(event, yaml.NodeEvent)
            if depth > MAX_CONFIG_DEPTH or nodes > MAX_CONFIG_NODES or isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"{path}:{event.start_mark.line + 1}: {_LIMIT}")
        loader = _Loader(text)
        root = loader.get_single_node()
        loaded = {} if root is None else _build(loader, root, "", path, places)
    except UntrustedError as error:
        raise ConfigError(f"{path}: cannot be read as a safe config: {error}") from error
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        line = f":{mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        problem = str(getattr(error, "problem", None) or error)
        # The scanner reads ahead of the events: from PyYAML 6.0.4 on, its own limit of a thousand levels can come first.
        said = _LIMIT if "nesting depth" in problem else f"cannot be read as a safe config: {problem}"
        raise error_like(error, f"{path}{line}: {said}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: a config is a mapping of names, this file holds a {type(loaded).__name__}")
    return loaded


def _build(loader: Any, node: Any, path: str, file: str | Path, places: dict[str, str]) -> Any:
    mapping, in_tuple = isinstance(node, yaml.MappingNode), node.tag == f"{_TAG}python/tuple"
    node.tag = _PYTHON.get(node.tag, node.tag)
    if isinstance(node, yaml.ScalarNode) or node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(node.value) > MAX_NUMBER:
            raise ValueError(f"a number of {len(node.value)} characters; at most {MAX_NUMBER} are read")
        return loader.construct_object(node, deep=True)  # a scalar, or a tag that a safe loader refuses
    built: dict[Any, Any] = {}
    for key, child in ((loader.construct_object(k), v) for k, v in node.value) if mapping else enumerate(node.value):
        inner, place = join(path, key), f"{file}:{child.start_mark.line + 1}"
        if inner in places:
            raise ConfigError(f"{place}: duplicate key `{inner}`, first set at {places[inner]}")
        places[inner] = place
        built[key] = _build(loader, child, inner, file, places)
    if built.keys() == {"_tuple_"} and isinstance(built["_tuple_"], list):
        return tuple(built["_tuple_"])
    return built if mapping else (tuple if in_tuple else list)(built.values())


def save_yaml(cfg: Any, path: str | Path, comment: str = "") -> None:
    """Write ``cfg`` as YAML for a safe loader, callables by name, interpolations as written, below a line of ``comment``.

    Warns with the keys of what has no importable name (a lambda, a class of the config file), which is only readable.
    """
    lost: list[str] = []
    text = yaml.dump(
        to_native(cfg, False, lost),
        Dumper=_Dumper,
        default_flow_style=None,
        sort_keys=False,
        allow_unicode=True,
        width=120,
    )
    write_text(user_path(path), f"# {comment}\n{text}" if comment.isprintable() and comment else text)
    if lost:
        warnings.warn(f"{path} is readable but cannot rebuild {', '.join(lost)}: no importable name", stacklevel=2)


def to_native(cfg: Any, resolve: bool = True, lost: list[str] | None = None, path: str = "") -> Any:
    """``cfg`` as native values, callables by name, interpolations resolved or not; ``lost`` gets what has no name."""
    if isinstance(cfg, CONTAINERS):
        builder = Builder(cfg, None)
        items = builder.values(cfg, builder.root) if resolve else children(cfg)
        found = {k: to_native(v, resolve, lost, join(path, k)) for k, v in items}
        return found if isinstance(cfg, Mapping) else (tuple if is_tuple(cfg) else list)(found.values())
    value = cfg.item() if isinstance(cfg, Number) and hasattr(cfg, "item") else cfg  # a NumPy scalar
    if type(value) in (*SCALARS, bytes) or isinstance(value, Path):
        return str(value) if isinstance(value, Path) else value
    name = object_name(value)
    if name is None:
        if lost is not None:
            lost.append(path)
        return re.sub(" at 0x[0-9a-fA-F]+", "", repr(value))  # the address is another one in each process
    return name if path.endswith("_target_") else {"_object_": name}
