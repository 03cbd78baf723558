"""Rollouts on the variant "explicit": another checkpoint, the command, and callers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from tests.helpers.pictures import encode, noise
from tests.helpers.servers import DEMO_CHECKPOINT
from tests.helpers.waiting import wait_until
from tritonclip import Client, TritonClipError
from tritonclip_server.repository.versions import versions_of
from tritonclip_server.rollout import command
from tritonclip_server.serving.launcher import EmbeddedTriton

LABELS = ["a red circle", "a blue square", "the digit 7"]
CALLERS = ("server", "server", "client", "client")
"""Where each caller preprocesses. A client that preprocesses keeps label embeddings."""
NEAR = 1e-4
TIMEOUT_S = 600


@cache
def pictures() -> list[bytes]:
    """Return three pictures as PNG files."""
    return [encode(noise(80, 60, seed), "PNG") for seed in range(3)]


def write_other_checkpoint(directory: Path) -> Path:
    """Write the demo checkpoint with other projections in both towers, so that a mixture shows."""
    import torch
    from safetensors.torch import load_file, save_file

    directory.mkdir()
    for path in DEMO_CHECKPOINT.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    tensors = load_file(directory / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in ("visual_projection.weight", "text_projection.weight"):
        tensors[name] += tensors[name].std() * torch.randn(tensors[name].shape, generator=generator)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def run_rollout(server: EmbeddedTriton, *arguments: object, key: str | None = None) -> tuple[int, str]:
    """Run `tritonclip-server rollout` in this process, and return its exit code and output."""
    options = ["--url", server.http_url, "--metrics-url", server.metrics_url]
    options += ["--admin-key", key or server.admin_key]
    if arguments[0] != "status":
        options += ["--drain-timeout", str(TIMEOUT_S)]
    done = CliRunner().invoke(command.main, [*map(str, arguments), *options], catch_exceptions=False)
    return done.exit_code, done.output


def remove_other_versions(server: EmbeddedTriton) -> None:
    """Serve the first version, and delete the others."""
    if versions_of(server.repository, interrupted=True).present != (1,):
        for arguments in (
            ("rollback", server.repository, "--to", 1),
            ("retire", server.repository, "--delete"),
        ):
            code, output = run_rollout(server, *arguments)
            assert code == 0, output


def by_label(rankings: Sequence[Sequence[Mapping[str, object]]]) -> np.ndarray:
    """Return the scores of rankings in the order of `LABELS`, as [images, labels]."""
    scores = [{one["label"]: one["score"] for one in ranking} for ranking in rankings]
    return np.array([[one[label] for label in LABELS] for one in scores])


def scores(client: Client) -> np.ndarray:
    """Classify each picture by itself, and return the scores."""
    return by_label([client.classify(picture, LABELS, hypothesis_template="{}") for picture in pictures()])


class Load:
    """Callers that classify without pause, as a context manager.

    Attributes:
        failures: The errors of all callers.
    """

    def __init__(self, url: str) -> None:
        self.failures: list[TritonClipError] = []
        self._url = url
        self._over = threading.Event()
        self._answers: list[list[np.ndarray]] = [[] for _ in CALLERS]
        self._threads = [
            threading.Thread(target=self._call, args=(number,)) for number in range(len(CALLERS))
        ]

    def _call(self, number: int) -> None:
        with Client(self._url, timeout_s=TIMEOUT_S, attempts=1, preprocess=CALLERS[number]) as client:
            while not self._over.is_set():
                try:
                    self._answers[number].append(scores(client))
                except TritonClipError as error:
                    self.failures.append(error)

    def wait_for_answers(self) -> None:
        """Wait until each caller has got all answers of a round that it began after this call."""
        before = [len(answers) for answers in self._answers]

        def answered() -> bool:
            pairs = zip(self._answers, before, strict=True)
            return bool(self.failures) or all(len(now) >= count + 2 for now, count in pairs)

        wait_until(answered, "a caller got no answer", TIMEOUT_S)

    def versions(self, known: Mapping[object, np.ndarray]) -> Counter[object]:
        """Count the answers of each known version, and those that are of neither alone.

        Args:
            known: Scores of each version.
        """
        answers = [answer for caller in self._answers for answer in caller]
        return Counter(version for answer in answers for version in _picture_versions(answer, known))

    def __enter__(self) -> Load:
        """Start the callers, and wait until each of them was answered."""
        for thread in self._threads:
            thread.start()
        self.wait_for_answers()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the callers."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def _picture_versions(answer: np.ndarray, known: Mapping[object, np.ndarray]) -> Iterator[object]:
    """Yield the version that ranked each picture, or a text if it was neither version alone."""
    for row, *rows in zip(answer, *known.values(), strict=True):
        near = [name for name, one in zip(known, rows, strict=True) if abs(row - one).max() < NEAR]
        yield near[0] if len(near) == 1 else f"neither: {row}"
