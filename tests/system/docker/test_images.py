"""Dockerfiles pass the linter and copy existing files; the images that they build run as documented."""

import contextlib
import fnmatch
import functools
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.helpers.calls import together
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT
from tests.system.docker.containers import HARDENED, Container, configuration, require_podman
from tritonclip import Client, ServerUnavailableError
from tritonclip.search import SearchIndex
from tritonclip_server.serving.launcher import free_port
from tritonclip_server.serving.release import PINNED

DOCKER = ROOT / "docker"
DOCKERFILES = ("Dockerfile", "Dockerfile.cpu", "Dockerfile.gateway", "Dockerfile.loadtest")
SECRETS = re.compile(r"(?i)(password|secret|token|api[_-]?key)\s*=\s*\S")
CONTEXT_BYTES = 40_000_000


@functools.cache
def context_files():
    """Return the versioned files of the build context, filtered by .dockerignore."""
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = []
    for name in listed.splitlines():
        kept = True
        for rule in rules:
            pattern = rule.removeprefix("!")
            anywhere = pattern.startswith("**/")
            paths = Path(name).parts if anywhere else [name, *map(str, Path(name).parents)]
            if any(fnmatch.fnmatchcase(path, pattern.removeprefix("**/")) for path in paths):
                kept = rule.startswith("!")
        if kept:
            found.append(name)
    return found


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_linter_accepts_dockerfile(dockerfile):
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [linter, "--config", DOCKER / "hadolint.yaml", DOCKER / dockerfile],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_dockerfile_copies_context_files_and_drops_root(dockerfile):
    text, context = (DOCKER / dockerfile).read_text(), set(context_files())
    folders = {str(parent) for name in context for parent in Path(name).parents}
    copied = [line.split()[1:-1] for line in re.findall(r"^COPY (?!--from).*$", text, re.M)]
    assert copied
    assert {source for sources in copied for source in sources} <= context | folders
    assert re.findall(r"^USER (.*)$", text, re.M) == ["1000:1000"]
    assert not SECRETS.search(text)


def test_every_dockerfile_is_checked():
    assert sorted(path.name for path in DOCKER.glob("Dockerfile*")) == list(DOCKERFILES)


def test_build_context_is_small_and_excludes_other_files():
    context = context_files()
    assert sum((ROOT / name).stat().st_size for name in context) < CONTEXT_BYTES
    assert not [
        name for name in context if name.startswith(("tests/", ".git", "build/", ".venv", "docker/nginx"))
    ]


def test_gpu_image_uses_the_pinned_triton_release():
    text = (DOCKER / "Dockerfile").read_text()
    month = {PINNED.minor: "26.07"}[71]
    assert f"ARG BASE=nvcr.io/nvidia/tritonserver:{month}-py3\nFROM $BASE AS base\n" in text
    cpu = (DOCKER / "Dockerfile.cpu").read_text()
    for line in ("ENTRYPOINT", "HEALTHCHECK", "EXPOSE", "ARG CHECKPOINT"):
        own, others = (re.search(rf"^{line}.*$", one, re.M)[0] for one in (text, cpu))
        own = own.replace('"/opt/nvidia/nvidia_entrypoint.sh", ', "")
        assert own.split("--start-period")[0] == others.split("--start-period")[0]


# The remaining tests build the images as `make images` does, and run them. They take minutes.


@pytest.fixture(scope="module")
def podman():
    podman = require_podman()
    subprocess.run([sys.executable, "docker/build_images.py"], cwd=ROOT, check=True)
    return podman


def ports(*names):
    """Return options with a free port for each name, and the ports by name."""
    chosen = {name: free_port("127.0.0.1") for name in names}
    return [text for name, port in chosen.items() for text in (f"--{name}", str(port))], chosen


@contextlib.contextmanager
def serving(podman, servers, why):
    """Run the image of the server until the block ends."""
    servers.command(why)
    arguments, chosen = ports("http-port", "grpc-port", "metrics-port")
    with Container(podman, "tritonclip-server:cpu", arguments, [*HARDENED, "--shm-size=1g"]) as container:
        container.wait_for("ready: grpc")
        container.grpc_url = f"127.0.0.1:{chosen['grpc-port']}"
        yield container


@pytest.fixture(scope="module")
def container(podman, servers):
    with serving(podman, servers, "the server's image in a container") as running:
        yield running


@pytest.mark.slow
def test_server_answers_as_user_1000_with_a_read_only_root(container):
    with Client(container.grpc_url) as client:
        best = client.classify(str(ROOT / "scripts/demo/images/digit_7.jpg"), ["the digit 3", "the digit 7"])[
            0
        ]
        assert (best["label"], best["score"] > 0.99) == ("the digit 7", True)
    assert container.run("id", "-u").stdout == "1000\n"
    assert "Read-only file system" in container.run("touch", "/models/x").stderr
    assert container.run("touch", "/opt/tritonclip/venv/bin/tritonclip-server").returncode
    assert container.run("touch", "/tmp/x").returncode == 0


