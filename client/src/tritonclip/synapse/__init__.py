"""SYNAPSE stage: an adapter between canonical messages (IR) and CLIP, and a runner of the whole stage.

    runner = SynapseRunner(Client("localhost:8001"))
    answer = runner.run(ir)

The adapter only transforms messages and needs no server. `pip install "tritonclip[synapse]"` requires Python
3.11 or later.
"""

from __future__ import annotations

from tritonclip.errors import MissingExtraError, install_command

try:
    from tritonclip.synapse._adapter import ClipVitBasePatch32Adapter
    from tritonclip.synapse._runner import StageError, SynapseRunner, request_options
except ModuleNotFoundError as error:
    if (error.name or "").startswith("tritonclip"):
        raise
    raise MissingExtraError(
        f"the SYNAPSE adapter needs {error.name}; install it (Python 3.11 or later) with: "
        f"{install_command('synapse')}"
    ) from error

__all__ = ["ClipVitBasePatch32Adapter", "StageError", "SynapseRunner", "request_options"]
