"""Run a SYNAPSE stage on a server: python client/examples/synapse_stage.py HOST:PORT IMAGE LABEL...

IMAGE is a path or URL, or `-` to read a file from standard input and embed it in the message as base64.
Requires `pip install "./client[synapse]"`.
"""

from __future__ import annotations

import base64
import sys
import uuid

from synapse_sdk import CanonicalIR, Domain, Payload, TaskHeader, TaskType

from tritonclip import Client
from tritonclip.synapse import ClipVitBasePatch32Adapter, StageError, SynapseRunner


def message(image: str, labels: list[str]) -> CanonicalIR:
    """Return a message that requests a classification within a minute."""
    if image == "-":
        content = base64.b64encode(sys.stdin.buffer.read()).decode("ascii")
        payload = Payload(modality="binary", binary_b64=content, mime_type="image/*")
    else:
        payload = Payload(modality="text", content=image)
    header = TaskHeader(
        task_type=TaskType.classify,
        domain=Domain.vision,
        priority=1,
        latency_budget_ms=60_000,
        candidate_labels=labels,
    )
    return CanonicalIR(ir_version="1.0.0", message_id=str(uuid.uuid4()), task_header=header, payload=payload)


def main() -> int:
    """Print the labels and the provenance entry; return the exit code."""
    if len(sys.argv) < 3:
        sys.stderr.write((__doc__ or "").splitlines()[0] + "\n")
        return 2
    url, image, *labels = sys.argv[1:]
    with Client(url) as client:
        checkpoint = client.models()[0].checkpoint
        runner = SynapseRunner(client, ClipVitBasePatch32Adapter(checkpoint))
        try:
            answer = runner.run(message(image, labels))
        except StageError as error:
            sys.stderr.write(f"{error.envelope}\n")
            return 1
    assert isinstance(answer, CanonicalIR)  # the policy is not `partial`
    for one in answer.payload.labels or []:
        sys.stdout.write(f"{one.score:.4f}  {one.label}\n")
    sys.stdout.write(f"{answer.provenance[-1].model_dump_json(exclude_none=True)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
