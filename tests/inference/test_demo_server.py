"""The web page's server: only its own names are answered, phrases and addresses are limited, nothing stays behind."""

import base64
import http.client
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from inference_toy import write_folder
from PIL import Image

import rec

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
gradio = pytest.importorskip("gradio", reason="the optional extra 'demo' is not installed")
from rec.errors import InputError  # noqa: E402
from rec.inference import demo  # noqa: E402 - imports gradio

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def grounder(tmp_path_factory):
    return rec.from_pretrained(write_folder(tmp_path_factory.mktemp("demo") / "best"), device="cpu")


@pytest.fixture(scope="module")
def port(grounder):
    _, address, _ = demo.launch(grounder, allow_hosts=["Box.Example:80"], prevent_thread_lock=True, quiet=True)
    yield urlsplit(address).port
    gradio.close_all()


def request(port, method, path, body=None, address="127.0.0.1", **headers):
    """(status, body) of a request as it is written here, its Host header included."""
    connection = http.client.HTTPConnection(address, port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    data = b"" if body is None else json.dumps(body).encode()
    for name, value in ({"Content-Length": len(data), "Content-Type": "application/json"} | headers).items():
        connection.putheader(name, value)
    connection.endheaders(data)
    response = connection.getresponse()
    content = response.read().decode("utf-8", "replace")
    connection.close()
    return response.status, content


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{}", "127.0.0.1.evil.example", "localhost.evil.example:{}", "127.0.0.2", "8.8.8.8", "",
     "[::2]:{}", "evil.example@127.0.0.1", "box.example.evil"],
)  # fmt: skip
def test_another_name_is_refused_wherever_it_asks(port, host):
    for method, path in (
        ("GET", "/"),
        ("GET", "/config"),
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/file=x"),
    ):
        status, said = request(port, method, path, Host=host.format(port))
        assert status == 403 and "--allow-host" in said
    assert request(port, "GET", "/")[0] in (400, 403), "without a name"


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "LOCALHOST", "[::1]:{}", "box.example:{}"])
def test_its_own_names_are_answered(port, host):
    status, said = request(port, "GET", "/config", Host=host.format(port))
    assert status == 200 and "Find what a phrase names" in said


def test_a_page_for_the_network_answers_to_the_address_it_is_reached_at(grounder):
    _, address, _ = demo.launch(grounder, "0.0.0.0", prevent_thread_lock=True, quiet=True)
    port = urlsplit(address).port
    assert request(port, "GET", "/config", address="127.0.0.2", Host=f"127.0.0.2:{port}")[0] == 200
    assert request(port, "GET", "/config", address="127.0.0.2", Host=f"127.0.0.3:{port}")[0] == 403
    assert request(port, "GET", "/config", address="127.0.0.2", Host=f"evil.example:{port}")[0] == 403


def test_a_port_that_is_taken_is_one_paragraph(port, grounder):
    with pytest.raises(InputError, match=f"port {port}: the port is taken.* another --port"):
        demo.launch(grounder, port=port, prevent_thread_lock=True, quiet=True)


def asked_over_http(port, number, data):
    """What the page's own interface answers: the stream of its events."""
    body = {"data": data, "fn_index": number, "session_hash": "s" + os.urandom(4).hex()}
    status, said = request(port, "POST", "/gradio_api/queue/join", body, Host="localhost")
    assert status == 200, said
    return request(port, "GET", f"/gradio_api/queue/data?session_hash={body['session_hash']}", Host="localhost")[1]


def test_an_address_in_place_of_an_upload_is_not_fetched(port, monkeypatch):
    from gradio import processing_utils

    fetched = []
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", lambda *a, **k: fetched.append(a))
    config = json.loads(request(port, "GET", "/config", Host="localhost")[1])
    kinds = {component["id"]: component["type"] for component in config["components"]}
    tried = set()
    functions = [function for function in config["dependencies"] if function["backend_fn"]]
    for path in ("https://example.org/photo.png", "HTTP://127.0.0.1/x", "/etc/passwd"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for function in functions:
            for place in range(len(function["inputs"])):
                said = asked_over_http(
                    port, function["id"], [file if n == place else None for n in range(len(function["inputs"]))]
                )
                assert '"success":false' in said and "root:" not in said
                tried.add(kinds[function["inputs"][place]])
    assert not fetched and tried >= {"image", "textbox", "slider"}


def test_an_upload_is_answered(port, grounder, tmp_path):
    import httpx

    Image.fromarray(np.random.default_rng(2).integers(0, 255, (30, 40, 3), np.uint8)).save(tmp_path / "photo.png")
    address = f"http://localhost:{port}"
    sent = httpx.post(
        f"{address}/gradio_api/upload", files={"files": ("photo.png", (tmp_path / "photo.png").read_bytes())}
    )
    image = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
    config = json.loads(request(port, "GET", "/config", Host="localhost")[1])
    number = next(f["id"] for f in config["dependencies"] if len(f["inputs"]) == 4 and len(f["outputs"]) == 2)
    said = asked_over_http(port, number, [image, "a circle", 1, 0])
    expected = ", ".join(f"{value:.1f}" for value in grounder(tmp_path / "photo.png", "a circle").box)
    assert f"box {expected}" in said


def test_an_upload_that_is_cut_off_leaves_no_traceback(port, monkeypatch):
    told = []
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "error", lambda *what, **_: told.append(what))
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    head += 'Content-Disposition: form-data; name="files"; filename="photo.jpg"\r\n\r\n'
    with socket.create_connection(("127.0.0.1", port)) as sender:
        sender.sendall(head.encode() + bytes(5000))
    for _ in range(20):
        assert request(port, "GET", "/config", Host="localhost")[0] == 200
        time.sleep(0.05)
    assert not told


