"""Files of a published language model: of a local folder, or of a Hub repository when a run starts."""

import os
from pathlib import Path

from rec.errors import InputError
from rec.files import user_path

# What of transformers writes a file anew that a model has in an older format (pytorch_model.bin, vocab.txt).
_WRITERS = {"model.safetensors": "AutoModel", "tokenizer.json": "AutoTokenizer"}


def pretrained_file(name: str | os.PathLike[str], file: str, where: str) -> Path:
    """The path of ``file`` in the folder or the Hub repository ``name``; a folder of that name wins.

    Args:
        name: folder, or ``user/model`` with an optional ``@revision``.
        file: its name there, such as ``tokenizer.json``.
        where: the config path that asks for it, for messages.

    Raises:
        InputError: there is no such folder, repository or file, or the Hub cannot be reached.
    """
    folder = user_path(name)
    if folder.is_dir():
        if not (folder / file).is_file():
            raise _lacking(where, name, file, str(folder))
        return folder / file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
    )

    repository, _, revision = os.fspath(name).partition("@")
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except HFValidationError:
        raise InputError(f"{where}={os.fspath(name)!r} is neither a folder nor a Hub id such as user/model") from None
    except RemoteEntryNotFoundError:
        raise _lacking(where, name, file, "that repository on the Hub") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise InputError(
            f"{where}={os.fspath(name)!r} is not a folder, and its {file} cannot be fetched from the Hub: {reason}; check the "
            "name and the connection, or name a folder that holds the model"
        ) from error


def _lacking(where: str, name: str | os.PathLike[str], file: str, place: str) -> InputError:
    told = f"{where}={os.fspath(name)!r}: {place} has no {file}; expected a transformers model"
    if writer := _WRITERS.get(file):
        told += (
            f"; where that has an older format, {writer}.from_pretrained(…).save_pretrained(…) writes a folder to name"
        )
    return InputError(told)
