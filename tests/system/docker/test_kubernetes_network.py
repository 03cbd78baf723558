"""Connections that the network policies allow, evaluated as Kubernetes would evaluate them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.docker.kubernetes_manifests import OVERLAYS, Manifests, overlay

OURS = "tritonclip"
SERVER = {"app.kubernetes.io/name": "tritonclip", "app.kubernetes.io/component": "server"}
GATEWAY = {
    "app.kubernetes.io/name": "tritonclip",
    "app.kubernetes.io/component": "gateway",
    "tritonclip-client": "true",
}
CLIENT, STRANGER = {"tritonclip-client": "true"}, {"app": "stranger"}
TRUSTED = {"tritonclip-clients": "true"}


@pytest.fixture(params=OVERLAYS)
def built(request: pytest.FixtureRequest) -> Manifests:
    return overlay(request.param)


def selects(selector: dict[str, Any] | None, labels: dict[str, str]) -> bool:
    assert selector is None or selector.keys() <= {"matchLabels"}
    return selector is not None and selector.get("matchLabels", {}).items() <= labels.items()


def is_peer(peer: dict[str, Any], namespace: str, more: dict[str, str], pod: dict[str, str]) -> bool:
    if "ipBlock" in peer:
        return False
    labels = {"kubernetes.io/metadata.name": namespace, **more}
    inside = selects(peer["namespaceSelector"], labels) if "namespaceSelector" in peer else namespace == OURS
    return inside and selects(peer.get("podSelector", {}), pod)


def allows(
    built: Manifests,
    direction: str,
    own: dict[str, str],
    port: str | int,
    namespace: str,
    pod: dict[str, str],
    **more: str,
) -> bool:
    """Return True if a pod with the labels `own` may exchange traffic with the other pod at this port."""
    policies = [
        one["spec"]
        for one in built.of("NetworkPolicy")
        if selects(one["spec"]["podSelector"], own) and direction in one["spec"]["policyTypes"]
    ]
    assert policies, "no policy selects the pod, so all traffic is allowed"
    return any(
        any(port == one["port"] for one in rule["ports"])
        and any(
            is_peer(peer, namespace, more, pod) for peer in rule["from" if direction == "Ingress" else "to"]
        )
        for policy in policies
        for rule in policy.get(direction.lower(), [])
    )


@pytest.mark.parametrize(
    ("port", "namespace", "pod", "more", "allowed"),
    [
        ("grpc", OURS, GATEWAY, {}, True),
        ("grpc", OURS, CLIENT, {}, True),
        ("grpc", OURS, STRANGER, {}, False),
        ("grpc", "elsewhere", CLIENT, {}, False),
        ("grpc", "elsewhere", CLIENT, TRUSTED, True),
        ("grpc", "elsewhere", STRANGER, TRUSTED, False),
        ("grpc", "ingress-nginx", STRANGER, {}, False),
        ("grpc", "monitoring", STRANGER, {}, False),
        ("metrics", "monitoring", STRANGER, {}, True),
        ("metrics", OURS, GATEWAY, {}, False),
        (8000, OURS, GATEWAY, {}, False),
        (8000, "monitoring", STRANGER, {}, False),
    ],
)
def test_only_labelled_clients_and_monitoring_reach_the_server(built, port, namespace, pod, more, allowed):
    assert allows(built, "Ingress", SERVER, port, namespace, pod, **more) is allowed


@pytest.mark.parametrize(
    ("namespace", "allowed"),
    [("ingress-nginx", True), ("monitoring", True), (OURS, False), ("elsewhere", False)],
)
def test_only_ingress_and_monitoring_reach_the_gateway(built, namespace, allowed):
    assert allows(built, "Ingress", GATEWAY, "http", namespace, STRANGER) is allowed


@pytest.mark.parametrize(
    ("own", "port", "namespace", "pod", "allowed"),
    [
        (GATEWAY, "grpc", OURS, SERVER, True),
        (GATEWAY, "metrics", OURS, SERVER, False),
        (GATEWAY, 53, "kube-system", {"k8s-app": "kube-dns"}, True),
        (GATEWAY, 443, "kube-system", STRANGER, False),
        (GATEWAY, 53, "elsewhere", STRANGER, False),
        (SERVER, 53, "kube-system", {"k8s-app": "kube-dns"}, False),
        (SERVER, "grpc", OURS, SERVER, False),
        (STRANGER, 53, "kube-system", {"k8s-app": "kube-dns"}, False),
    ],
)
def test_pods_reach_only_their_dependencies(built, own, port, namespace, pod, allowed):
    assert allows(built, "Egress", own, port, namespace, pod) is allowed


def test_policies_use_labels_and_ports_of_the_pods(built):
    for name, labels in (("tritonclip-server", SERVER), ("tritonclip-gateway", GATEWAY)):
        assert built.pod(name)["metadata"]["labels"] == labels
    named = {port["name"] for name in ("server", "gateway") for port in ports(built, name)}
    used = {
        port["port"]
        for one in built.of("NetworkPolicy")
        for direction in ("ingress", "egress")
        for rule in one["spec"].get(direction, [])
        for port in rule["ports"]
    }
    assert used == named | {53}


def ports(built: Manifests, name: str) -> list[dict[str, Any]]:
    return list(built.container(f"tritonclip-{name}")["ports"])
