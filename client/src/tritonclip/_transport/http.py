"""HTTP by `tritonclient` clients of each thread's own: they are built on gevent and not safe for threads."""

from __future__ import annotations

import http.client
import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import gevent
import gevent.ssl
import tenacity
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tritonclip._calls.request import Request
from tritonclip._calls.wire import Model, Tensor
from tritonclip._retry import within
from tritonclip._settings import Settings
from tritonclip._transport.base import (
    build_request,
    call_failure,
    http_compression,
    http_parameters,
    in_turn,
    infer_options,
    naming_all,
    read_answer,
    tls_context,
)
from tritonclip._types import Answer, Tensors

T = TypeVar("T")


class _Seat:
    """One thread's client of one server.

    `calls` counts those that run on it: several, if the caller uses greenlets.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        # No limits on single socket operations: the deadline of the whole call stands over them.
        self.client: Any = triton.InferenceServerClient(
            url,
            connection_timeout=None,
            network_timeout=None,
            ssl=settings.secure,
            ssl_context_factory=lambda: tls_context(gevent.ssl, settings),
        )
        # A deadline in the middle of a call leaves its socket outside the pool, with nobody to close it.
        self._sockets: weakref.WeakSet[Any] = weakref.WeakSet()
        self.client._client_stub._connection_pool.after_connect = self._sockets.add
        self.calls = 0
        self.dropped = False  # takes no new calls; closed by the last one that runs

    def close(self) -> None:
        self.client.close()
        for socket in list(self._sockets):
            socket.close()
        _HUBS.leave(self)


class _Hubs:
    """The gevent hubs of the threads that have called, and the seats that hang on them.

    A hub that outlives its thread keeps 4 files open, and a client that is closed only by the end of its
    thread makes one more. So both are held here, and freed by the next thread that comes.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a transport may be collected, and so closed, anywhere
        self._by_thread: dict[threading.Thread, tuple[Any, set[_Seat]]] = {}

    def enter(self, seat: _Seat) -> None:
        """Hold this thread's hub and seat, and free those of threads that have ended."""
        hub = gevent.get_hub()
        with self._lock:
            ended = [thread for thread in self._by_thread if not thread.is_alive()]
            left = [self._by_thread.pop(thread) for thread in ended]
            self._by_thread.setdefault(threading.current_thread(), (hub, set()))[1].add(seat)
        for other, seats in left:
            for abandoned in seats:
                abandoned.client.close()  # with the thread no call is left, and so no socket outside
            if other is not hub:  # under gevent's monkey patch all "threads" share one living hub
                other.loop.destroy()

    def leave(self, seat: _Seat) -> None:
        """Let go of a seat that is closed."""
        with self._lock:
            for _, seats in self._by_thread.values():
                seats.discard(seat)


_HUBS = _Hubs()


class HttpTransport:
    """The `Transport` over HTTP."""

    def __init__(self, settings: Settings) -> None:
        """Keep the settings; each thread connects at its first call."""
        self._settings = settings
        self._turn = itertools.count()  # of the servers, where there are several
        self._local = threading.local()
        self._lock = threading.Lock()  # guards the seats; never held during a call
        self._seats: weakref.WeakSet[_Seat] = weakref.WeakSet()
        self._closed = False

    def infer(self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], request: Request) -> Answer:
        """See `Transport`. At the deadline the connection is closed; the server still ends its work."""

        def send(client: Any) -> Answer:
            tensors, wanted = build_request(triton, model, inputs, outputs)
            result = client.infer(
                model.name,
                tensors,
                outputs=wanted,
                **http_compression(self._settings),
                **infer_options(request),
            )
            return read_answer(result, outputs)

        return self._call(send, model, request)

    def server_live(self, request: Request) -> bool:
        """See `Transport`."""
        return self._ask(lambda client, headers: bool(client.is_server_live(headers)), None, request)

    def server_ready(self, request: Request) -> bool:
        """See `Transport`."""
        return self._ask(lambda client, headers: bool(client.is_server_ready(headers)), None, request)

    def model_ready(self, model: Model, request: Request) -> bool:
        """See `Transport`."""
        return self._ask(
            lambda client, headers: bool(client.is_model_ready(model.name, headers=headers)), model, request
        )

    def model_parameters(self, model: Model, request: Request) -> dict[str, str]:
        """See `Transport`."""
        return self._ask(
            lambda client, headers: http_parameters(client.get_model_config(model.name, headers=headers)),
            model,
            request,
        )

    def statistics(self, request: Request) -> list[dict[str, Any]]:
        """See `Transport`."""
        reply = self._ask(
            lambda client, headers: client.get_inference_statistics(headers=headers), None, request
        )
        return list(reply.get("model_stats", []))

    def close(self) -> None:
        """See `Transport`. Calls that still run in other threads end first and then close their own."""
        with self._lock:
            self._closed = True
            seats = list(self._seats)
            for seat in seats:
                seat.dropped = True
            idle = [seat for seat in seats if not seat.calls]
        for seat in idle:
            seat.close()

    def __del__(self) -> None:
        """Close what was not closed: the seats are held elsewhere too."""
        self.close()

    def _ask(self, question: Callable[[Any, dict[str, str]], T], model: Model | None, request: Request) -> T:
        return self._call(lambda client: question(client, dict(request.headers)), model, request)

    def _call(self, send: Callable[[Any], T], model: Model | None, request: Request) -> T:
        """Try until it works, is refused, or attempts or time are over; each try goes to the next server."""
        retrying = tenacity.Retrying(**within(self._settings.attempts, request))
        servers = in_turn(self._settings, self._turn)
        with naming_all(self._settings):
            answer: T = retrying(lambda: self._try(next(servers), send, model, request))
        return answer

    def _try(self, url: str, send: Callable[[Any], T], model: Model | None, request: Request) -> T:
        seat = self._sit_down(url)
        limit = gevent.Timeout(request.deadline.left_s)
        endpoint = f"{self._settings.scheme}://{url}"
        failure = partial(call_failure, model=model, request=request, endpoint=endpoint)
        try:
            with limit:
                return send(seat.client)
        except InferenceServerException as error:  # a whole answer: the connection stays good
            raise failure(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not JSON
            seat.dropped = True
            raise failure(error) from error
        except BaseException as error:
            seat.dropped = True  # the connection may be in the middle of an answer
            if error is not limit:  # Ctrl-C, or a limit of the caller's own around the call
                raise
            raise failure(TimeoutError()) from error
        finally:
            self._stand_up(seat)

    def _sit_down(self, url: str) -> _Seat:
        """This thread's seat at a server, one call more on it."""
        seats: dict[str, _Seat] = self._local.__dict__.setdefault("seats", {})
        seat = seats.get(url)
        with self._lock:
            if seat is not None and not seat.dropped:
                seat.calls += 1
                return seat
        seat = _Seat(url, self._settings)
        _HUBS.enter(seat)
        with self._lock:
            seat.calls, seat.dropped = 1, self._closed
            self._seats.add(seat)
        seats[url] = seat
        return seat

    def _stand_up(self, seat: _Seat) -> None:
        """One call less; the last one on a dropped seat closes it."""
        with self._lock:
            seat.calls -= 1
            last = seat.dropped and not seat.calls
        if last:
            seat.close()
