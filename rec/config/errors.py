"""The exception of the config system, and the nearest-name hints in its messages."""

import difflib
from collections.abc import Iterable

from rec.errors import RecError


class ConfigError(RecError):
    """A config that cannot be loaded, changed, saved or built; the message is one paragraph for whoever wrote it.

    What is raised is also of the fitting Python type (``KeyError`` for an unknown key, the original exception's type
    where a config file or a target raised), so that ``except KeyError`` works.
    """

    def __init__(self, message: str, located: bool = False):
        Exception.__init__(self, message)  # not super(): UnicodeError and others want more arguments
        self.located = located  # the message starts with the file and line of a config

    def __str__(self) -> str:  # KeyError would show the repr, OSError its errno
        return str(self.args[0])


def error_like(kind: type | BaseException, message: str, located: bool = False) -> ConfigError:
    """A ``ConfigError`` that is also a ``kind``: a type, or an exception whose type is taken."""
    kind = kind if isinstance(kind, type) else type(kind)
    bases = (kind,) if issubclass(kind, ConfigError) else (ConfigError, kind)
    try:
        return type(f"Config{kind.__name__.removeprefix('Config')}", bases, {})(message, located)
    except TypeError:  # a type that cannot be a base, or that wants other arguments
        return ConfigError(message, located)


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """``"; did you mean `a` or `b`?"`` with the known names nearest to ``name``, or an empty string."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(f'`{k}`' for k in near)}?" if near else ""
