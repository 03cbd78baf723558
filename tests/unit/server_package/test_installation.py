"""The server in NVIDIA's container or in the wheel, the errors if there is none, and its environment."""

import sys

import pytest

from tests.helpers.installations import container_layout
from tritonclip_server.serving import installation
from tritonclip_server.serving.installation import STUB, LaunchError, find_installation, server_environment
from tritonclip_server.serving.launcher import ADMIN_KEY_VARIABLE
from tritonclip_server.serving.release import EMBEDDED, PINNED


@pytest.fixture
def container(tmp_path):
    return container_layout(tmp_path / "tritonserver")


def test_container_is_preferred_to_the_wheel(container):
    (container / "TRITON_VERSION").write_text("2.71.0\n")
    found = find_installation(container)
    assert found.release == PINNED
    assert found.server == container / "bin" / "tritonserver"
    assert find_installation(container / "nowhere").release == EMBEDDED


@pytest.mark.parametrize("content", [None, "unknown"])
def test_container_without_a_readable_release_is_reported(container, content):
    (container / "TRITON_VERSION").unlink()
    if content:
        (container / "TRITON_VERSION").write_text(content)
    with pytest.raises(LaunchError, match="cannot read the release of Triton"):
        find_installation(container)


def test_container_without_the_python_backend_is_reported(container):
    (container / "backends" / "python" / STUB).unlink()
    with pytest.raises(LaunchError, match="use an image with the Python backend"):
        find_installation(container)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_error_on_other_platforms_names_the_container(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(LaunchError, match=f"no embedded Triton for {platform}: .*container"):
        find_installation()


def test_missing_wheel_is_reported(monkeypatch):
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match="nvidia-pytriton is not installed.*container"):
        find_installation()


def test_libpython_of_a_virtual_environment_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(LaunchError, match="libpython9.9"):
        installation._libpython_directory("9.9")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libpython9.9.so.1.0").touch()
    assert installation._libpython_directory("9.9") == tmp_path / "lib"


def test_admin_key_of_the_environment_is_not_passed_on(monkeypatch):
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "mine")
    environment = server_environment(find_installation(), without=[ADMIN_KEY_VARIABLE])
    assert "PATH" in environment
    assert "mine" not in environment.values()
