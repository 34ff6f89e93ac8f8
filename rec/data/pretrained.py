"""Files of a published language model: of a local folder, or of a Hub repository when a run starts."""

import os
from pathlib import Path

from rec.errors import InputError
from rec.files import user_path

# What of transformers writes a file anew that older models have in another format, such as pytorch_model.bin or vocab.txt.
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
            writer = _WRITERS.get(file)
            older = (
                f"; {writer}.from_pretrained(…).save_pretrained(…) writes it where the model has an older format"
                if writer
                else ""
            )
            raise InputError(
                f"{where}={os.fspath(name)!r}: {folder} has no {file}; expected the folder of a transformers model{older}"
            )
        return folder / file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = os.fspath(name).partition("@")
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except HFValidationError:
        raise InputError(f"{where}={os.fspath(name)!r} is neither a folder nor a Hub id such as user/model") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{where}={os.fspath(name)!r} is no folder, and its {file} cannot be fetched from the Hub: {reason}; check the "
            "name and the connection, or name a folder that holds the model"
        ) from error
