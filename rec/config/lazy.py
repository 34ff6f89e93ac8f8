"""Config files: loading them in isolation, with relative imports by file location; saving them."""

import ast
import builtins
import sys
import traceback
import types
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rec.config.errors import ConfigError, did_you_mean, error_like
from rec.config.nodes import CONFIGS, SCALARS, children, join, notes, set_strict, to_config
from rec.config.overrides import apply_overrides
from rec.config.printing import to_py
from rec.config.yaml_io import read_yaml, save_yaml

_MARK = "__config_file__"  # the global that tells a config file's frame from other code
_loading: ContextVar[tuple[Path, ...]] = ContextVar("files being loaded, outermost first", default=())


class LazyConfig:
    """Load, change, save and print lazy configs."""

    apply_overrides, save, to_py = staticmethod(apply_overrides), staticmethod(save_yaml), staticmethod(to_py)

    @staticmethod
    def load(path: str | Path, keys: str | tuple[str, ...] | None = None) -> Any:
        """Run a ``.py`` config, or read a ``.yaml`` one safely. Every load is a fresh copy.

        Args:
            path: the file. Relative imports in it find other configs by location, without ``__init__.py``.
            keys: a name for its value, a tuple of names for a tuple of values; None for a DictConfig of all groups
                (dicts, LazyCalls) and of the scalars and lists that the file itself assigns, except ``_private`` ones.

        Raises:
            ConfigError: with file, line and cause; also of the original exception's type.
        """
        path = Path(path)
        if path.suffix not in (".py", ".yaml", ".yml"):
            raise error_like(ValueError, f"{path}: a config is a .py, .yaml or .yml file")
        names, sources = _run(path.resolve()) if path.suffix == ".py" else read_yaml(path)
        for key in (keys,) if isinstance(keys, str) else keys or ():
            if key not in names:
                raise error_like(KeyError, f"{path} has no `{key}`{did_you_mean(key, names)}")
        for value in names.values():
            set_strict(value, False)
        if keys is not None:
            return names[keys] if isinstance(keys, str) else tuple(names[key] for key in keys)
        if path.suffix == ".py":
            kept = CONFIGS, (*CONFIGS, *SCALARS, list, tuple)
            names = {k: v for k, v in names.items() if k[0] != "_" and isinstance(v, kept[k in sources])}
        cfg = to_config(names)
        for key, child in children(cfg):
            found = notes(child)["sources"] if isinstance(child, CONFIGS) else {}
            notes(cfg)["sources"] |= {key + inner: place for inner, place in found.items()}
        notes(cfg)["sources"] |= sources
        return cfg

    @staticmethod
    def load_rel(path: str | Path, keys: str | tuple[str, ...] | None = None) -> Any:
        """:meth:`load`, ``path`` being relative to the calling file; in a config file the same as a relative import."""
        frame = sys._getframe(1)
        loaded = LazyConfig.load(Path(frame.f_code.co_filename).parent / path, keys)
        for value in (loaded if isinstance(loaded, tuple) else [loaded]) if _MARK in frame.f_globals else ():
            set_strict(value, True)
        return loaded


