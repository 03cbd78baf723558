"""The Kubernetes manifests conform to the schemas of many versions, and are consistent."""

from __future__ import annotations

import os
import re

import kubernetes_validate
import pytest

from tests.helpers.servers import ROOT
from tests.system.docker.kubernetes_manifests import MANIFESTS, OVERLAYS, Manifests, build, overlay
from tritonclip_server.serving.launcher import ServerOptions

VERSIONS = [f"1.{minor}" for minor in range(27, 38)]
BUILT_IN = {
    *("Deployment", "HorizontalPodAutoscaler", "Ingress", "Namespace", "NetworkPolicy"),
    *("PodDisruptionBudget", "Service"),
}
NAMES = ("tritonclip-server", "tritonclip-gateway")
WITH_VOLUME = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{manifests}/overlays/{overlay}]
components: [{manifests}/components/model-volume]
"""


@pytest.fixture(params=OVERLAYS)
def built(request: pytest.FixtureRequest) -> Manifests:
    return overlay(request.param)


@pytest.mark.parametrize(
    "version",
    [VERSIONS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in VERSIONS[1:-1]), VERSIONS[-1]],
)
def test_manifests_conform_to_the_schema(built, version):
    checked = [one for one in built.all if one["kind"] in BUILT_IN]
    assert len(checked) + len(built.of("ServiceMonitor")) == len(built.all)
    for one in checked:
        kubernetes_validate.validate(one, version, strict=True)


def test_schema_validation_is_strict():
    broken = {**overlay("cpu").get("Service", "tritonclip-gateway"), "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_objects_are_in_the_namespace_with_unique_names(built):
    (namespace,) = built.of("Namespace")
    others = [one for one in built.all if one is not namespace]
    assert {one["metadata"]["namespace"] for one in others} == {namespace["metadata"]["name"]}
    assert len({(one["kind"], one["metadata"]["name"]) for one in built.all}) == len(built.all)


def test_selectors_match_only_their_pods(built):
    for deployment in built.of("Deployment"):
        labels = deployment["spec"]["selector"]["matchLabels"]
        assert built.deployments_with(labels) == [deployment]
        for constraint in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == labels
    for service in built.of("Service"):
        (target,) = built.deployments_with(service["spec"]["selector"])
        assert service["metadata"]["name"].startswith(target["metadata"]["name"])


def test_services_target_named_container_ports(built):
    for service in built.of("Service"):
        (target,) = built.deployments_with(service["spec"]["selector"])
        (container,) = target["spec"]["template"]["spec"]["containers"]
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in named
    headless = built.get("Service", "tritonclip-server-headless")["spec"]
    assert headless["clusterIP"] == "None"
    # A headless Service resolves to pod addresses, so ports are not translated.
    assert [(port["port"], port["targetPort"]) for port in headless["ports"]] == [(8001, "grpc")]


def test_container_ports_are_the_default_ports(built):
    options = ServerOptions()
    server = {port["name"]: port["containerPort"] for port in built.container("tritonclip-server")["ports"]}
    assert server == {"grpc": options.grpc_port, "metrics": options.metrics_port}
    (http,) = built.container("tritonclip-gateway")["ports"]
    assert http == {"name": "http", "containerPort": 8080}
    for name, image in (("server", "Dockerfile.cpu"), ("gateway", "Dockerfile.gateway")):
        (line,) = re.findall(r"^EXPOSE (.*)$", (ROOT / "docker" / image).read_text("utf-8"), re.M)
        ports = built.container(f"tritonclip-{name}")["ports"]
        assert {str(port["containerPort"]) for port in ports} <= set(line.split())


def test_rolling_updates_and_node_drains_are_possible(built):
    for deployment in built.of("Deployment"):
        update = deployment["spec"]["strategy"]["rollingUpdate"]
        assert (update["maxSurge"], update["maxUnavailable"]) == (1, 0)
        (budget,) = (
            one
            for one in built.of("PodDisruptionBudget")
            if one["spec"]["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]
        )
        assert budget["spec"]["maxUnavailable"] == 1  # minAvailable would block eviction of a single pod
        assert "minAvailable" not in budget["spec"]


def test_autoscaled_deployments_have_no_replica_count():
    built = overlay("replicas")
    targets = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"] for one in built.of("HorizontalPodAutoscaler")
    }
    assert targets.keys() == set(NAMES)
    for name, spec in targets.items():
        deployment = built.get("Deployment", name)
        assert spec["scaleTargetRef"] == {
            "apiVersion": deployment["apiVersion"],
            "kind": deployment["kind"],
            "name": name,
        }
        assert "replicas" not in deployment["spec"]
        assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
    (metric,) = targets["tritonclip-gateway"]["metrics"]
    assert metric["resource"]["target"]["type"] == "Utilization"
    assert (
        "cpu" in built.container("tritonclip-gateway")["resources"]["requests"]
    )  # the utilisation is relative to it


def test_ingress_uses_tls_and_targets_the_gateway():
    built = overlay("replicas")
    (ingress,) = built.of("Ingress")
    (rule,), (tls,) = ingress["spec"]["rules"], ingress["spec"]["tls"]
    assert tls == {"hosts": [rule["host"]], "secretName": "tritonclip-tls"}
    (path,) = rule["http"]["paths"]
    service = built.get("Service", path["backend"]["service"]["name"])
    assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_service_monitors_select_one_port_each():
    """The schemas do not include the Prometheus operator, so its fields are checked here."""
    built = overlay("replicas")
    monitors = built.of("ServiceMonitor")
    assert len(monitors) == 2
    for monitor in monitors:
        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        assert monitor["spec"].keys() == {"selector", "endpoints"}
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint.keys() == {"port", "path", "interval", "scrapeTimeout"}
        assert int(endpoint["scrapeTimeout"][:-1]) <= int(endpoint["interval"][:-1])
        chosen = [
            port
            for service in built.of("Service")
            if monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            for port in service["spec"]["ports"]
            if port["name"] == endpoint["port"]
        ]
        assert len(chosen) == 1  # no port is scraped twice


def test_model_volume_component_mounts_the_claim(tmp_path):
    for name in OVERLAYS:
        text = WITH_VOLUME.format(manifests=os.path.relpath(MANIFESTS, tmp_path.resolve()), overlay=name)
        (tmp_path / "kustomization.yaml").write_text(text, "utf-8")
        built = build(tmp_path)
        for one in built.of("Deployment"):
            kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
        pod = built.pod("tritonclip-server")["spec"]
        (mount,) = (one for one in pod["containers"][0]["volumeMounts"] if one["mountPath"] == "/models")
        (volume,) = (one for one in pod["volumes"] if one["name"] == mount["name"])
        assert mount["readOnly"] is True
        assert volume["persistentVolumeClaim"] == {"claimName": "tritonclip-models", "readOnly": True}
        assert {"shm", "tmp", "cache"} < {one["name"] for one in pod["volumes"]}
