"""Downloading the COCO images that are named: verified, resumable, and only those."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from data_toys import make_refer, save_refer

from rec.data import fetch
from rec.data.fetch import fetch_images
from rec.data.sources import SourceError
from rec.data.tables import open_source

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


@pytest.fixture
def server(tmp_path):
    """A server of COCO's layout, whose answers a test may spoil; knows what was asked for, and how many asked at once."""
    make_refer(tmp_path / "there", splits=("train",) * 12 + ("val",) * 4)
    pictures = tmp_path / "there" / "images"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with lock:
                state.asked.append(self.path)
                state.now += 1
                state.most = max(state.most, state.now)
            status, content, length = state.answer(self.path, state.asked.count(self.path))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            self.wfile.write(content)
            with lock:
                state.now -= 1

        def log_message(self, *_):
            pass

    class State:
        asked, now, most = [], 0, 0

        def answer(self, path, attempt):
            return 200, (pictures / path.lstrip("/")).read_bytes(), None

    lock, state = threading.Lock(), State()
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    state.address = f"http://127.0.0.1:{served.server_port}"
    yield state
    served.shutdown()
    served.server_close()


@pytest.fixture
def source(tmp_path, server):
    """The same annotations, without the images."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there" / "refcoco").rename(tmp_path / "here" / "refcoco")
    return lambda: open_source(tmp_path / "here" / "refcoco", name="refcoco")


def get(source, server, splits=None):
    return fetch_images(source, splits, server.address, delay=0.01, progress=False)


def files(source):
    return sorted(path.name for path in Path(source.image_root).iterdir())


def test_what_is_named_and_missing_comes_and_nothing_else(source, server, tmp_path):
    assert get(source(), server, ["val"]) == 4
    assert get(source(), server) == 12 and len(server.asked) == 16 and server.most <= fetch.CONNECTIONS
    assert files(source()) == sorted(path.name for path in (tmp_path / "there/images/train2014").iterdir())
    assert get(source(), server) == 0 and len(server.asked) == 16
    first = Path(source().image_root) / files(source())[0]
    assert first.read_bytes() == (tmp_path / "there/images/train2014" / first.name).read_bytes()


def test_broken_answers_are_asked_for_again(source, server):
    whole = server.answer

    def answer(path, attempt):
        status, content, length = whole(path, attempt)
        odd = [
            (503, b"busy", None),
            (200, content[:-30], None),
            (200, content[:-30], len(content)),
            (200, b"<html>", None),
        ]
        return odd[int(path[-5]) % 4] if attempt == 1 else (status, content, length)

    server.answer = answer
    assert get(source(), server) == 16 and len(server.asked) == 32


def test_what_cannot_be_had_is_named_and_the_rest_is_kept(source, server, monkeypatch):
    whole = server.answer
    other = whole("/train2014/COCO_train2014_000000000000.jpg", 1)
    server.answer = lambda path, attempt: (
        (404, b"", None) if path.endswith("3.jpg") else other if path.endswith("5.jpg") else whole(path, attempt)
    )
    with pytest.raises(
        SourceError, match=r"4 images could not be fetched, the first COCO_\w+3\.jpg: .* 404 .*same command again"
    ):
        get(source(), server)
    assert len(files(source())) == 12 and server.asked.count("/train2014/COCO_train2014_000000000003.jpg") == 1
    server.answer = whole
    assert get(source(), server) == 4
    monkeypatch.setattr(fetch, "GIVE_UP", 5)
    for file in files(source()):
        (Path(source().image_root) / file).unlink()
    server.answer = lambda path, attempt: (404, b"", None)
    with pytest.raises(SourceError, match="5 images could not be fetched"):
        get(source(), server)
    assert files(source()) == []


def test_names_that_lead_elsewhere_are_not_asked_for(server, tmp_path):
    root = tmp_path / "evil"
    refs, instances = make_refer(root, splits=("train", "train"))
    for path in (root / "images" / "train2014").iterdir():
        path.unlink()
    instances["images"][0]["file_name"] = "../../COCO_train2014_000000000000.jpg"
    save_refer(root / "refcoco", refs, instances)
    assert get(open_source(root / "refcoco", name="refcoco"), server) == 1
    assert server.asked == ["/train2014/COCO_train2014_000000000001.jpg"]
    instances["images"][1]["file_name"] = "/etc/x.jpg"
    save_refer(root / "refcoco", refs, instances)
    with pytest.raises(SourceError, match="names no COCO image"):
        get(open_source(root / "refcoco", name="refcoco"), server)
    with pytest.raises(SourceError, match="http or https addresses, got 'file:///x'"):
        fetch_images(open_source(root / "refcoco", name="refcoco"), None, "file:///x")


def test_the_script_fetches_and_prepares(source, server, tmp_path, monkeypatch, capsys):
    import prepare_data

    words = [
        "--data_root",
        str(tmp_path / "here"),
        "--fetch-images",
        server.address,
        "--images",
        str(tmp_path / "new" / "photos"),
    ]
    monkeypatch.setattr(sys, "argv", ["prepare", *words])
    assert prepare_data.main() == 0
    assert f"16 images came, {tmp_path}/new/photos has all that are named" in capsys.readouterr().out
    info = json.loads((tmp_path / "here/anns/refcoco/prepared.json").read_text())
    assert info["images"] == 16 and info["image_root"] == str(tmp_path / "new/photos")
