"""Referring expression comprehension: an image and a phrase in, the object's box (and mask) out.

``import rec`` is light; heavy packages load when something that needs them is used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "from_pretrained"]

if TYPE_CHECKING:
    from rec.inference import from_pretrained


def __getattr__(name: str) -> Any:
    if name == "from_pretrained":
        from rec.inference import from_pretrained

        return from_pretrained
    raise AttributeError(f"module 'rec' has no attribute {name!r}")
