"""Addresses given by strangers: the public internet only, also behind redirects and names, within a time and a size."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rec.inference import download
from rec.inference.download import DownloadError, is_public

CLOSED = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.5", "::1", "::", "fe80::1", "fec0::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1",
    "3fff::1", "100::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::", "2001:0:1:1:1:1:80ff:fffe",
]  # fmt: skip
OPEN = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "2002:808:808::1"]


@pytest.mark.parametrize("address", CLOSED)
def test_addresses_that_only_this_machine_or_network_reaches_are_closed(address):
    assert not is_public(address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(DownloadError, match="not an address of the public internet"):
        download.download(f"http://{host}/")


@pytest.mark.parametrize("address", OPEN)
def test_the_public_internet_is_open(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["2130706433", "017700000001", "0177.0.0.1", "0x7f.1", "127.1", "0", "localhost", "①②⑦.0.0.1"]
)
def test_other_spellings_are_taken_for_what_they_mean(host):
    with pytest.raises(DownloadError, match="not an address of the public internet"):
        download.download(f"http://{host}/x.png")


@pytest.mark.parametrize(
    "address", ["ftp://8.8.8.8/x", "file:///etc/passwd", "http:///x", "http://8.8.8.8:99999/", "x"]
)
def test_only_http_and_https_are_spoken(address):
    with pytest.raises(DownloadError, match="cannot be fetched"):
        download.download(address)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        if self.path == "/picture":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 1000)
        elif self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(200):
                self.wfile.write(b"x")
                time.sleep(0.05)
        else:
            self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server at 127.0.0.1, which alone counts as public here."""
    monkeypatch.setattr(download, "is_public", lambda address: address == "127.0.0.1")
    server = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    server.asked, server.handle_error = [], lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_content_comes_over_redirects_and_within_the_limit(server):
    address = f"http://127.0.0.1:{server.server_port}"
    assert download.download(f"{address}/to//to/{address}/picture", max_bytes=1000) == b"x" * 1000
    with pytest.raises(DownloadError, match="more than 999 bytes"):
        download.download(f"{address}/picture", max_bytes=999)
    with pytest.raises(DownloadError, match="404"):
        download.download(f"{address}/absent")
    with pytest.raises(DownloadError, match="more than 5 redirects"):
        download.download(f"{address}" + "/to/" * 7 + "/picture")


def test_a_redirect_passes_the_same_gate(server):
    port = server.server_port
    for inside in (f"http://127.0.0.2:{port}/picture", "file:///etc/passwd", f"//127.0.0.2:{port}/picture"):
        with pytest.raises(DownloadError, match=r"not an address of the public|not an http or https"):
            download.download(f"http://127.0.0.1:{port}/to/{inside}")
    assert len(server.asked) == 3 and all(path.startswith("/to/") for path, _ in server.asked)


def test_a_name_is_looked_up_once_and_the_checked_address_is_reached(server, monkeypatch):
    answers = iter(["127.0.0.1", "127.0.0.2"])
    asked = []

    def look_up(host, port, **_):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    reached = []

    def connect(address, timeout):
        reached.append(address[0])
        connected = socket.socket(socket.AF_INET)
        connected.settimeout(timeout)
        connected.connect(address)
        return connected

    monkeypatch.setattr(download.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(download.socket, "create_connection", connect)
    address = f"http://pictures.example:{server.server_port}/picture"
    assert download.download(address) == b"x" * 1000
    assert asked == ["pictures.example"] and reached == ["127.0.0.1"]
    assert server.asked[-1][1] == f"pictures.example:{server.server_port}"
    with pytest.raises(DownloadError, match=r"pictures.example is 127\.0\.0\.2"):
        download.download(address)
    assert reached == ["127.0.0.1"]


def test_one_closed_address_among_a_names_addresses_is_enough(server, monkeypatch):
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("127.0.0.1", "10.0.0.1")]
    monkeypatch.setattr(download.socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(DownloadError, match=r"10\.0\.0\.1"):
        download.download("http://pictures.example/")


def test_the_time_is_limited_however_it_is_spent(server, monkeypatch):
    address = f"http://127.0.0.1:{server.server_port}"
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"took more than 0\.5 s"):
        download.download(f"{address}/slow", seconds=0.5)
    never = threading.Event()
    monkeypatch.setattr(download.socket, "getaddrinfo", lambda *_, **__: never.wait(20) and [])
    with pytest.raises(DownloadError, match=r"took more than 0\.3 s"):
        download.download("http://pictures.example/", seconds=0.3)
    assert time.monotonic() - started < 3
    never.set()
    for _ in range(50):
        if not any(thread.name == "download" for thread in threading.enumerate()):
            break
        time.sleep(0.1)
    assert not any(thread.name == "download" for thread in threading.enumerate()), "what was given up ends soon"
