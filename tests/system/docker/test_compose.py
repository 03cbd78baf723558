"""docker/compose.yaml as parsed by Docker Compose, compared with images, commands and other files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from loadtest.load.settings import LoadSettings

from tests.helpers.programs import skip_unless_ci
from tests.helpers.servers import ROOT
from tritonclip._cli.gateway import gateway
from tritonclip_server.serving import serve

DOCKER = ROOT / "docker"
OWN = {"server", "gateway", "locust"}
PINNED_IMAGE = re.compile(r"[\w./-]+:v?\w+[.-]\w+[\w.-]*@sha256:[0-9a-f]{64}")
COMPOSE = Path(sys.executable).parent / "docker-compose"


def read(*files: str, profiles: tuple[str, ...] = ("load",)) -> dict[str, Any]:
    """Return the merged files as Docker Compose reads them, without the settings of this environment."""
    if not COMPOSE.exists():
        skip_unless_ci("docker-compose not found: make install")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITONCLIP_")}
    command = [str(COMPOSE), *(f"--file={DOCKER / file}" for file in files)]
    command += [f"--profile={profile}" for profile in profiles]
    done = subprocess.run(
        [*command, "config", "--format", "json"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # warnings, such as unset variables
    return json.loads(done.stdout)


def dockerfile(service: dict[str, Any]) -> str:
    """Return the text of a service's Dockerfile."""
    return (Path(service["build"]["context"]) / service["build"]["dockerfile"]).read_text(encoding="utf-8")


def entrypoint(service: dict[str, Any]) -> list[str]:
    """Return the entry point of a service's image and its arguments."""
    return [
        *json.loads(re.findall(r"^ENTRYPOINT (.*)$", dockerfile(service), re.M)[-1]),
        *(service.get("command") or ()),
    ]


def seconds(duration: str) -> int:
    """Convert a duration such as `1m30s` to seconds."""
    return sum(int(number) * {"m": 60, "s": 1}[unit] for number, unit in re.findall(r"(\d+)([ms])", duration))


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return read("compose.yaml")["services"]


def test_locust_needs_its_profile(services):
    assert set(services) == {"server", "gateway", "prometheus", "grafana", "locust"}
    assert set(services) - set(read("compose.yaml", profiles=())["services"]) == {"locust"}


def test_services_are_hardened_limited_and_on_loopback(services):
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and not service.get("privileged"), name
        assert int(service["mem_limit"]) > 0, name
        assert all(port["host_ip"] == "127.0.0.1" for port in service["ports"]), name


def test_third_party_images_are_pinned_by_version_and_digest(services):
    images = [service["image"] for service in services.values() if "build" not in service]
    assert images and all(PINNED_IMAGE.fullmatch(image) for image in images), images
    assert {name for name, service in services.items() if "build" in service} == OWN


def test_base_images_are_pinned_by_version_and_digest():
    pinned_by_version = {"nvcr.io/nvidia/tritonserver:26.07-py3"}  # its digest is unknown here
    for file in DOCKER.glob("Dockerfile*"):
        text = file.read_text(encoding="utf-8")
        stages = set(re.findall(r"^FROM .* AS (\S+)$", text, re.M))
        bases = set(re.findall(r"^FROM (\S+)", text, re.M)) - stages
        assert bases == {"$BASE"}, file
        (base,) = re.findall(r"^ARG BASE=(\S*)$", text, re.M)
        assert base in pinned_by_version or PINNED_IMAGE.fullmatch(base), file


def test_image_of_the_proxy_is_pinned_by_version_and_digest():
    readme = (DOCKER / "nginx" / "README.md").read_text(encoding="utf-8")
    assert all(map(PINNED_IMAGE.fullmatch, re.findall(r"^ +(nginx\S+)$", readme, re.M)))
    assert re.search(r"^ +nginx:", readme, re.M)


