"""Flags that the launcher passes to the embedded Triton, compared with those that it lists."""

import re
import subprocess

import pytest

from tritonclip_server.serving.installation import find_installation, server_environment
from tritonclip_server.serving.release import EMBEDDED, FIRST_WITH, command_line, server_flags
from tritonclip_server.serving.tls import TlsFiles

OPTIONS = {"admin_key": "secret", "gpu": False, "exit_timeout_s": 3.0}


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


def test_embedded_release_knows_the_flags_of_tls(known, tmp_path):
    assert set(TlsFiles(tmp_path / "cert", tmp_path / "key", tmp_path / "ca").flags()) <= known
