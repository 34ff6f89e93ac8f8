"""A static web page that runs an exported model in the browser: page, model and onnxruntime-web in one folder.

::

    folder/
      index.html, page.js          the page; it loads nothing from elsewhere
      about.json                   words, sizes and origin: the metadata of the ONNX file
      model.onnx
      ort.wasm.bundle.min.mjs, ort-wasm-simd-threaded.wasm      of the npm package onnxruntime-web

Any web server that serves files will do; from the disk (``file://``) browsers load no models.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rec.errors import InputError, UntrustedError
from rec.files import whole_file, write_json
from rec.trust import MAX_CONFIG_BYTES, read_text, regular_file

RUNTIME = "1.30.0"  # of onnxruntime-web; another version has other files
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
MODEL, ABOUT = "model.onnx", "about.json"
_PAGE = Path(__file__).parent / "page"
_PAGE_FILES = ("page.js", "index.html")  # the page last: with it everything is there


def runtime_files(package: Path) -> list[Path]:
    """The files of onnxruntime-web that the page needs.

    Args:
        package: folder of the npm package, as ``npm install`` or ``npm pack`` and ``tar`` lay it.

    Raises:
        InputError: it is not there, or of another version.
    """
    get = f"npm install onnxruntime-web@{RUNTIME} puts it into node_modules/onnxruntime-web, which is where it is looked for"
    try:
        version = json.loads(read_text(package / "package.json", "package", MAX_CONFIG_BYTES)).get("version")
        files = [regular_file(package / "dist" / name, "browser runtime") for name in RUNTIME_FILES]
    except (OSError, ValueError, AttributeError, UntrustedError) as error:
        raise InputError(f"{package} is not the npm package onnxruntime-web ({error}); {get}") from None
    if version != RUNTIME:
        raise InputError(f"{package} is onnxruntime-web {str(version)[:40]}; the page runs with {RUNTIME}: {get}")
    return files


def check(tokenizer: str, dynamic_size: bool) -> None:
    """Whether the page can prepare what a model takes.

    Args:
        tokenizer: what its vocabulary says of it.
        dynamic_size: whether the side of the image is free.

    Raises:
        InputError: it cannot.
    """
    if tokenizer != "simrec":
        raise InputError(
            f"the model divides phrases with {tokenizer!r}; the page knows words as 'simrec' divides them only: export with "
            "--out and tokenize in your own program (docs/export.md)"
        )
    if dynamic_size:
        raise InputError("the page needs a model of fixed size: leave out --dynamic-size")


def outputs(folder: Path) -> list[Path]:
    """Every file of :func:`write`, the page itself last."""
    return [folder / name for name in (*RUNTIME_FILES, MODEL, ABOUT, *_PAGE_FILES)]


def write(folder: Path, model: Path, about: Mapping[str, Any], package: Path) -> None:
    """Puts everything into ``folder``, each file whole, the page last.

    Args:
        folder: made if absent; other files in it stay.
        model: ONNX file, of which ``about`` is the metadata.
        package: as of :func:`runtime_files`.

    Raises:
        InputError: as :func:`check` and :func:`runtime_files`.
    """
    check(about["tokenizer"], about["input_size"] is None)
    sources = {path.name: path for path in runtime_files(package)} | {MODEL: model}
    sources |= {name: _PAGE / name for name in _PAGE_FILES}
    for target in outputs(folder):
        if target.name == ABOUT:
            write_json(target, dict(about), indent=None)
            continue
        with whole_file(target) as temporary:
            shutil.copyfile(sources[target.name], temporary)
