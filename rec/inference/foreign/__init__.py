"""Other people's grounding models behind the same door: ``transformers:<id or folder>`` and ``openai:<model>@<address>``.

One module for each way to reach them; each imports its library when it is used (extra ``zoo``). No remote code is ever run.
"""

from pathlib import Path
from typing import Any

from rec.errors import InputError
from rec.inference.grounder import Grounder

SCHEMES = ("transformers:", "openai:")


def is_foreign(source: str | Path) -> bool:
    """Whether :func:`open_foreign` opens it."""
    return str(source).startswith(SCHEMES)


def open_foreign(
    source: str, *, device: Any = "auto", dtype: Any = None, allow_urls: bool = False, **how: Any
) -> Grounder:
    """A Grounder on somebody else's model.

    Args:
        source: ``transformers:IDEA-Research/grounding-dino-tiny``, ``transformers:<folder>``, or
            ``openai:<model>@http://127.0.0.1:8000/v1`` for any server with the OpenAI chat interface.
        device, dtype, allow_urls: as of :func:`rec.from_pretrained`.
        how: ``coordinates``, ``box_format``, ``prompt``, ``max_tokens`` and, for a server, ``send_images``; see
            :mod:`rec.inference.foreign.families` and :class:`rec.inference.foreign.openai.Server`.

    Raises:
        InputError: no such model, no convention known for its family, or photographs would leave this machine unasked.
    """
    scheme, _, name = source.partition(":")
    if not name:
        raise InputError(f"{source} names no model; expected transformers:<id or folder> or openai:<model>@<address>")
    if scheme == "openai":
        from rec.inference.foreign.openai import Server

        return Server(name, allow_urls=allow_urls, **how)
    from rec.inference.foreign.local import open_local

    return open_local(name, device=device, dtype=dtype, allow_urls=allow_urls, **how)
