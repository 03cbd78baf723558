"""Settings of the models that fit a machine: the option `--profile` of `prepare` and `serve`.

A profile changes no answer, so a version has the same identity with each. It sets only what `config.pbtxt`
fixes for every machine. The parameters `threads` stay 0: each model divides the cores when it loads, on the
machine that serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tritonclip_server.paths import MODEL_REPOSITORY
from tritonclip_server.repository.version_code import import_from_versions

AUTO, LATENCY, THROUGHPUT, GPU = "auto", "latency", "throughput", "gpu"
PROFILES = (AUTO, LATENCY, THROUGHPUT, GPU)
REASONS = {
    LATENCY: "one process decodes the images of a request with all cores",
    THROUGHPUT: "two processes decode, and while one hands over its batch the other goes on",
    GPU: "a GPU waits for decoding on the CPU",
}
THREADS_OF_A_DECODER = 2
MOST_DECODERS = 16
"""Each instance of `image_preprocess` is a process; with more cores its threads grow instead."""
DEVICES = Path("/dev")

Parameters = Mapping[str, Mapping[str, str]]
"""Parameters of `config.pbtxt` by model."""


class Machine(NamedTuple):
    """The cores and GPUs that a process may use."""

    cores: int
    gpus: int

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else "no GPU"
        return f"{gpus} and {self.cores} core{'s' if self.cores > 1 else ''}"


def this_machine(devices: Path = DEVICES) -> Machine:
    """Return the cores and the NVIDIA GPUs of this machine, or of its container.

    Args:
        devices: Folder of the device files.
    """
    cpu = import_from_versions("clip_common.cpu", MODEL_REPOSITORY)
    return Machine(cpu.available_cores(), len(list(devices.glob("nvidia[0-9]*"))))


def profile_of(wanted: str, machine: Machine) -> str:
    """Return the profile that `auto` chooses on a machine, or the wanted one."""
    if wanted == AUTO:
        return GPU if machine.gpus else LATENCY
    return wanted


def profile_parameters(profile: str, machine: Machine) -> Parameters:
    """Return the parameters that a profile changes.

    Args:
        profile: One of `PROFILES` except `auto`.
        machine: The machine that serves.
    """
    if profile == GPU:
        decoders = min(max(1, machine.cores // THREADS_OF_A_DECODER), MOST_DECODERS)
        return {
            "image_preprocess": {"instances": str(decoders)},
            "vision_encoder": {"instances": "2", "max_bucket": "256"},
        }
    if profile == THROUGHPUT:
        return {"image_preprocess": {"instances": "2"}}
    return {}