@pytest.mark.slow
def test_health_check_of_the_server_succeeds(container, podman):
    check = configuration(podman, "tritonclip-server:cpu")["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    command = [container.grpc_url if part == "localhost:8001" else part for part in check[1:]]
    assert command != check[1:]
    assert container.run(*command).returncode == 0
    assert container.run(*(part.replace("--deep", "--no-such") for part in command)).returncode == 2


@pytest.mark.slow
def test_gateway_container_answers_over_http(container, podman):
    arguments, chosen = ports("port")
    options = [*arguments, "--url", container.grpc_url]
    with Container(podman, "tritonclip-gateway:latest", options) as gateway:
        gateway.wait_for(f"http://0.0.0.0:{chosen['port']}")
        url = f"http://127.0.0.1:{chosen['port']}"
        with urllib.request.urlopen(f"{url}/readyz") as reply:
            assert b'"ready"' in reply.read()
        with urllib.request.urlopen(f"{url}/") as reply:
            assert b"<html" in reply.read()
        command = configuration(podman, "tritonclip-gateway:latest")["Healthcheck"]["Test"][1:]
        assert gateway.run(*(part.replace("8080", str(chosen["port"])) for part in command)).returncode == 0
        assert gateway.run(*(part.replace("8080", "9") for part in command)).returncode == 1
        assert gateway.run("id", "-u").stdout == "1000\n"
        assert gateway.stop() in (0, 143)


@pytest.mark.slow
def test_gateway_container_searches_a_read_only_index(container, podman, tmp_path):
    images, place = tmp_path / "images", tmp_path / "index"
    shutil.copytree(ROOT / "scripts/demo/images", images)
    with Client(container.grpc_url) as client, SearchIndex.open(place, client, create=True) as index:
        index.sync([images])
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (arguments, chosen), mount = ports("port"), f"--volume={tmp_path}:{tmp_path}:ro"
    arguments += ["--url", container.grpc_url, "--index", str(place)]
    with Container(podman, "tritonclip-gateway:search", arguments, [*HARDENED, mount]) as gateway:
        gateway.wait_for(f"http://0.0.0.0:{chosen['port']}")
        url, headers = f"http://127.0.0.1:{chosen['port']}", {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/search", b'{"text": "a red circle"}', headers)
        with urllib.request.urlopen(request) as reply:
            found = json.load(reply)["results"]
        assert (found[0]["name"], len(found)) == ("red_circle.jpg", 9)


@pytest.mark.slow
@pytest.mark.parametrize("image", ["tritonclip-server:cpu", "tritonclip-gateway:latest"])
def test_image_contains_no_leftovers_of_the_build(podman, image):
    found = configuration(podman, image)
    assert found["User"] == "1000:1000"
    assert not [one for one in found["Env"] if SECRETS.search(one)]
    limits = ["--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:8192"]
    options = ["--rm", "--network=none", "--no-healthcheck", "--user=0", "--entrypoint=find", *limits]
    listing = podman.call("run", *options, f"localhost/{image}", "/", "-xdev", "-type", "f", "-size", "+0")
    left = [
        name
        for name in listing.splitlines()
        if re.search(
            r"pip/cache|/var/lib/apt/lists/.+|/build/|/hub/|pip\.conf|/ca\.crt$|\.git/|site-packages/pip/",
            name,
        )
    ]
    assert not left


@pytest.mark.slow
def test_load_test_container_runs_locust(podman, container):
    address = f"--env=TRITONCLIP_LOAD_GRPC_URL={container.grpc_url}"
    arguments = ["--headless", "--users", "2", "--stop-timeout", "60"]
    with Container(podman, "tritonclip-loadtest:latest", arguments, [*HARDENED, address]) as locust:
        locust.wait_for("classify")  # in the table of completed requests
        assert locust.stop() == 0, locust.log()


@pytest.mark.slow
def test_stop_drains_the_server(podman, servers):
    images = [encode(noise(1200, 1200, seed), "JPEG") for seed in range(2)] * 10
    with serving(podman, servers, "the server's image in a container, which is stopped") as container:

        def call(index):
            if index == 0:
                return container.stop()
            with Client(container.grpc_url, timeout_s=300, attempts=1) as client:
                try:
                    return client.embed_images(images).shape
                except ServerUnavailableError as error:
                    return "draining" in str(error) or "connect" in str(error).lower()

        answers = together(4, call)
        assert answers[0] == 0
        assert all(answer in ((20, 512), True) for answer in answers[1:])
        assert "stopped on SIGTERM" in container.log()
