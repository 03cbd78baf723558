"""Common to the benchmarks: a prepared server, and the text of a rate."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tritonclip_server.repository.prepare import main as prepare_weights
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions


@contextmanager
def prepared_server(*source: str) -> Iterator[tuple[EmbeddedTriton, Path]]:
    """Prepare a repository, and serve it on free ports until the block ends.

    Args:
        *source: Arguments of `prepare` that select the checkpoint.

    Yields:
        The server, and an empty scratch folder.
    """
    with tempfile.TemporaryDirectory() as name:
        repository, scratch = Path(name) / "models", Path(name) / "scratch"
        scratch.mkdir()
        prepare_weights([*source, "--output", str(repository)], standalone_mode=False)
        options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
        with EmbeddedTriton(repository, options) as server:
            yield server, scratch


def rate_text(images_per_s: Sequence[float]) -> str:
    """Format median and range of the rates of all rounds."""
    middle, low, high = statistics.median(images_per_s), min(images_per_s), max(images_per_s)
    return f"median {middle:.1f} images/s ({low:.1f} to {high:.1f})"
