"""What omegaconf needs help with: tuples on 2.3, native containers, strict nodes inside config files, where a key was set."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import omegaconf
from omegaconf import AnyNode, DictConfig, ListConfig

from rec.config.errors import ConfigError, did_you_mean

TupleConfig: Any = getattr(omegaconf, "TupleConfig", None)
SEQUENCES: tuple[type, ...] = (list, tuple, ListConfig) + ((TupleConfig,) if TupleConfig else ())
CONFIGS: tuple[type, ...] = (DictConfig, *SEQUENCES[2:])
SCALARS = (str, int, float, bool, type(None))
MODULE_MARK = "__config_file__"  # the global by which a frame is known to belong to a config file

if TupleConfig is None:  # omegaconf 2.3 stores a tuple as a list; without the mark it would reach constructors as one
    _set_value_impl = ListConfig._set_value_impl

    def _set_and_mark(self: ListConfig, value: Any, flags: Any = None) -> None:
        was_tuple = isinstance(value, tuple) or (isinstance(value, ListConfig) and is_tuple(value))
        _set_value_impl(self, value, flags)
        if was_tuple:
            self._metadata.object_type = tuple

    ListConfig._set_value_impl = _set_and_mark


def is_tuple(value: Any) -> bool:
    """True for a tuple and for the config node that holds one."""
    return isinstance(value, tuple) or (isinstance(value, SEQUENCES[2:]) and value._metadata.object_type is tuple)


def is_structured(value: Any) -> bool:
    """True for a config node backed by a dataclass."""
    return isinstance(value, DictConfig) and dataclasses.is_dataclass(value._metadata.object_type)


def is_call(value: Any) -> bool:
    """True for a mapping that describes a call (``_target_``) or names an importable object (``_object_``)."""
    return isinstance(value, Mapping) and ("_target_" in value or "_object_" in value)


def wrap(value: Any) -> Any:
    """Native ``value`` made ready for omegaconf, which would otherwise flatten namedtuples and open up dataclass types."""
    if isinstance(value, type) and (dataclasses.is_dataclass(value) or hasattr(value, "__attrs_attrs__")):
        return AnyNode(value, flags={"allow_objects": True})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return to_config({"_target_": type(value), **dict(zip(value._fields, value, strict=True))})
    if type(value) in (list, tuple):
        return type(value)(wrap(v) for v in value)
    return {k: wrap(v) for k, v in value.items()} if type(value) is dict else value


def to_config(value: dict) -> DictConfig:
    """A native dict as a config node that may hold any Python object."""
    return DictConfig(wrap(value), flags={"allow_objects": True})


def children(node: Any, resolve: bool = False) -> Iterator[tuple[Any, Any]]:
    """Key (or index) and value of each child; without ``resolve`` interpolations and ``???`` come as their text."""
    if isinstance(node, Mapping):
        keys: Any = node.keys()
    else:
        keys = range(len(node)) if isinstance(node, list | tuple) or node._content.__class__ is list else ()
    for key in keys:
        if resolve or not isinstance(node, CONFIGS):
            yield key, node[key]
        else:
            child = node._get_node(key)
            special = not isinstance(child, CONFIGS) or not isinstance(child._content, dict | list)
            yield key, child._value() if special else child


def join(path: str, key: Any) -> str:
    """``path`` extended by a key or index: ``a.b``, ``a[0]``, ``a["x.y"]``."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not isinstance(key, str) or not key or any(c in key for c in ".[]\"'= "):
        return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else key


def path_of(node: Any) -> str:
    """The path of ``node`` from the root of its config, empty for the root and for native containers."""
    path, keys = "", []
    while isinstance(node, CONFIGS) and node._get_parent() is not None:
        keys.append(node._key())
        node = node._get_parent()
    for key in reversed(keys):
        path = join(path, key)
    return path


def set_sources(root: Any, sources: dict[str, str]) -> None:
    """Remember on the config's root which ``file:line`` set each path. Lives in the metadata: it survives a deep copy."""
    root._metadata.rec_sources = sources


def sources_of(node: Any) -> dict[str, str]:
    """The record made by :func:`set_sources` for the config that ``node`` belongs to."""
    return getattr(node._get_root()._metadata, "rec_sources", {}) if isinstance(node, CONFIGS) else {}


def where(sources: dict[str, str], path: str) -> str:
    """`` [file:line]`` of the nearest known setter of ``path``, or an empty string."""
    while path and path not in sources:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return f" [{sources[path]}]" if path in sources else ""


def config_line() -> str:
    """``file:line: `` of the config file being executed, or an empty string."""
    frame: Any = sys._getframe(1)
    while frame is not None and MODULE_MARK not in frame.f_globals:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}: " if frame is not None else ""


class StrictConfig(DictConfig):
    """A plain group as a config file sees it after importing it: existing keys only. Opened again when the load ends."""

    def __setattr__(self, key: str, value: Any) -> None:
        self._refuse_unknown(key)
        super().__setattr__(key, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refuse_unknown(key)
        super().__setitem__(key, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "StrictConfig":
        copied = super().__deepcopy__(memo)
        object.__setattr__(copied, "__class__", StrictConfig)  # a copy is as easily misspelt as the original
        return copied  # type: ignore[return-value]

    def _refuse_unknown(self, key: Any) -> None:
        if key in self._content or self._get_flag("struct") is False:
            return
        group = join(getattr(self._get_root()._metadata, "rec_name", ""), path_of(self))
        raise unknown_key(join(group, key), [join(group, k) for k in self], config_line())


def unknown_key(path: str, known: list[str], place: str = "", how: str = "") -> ConfigError:
    """The ``KeyError`` for a key that does not exist, with the nearest existing ones."""
    how = how or "to add a key on purpose: `with omegaconf.open_dict(node): ...`, or assign the whole group"
    return ConfigError.like(KeyError, f"{place}unknown key `{path}`{did_you_mean(path, known)} ({how})")


def set_strict(node: Any, strict: bool) -> None:
    """Make every plain group under ``node`` strict or open, in place. LazyCall nodes stay open: signatures check them."""
    if isinstance(node, DictConfig) and not is_structured(node) and (not strict or not is_call(node)):
        object.__setattr__(node, "__class__", StrictConfig if strict else DictConfig)
    for _, child in children(node) if isinstance(node, (Mapping, *SEQUENCES)) else ():
        set_strict(child, strict)
