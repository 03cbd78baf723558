"""Various callers of a server and its gateway, with counts of their outcomes."""

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
HOPELESS_S = 120


class MonitoredLoad:
    """Callers in threads; a context manager. Nobody retries, so each call is one request to the server.

    Args:
        grpc_url: Address of the server.
        gateway_url: Address of its gateway, which runs with `--attempts 1`.
        flood: Number of callers that send eight images without a pause, and of others that send twenty new
            labels without a pause. All other callers pause between calls.
    """

    def __init__(self, grpc_url: str, gateway_url: str, flood: int = 0) -> None:
        self.outcomes: Counter[str] = Counter()
        self._client = Client(grpc_url, attempts=1, timeout_s=HOPELESS_S)
        self._gateway_url, self._numbers = gateway_url, itertools.count()
        self._pool = urllib3.PoolManager(maxsize=8, retries=False)
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._image = encode(noise(400, 300), "JPEG")
        calls = [self._classify, self._embed_images, self._embed_texts, self._send_no_image, self._time_out]
        calls += [self._post_images, self._post_texts, self._post_empty_input]
        floods = flood * [self._flood_images, self._flood_texts]
        self._threads = [threading.Thread(target=self._repeat, args=(call, PAUSE_S)) for call in calls]
        self._threads += [threading.Thread(target=self._repeat, args=(call, 0)) for call in floods]
        self._threads.append(threading.Thread(target=self._probe_readiness))

    def __enter__(self) -> MonitoredLoad:
        """Start the callers."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the callers, and wait for their last calls."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._pool.clear()

    def _repeat(self, call: Callable[[], str], pause_s: float) -> None:
        while not self._stopped.wait(pause_s):
            try:
                outcome = call()
            except TritonClipError as error:
                outcome = "overloaded" if "overloaded" in str(error) else type(error).__name__
            with self._lock:
                self.outcomes[outcome] += 1

    def _new_labels(self, count: int) -> list[str]:
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

    def _flood_images(self) -> str:
        self._client.classify([self._image] * 8, KNOWN_LABELS)
        return "answered"

    def _flood_texts(self) -> str:
        self._client.embed_texts(self._new_labels(20))
        return "answered"

    def _send_no_image(self) -> str:
        self._client.embed_images([b"no image"])
        return "answered"

    def _time_out(self) -> str:
        self._client.classify([self._image] * 4, KNOWN_LABELS, timeout_s=NO_TIME_S)
        return "answered"

    def _post_images(self) -> str:
        fields = [("images", ("a.jpg", self._image)), *(("labels", label) for label in KNOWN_LABELS)]
        return self._outcome(self._ask("POST", "/v1/classify", fields=fields))

    def _post_texts(self) -> str:
        return self._outcome(self._ask("POST", "/v1/embeddings", json={"input": KNOWN_LABELS}))

    def _post_empty_input(self) -> str:
        reply = self._ask("POST", "/v1/embeddings", json={"input": []})
        return "rejected by the gateway" if reply.status == 400 else self._outcome(reply)

    def _ask(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        return self._pool.request(method, self._gateway_url + path, **options)

    def _outcome(self, reply: urllib3.BaseHTTPResponse) -> str:
        status, text = reply.status, reply.data.decode()
        if status == 200:
            return "answered" if "overloaded" not in text else "overloaded"
        return "overloaded" if "overloaded" in text else f"{status}"

    def _probe_readiness(self) -> None:
        while not self._stopped.wait(PAUSE_S):
            self._ask("GET", "/readyz")