def test_phrases_have_a_length(grounder, tmp_path):
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "photo.png")
    photo, longest = str(tmp_path / "photo.png"), "x" * demo.MAX_LETTERS
    assert longest in demo.answer(grounder, photo, "\n".join([longest] * demo.MAX_PHRASES))[1]
    for text in (longest + "x", "x\n" * 2 + longest + "x", "x" * 10_000_000, "\n" * 10_000_000):
        with pytest.raises(InputError, match=r"at most 300 letters|8 phrases of 300 letters"):
            demo.answer(grounder, photo, text)


def test_a_phone_photograph_is_scaled_down_and_boxes_are_told_in_its_pixels(grounder, tmp_path, monkeypatch):
    pixels = np.random.default_rng(3).integers(0, 255, (120, 160, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "phone.png")
    monkeypatch.setattr(demo, "MAX_PIXELS", 80 * 60)
    said, shown = demo.answer(grounder, str(tmp_path / "phone.png"), "a circle")
    assert "160 x 120 pixels were scaled down to 80 x 60" in said
    small = cv2.resize(pixels, (80, 60), interpolation=cv2.INTER_AREA)
    expected = ", ".join(f"{2 * value:.1f}" for value in grounder(small, "a circle").box)
    assert f"box {expected}" in shown
    told = json.loads(base64.b64decode(re.search(r"application/json;base64,([^\"]+)", shown)[1]))["answers"][0]
    assert (told["width"], told["height"]) == (160, 120)


def test_a_picture_that_is_very_long_is_shown_however_thin_it_gets(grounder, tmp_path, monkeypatch):
    Image.new("L", (1, 9000), 90).save(tmp_path / "long.png")
    for limit in (demo.MAX_PIXELS, 2000):
        monkeypatch.setattr(demo, "MAX_PIXELS", limit)
        assert "1 of 1 found" in demo.answer(grounder, str(tmp_path / "long.png"), "a circle")[0]
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"^the file is truncated"):
        demo.answer(grounder, str(tmp_path / "cut.jpg"), "a circle")


def test_none_above_the_threshold_is_nothing_found_and_candidates_are_shown_beside(grounder, tmp_path):
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (120, 160, 3), np.uint8)).save(tmp_path / "photo.png")
    said, shown = demo.answer(grounder, str(tmp_path / "photo.png"), "a circle", 3, 1.0)
    assert said.startswith("<p>0 of 1 found") and "Nothing found" in shown and "a guess" not in shown
    assert shown.count('class="mark dotted"') == len(re.findall("score ", shown)) - 1 > 0, "and its heat map's highest"
    assert grounder.answer is None, "the next visitor's answers are as before"


def test_nothing_stays_behind_after_sigterm(tmp_path):
    write_folder(tmp_path / "best")
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("GRADIO_TEMP_DIR", None)
    command = [sys.executable, "-u", str(ROOT / "scripts" / "demo.py"), "best", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    port = next(urlsplit(line.split()[-1]).port for line in process.stdout if "Running on local URL" in line)
    assert request(port, "GET", "/config", Host="localhost")[0] == 200
    assert list((tmp_path / "temporary").rglob("scene_*.jpg")), "the examples are there while it runs"
    process.terminate()
    process.stdout.read()
    assert process.wait(30) == 143
    time.sleep(0.1)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != tmp_path / "best"]
    assert not left and not list((tmp_path / "temporary").glob("rec-demo-*"))


def test_examples_are_of_the_kind_that_the_model_knows(tmp_path):
    names = [Path(path).name for path, _ in demo.photo_examples(tmp_path)]
    assert names == ["coffee.jpg", "chelsea.jpg", "astronaut.jpg"] and all(
        (tmp_path / name).is_file() for name in names
    )
