"""The command line of `tritonserver`, and its differences between releases of Triton.

The embedded release and the pinned container start from the same options. A release exits at once on a flag
that it does not know. So each flag that is newer than the embedded release is listed here with the first
release that knows it. `config.pbtxt` holds only fields that both releases know.

Source: `src/command_line_parser.cc` in the release branches of triton-inference-server/server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HTTP_MAX_INPUT_BYTES = 73 * 2**20
"""Limit of the models for images and texts, plus the encoding; equals `MAX_BODY_SIZE` of `docker/nginx`."""
CONNECTION_AGE_MS = 300_000
"""Age at which a gRPC client must reconnect, and so finds new servers. Calls in flight are not cut off."""
GRPC_INFER_THREADS = 8
"""Threads that read gRPC requests; the default of 2 limits a server with a GPU."""
ADMIN_ENDPOINTS = "shared-memory,model-repository,trace,logging"
ADMIN_HEADER = "admin-key"
"""HTTP header of the admin key; in gRPC's metadata its name starts with `triton-grpc-protocol-`."""


@dataclass(frozen=True, order=True)
class Release:
    """A release of Triton; the container 24.10 has 2.51.0."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Release:
        """Parse `2.71.0` or `2.71.0dev`.

        Raises:
            ValueError: The text is not a release.
        """
        major, minor, patch = text.strip().split(".")[:3]
        return cls(int(major), int(minor), int("".join(filter(str.isdigit, patch)) or 0))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


EMBEDDED = Release(2, 51)
"""Release in the wheel nvidia-pytriton 0.7.0."""
PINNED = Release(2, 71)
"""Release in the container 26.07, the base of `docker/Dockerfile`."""
FIRST_WITH = {
    "grpc-infer-thread-count": Release(2, 57),  # 25.04
    "http-max-input-size": Release(2, 59),  # 25.06
}
"""First release that knows a flag. The embedded release knows all other flags."""


def server_flags(
    release: Release,
    *,
    admin_key: str,
    explicit: bool,
    gpu: bool,
    exit_timeout_s: float,
) -> dict[str, str]:
    """Return the flags of `tritonserver` other than addresses and paths, by name without dashes.

    Args:
        release: Release that gets the flags.
        admin_key: Key that callers of the closed endpoints must send.
        explicit: Let these callers load and unload models.
        gpu: True if the host has a GPU.
        exit_timeout_s: Time that Triton waits for requests in flight when it exits, in seconds.
    """
    closed = f"{ADMIN_ENDPOINTS}:{ADMIN_HEADER}={admin_key}"
    flags = {
        "model-control-mode": "explicit" if explicit else "none",
        # With strict readiness, one version that does not load would keep the server unready for good.
        "strict-readiness": str(not explicit).lower(),
        "exit-timeout-secs": str(int(exit_timeout_s)),
        "http-restricted-api": closed,
        "grpc-restricted-protocol": closed,
        "allow-gpu-metrics": str(gpu).lower(),
        "http-max-input-size": str(HTTP_MAX_INPUT_BYTES),
        "grpc-max-connection-age": str(CONNECTION_AGE_MS),
        "grpc-infer-thread-count": str(GRPC_INFER_THREADS),
    }
    if explicit:
        flags["load-model"] = "*"
    return {name: value for name, value in flags.items() if knows(release, name)}


def knows(release: Release, flag: str) -> bool:
    """Return whether a release knows a flag."""
    return release >= FIRST_WITH.get(flag, EMBEDDED)


def command_line(flags: Mapping[str, str]) -> list[str]:
    """Return the arguments for flags by name, and `--disable-auto-complete-config`, which has no value."""
    return [*(f"--{name}={value}" for name, value in flags.items()), "--disable-auto-complete-config"]
