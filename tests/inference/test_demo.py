"""The web page in a real headless Chromium: by keyboard, an upload, several phrases, heat maps, broken files, a phone."""

import base64
import json
import os
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


@pytest.fixture(scope="module")
def grounder(tmp_path_factory):
    return rec.from_pretrained(write_folder(tmp_path_factory.mktemp("demo") / "best"), device="cpu")


@pytest.fixture(scope="module")
def address(grounder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "MAX_UPLOAD", 1 << 20)
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
    """The boxes as they are drawn, as fractions of the picture, and the answers that can be downloaded."""
    page.wait_for_selector(".answer li")
    picture = page.locator(".answer .picture").bounding_box()
    boxes = []
    for mark in page.locator(".answer .mark").all():
        box = mark.bounding_box()
        left, top = (box["x"] - picture["x"]) / picture["width"], (box["y"] - picture["y"]) / picture["height"]
        boxes.append([left, top, left + box["width"] / picture["width"], top + box["height"] / picture["height"]])
    address = page.locator(".answer a[download$='.json']").get_attribute("href")
    return boxes, json.loads(base64.b64decode(address.partition(",")[2]))


def fractions(answers):
    """Where the boxes of answers have to be drawn; the first phrase's is on top, and so the last."""
    sides = [answers[0].picture.width, answers[0].picture.height] * 2
    return [[value / side for value, side in zip(one.box, sides, strict=True)] for one in reversed(answers)]


def upload(page, path):
    page.locator("#picture input[type=file]").set_input_files(str(path))
    page.locator("#picture img[src], #picture .file-preview").first.wait_for(timeout=10_000)


def test_an_example_is_answered_by_keyboard_as_in_python(page, grounder, tmp_path):
    path, text = demo.scene_examples(tmp_path)[0]
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    drawn, told = shown(page)
    expected = grounder(path, [text], heat_maps=True)
    assert told["answers"] == [one.to_dict() for one in expected]
    np.testing.assert_allclose(drawn, fractions(expected), atol=0.01)
    page.locator(".answer fieldset input").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".answer .heat-1").is_visible(), "where the model looked"
    assert not page.outside, "nothing is loaded from elsewhere"


def test_phrases_are_typed_line_by_line_and_an_edited_one_takes_the_answer_away(page, grounder, photo):
    upload(page, photo)
    page.locator("#phrases textarea").focus()
    page.keyboard.type("the red circle")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("small <b>triangle")
    page.keyboard.press("Enter")
    drawn, told = shown(page)
    expected = grounder(photo, ["the red circle", "small <b>triangle"])
    assert told["answers"] == [one.to_dict() for one in expected]
    np.testing.assert_allclose(drawn, fractions(expected), atol=0.01)
    said = page.locator("#answer").inner_text()
    assert "<b>triangle" in said and "a guess" in said, "the model has seen drawn shapes only, and is not sure"
    assert page.locator(".answer .name").all_inner_texts() == ["1 the red circle?", "2 small <b>triangle?"]
    page.keyboard.type("s")
    page.wait_for_selector("#answer .empty")
    assert not page.locator("#said").inner_text().strip()


def test_bad_input_is_told_in_the_page_and_stays_there(page, photo, tmp_path, capfd):
    page.locator("#find").click()
    page.locator("#said .error", has_text="Pick or upload an image first").wait_for()
    (tmp_path / "large.jpg").write_bytes(b"\xff\xd8" + b"x" * (2 << 20))
    page.locator("#picture input[type=file]").set_input_files(str(tmp_path / "large.jpg"))
    page.locator("#complaint", has_text="size").wait_for()
    photo.write_bytes(b"\xff\xd8\xff\xe0 this is not a picture")
    upload(page, photo)
    page.locator("#phrases textarea").fill("the red circle")
    page.locator("#find").click()
    page.locator("#said .error", has_text="broken").wait_for()
    assert "Traceback" not in page.content() + capfd.readouterr().err
    page.locator("#examples button").first.click()  # and the page still works
    shown(page)


def test_the_page_fits_a_phone(browser, address):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(address)
    page.wait_for_selector("#find")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    places = [
        page.locator(name).bounding_box()["y"] for name in ("#picture", "#phrases", "#find", "#answer", "#examples")
    ]
    assert places == sorted(places), "one column, the answer below what was asked"
    page.locator("#examples button").last.click()
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_it_listens_on_this_machine_only(address):
    assert address.startswith("http://127.0.0.1:")
