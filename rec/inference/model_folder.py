"""The old place of :mod:`rec.model_folder`."""

import warnings
from typing import Any

import rec.model_folder as _place


def __getattr__(name: str) -> Any:
    found = getattr(_place, name)
    if not name.startswith("__"):
        warnings.warn("rec.inference.model_folder is now rec.model_folder", DeprecationWarning, stacklevel=2)
    return found
