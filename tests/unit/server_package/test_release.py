"""Flags of each release of Triton: the embedded one knows all it gets, the pinned one gets newer ones."""

import re
import subprocess

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.helpers.servers import ROOT
from tritonclip_server.serving.installation import find_installation, server_environment
from tritonclip_server.serving.release import (
    EMBEDDED,
    FIRST_WITH,
    PINNED,
    Release,
    command_line,
    knows,
    server_flags,
)
from tritonclip_server.serving.tls import TlsFiles

OPTIONS = {"admin_key": "secret", "gpu": False, "exit_timeout_s": 3.0}
CLOSED = "shared-memory,model-repository,trace,logging:admin-key=secret"


@pytest.fixture(scope="module")
def known():
    """Flags that `tritonserver --help` of the embedded release lists."""
    installation = find_installation()
    done = subprocess.run(
        [installation.server, "--help"],
        capture_output=True,
        text=True,
        env=server_environment(installation, without=[]),
        check=False,
    )
    return set(re.findall(r"^\s+--([\w-]+)", done.stdout + done.stderr, re.MULTILINE))


@pytest.mark.parametrize("explicit", [False, True])
def test_embedded_release_knows_every_flag_that_it_gets(known, explicit):
    line = command_line(server_flags(EMBEDDED, explicit=explicit, **OPTIONS))
    names = {argument.removeprefix("--").partition("=")[0] for argument in line}
    assert names <= known
    assert names >= {"strict-readiness", "disable-auto-complete-config", "grpc-restricted-protocol"}


def test_embedded_release_does_not_know_newer_flags(known):
    assert not known & set(FIRST_WITH)


def test_pinned_release_also_gets_newer_flags():
    embedded, pinned = (server_flags(one, explicit=False, **OPTIONS) for one in (EMBEDDED, PINNED))
    assert set(pinned) - set(embedded) == set(FIRST_WITH)
    assert pinned["http-max-input-size"] == "76546048"
    assert pinned | embedded == pinned
    assert pinned["http-restricted-api"] == pinned["grpc-restricted-protocol"] == CLOSED


def test_models_load_at_start_with_and_without_model_control():
    assert server_flags(PINNED, explicit=False, **OPTIONS)["model-control-mode"] == "none"
    explicit = server_flags(PINNED, explicit=True, **OPTIONS)
    assert (explicit["model-control-mode"], explicit["load-model"]) == ("explicit", "*")


def test_flag_is_known_from_its_first_release():
    assert not knows(Release(2, 58, 1), "http-max-input-size")
    assert knows(Release(2, 59), "http-max-input-size")


@pytest.mark.parametrize(("text", "release"), [("2.71.0\n", PINNED), ("2.59.1dev", Release(2, 59, 1))])
def test_release_is_parsed(text, release):
    assert Release.parse(text) == release


@pytest.mark.parametrize("text", ["", "26.07", "two.point.0"])
def test_text_that_is_not_a_release_is_rejected(text):
    with pytest.raises(ValueError, match=r"unpack|literal"):
        Release.parse(text)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "model_repository").glob("*/config.pbtxt")), ids=lambda one: one.parent.name
)
def test_configuration_has_only_fields_of_newer_releases(path):
    # The embedded release loads them in other tests. This definition is newer than the pinned release.
    assert text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig()).name == path.parent.name


def test_embedded_release_knows_the_flags_of_tls(known, tmp_path):
    assert set(TlsFiles(tmp_path / "cert", tmp_path / "key", tmp_path / "ca").flags()) <= known
