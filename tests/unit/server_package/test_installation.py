"""The server in NVIDIA's container or in the wheel, the errors if there is none, and its environment."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.installations import container_layout
from tritonclip_server.serving import installation
from tritonclip_server.serving.installation import (
    STUB,
    LaunchError,
    find_installation,
    find_tcmalloc,
    link_backend,
    server_environment,
)
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


def test_server_libraries_follow_inherited_ones_and_default_directories_are_left_out(monkeypatch, tmp_path):
    found = replace(find_installation(), library_path=(Path("/usr/lib/x86_64-linux-gnu"), tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda/compat/lib")
    path = server_environment(found, without=[])["LD_LIBRARY_PATH"]
    assert path == f"/usr/local/cuda/compat/lib:{tmp_path}"
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert server_environment(found, without=[])["LD_LIBRARY_PATH"] == str(tmp_path)
    only_default = replace(found, library_path=(Path("/usr/lib"),))
    assert "LD_LIBRARY_PATH" not in server_environment(only_default, without=[])


@pytest.mark.parametrize(("configured", "line"), [(None, "unset"), ("5", "export MALLOC_ARENA_MAX=5")])
def test_memory_setting_of_the_server_is_not_that_of_its_stubs(monkeypatch, tmp_path, configured, line):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if configured:
        monkeypatch.setenv("MALLOC_ARENA_MAX", configured)
    monkeypatch.setattr(installation, "find_tcmalloc", lambda: tmp_path / "libtcmalloc.so.4")
    found = replace(find_installation(), stub=tmp_path / "a stub")
    assert server_environment(found, without=[])["MALLOC_ARENA_MAX"] == (configured or "2")
    link_backend(found, tmp_path / "python")
    script = (tmp_path / "python" / STUB).read_text()
    assert line in script
    assert f"LD_PRELOAD={tmp_path}/libtcmalloc.so.4" in script
    assert f"exec '{tmp_path}/a stub' \"$@\"" in script


def test_tcmalloc_is_used_only_if_installed(tmp_path, monkeypatch):
    assert find_tcmalloc(tmp_path) is None
    library = tmp_path / "x86_64-linux-gnu" / "libtcmalloc_minimal.so.4"
    library.parent.mkdir()
    library.touch()
    assert find_tcmalloc(tmp_path) == library
    monkeypatch.setattr(installation, "find_tcmalloc", lambda: None)
    link_backend(find_installation(), tmp_path / "python")
    assert "LD_PRELOAD" not in (tmp_path / "python" / STUB).read_text()
    assert os.access(tmp_path / "python" / STUB, os.X_OK)
