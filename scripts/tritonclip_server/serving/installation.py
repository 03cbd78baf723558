"""Find the Triton server of this machine: that of NVIDIA's container, or the wheel `nvidia-pytriton`."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from tritonclip_server.serving.release import EMBEDDED, Release

CONTAINER_ROOT = Path("/opt/tritonserver")
"""Folder of the server in NVIDIA's images."""
STUB = "triton_python_backend_stub"
MALLOC_ARENAS = "2"
"""Limit for glibc, whose default lets each of Triton's 200 threads keep freed memory and grow for hours."""
ARENAS_VARIABLE = "MALLOC_ARENA_MAX"
LINUX_LIBRARY_DIRECTORIES = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")
TCMALLOC_NAMES = ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4")
DOCKER_HINT = "run the same model repository in NVIDIA's container instead (see docker/README.md)"


class LaunchError(RuntimeError):
    """A server that could not be started, or exited before it was ready; the text gives reason and fix."""


@dataclass(frozen=True)
class Installation:
    """The parts of an installed server.

    Attributes:
        release: Release of Triton.
        server: The `tritonserver` binary.
        backend: Directory of the Python backend.
        stub: The backend's stub for the running Python.
        library_path: Directories for LD_LIBRARY_PATH.
    """

    release: Release
    server: Path
    backend: Path
    stub: Path
    library_path: tuple[Path, ...]


def find_installation(container: Path = CONTAINER_ROOT) -> Installation:
    """Find the server of the container, or else of the wheel, and the shared library of the running Python.

    Args:
        container: Folder of the server in NVIDIA's images.

    Raises:
        LaunchError: There is no server for this platform, it is not installed, or Python has no shared
            library.
    """
    if sys.platform != "linux":
        raise LaunchError(f"there is no embedded Triton for {sys.platform}: {DOCKER_HINT}")
    if (container / "bin" / "tritonserver").is_file():
        return _container_installation(container)
    return _wheel_installation()


def _container_installation(root: Path) -> Installation:
    backend = root / "backends" / "python"
    try:
        release = Release.parse((root / "TRITON_VERSION").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LaunchError(f"cannot read the release of Triton in {root}: {error}") from error
    if not (backend / STUB).is_file():
        raise LaunchError(
            f"{backend} has no {STUB}: use an image with the Python backend, such as NVIDIA's -py3"
        )
    return Installation(
        release=release,
        server=root / "bin" / "tritonserver",
        backend=backend,
        stub=backend / STUB,
        library_path=(_libpython_directory(_python()), root / "lib"),
    )


def _wheel_installation() -> Installation:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise LaunchError(
            "the package nvidia-pytriton is not installed: pip install nvidia-pytriton==0.7.0; on platforms "
            f"without a wheel, such as musl, {DOCKER_HINT}"
        )
    package = Path(spec.submodule_search_locations[0])
    stub = package / "tritonserver" / "python_backend_stubs" / _python() / STUB
    if not stub.is_file():
        known = ", ".join(sorted(path.name for path in stub.parent.parent.iterdir()))
        raise LaunchError(
            f"the embedded Triton has no stub for Python {_python()}, only for {known}: "
            "use one of these versions"
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
    candidates.append(Path(sys.prefix) / "lib")  # a virtual environment may bring its own library
    for directory in candidates:
        if (directory / name).exists():
            return directory
    raise LaunchError(
        f"this Python has no shared library {name}, which Triton's Python backend needs: install it "
        f"(Debian and Ubuntu: apt install libpython{python}), or use a Python built with --enable-shared"
    )


def link_backend(installation: Installation, directory: Path) -> None:
    """Create a directory of the Python backend, whose stub runs without the memory settings of the server.

    Few arenas suit a server whose threads mostly wait. Threads that decode images would wait for each other,
    so the stub gets back this process's setting, and the container's tcmalloc if it is installed.
    """
    directory.mkdir()
    for source in installation.backend.glob("*.*"):
        (directory / source.name).symlink_to(source)
    launcher = directory / STUB
    launcher.write_text(_stub_launcher(installation.stub, find_tcmalloc()), encoding="utf-8")
    launcher.chmod(0o755)


def _stub_launcher(stub: Path, tcmalloc: Path | None) -> str:
    """Return a shell script that replaces itself by the stub."""
    arenas = os.environ.get(ARENAS_VARIABLE)
    setting = f"unset {ARENAS_VARIABLE}" if arenas is None else f"export {ARENAS_VARIABLE}={quote(arenas)}"
    lines = ["#!/bin/sh", setting]
    if tcmalloc:
        lines.append(f'export LD_PRELOAD={quote(str(tcmalloc))}"${{LD_PRELOAD:+:$LD_PRELOAD}}"')
    return "\n".join([*lines, f'exec {quote(str(stub))} "$@"', ""])


def find_tcmalloc(root: Path = Path("/usr/lib")) -> Path | None:
    """Return the library of tcmalloc that Linux has installed, as in NVIDIA's container, or None."""
    found = (path for name in TCMALLOC_NAMES for path in sorted(root.glob(f"*-linux-gnu/{name}")))
    return next(found, None)


def _is_searched_by_default(directory: Path) -> bool:
    """Return whether Linux's loader searches a directory without LD_LIBRARY_PATH."""
    parent = directory.parent if directory.name.endswith("-linux-gnu") else directory
    return str(parent) in LINUX_LIBRARY_DIRECTORIES


def server_environment(installation: Installation, without: Iterable[str]) -> dict[str, str]:
    """Return the server's environment, with this Python first on PATH for the stubs.

    The libraries of the server come after the inherited LD_LIBRARY_PATH, because NVIDIA's entry point puts
    CUDA's compatibility libraries there, which must precede the host's older libcuda. Directories that the
    loader searches anyway are left out for the same reason.

    Args:
        installation: The server.
        without: Variables of this process to leave out.
    """
    environment = {name: value for name, value in os.environ.items() if name not in without}
    inherited = environment.get("LD_LIBRARY_PATH")
    added = [str(path) for path in installation.library_path if not _is_searched_by_default(path)]
    if directories := [*([inherited] if inherited else []), *added]:
        environment["LD_LIBRARY_PATH"] = ":".join(directories)
    environment.setdefault(ARENAS_VARIABLE, MALLOC_ARENAS)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    return environment
