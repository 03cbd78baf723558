"""The server of the wheel in the layout of NVIDIA's images."""

from __future__ import annotations

from pathlib import Path

from tritonclip_server.serving.installation import find_installation
from tritonclip_server.serving.release import EMBEDDED


def container_layout(root: Path) -> Path:
    """Link the server of the wheel into a new folder, in the layout of NVIDIA's images; return the folder."""
    wheel = find_installation(root / "no container")
    for directory, source in (("bin", wheel.server), ("backends/python", wheel.stub)):
        (root / directory).mkdir(parents=True)
        (root / directory / source.name).symlink_to(source)
    for source in wheel.backend.glob("*.*"):
        (root / "backends" / "python" / source.name).symlink_to(source)
    (root / "lib").symlink_to(wheel.library_path[-1])
    (root / "TRITON_VERSION").write_text(f"{EMBEDDED}\n")
    return root
