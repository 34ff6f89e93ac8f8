"""The old place of :mod:`rec.model_folder.hub`."""

import warnings
from typing import Any

import rec.model_folder.hub as _place


def __getattr__(name: str) -> Any:
    found = getattr(_place, name)
    if not name.startswith("__"):
        warnings.warn("rec.inference.hub is now rec.model_folder.hub", DeprecationWarning, stacklevel=2)
    return found
