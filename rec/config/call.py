"""LazyCall describes a call, ``instantiate`` makes it, ``check`` says what would go wrong without making it."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import MISSING, DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from rec.config import nodes
from rec.config.errors import ConfigError, did_you_mean, error_like
from rec.config.nodes import is_call, join
from rec.config.refused import SPECIAL, TEMPLATE, is_template, module_hint, refused_names


class LazyCall:
    """``LazyCall(target)(**arguments)``: a node that describes a call of a callable, a dotted name or a LazyCall."""

    def __init__(self, target: Callable | str | Mapping):
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"LazyCall needs a callable, a dotted name or another LazyCall, not {target!r}")
        self._target = target

    def __call__(self, /, *unnamed: Any, **arguments: Any) -> DictConfig:
        if unnamed:
            raise TypeError(
                f"{self} takes its arguments by keyword, name=value, not as {repr(unnamed[0])[:60]}; what has no name, as in "
                "nn.Sequential, goes through a function of your own that takes a list"
            )
        return nodes.to_node({"_target_": self._target, **arguments})

    def __repr__(self) -> str:
        return f"LazyCall({(callable(self._target) and object_name(self._target)) or self._target})"


def locate(name: str) -> Any:
    """The object with the dotted ``name``, its module imported. Raises ConfigError with the cause if there is none."""
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:split])
        try:
            return functools.reduce(getattr, parts[split:], importlib.import_module(module))
        except Exception as error:
            missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
            if not missing or split == 1:  # else the last part may be a class in the module before it
                hint = did_you_mean(error.name, dir(error.obj)) if isinstance(error, AttributeError) else ""
                text = f"`{name}` cannot be imported: {type(error).__name__}: {error}{hint or module_hint(name)}"
                raise error_like(error, text) from error
    raise error_like(ImportError, f"`{name}` is not a dotted name such as package.module.Class")


def object_name(value: Any) -> str | None:
    """The shortest dotted name that imports ``value`` (a class, function, enum member, dtype), or None."""
    module, _, tail = str(value).rpartition(".")  # torch.float16 and its like print as their own name
    if isinstance(value, Enum):
        module, tail = type(value).__module__, f"{type(value).__qualname__}.{value.name}"
    elif hasattr(value, "__qualname__"):
        module, tail = value.__module__ or "builtins", value.__qualname__
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        found: Any = sys.modules.get(".".join(parts[:end]))
        found = functools.reduce(lambda inside, part: getattr(inside, part, None), tail.split("."), found)
        if found is value or (inspect.ismethod(found) and found == value):
            return ".".join([*parts[:end], tail])
    return None


def parameters(target: Callable) -> dict[str, inspect.Parameter] | None:
    """The parameters that ``target`` takes by keyword, or None where it takes any name or has no signature."""
    try:
        found = inspect.signature(target).parameters.values()
    except (ValueError, TypeError):
        return None
    by_keyword = {p.name: p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return None if any(p.kind is p.VAR_KEYWORD for p in found) else by_keyword


def unexpected(target: Any, names: list[str]) -> Iterator[tuple[str, str]]:
    """Each of ``names`` that ``target`` does not take, with what to say about it."""
    takes = parameters(target) if callable(target) else None
    for name in names:
        if takes is not None and name not in takes:
            known = f"it takes {', '.join(takes) or 'none'}"
            yield name, f"unexpected argument '{name}'; {known}{did_you_mean(name, takes)}"


def fits(value: object, annotation: Any) -> bool:
    """False where a parameter's annotation tells that it does not take what a config says: a group where no kind of it is a
    mapping; text or a list for a number, or for True and False (where "no" would count as yes); either, or a number, for a module.
    """
    if not isinstance(value, (int, float, str, *nodes.CONTAINERS)) or is_call(value) or value == MISSING:
        return True
    module = getattr(sys.modules.get("torch.nn"), "Module", ())
    union = isinstance(annotation, UnionType) or get_origin(annotation) is Union
    for kind in get_args(annotation) if union else (annotation,):
        origin = get_origin(kind) or kind
        if not isinstance(origin, type) or origin in (Any, object, inspect.Parameter.empty):
            return True
        is_number = origin in (int, float, bool)
        if is_number and isinstance(value, int | float):
            return True
        known = is_number or origin is NoneType or issubclass(origin, module)
        if not known and not (isinstance(value, Mapping) and not _takes_dict(origin)):
            return True
    return False


def _takes_dict(kind: type) -> bool:
    try:
        return issubclass(dict, kind)
    except TypeError:  # a TypedDict, or a protocol that is not checked while running
        return True


def instantiate(cfg: Any, /, _allowed_: Container[str] | None = None, **extra: Any) -> Any:
    """Build what ``cfg`` describes, from the inside out.

    Mappings with ``_target_`` become the target's result; other mappings, lists and tuples native ones of built values.
    Any other object, and a native container with nothing to build in it, is returned itself. ``_partial_=True`` in a
    call gives ``functools.partial``; ``_recursive_=False`` hands nested calls over unbuilt. Raises ConfigError with
    config path, target, file:line where known and cause, which is also of the cause's type.

    Args:
        cfg: a config node, a container of nodes, or any object.
        _allowed_: the exact dotted names that may be used, for a config that came from elsewhere; None allows all.
        **extra: more arguments of the outermost call, passed as they are; they win over the config's.
    """
    builder = Builder(cfg, _allowed_)
    if extra and not is_call(cfg):
        builder.fail(TypeError, builder.root, f": arguments {', '.join(extra)} were given, but this is not a LazyCall")
    return builder.call(cfg, builder.root, extra) if extra else builder.build(cfg, builder.root)


def check(cfg: Any, later: Container[str] | None = None) -> list[str]:
    """What would go wrong when building ``cfg``, one line each, found without building anything.

    In all nested places, targets must import and take their arguments, interpolations must resolve, and ``???`` must be
    filled in; names must be canonical. Imports the targets' modules.

    Args:
        cfg: a config node.
        later: paths such as ``cfg.optim.params`` of arguments that are added when it is built; where it is given, other
            arguments that a target must have are missed.
    """
    problems: list[str] = []
    builder = Builder(cfg, None, problems, later)
    if isinstance(cfg, Mapping) and builder.root == "cfg":  # of a part, other names would be meant
        problems += refused_names(cfg)
    builder.build(cfg, builder.root)
    return problems


class Builder:
    """The walk of :func:`instantiate`, and with a list of ``problems`` that of :func:`check`, which builds nothing."""

    def __init__(
        self,
        cfg: Any,
        allowed: Container[str] | None,
        problems: list[str] | None = None,
        later: Container[str] | None = None,
    ):
        self.allowed, self.problems, self.later = allowed, problems, later
        self.root, self.sources = "cfg", {}
        if isinstance(cfg, nodes.CONFIGS):
            self.root, self.sources = f"cfg.{cfg._get_full_key(None)}".strip("."), nodes.sources(cfg._get_root())

    def fail(self, kind: Any, path: str, text: str, key: str = "") -> None:
        place = (join(path, key) if key else path).removeprefix("cfg").strip(".")
        while place and place not in self.sources:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        message = f"{path}{text}{f' [{self.sources[place]}]' if place else ''}"
        if self.problems is None:
            raise error_like(kind, message) from (kind if isinstance(kind, Exception) else None)
        self.problems.append(message)

    def values(self, node: Any, path: str) -> Iterator[tuple[Any, Any]]:
        for key, value in nodes.children(node):
            special = isinstance(node, nodes.CONFIGS) and isinstance(value, str) and value != MISSING
            try:
                yield key, node[key] if special else value
            except OmegaConfBaseException as error:
                self.fail(error, join(path, key), f": {str(error).splitlines()[0]}")

    def build(self, value: Any, path: str, recursive: bool = True) -> Any:
        if is_call(value):
            return self.call(value, path, {}) if recursive or self.problems is not None else value
        if isinstance(value, str) and value == MISSING:
            self.fail(MissingMandatoryValue, path, ": mandatory value (???) is not set")
        if is_template(value):
            self.fail(ValueError, path, f": {value} {TEMPLATE}")
        if isinstance(value, LazyCall):
            self.fail(TypeError, path, f" is {value}, which is not called yet: add its arguments, or ()")
        if not isinstance(value, nodes.CONTAINERS):
            return value
        built = {k: self.build(v, join(path, k), recursive) for k, v in self.values(value, path)}
        if not isinstance(value, nodes.CONFIGS) and all(built.get(k) is v for k, v in nodes.children(value)):
            return value
        if isinstance(value, Mapping):
            return built
        return tuple(built.values()) if nodes.is_tuple(value) else list(built.values())

    def call(self, node: Any, path: str, extra: dict[str, Any]) -> Any:
        given = dict(self.values(node, path)) | extra
        target = given.pop("_object_" if "_object_" in node else "_target_", None)
        partial, recursive = given.pop("_partial_", False), given.pop("_recursive_", True)
        name = target if isinstance(target, str) else object_name(target) or repr(target)
        for key in SPECIAL.keys() & given.keys():
            self.fail(TypeError, path, f" → {name}: {SPECIAL[key]}", key)
            del given[key]
        # Before anything is imported or any argument built: a config from elsewhere must not get that far.
        if self.allowed is not None and name not in self.allowed:
            self.fail(PermissionError, path, f" → {name} is not on the list for configs from elsewhere", "_target_")
        try:
            target = locate(target) if isinstance(target, str) else self.build(target, join(path, "_target_"))
        except ConfigError as error:
            self.fail(error, path, f": {error}", "_target_")
            target = None
        if "_object_" in node:
            return target
        later, self.later = self.later, self.later if recursive and not partial else None
        arguments = {k: v if k in extra else self.build(v, join(path, k), recursive) for k, v in given.items()}
        later, self.later = self.later, later
        for key, text in unexpected(target, list(arguments)):
            self.fail(TypeError, path, f" → {name}: {text}", key)
        if self.problems is not None:
            takes = parameters(target) if later is not None and callable(target) else None
            for key, parameter in (takes or {}).items():
                value, missed = given.get(key), parameter.default is parameter.empty and key not in arguments
                if missed and join(path, key) not in (later or ()):
                    self.fail(TypeError, path, f" → {name}: missing argument '{key}'")
                # Others annotate less exactly: an int may take a list with them.
                is_exact = isinstance(value, Mapping) or name.partition(".")[0] in ("rec", "torch")
                if is_exact and not fits(value, parameter.annotation):
                    what = f"{repr(value)[:80]}; expected {inspect.formatannotation(parameter.annotation)}"
                    what = "a group without a target; write a LazyCall" if isinstance(value, Mapping) else what
                    self.fail(TypeError, path, f" → {name}: '{key}' is {what}", key)
            return None
        try:
            return functools.partial(target, **arguments) if partial else target(**arguments)
        except Exception as error:
            cause = error if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
            self.fail(error, path, f" → {name} raised {cause}")
