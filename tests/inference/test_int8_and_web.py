"""Int8 files answer as float32 ones do and say what they cost; the web page answers in a real Chromium as Python does."""

import functools
import http.server
import json
import runpy
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_toy import SIZE, VOCABULARY, folder_config, new_model
from PIL import Image

from rec import boxes, model_folder
from rec.data.images import decode_image, letterbox
from rec.data.loader import evaluation_loader
from rec.data.text import Vocabulary
from rec.errors import InputError
from rec.evaluation import evaluate
from rec.inference import export, web
from rec.inference.quantize import apart, fewest, samples
from rec.model_folder.find import find_trained
from rec.training.build import build_datasets, read_run_config

pytest.importorskip("onnxruntime", reason="the optional extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the optional extra 'export' is not installed")
ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "node_modules" / "onnxruntime-web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHRASE = "the red circle"


def rec_export(*words):
    """Runs the script in this process; the status, 0 or 2."""
    argv, sys.argv = sys.argv, ["export.py", *map(str, words)]
    try:
        runpy.run_path(str(ROOT / "scripts" / "export.py"), run_name="__main__")
    except SystemExit as ended:
        return ended.code or 0
    finally:
        sys.argv = argv


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder; a config of scenes; a package that looks like onnxruntime-web where there is no real one."""
    place = tmp_path_factory.mktemp("int8")
    weights, config = new_model().state_dict(), folder_config()
    weights["head.objectness.weight"] *= 100  # apart enough that rounding does not decide between two answers
    weights["head.box.bias"][2:] += 1.5  # large enough that they overlap, and vote
    config["model"].head.box_voting = 0.5
    model_folder.write(place / "best", weights, config, VOCABULARY)
    (place / "scenes.py").write_text(
        "from rec.config import LazyCall, get_config\nfrom rec.data.dataset import RefCOCODataSet\n"
        'dataset = LazyCall(RefCOCODataSet)(dataset="scenes", ann_path={"scenes": {"path": "scenes", "count": 12, "size": 64}}, '
        'input_shape=[32, 32], split="train")\ntrain = get_config("common/train.py").train\n',
        encoding="utf-8",
    )
    package = RUNTIME
    if not package.is_dir():
        package = place / "package"
        (package / "dist").mkdir(parents=True)
        (package / "package.json").write_text(json.dumps({"version": web.RUNTIME}), encoding="utf-8")
        for name in web.RUNTIME_FILES:
            (package / "dist" / name).write_bytes(b"")
    return place, package


@pytest.fixture(scope="module")
def made(place):
    """The folder of the page, with an int8 model in it, and what the script said."""
    folder, package = place
    words = ["--config", folder / "scenes.py", "--phrases", "20", "--runtime", package]
    status = rec_export(folder / "best", "--web", folder / "page", "--int8", "full", *words)
    assert status == 0
    return folder / "page"


@pytest.fixture(scope="module")
def datasets(place):
    trained = find_trained(place[0] / "best")
    cfg, vocabulary = read_run_config(trained, place[0] / "scenes.py")
    assert cfg.dataset.input_shape == [SIZE, SIZE] and cfg.dataset.max_token_length == 6, (
        "the model's, not the config's"
    )
    return build_datasets(cfg, ["train", "val"], vocabulary)


def test_an_int8_file_is_smaller_answers_as_float32_does_and_says_what_it_costs(made, place, datasets):
    run, about = export.load(made / "model.onnx")
    model, config, _ = model_folder.read(place[0] / "best")
    assert (made / "model.onnx").stat().st_size < 0.45 * sum(p.nbytes for p in model.parameters())
    said = about["int8"]
    assert said["kind"] == "full" and said["split"] == "val" and about["tokens"] == "int32"
    measured = said["measured"]
    assert set(measured) == {"float32", "int8 full", "PyTorch bf16"}
    assert all(row["milliseconds"] > 0 for row in measured.values())
    # What is measured of the float32 file is what the model itself reaches on these phrases.
    preprocess = config["preprocess"]
    loader = evaluation_loader(datasets["val"], 16)
    own = evaluate(model, loader, datasets["val"], limit=2, mean=preprocess["mean"], std=preprocess["std"])[0]
    assert own["count"] == measured["float32"]["count"] and own["mIoU"] == pytest.approx(
        measured["float32"]["mIoU"], abs=1e-4
    )
    # And on samples that decided nothing the answers are float32's.
    deployed = export.Deployed(model, config)
    feeds = samples(datasets["val"], 24)
    with torch.inference_mode():
        expected = [
            {k: v.numpy() for k, v in deployed(*(torch.from_numpy(feed[n]) for n in ("image", "tokens"))).items()}
            for feed in feeds
        ]
    assert apart(expected, [run(**feed) for feed in feeds]) < 0.05


def test_answers_apart_are_counted_by_boxes_or_by_masks():
    box = np.array([[0, 0, 10, 10.0], [0, 0, 10, 10]])
    assert apart([{"box": box}], [{"box": box + [[0, 0, 0, 0], [0, 0, 10, 0]]}]) == pytest.approx(0.25)
    mask = np.zeros((2, 1, 4, 4))
    mask[0, 0, 0] = 1
    assert apart([{"mask": mask}], [{"mask": mask[:, :, ::-1]}]) == pytest.approx(0.5), "one apart, one empty in both"


def test_as_few_parts_as_do_stay_in_float32_and_those_that_hurt_most():
    damage = {"trunk": 0.002, "fusion": 0.03, "words": 0.0, "head": 0.3, "neck": 0.006}
    said = []
    cost = lambda in_float: sum(value for part, value in damage.items() if part not in in_float)  # noqa: E731
    assert fewest(list(damage), cost, said.append) == ["head", "fusion"] and "head 0.3000, fusion 0.0300" in said[0]
    assert fewest(list(damage), lambda _: 1.0, said.append) == list(damage), "all, where fewer do not"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "m.onnx", "--int8"], "no run config beside it"),
        (["--out", "m.pt2", "--int8"], "--int8 makes .onnx files"),
        (["--web", "page", "--runtime", "."], "npm install onnxruntime-web@"),
        (["--web", "page", "--out", "m.onnx"], "not allowed with"),
        (["--web", "page", "--dynamic-size", "--runtime", "PACKAGE"], "of fixed size"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is(words, said, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert rec_export(place[0] / "best", *(place[1] if word == "PACKAGE" else word for word in words)) == 2
    assert said in " ".join(capsys.readouterr().err.split()) and not list(tmp_path.iterdir())


def test_a_page_is_refused_where_it_could_not_prepare_the_words(tmp_path):
    with pytest.raises(InputError, match=r"'file:tokenizer\.json'"):
        web.check("file:tokenizer.json", dynamic_size=False)
    (tmp_path / "package.json").write_text('{"version": "1.0.0"}', encoding="utf-8")
    (tmp_path / "dist").mkdir()
    for name in web.RUNTIME_FILES:
        (tmp_path / "dist" / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"is onnxruntime-web 1\.0\.0"):
        web.runtime_files(tmp_path)


# In a browser ----------------------------------------------------------------------------------------------------------


MASKS_ALONE = """
const answers = JSON.parse(process.argv[2]), parts = {};
globalThis.self = globalThis;
globalThis.document = { getElementById: (id) => parts[id] ??= { addEventListener() {} } };
globalThis.fetch = async () => ({ json: async () => ({ words: ["PAD", "UNK", "CLS", "dog"], max_token_length: 2, input_size: 8,
  mask_threshold: 0.5, answer: answers.answer }) });
