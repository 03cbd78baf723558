"""Where a Triton server lies on this machine: NVIDIA's container, or the wheel `nvidia-pytriton`."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tritonclip_server.serving.release import EMBEDDED, Release

CONTAINER_ROOT = Path("/opt/tritonserver")
"""Of NVIDIA's images."""
STUB = "triton_python_backend_stub"
MALLOC_ARENAS = "2"
"""Of glibc, which else gives each of Triton's 200 threads freed memory to keep, and so grows for hours."""
DOCKER_HINT = "run the same model repository in NVIDIA's container instead (see docker/README.md)"


class LaunchError(RuntimeError):
    """The server cannot be started, or ended before it was ready; the text says why and the cure."""


@dataclass(frozen=True)
class Installation:
    """Where a server's parts lie.

    Attributes:
        release: Of Triton.
        server: The `tritonserver` binary.
        backend: The directory of the Python backend.
        stub: The backend's stub for the running Python.
        library_path: Directories for LD_LIBRARY_PATH.
    """

    release: Release
    server: Path
    backend: Path
    stub: Path
    library_path: tuple[Path, ...]


def find_installation(container: Path = CONTAINER_ROOT) -> Installation:
    """Finds the container's server, else the wheel's, and the shared library of the running Python.

    Args:
        container: Where NVIDIA's images have theirs.

    Raises:
        LaunchError: No server for this platform, not installed, or no shared libpython.
    """
    if sys.platform != "linux":
        raise LaunchError(f"there is no embedded Triton for {sys.platform}: {DOCKER_HINT}")
    if (container / "bin" / "tritonserver").is_file():
        return _of_container(container)
    return _of_wheel()


def _of_container(root: Path) -> Installation:
    backend = root / "backends" / "python"
    try:
        release = Release.parse((root / "TRITON_VERSION").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LaunchError(f"{root} does not say which Triton it holds: {error}") from error
    if not (backend / STUB).is_file():
        raise LaunchError(f"{backend} has no {STUB}: use an image with the Python backend, as NVIDIA's -py3")
    return Installation(
        release=release,
        server=root / "bin" / "tritonserver",
        backend=backend,
        stub=backend / STUB,
        library_path=(_libpython_directory(_python()), root / "lib"),
    )


def _of_wheel() -> Installation:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise LaunchError(
            "the package nvidia-pytriton is not installed; install it ('make install'), or, where it has "
            f"no wheel (musl, for one), {DOCKER_HINT}"
        )
    package = Path(spec.submodule_search_locations[0])
    stub = package / "tritonserver" / "python_backend_stubs" / _python() / STUB
    if not stub.is_file():
        known = ", ".join(sorted(path.name for path in stub.parent.parent.iterdir()))
        raise LaunchError(
            f"the embedded Triton has no stub for Python {_python()}, only for {known}: use one of those"
        )
    return Installation(
        release=EMBEDDED,
        server=package / "tritonserver" / "bin" / "tritonserver",
        backend=package / "tritonserver" / "backends" / "python",
        stub=stub,
        library_path=(_libpython_directory(_python()), package.parent / "nvidia_pytriton.libs"),
    )


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _libpython_directory(python: str) -> Path:
    name = f"libpython{python}.so.1.0"
    candidates = [
        Path(str(sysconfig.get_config_var(key) or "")) for key in ("LIBDIR", "LDLIBRARYDIR", "LIBPL")
    ]
    candidates += [Path(sys.base_prefix) / "lib", *Path("/usr/lib").glob("*-linux-gnu")]
    candidates.append(Path(sys.prefix) / "lib")  # of a virtual environment that brings one of its own
    for directory in candidates:
        if (directory / name).exists():
            return directory
    raise LaunchError(
        f"this Python has no shared library {name}, which Triton's Python backend needs: install it "
        f"(Debian and Ubuntu: apt install libpython{python}), or use a Python built with --enable-shared"
    )


def link_backend(installation: Installation, directory: Path) -> None:
    """Makes a directory of the Python backend with the stub of the running Python."""
    directory.mkdir()
    for source in (*installation.backend.glob("*.*"), installation.stub):
        (directory / source.name).symlink_to(source)


def server_environment(installation: Installation, without: Iterable[str]) -> dict[str, str]:
    """The server's environment: the libraries, and this Python's packages for the backend's stubs.

    Args:
        installation: The server that gets it.
        without: Variables of this process that it must not see.
    """
    environment = {name: value for name, value in os.environ.items() if name not in without}
    inherited = environment.get("LD_LIBRARY_PATH")
    directories = [*map(str, installation.library_path), *([inherited] if inherited else [])]
    environment["LD_LIBRARY_PATH"] = ":".join(directories)
    environment.setdefault("MALLOC_ARENA_MAX", MALLOC_ARENAS)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    return environment
