from __future__ import annotations

import asyncio
import logging

import pytest

from tritonclip import AsyncClient, Health
from tritonclip.gateway.observability.readiness import ReadinessCheck, describe_unready

DUMP = "StatusCode.UNAVAILABLE: connections to all backends failing; last error: ipv4:10.0.0.7:8001"
READY = {"clip_zero_shot": True, "clip_image_embedding": True}


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (
            Health(live=True, ready=False, models=READY, inference="failed", reason=DUMP),
            "server is not ready",
        ),
        (Health(live=False, ready=False, models=READY, inference="failed"), "server is not ready"),
        (
            Health(live=True, ready=True, models={**READY, "clip_zero_shot": False}, inference="failed"),
            "not ready: clip_zero_shot",
        ),
        (
            Health(live=True, ready=True, models=READY, inference="timeout", reason=DUMP),
            "a test image got no answer within 5 s",
        ),
        (
            Health(live=True, ready=True, models=READY, inference="failed", reason=DUMP),
            "the inference of a test image failed",
        ),
    ],
)
def test_part_that_is_not_ready_is_named_without_transport_text(health: Health, expected: str) -> None:
    assert not health.ok
    reason = describe_unready(health)
    assert expected in reason
    assert "StatusCode" not in reason
    assert "10.0.0.7" not in reason


def test_unreachable_server_is_named_and_its_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def check() -> Health | str:
        async with AsyncClient("localhost:1", attempts=1) as client:
            return await ReadinessCheck(client).health()

    with caplog.at_level(logging.WARNING, "tritonclip.gateway"):
        assert asyncio.run(check()) == "the inference server cannot be reached"
    assert "localhost:1" in caplog.text
