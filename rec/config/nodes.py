"""What omegaconf needs help with: tuples on 2.3, objects it would take apart, strict groups, and who set which key."""

import copy
import dataclasses
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import omegaconf
from omegaconf import AnyNode, DictConfig, ListConfig

from rec.config.errors import ConfigError, did_you_mean, error_like
from rec.config.refused import KNOWN, canonical_name

LISTS: tuple[Any, ...] = (ListConfig, getattr(omegaconf, "TupleConfig", ListConfig))
CONFIGS: tuple[Any, ...] = (DictConfig, *LISTS)
CONTAINERS: tuple[Any, ...] = (Mapping, list, tuple, *LISTS)
SCALARS = (str, int, float, bool, type(None))

if not hasattr(omegaconf, "TupleConfig"):  # 2.3 stores a tuple as a list; unmarked, it would reach constructors as one
    _set_value_impl = ListConfig._set_value_impl

    def _set_and_mark(self: Any, value: Any, flags: Any = None) -> None:
        _set_value_impl(self, value, flags)
        if is_tuple(value):
            self._metadata.object_type = tuple

    ListConfig._set_value_impl = _set_and_mark  # type: ignore[method-assign]


def is_tuple(value: Any) -> bool:
    """True for a tuple and for the config node that holds one."""
    return isinstance(value, tuple) or (isinstance(value, LISTS) and value._metadata.object_type is tuple)


def is_call(value: Any) -> bool:
    """True for a mapping that describes a call (``_target_``, or a dataclass) or names an object (``_object_``)."""
    named = isinstance(value, Mapping) and ("_target_" in value or "_object_" in value)
    return named or (isinstance(value, DictConfig) and value._is_typed())


def to_node(value: Any, key: Any = None, parent: Any = None, own: bool = False) -> Any:
    """A value as a config node without ``_delete_`` keys; nodes in it are copied, unless they are ``own``."""
    # Not by omegaconf's constructors: they take several times as long, and take namedtuples and classes apart.
    if isinstance(value, CONFIGS):
        made = value if own and value._get_parent() is None else copy.deepcopy(value)
        made._set_parent(parent)
        made._set_key(key)
        return made
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = {"_target_": type(value), **value._asdict()}
    kind, flags = type(value), {"allow_objects": True}
    if kind not in (dict, list, tuple):
        instance = dataclasses.is_dataclass(value) and not isinstance(value, type)
        return DictConfig(value, key, parent, flags=flags) if instance else AnyNode(value, key, parent)
    made = DictConfig({}, key, parent, flags=flags) if kind is dict else ListConfig([], key, parent, flags=flags)
    inner = {k: to_node(v, k, made, own) for k, v in children(value) if k != "_delete_"}
    made.__dict__["_content"] = inner if kind is dict else list(inner.values())
    made._metadata.object_type = kind
    return made


def children(node: Any) -> Iterator[tuple[Any, Any]]:
    """Key (or index) and value of each child, interpolations and ``???`` as their text; a dataclass as a LazyCall."""
    if not isinstance(node, CONFIGS):
        yield from node.items() if isinstance(node, Mapping) else enumerate(node)
    elif isinstance(node._content, dict | list):
        kind = node._metadata.object_type if isinstance(node, DictConfig) and node._is_typed() else None
        if kind:
            yield "_target_", kind
        for key, child in node._content.items() if isinstance(node, DictConfig) else enumerate(node._content):
            value = child._value()
            if kind is None or key in inspect.signature(kind).parameters:
                yield key, child if isinstance(child, CONFIGS) and isinstance(value, dict | list) else value


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of ``node`` and everything in it."""
    yield path, node
    for key, child in children(node) if isinstance(node, CONTAINERS) else ():
        yield from walk(child, join(path, key))


def expand_home(cfg: Any) -> Any:
    """Puts the home folder in place of ``~`` in every text of ``cfg`` that is ``~`` or starts with ``~/``; returns it.

    A folder of that name, ``./~``, becomes a whole path: without its ``./``, which ``Path`` forgets, it would be the home folder.
    """
    for _, node in list(walk(cfg)):
        for key, value in list(children(node)) if isinstance(node, CONFIGS) else ():
            if isinstance(value, str) and re.match(r"(\./)?~(/|$)", value):
                node[key] = os.path.expanduser(value) if value[0] == "~" else os.path.abspath(value)
    return cfg


def join(path: str, key: Any) -> str:
    """``path`` extended by a key or index: ``a.b``, ``a[0]``, ``a['x.y']``."""
    if isinstance(key, str) and key and not any(c in key for c in ".[]'\"= "):
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def sources(node: Any) -> dict[str, str]:
    """The ``file:line`` that set each path in ``node``; in its metadata, so that copies keep it."""
    return node._metadata.__dict__.setdefault("rec_sources", {})


def unknown_key(path: str, known: list[str], how: str) -> ConfigError:
    """The ``KeyError`` for a key that does not exist: the canonical name, or the nearest ones and how to add it."""
    text = canonical_name(path) or f"there is no such key{did_you_mean(path, known)} ({how})"
    return error_like(KeyError, f"`{path}`: {text}")


def reads(cfg: Any) -> set[str]:
    """The names that a config file reads in its own code, such as variables for other values; in its metadata too."""
    return cfg._metadata.__dict__.setdefault("rec_reads", set())


def added(group: Any) -> set[Any]:
    """The keys that a config file added to a group on purpose; in its metadata, as :func:`sources`."""
    return group._metadata.__dict__.setdefault("rec_added", set())


def merge(group: DictConfig, values: Mapping[Any, Any]) -> None:
    """Puts ``values`` into ``group``: mappings key by key into the group of that name, but a LazyCall and what has
    ``_delete_=True`` in its place."""
    for key, value in children(values):
        old = group._get_node(key) if key in list(group) else None
        merges = isinstance(value, Mapping) and not is_call(value) and not value.get("_delete_")
        if merges and isinstance(old, DictConfig):
            merge(old, value)
        elif merges and isinstance(old, AnyNode) and old._value() is not None:
            path = join(group._get_full_key(None), key)
            how = "to put a group in its place, write _delete_=True into it"
            raise error_like(TypeError, f"`{path}` is {old._value()!r}, no group; {how}")
        else:
            group[key] = to_node(value, key)


class StrictConfig(DictConfig):
    """A group as a config file that imported it sees it: a plain one takes existing keys only, until the load ends."""

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        # A LazyCall's arguments are for its target's signature to check.
        if key not in list(self) and not is_call(self):
            group = self._get_full_key(None)
            if join(group, key) not in KNOWN and self._get_flag("struct") is not False:
                how = "to add it on purpose: with omegaconf.open_dict(group), or assign the whole group anew"
                raise unknown_key(join(group, key), [join(group, k) for k in self], how)
            added(self).add(key)
        super().__setitem__(key, to_node(value) if isinstance(value, dict) else value)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """As mmengine's: groups are merged, see :func:`merge`."""
        merge(self, {**dict(other), **more})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = super().__deepcopy__(memo)
        object.__setattr__(copied, "__class__", StrictConfig)  # a copy is as easily misspelt as the original
        return copied


def set_strict(root: Any, strict: bool) -> None:
    """Make every group in ``root`` strict or open, in place."""
    for _, node in walk(root):
        if isinstance(node, DictConfig):
            object.__setattr__(node, "__class__", StrictConfig if strict else DictConfig)
        elif isinstance(node, LISTS) and is_tuple(node):  # 2.4's own tuples take no item and no other value
            object.__setattr__(node, "__class__", ListConfig)
            node._metadata.ref_type = Any
