"""Small requests that once stopped the server, while 16 honest callers call: they lose nothing.

Each attack runs alone first, which shows its CPU seconds and memory, and then beside the honest callers.
`make faults` runs all of them; `pytest -rP tests/system/attacks` prints the figures of each.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import urllib3

from tests.helpers.gateway import Gateway, run_gateway
from tests.helpers.servers import Prepare, Servers
from tests.system.attacks import on_gateway, on_triton
from tests.system.attacks.expensive_files import EXPENSIVE
from tests.system.attacks.honest import Call, HonestCallers
from tests.system.attacks.usage import Usage, measure
from tests.system.faults.callers import LABELS, TOLERANCE, Serving, images, scores, serve
from tests.system.fuzz.senders import GrpcSender
from tests.system.fuzz.wire import Reply
from tritonclip import Client, TritonClipError
from tritonclip_server.serving import processes

QUIET_ANSWERS = 320
ANSWERS_AFTER = 64
MAX_PEAK_MIB = 1024
"""Most memory that a process may hold during an attack."""

ON_TRITON: dict[str, Callable[[], on_triton.Attack]] = {
    **{name: lambda file=file: on_triton.image(file()) for name, file in EXPENSIVE.items()},  # type: ignore[misc]
    "256 rle_bitmap": lambda: on_triton.image(EXPENSIVE["rle_bitmap"](), 256),
    "many_texts": lambda: on_triton.many_texts,
    "long_text": lambda: on_triton.long_text,
    "huge_similarity": lambda: on_triton.huge_similarity,
    "forged_times": lambda: on_triton.forged_times,
}
ON_GATEWAY = (
    on_gateway.long_template,
    on_gateway.many_zeros,
    on_gateway.large_answer,
    on_gateway.blank_base64,
    on_gateway.honest_while_announced,
)


def _slow_but(attacks: Iterable[Any], *quick: object) -> list[Any]:
    """Mark the other attacks as slow: each costs up to a minute, and tests of its room guard its limit."""
    return [attack if attack in quick else pytest.param(attack, marks=pytest.mark.slow) for attack in attacks]


@pytest.fixture(scope="module")
def serving(prepare: Prepare, servers: Servers) -> Iterator[Serving]:
    """Serve the demo checkpoint with the default options of `serve`."""
    repository = prepare(
        "scripts/demo/checkpoint", "--precision", "float32", "--set", "vision_encoder.compile=off"
    )
    with serve(servers, "attacks: the supervisor must not restart it", repository) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(serving: Serving) -> Iterator[Gateway]:
    """Start a gateway with its default options."""
    with run_gateway(serving.grpc_url) as running:
        yield running


@pytest.fixture(scope="module")
def quiet_p99(serving: Serving) -> float:
    """Return the 99th percentile of the honest callers' latency without an attack, in seconds."""
    return _quiet(_by_triton(serving.grpc_url))


@pytest.fixture(scope="module")
def quiet_gateway_p99(gateway: Gateway) -> float:
    """Return the same for callers of the gateway."""
    return _quiet(_by_gateway(gateway.url))


@pytest.mark.parametrize("name", _slow_but(ON_TRITON, "256 rle_bitmap", "huge_similarity"))
def test_an_expensive_request_to_triton_costs_honest_callers_nothing(
    name: str, serving: Serving, quiet_p99: float, record_property: Callable[[str, object], None]
) -> None:
    attack, before = ON_TRITON[name](), _server(serving)
    sender = GrpcSender(serving.grpc_url)
    with measure(serving.process.pid) as alone:
        replies = attack(sender)
    with HonestCallers(_by_triton(serving.grpc_url)) as honest:
        honest.wait_for(ANSWERS_AFTER)
        replies += attack(sender)
        honest.wait_for(ANSWERS_AFTER)
    _report(record_property, alone, honest, quiet_p99, [_short(reply) for reply in replies])
    assert not honest.lost
    assert on_triton.honest_batch(sender)[0].status == "OK"
    assert _server(serving) == before
    assert max(alone.peak_mib.values()) < MAX_PEAK_MIB
    sender.close()


