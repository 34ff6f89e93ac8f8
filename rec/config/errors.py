"""The one exception of the config system, and the nearest-name hints in its messages."""

import difflib
from collections.abc import Iterable
from functools import cache
from typing import Any


class ConfigError(Exception):
    """A config that cannot be loaded, changed, saved or built. The message is one paragraph for the person who wrote it.

    Raised errors are also of the Python type that fits (``KeyError`` for an unknown key, ``ImportError`` for a relative
    import, the original exception's type where a config file or a target raised), so ``except KeyError`` keeps working.
    """

    def __init__(self, message: str):
        Exception.__init__(self, message)
        self.message = message

    def __str__(self) -> str:  # KeyError would show the repr, OSError its errno
        return self.message

    @classmethod
    def like(cls, kind: type[BaseException] | BaseException, message: str) -> "ConfigError":
        """A ``ConfigError`` that is also a ``kind`` (a type or an exception whose type is taken)."""
        kind = kind if isinstance(kind, type) else type(kind)
        return (cls if issubclass(cls, kind) else _both(cls, kind))(message)


@cache
def _both(cls: type[ConfigError], kind: type[BaseException]) -> Any:
    try:
        both = kind if issubclass(kind, cls) else type(f"{cls.__name__}_{kind.__name__}", (cls, kind), {})
        both("")
        return both
    except TypeError:  # a type that cannot be a base, or whose __new__ wants arguments
        return cls


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """``"; did you mean `a` or `b`?"`` with the known names nearest to ``name``, or an empty string."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(f'`{k}`' for k in near)}?" if near else ""
