"""What each release of Triton is told: the embedded one knows all of it, the pinned one gets later flags."""

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
    """The flags that the embedded server itself tells of."""
    installation = find_installation()
    told = subprocess.run(
        [installation.server, "--help"],
        capture_output=True,
        text=True,
        env=server_environment(installation, without=[]),
        check=False,
    )
    return set(re.findall(r"^\s+--([\w-]+)", told.stdout + told.stderr, re.MULTILINE))


@pytest.mark.parametrize("explicit", [False, True])
def test_the_embedded_release_knows_every_flag_that_it_gets(known, explicit):
    line = command_line(server_flags(EMBEDDED, explicit=explicit, **OPTIONS))
    names = {argument.removeprefix("--").partition("=")[0] for argument in line}
    assert names <= known
    assert names >= {"strict-readiness", "disable-auto-complete-config", "grpc-restricted-protocol"}


def test_flags_that_stand_as_later_ones_are_unknown_to_the_embedded_release(known):
    assert not known & set(FIRST_WITH)


def test_the_pinned_release_gets_the_later_flags_too():
    embedded, pinned = (server_flags(one, explicit=False, **OPTIONS) for one in (EMBEDDED, PINNED))
    assert set(pinned) - set(embedded) == set(FIRST_WITH)
    assert pinned["http-max-input-size"] == "76546048"
    assert pinned | embedded == pinned
    assert pinned["http-restricted-api"] == pinned["grpc-restricted-protocol"] == CLOSED


def test_models_are_loaded_at_the_start_whoever_may_load_more():
    assert server_flags(PINNED, explicit=False, **OPTIONS)["model-control-mode"] == "none"
    explicit = server_flags(PINNED, explicit=True, **OPTIONS)
    assert (explicit["model-control-mode"], explicit["load-model"]) == ("explicit", "*")


def test_a_flag_is_told_from_the_release_on_that_has_it():
    assert not knows(Release(2, 58, 1), "http-max-input-size")
    assert knows(Release(2, 59), "http-max-input-size")


@pytest.mark.parametrize(("text", "release"), [("2.71.0\n", PINNED), ("2.59.1dev", Release(2, 59, 1))])
def test_releases_are_read(text, release):
    assert Release.parse(text) == release


@pytest.mark.parametrize("text", ["", "26.07", "two.point.0"])
def test_what_is_no_release_is_refused(text):
    with pytest.raises(ValueError, match=r"unpack|literal"):
        Release.parse(text)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "model_repository").glob("*/config.pbtxt")), ids=lambda one: one.parent.name
)
def test_configurations_hold_only_fields_of_later_releases_too(path):
    # The embedded release loads them in every other test; this definition is newer than the pinned release.
    assert text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig()).name == path.parent.name


def test_flags_of_tls_are_known_to_the_embedded_release(known, tmp_path):
    assert set(TlsFiles(tmp_path / "cert", tmp_path / "key", tmp_path / "ca").flags()) <= known
