"""Names that a config must not use, handed in by whoever knows other tools (:func:`refuse`), each with what to write instead."""

import re
from collections.abc import Mapping
from typing import Any

REFUSED: dict[str, str] = {}
KNOWN: set[str] = set()  # dotted names that a group may be given although it lacks them, handed in too
# Special keys of hydra's calls and mmengine's files that would be data here.
SPECIAL = {
    "_args_": "`_args_` is hydra's: arguments are given by keyword",
    "_convert_": "`_convert_` is hydra's: leave it out, objects always receive native lists, tuples and dicts",
}
_TEMPLATE = re.compile(r"\{\{ *(?:_base_\.[\w.]+|file\w+|\$\w+(?::[^}]*)?) *\}\}")
TEMPLATE = (
    "is mmengine's: for another value write \"${key}\", or in a Python config Path(__file__).stem for the file's name and "
    "os.environ for the environment"
)


def refuse(names: Mapping[str, str]) -> None:
    """Adds dotted names of keys (``import x`` for modules, ``--x`` for options), each with whose it is and what to use instead."""
    REFUSED.update(names)


def canonical_name(path: str) -> str | None:
    """What to use instead of ``path`` if it, or a group it is in, is refused."""
    return next((text for name, text in REFUSED.items() if path == name or path.startswith(name + ".")), None)


def module_hint(name: str | None) -> str:
    """``"; what to write"`` where the module ``name`` is another tool's, or an empty string."""
    hint = REFUSED.get(f"import {str(name).partition('.')[0]}")
    return f"; {hint}" if hint else ""


def is_template(value: Any) -> bool:
    """True for a text with one of mmengine's ``{{fileBasename}}``, ``{{_base_.key}}``, ``{{$NAME:default}}`` in it."""
    return isinstance(value, str) and "{{" in value and bool(_TEMPLATE.search(value))


def refused_names(cfg: Mapping[str, Any]) -> list[str]:
    """A line for each refused name in ``cfg``, with what to use instead."""
    train = cfg.get("train")
    names = [*cfg, *(f"train.{key}" for key in train)] if isinstance(train, Mapping) else list(cfg)
    return [f"cfg.{name}: {REFUSED[name]}" for name in names if name in REFUSED]