globalThis.output = { mask: { data: Float32Array.from(answers.mask) } };
const { find } = await (await import("./page.mjs")).open(new URL("file:///"));
const { mask } = await find({ width: 16, height: 8, data: new Uint8Array(16 * 8 * 4) }, "dog");
console.log(mask !== null);
"""
RUNTIME_STUB = """
export const env = { wasm: {} };
export const Tensor = class {};
export const InferenceSession = { create: async () => ({ run: async () => globalThis.output }) };
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize(
    ("on", "answer", "found"),
    [
        (slice(16, 18), {"threshold": 0.5, "suppress_iou": 0.5, "min_pixels": 8}, True),  # two cells of four pixels
        (slice(16, 18), {"threshold": 0.5, "suppress_iou": 0.5, "min_pixels": 9}, False),
        (slice(0, 0), {"threshold": 0.5, "suppress_iou": 0.5, "min_pixels": 0}, False),
        (slice(0, 8), {"threshold": 0.5, "suppress_iou": 0.5, "min_pixels": 0}, False),  # beside the picture
        (slice(0, 0), None, True),
    ],
)
def test_the_page_finds_nothing_where_a_mask_alone_is_small(on, answer, found, tmp_path):
    mask = np.zeros(64)
    mask[on] = 0.9
    shutil.copy(Path(web.__file__).parent / "page" / "page.js", tmp_path / "page.mjs")
    (tmp_path / "ort.wasm.bundle.min.mjs").write_text(RUNTIME_STUB, encoding="utf-8")
    (tmp_path / "run.mjs").write_text(MASKS_ALONE, encoding="utf-8")
    given = json.dumps({"mask": mask.tolist(), "answer": answer})
    done = subprocess.run(["node", "run.mjs", given], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == str(found).lower(), done.stderr


ERRORS = """
const parts = {}, part = () => ({ files: [], children: [], addEventListener(_, called) { this.called = called },
  replaceChildren(...items) { this.children = items } });
globalThis.self = globalThis;
globalThis.document = { getElementById: (id) => parts[id] ??= part() };
globalThis.fetch = async () => ({ json: async () => ({ words: [], origin: "" }) });
await import("./page.mjs");
Object.assign(document.getElementById("picture"), { width: 16, height: 8 });
document.getElementById("answers").children = ["the last answer"];
await parts.form.called({ preventDefault() {} });
console.log(parts.problem.textContent, parts.picture.width, parts.picture.height, parts.answers.children.length);
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_no_earlier_answer_stays_beside_an_error_of_the_page(tmp_path):
    shutil.copy(Path(web.__file__).parent / "page" / "page.js", tmp_path / "page.mjs")
    (tmp_path / "ort.wasm.bundle.min.mjs").write_text(RUNTIME_STUB, encoding="utf-8")
    (tmp_path / "run.mjs").write_text(ERRORS, encoding="utf-8")
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "Pick a picture first. 0 0 0", done.stderr


@pytest.fixture(scope="module")
def page(made):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright, which drives the browser, is not installed"
    )
    if CHROMIUM is None or not RUNTIME.is_dir():
        pytest.skip("no Chromium, or no onnxruntime-web in node_modules, on this machine")

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Silent, directory=made)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.asked, page.trouble = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.trouble.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        page.wait_for_selector("#find:enabled", timeout=120_000)
        yield page
        browser.close()
    server.shutdown()


def picture(width, height):
    """A smooth picture, as photographs are."""
    coarse = np.random.default_rng(width).integers(0, 255, (9, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def shown(page, path):
    """Boxes that the page tells for a file."""
    page.locator("#file").set_input_files(str(path))
    page.locator("#phrase").fill(PHRASE)
    page.evaluate("document.getElementById('answers').replaceChildren()")
    page.locator("#find").click()
    page.wait_for_selector("#answers li, #problem:not(:empty)", timeout=60_000)
    assert not page.locator("#problem").inner_text()
    return [
        [float(value) for value in item.partition("box ")[2].split(",")]
        for item in page.locator("#answers li").all_inner_texts()
    ]


def answer(made, pixels):
    """The box of the very same file in Python, in the picture's pixels."""
    run, about = export.load(made / "model.onnx")
    geometry = boxes.letterbox_geometry(*pixels.shape[:2], about["input_size"])
    tokens = np.array([VOCABULARY.encode(PHRASE, about["max_token_length"])])
    found = run(letterbox(pixels, geometry, about["input_size"])[None], tokens)
    limits = [pixels.shape[1], pixels.shape[0]] * 2
    return np.clip(boxes.from_letterbox(found["box"][0].astype(np.float64), geometry), 0, limits)


@pytest.mark.parametrize("size", [(200, 120), (61, 149), (40, 30)])
def test_the_page_gives_pythons_box(page, made, tmp_path, size):
    pixels = picture(*size)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    expected = answer(made, pixels)
    assert np.abs(np.array(shown(page, tmp_path / "photo.png")) - expected).max() < 1, "the same pixels: within a pixel"
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=90)
    from_jpeg = answer(made, decode_image(tmp_path / "photo.jpg"))
    assert boxes.box_iou(np.array(shown(page, tmp_path / "photo.jpg"))[0], from_jpeg) >= 0.95


