"""Probes and gateways of the Kubernetes manifests, run as the kubelet would run them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.gateway import KEY, KEY_LINE, Gateway, run_gateway
from tests.system.docker.kubernetes_manifests import overlay
from tritonclip._cli.main import main

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
EXIT_OK, EXIT_UNAVAILABLE = 0, 3


def run_probe(server: str, timeout_s: float = 120) -> int:
    """Run the command of the server's probes in this process, and return its exit code.

    Args:
        server: Address of the server, in place of the one in the manifests.
        timeout_s: Time limit, in place of the one in the manifests.
    """
    (command,) = {
        tuple(overlay("gpu").container("tritonclip-server")[one]["exec"]["command"]) for one in PROBES
    }
    program, *arguments = command
    assert program == "tritonclip"
    arguments[arguments.index("localhost:8001")] = server
    arguments[arguments.index("--timeout") + 1] = str(timeout_s)
    return main(arguments)


@contextlib.contextmanager
def run_pod_gateway(server: str, directory: Path) -> Iterator[Gateway]:
    """Run a gateway with the arguments of the manifests, except for server name and path of the keys."""
    keys = directory / "keys"
    keys.write_text(KEY_LINE, "utf-8")
    container = overlay("gpu").container("tritonclip-gateway")
    url, *arguments = container["args"]
    assert url == "--url=tritonclip-server-headless:8001"
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "keys")
    arguments = [one.replace(mount["mountPath"], str(directory)) for one in arguments]
    assert f"--keys-file={keys}" in arguments
    with run_gateway(server, *arguments, key=KEY) as gateway:
        yield gateway
