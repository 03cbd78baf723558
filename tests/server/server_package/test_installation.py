"""The server in NVIDIA's container or in the wheel, and the errors if there is none."""

import sys
from pathlib import Path

import pytest

from tests.helpers.pictures import encode, noise
from tritonclip import Client
from tritonclip_server.serving import installation, launcher
from tritonclip_server.serving.installation import STUB, LaunchError, find_installation
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions
from tritonclip_server.serving.release import EMBEDDED, PINNED


@pytest.fixture
def container(tmp_path):
    """The server of the wheel in the layout of NVIDIA's images."""
    wheel = find_installation(tmp_path / "nowhere")
    root = tmp_path / "tritonserver"
    for directory, source in (("bin", wheel.server), ("backends/python", wheel.stub)):
        (root / directory).mkdir(parents=True)
        (root / directory / source.name).symlink_to(source)
    for source in wheel.backend.glob("*.*"):
        (root / "backends" / "python" / source.name).symlink_to(source)
    (root / "lib").symlink_to(wheel.library_path[-1])
    (root / "TRITON_VERSION").write_text(f"{EMBEDDED}\n")
    return root


def test_container_is_preferred_to_the_wheel(container):
    (container / "TRITON_VERSION").write_text("2.71.0\n")
    found = find_installation(container)
    assert found.release == PINNED
    assert found.server == container / "bin" / "tritonserver"
    assert find_installation(container / "nowhere").release == EMBEDDED


def test_server_with_the_layout_of_the_container_serves(container, demo_repository, monkeypatch):
    monkeypatch.setattr(launcher, "find_installation", lambda: find_installation(container))
    with EmbeddedTriton(demo_repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        assert Path(f"/proc/{server.pid}/cmdline").read_bytes().startswith(str(container).encode())
        with Client(server.grpc_url) as client:
            assert client.classify(encode(noise(64, 64), "PNG"), ["cat"])


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
