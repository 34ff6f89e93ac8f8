"""A web page to try a model: pick or upload an image, type phrases, see boxes and masks. Needs the extra ``demo``."""

import atexit
import functools
import html
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rec.data.scenes import generate_rows, split_seeds
from rec.errors import InputError
from rec.evaluation.pictures import shrunk
from rec.inference import answer_html
from rec.inference.grounder import Grounder, Grounding
from rec.inference.inputs import to_pixels

MAX_UPLOAD = 64 << 20  # bytes
MAX_PIXELS = 25_000_000  # a larger picture is scaled down to these
MAX_PHRASES, MAX_LETTERS, MAX_CANDIDATES = 8, 300, 10  # letters of one phrase
UNSURE = 0.5  # an answer of a lower score is called a guess, where the model has no threshold of its own
_EMPTY = '<div class="empty"><p>The answer appears here.</p></div>'
_STYLE = (
    answer_html.STYLE
    + """
.gradio-container { width: 100% !important; max-width: 1200px !important; margin: 0 auto !important;
  --stage: clamp(300px, 58vh, 520px); --muted: #52525b;
  --block-info-text-color: var(--muted); --input-placeholder-color: var(--muted) }
.dark .gradio-container, .dark.gradio-container { --muted: #b4b4bd }
#answer .html-container, #said .html-container, #complaints .html-container { padding: 0 }
#complaints:has(#complaint:empty) { display: none }
#picture { height: clamp(240px, 42vh, 380px) } #picture img { object-fit: contain }
#phrases textarea { height: 5.2em !important; overflow-y: auto !important }
#said { min-height: 2.4em } #said p, #complaint { margin: 0 }
#said .error, #complaint:not(:empty) { border: 2px solid #cf222e; border-left-width: 8px; border-radius: 6px; padding: .4em .7em }
#more h2 { font-size: 1.1em; margin: .4em 0 0 }
#examples { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px }
#examples button { flex-flow: column nowrap; justify-content: flex-start; min-width: 0; height: 138px; padding: 6px;
  overflow: hidden; font-weight: 400; font-size: 13px; line-height: 1.2; white-space: normal }
#examples img { width: auto; height: 68px; margin: 0 0 4px; border-radius: 4px; flex: none }
button:focus-visible, .gradio-container input:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px }
@media (max-width: 900px) { #examples { grid-template-columns: repeat(2, minmax(0, 1fr)) } }
@media (max-width: 700px) {
  .gradio-container { padding: 8px !important; --stage: 320px }
  #sides { flex-direction: column } #asking, #answering { display: contents } #answer { order: 1 } #more { order: 2 }
}
"""
)
_INTO_VIEW = """() => {
  if (innerWidth <= 700 && document.querySelector('#answer .answer')) document.getElementById('answer').scrollIntoView();
}"""
# What gradio shows for some seconds in a corner (too large an upload, a lost connection) stays in the page, until the next try.
_SCRIPT = """
() => {
  const complaint = document.getElementById('complaint');
  for (const id of ['said', 'complaint']) document.getElementById(id).setAttribute('aria-live', 'polite');
  new MutationObserver(() => document.querySelectorAll('.toast-body:not([data-told])').forEach((toast) => {
    toast.dataset.told = '';
    complaint.textContent = (toast.querySelector('.toast-text') || toast).innerText;
    (toast.querySelector('.toast-close') || toast).click();
  })).observe(document.body, {childList: true, subtree: true});
  for (const kind of ['click', 'change', 'keydown']) document.addEventListener(kind, (event) => {
    if (event.isTrusted) complaint.textContent = '';
  }, true);
}
"""


def answer(
    grounder: Grounder, path: str | None, text: str, top_k: int = 1, threshold: float | None = None
) -> tuple[str, str]:
    """What the page shows for an uploaded file and the phrases of a text, one a line.

    Args:
        grounder: the model.
        path: of the file.
        text: at most :data:`MAX_PHRASES` lines.
        top_k: how many boxes are shown of each phrase, those that are not an answer among them.
        threshold: as of :func:`rec.from_pretrained`, in place of the model's own.

    Returns:
        What came out in a line, and the answers, both as HTML.

    Raises:
        InputError: with a message for the person at the page.
    """
    if len(text or "") > MAX_PHRASES * (MAX_LETTERS + 2):  # before anything is made of it
        raise InputError(f"At most {MAX_PHRASES} phrases of {MAX_LETTERS} letters.")
    phrases = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if path is None:
        raise InputError("Pick or upload an image first.")
    if not phrases:
        raise InputError("Type what to look for, such as: the man on the left.")
    if len(phrases) > MAX_PHRASES:
        raise InputError(f"At most {MAX_PHRASES} phrases at a time.")
    if max(map(len, phrases)) > MAX_LETTERS:
        raise InputError(f"A phrase has at most {MAX_LETTERS} letters.")
    started = time.perf_counter()
    try:
        pixels, warning = to_pixels(Path(path))
        size = pixels.shape[0], pixels.shape[1]
        remarks = [warning] if warning else []
        if (scale := (MAX_PIXELS / (size[0] * size[1])) ** 0.5) < 1:
            pixels = shrunk(pixels, scale)
            remarks.append(f"{size[1]} x {size[0]} pixels were scaled down to {pixels.shape[1]} x {pixels.shape[0]}")
        found: list[Grounding] = grounder(
            pixels, phrases, top_k=top_k, threshold=threshold, keep_images=True, heat_maps=True
        )
    except ValueError as error:
        said = str(error).replace(f"the image {path}", path)
        raise InputError(said.replace(path, "the file")) from None
    drawn = not grounder.knows_shapes_only or Path(path).name.startswith("scene_")
    counts, shown = answer_html.answers_html(
        found, pixels, size, Path(path).name, grounder.origin, unsure=0 if grounder.answer or threshold is not None else UNSURE,
        guess="" if drawn else "the model has seen drawn shapes only",
    )  # fmt: skip
    took = f"{counts}, in {time.perf_counter() - started:.2f} s on {grounder.device}"
    return f"<p>{html.escape('; '.join([took, *remarks]))}</p>", shown


