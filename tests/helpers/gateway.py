"""API key of the gateways in the tests, and access to a gateway's metrics."""

from __future__ import annotations

import hashlib

from tritonclip_server.benchmarks.gateway_process import GatewayProcess

KEY = "tck-a-key-of-the-tests-only"
KEY_LINE = f"tests:{hashlib.sha256(KEY.encode()).hexdigest()}"
"""Line of the key in a keys file."""


def metric(gateway: GatewayProcess, name: str) -> float:
    """Return the sum of the metrics whose lines start with a name."""
    text = gateway.request("GET", "/metrics").data.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
