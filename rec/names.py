"""Names that others hold: of what moved, and of arguments that are handed on."""

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Target = TypeVar("Target", bound=Callable[..., Any])


def moved(old: str, new: str, names: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module ``old`` of which everything, or ``names`` (old to new) alone, is now in ``new``.

    What is asked for by its old name is there, with a DeprecationWarning.
    """

    def find(name: str) -> Any:
        if names is not None and name not in names:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        now = name if names is None else names[name]
        found = getattr(importlib.import_module(new), now)
        if not name.startswith("__"):
            warnings.warn(f"{old}.{name} is now {new}.{now}", DeprecationWarning, stacklevel=2)
        return found

    return find


def hands_on(target: Target, to: Callable[..., Any] | None = None) -> Target:
    """Names in the signature of ``target`` what it hands on with ``**named`` (and ``*given``): configs are checked against it.

    Args:
        target: a class whose constructor hands on to that of its base class, or a function.
        to: what a function hands on to. Parameters of it without a default are given by ``target`` itself.
    """
    function: Any = vars(target)["__init__"] if isinstance(target, type) else target
    base: Any = target.__mro__[1] if isinstance(target, type) else to
    given = list(inspect.signature(function).parameters.values())
    own = [parameter for parameter in given if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)]
    by_keyword = not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in given)
    known = {parameter.name for parameter in own}
    handed = [
        p for p in inspect.signature(base).parameters.values() if p.name not in known and p.default is not p.empty
    ]
    handed = [p.replace(kind=p.KEYWORD_ONLY) if by_keyword else p for p in handed]
    function.__signature__ = inspect.Signature([*own, *handed])
    return target
