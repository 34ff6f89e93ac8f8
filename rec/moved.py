"""Old names of what moved: they keep working, with a DeprecationWarning."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def moved(old: str, new: str, names: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module ``old`` of which everything, or ``names`` (old to new) alone, is now in ``new``."""

    def find(name: str) -> Any:
        if names is not None and name not in names:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        now = name if names is None else names[name]
        found = getattr(importlib.import_module(new), now)
        if not name.startswith("__"):
            warnings.warn(f"{old}.{name} is now {new}.{now}", DeprecationWarning, stacklevel=2)
        return found

    return find
