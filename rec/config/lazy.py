"""Config files: loading them in isolation, with relative imports by file location; saving them."""

import ast
import builtins
import difflib
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rec.config.errors import ConfigError, did_you_mean
from rec.config.nodes import CONFIGS, MODULE_MARK, SCALARS, set_sources, set_strict, to_config
from rec.config.overrides import apply_overrides
from rec.config.printing import to_py
from rec.config.yaml_io import safe_load_yaml, save_yaml

Sources = dict[str, str]


class LazyConfig:
    """Load, change, save and print lazy configs."""

    @staticmethod
    def load(path: str | Path, keys: str | tuple[str, ...] | None = None) -> Any:
        """Run a ``.py`` config, or read a ``.yaml`` one safely.

        Args:
            path: the file. Relative imports in it find other config files by location; no ``__init__.py`` is needed.
            keys: one name gives that value, a tuple of names a tuple of values; None gives a DictConfig of all groups
                (dicts, LazyCalls), and of the scalars and lists that the file itself assigns. Names with a leading ``_``
                are private.

        Raises:
            ConfigError: also of the original exception's type; names file and line and shows the cause.
        """
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            names: dict[str, Any] = safe_load_yaml(path)
            own, sources = set(names), dict.fromkeys(map(str, names), str(path))
        elif path.suffix == ".py":
            names, sources, own = _run(path.resolve(), ())
        else:
            raise ConfigError.like(ValueError, f"{path}: a config is a .py, .yaml or .yml file")
        if keys is not None:
            wanted = (keys,) if isinstance(keys, str) else tuple(keys)
            for key in wanted:
                if key not in names:
                    raise ConfigError.like(KeyError, f"{path} has no `{key}`{did_you_mean(key, names)}")
            values = tuple(_opened(names[key]) for key in wanted)
            return values[0] if isinstance(keys, str) else values
        if path.suffix == ".py":
            kept = (dict, *CONFIGS), (dict, *CONFIGS, *SCALARS, list, tuple)
            names = {k: v for k, v in names.items() if k[0] != "_" and isinstance(v, kept[k in own])}
        cfg = _opened(names)
        set_sources(cfg, sources)
        return cfg

    @staticmethod
    def load_rel(path: str | Path, keys: str | tuple[str, ...] | None = None) -> Any:
        """:meth:`load` with ``path`` relative to the file that calls it; in a config file the same as a relative import."""
        frame = sys._getframe(1)
        loaded = LazyConfig.load(Path(frame.f_code.co_filename).parent / path, keys)
        if MODULE_MARK in frame.f_globals:
            for value in loaded if isinstance(loaded, tuple) else (loaded,):
                set_strict(value, True)
        return loaded

    @staticmethod
    def save(cfg: Any, path: str | Path) -> None:
        """Write ``cfg`` as YAML for a safe loader: callables as dotted names, interpolations as written.

        What has no importable name (a lambda, a class defined in the config) is written readable, with a warning that
        names its keys.
        """
        save_yaml(cfg, path)

    apply_overrides = staticmethod(apply_overrides)
    to_py = staticmethod(to_py)


def _opened(value: Any) -> Any:
    """``value`` as the caller of ``load`` gets it: dicts as config nodes, open to Python code."""
    value = to_config(value) if type(value) is dict else value
    set_strict(value, False)
    return value


