"""``from_pretrained``: a model, ours or somebody else's, by name."""

from pathlib import Path
from typing import Any

import torch

from rec.cores import threads_after_fork
from rec.errors import InputError
from rec.inference.foreign import is_foreign, open_foreign
from rec.inference.grounder import Grounder
from rec.inference.inputs import no_texts, with_threshold
from rec.model_folder.find import find_folder
from rec.model_folder.format import WEIGHTS, ModelFolderError
from rec.model_folder.reader import read


def from_pretrained(
    source: str | Path,
    *,
    device: torch.device | str = "auto",
    dtype: torch.dtype | str | None = None,
    trust_config: bool = False,
    allow_urls: bool = False,
    compile: bool = False,
    threshold: float | None = None,
    **foreign: Any,
) -> Grounder:
    """A Grounder from a model folder, a run folder (its ``best/``) or a hub id ``user/name``; an existing folder wins over a hub
    id of the same name.

    ``transformers:<id or folder>`` and ``openai:<model>@<address>`` are other people's models, see
    :mod:`rec.inference.foreign`. Nothing in the folder is run (see :mod:`rec.model_folder.reader`).

    Args:
        source: Model folder, run folder, or hub id with an optional ``@revision``.
        device: ``"auto"`` takes CUDA, then MPS, then the CPU.
        dtype: ``torch.bfloat16`` or ``torch.float16`` run the network under autocast; None runs in float32.
        trust_config: Build any target the config names. It can then run any code: for folders of your own only.
        allow_urls: Fetch images given as http(s) addresses.
        compile: For services: on a GPU the network's work on arguments of each shape is recorded at their second call and
            replayed from then on; elsewhere it is compiled (``torch.compile``), and the first calls take minutes in all.
        threshold: Answer with every object of at least this score, and with nothing where there is none. By default that of
            the folder; a model whose folder has none always answers with one object.
        foreign: ``coordinates``, ``box_format``, ``prompt``, ``max_tokens``, ``send_images`` of a foreign model.

    Raises:
        InputError: a foreign model that cannot be reached so; or ``foreign`` for a model of ours; text for True or False.
        ModelFolderError: no such folder, or it is damaged or not to be trusted.
        rec.model_folder.hub.HubError: no such hub id, or the hub cannot be reached.
    """
    threads_after_fork()
    send = foreign.get("send_images")
    no_texts(trust_config=trust_config, allow_urls=allow_urls, compile=compile, send_images=send)
    if is_foreign(source):
        grounder = open_foreign(str(source), device=device, dtype=dtype, allow_urls=allow_urls, **foreign)
        grounder.answer = with_threshold(None, threshold)
        return grounder
    if foreign := {name: value for name, value in foreign.items() if value}:
        raise InputError(
            f"{', '.join(foreign)}: for models named transformers:… or openai:… only, and {source} is none"
        )
    folder = find_folder(source)
    model, config, vocabulary = read(folder, trust_config)
    if vocabulary is None:
        raise ModelFolderError(f"{folder} has no vocab.json, so phrases cannot be read")
    if config["preprocess"].get("max_token_length") is None:
        raise ModelFolderError(f"{folder} has no preprocess.max_token_length in its config, so phrases cannot be read")
    options: dict[str, Any] = {"allow_urls": allow_urls, "compile": compile, "threshold": threshold}
    grounder = Grounder(model, config, vocabulary, device=device, dtype=dtype, **options)
    grounder.weights = str(folder / WEIGHTS)
    return grounder
