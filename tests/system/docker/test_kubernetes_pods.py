"""Pods of the Kubernetes manifests: privileges, resources, probes, shutdown, arguments."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from tests.helpers.servers import ROOT
from tests.system.docker.kubernetes_manifests import (
    MANIFESTS,
    OVERLAYS,
    Manifests,
    kubectl,
    overlay,
    size_bytes,
)
from tritonclip.gateway._serve import STOP_TIMEOUT_S
from tritonclip_server.serving import serve
from tritonclip_server.serving.launcher import ServerOptions
from tritonclip_server.serving.supervisor import SupervisorOptions

NAMES = ("tritonclip-server", "tritonclip-gateway")


@pytest.fixture(params=OVERLAYS)
def built(request: pytest.FixtureRequest) -> Manifests:
    return overlay(request.param)


@pytest.fixture(params=[(name, which) for name in OVERLAYS for which in NAMES], ids="-".join)
def pod(request: pytest.FixtureRequest) -> dict[str, Any]:
    name, which = request.param
    return dict(overlay(name).pod(which)["spec"])


def test_pods_meet_the_restricted_standard_without_token_and_service_links(pod):
    """The standard is: Kubernetes, Pod Security Standards, Restricted."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for volume in pod["volumes"]:
        assert volume.keys() - {"name"} <= {"emptyDir", "secret", "persistentVolumeClaim"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert all("hostPort" not in port for port in container["ports"])
    # The standard does not require these two.
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


def test_namespace_enforces_the_restricted_standard(built):
    (namespace,) = built.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_images_are_those_of_compose():
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text("utf-8"))["services"]
    on_gpu = yaml.safe_load((ROOT / "docker/compose.gpu.yaml").read_text("utf-8"))["services"]
    wanted = {"cpu": compose["server"], "gpu": on_gpu["server"], "replicas": on_gpu["server"]}
    for name, server in wanted.items():
        assert overlay(name).container("tritonclip-server")["image"] == server["image"]
        assert overlay(name).container("tritonclip-gateway")["image"] == compose["gateway"]["image"]


def test_memory_limit_covers_shared_memory(built):
    for name in NAMES:
        resources = built.container(name)["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
    pod = built.pod("tritonclip-server")["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
    shared = mounts["/dev/shm"]["emptyDir"]
    assert shared["medium"] == "Memory"
    limit = size_bytes(pod["containers"][0]["resources"]["limits"]["memory"])
    assert size_bytes(shared["sizeLimit"]) <= limit / 2
    assert {"/tmp", pod_environment(built)["TRITONCLIP_CACHE_DIR"]} <= mounts.keys()


def pod_environment(built: Manifests) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in built.container("tritonclip-server")["env"]}


def test_gateway_memory_covers_the_admitted_bodies(built):
    container = built.container("tritonclip-gateway")
    (mebibytes,) = (one for one in container["args"] if one.startswith("--max-mib="))
    assert size_bytes(container["resources"]["limits"]["memory"]) >= 1.5 * int(mebibytes[10:]) * 2**20


def pre_stop_s(container: dict[str, Any]) -> int:
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    return int(seconds)


@pytest.mark.parametrize(
    ("name", "drain_s"),
    [
        ("tritonclip-server", ServerOptions().drain_timeout_s + ServerOptions().exit_timeout_s),
        ("tritonclip-gateway", STOP_TIMEOUT_S),
    ],
)
def test_grace_period_covers_the_drain(built, name, drain_s):
    container = built.container(name)
    grace_s = built.pod(name)["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= pre_stop_s(container) + drain_s + 5
    assert "--drain-timeout" not in container["args"]


def probe_limit_s(probe: dict[str, Any]) -> int:
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def test_liveness_probe_gives_the_supervisor_time_to_restart(built):
    supervisor, options = SupervisorOptions(), ServerOptions()
    container = built.container("tritonclip-server")
    needed_s = supervisor.stall_s + supervisor.max_delay_s + options.start_timeout_s
    assert probe_limit_s(container["livenessProbe"]) > needed_s
    assert probe_limit_s(container["startupProbe"]) > options.start_timeout_s
    assert built.get("Deployment", "tritonclip-server")["spec"]["progressDeadlineSeconds"] > probe_limit_s(
        container["startupProbe"]
    )


def test_probe_timeout_exceeds_the_queue_budget(built):
    config = (ROOT / "model_repository/admission/config.pbtxt").read_text("utf-8")
    (budget_ms,) = re.findall(r'key: "queue_budget_ms" value \{ string_value: "(\d+)"', config)
    container = built.container("tritonclip-server")
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = container[kind]["exec"]["command"]
        timeout_s = float(command[command.index("--timeout") + 1])
        assert timeout_s > int(budget_ms) / 1000 + 2
        assert container[kind]["timeoutSeconds"] > timeout_s


def test_only_gpu_overlays_request_a_gpu():
    for name in OVERLAYS:
        pod = overlay(name).pod("tritonclip-server")["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        requests = pod["containers"][0]["resources"]["requests"]
        assert limits == requests  # QoS class Guaranteed
        assert ("nvidia.com/gpu" in limits) == (name != "cpu") == ("nodeSelector" in pod)


def test_container_arguments_are_valid_options(built):
    for image in ("Dockerfile", "Dockerfile.cpu"):
        (line,) = re.findall(r"^ENTRYPOINT (.*)$", (ROOT / "docker" / image).read_text("utf-8"), re.M)
        command = yaml.safe_load(line)
        assert "tritonclip-server" in command
        own = command[command.index("serve") + 1 :]
        arguments = [*own, *built.container("tritonclip-server")["args"]]
        context = serve.main.make_context("serve.py", arguments)
        assert context.params["host"] == "0.0.0.0"
        assert context.params["source"] == "/models"
        assert context.params["log_format"] == "json"


def secret(line: str, directory: Path) -> dict[str, Any]:
    """Return the Secret that a command of the README would create."""
    command = shlex.split(line.rpartition("| ")[2])
    assert command[0] == "kubectl"
    done = subprocess.run(
        [kubectl(), *command[1:], "--dry-run=client", "--output=json"],
        cwd=directory,
        input="a secret" if "/dev/stdin" in line else None,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_readme_creates_the_secrets_that_the_manifests_use(tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("clip.example.com")
    certificate.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.crt"))
    (tmp_path / "keys").write_text("a key", "utf-8")
    readme = (MANIFESTS / "README.md").read_text("utf-8")
    made = [secret(line, tmp_path) for line in readme.splitlines() if " create secret " in line]
    names = {one["metadata"]["name"]: set(one["data"]) for one in made}
    assert {one["metadata"]["namespace"] for one in made} == {"tritonclip"}
    built = overlay("replicas")
    (admin,) = (
        one["valueFrom"]["secretKeyRef"]
        for one in built.container("tritonclip-server")["env"]
        if "valueFrom" in one
    )
    (keys,) = (
        volume["secret"]
        for volume in built.pod("tritonclip-gateway")["spec"]["volumes"]
        if "secret" in volume
    )
    assert "optional" not in keys  # a gateway without keys must not start
    assert admin["optional"] is True
    assert names == {
        admin["name"]: {admin["key"]},
        keys["secretName"]: {"keys"},
        built.of("Ingress")[0]["spec"]["tls"][0]["secretName"]: {"tls.crt", "tls.key"},
    }
