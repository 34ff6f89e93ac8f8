"""The promises of other tools' manuals, each with the test that shows it kept, or the deliberate difference it met.

A case names its sentence of the manual. ``differs`` is a row of the table of deliberate differences in docs/coming_from.md.
"""

import functools
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rec.config import ConfigError, LazyConfig

ROOT = Path(__file__).parents[2]
# What every config of a run starts from here.
BASE = """
from rec.config import LazyCall, get_config
_base = get_config("simrec_small_scenes_quickstart.py")
model, dataset, optim, train = _base.model, _base.dataset, _base.optim, _base.train
"""


@dataclass(frozen=True)
class Promise:
    manual: str
    sentence: str
    shown: Callable[["Place"], None]
    differs: str = ""


PROMISES: list[Promise] = []


def book(manual: str) -> Callable[..., Callable]:
    """``@promise("sentence")`` above a test of one place; ``promise("sentence", "difference")`` for one that is not kept."""

    def promise(sentence: str, differs: str = "") -> Callable:
        def add(shown: Callable) -> Callable:
            PROMISES.append(Promise(manual, sentence, shown, differs))
            return shown

        return add

    return promise


class Place:
    """A folder of its own for one case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, text: str, name: str = "config.py") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def load(self, text: str, *overrides: str, **others: str):
        """A config file loaded with overrides, ``others`` beside it (``__`` in a name is a folder)."""
        for name, other in others.items():
            self.file(other, f"{name.replace('__', '/')}.py")
        return LazyConfig.apply_overrides(LazyConfig.load(self.file(text)), overrides)

    def run(self, text: str, *overrides: str):
        """The checked config of a run: the small one with ``text`` behind it."""
        from rec.training.build import read_training_config

        return read_training_config(str(self.file(BASE + textwrap.dedent(text))), list(overrides))

    def refused(self, text: str, *overrides: str) -> str:
        """What the check says to such a run."""
        try:
            self.run(text, *overrides)
        except ConfigError as error:
            return str(error)
        raise AssertionError("it was taken")


def raised(kind: type[Exception], action: Callable, *arguments, **more) -> str:
    """The message of the exception that must come."""
    try:
        action(*arguments, **more)
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


@functools.cache
def load_all() -> list[Promise]:
    import cases_detectron2  # noqa: F401
    import cases_libai  # noqa: F401
    import cases_mmdetection  # noqa: F401
    import cases_mmengine  # noqa: F401
    import cases_simrec  # noqa: F401

    return PROMISES


def show(promise: Promise) -> None:
    """Runs one case in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        promise.shown(Place(Path(folder)))
