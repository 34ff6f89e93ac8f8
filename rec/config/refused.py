"""Names that a config must not use, handed in by whoever knows other tools (:func:`refuse`), each with what to write instead."""

from collections.abc import Mapping
from typing import Any

REFUSED: dict[str, str] = {}


def refuse(names: Mapping[str, str]) -> None:
    """Adds dotted names of keys, each with a sentence on whose it is and what to use instead."""
    REFUSED.update(names)


def canonical_name(path: str) -> str | None:
    """What to use instead of ``path`` if it, or a group it is in, is refused."""
    return next((text for name, text in REFUSED.items() if path == name or path.startswith(name + ".")), None)


def refused_names(cfg: Mapping[str, Any]) -> list[str]:
    """A line for each refused name in ``cfg``, with what to use instead."""
    train = cfg.get("train")
    names = [*cfg, *(f"train.{key}" for key in train)] if isinstance(train, Mapping) else list(cfg)
    return [f"cfg.{name}: {REFUSED[name]}" for name in names if name in REFUSED]
