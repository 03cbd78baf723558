"""HTTP transport with a `tritonclient` client per thread, since they use gevent and are not thread-safe."""

from __future__ import annotations

import http.client
import itertools
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import gevent
import gevent.ssl
import tenacity
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tritonclip._calls.codec import Call
from tritonclip._calls.request import Request
from tritonclip._calls.wire import Answer, Question
from tritonclip._process import forks
from tritonclip._retry import call_retry_policy
from tritonclip._settings import Settings
from tritonclip._transport.base import (
    MAX_ANSWER_BYTES,
    call_failure,
    http_compression,
    infer_arguments,
    read_answer,
    read_reply,
    round_robin,
    send_question,
    tls_context,
    too_large_answer,
    with_all_endpoints,
)

M = TypeVar("M", bound=Call[Any] | Question)
T = TypeVar("T")


class _LimitedSocket:
    """A socket of gevent that limits the bytes which it receives after a request is sent."""

    def __init__(self, socket: Any, endpoint: str) -> None:
        self._socket, self._endpoint = socket, endpoint
        self._left = MAX_ANSWER_BYTES

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: bytes) -> None:
        self._left = MAX_ANSWER_BYTES
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        data: bytes = self._socket.recv(size)
        self._left -= len(data)
        if self._left < 0:
            raise too_large_answer(self._endpoint)
        return data


class _ThreadClient:
    """One thread's client of one server.

    `calls` counts the calls that run on it, which can be several if the caller uses greenlets.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        # Socket operations have no timeouts, because the deadline covers the whole call.
        self.client: Any = triton.InferenceServerClient(
            url,
            connection_timeout=None,
            network_timeout=None,
            ssl=settings.secure,
            ssl_context_factory=lambda: tls_context(gevent.ssl, settings),
        )
        # A deadline in the middle of a call leaves its socket outside the pool, so nothing else closes it.
        self._sockets: weakref.WeakSet[Any] = weakref.WeakSet()
        pool, endpoint = self.client._client_stub._connection_pool, f"{settings.scheme}://{url}"
        pool.after_connect = self._sockets.add
        connect = pool._create_socket
        pool._create_socket = lambda: _LimitedSocket(connect(), endpoint)
        self.calls = 0
        self.retired = False  # takes no new calls; the last running call closes it

    def close(self) -> None:
        self.client.close()
        for socket in list(self._sockets):
            socket.close()
        _HUBS.unregister(self)


class _HubRegistry:
    """The gevent hubs of the threads that made calls, and the clients that use them.

    A hub that outlives its thread keeps 4 files open, and closing a client after its thread has ended opens
    another hub. So the registry holds both, and the next thread that makes a call frees them.
    """

    def __init__(self) -> None:
        self._start_empty()
        forks.renew_in_children(self)

    def _start_empty(self) -> None:
        self._lock = threading.RLock()  # a garbage collection may close a transport anywhere
        self._by_thread: dict[threading.Thread, tuple[Any, set[_ThreadClient]]] = {}

    def renew(self) -> None:
        """Start without clients in a forked process, and make gevent usable there."""
        gevent.reinit()
        forks.leave_to_parent(self._by_thread)
        self._start_empty()

    def register(self, held: _ThreadClient) -> None:
        """Hold this thread's hub and client, and free those of threads that have ended."""
        hub = gevent.get_hub()
        with self._lock:
            ended = [thread for thread in self._by_thread if not thread.is_alive()]
            left = [self._by_thread.pop(thread) for thread in ended]
            self._by_thread.setdefault(threading.current_thread(), (hub, set()))[1].add(held)
        for other, clients in left:
            for abandoned in clients:
                abandoned.client.close()  # its thread has ended, so no call and no other socket is left
            if other is not hub:  # with gevent's monkey patch all "threads" share one live hub
                other.loop.destroy()

    def unregister(self, held: _ThreadClient) -> None:
        """Drop a client that is closed."""
        with self._lock:
            for _, clients in self._by_thread.values():
                clients.discard(held)


