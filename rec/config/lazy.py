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
from rec.config.nodes import CONFIGS, SCALARS, join, set_strict, sources_of, to_config, under
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
        if path.suffix in (".yaml", ".yml"):
            names, sources = read_yaml(path)
        elif path.suffix == ".py":
            names, sources, own = _run(path.resolve())
            if keys is None:
                kept = (dict, *CONFIGS), (dict, *CONFIGS, *SCALARS, list, tuple)
                names = {k: v for k, v in names.items() if k[0] != "_" and isinstance(v, kept[k in own])}
        else:
            raise error_like(ValueError, f"{path}: a config is a .py, .yaml or .yml file")
        wanted = (keys,) if isinstance(keys, str) else keys or ()
        for key in wanted:
            if key not in names:
                raise error_like(KeyError, f"{path} has no `{key}`{did_you_mean(key, names)}")
        values = [to_config({k: v for k, v in names.items() if k in wanted} if wanted else names)]
        set_strict(values[0], False)
        sources_of(values[0]).update(sources)
        if keys is not None:
            values = [values[0][key] if isinstance(names[key], (dict, *CONFIGS)) else names[key] for key in wanted]
        return values[0] if keys is None or isinstance(keys, str) else tuple(values)

    @staticmethod
    def load_rel(path: str | Path, keys: str | tuple[str, ...] | None = None) -> Any:
        """:meth:`load`, ``path`` being relative to the calling file; in a config file the same as a relative import."""
        frame = sys._getframe(1)
        loaded = LazyConfig.load(Path(frame.f_code.co_filename).parent / path, keys)
        for value in (loaded if isinstance(loaded, tuple) else [loaded]) if _MARK in frame.f_globals else ():
            set_strict(value, True)
        return loaded


def _run(path: Path) -> tuple[dict[str, Any], dict[str, str], set[str]]:
    """Execute a config file. Returns its globals, the ``file:line`` that set each path, and the names it assigns."""
    if path in _loading.get():
        raise error_like(ImportError, f"circular relative import: {' → '.join(map(str, (*_loading.get(), path)))}")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        code = compile(tree, str(path), "exec")
    except SyntaxError as error:
        raise _located(error, f"{path}:{error.lineno}: {error.msg}: `{(error.text or '').strip()}`") from error
    except (OSError, ValueError) as error:
        text = f"does not exist{_neighbours(path)}" if not path.exists() else f"cannot be read: {error}"
        raise error_like(error, f"config {path} {text}") from error
    imported: dict[tuple[int, str], dict[str, str]] = {}

    def import_hook(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module, imported[level, name] = _import(path.parents[level - 1], "." * level + name, fromlist or ())
        return module

    # The file gets builtins of its own: relative imports work in it alone, and nothing has to be put back if it raises.
    space: dict[str, Any] = {"__name__": f"config_file_{path.stem}", "__file__": str(path), _MARK: True}
    space["__builtins__"] = {**vars(builtins), "__import__": import_hook}
    token = _loading.set((*_loading.get(), path))
    try:
        exec(code, space)
    except Exception as error:
        if getattr(error, "located", False):
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        text = error if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise _located(error, f"{path}:{lines[-1]}: {text}") from error
    finally:
        _loading.reset(token)
    return space, *_sources(tree, str(path), imported)


def _located(error: Exception, message: str) -> ConfigError:
    located = error_like(error, message)
    located.located = True
    return located


def _neighbours(path: Path) -> str:
    return did_you_mean(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else ""


def _import(folder: Path, written: str, fromlist: tuple[str, ...]) -> tuple[types.ModuleType, dict[str, str]]:
    """Run the file meant by ``from <written> import <fromlist>`` and hand over those names, groups as strict nodes."""
    target = folder.joinpath(*written.lstrip(".").split("."))
    file = target.with_name(f"{target.name}.py")
    if written.strip(".") == "" or (target.is_dir() and not file.exists()):
        text = f"relative import of a directory, `from {written} import ...`: import from a config file in it"
        raise error_like(ImportError, text)
    if not file.exists():
        raise error_like(ImportError, f"cannot import `{written}`: {file} does not exist{_neighbours(file)}")
    names, sources, _ = _run(file)
    public = names.get("__all__", [k for k in names if k[0] != "_"])
    module = types.ModuleType(names["__name__"])
    for key in public if "*" in fromlist else fromlist:
        if key not in names:
            raise error_like(ImportError, f"cannot import `{key}` from `{written}` ({file}){did_you_mean(key, public)}")
        value = to_config(names[key])
        if isinstance(value, CONFIGS):
            set_strict(value, True)
            value._metadata.__dict__["rec_name"] = key
        setattr(module, key, value)
    return module, sources


def _sources(tree: ast.Module, file: str, imported: dict) -> tuple[dict[str, str], set[str]]:
    """Read off the source which line sets which path, and which names the file assigns itself."""
    found: dict[str, str] = {}
    own: set[str] = set()
    kinds = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.ImportFrom)
    for node in sorted((n for n in ast.walk(tree) if isinstance(n, kinds)), key=lambda n: n.lineno):
        if isinstance(node, ast.ImportFrom):
            for path, place in imported.get((node.level, node.module or ""), {}).items():
                for alias in node.names:
                    if alias.name == "*" or under(path, alias.name):
                        found[path if alias.name == "*" else (alias.asname or alias.name) + path[len(alias.name) :]] = (
                            place
                        )
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for one in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                own.add(getattr(one, "id", ""))
                written = ast.unparse(one)
                found = {path: place for path, place in found.items() if not under(path, written)}
                _lines(written, node.value or one, file, found)
    return found, own


def _lines(path: str, value: ast.expr, file: str, found: dict[str, str]) -> None:
    found[path] = f"{file}:{value.lineno}"
    inner: list[tuple[Any, ast.expr]] = []
    if isinstance(value, ast.Call):
        inner = [(keyword.arg, keyword.value) for keyword in value.keywords if keyword.arg]
    elif isinstance(value, ast.Dict):
        inner = [(getattr(k, "value", None), v) for k, v in zip(value.keys, value.values, strict=True)]
    elif isinstance(value, ast.List | ast.Tuple):
        inner = list(enumerate(value.elts))
    for key, child in inner:
        _lines(join(path, key), child, file, found)


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
