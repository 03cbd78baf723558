"""Repeated switches, versions that do not load or answer wrongly, interrupted switches, and restarts."""

import shutil

import numpy as np
import pytest

from tests.helpers.rollouts import (
    LABELS,
    NEAR,
    Load,
    by_label,
    pictures,
    remove_other_versions,
    run_rollout,
    scores,
    write_other_checkpoint,
)
from tests.helpers.variants import ADMIN_KEY
from tritonclip import Client, ZeroShotClassifier
from tritonclip_server.repository import versions
from tritonclip_server.rollout import command

pytestmark = pytest.mark.variant("explicit")


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory):
    return write_other_checkpoint(tmp_path_factory.mktemp("other") / "checkpoint")


@pytest.fixture(scope="module")
def repository(server, other_checkpoint):
    """The server's repository: the first version is served, and the other checkpoint was served before."""
    for arguments in (("deploy", server.repository, other_checkpoint), ("rollback", server.repository)):
        code, output = run_rollout(server, *arguments)
        assert code == 0, output
    yield server.repository
    remove_other_versions(server)


@pytest.fixture
def switch(server, repository):
    """Return a function that switches to the other version."""

    def _switch():
        code, output = run_rollout(server, "rollback", repository)
        assert code == 0, output

    yield _switch
    assert versions.versions_of(repository).served == 1


@pytest.fixture
def client(server):
    with Client(server.grpc_url, timeout_s=60) as client:
        yield client


def test_repeated_switches_lose_no_request_and_mix_no_versions(server, repository, switch, client):
    known = {}
    with Load(server.grpc_url) as load:
        for _ in range(6):
            switch()
            known[versions.versions_of(repository).served] = scores(client)
        load.wait_for_answers()
    assert not load.failures
    seen = load.versions(known)
    assert set(seen) == {1, 2}, seen


@pytest.mark.parametrize("preprocess", ["server", "client"])
def test_similarity_uses_one_version(server, switch, client, preprocess):
    with Client(server.grpc_url, timeout_s=60, preprocess=preprocess) as open_before:
        before = open_before.similarity(pictures(), LABELS)
        switch()
        other = open_before.similarity(pictures(), LABELS)
        np.testing.assert_allclose(client.similarity(pictures(), LABELS), other, atol=NEAR)
        switch()
        np.testing.assert_allclose(open_before.similarity(pictures(), LABELS), before, atol=NEAR)
    assert abs(np.asarray(other) - before).max() > 100 * NEAR


def test_classifier_uses_the_new_checkpoint_after_a_switch(switch, client):
    def ranked(classifier):
        one_by_one = by_label([classifier([picture])[0] for picture in pictures()])
        assert abs(by_label(classifier.classify_many(pictures())) - one_by_one).max() < NEAR
        return one_by_one

    classifier = ZeroShotClassifier(client, LABELS, templates="{}")
    old = ranked(classifier)
    switch()
    new = ranked(classifier)
    assert abs(new - old).max() > 100 * NEAR
    assert abs(new - ranked(ZeroShotClassifier(client, LABELS, templates="{}"))).max() < NEAR
    switch()
    assert abs(by_label(classifier.classify_many(pictures())) - old).max() < NEAR


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("does not load", "vision_encoder cannot be loaded"),
        pytest.param("answers wrongly", "differs from transformers", marks=pytest.mark.slow),
    ],
)
def test_version_that_cannot_be_served_is_removed(
    server, repository, other_checkpoint, client, monkeypatch, fault, reason
):
    before = versions.versions_of(repository)
    add = command.add_version

    def add_broken(content, output, version, **options):
        identity = add(content, output, version, **options)
        encoder = output / "vision_encoder"
        weights = encoder / str(version) / "vision.safetensors"
        if fault == "does not load":
            weights.write_bytes(weights.read_bytes()[:1000])
        else:  # weights of the other checkpoint, with their digest
            for name in ("vision.safetensors", "manifest.json"):
                shutil.copyfile(encoder / "1" / name, encoder / str(version) / name)
        return identity

    monkeypatch.setattr(command, "add_version", add_broken)
    with Load(server.grpc_url) as load:
        code, output = run_rollout(server, "deploy", repository, other_checkpoint)
        load.wait_for_answers()
    assert code == 1
    assert "removing version 3; version 1 keeps serving" in output
    assert reason in output
    assert not load.failures
    assert versions.versions_of(repository) == before
    assert not list(repository.glob("*/3"))
    assert client.health(deep=True).ok


def test_interrupted_switch_is_reported_and_can_be_completed(server, repository):
    versions.set_served(repository, "clip_text_embedding", 2)
    code, output = run_rollout(server, "rollback", repository)
    assert code == 1
    assert "a switch was interrupted" in output and "clip_text_embedding 2" in output
    code, output = run_rollout(server, "rollback", repository, "--to", "1")
    assert code == 0, output
    assert versions.versions_of(repository).served == 1


def test_restarted_server_serves_the_same_version(servers, repository, switch, client):
    switch()
    served = scores(client)
    options = {"explicit": True, "admin_key": ADMIN_KEY}
    with (
        servers.run(repository, "restart after a rollout", **options) as fresh,
        Client(fresh.grpc_url, timeout_s=60) as fresh_client,
    ):
        assert abs(scores(fresh_client) - served).max() < NEAR
    switch()
