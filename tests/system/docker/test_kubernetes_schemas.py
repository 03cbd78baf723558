"""The Kubernetes manifests against the schemas of many versions, and against each other."""

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


@pytest.mark.parametrize("version", VERSIONS)
def test_schemas(built, version):
    checked = [one for one in built.all if one["kind"] in BUILT_IN]
    assert len(checked) + len(built.of("ServiceMonitor")) == len(built.all)
    for one in checked:
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_are_strict():
    broken = {**overlay("cpu").get("Service", "tritonclip-gateway"), "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_every_object_is_in_the_namespace_and_named_once(built):
    (namespace,) = built.of("Namespace")
    others = [one for one in built.all if one is not namespace]
    assert {one["metadata"]["namespace"] for one in others} == {namespace["metadata"]["name"]}
    assert len({(one["kind"], one["metadata"]["name"]) for one in built.all}) == len(built.all)


def test_selectors_match_their_own_pods_only(built):
    for deployment in built.of("Deployment"):
        labels = deployment["spec"]["selector"]["matchLabels"]
        assert built.deployments_with(labels) == [deployment]
        for constraint in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == labels
    for service in built.of("Service"):
        (target,) = built.deployments_with(service["spec"]["selector"])
        assert service["metadata"]["name"].startswith(target["metadata"]["name"])


def test_services_lead_to_ports_that_containers_name(built):
    for service in built.of("Service"):
        (target,) = built.deployments_with(service["spec"]["selector"])
        (container,) = target["spec"]["template"]["spec"]["containers"]
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in named
    headless = built.get("Service", "tritonclip-server-headless")["spec"]
    assert headless["clusterIP"] == "None"
    # What a name of pods gives are their addresses: no port is translated on the way.
    assert [(port["port"], port["targetPort"]) for port in headless["ports"]] == [(8001, "grpc")]


def test_ports_are_those_of_the_programs(built):
    options = ServerOptions()
    server = {port["name"]: port["containerPort"] for port in built.container("tritonclip-server")["ports"]}
    assert server == {"grpc": options.grpc_port, "metrics": options.metrics_port}
    (http,) = built.container("tritonclip-gateway")["ports"]
    assert http == {"name": "http", "containerPort": 8080}
    for name, image in (("server", "Dockerfile.cpu"), ("gateway", "Dockerfile.gateway")):
        (line,) = re.findall(r"^EXPOSE (.*)$", (ROOT / "docker" / image).read_text("utf-8"), re.M)
        ports = built.container(f"tritonclip-{name}")["ports"]
        assert {str(port["containerPort"]) for port in ports} <= set(line.split())


def test_updates_and_drains_of_nodes_are_possible(built):
    for deployment in built.of("Deployment"):
        update = deployment["spec"]["strategy"]["rollingUpdate"]
        assert (update["maxSurge"], update["maxUnavailable"]) == (1, 0)
        (budget,) = (
            one
            for one in built.of("PodDisruptionBudget")
            if one["spec"]["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]
        )
        assert budget["spec"]["maxUnavailable"] == 1  # a minimum would forbid it to a single pod
        assert "minAvailable" not in budget["spec"]


def test_autoscalers_have_their_targets_to_themselves():
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
    assert "cpu" in built.container("tritonclip-gateway")["resources"]["requests"]  # what it is a part of


def test_ingress_has_tls_and_leads_to_the_gateway():
    built = overlay("replicas")
    (ingress,) = built.of("Ingress")
    (rule,), (tls,) = ingress["spec"]["rules"], ingress["spec"]["tls"]
    assert tls == {"hosts": [rule["host"]], "secretName": "tritonclip-tls"}
    (path,) = rule["http"]["paths"]
    service = built.get("Service", path["backend"]["service"]["name"])
    assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_service_monitors():
    """There is no schema of the Prometheus operator's here: its fields are checked by hand."""
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
        assert len(chosen) == 1  # none is scraped twice


def test_models_may_come_from_a_volume(tmp_path):
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
