"""Referring expression comprehension: an image and a phrase in, the object's box (and mask) out.

``import rec`` is light; heavy packages load when something that needs them is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Grounder", "Grounding", "__version__", "from_pretrained"]

if TYPE_CHECKING:
    from rec.inference import Grounder, Grounding, from_pretrained

_ROOMS = (
    "boxes",
    "config",
    "contracts",
    "data",
    "errors",
    "evaluation",
    "inference",
    "model_folder",
    "models",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in ("Grounder", "Grounding", "from_pretrained"):
        return getattr(importlib.import_module("rec.inference"), name)
    if name in _ROOMS:
        return importlib.import_module(f"rec.{name}")
    raise AttributeError(f"module 'rec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS} - {"Any", "TYPE_CHECKING", "importlib"})
