"""LazyCall describes a call, ``instantiate`` makes it, ``check`` says what would go wrong without making it."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from enum import Enum
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rec.config.errors import ConfigError, did_you_mean
from rec.config.nodes import (
    CONFIGS,
    SEQUENCES,
    children,
    is_call,
    is_structured,
    is_tuple,
    join,
    path_of,
    sources_of,
    to_config,
    where,
)

OPTIONS = ("_target_", "_partial_", "_recursive_")


class LazyCall:
    """``LazyCall(target)(**arguments)``: a config node describing ``target(**arguments)``, built by :func:`instantiate`.

    Args:
        target: a callable, its dotted name, or another LazyCall's node whose result will be called.

    Raises:
        TypeError: ``target`` is none of these.
    """

    def __init__(self, target: Callable | str | Mapping):
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"LazyCall needs a callable, a dotted name or another LazyCall, not {target!r}")
        self._target = target

    def __call__(self, /, **arguments: Any) -> DictConfig:
        return to_config({"_target_": self._target, **arguments})


def locate(name: str) -> Any:
    """The object with the dotted ``name``, its module imported. Raises ConfigError with the cause if there is none."""
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"`{name}` is not a dotted name such as `package.module.Class`")
    for split in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module + ".").startswith(error.name + ".") and split > 1:
                continue
            raise ConfigError.like(error, f"`{name}` cannot be imported: {error}") from error
        except Exception as error:
            text = f"`{name}` cannot be imported: {module} raised {type(error).__name__}: {error}"
            raise ConfigError.like(error, text) from error
        for part in parts[split:]:
            if not hasattr(found, part):
                hint = did_you_mean(part, dir(found))
                raise ConfigError.like(ImportError, f"`{name}` cannot be imported: {module} has no `{part}`{hint}")
            found = getattr(found, part)
        return found
    raise AssertionError("a dotted name has at least one module part")


def object_name(value: Any) -> str | None:
    """The shortest dotted name that imports ``value`` (a class, function, enum member, dtype), or None if none does."""
    if isinstance(value, Enum):
        module, tail = type(value).__module__, f"{type(value).__qualname__}.{value.name}"
    elif hasattr(value, "__qualname__"):
        module, tail = value.__module__ or "builtins", value.__qualname__
    else:
        module, _, tail = str(value).rpartition(".")  # torch.float16 and its like print as their own name
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        found = sys.modules.get(".".join(parts[:end]))
        for part in tail.split(".") if found is not None else ():
            found = getattr(found, part, None)
        if found is value and found is not None:
            return ".".join([*parts[:end], tail])
    return None


def describe(target: Any) -> str:
    """The name of a target for people: dotted if it has one, else its repr."""
    return target if isinstance(target, str) else object_name(target) or getattr(target, "__qualname__", repr(target))


def parameters(target: Callable) -> Mapping[str, inspect.Parameter] | None:
    """The parameters ``target`` takes by keyword, or None where any name may be taken or nobody knows."""
    try:
        found = inspect.signature(target).parameters
    except (ValueError, TypeError):  # some builtins have no signature
        return None
    if any(p.kind is p.VAR_KEYWORD for p in found.values()):
        return None
    return {k: p for k, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def unexpected(target: Callable, names: list[str]) -> Iterator[tuple[str, str]]:
    """Each of ``names`` that ``target`` does not take, with what to say about it."""
    takes = parameters(target)
    for name in names if takes is not None else ():
        if name not in takes:
            known = f"it takes {', '.join(takes)}" if takes else "it takes no keyword arguments"
            yield name, f"unexpected argument '{name}'; {known}{did_you_mean(name, takes)}"


def instantiate(cfg: Any, _allowed_: Container[str] | None = None, /, **extra: Any) -> Any:
    """Build what ``cfg`` describes, from the inside out.

    Mappings with ``_target_`` become the target's result; other mappings, lists and tuples become native ``dict``, ``list``
    and ``tuple`` of built values; every other object, and every native container with nothing to build, is returned itself.

    Args:
        cfg: a config node, a container of nodes, or any object.
        _allowed_: the exact dotted names that may be called, for a config that came from elsewhere; None allows all.
        **extra: more arguments of the outermost call, passed as they are; they win over the config's.

    ``_partial_=True`` in a call gives ``functools.partial``; ``_recursive_=False`` hands nested calls over unbuilt.

    Raises:
        ConfigError: with the config path, the target, the file and line where known, and the cause. It is also of the
            type of the exception that the target raised.
    """
    path = path_of(cfg)
    builder = _Builder(_allowed_, sources_of(cfg))
    if not extra:
        return builder.build(cfg, path)
    if not (is_call(cfg) and "_target_" in cfg):
        raise ConfigError.like(TypeError, f"cfg.{path}: arguments {', '.join(extra)} were given, but it is no LazyCall")
    return builder.call(cfg, path, extra)


class _Builder:
    def __init__(self, allowed: Container[str] | None, sources: dict[str, str]):
        self.allowed = allowed
        self.sources = sources

    def error(self, kind: Any, path: str, text: str) -> ConfigError:
        return ConfigError.like(kind, f"{join('cfg', path) if path[:1] == '[' else f'cfg.{path}'.rstrip('.')}{text}")

    def build(self, value: Any, path: str, recursive: bool = True) -> Any:
        if is_structured(value):
            return OmegaConf.to_object(value)
        if is_call(value):
            if not recursive:
                return value
            return self.call(value, path, {}) if "_target_" in value else self.resolve(value["_object_"], path)
        if not isinstance(value, (Mapping, *SEQUENCES)):
            return value
        try:
            items = list(children(value, resolve=True))
        except OmegaConfBaseException as error:
            raise self.unresolved(error, path) from error
        built = [(key, self.build(child, join(path, key), recursive)) for key, child in items]
        if not isinstance(value, CONFIGS) and all(new is old for (_, new), (_, old) in zip(built, items, strict=True)):
            return value
        if isinstance(value, Mapping):
            return dict(built)
        if hasattr(value, "_fields"):  # a native namedtuple
            return type(value)(*(new for _, new in built))
        return (tuple if is_tuple(value) else list)(new for _, new in built)

    def unresolved(self, error: Exception, path: str) -> ConfigError:
        key = getattr(error, "full_key", None) or path
        return self.error(error, key, f": {str(error).splitlines()[0]}{where(self.sources, key)}")

    def resolve(self, name: Any, path: str) -> Any:
        """The object of a dotted name, which must be allowed before anything is imported."""
        place = where(self.sources, path)
        if self.allowed is not None and name not in self.allowed:
            text = f" → {name}: not in the list of names that a config from elsewhere may use{place}"
            raise self.error(PermissionError, path, text)
        try:
            return locate(name)
        except ConfigError as error:
            raise self.error(error, path, f": {error}{place}") from error

    def call(self, node: Any, path: str, extra: dict[str, Any]) -> Any:
        try:
            given = {k: v for k, v in children(node, resolve=True) if k not in extra}
        except OmegaConfBaseException as error:
            raise self.unresolved(error, path) from error
        options = {k: extra.pop(k, None) if k in extra else given.pop(k, None) for k in OPTIONS}
        target = options["_target_"]
        name = describe(target)
        if isinstance(target, str) or self.allowed is not None:
            found = self.resolve(name if not isinstance(target, Mapping) else "a target that is itself a call", path)
            target = found if isinstance(target, str) else target
        elif isinstance(target, Mapping):
            target = self.build(target, join(path, "_target_"))
            name = describe(target)
        arguments = {
            k: self.build(v, join(path, k), options["_recursive_"] is not False) for k, v in given.items()
        } | extra
        if not callable(target):
            raise self.error(TypeError, path, f" → {name}: cannot be called{where(self.sources, path)}")
        for key, text in unexpected(target, list(arguments)):
            raise self.error(TypeError, path, f" → {name}: {text}{where(self.sources, join(path, key))}")
        try:
            return functools.partial(target, **arguments) if options["_partial_"] else target(**arguments)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise self.error(error, path, f" → {name} raised {cause}{where(self.sources, path)}") from error


def check(cfg: Any) -> list[str]:
    """What would go wrong when building ``cfg``, one line each, found without building anything.

    Every target and named object must import, every argument name must be taken by its target's signature, every
    interpolation must resolve and every ``???`` be filled in, in all nested places. Imports the targets' modules.
    """
    return list(_check(cfg, path_of(cfg), _Builder(None, sources_of(cfg))))


def _check(node: Any, path: str, builder: _Builder) -> Iterator[str]:
    for key, raw in children(node):
        child_path = join(path, key)
        if raw == MISSING and isinstance(raw, str):
            yield f"cfg.{child_path}: mandatory value (???) is not set{where(builder.sources, child_path)}"
            continue
        try:
            child = node[key]
        except OmegaConfBaseException as error:
            yield str(builder.unresolved(error, child_path))
            continue
        if isinstance(child, (Mapping, *SEQUENCES)):
            yield from _check(child, child_path, builder)
    if not is_call(node) or "_target_" not in node:
        names = [node["_object_"]] if is_call(node) else []
    else:
        names = [node["_target_"]]
    for target in names:
        try:
            target = builder.resolve(target, path) if isinstance(target, str) else target
        except ConfigError as error:
            yield str(error)
            continue
        if "_target_" in node and callable(target):
            keys = [k for k in node if k not in OPTIONS]
            for key, text in unexpected(target, keys):
                yield f"cfg.{path} → {describe(target)}: {text}{where(builder.sources, join(path, key))}"
