"""Python packages of the images: pinned by version and hash, and complete."""

import importlib.metadata
import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.servers import ROOT

tomllib = pytest.importorskip("tomllib", reason="requires Python 3.11")
DOCKER = ROOT / "docker"
FILES = sorted(path.stem for path in (DOCKER / "requirements").glob("*.txt"))
IMAGE = {"python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux", "extra": ""}
WITHOUT_HASH = re.compile(r"torch$|triton$|cuda-|nvidia-(?!pytriton)")
"""torch and its libraries, which depend on the index."""


def dependencies(project, *extras):
    table = tomllib.loads((ROOT / project).read_text(encoding="utf-8"))["project"]
    return [
        *table["dependencies"],
        *(one for extra in extras for one in table["optional-dependencies"][extra]),
    ]


EXPECTED = {
    "gateway-tracing": [*dependencies("client/pyproject.toml", "gateway", "tracing"), "setuptools"],
    "gateway-tracing-search": [
        *dependencies("client/pyproject.toml", "gateway", "tracing", "search"),
        "setuptools",
    ],
    "loadtest": [*dependencies("client/pyproject.toml"), "gevent", "locust", "setuptools"],
    "server": [
        *dependencies("pyproject.toml", "heif"),
        *dependencies("client/pyproject.toml", "heif"),
        *(importlib.metadata.requires("torch") or ()),
        "hatchling",
        "setuptools",
    ],
}


def wanted(lines):
    """Return the names of the requirements that apply inside the images and have hashes."""
    requirements = map(Requirement, lines)
    names = {
        canonicalize_name(one.name)
        for one in requirements
        if one.marker is None or one.marker.evaluate(IMAGE)
    }
    return {name for name in names if not WITHOUT_HASH.match(name)}


def constraints():
    """Return the version of each package of constraints.txt inside the images."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(one.name): str(one.specifier)
        for one in requirements
        if one.marker is None or one.marker.evaluate(IMAGE)
    }


def entries(name):
    """Return the version and the number of hashes of each package of a file."""
    text = (DOCKER / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"^([^\s#].*?)(?=^\S|\Z)", text, re.M | re.S)
    found = {}
    for block in blocks:
        requirement = Requirement(block.split(" \\")[0])
        found[canonicalize_name(requirement.name)] = (
            str(requirement.specifier),
            len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)),
        )
    return found


def test_every_file_is_checked():
    assert list(EXPECTED) == FILES


@pytest.mark.parametrize("name", EXPECTED)
def test_every_package_has_the_tested_version_and_hashes(name):
    pinned = constraints()
    for package, (version, hashes) in entries(name).items():
        assert version == pinned[package], f"{package}: run docker/requirements/update.sh"
        assert hashes > 0, package
        assert not WITHOUT_HASH.match(package)


@pytest.mark.parametrize("name", EXPECTED)
def test_direct_dependencies_are_listed(name):
    assert wanted(EXPECTED[name]) <= set(entries(name)), "run docker/requirements/update.sh"


def test_images_install_only_what_has_hashes_and_torch():
    used = set()
    for file in DOCKER.glob("Dockerfile*"):
        installs = re.findall(r"pip install (.*?)(?: \\)?$", file.read_text(encoding="utf-8"), re.M)
        assert len(installs) >= 2, file
        for options in installs:
            if "--require-hashes" in options:
                used |= set(re.findall(r"requirements/([\w-]+)\.txt", options))
            else:
                assert "--no-deps --no-build-isolation" in options or options.endswith(" torch"), options
    assert used == {"server", "loadtest"}
    assert '"requirements/$REQUIREMENTS.txt"' in (DOCKER / "Dockerfile.gateway").read_text(encoding="utf-8")
