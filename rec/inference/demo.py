"""A web page to try a model: pick or upload an image, type phrases, see boxes and masks. Needs the extra ``demo``."""

import atexit
import functools
import html
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rec.evaluation.pictures import colour
from rec.inference.grounder import Grounder, Grounding, draw
from rec.inference.inputs import to_pixels

MAX_UPLOAD = "15mb"
MAX_PIXELS = 25_000_000
MAX_PHRASES, MAX_LETTERS = 8, 300  # of one phrase
_STYLE = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important }
#results ul { list-style: none; padding: 0 } #results li { margin: .4em 0 }
#answer img, #picture img { object-fit: contain }
@media (max-width: 600px) { .gradio-container { padding: 8px !important } }
"""


def answer(grounder: Grounder, path: str | None, text: str) -> tuple[Any, str]:
    """What the page shows for an uploaded file and the phrases of a text, one a line.

    Returns:
        The marked picture, and the results as HTML.

    Raises:
        gradio.Error: with a message for the person at the page.
    """
    if len(text or "") > MAX_PHRASES * (MAX_LETTERS + 2):  # before anything is made of it
        raise gradio.Error(f"At most {MAX_PHRASES} phrases of {MAX_LETTERS} letters.", print_exception=False)
    phrases = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if path is None:
        raise gradio.Error("Pick or upload an image first.", print_exception=False)
    if not phrases:
        raise gradio.Error("Type what to look for, such as: the man on the left.", print_exception=False)
    if len(phrases) > MAX_PHRASES:
        raise gradio.Error(f"At most {MAX_PHRASES} phrases at a time.", print_exception=False)
    if max(map(len, phrases)) > MAX_LETTERS:
        raise gradio.Error(f"A phrase has at most {MAX_LETTERS} letters.", print_exception=False)
    started = time.perf_counter()
    try:
        pixels, warning = to_pixels(Path(path), max_pixels=MAX_PIXELS)
        found: list[Grounding] = grounder(pixels, phrases)
    except ValueError as error:
        raise gradio.Error(str(error).replace(path, "the file"), print_exception=False) from None
    seconds = time.perf_counter() - started
    items = "".join(_item(number, grounding) for number, grounding in enumerate(found))
    took = f"{seconds:.2f} s on {grounder.device}" + (f"; {html.escape(warning)}" if warning else "")
    return draw(found, with_label=False), f"<ul>{items}</ul><p>{took}</p>"


def _item(number: int, grounding: Grounding) -> str:
    told = [
        f"score {score:.3f}, box {', '.join(f'{value:.1f}' for value in box)}"
        for box, score in zip(grounding.boxes, grounding.scores, strict=True)
    ]
    if not grounding.found:
        told = ["<strong>nothing found</strong>: no object in this picture fits the phrase"]
    elif not told:
        told = [f"score {grounding.score:.3f}, no box"]
    elif len(told) > 1:
        told = [f"{len(told)} objects", *told]
    remark = f"<br><em>{html.escape(grounding.warning)}</em>" if grounding.warning else ""
    mark = f'<span style="color:rgb{colour(number)}">&#9632;</span>'
    return f"<li>{mark} <b>{html.escape(grounding.phrase)}</b><br>{'<br>'.join(told)}{remark}</li>"


def scene_examples(folder: Path, count: int = 6) -> list[list[str]]:
    """Files and phrases of a few shape scenes no model was trained on (seeds of the test split)."""
    from rec.data.scenes import generate_rows, split_seeds

    phrases: dict[str, list[str]] = {}
    for row in generate_rows(split_seeds("test")[0], count, size=256):
        path = folder / f"scene_{row['image_id']}.jpg"
        path.write_bytes(row["image"]["bytes"])
        phrases.setdefault(str(path), []).extend(row["sentences"])
    # The last example shows that several phrases can be asked at once.
    return [
        [path, "\n".join(asked) if number == count - 1 else asked[number % len(asked)]]
        for number, (path, asked) in enumerate(phrases.items())
    ]


def build(grounder: Grounder) -> gradio.Blocks:
    """The page for one model."""
    folder = temporary_folder()

    def run(path: str | None, text: str) -> tuple[Any, str]:
        return answer(grounder, path, text)

    with gradio.Blocks(title="Find what a phrase names", analytics_enabled=False) as page:
        gradio.Markdown(f"## Find what a phrase names\nThis model was {grounder.origin}.")
        with gradio.Row():
            with gradio.Column(min_width=300):
                image = gradio.Image(
                    label="Image", type="filepath", sources=["upload", "clipboard"], elem_id="picture", height=340
                )
                # Hands over the file as it is: reading it, and saying what is wrong with it, is ours.
                vars(image)["preprocess"] = lambda payload: None if payload is None else payload.path
                phrases = gradio.Textbox(
                    label="Phrases, one a line",
                    placeholder="the man on the left",
                    lines=2,
                    max_length=MAX_PHRASES * (MAX_LETTERS + 1),
                    elem_id="phrases",
                )
                button = gradio.Button("Find", variant="primary", elem_id="find")
            with gradio.Column(min_width=300):
                marked = gradio.Image(label="Answer", interactive=False, elem_id="answer", height=340)
                results = gradio.HTML(elem_id="results")
        outputs = [marked, results]
        gradio.Examples(scene_examples(folder), [image, phrases], outputs, run, run_on_click=True, cache_examples=False)
        button.click(run, [image, phrases], outputs)
        phrases.submit(run, [image, phrases], outputs)
    for block in page.blocks.values():  # any of them would fetch an address that it is sent in place of a file
        vars(block)["async_move_resource_to_block_cache"] = functools.partial(_uploaded, block)
    return page


async def _uploaded(block: Any, path: str | Path | None) -> str | None:
    if path is not None and "://" in str(path):
        raise gradio.Error("Upload the image itself; addresses are not fetched.", print_exception=False)
    return await type(block).async_move_resource_to_block_cache(block, path)


@functools.cache
def temporary_folder() -> Path:
    """The folder for uploads, examples and marked pictures of this process; removed when it ends, also by SIGTERM and
    Ctrl-C where :func:`rec.command_line.exit_with` runs it.
    """
    folder = Path(tempfile.mkdtemp(prefix="rec-demo-", dir=os.environ.get("GRADIO_TEMP_DIR")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


class HostGate:
    """ASGI middleware that answers requests for this page's own names only.

    A website can let its name point to this machine (DNS rebinding); the browser of somebody who visits it then sends the
    website's requests here. Their Host header still has the website's name.

    Args:
        app: what is behind the gate.
        names: hosts that are let in beside ``localhost`` and the address at which a connection arrives.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self.app = app
        self.names = {"localhost", "127.0.0.1", "::1", *map(host_of, names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_own(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            text = "This page is reached under another name. To let this one in: `rec demo --allow-host NAME`\n"
            await PlainTextResponse(text, 403)(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        asked = [host_of(value.decode("latin-1")) for name, value in scope["headers"] if name == b"host"]
        arrived = (scope.get("server") or ("",))[0]
        return len(asked) == 1 and asked[0] in self.names | {arrived}


def host_of(name: str) -> str:
    """``name[:port]`` or ``[address][:port]`` without its port, in small letters."""
    name = name.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def launch(
    grounder: Grounder,
    host: str = "127.0.0.1",
    port: int | None = None,
    allow_hosts: Iterable[str] = (),
    **options: Any,
) -> Any:
    """Serve the page; uploads above :data:`MAX_UPLOAD` are refused. Nothing is fetched from elsewhere.

    Args:
        grounder: the model.
        host: address to listen on.
        port: by default the first free one from 7860 on.
        allow_hosts: further names under which the page may be reached, see :class:`HostGate`.
        options: of ``gradio.Blocks.launch``.
    """
    return build(grounder).launch(
        server_name=host,
        server_port=port,
        share=False,
        max_file_size=MAX_UPLOAD,
        css=_STYLE,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        ssr_mode=False,
        app_kwargs={"middleware": [Middleware(HostGate, names=[host, *allow_hosts])]},
        **options,
    )
