"""Callers of a server and of its gateway, of all kinds, and what becomes of their calls."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import urllib3

from tests.helpers.pictures import encode, noise
from tritonclip import Client, TritonClipError

KNOWN_LABELS = ["a red circle", "a blue square", "a green triangle"]
NO_TIME_S = 0.01
PAUSE_S = 0.2


class Load:
    """Callers in threads; a context manager. Nobody tries twice, so each call is one request of the server.

    Args:
        grpc_url: The server.
        gateway_url: That of one in front of it, with `--attempts 1`.
        flood: How many callers send eight images and twenty labels that nobody has sent before, without a
            pause; all others wait a little between two calls.
        counted: Only callers who can tell what the server made of a call: none in a hurry, none at /readyz.
    """

    def __init__(self, grpc_url: str, gateway_url: str, flood: int = 0, counted: bool = False) -> None:
        self.outcomes: Counter[str] = Counter()
        self._client = Client(grpc_url, attempts=1, timeout_s=10)
        self._gateway_url, self._numbers = gateway_url, itertools.count()
        self._pool = urllib3.PoolManager(maxsize=8, retries=False)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._image = encode(noise(400, 300), "JPEG")
        calls = [self._classify, self._embed_images, self._embed_texts, self._spoiled]
        calls += [self._post_images, self._post_texts, self._post_nonsense] + flood * [self._flood]
        calls += [] if counted else [self._hasty]
        self._threads = [threading.Thread(target=self._repeat, args=(call,)) for call in calls]
        self._threads += [] if counted else [threading.Thread(target=self._ask_whether_ready)]

    def __enter__(self) -> Load:
        """Starts them."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits for their last calls."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._pool.clear()

    def _repeat(self, call: Callable[[], str]) -> None:
        while not self._over.wait(0 if call == self._flood else PAUSE_S):
            try:
                outcome = call()
            except TritonClipError as error:
                outcome = "overloaded" if "overloaded" in str(error) else type(error).__name__
            with self._lock:
                self.outcomes[outcome] += 1

    def _unheard(self, count: int) -> list[str]:
        first = next(self._numbers) * count
        return [f"label {number}" for number in range(first, first + count)]

    def _classify(self) -> str:
        self._client.classify([self._image], KNOWN_LABELS)
        return "answered"

    def _embed_images(self) -> str:
        self._client.embed_images([self._image])
        return "answered"

    def _embed_texts(self) -> str:
        self._client.embed_texts(KNOWN_LABELS)
        return "answered"

    def _flood(self) -> str:
        self._client.classify([self._image] * 8, self._unheard(20))
        return "answered"

    def _spoiled(self) -> str:
        self._client.embed_images([b"no image"])
        return "answered"

    def _hasty(self) -> str:
        self._client.classify([self._image] * 4, KNOWN_LABELS, timeout_s=NO_TIME_S)
        return "answered"

    def _post_images(self) -> str:
        fields = [("images", ("a.jpg", self._image)), *(("labels", label) for label in KNOWN_LABELS)]
        return self._outcome(self._ask("POST", "/v1/classify", fields=fields))

    def _post_texts(self) -> str:
        return self._outcome(self._ask("POST", "/v1/embeddings", json={"input": KNOWN_LABELS}))

    def _post_nonsense(self) -> str:
        reply = self._ask("POST", "/v1/embeddings", json={"input": []})
        return "refused by the gateway" if reply.status == 400 else self._outcome(reply)

    def _ask(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        return self._pool.request(method, self._gateway_url + path, **options)

    def _outcome(self, reply: urllib3.BaseHTTPResponse) -> str:
        status, text = reply.status, reply.data.decode()
        if status == 200:
            return "answered" if "overloaded" not in text else "overloaded"
        return "overloaded" if "overloaded" in text else f"{status}"

    def _ask_whether_ready(self) -> None:
        while not self._over.wait(PAUSE_S):
            self._ask("GET", "/readyz")
