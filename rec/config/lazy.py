"""Config files: loading them in isolation, with relative imports by file location; saving them."""

import ast
import builtins
import sys
import tokenize
import traceback
import types
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError, OmegaConfBaseException

from rec.config.call import LazyCall
from rec.config.errors import ConfigError, did_you_mean, error_like
from rec.config.nodes import CONFIGS, SCALARS, join, merge, reads, set_strict, sources, to_node
from rec.config.overrides import apply_overrides
from rec.config.printing import to_py
from rec.config.refused import TEMPLATE, module_hint
from rec.config.yaml_io import safe_load_yaml, save_yaml
from rec.files import shipped, user_path
from rec.trust import weights_of_others

_MARK = "__config_file__"  # the global that tells a config file's frame from other code
_READS = "__read_names__"  # among what a config file leaves: the names that its code reads
_loading: ContextVar[tuple[Path, ...]] = ContextVar("files being loaded, outermost first", default=())


class LazyConfig:
    """Load, change, save and print lazy configs."""

    apply_overrides, save, to_py = staticmethod(apply_overrides), staticmethod(save_yaml), staticmethod(to_py)

    @staticmethod
    def load(path: str | Path, keys: str | tuple[str, ...] | None = None) -> Any:
        """Run a ``.py`` config, or read a ``.yaml`` one safely, into a fresh copy.

        Raises ConfigError with file, line and cause, which is also of the cause's type.

        Args:
            path: the file. Relative imports in it find other configs by location, without ``__init__.py``. One that is not
                there may be the name of a shipped config, with or without ``configs/``: ``"simrec_refcoco_scratch.py"``.
            keys: a name for its value, a tuple of names for a tuple of values; None for a DictConfig of all groups
                (dicts, LazyCalls) and of the scalars and lists that the file itself assigns, except ``_private`` ones.
        """
        path, places = _find(user_path(path)), dict[str, str]()
        if path.suffix not in (".py", ".yaml", ".yml"):
            raise error_like(ValueError, weights_of_others(path) or f"{path}: a config is a .py, .yaml or .yml file")
        names = found = _run(path.resolve(), places) if path.suffix == ".py" else safe_load_yaml(path, places)
        if path.suffix != ".py" and "_base_" in names:
            raise error_like(
                KeyError, f"{path}: `_base_` is mmengine's, and a .yaml config reads no other file: write a .py config"
            )
        for key in (keys,) if isinstance(keys, str) else keys or ():
            if key not in names:
                raise error_like(KeyError, f"{path} has no `{key}`{did_you_mean(key, names)}")
        set_strict(names, False)
        if keys is not None:
            return names[keys] if isinstance(keys, str) else tuple(names[key] for key in keys)
        if path.suffix == ".py":
            own = (*CONFIGS, *SCALARS, list, tuple)
            # A LazyCall that nothing in the file goes on to call was meant as a call: a check says so.
            left = {k for k, v in names.items() if isinstance(v, LazyCall) and k in places} - found[_READS]
            names = {
                k: v
                for k, v in names.items()
                if k[0] != "_" and (isinstance(v, own if k in places else CONFIGS) or k in left)
            }
        try:
            cfg = to_node(names, own=True)
        except OmegaConfBaseException as error:
            raise error_like(ValueError, f"{path}: a broken interpolation: {error}") from error
        except NameError as error:
            text = f"in a dataclass's annotation, {str(error).splitlines()[0]}"
            raise error_like(error, f"{path}: {text}") from error
        for key, value in names.items():
            if isinstance(value, CONFIGS):
                places.update((key + inner, place) for inner, place in sources(value).items())
        sources(cfg).update(places)
        reads(cfg).update(found.get(_READS, ()))
        return cfg

    @staticmethod
    def load_rel(path: str | Path, keys: str | tuple[str, ...] | None = None) -> Any:
        """:meth:`load`, ``path`` being relative to the calling file; in a config file the same as a relative import."""
        frame = sys._getframe(1)
        return _for(frame, LazyConfig.load(Path(frame.f_code.co_filename).parent / path, keys))


