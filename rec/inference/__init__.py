"""Use a trained model: model folders, ``from_pretrained``, hub, export. Heavy packages load when something is used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rec.inference.grounder import Grounder, Grounding
    from rec.inference.opening import from_pretrained

__all__ = ["Grounder", "Grounding", "from_pretrained"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from rec.inference import grounder, opening

        return getattr(opening if name == "from_pretrained" else grounder, name)
    raise AttributeError(f"module 'rec.inference' has no attribute {name!r}")
