"""A server in the layout of NVIDIA's images."""

from pathlib import Path

from tests.helpers.installations import container_layout
from tests.helpers.pictures import encode, noise
from tritonclip import Client
from tritonclip_server.serving import launcher
from tritonclip_server.serving.installation import find_installation


def test_server_with_the_layout_of_the_container_serves(servers, demo_repository, tmp_path, monkeypatch):
    container = container_layout(tmp_path / "tritonserver")
    monkeypatch.setattr(launcher, "find_installation", lambda: find_installation(container))
    with servers.run(demo_repository, "layout of NVIDIA's container") as server:
        assert Path(f"/proc/{server.pid}/cmdline").read_bytes().startswith(str(container).encode())
        with Client(server.grpc_url) as client:
            assert client.classify(encode(noise(64, 64), "PNG"), ["cat"])
