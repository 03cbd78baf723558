"""What differs between the releases of Triton that this project runs on, in one place: its command line.

The embedded release and the pinned container must both start from the same options. A flag that a release
does not know ends it at once, so each that came after the embedded one stands here with the first release
that has it. `config.pbtxt` holds only fields that the embedded release knows, and later ones kept.

Source: `src/command_line_parser.cc` in the release branches of triton-inference-server/server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HTTP_MAX_INPUT_BYTES = 73 * 2**20
"""As `MAX_BODY_SIZE` of `docker/nginx`: what the models take of images and texts, and what carries it."""
CONNECTION_AGE_MS = 300_000
"""Of gRPC: a client connects again, and so finds servers that have come since; calls inside go on."""
ADMIN_ENDPOINTS = "shared-memory,model-repository,trace,logging"
ADMIN_HEADER = "admin-key"
"""Of HTTP; gRPC's metadata has `triton-grpc-protocol-` before it."""
ADMIN_METADATA = f"triton-grpc-protocol-{ADMIN_HEADER}"


@dataclass(frozen=True, order=True)
class Release:
    """A release of Triton: 2.51.0 is that of the container 24.10."""

    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Release:
        """Reads `2.71.0`, or `2.71.0dev`; ValueError where it is none."""
        major, minor, patch = text.strip().split(".")[:3]
        return cls(int(major), int(minor), int("".join(filter(str.isdigit, patch)) or 0))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


EMBEDDED = Release(2, 51)
"""Of the wheel nvidia-pytriton 0.7.0."""
PINNED = Release(2, 71)
"""Of the container 26.07, on which `docker/Dockerfile` builds."""
FIRST_WITH = {"http-max-input-size": Release(2, 59)}  # 25.06
"""The first release that knows a flag; all others are known to the embedded one."""


def server_flags(
    release: Release,
    *,
    admin_key: str,
    explicit: bool,
    gpu: bool,
    exit_timeout_s: float,
) -> dict[str, str]:
    """The flags of `tritonserver` that make it what this project wants, addresses and paths apart.

    Args:
        release: The one that gets them.
        admin_key: What callers of the closed endpoints must show.
        explicit: Whether they may load and unload models.
        gpu: Whether the host has one.
        exit_timeout_s: How long Triton waits for requests at its end.
    """
    closed = f"{ADMIN_ENDPOINTS}:{ADMIN_HEADER}={admin_key}"
    flags = {
        "model-control-mode": "explicit" if explicit else "none",
        # A version that does not load would keep a strict server from being ready for ever.
        "strict-readiness": str(not explicit).lower(),
        "exit-timeout-secs": str(int(exit_timeout_s)),
        "http-restricted-api": closed,
        "grpc-restricted-protocol": closed,
        "allow-gpu-metrics": str(gpu).lower(),
        "http-max-input-size": str(HTTP_MAX_INPUT_BYTES),
        "grpc-max-connection-age": str(CONNECTION_AGE_MS),
    }
    if explicit:
        flags["load-model"] = "*"
    return {name: value for name, value in flags.items() if knows(release, name)}


def knows(release: Release, flag: str) -> bool:
    """Whether a release has a flag."""
    return release >= FIRST_WITH.get(flag, EMBEDDED)


def command_line(flags: Mapping[str, str]) -> list[str]:
    """The arguments for flags by name, and `--disable-auto-complete-config`, which takes no value."""
    return [*(f"--{name}={value}" for name, value in flags.items()), "--disable-auto-complete-config"]
