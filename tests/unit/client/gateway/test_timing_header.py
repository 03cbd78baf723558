"""The header X-Timing: parts that add up to the total."""

import pytest

from tritonclip import Timings
from tritonclip.gateway.observability.middleware import timing_header

ONE = Timings(1.0, 0.5, 2.0, 5.0, 0.25, 1.25, 3.0)


def read(header):
    parts = {name: float(value) for name, _, value in (part.partition("=") for part in header.split(", "))}
    return parts.pop("total"), parts


def test_gateway_has_what_the_request_to_triton_leaves():
    assert timing_header([ONE], 14.0) == (
        "total=14.00, queue=1.00, text=0.50, decode=2.00, encode=5.00, score=0.25, wire=1.25, gateway=4.00"
    )


@pytest.mark.parametrize(("count", "total_ms"), [(1, 10.0), (2, 30.0), (4, 10.0), (8, 10.0)])
def test_parts_add_up_to_the_total(count, total_ms):
    total, parts = read(timing_header([ONE] * count, total_ms))
    assert total == total_ms
    assert sum(parts.values()) == pytest.approx(total, abs=0.04)
    assert min(parts.values()) >= 0
    assert parts["decode"] == pytest.approx(4 * parts["text"], abs=0.03)
