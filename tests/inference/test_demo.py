"""The web page in a real headless Chromium: an example clicked, an upload, several phrases, broken files, a phone."""

import io
import os
import re
import shutil

import numpy as np
import pytest
from inference_toy import write_folder
from PIL import Image

import rec

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
gradio = pytest.importorskip("gradio", reason="the optional extra 'demo' is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)

from rec.inference import demo  # noqa: E402 - imports gradio
from rec.inference.grounder import draw  # noqa: E402


@pytest.fixture(scope="module")
def grounder(tmp_path_factory):
    return rec.from_pretrained(write_folder(tmp_path_factory.mktemp("demo") / "best"), device="cpu")


@pytest.fixture(scope="module")
def address(grounder):
    _, address, _ = demo.launch(grounder, prevent_thread_lock=True, quiet=True)
    yield address
    gradio.close_all()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.outside = []
    page.on("request", lambda request: page.outside.append(request.url) if "127.0.0.1" not in request.url else None)
    page.goto(address)
    page.wait_for_selector("#find")
    yield page
    page.close()


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(5).integers(0, 90, (120, 200, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def shown(page):
    """The answer's pixels, and the boxes of the result lines."""
    page.wait_for_selector("#answer img[src]")
    page.wait_for_selector("#results li")
    source = page.locator("#answer img").first.get_attribute("src")
    pixels = np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB")).astype(int)
    boxes = re.findall(r"box ([\d., ]+\d)", page.locator("#results").inner_text())
    return pixels, [[float(value) for value in box.split(",")] for box in boxes]


def upload(page, path, text):
    page.locator("#picture input[type=file]").set_input_files(str(path))
    page.locator("#picture img[src], #picture .file-preview").first.wait_for(timeout=10_000)
    page.locator("#phrases textarea").fill(text)
    page.locator("#find").click()


def test_a_clicked_example_is_answered_as_in_python(page, grounder, tmp_path):
    example = demo.scene_examples(tmp_path)[0]
    page.locator("tr.tr-body").first.click()
    pixels, boxes = shown(page)
    expected = grounder(example[0], [example[1]])
    np.testing.assert_allclose(boxes, [expected[0].box], atol=0.06)
    drawn = np.asarray(draw(expected, with_label=False)).astype(int)
    assert pixels.shape == drawn.shape and np.abs(pixels - drawn).mean() < 6, "the picture is sent slightly compressed"
    undrawn = np.abs(drawn - expected[0].image.astype(int)).sum(2) > 150
    assert undrawn.any() and np.abs(pixels - drawn)[undrawn].mean() < 40, "and the box is where Python draws it"
    assert not page.outside, "nothing is loaded from elsewhere"


def test_an_upload_with_several_phrases_gets_one_line_each(page, grounder, photo):
    upload(page, photo, "the red circle\nsmall <b>triangle\n")
    _, boxes = shown(page)
    expected = grounder(photo, ["the red circle", "small <b>triangle"])
    np.testing.assert_allclose(boxes, [answer.box for answer in expected], atol=0.06)
    said = page.locator("#results").inner_text()
    assert "<b>triangle" in said and " s on cpu" in said


@pytest.mark.parametrize(
    ("content", "text", "said"),
    [
        (b"\xff\xd8\xff\xe0 this is no picture", "the red circle", "broken"),
        (None, "", "Type what to look for"),
        (None, "a\n" * 9, "At most 8"),
    ],
)
def test_bad_input_shows_a_message_and_no_traceback(page, photo, content, text, said, capfd):
    if content is not None:
        photo.write_bytes(content)
        page.locator("#picture input[type=file]").set_input_files(str(photo))
        page.wait_for_timeout(1500)
        page.locator("#phrases textarea").fill(text)
        page.locator("#find").click()
    else:
        upload(page, photo, text)
    toast = page.locator(".toast-body, [data-testid=toast-body]").first
    toast.wait_for(timeout=10_000)
    assert said in toast.inner_text() and "Traceback" not in page.content()
    assert "Traceback" not in capfd.readouterr().err
    page.locator("tr.tr-body").first.click()  # and the page still works
    shown(page)


def test_too_many_pixels_are_refused_by_the_header(grounder, tmp_path):
    Image.new("1", (6000, 5000)).save(tmp_path / "large.png")
    with pytest.raises(gradio.Error, match="the file has 6000 x 5000 pixels"):
        demo.answer(grounder, str(tmp_path / "large.png"), "a circle")


def test_too_large_uploads_are_refused(page, tmp_path):
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8" + b"x" * (16 << 20))
    page.locator("#picture input[type=file]").set_input_files(str(tmp_path / "large.jpg"))
    toast = page.locator(".toast-body, [data-testid=toast-body]").first
    toast.wait_for(timeout=20_000)
    assert "size" in toast.inner_text().lower()


def test_the_page_fits_a_phone(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(address)
    page.wait_for_selector("#find")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#answer").bounding_box()["y"] > page.locator("#find").bounding_box()["y"], "one column"
    page.locator("tr.tr-body").first.click()
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_it_listens_on_this_machine_only(address):
    assert address.startswith("http://127.0.0.1:")
