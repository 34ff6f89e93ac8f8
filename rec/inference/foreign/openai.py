"""Chat models behind a server with the OpenAI chat interface: vLLM, SGLang, llama.cpp, or a provider's."""

import base64
import http.client
import ipaddress
import json
import os
import random
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from rec.errors import InputError, RecError
from rec.inference.foreign.base import ForeignGrounder, Found, cut_off, read_text
from rec.inference.foreign.families import Family, family_of

KEY = "OPENAI_API_KEY"  # the environment's; it is sent, never written
MAX_ANSWER = 1 << 20  # bytes
AT_ONCE, TRIES, SECONDS = 4, 5, 120.0
_AGAIN = (408, 409, 425, 429)  # and every fault of the server, 500 to 599
BUSY = 15.0  # seconds: four of them pass the minute for which providers count requests
# How providers name the filter that will not look at an image; it is one image's, others are answered.
_FILTERED = re.compile("content_filter|content_policy|data_?inspection|moderation", re.IGNORECASE)
_LIMITS = {"temperature": 0, "max_tokens": 300}  # left out for a server that names them when it refuses a request


class ServerError(RecError):
    """A server does not answer, or not as the interface says."""


class Server(ForeignGrounder):
    """A model at a server.

    Args:
        name: ``<model>@<address>``, the address with its ``/v1``.
        coordinates, box_format, prompt: see :func:`rec.inference.foreign.families.family_of`.
        max_tokens: of an answer, with what the model thinks before it; 300 by default.
        send_images: photographs may go to another machine than this one.
        at_once: requests that are open at a time.
        allow_urls: as of :func:`rec.from_pretrained`.

    Raises:
        InputError: no address, an unknown family, or another machine without ``send_images``.
    """

    family: Family

    def __init__(
        self,
        name: str,
        *,
        coordinates: str | None = None,
        box_format: str | None = None,
        prompt: str | None = None,
        max_tokens: int | None = None,
        send_images: bool = False,
        at_once: int = AT_ONCE,
        allow_urls: bool = False,
    ) -> None:
        model, _, address = name.rpartition("@")
        try:
            parts = urlsplit(address)
        except ValueError:  # a bracket that is not closed
            parts = urlsplit("")
        if not model or parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise InputError(f"openai:{name} names no server; expected openai:<model>@http://127.0.0.1:8000/v1")
        self.is_here = _is_here(parts.hostname)
        if not self.is_here and not send_images:
            raise InputError(
                f"{parts.hostname} is another machine, and every photograph would be sent there: add --send-images "
                "(send_images=True) if that is what you want"
            )
        if _key() and not self.is_here and parts.scheme == "http":
            raise InputError(f"{address}: the key of {KEY} would cross the network unencrypted; use https, or unset it")
        self.model_name, self.host = model, parts.hostname
        self.address = address.rstrip("/").removesuffix("/chat/completions")
        self.family, self.at_once = family_of(model, coordinates, prompt, box_format), at_once
        self.sent, self._lock, self._refused = 0, threading.Lock(), set[str]()
        self.max_tokens, self._limits = max_tokens, _LIMITS | ({"max_tokens": max_tokens} if max_tokens else {})
        self._seconds = SECONDS * max(1, self._limits["max_tokens"] / _LIMITS["max_tokens"])
        handlers: list[Any] = [_NoRedirects()]
        if self.is_here:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        where = "on this machine" if self.is_here else f"at {self.host}, to which every image is sent"
        super().__init__(
            f"openai:{name}",
            f"{model} {where}; coordinates {self.family.coordinates}; somebody else's model, under its own licence",
            allow_urls=allow_urls,
        )

    def ask(self, images: Sequence[np.ndarray], phrases: Sequence[str]) -> list[Found]:
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self._one, images, phrases))

    def _one(self, image: np.ndarray, phrase: str) -> Found:
        sent = self.family.fitted(image)
        written, data = cv2.imencode(".jpg", cv2.cvtColor(sent, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
        if not written:
            raise ServerError("the image cannot be encoded as JPEG")
        picture = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": self.family.question(phrase)},
        ]
        answer = self._post({"model": self.model_name, "messages": [{"role": "user", "content": content}]})
        text, ended = None, None
        try:
            choice = answer["choices"][0]
            text, ended = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            pass
        if isinstance(text, list):  # some servers give parts
            text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
        found = read_text(text if isinstance(text, str) else "", self.family, sent, image)
        limit = None if "max_tokens" in self._refused else self._limits["max_tokens"]
        return cut_off(found, limit) if ended == "length" else found

    def _post(self, asked: dict[str, Any]) -> Any:
        """The server's answer, asked again where that may help.

        Raises:
            ServerError: it refuses, or does not answer in :data:`TRIES` tries.
        """
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {_key()}"} if _key() else {})
        trouble = ""
        for attempt in range(TRIES):
            wait = min(30.0, 0.5 * 2**attempt) * random.uniform(0.5, 1)
            limits = {name: value for name, value in self._limits.items() if name not in self._refused}
            body = json.dumps(asked | limits).encode()
            request = urllib.request.Request(f"{self.address}/chat/completions", body, headers)
            try:
                with self._lock:
                    self.sent += 1
                with self._opener.open(request, timeout=self._seconds) as response:
                    data = response.read(MAX_ANSWER + 1)
                if len(data) > MAX_ANSWER:
                    raise ServerError(f"{self.address} answers with more than {MAX_ANSWER:,} bytes")
                answer = json.loads(data)
                if isinstance(answer, dict) and answer.get("error") and not answer.get("choices"):
                    raise ValueError(f"it answers with an error: {json.dumps(answer['error'])[:200]}")
                return answer
            except urllib.error.HTTPError as error:
                said = _told(error)
                trouble = f"{error.code} {error.reason}: {said[:200]}"
                if error.code in (400, 422) and (refused := {name for name in limits if name in said}):
                    self._refused |= refused  # models that think first take neither
                    continue
                if error.code in (400, 403) and _FILTERED.search(said):
                    return {"choices": [{"message": {"content": f"refused: {said}"}}]}
                if error.code not in _AGAIN and error.code < 500:
                    break
                wait = max(wait, _seconds(error.headers.get("Retry-After")) or BUSY * (error.code == 429))
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                trouble = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt + 1 < TRIES:
                time.sleep(wait)
        raise ServerError(
            f"{self.address} does not answer for {self.model_name} ({trouble}); is it running, does its address end so (most end "
            "in /v1), and does it serve that model? What was answered so far is kept where answers go to a file"
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An image goes to the server that was named, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _told(refusal: urllib.error.HTTPError) -> str:
    """The beginning of what a server says to its refusal; "" where that breaks off."""
    try:
        with refusal:
            return " ".join(refusal.read(500).decode("utf-8", "replace").split())
    except (OSError, http.client.HTTPException):
        return ""


def _key() -> str:
    """The key of the environment, without the line's end that a file left on it.

    Raises:
        InputError: no header can hold it. It is not shown: messages end up in logs.
    """
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"the key in {KEY} holds letters that no key has; copy it anew")
    return key


def _is_here(host: str) -> bool:
    """Whether every address of ``host`` is of this machine."""
    try:
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError) as error:  # the second one of "a..b"
        raise InputError(f"{host} cannot be found: {error}") from None
    return all(ip.is_loopback or ip.is_unspecified for ip in map(ipaddress.ip_address, found))


def _seconds(text: str | None) -> float:
    """A ``Retry-After`` header in seconds, at most a minute; dates count as none."""
    return min(60.0, float(text)) if text and text.isdecimal() else 0.0
