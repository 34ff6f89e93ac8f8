"""How promised names look: parameters of a callable, options of a script, keys of a config. They gave ``0.1/names.json``."""

import argparse
import inspect
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REQUIRED = "(required)"


def parameters(target: Callable[..., Any]) -> dict[str, list[Any]]:
    """Name to ``[how it is given, default]``, without ``self``.

    What a class hands on with ``**`` is looked up in the constructor of its base class, so that forwarding is no break.
    """
    found: dict[str, list[Any]] = {}
    constructors = (
        [kind.__init__ for kind in target.__mro__ if "__init__" in vars(kind)] if inspect.isclass(target) else [target]
    )
    for constructor in constructors:
        given = list(inspect.signature(constructor).parameters.values())
        kinds = {parameter.kind for parameter in given}
        for parameter in given[inspect.isclass(target) :]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                how = "keyword" if parameter.kind is parameter.KEYWORD_ONLY else "any"
                found.setdefault(parameter.name, [how, plain(parameter.default)])
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                found.setdefault(parameter.name, ["position", plain(parameter.default)])
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def plain(value: Any) -> Any:
    """A default as JSON has it: tuples as lists, what is no plain value by its name."""
    if value is inspect.Parameter.empty:
        return REQUIRED
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", repr(value))


class _Caught(BaseException):
    """The parser of a script, at the moment it is asked to read the command line."""


def options(script: str) -> dict[str, dict[str, Any]]:
    """Options of a script in ``scripts/``, positional ones in their order, read off the parser that it builds; nothing is run."""

    def catch(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> Any:
        raise _Caught(parser)

    names = ("parse_args", "parse_known_args", "parse_intermixed_args", "parse_known_intermixed_args")
    kept = {name: getattr(argparse.ArgumentParser, name) for name in names}
    argv, path = sys.argv, list(sys.path)
    try:
        for name in names:
            setattr(argparse.ArgumentParser, name, catch)
        sys.argv = [script]
        sys.path.insert(0, str(ROOT / "scripts"))
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        raise AssertionError(f"scripts/{script} ended without reading its command line")
    except _Caught as caught:
        parser = caught.args[0]
    finally:
        sys.argv, sys.path[:] = argv, path
        for name, function in kept.items():
            setattr(argparse.ArgumentParser, name, function)
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        for name in action.option_strings or [f"({action.dest})"]:
            choices = None if action.choices is None else [plain(choice) for choice in action.choices]
            default = None if action.default is None else str(action.default).removeprefix(f"{ROOT}/")
            found[name] = {"takes": action.nargs, "choices": choices, "default": default, "required": action.required}
    return found


def keys(config: Any, path: str = "") -> dict[str, Any]:
    """``{"train.ema.alpha": 0.9997}``: every key of a native config; lists are one value."""
    if isinstance(config, Mapping) and config:
        return {
            inner: value
            for key, item in config.items()
            for inner, value in keys(item, f"{path}.{key}".strip(".")).items()
        }
    return {path: plain(config)}