def _run(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Sources, set[str]]:
    """Execute a config file. Returns its globals, where each key was set, and the names it assigns itself."""
    if path in chain:
        circle = " → ".join(str(p) for p in (*chain[chain.index(path) :], path))
        raise ConfigError.like(ImportError, f"circular relative import: {circle}")
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, str(path))
        code = compile(tree, str(path), "exec")
    except FileNotFoundError as error:
        folder = path.parent
        near = difflib.get_close_matches(path.name, [p.name for p in folder.glob("*.py")] if folder.is_dir() else [])
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError.like(error, f"config {path} does not exist{hint}") from error
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise ConfigError.like(SyntaxError, f"{path}:{error.lineno}: {error.msg}: `{line}`") from error
    except (OSError, ValueError) as error:  # a folder, no permission, not UTF-8, null bytes
        raise ConfigError.like(error, f"config {path} cannot be read: {error}") from error
    imported: dict[tuple[int, str], Sources] = {}

    def import_hook(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module, imported[level, name] = _import_relative(path, (*chain, path), name, fromlist or (), level)
        return module

    # The file gets builtins of its own: relative imports work in it alone, and there is nothing to restore if it raises.
    space: dict[str, Any] = {
        "__builtins__": {**vars(builtins), "__import__": import_hook},
        "__name__": f"config_file_{path.stem}",
        "__file__": str(path),
        MODULE_MARK: True,
    }
    try:
        exec(code, space)
    except Exception as error:
        if isinstance(error, ConfigError) and str(error).startswith(("/", "circular")) and chain:
            raise
        raise _located(error, path) from error
    sources: Sources = {}
    own: set[str] = set()
    for statement in tree.body:
        _record(statement, str(path), imported, sources, own)
    return space, sources, own


def _located(error: Exception, path: Path) -> ConfigError:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    place = f"{path}:{lines[-1]}" if lines else str(path)
    if isinstance(error, ConfigError):
        return ConfigError.like(error, str(error) if str(error).startswith(place) else f"{place}: {error}")
    return ConfigError.like(error, f"{place}: {type(error).__name__}: {error}")


def _import_relative(
    path: Path, chain: tuple[Path, ...], name: str, fromlist: tuple[str, ...], level: int
) -> tuple[types.ModuleType, Sources]:
    folder = path.parents[level - 1]
    target = folder.joinpath(*name.split(".")) if name else folder
    written = "." * level + name
    file = target.with_name(target.name + ".py") if name else target
    if not name or (target.is_dir() and not file.exists()):
        raise ConfigError.like(
            ImportError,
            f"relative import of a directory, `from {written} import ...`: name the config file in it, {target}/<file>.py",
        )
    if not file.exists():
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.py")])
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError.like(ImportError, f"cannot import from `{written}`: {file} does not exist{hint}")
    names, sources, _ = _run(file, chain)
    public = [k for k in names if not k.startswith("_")]
    module = types.ModuleType(names["__name__"])
    for key in public if "*" in fromlist else fromlist:
        if key not in names:
            hint = did_you_mean(key, public)
            raise ConfigError.like(ImportError, f"cannot import name `{key}` from `{written}` ({file}){hint}")
        value = to_config(names[key]) if type(names[key]) is dict else names[key]
        if isinstance(value, CONFIGS):
            set_strict(value, True)
            value._metadata.rec_name = key
        setattr(module, key, value)
    return module, sources


def _record(node: ast.stmt, file: str, imported: dict, sources: Sources, own: set[str]) -> None:
    """Read off one statement which keys it sets on which line, and which top-level names it assigns."""
    if isinstance(node, ast.ImportFrom) and node.level:
        theirs: Sources = imported.get((node.level, node.module or ""), {})
        for alias in node.names:
            _move(theirs, alias.name, alias.asname or alias.name, sources)
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for single in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                if isinstance(single, ast.Name):
                    own.add(single.id)
                path = _path(single)
                if path and node.value is not None:
                    for old in [k for k in sources if k == path or k.startswith((path + ".", path + "["))]:
                        del sources[old]
                    _record_value(path, node.value, file, sources)
                    sources[path] = f"{file}:{node.lineno}"
    for body in ("body", "orelse", "handlers", "finalbody"):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            for inner in getattr(node, body, ()):
                _record(inner, file, imported, sources, own)


def _move(theirs: Sources, name: str, new_name: str, sources: Sources) -> None:
    for path, place in theirs.items():
        if name == "*":
            sources[path] = place
        elif path == name or path.startswith((name + ".", name + "[")):
            sources[new_name + path[len(name) :]] = place


def _path(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{base}.{node.attr}" if (base := _path(node.value)) else ""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        key = node.slice.value
        base = _path(node.value)
        return base and (f"{base}[{key}]" if isinstance(key, int) else f"{base}.{key}")
    return ""


def _record_value(path: str, value: ast.expr, file: str, sources: Sources) -> None:
    sources[path] = f"{file}:{value.lineno}"
    inner: list[tuple[str, ast.expr]] = []
    if isinstance(value, ast.Call):
        inner = [(f"{path}.{k.arg}", k.value) for k in value.keywords if k.arg]
    elif isinstance(value, ast.Dict):
        inner = [
            (f"{path}.{k.value}", v)
            for k, v in zip(value.keys, value.values, strict=True)
            if isinstance(k, ast.Constant)
        ]
    elif isinstance(value, ast.List | ast.Tuple):
        inner = [(f"{path}[{i}]", v) for i, v in enumerate(value.elts)]
    for child_path, child in inner:
        _record_value(child_path, child, file, sources)


def get_config(name: str) -> DictConfig:
    """A shipped config such as ``"common/train.py"``, from the installed package or the checkout.

    Raises:
        ConfigError: there is no such config; the nearest names are given.
    """
    package = Path(__file__).resolve().parents[1]
    root = package / "_configs" if (package / "_configs").is_dir() else package.parent / "configs"
    known = {p.relative_to(root).as_posix(): p for p in root.rglob("*.py") if p.name != "__init__.py"}
    if name not in known:
        raise ConfigError.like(FileNotFoundError, f"no shipped config `{name}` in {root}{did_you_mean(name, known)}")
    return LazyConfig.load(known[name])


def try_get_key(cfg: Any, *keys: str, default: Any = None) -> Any:
    """The value at the first of the dotted ``keys`` that exists in ``cfg``, or ``default``."""
    absent = object()
    for key in keys:
        value = OmegaConf.select(cfg, key, default=absent)
        if value is not absent:
            return value
    return default
