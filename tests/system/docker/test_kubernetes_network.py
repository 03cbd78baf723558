"""The network policies deny everything except what the server and the gateway need."""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.docker.kubernetes_manifests import OVERLAYS, Manifests, overlay

MONITORING = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
INGRESS = {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}
CLUSTER_DNS = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}


@pytest.fixture(params=OVERLAYS)
def built(request: pytest.FixtureRequest) -> Manifests:
    return overlay(request.param)


def policy(built: Manifests, name: str) -> dict[str, Any]:
    return dict(built.get("NetworkPolicy", name)["spec"])


def test_all_traffic_is_denied_by_default(built):
    assert policy(built, "default-deny") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_every_deployment_has_a_policy_for_both_directions(built):
    for deployment in built.of("Deployment"):
        found = policy(built, deployment["metadata"]["name"])
        assert built.deployments_with(found["podSelector"]["matchLabels"]) == [deployment]
        assert set(found["policyTypes"]) == {"Ingress", "Egress"}
    names = {one["metadata"]["name"] for one in built.of("NetworkPolicy")}
    assert names == {"default-deny", *(one["metadata"]["name"] for one in built.of("Deployment"))}


def test_policies_open_the_named_ports_of_the_pods(built):
    for name in ("tritonclip-server", "tritonclip-gateway"):
        named = {port["name"] for port in built.container(name)["ports"]}
        assert ports(policy(built, name)["ingress"]) == named
    assert ports(policy(built, "tritonclip-gateway")["egress"]) == {"grpc", 53}


def ports(rules: list[dict[str, Any]]) -> set[str | int]:
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_only_the_gateway_may_call_the_server(built):
    server, gateway = policy(built, "tritonclip-server"), policy(built, "tritonclip-gateway")
    assert server["egress"] == []
    (calls,) = (rule for rule in gateway["egress"] if rule["ports"][0]["port"] == "grpc")
    assert [peer["podSelector"] for peer in calls["to"]] == [server["podSelector"]]
    (accepted,) = (rule for rule in server["ingress"] if rule["ports"][0]["port"] == "grpc")
    for peer in accepted["from"]:
        callers = built.deployments_with(peer["podSelector"]["matchLabels"])
        assert callers == [built.get("Deployment", "tritonclip-gateway")]
        # Pods of other namespaces need a label of their namespace too.
        assert peer.keys() == {"podSelector"} or peer["namespaceSelector"]["matchLabels"]


def test_metrics_of_the_server_are_open_to_the_monitoring_namespace_only(built):
    (rule,) = (
        rule
        for rule in policy(built, "tritonclip-server")["ingress"]
        if rule["ports"][0]["port"] == "metrics"
    )
    assert rule["from"] == [{"namespaceSelector": MONITORING}]
    assert [port["port"] for port in rule["ports"]] == ["metrics"]


def test_gateway_is_open_to_the_ingress_and_monitoring_namespaces_only(built):
    peers = [peer for rule in policy(built, "tritonclip-gateway")["ingress"] for peer in rule["from"]]
    assert sorted(map(str, peers)) == sorted(str({"namespaceSelector": one}) for one in (INGRESS, MONITORING))


def test_gateway_may_resolve_names(built):
    (rule,) = (
        rule for rule in policy(built, "tritonclip-gateway")["egress"] if rule["ports"][0]["port"] == 53
    )
    assert {(port["port"], port["protocol"]) for port in rule["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert {"namespaceSelector": CLUSTER_DNS} in rule["to"]
