"""Fetching an address that a stranger may have given: from the public internet only, within a time and a size.

A service that fetches what its users name must not reach what only the service can reach (server-side request forgery).
So a name is looked up once, every address it has must be public, and the connection goes to an address that was checked:
a second answer of the name server changes nothing. Redirects pass the same gate. Proxies of the environment are not used.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from rec.data.images import ImageError

MAX_BYTES = 50 << 20
SECONDS = 30.0  # in all: name, connections, redirects, content
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
# Closed as well, though `ipaddress` calls them global: the relays of 6to4, and addresses for documentation (RFC 9637).
_CLOSED = (ipaddress.ip_network("192.88.99.0/24"), ipaddress.ip_network("3fff::/20"))


class DownloadError(ImageError):
    """An address that is not fetched; the text says why."""


def download(address: str, max_bytes: int = MAX_BYTES, seconds: float = SECONDS) -> bytes:
    """The content at an http(s) address.

    Args:
        address: ``http://…`` or ``https://…``.
        max_bytes: Refuse more.
        seconds: Give up after this time, however the server spends it.

    Raises:
        DownloadError: the address, or one it redirects to, is not public or cannot be fetched; too large; too slow.
    """
    fetch = _Fetch(address, max_bytes, time.monotonic() + seconds)
    # In a thread of its own: a name server or a server that sends a byte now and then cannot hold up the caller.
    thread = threading.Thread(target=fetch.run, name="download", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        fetch.abandon()
        raise DownloadError(f"{address} took more than {seconds:g} s")
    if fetch.error is not None:
        if not isinstance(fetch.error, OSError | ValueError | http.client.HTTPException):
            raise fetch.error  # a defect of this module, not of the address
        raise DownloadError(f"{address} cannot be fetched: {fetch.error}") from fetch.error
    return fetch.content


def public_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, looked up now.

    Decimal, octal, hexadecimal and short forms (``2130706433``, ``0177.1``) are what the system's own look-up makes of
    them, so they are checked as what they mean.

    Raises:
        DownloadError: one of them is not public.
        OSError: the name has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    for address in addresses:
        if not is_public(address):
            raise DownloadError(f"{host} is {address}, which is not an address of the public internet")
    return addresses


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is one of the public internet, and so is the IPv4 address it may carry.

    Not public are private, loopback, link-local, shared, multicast, reserved and unspecified ones (RFC 6890).
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if carried is not None:
            return is_public(str(carried))
        if ip.is_site_local:
            return False
    closed = ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_reserved or ip.is_unspecified
    return ip.is_global and not (closed or ip.is_multicast or any(ip in network for network in _CLOSED))


class _Fetch:
    """One download, run in a thread: afterwards either ``error`` or ``content`` says how it went."""

    def __init__(self, address: str, max_bytes: int, deadline: float) -> None:
        self.address, self.max_bytes, self.deadline = address, max_bytes, deadline
        self.error: Exception | None = None
        self.content = b""
        self._socket: socket.socket | None = None

    def run(self) -> None:
        try:
            self.content = self._follow()
        except Exception as error:
            self.error = error

    def abandon(self) -> None:
        """Ends what the thread waits for, so that it ends too."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # not connected any more
                self._socket.shutdown(socket.SHUT_RDWR)

    def _follow(self) -> bytes:
        address = self.address
        for _ in range(MAX_REDIRECTS + 1):
            response = self._ask(address)
            location = response.getheader("Location")
            if response.status in _REDIRECTS and location:
                self._close()
                address = urljoin(address, location)
                continue
            if response.status != 200:
                raise DownloadError(f"the server answers {response.status} {response.reason}")
            content = response.read(self.max_bytes + 1)
            self._close()
            if len(content) > self.max_bytes:
                raise DownloadError(f"it has more than {self.max_bytes:,} bytes")
            return content
        raise DownloadError(f"more than {MAX_REDIRECTS} redirects")

    def _ask(self, address: str) -> http.client.HTTPResponse:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DownloadError(f"{address[:200]} is not an http or https address")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection = http.client.HTTPConnection(parts.hostname, port)
        connection.sock = self._connect(parts, port)
        path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe="%/:=&?~+!$,;'@()*[]")
        connection.request("GET", path, headers={"User-Agent": "rec", "Connection": "close"})
        return connection.getresponse()

    def _connect(self, parts: SplitResult, port: int) -> socket.socket:
        """A connection to one of the addresses that were checked."""
        host = str(parts.hostname)
        failure: OSError | None = None
        for ip in public_addresses(host, port):
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise DownloadError("no time is left")
            try:
                self._socket = socket.create_connection((ip, port), timeout=left)
                if parts.scheme == "https":
                    context = ssl.create_default_context()
                    self._socket = context.wrap_socket(
                        self._socket, server_hostname=host, do_handshake_on_connect=False
                    )
                    self._socket.do_handshake()
                return self._socket
            except OSError as error:
                failure = error
                self._close()
        raise failure or DownloadError(f"{host} has no address")

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
