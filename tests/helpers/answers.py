"""An HTTP server in the test's process that gives every request the same answer."""

from __future__ import annotations

import contextlib
import http.server
import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.helpers.threads import in_thread


class Answers(http.server.ThreadingHTTPServer):
    """A server that answers every request with `status` and `body`.

    Attributes:
        status: Status of the answers.
        body: Body of the answers.
        bodies: Bodies of the requests so far; that of a GET request is empty.
        before_answer: Called in the request's thread after its body is recorded and before it is answered.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.status, self.body = 200, b""
        self.bodies: list[bytes] = []
        self.before_answer: Callable[[], object] = lambda: None

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """Parameters of each inference request."""
        starts = [json.JSONDecoder().raw_decode(body.decode("latin-1"))[0] for body in self.bodies if body]
        return [start["parameters"] for start in starts]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Answers

    def do_GET(self) -> None:  # noqa: N802  # called by http.server
        self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.server.before_answer()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def answering() -> Iterator[Answers]:
    """Run a server that answers every request with status 200 and nothing, until its attributes are set."""
    with in_thread(Answers()) as server:
        yield server