def test_grafana_has_no_account_with_a_default_password(services):
    environment = services["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"  # the API too
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert not [name for name in environment if "PASSWORD" in name]


def test_published_ports_equal_the_exposed_ports(services):
    for name in OWN:
        exposed = {
            int(port) for port in re.findall(r"^EXPOSE (.*)$", dockerfile(services[name]), re.M)[-1].split()
        }
        assert {port["target"] for port in services[name]["ports"]} == exposed, name


def test_entry_points_accept_their_options_and_use_the_published_ports(services):
    command = entrypoint(services["server"])
    options = serve.main.make_context("serve", command[command.index("serve") + 1 :]).params
    assert options["host"] == "0.0.0.0" and options["source"] == "/models"
    ports = {options[f"{name}_port"] for name in ("http", "grpc", "metrics")}
    assert ports == {port["target"] for port in services["server"]["ports"]}
    assert seconds(services["server"]["stop_grace_period"]) > options["drain_timeout"]

    command = entrypoint(services["gateway"])
    assert command[:2] == ["tritonclip", "gateway"]
    options = gateway.make_context("gateway", command[2:]).params
    assert options["host"] == "0.0.0.0" and options["url"] == "server:8001"
    assert [port["target"] for port in services["gateway"]["ports"]] == [options["port"]]


def test_gateway_grace_period_exceeds_its_stop_timeout(services):
    from tritonclip.gateway._serve import STOP_TIMEOUT_S

    assert seconds(services["gateway"]["stop_grace_period"]) > STOP_TIMEOUT_S


def test_unset_admin_key_is_none(services, monkeypatch):
    assert services["server"]["environment"] == {"TRITONCLIP_ADMIN_KEY": ""}
    monkeypatch.setenv("TRITONCLIP_ADMIN_KEY", "")
    assert serve.main.make_context("serve", ["/models"]).params["admin_key"] is None


def test_environment_variables_are_read_by_the_code(services):
    from tritonclip.gateway._settings import ENV_KEYS

    assert set(services["gateway"]["environment"]) == {ENV_KEYS}
    settings = LoadSettings.from_env(services["locust"]["environment"])
    given = services["locust"]["environment"].values()
    assert {settings.grpc_url, settings.http_url, settings.metrics_url} == set(given)


def test_dependencies_on_healthy_services_have_health_checks(services):
    waits = {
        (name, other)
        for name, service in services.items()
        for other, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_healthy"
    }
    assert waits >= {("gateway", "server"), ("locust", "server")}
    for _, other in waits:
        assert "healthcheck" in services[other] or re.search(
            r"^HEALTHCHECK ", dockerfile(services[other]), re.M
        )


def test_server_has_shared_memory_and_an_executable_tmp(services):
    assert int(services["server"]["shm_size"]) >= 2**30
    assert "exec" in services["server"]["tmpfs"][0].partition(":")[2].split(",")


def test_gpu_file_changes_the_image_and_reserves_a_device():
    plain, gpu = (
        read(*files)["services"] for files in (("compose.yaml",), ("compose.yaml", "compose.gpu.yaml"))
    )
    assert int(gpu["server"]["shm_size"]) >= 8 * 2**30
    assert gpu["server"]["build"]["dockerfile"] == "docker/Dockerfile" and gpu["server"]["image"].endswith(
        ":gpu"
    )
    devices = gpu["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"capabilities": ["gpu"], "count": 1, "driver": "nvidia"}]
    assert gpu["server"]["read_only"] and gpu["server"]["ports"] == plain["server"]["ports"]
    assert {name: one for name, one in gpu.items() if name != "server"} == {
        name: one for name, one in plain.items() if name != "server"
    }


def test_bind_mounts_exist(services):
    sources = [
        Path(mount["source"])
        for service in services.values()
        for mount in service.get("volumes", ())
        if mount["type"] == "bind"
    ]
    assert sources and all(source.exists() for source in sources), [
        one for one in sources if not one.exists()
    ]


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """Return the mounted files and folders by their path in the container."""
    return {one["target"]: Path(one["source"]) for one in service["volumes"] if one["type"] == "bind"}


def test_prometheus_scrapes_published_ports_and_finds_its_rules(services):
    mounted = mounts(services["prometheus"])
    configuration = yaml.safe_load(mounted["/etc/prometheus/prometheus.yml"].read_text(encoding="utf-8"))
    targets = {
        target
        for job in configuration["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    }
    assert {"server:8002", "gateway:8080"} <= targets
    for target in targets:
        name, _, port = target.rpartition(":")
        assert name == "localhost" or int(port) in {one["target"] for one in services[name]["ports"]}, target
    rules = {str(Path("/etc/prometheus") / file) for file in configuration["rule_files"]}
    assert rules and rules <= set(mounted)


def test_grafana_finds_dashboard_and_prometheus(services):
    grafana, mounted = services["grafana"], mounts(services["grafana"])
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert json.loads((mounted[str(home.parent)] / home.name).read_text(encoding="utf-8"))["title"]
    provisioning = mounted["/etc/grafana/provisioning"]
    provided, sources = (
        yaml.safe_load(next((provisioning / kind).glob("*.yaml")).read_text(encoding="utf-8"))
        for kind in ("dashboards", "datasources")
    )
    assert provided["providers"][0]["options"]["path"] in mounted
    (source,) = sources["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert int(port) in {one["target"] for one in services[host]["ports"]}
    prometheus = mounts(services["prometheus"])["/etc/prometheus/prometheus.yml"].read_text(encoding="utf-8")
    assert source["jsonData"]["timeInterval"] == yaml.safe_load(prometheus)["global"]["scrape_interval"]