def _for(frame: types.FrameType, loaded: Any) -> Any:
    """``loaded`` as the code of ``frame`` gets it: strict in a config file."""
    if _MARK in frame.f_globals:
        set_strict(loaded, True)
    return loaded


def _shipped() -> dict[str, Path]:
    """Name to file of every config that comes with the project, such as ``"common/train.py"``."""
    root = shipped("configs")
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}


def _find(path: Path) -> Path:
    """``path`` itself where there is such a file, else the shipped config of that name."""
    name = path.as_posix().removeprefix("configs/")
    return path if path.is_file() or path.is_absolute() else _shipped().get(name, path)


def _run(path: Path, places: dict[str, str]) -> dict[str, Any]:
    """Execute a config file. Returns its globals, and adds the ``file:line`` of each path it sets to ``places``."""
    if path in _loading.get():
        raise error_like(ImportError, f"circular relative import: {' → '.join(map(str, (*_loading.get(), path)))}")
    if not path.is_file():
        known = _shipped() if not _loading.get() else {}
        near = did_you_mean(path.name, {*(p.name for p in path.parent.glob("*.py")), *known})
        folder = f"relative import of a directory, {path.with_suffix('')}: import from a config file in it"
        text = folder if path.with_suffix("").is_dir() else f"config {path} does not exist{near}"
        raise error_like(ImportError if _loading.get() else FileNotFoundError, text)

    def import_hook(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0:
            try:
                return builtins.__import__(name, globals, locals, fromlist, level)
            except ModuleNotFoundError as error:
                return _beside(path, name, fromlist, error)
        return _import(path.parents[level - 1].joinpath(*name.split(".")).with_suffix(".py"), fromlist)

    # The file gets builtins of its own: relative imports work in it alone, and nothing has to be put back if it raises.
    module = types.ModuleType(f"config_file_{path.stem}")
    space = vars(module)
    space |= {"__file__": str(path), _MARK: True, "__builtins__": {**vars(builtins), "__import__": import_hook}}
    token, source = _loading.set((*_loading.get(), path)), ""
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # where dataclasses look for what annotations that are text mean
    try:
        # As Python reads it: by a byte order mark or a line such as "# coding: latin-1".
        with tokenize.open(path) as file:
            source = file.read()
        tree = ast.parse(source, str(path))
        exec(compile(tree, str(path), "exec"), space)
        del space["__builtins__"]
        for kind in [v for v in space.values() if getattr(v, "__module__", "") == module.__name__ and is_dataclass(v)]:
            with suppress(Exception):  # annotations that are text mean nothing once the module is gone
                kind.__annotations__ = get_type_hints(kind, include_extras=True)
        names = _inherited(path, space["_base_"], places) if "_base_" in space else {}
        for key, value in space.items():
            if type(value) is dict and isinstance(names.get(key), DictConfig) and not value.get("_delete_"):
                merge(names[key], value)
            else:
                names[key] = to_node(value) if type(value) is dict and key[0] != "_" else value
    except Exception as error:
        if isinstance(error, ConfigError) and error.located:
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else (lines or [1])[-1]
        text = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        shown = "".join(source.splitlines()[(line or 1) - 1 : line])
        if isinstance(error, NameError | AttributeError) and "{{" in shown:
            text += f"; {{{{...}}}} {TEMPLATE}"
        raise error_like(error, f"{path}:{line}: {text}", located=True) from error
    finally:
        _loading.reset(token)
        sys.modules.pop(module.__name__, None)  # nobody else can import it; another thread may have been faster
        if before is not None and _loading.get():
            sys.modules[module.__name__] = before
    names[_READS] = {*_names_read(tree), *names.get(_READS, ())}
    for key, place in _places(tree, str(path)):
        places[key] = place
        top = key.partition(".")[0].partition("[")[0]
        if isinstance(names.get(top), CONFIGS):
            sources(names[top])[key[len(top) :]] = place
    return names


def _inherited(path: Path, bases: Any, places: dict[str, str]) -> dict[str, Any]:
    """mmengine's ``_base_``: the groups, scalars and lists of one or several files, which the file's own are merged into."""
    names: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        inner: dict[str, str] = {}
        for key, value in _run((path.parent / base).resolve(), inner).items():
            if key == _READS:
                names[key] = value | names.get(key, set())
            elif key[0] != "_" and isinstance(value, (*CONFIGS, *((*SCALARS, list, tuple) if key in inner else ()))):
                if key in names:
                    raise error_like(KeyError, f"duplicate key `{key}`: more than one file of _base_ has it")
                names[key] = _strict(key, value)
        places.update(inner)
    return names


def _strict(key: str, value: Any) -> Any:
    """What another config file's ``key`` is in one that imports it: a group is strict and tells its whole path in messages."""
    if isinstance(value, CONFIGS):
        set_strict(value, True)
        value._set_key(key)
    return value


def _beside(path: Path, name: str, fromlist: tuple[str, ...] | None, error: ModuleNotFoundError) -> types.ModuleType:
    """What an absolute import that Python cannot satisfy gives a config file: the file of that name beside it or in a folder
    above, as if it were run in that folder; else the error, with what to write where another tool's module is meant."""
    files = [folder.joinpath(*name.split(".")).with_suffix(".py") for folder in path.parents[:3]]
    file = next((file for file in files if file.is_file()), None)
    if file is not None and f"{name}.".startswith(f"{error.name}."):
        module = _import(file, fromlist)
        for part in reversed(name.split(".")[1:] if not fromlist else []):  # `import a.b` gives a, and in it b
            outer = types.ModuleType(part)
            setattr(outer, part, module)
            module = outer
        return module
    if hint := module_hint(error.name):
        raise error_like(error, f"{error}{hint}") from error
    raise error


def _import(file: Path, fromlist: tuple[str, ...] | None) -> types.ModuleType:
    """What an import of ``fromlist`` (None: of the file itself) from ``file`` gives another config file: groups as strict nodes."""
    names = _run(file, {})
    module = types.ModuleType(names["__name__"])
    public = names.get("__all__", [key for key in names if key[0] != "_"])
    for key in names if not fromlist else public if "*" in fromlist else fromlist:
        if key not in names:
            raise error_like(ImportError, f"cannot import `{key}`: {file} has no such name{did_you_mean(key, public)}")
        setattr(module, key, _strict(key, names[key]))
    return module


def _places(tree: ast.AST, file: str) -> Iterator[tuple[str, str]]:
    """Read off the source which line sets which path: assignments, and the arguments and items in their values."""

    def inside(path: str, value: ast.expr) -> Iterator[tuple[str, str]]:
        yield path, f"{file}:{value.lineno}"
        inner: Any = enumerate(getattr(value, "elts", ()))
        if isinstance(value, ast.Call):
            inner = ((keyword.arg, keyword.value) for keyword in value.keywords)
        elif isinstance(value, ast.Dict):
            inner = zip((getattr(key, "value", None) for key in value.keys), value.values, strict=True)
        for key, child in inner:
            yield from inside(join(path, key), child)

    assignments = [n for n in ast.walk(tree) if isinstance(n, ast.Assign | ast.AnnAssign | ast.AugAssign)]
    for node in sorted(assignments, key=lambda n: n.lineno):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for one in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                yield from inside(ast.unparse(one), node.value or one)


def _names_read(tree: ast.AST) -> Iterator[str]:
    """Names whose value the code uses: in ``trian.epochs = 3``, ``trian`` is not read."""
    written = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and node in written:
            written.add(node.value)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node not in written:
            yield node.id


def get_config(name: str) -> DictConfig:
    """A shipped config such as ``"common/train.py"``, from the installed package or the checkout."""
    known = _shipped()
    if name not in known:
        raise error_like(
            FileNotFoundError, f"no shipped config `{name}` in {shipped('configs')}{did_you_mean(name, known)}"
        )
    return _for(sys._getframe(1), LazyConfig.load(known[name]))


def try_get_key(cfg: Any, *keys: str, default: Any = None) -> Any:
    """The value at the first of the dotted ``keys`` that exists in ``cfg``, or ``default``."""
    for key in keys:
        with suppress(ConfigTypeError):  # the name of a key where a list stands
            if (value := OmegaConf.select(cfg, key, default=_MARK)) is not _MARK:
                return value
    return default