@pytest.mark.parametrize("attack", _slow_but(ON_GATEWAY, on_gateway.many_zeros))
def test_an_expensive_request_to_the_gateway_costs_honest_callers_nothing(
    attack: Callable[[str], list[int]],
    serving: Serving,
    gateway: Gateway,
    quiet_gateway_p99: float,
    record_property: Callable[[str, object], None],
) -> None:
    before = _server(serving)
    with measure(serving.process.pid, gateway.process.pid or 0) as alone:
        statuses = attack(gateway.url)
    with HonestCallers(_by_gateway(gateway.url)) as honest:
        honest.wait_for(ANSWERS_AFTER)
        statuses += attack(gateway.url)
        honest.wait_for(ANSWERS_AFTER)
    _report(record_property, alone, honest, quiet_gateway_p99, statuses)
    assert not honest.lost
    assert attack is not on_gateway.honest_while_announced or set(statuses) == {200}
    assert _server(serving) == before
    assert gateway.process.is_alive()
    assert max(alone.peak_mib.values()) < MAX_PEAK_MIB


def _server(serving: Serving) -> tuple[int, dict[int, str]]:
    """Return the processes of the server, which a restart would replace."""
    return serving.triton_pid, processes.stubs(serving.triton_pid)


def _quiet(connect: Callable[[int], Call]) -> float:
    with HonestCallers(connect) as honest:
        honest.wait_for(QUIET_ANSWERS)
    assert not honest.lost
    return honest.p99_s


def _by_triton(url: str) -> Callable[[int], Call]:
    with Client(url) as client:
        right = [scores(client, [picture]) for picture in images()]

    def connect(number: int) -> Call:
        client = Client(url, attempts=1)
        picture, expected = images()[number % len(right)], right[number % len(right)]

        def call() -> str | None:
            try:
                found = scores(client, [picture])
            except TritonClipError as error:
                return f"{type(error).__name__}: {error.message[:100]}"
            return None if abs(found - expected).max() <= TOLERANCE else f"wrong scores {found}"

        return call

    return connect


def _by_gateway(url: str) -> Callable[[int], Call]:
    body = {"images": [base64.b64encode(images()[0]).decode()], "labels": LABELS}
    encoded = json.dumps(body).encode()

    def post(pool: urllib3.PoolManager) -> urllib3.BaseHTTPResponse:
        headers = {"Content-Type": "application/json"}
        return pool.request("POST", f"{url}/v1/classify", body=encoded, headers=headers)

    with urllib3.PoolManager() as pool:
        best = post(pool).json()["results"][0]["predictions"][0]["label"]

    def connect(number: int) -> Call:
        pool = urllib3.PoolManager(retries=False)

        def call() -> str | None:
            try:
                answer = post(pool)
            except urllib3.exceptions.HTTPError as error:
                return repr(error)[:100]
            if answer.status != 200:
                return f"{answer.status} {answer.data[:100]!r}"
            found = answer.json()["results"][0]["predictions"][0]["label"]
            return None if found == best else f"wrong label {found}"

        return call

    return connect


def _short(reply: Reply) -> str:
    return f"{reply.status} {reply.message[:160]}".strip()


def _report(
    record: Callable[[str, object], None],
    alone: Usage,
    honest: HonestCallers,
    quiet_s: float,
    answers: list[Any],
) -> None:
    """Print and record the figures, before any assertion."""
    peaks = sorted(alone.peak_mib.items(), key=lambda one: -one[1])
    largest = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in peaks[:4])
    lines = [
        f"alone: {alone.cpu_s:.1f} CPU s, peaks {largest}",
        f"honest: {len(honest.seconds)} answered, {sum(honest.lost.values())} lost {dict(honest.lost)}",
        f"p99 {honest.p99_s:.3f} s, quiet {quiet_s:.3f} s",
        f"answers: {', '.join(sorted({str(one) for one in answers}))}",
    ]
    print("\n".join(lines))  # noqa: T201  # pytest shows it with -rP, or if the test fails
    record("CPU seconds", alone.cpu_s)
    record("largest peak (MiB)", peaks[0][1])
    record("lost", sum(honest.lost.values()))
    record("p99 over quiet p99", honest.p99_s / quiet_s)