_HUBS = _HubRegistry()


class HttpTransport:
    """The `Transport` over HTTP."""

    def __init__(self, settings: Settings) -> None:
        """Store the settings; each thread connects at its first call."""
        self._settings = settings
        self._turn = itertools.count()  # of the servers, if there are several
        self._closed = False
        self.renew()
        forks.renew_in_children(self)

    def renew(self) -> None:
        """Start without clients; the registry keeps those of the parent process."""
        self._local = threading.local()
        self._lock = threading.Lock()  # guards the clients; never held during a call
        self._held: weakref.WeakSet[_ThreadClient] = weakref.WeakSet()

    def infer(self, call: Call[Any], request: Request) -> Answer:
        """See `Transport`. A deadline closes the connection; the server still finishes its work."""
        return self._send(self._infer, call, request)

    def ask(self, question: Question, request: Request) -> Any:
        """See `Transport`."""
        return self._send(self._ask, question, request)

    def close(self) -> None:
        """See `Transport`. Calls in flight in other threads finish first and then close their client."""
        with self._lock:
            self._closed = True
            held = list(self._held)
            for one in held:
                one.retired = True
            idle = [one for one in held if not one.calls]
        for one in idle:
            one.close()

    def __del__(self) -> None:
        """Close clients that were not closed, since the registry holds them too."""
        self.close()

    def _infer(self, client: Any, call: Call[Any], request: Request) -> Answer:
        arguments = infer_arguments(triton, call, request)
        return read_answer(call, client.infer(**arguments, **http_compression(self._settings)))

    def _ask(self, client: Any, question: Question, request: Request) -> Any:
        return read_reply(question, send_question(client, question, headers=dict(request.headers)))

    def _send(self, attempt: Callable[[Any, M, Request], T], message: M, request: Request) -> T:
        """Attempt until success, an error that no retry can fix, the last attempt, or the deadline.

        Each attempt goes to the next server.
        """
        retrying = tenacity.Retrying(**call_retry_policy(self._settings.attempts, request))
        servers = round_robin(self._settings, self._turn)
        with with_all_endpoints(self._settings):
            answer: T = retrying(lambda: self._attempt(next(servers), attempt, message, request))
        return answer

    def _attempt(self, url: str, attempt: Callable[[Any, M, Request], T], message: M, request: Request) -> T:
        held = self._acquire(url)
        limit = gevent.Timeout(request.deadline.left_s)
        endpoint = f"{self._settings.scheme}://{url}"
        failure = partial(call_failure, model=message.model, request=request, endpoint=endpoint)
        try:
            with limit:
                return attempt(held.client, message, request)
        except InferenceServerException as error:  # a complete response, so the connection can be reused
            raise failure(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not JSON
            held.retired = True
            raise failure(error) from error
        except BaseException as error:
            held.retired = True  # the connection may be in the middle of a response
            if error is not limit:  # Ctrl-C, or the caller's own limit around the call
                raise
            raise failure(TimeoutError()) from error
        finally:
            self._release(held)

    def _acquire(self, url: str) -> _ThreadClient:
        """Return this thread's client of a server, and count one more call on it."""
        clients: dict[str, _ThreadClient] = self._local.__dict__.setdefault("clients", {})
        held = clients.get(url)
        with self._lock:
            if held is not None and not held.retired:
                held.calls += 1
                return held
        held = _ThreadClient(url, self._settings)
        _HUBS.register(held)
        with self._lock:
            held.calls, held.retired = 1, self._closed
            self._held.add(held)
        clients[url] = held
        return held

    def _release(self, held: _ThreadClient) -> None:
        """Count one call less; the last call on a retired client closes it."""
        with self._lock:
            held.calls -= 1
            last = held.retired and not held.calls
        if last:
            held.close()
