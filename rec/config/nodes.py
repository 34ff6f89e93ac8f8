"""What omegaconf needs help with: tuples on 2.3, objects it would take apart, strict groups, and who set which key."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import omegaconf
from omegaconf import AnyNode, DictConfig, ListConfig

from rec.config.errors import ConfigError, did_you_mean, error_like
from rec.other_names import canonical_name

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


def is_structured(value: Any) -> bool:
    """True for a config node backed by a dataclass."""
    return isinstance(value, DictConfig) and value._is_typed()


def is_call(value: Any) -> bool:
    """True for a mapping that describes a call (``_target_``) or names an importable object (``_object_``)."""
    return isinstance(value, Mapping) and ("_target_" in value or "_object_" in value)


def to_config(value: Any) -> Any:
    """A native dict as a config node that may hold any Python object; every other value as it is."""
    return DictConfig(_wrap(value), flags={"allow_objects": True}) if type(value) is dict else value


def _wrap(value: Any) -> Any:
    if isinstance(value, type) and dataclasses.is_dataclass(value):  # omegaconf would make an instance of it
        return AnyNode(value, flags={"allow_objects": True})
    if isinstance(value, tuple) and hasattr(value, "_asdict"):  # a namedtuple would become a plain tuple
        return to_config({"_target_": type(value), **value._asdict()})
    if type(value) in (list, tuple):
        return type(value)(_wrap(v) for v in value)
    return {k: _wrap(v) for k, v in value.items()} if type(value) is dict else value


def children(node: Any, resolve: bool = False) -> Iterator[tuple[Any, Any]]:
    """Key (or index) and value of each child; without ``resolve``, interpolations and ``???`` come as their text."""
    if not isinstance(node, CONFIGS):
        yield from node.items() if isinstance(node, Mapping) else enumerate(node)
    elif isinstance(node._content, dict | list):
        for key in list(node._content) if isinstance(node, DictConfig) else range(len(node)):
            child = node._get_node(key)
            group = isinstance(child, CONFIGS) and isinstance(child._content, dict | list)
            yield key, node[key] if resolve else child if group else child._value()


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything below ``node``, groups before what is in them."""
    for key, child in children(node) if isinstance(node, CONTAINERS) else ():
        yield join(path, key), child
        yield from walk(child, join(path, key))


def join(path: str, key: Any) -> str:
    """``path`` extended by a key or index: ``a.b``, ``a[0]``, ``a['x.y']``."""
    if isinstance(key, str) and key and not any(c in key for c in ".[]'\"= "):
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def path_of(node: Any) -> str:
    """The path of a node from the root of its config; empty for the root and for native values."""
    parent = node._get_parent() if isinstance(node, CONFIGS) else None
    return "" if parent is None else join(path_of(parent), node._key())


def notes(node: Any) -> dict[str, Any]:
    """Our notes on a node: ``sources`` (which ``file:line`` set which path under it), ``name``. Deep copies keep them."""
    return node._metadata.__dict__.setdefault("rec_notes", {"sources": {}, "name": ""})


def unknown_key(path: str, known: list[str], how: str) -> ConfigError:
    """The ``KeyError`` for a key that does not exist: the canonical name, or the nearest ones and how to add it."""
    instead = canonical_name(path)
    return error_like(
        KeyError, f"there is no `{path}`" + (f": {instead}" if instead else f"{did_you_mean(path, known)} ({how})")
    )


class StrictConfig(DictConfig):
    """A plain group as a config file that imported it sees it: existing keys only, until the load ends."""

    def __setattr__(self, key: str, value: Any) -> None:
        self._refuse_unknown(key)
        super().__setattr__(key, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refuse_unknown(key)
        super().__setitem__(key, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = super().__deepcopy__(memo)
        object.__setattr__(copied, "__class__", StrictConfig)  # a copy is as easily misspelt as the original
        return copied

    def _refuse_unknown(self, key: Any) -> None:
        content: Any = self._content
        if key not in content and self._get_flag("struct") is not False:
            group = ".".join(filter(None, [notes(self._get_root())["name"], path_of(self)]))
            how = "to add it on purpose: with omegaconf.open_dict(group), or assign the whole group anew"
            raise unknown_key(join(group, key), [join(group, k) for k in content], how)


def set_strict(root: Any, strict: bool) -> None:
    """Make every plain group in ``root`` strict or open, in place. LazyCalls stay open: signatures check them."""
    for node in [root, *(value for _, value in walk(root))]:
        if isinstance(node, DictConfig) and not (strict and (is_call(node) or is_structured(node))):
            object.__setattr__(node, "__class__", StrictConfig if strict else DictConfig)
