"""Load of a soak: its stages, its report, and the requests of clients that disconnect."""

from collections import Counter

import pytest
from loadtest.soaking.hangups import http_request, socket_address
from loadtest.soaking.locust_run import (
    BURST_FACTOR,
    BURST_SHARE,
    USERS,
    Failure,
    burst_stages,
    read_history,
    unexpected_failures,
)

from tests.helpers.servers import ROOT

IMAGE = (ROOT / "scripts" / "demo" / "images" / "red_circle.jpg").read_bytes()


def bursts(stages):
    """Return the beginning and end of each burst."""
    at, found = 0.0, []
    for users, seconds in stages:
        if users > USERS:
            found.append((at, at + seconds))
        at += seconds
    return found


@pytest.mark.parametrize("total_s", [30, 60, 1200, 86_400])
def test_stages_have_the_requested_length_and_share_of_bursts(total_s):
    stages = burst_stages(total_s, 0.3)
    assert sum(seconds for _, seconds in stages) == pytest.approx(total_s, abs=1)
    assert {users for users, _ in stages} == {USERS, BURST_FACTOR * USERS}
    took_s = sum(end - begin for begin, end in bursts(stages))
    assert took_s == pytest.approx(BURST_SHARE * total_s, rel=0.01)
    assert sum(end < 0.2 * total_s for _, end in bursts(stages)) >= 2


def test_bursts_of_the_protocols_do_not_overlap():
    times = sorted([*bursts(burst_stages(60, 0.3)), *bursts(burst_stages(60, 0.8))])
    assert all(end <= begin for (_, end), (begin, _) in zip(times, times[1:], strict=False))


def test_rejections_and_deadlines_are_expected_failures():
    failures = Counter(
        {
            Failure("classify - rejected", "RequestFailedError('rejected: overloaded')"): 5,
            Failure("classify - deadline", "RequestFailedError('deadline: no answer')"): 4,
            Failure("embed_texts - wrong answer", "RequestFailedError('wrong answer: not finite')"): 1,
            Failure("classify - error", "RequestFailedError('error: x - rejected"): 2,
        }
    )
    assert list(unexpected_failures(failures).values()) == [1, 2]


def test_history_skips_lines_without_latencies():
    line = {"Timestamp": "1010", "User Count": "8", "Name": "Aggregated", "50%": "9", "99%": "20"}
    others = [line | {"50%": "N/A"}, line | {"Name": "classify"}]
    (point,) = read_history([line, *others], began_s=1000)
    assert (point.time_s, point.users, point.p50_ms, point.p99_ms) == (10, 8, 9, 20)


def test_http_request_has_the_right_content_length():
    assert socket_address("127.0.0.1:8000") == ("127.0.0.1", 8000)
    head, _, body = http_request("127.0.0.1:8000", IMAGE).partition(b"\r\n\r\n")
    assert f"\r\nContent-Length: {len(body)}".encode() in head
    assert IMAGE in body