def photo_examples(folder: Path) -> list[list[str]]:
    """Files and phrases of the photographs in docs/photos; none where there is no clone."""
    photos = Path(__file__).parents[2] / "docs" / "photos"
    asked = {"coffee.jpg": "the cup", "chelsea.jpg": "the cat", "astronaut.jpg": "a woman\nan orange suit"}
    return [
        [shutil.copy(str(photos / name), str(folder / name)), text]
        for name, text in asked.items()
        if (photos / name).is_file()
    ]


def scene_examples(folder: Path, count: int = 6) -> list[list[str]]:
    """Files and phrases of a few shape scenes no model was trained on (seeds of the test split)."""
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
    own = grounder.answer

    def run(path: str | None, text: str, top_k: float = 1, threshold: float = 0) -> tuple[str, str]:
        try:
            # A threshold of 0 stands for none, where the model has none of its own.
            return answer(grounder, path, text, int(top_k), float(threshold) if own or threshold else None)
        except InputError as error:
            return f'<p class="error" role="alert"><b>Not answered.</b> {html.escape(str(error))}</p>', _EMPTY

    with gradio.Blocks(title="Find what a phrase names", analytics_enabled=False) as page:
        gradio.Markdown(f"# Find what a phrase names\nThis model was {grounder.origin}.")
        with gradio.Row(elem_id="sides"):
            with gradio.Column(min_width=300, elem_id="asking"):
                image = gradio.Image(
                    label="Image", type="filepath", sources=["upload", "clipboard"], elem_id="picture", buttons=[]
                )
                # Hands over the file as it is: reading it, and saying what is wrong with it, is ours.
                vars(image)["preprocess"] = lambda payload: None if payload is None else payload.path
                phrases = gradio.Textbox(
                    label="Phrases, one a line",
                    info="Enter finds; Shift + Enter starts a new line",
                    placeholder="the man on the left",
                    max_lines=MAX_PHRASES,
                    max_length=MAX_PHRASES * (MAX_LETTERS + 1),
                    elem_id="phrases",
                )
                button = gradio.Button("Find", variant="primary", elem_id="find")
                gradio.HTML('<div id="complaint" role="alert"></div>', elem_id="complaints")
                said = gradio.HTML(elem_id="said")
                with gradio.Column(elem_id="more"):
                    with gradio.Row(visible=grounder.gives_candidates):
                        top_k = gradio.Slider(1, MAX_CANDIDATES, 1, step=1, min_width=220, label="Boxes shown", elem_id="top-k",
                                              info="of each phrase, best first")  # fmt: skip
                        threshold = gradio.Slider(
                            0, 1, own.threshold if own else 0, step=0.01, min_width=220, label="Threshold", elem_id="threshold",
                            info="lower scores: nothing found" if own else "0: always one object",
                        )  # fmt: skip
                    offered = scene_examples(folder) if grounder.knows_shapes_only else photo_examples(folder)
                    gradio.Markdown("## Or try one of these", visible=bool(offered))
                    with gradio.Row(elem_id="examples"):
                        examples = [(gradio.Button(_short(text), icon=path), path, text) for path, text in offered]
            with gradio.Column(min_width=300, elem_id="answering"):
                answers = gradio.HTML(_EMPTY, elem_id="answer")
        asked, outputs = [image, phrases, top_k, threshold], [said, answers]
        runs = [button.click(run, asked, outputs), phrases.submit(run, asked, outputs)]
        for pressed, path, text in examples:
            filled = pressed.click(functools.partial(lambda *example: example, path, text), None, [image, phrases])
            runs.append(filled.then(run, asked, outputs))
        for done in runs:
            done.then(None, None, None, js=_INTO_VIEW)
        # What was found for something else does not stay beside what is asked now.
        gradio.on(
            [phrases.input, image.input, image.upload, image.clear, top_k.input, threshold.input],
            None, None, outputs, js=f"() => ['', {_EMPTY!r}]", cancels=runs,
        )  # fmt: skip
        page.load(None, js=_SCRIPT)
    for block in page.blocks.values():  # any of them would fetch an address that it is sent in place of a file
        vars(block)["async_move_resource_to_block_cache"] = functools.partial(_uploaded, block)
    return page


def _short(text: str) -> str:
    first, *others = text.splitlines()
    return f"{first} (and {len(others)} more)" if others else first


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
            with suppress(ClientDisconnect):  # an upload that was cut off: else a page of traceback in the terminal
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

    Raises:
        InputError: nothing can listen there.
    """
    page = build(grounder)
    try:
        return page.launch(
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
    except OSError:  # gradio's, which speaks of its own arguments
        raise InputError(
            f"the page cannot listen at {host}, port {port or '7860 to 7959'}: the port is taken or closed to you, or the address "
            "is none of this machine; choose another --port or --host"
        ) from None
