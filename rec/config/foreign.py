"""Interpolations of a config that somebody else may have written: only paths into the config itself, within limits."""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from omegaconf import DictConfig

from rec.config.nodes import join, sources, to_node, walk
from rec.config.yaml_io import to_native
from rec.errors import UntrustedError
from rec.trust import MAX_CONFIG_BYTES, MAX_CONFIG_DEPTH, MAX_CONFIG_NODES

_STEPS = r"[\w+-]+(?:\.[\w+-]+|\[\w+\])*"
_REFERENCE = re.compile(rf"\$\{{(\.*)({_STEPS})\}}")


def without_interpolations(cfg: DictConfig) -> DictConfig:
    """``cfg`` with the value in place of each ``${key.path}``, so that what was checked is what is built.

    omegaconf answers more: ``${oc.env:HF_TOKEN}`` reads the environment, and a few lines that name each other twice grow
    to gigabytes. Here a path into the config itself is followed (``${.a}``, ``${..a}`` from where it stands, alone or in
    a text), and the result is held to the limits of a config.

    Raises:
        UntrustedError: another kind of interpolation, one that leads nowhere or to itself, or a result that is too large.
    """
    if not any(isinstance(value, str) and "${" in value for _, value in walk(cfg)):
        return cfg
    made = to_node(_Resolver(to_native(cfg, resolve=False)).resolved())
    sources(made).update(sources(cfg))
    return made


class _Resolver:
    """One walk over native containers, which counts what it makes."""

    def __init__(self, root: Any) -> None:
        self.root, self.nodes, self.characters = root, MAX_CONFIG_NODES, MAX_CONFIG_BYTES
        self.followed: list[tuple[Any, ...]] = []  # the places being resolved, outermost first

    def resolved(self) -> Any:
        return self._value(self.root, ())

    def _value(self, value: Any, place: tuple[Any, ...]) -> Any:
        self.nodes -= 1
        self.characters -= len(value) if isinstance(value, str) else 0
        if self.nodes < 0 or self.characters < 0:
            limits = f"{MAX_CONFIG_NODES:,} values and {MAX_CONFIG_BYTES:,} characters"
            self._refuse(place, f"its interpolations make more than {limits}")
        if isinstance(value, Mapping):
            return {key: self._value(inner, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._value(inner, (*place, number)) for number, inner in enumerate(value))
        if not isinstance(value, str) or "${" not in value:
            return value
        if whole := _REFERENCE.fullmatch(value):
            return self._follow(whole, place)
        text = _REFERENCE.sub(lambda found: self._text(found, place), value)
        if "${" in text or "\\${" in value:
            self._refuse(place, f"{value[:80]!r} is not a path into the config such as ${{train.epochs}}")
        return text

    def _text(self, found: re.Match[str], place: tuple[Any, ...]) -> str:
        value = self._follow(found, place)
        if isinstance(value, Mapping | list | tuple):
            self._refuse(place, f"{found[0]} is a group, which cannot stand in a text")
        return str(value)

    def _follow(self, found: re.Match[str], place: tuple[Any, ...]) -> Any:
        dots, steps = found[1], [step for step in re.split(r"[.\[\]]+", found[2]) if step]
        base = place[: len(place) - len(dots)] if dots else ()
        value, target = self.root, base
        if len(dots) > len(place):
            self._refuse(place, f"{found[0]} leads out of the config")
        for step in base:
            value = value[step]
        for step in steps:
            if isinstance(value, str) and (between := _REFERENCE.fullmatch(value)):
                value = self._follow(between, target)
            inner = dict(enumerate(value)) if isinstance(value, list | tuple) else value
            key = next((key for key in inner if str(key) == step), None) if isinstance(inner, Mapping) else None
            if key is None:
                self._refuse(place, f"{found[0]} leads nowhere")
            value, target = inner[key], (*target, key)
        if target in self.followed or len(self.followed) >= MAX_CONFIG_DEPTH:
            self._refuse(place, f"{found[0]} leads in a circle, or through more than {MAX_CONFIG_DEPTH} others")
        self.followed.append(target)
        result = self._value(value, target)
        self.followed.pop()
        return result

    def _refuse(self, place: tuple[Any, ...], why: str) -> NoReturn:
        path = ""
        for key in place:
            path = join(path, key)
        raise UntrustedError(f"cfg.{path}: {why}")
