"""What a gateway counts."""

from __future__ import annotations

from tritonclip_server.benchmarks.gateway_process import GatewayProcess


def metric(gateway: GatewayProcess, name: str) -> float:
    """The sum of the metrics whose lines begin so."""
    text = gateway.request("GET", "/metrics").data.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
