"""Build the images without a Docker engine, on Debian as root: `docker/build_images.py`, or `make images`.

debootstrap creates the Debian base image, which replaces the one that the Dockerfiles name, and podman runs
all their steps. This proves that the images build, and allows tests to run them. NVIDIA's base of the GPU
image cannot be created this way.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
BASE = "docker.io/library/debian:bookworm-slim"
IMAGES = {
    "tritonclip-server:cpu": ("Dockerfile.cpu", ["CHECKPOINT=scripts/demo/checkpoint"]),
    "tritonclip-gateway:latest": ("Dockerfile.gateway", []),
    "tritonclip-gateway:search": ("Dockerfile.gateway", ["REQUIREMENTS=gateway-tracing-search"]),
    "tritonclip-loadtest:latest": ("Dockerfile.loadtest", []),
}
"""Dockerfile and build arguments of each image."""
TOOLS = ("podman", "runc", "debootstrap")
STORE = Path("/var/tmp/tritonclip-images")
PIP_PATHS = ("find-links", "extra-index-url", "constraint")
PIP_MOUNT = "/run/pip"


class BuildError(RuntimeError):
    """An image cannot be built. The text gives the cause."""


class Podman:
    """podman with a separate image store.

    Args:
        store: Folder of the store.
    """

    def __init__(self, store: Path) -> None:
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            raise BuildError(f"not found: {', '.join(missing)}; apt-get install {' '.join(missing)}")
        if os.getuid() != 0:
            raise BuildError("debootstrap and the mounts need root; run as root")
        self.store = store
        store.mkdir(parents=True, exist_ok=True)
        policy = store / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        self._signatures = ["--signature-policy", str(policy)]
        self._command = ["podman", "--root", str(store / "images"), "--runroot", str(store / "run")]
        self._command += ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"]

    def command(self, *arguments: str) -> list[str]:
        """Return the command line for a call of podman."""
        return [*self._command, *arguments]

    def call(self, *arguments: str) -> str:
        """Call podman and return its output.

        Raises:
            BuildError: podman failed.
        """
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"podman {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Return True if the store contains the image."""
        return subprocess.run(self.command("image", "exists", image), check=False).returncode == 0

    def make_base(self) -> None:
        """Create the Debian base image from Debian's packages, unless it exists."""
        if self.has(BASE):
            return
        release = BASE.rpartition(":")[2].partition("-")[0]
        with tempfile.TemporaryDirectory(dir=self.store) as scratch:
            root = Path(scratch) / "root"
            subprocess.run(["debootstrap", "--variant=minbase", release, str(root)], check=True)
            archive = Path(scratch) / "root.tar"
            subprocess.run(["tar", "--create", "--file", archive, "--directory", root, "."], check=True)
            self.call("import", str(archive), BASE)

    def build(self, image: str, dockerfile: str, arguments: Sequence[str]) -> None:
        """Build an image and print each step.

        Raises:
            BuildError: A step failed.
        """
        with _pip_configuration() as volumes:
            options = [
                "--file",
                f"docker/{dockerfile}",
                "--tag",
                image,
                "--pull-never",
                "--isolation",
                "chroot",
            ]
            options += ["--format", "docker"]  # the OCI format has no health check
            options += [f"--build-arg={argument}" for argument in (f"BASE={BASE}", *arguments)]
            options += [f"--volume={volume}" for volume in volumes]
            done = subprocess.run(
                self.command("build", *self._signatures, *options, "."), cwd=ROOT, check=False
            )
        if done.returncode:
            raise BuildError(f"the build of {dockerfile} failed; the last step above has the cause")


@contextmanager
def _pip_configuration() -> Iterator[list[str]]:
    """Yield mounts that give pip in a build this machine's configuration: certificates, wheels, index."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'")
    with tempfile.TemporaryDirectory() as scratch:
        if "cert" in settings:  # another path, because the package ca-certificates writes to the original
            shutil.copyfile(settings["cert"], Path(scratch) / "ca.crt")
            settings["cert"] = f"{PIP_MOUNT}/ca.crt"
        path = Path(scratch) / "pip.conf"
        path.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        places = {place for name in PIP_PATHS for place in settings.get(name, "").split()}
        found = {Path(place) for place in places if "://" not in place}
        folders = {one.parent if one.is_file() else one for one in found if one.exists()}
        # An index on disk may refer to files next to it.
        folders |= {Path(place[7:]).parent for place in places if place.startswith("file://")}
        mounts = [f"{one}:{one}:ro" for one in sorted(folders)]
        yield [f"{scratch}:{PIP_MOUNT}:ro", f"{path}:/etc/pip.conf:ro", *mounts]


@click.command()
@click.option(
    "--store", type=click.Path(path_type=Path), default=STORE, show_default=True, help="Folder of the store."
)
@click.argument("names", nargs=-1, type=click.Choice(list(IMAGES)))
def main(store: Path, names: tuple[str, ...]) -> None:
    """Build the images NAMES, by default all, and print their sizes."""
    try:
        podman = Podman(store)
        podman.make_base()
        for name in names or IMAGES:
            podman.build(name, *IMAGES[name])
        click.echo(
            podman.call(
                "images", "--filter", "dangling=false", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"
            )
        )
    except (BuildError, subprocess.CalledProcessError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