def _run(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Execute a config file. Returns its globals, and the ``file:line`` of each path that it sets itself."""
    if path in _loading.get():
        raise error_like(ImportError, f"circular relative import: {' → '.join(map(str, (*_loading.get(), path)))}")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        code = compile(tree, str(path), "exec")
    except SyntaxError as error:
        raise _located(error, f"{path}:{error.lineno}: {error.msg}: `{(error.text or '').strip()}`") from error
    except (OSError, ValueError) as error:
        text = f"cannot be read: {error}" if path.exists() else f"does not exist{_neighbours(path)}"
        raise error_like(error, f"config {path} {text}") from error

    def import_hook(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist, level)
        return _import(path.parents[level - 1], "." * level + name, fromlist or ())

    # The file gets builtins of its own: relative imports work in it alone, and nothing has to be put back if it raises.
    space: dict[str, Any] = {"__name__": f"config_file_{path.stem}", "__file__": str(path), _MARK: True}
    space["__builtins__"] = {**vars(builtins), "__import__": import_hook}
    token = _loading.set((*_loading.get(), path))
    try:
        exec(code, space)
        names = {key: value if key[0] == "_" else to_config(value) for key, value in space.items()}
    except Exception as error:
        if getattr(error, "located", False):
            raise
        lines = [
            f":{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        text = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise _located(error, f"{path}{(lines or [''])[-1]}: {text}") from error
    finally:
        _loading.reset(token)
    sources = _sources(tree, str(path))
    for key, place in sources.items():
        top = key.partition(".")[0].partition("[")[0]
        if isinstance(names.get(top), CONFIGS):
            notes(names[top])["sources"][key[len(top) :]] = place
    return names, sources


def _located(error: Exception, message: str) -> ConfigError:
    located = error_like(error, message)
    located.located = True
    return located


def _neighbours(path: Path) -> str:
    return did_you_mean(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else ""


def _import(folder: Path, written: str, fromlist: tuple[str, ...]) -> types.ModuleType:
    """Run the file meant by ``from <written> import <fromlist>`` and hand over those names, groups as strict nodes."""
    target = folder.joinpath(*written.lstrip(".").split("."))
    file = target.with_name(f"{target.name}.py")
    if not written.strip(".") or (target.is_dir() and not file.exists()):
        text = f"relative import of a directory, `from {written} import ...`: import from a config file in it"
        raise error_like(ImportError, text)
    if not file.exists():
        raise error_like(ImportError, f"cannot import `{written}`: {file} does not exist{_neighbours(file)}")
    names, _ = _run(file)
    public = names.get("__all__", [k for k in names if k[0] != "_"])
    module = types.ModuleType(names["__name__"])
    for key in public if "*" in fromlist else fromlist:
        if key not in names:
            raise error_like(ImportError, f"cannot import `{key}` from `{written}` ({file}){did_you_mean(key, public)}")
        if isinstance(names[key], CONFIGS):
            set_strict(names[key], True)
            notes(names[key])["name"] = key
        setattr(module, key, names[key])
    return module


def _sources(tree: ast.Module, file: str) -> dict[str, str]:
    """Read off the source which line sets which path: assignments, and the arguments and items inside their values."""
    found: dict[str, str] = {}

    def record(path: str, value: ast.expr) -> None:
        found[path] = f"{file}:{value.lineno}"
        inner: list[tuple[Any, ast.expr]] = []
        if isinstance(value, ast.Call):
            inner = [(keyword.arg, keyword.value) for keyword in value.keywords]
        elif isinstance(value, ast.Dict):
            inner = [(getattr(k, "value", None), v) for k, v in zip(value.keys, value.values, strict=True)]
        elif isinstance(value, ast.List | ast.Tuple):
            inner = list(enumerate(value.elts))
        for key, child in inner:
            record(join(path, key), child)

    kinds = (ast.Assign, ast.AnnAssign, ast.AugAssign)
    for node in sorted((n for n in ast.walk(tree) if isinstance(n, kinds)), key=lambda n: n.lineno):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for one in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                record(ast.unparse(one), node.value or one)
    return found


def get_config(name: str) -> DictConfig:
    """A shipped config such as ``"common/train.py"``, from the installed package or the checkout."""
    package = Path(__file__).resolve().parents[1]
    root = package / "_configs" if (package / "_configs").is_dir() else package.parent / "configs"
    known = {p.relative_to(root).as_posix(): p for p in root.rglob("*.py") if p.name != "__init__.py"}
    if name not in known:
        raise error_like(FileNotFoundError, f"no shipped config `{name}` in {root}{did_you_mean(name, known)}")
    return LazyConfig.load(known[name])


def try_get_key(cfg: Any, *keys: str, default: Any = None) -> Any:
    """The value at the first of the dotted ``keys`` that exists in ``cfg``, or ``default``."""
    found = (OmegaConf.select(cfg, key, default=_MARK) for key in keys)
    return next((value for value in found if value is not _MARK), default)