def test_the_page_loads_nothing_from_elsewhere_and_fits_a_phone(page):
    assert page.asked and all(url.startswith(("http://127.0.0.1:", "blob:")) for url in page.asked)
    assert not page.trouble and page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#phrase").fill(" ?! ")
    page.locator("#find").click()
    page.wait_for_selector("#problem:not(:empty)")
    assert "Type what to look for" in page.locator("#problem").inner_text()


def test_the_page_makes_pixels_as_python_does(page):
    for width, height in ((200, 120), (61, 149), (128, 128), (64, 64), (1, 300), (17, 9)):
        pixels = picture(width, height)
        rgba = np.dstack([pixels, np.full((height, width), 255, np.uint8)])
        script = """async ([data, width, height, size]) => {
            const { letterbox } = await import("./page.js");
            return Array.from(letterbox(new ImageData(Uint8ClampedArray.from(data), width, height), size)); }"""
        found = np.array(page.evaluate(script, [rgba.ravel().tolist(), width, height, SIZE])).reshape(3, SIZE, SIZE)
        expected = letterbox(pixels, boxes.letterbox_geometry(height, width, SIZE), SIZE)
        assert np.abs(found - expected).max() <= 1 and (found != expected).mean() < 0.05, (width, height)


def test_the_page_divides_phrases_as_python_does(page):
    phrases = [
        "The RED circle!", "left-most/top 'un", "  small\u00a0striped\u3000triangle\x1cof\x85the\u2028square\ufeff ",
        "\u0130stanbul \u03a3\u0391\u03a3 \u1e9e stra\u00dfe", "constructor __proto__ toString", "-", "a . b",
        "e\u0301 \u00e9 \ud55c\uad6d \u65e5\u672c \U0001f600", "CLS PAD UNK red", "the " * 20, "\u201cRED\u201d circle\u2019s",
        "left\u2013most\u2026 \uff32\uff25\uff24", "a child\u2019s left\u2013most", "child's leftmost left-most",
        "\ufeffRED\u200b c\u00adircle\u200f \u200b",
    ]  # fmt: skip
    words = Vocabulary(
        ["PAD", "UNK", "CLS", *dict.fromkeys(word for phrase in phrases[::2] for word in VOCABULARY.tokens(phrase))]
    )
    script = """async ([about, phrases]) => {
        const { encode } = await import("./page.js");
        return phrases.map((phrase) => encode(about, phrase)); }"""
    found = page.evaluate(script, [{"words": words.words, "max_token_length": 7}, phrases])
    assert found == [words.encode(phrase, 7) for phrase in phrases]
