"""Access to a gateway's metrics."""

from __future__ import annotations

from tritonclip_server.benchmarks.gateway_process import GatewayProcess


def metric(gateway: GatewayProcess, name: str) -> float:
    """Return the sum of the metrics whose lines start with a name."""
    text = gateway.request("GET", "/metrics").data.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
