"""Rollouts and rollbacks under load, and versions that do not load or give wrong answers."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from tests.helpers.calls import metric
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip import Client, TritonClipError, ZeroShotClassifier
from tritonclip_server.repository import versions
from tritonclip_server.repository.configs import CONFIG, ENSEMBLES, PYTHON_MODELS
from tritonclip_server.repository.writer import RepositoryError
from tritonclip_server.rollout import command as rollout
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

ANY_PORT = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, explicit=True, admin_key="a key")
LABELS = ["a red circle", "a blue square", "the digit 7"]
PICTURES = [encode(noise(80, 60, seed), "PNG") for seed in range(3)]
CALLERS = 8
NEAR = 1e-4


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory):
    """The demo checkpoint with other projections in both towers, so a mixture of versions shows."""
    directory = tmp_path_factory.mktemp("other")
    for path in DEMO_CHECKPOINT.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    tensors = load_file(directory / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in ("visual_projection.weight", "text_projection.weight"):
        tensors[name] += tensors[name].std() * torch.randn(tensors[name].shape, generator=generator)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def repository(prepare):
    return prepare("scripts/demo/checkpoint", "--precision", "float32")


@pytest.fixture(scope="module")
def upgraded(repository):
    """A server with model control."""
    with EmbeddedTriton(repository, ANY_PORT) as server:
        yield server


def run(server, *arguments):
    urls = ["--url", server.http_url, "--metrics-url", server.metrics_url, "--admin-key", server.admin_key]
    done = CliRunner().invoke(rollout.main, [*map(str, arguments), *urls])
    return done.exit_code, done.output


def scores(client):
    found = [client.classify(picture, LABELS, hypothesis_template="{}") for picture in PICTURES]
    by_label = [{one["label"]: one["score"] for one in ranking} for ranking in found]
    return np.array([[one[label] for label in LABELS] for one in by_label])


class Load:
    """Callers that classify without pause, with their answers and failures."""

    def __init__(self, url, **options):
        self.answers, self.failures, self._over = [], [], threading.Event()
        self._url, self._options = url, options
        self._threads = [threading.Thread(target=self._ask) for _ in range(CALLERS)]

    def _ask(self):
        with Client(self._url, timeout_s=60, attempts=1, **self._options) as client:
            while not self._over.is_set():
                try:
                    self.answers.append(scores(client))
                except TritonClipError as error:
                    self.failures.append(error)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        time.sleep(1)
        return self

    def __exit__(self, *_):
        time.sleep(1)
        self._over.set()
        for thread in self._threads:
            thread.join(60)


def picture_versions(answer, known):
    """Yield the version that ranked each picture, or a text if it was neither version alone."""
    for row, *rows in zip(answer, *known.values(), strict=True):
        near = [name for name, one in zip(known, rows, strict=True) if abs(row - one).max() < NEAR]
        yield near[0] if len(near) == 1 else f"neither: {row}"


def test_rollout_and_rollback_under_load_lose_no_request_and_mix_no_versions(
    upgraded, repository, other_checkpoint
):
    with Client(upgraded.grpc_url) as client:
        known = {"old": scores(client)}
        loaded_at = metric(upgraded, "tritonclip_start_time_seconds", model="vision_encoder", version="1")
        with Load(upgraded.grpc_url) as load:
            code, output = run(upgraded, "deploy", repository, other_checkpoint)
            assert code == 0, output
            known["new"] = scores(client)
            code, back = run(upgraded, "rollback", repository)
            assert code == 0, back
        assert abs(known["new"] - known["old"]).max() > 100 * NEAR
        assert np.abs(scores(client) - known["old"]).max() < NEAR
    assert not load.failures
    seen = Counter(one for answer in load.answers for one in picture_versions(answer, known))
    assert set(seen) == {"old", "new"}, seen
    assert min(seen.values()) >= CALLERS
    assert "version 2 loaded next to version 1" in output
    assert "serving version 2\nversion 1 has no requests in flight" in output
    assert "serving version 1\nversion 2 has no requests in flight" in back
    again = metric(upgraded, "tritonclip_start_time_seconds", model="vision_encoder", version="1")
    assert again == loaded_at, "the old version was loaded again"


@pytest.mark.parametrize("preprocess", ["server", "client"])
def test_repeated_switches_lose_no_request_and_mix_no_versions(upgraded, repository, preprocess):
    """Clients that preprocess keep label embeddings, which a switch makes those of another checkpoint."""
    known = {}
    with Client(upgraded.grpc_url) as client, Load(upgraded.grpc_url, preprocess=preprocess) as load:
        for _ in range(10):
            assert run(upgraded, "rollback", repository)[0] == 0
            known[versions.versions_of(repository).served] = scores(client)
    assert not load.failures
    assert versions.versions_of(repository).served == 1
    seen = Counter(one for answer in load.answers for one in picture_versions(answer, known))
    assert set(seen) == {1, 2}, seen


@pytest.mark.parametrize("preprocess", ["server", "client"])
def test_similarity_uses_one_version(upgraded, repository, preprocess):
    with Client(upgraded.grpc_url, preprocess=preprocess) as client:
        before = client.similarity(PICTURES, LABELS)
        assert run(upgraded, "rollback", repository)[0] == 0
        other = client.similarity(PICTURES, LABELS)
        assert run(upgraded, "rollback", repository)[0] == 0
        np.testing.assert_allclose(client.similarity(PICTURES, LABELS), before, atol=NEAR)
    with Client(upgraded.grpc_url) as client:
        assert run(upgraded, "rollback", repository)[0] == 0
        np.testing.assert_allclose(client.similarity(PICTURES, LABELS), other, atol=NEAR)
        assert run(upgraded, "rollback", repository)[0] == 0


def test_classifier_uses_the_new_checkpoint_after_a_switch(upgraded, repository):
    def by_label(rankings):
        return np.array(
            [[{one["label"]: one["score"] for one in row}[label] for label in LABELS] for row in rankings]
        )

    def ranked(classifier):
        one_by_one = by_label([classifier([picture])[0] for picture in PICTURES])
        assert abs(by_label(classifier.classify_many(PICTURES)) - one_by_one).max() < NEAR
        return one_by_one

    with Client(upgraded.grpc_url) as client:
        classifier = ZeroShotClassifier(client, LABELS, templates="{}")
        old = ranked(classifier)
        assert run(upgraded, "rollback", repository)[0] == 0
        new = ranked(classifier)
        assert abs(new - old).max() > 100 * NEAR
        assert abs(new - ranked(ZeroShotClassifier(client, LABELS, templates="{}"))).max() < NEAR
        assert run(upgraded, "rollback", repository)[0] == 0
        assert abs(by_label(classifier.classify_many(PICTURES)) - old).max() < NEAR


def test_status_lists_each_version(upgraded, repository, other_checkpoint):
    code, output = run(upgraded, "status", repository)
    assert code == 0
    assert output.splitlines() == [
        "version 1: scripts/demo/checkpoint: served, loaded",
        f"version 2: {other_checkpoint}: loaded, previously served",
    ]


@pytest.mark.parametrize("fault", ["does not load", "answers wrongly"])
def test_version_that_cannot_be_served_is_removed(upgraded, repository, other_checkpoint, monkeypatch, fault):
    before = versions.versions_of(repository)

    def add_broken(content, output, version, **options):
        add(content, output, version, **options)
        weights = output / "vision_encoder" / str(version) / "vision.safetensors"
        if fault == "does not load":
            weights.write_bytes(weights.read_bytes()[:1000])
        else:  # of the other checkpoint
            weights.write_bytes((output / "vision_encoder" / "1" / "vision.safetensors").read_bytes())

    add = rollout.add_version
    monkeypatch.setattr(rollout, "add_version", add_broken)
    with Load(upgraded.grpc_url) as load:
        code, output = run(upgraded, "deploy", repository, other_checkpoint)
    assert code == 1
    assert "removing version 3; version 1 keeps serving" in output
    assert {
        "does not load": "vision_encoder cannot be loaded",
        "answers wrongly": "differs from transformers",
    }[fault] in output
    assert not load.failures
    assert versions.versions_of(repository) == before
    assert not list(repository.glob("*/3"))
    with Client(upgraded.grpc_url) as client:
        assert client.health(deep=True).ok


def test_interrupted_switch_is_reported_and_can_be_completed(upgraded, repository):
    versions.set_served(repository, "clip_text_embedding", 2)
    code, output = run(upgraded, "rollback", repository)
    assert code == 1
    assert "a switch was interrupted" in output and "clip_text_embedding 2" in output
    code, output = run(upgraded, "rollback", repository, "--to", "1")
    assert code == 0, output
    assert versions.versions_of(repository).served == 1


def test_restarted_server_serves_the_same_version(upgraded, repository):
    assert run(upgraded, "rollback", repository, "--to", "2")[0] == 0
    with Client(upgraded.grpc_url) as client:
        served = scores(client)
    with EmbeddedTriton(repository, ANY_PORT) as fresh, Client(fresh.grpc_url) as client:
        assert abs(scores(client) - served).max() < NEAR
    assert run(upgraded, "rollback", repository)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["rollback", "--to", "9"], "has no version 9; it has 1, 2"),
        (["deploy", "no/such/checkpoint"], "no/such/checkpoint"),
    ],
)
def test_wrong_argument_is_reported_in_one_line(upgraded, repository, arguments, reason):
    command, *rest = arguments
    code, output = run(upgraded, command, repository, *rest)
    assert code == 1
    assert output.startswith("error: ") and reason in output and output.count("\n") == 1


def test_rollout_fails_while_another_is_in_progress(upgraded, repository):
    with versions.locked(repository):
        code, output = run(upgraded, "rollback", repository)
    assert (code, "another rollout is in progress" in output) == (1, True)


def test_wrong_key_and_missing_model_control_are_reported(upgraded, server, repository):
    urls = ["--url", upgraded.http_url, "--metrics-url", upgraded.metrics_url, "--admin-key", "wrong"]
    done = CliRunner().invoke(rollout.main, ["status", str(repository), *urls])
    assert (done.exit_code, "give the admin key of this server" in done.output) == (1, True)
    code, output = run(server, "rollback", repository)
    assert code == 1
    assert "start it with --model-control explicit" in output
    assert versions.versions_of(repository).served == 1


def test_retire_frees_memory_and_disk(upgraded, repository):
    code, output = run(upgraded, "retire", repository, "--delete")
    assert code == 0, output
    instances, deadline = len(PYTHON_MODELS) + 3, time.monotonic() + 30  # admission has four
    while len(upgraded.stubs()) > instances and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(upgraded.stubs()) == instances
    assert not list(repository.glob("*/2"))
    with Client(upgraded.grpc_url) as client:
        assert client.health(deep=True).ok


def test_directory_that_is_not_a_repository_is_rejected(tmp_path):
    with pytest.raises(RepositoryError, match="is not a model repository"):
        versions.versions_of(tmp_path)
    for model in ENSEMBLES:
        (tmp_path / model).mkdir()
        (tmp_path / model / CONFIG).write_text(f'name: "{model}"')
    with pytest.raises(RepositoryError, match="names no versions; write the repository again"):
        versions.versions_of(tmp_path)
