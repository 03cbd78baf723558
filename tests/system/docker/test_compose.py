"""docker/compose.yaml as Docker Compose itself reads it, against the images and commands that it starts."""

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

from tests.helpers.servers import ROOT
from tritonclip._cli.gateway import gateway
from tritonclip_server.serving import serve

DOCKER = ROOT / "docker"
OWN = {"server", "gateway", "locust"}
COMPOSE = Path(sys.executable).parent / "docker-compose"


def read(*files: str, profiles: tuple[str, ...] = ("load",)) -> dict[str, Any]:
    """What Docker Compose makes of the files, without this environment's own settings."""
    if not COMPOSE.exists():
        assert "CI" not in os.environ, "docker-compose not found: make install"
        pytest.skip("docker-compose not found: make install")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITONCLIP_")}
    command = [str(COMPOSE), *(f"--file={DOCKER / file}" for file in files)]
    command += [f"--profile={profile}" for profile in profiles]
    done = subprocess.run(
        [*command, "config", "--format", "json"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # warnings, as of a variable that is not set
    return json.loads(done.stdout)


def dockerfile(service: dict[str, Any]) -> str:
    """The text of the Dockerfile that makes a service's image."""
    return (Path(service["build"]["context"]) / service["build"]["dockerfile"]).read_text(encoding="utf-8")


def entrypoint(service: dict[str, Any]) -> list[str]:
    """The command of a service: its image's entry point, and what follows."""
    return [
        *json.loads(re.findall(r"^ENTRYPOINT (.*)$", dockerfile(service), re.M)[-1]),
        *(service.get("command") or ()),
    ]


def seconds(duration: str) -> int:
    """Of Compose's form, as `1m30s`."""
    return sum(int(number) * {"m": 60, "s": 1}[unit] for number, unit in re.findall(r"(\d+)([ms])", duration))


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return read("compose.yaml")["services"]


def test_load_starts_only_where_it_is_asked_for(services):
    assert set(services) == {"server", "gateway", "prometheus", "grafana", "locust"}
    assert set(services) - set(read("compose.yaml", profiles=())["services"]) == {"locust"}


def test_every_service_is_hardened_bounded_and_on_loopback(services):
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and not service.get("privileged"), name
        assert int(service["mem_limit"]) > 0, name
        assert all(port["host_ip"] == "127.0.0.1" for port in service["ports"]), name


def test_what_is_not_built_here_has_an_exact_version(services):
    images = [service["image"] for service in services.values() if "build" not in service]
    assert images and all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images), images
    assert {name for name, service in services.items() if "build" in service} == OWN


def test_published_ports_are_those_that_the_images_expose(services):
    for name in OWN:
        exposed = {
            int(port) for port in re.findall(r"^EXPOSE (.*)$", dockerfile(services[name]), re.M)[-1].split()
        }
        assert {port["target"] for port in services[name]["ports"]} == exposed, name


def test_the_entry_points_take_their_options_and_listen_where_compose_and_clients_expect(services):
    command = entrypoint(services["server"])
    options = serve.main.make_context("serve", command[command.index("scripts/serve.py") + 1 :]).params
    assert options["host"] == "0.0.0.0" and options["source"] == "/models"
    ports = {options[f"{name}_port"] for name in ("http", "grpc", "metrics")}
    assert ports == {port["target"] for port in services["server"]["ports"]}
    assert seconds(services["server"]["stop_grace_period"]) > options["drain_timeout"]

    command = entrypoint(services["gateway"])
    assert command[:2] == ["tritonclip", "gateway"]
    options = gateway.make_context("gateway", command[2:]).params
    assert options["host"] == "0.0.0.0" and options["url"] == "server:8001"
    assert [port["target"] for port in services["gateway"]["ports"]] == [options["port"]]


def test_the_gateway_gets_longer_to_stop_than_it_takes(services):
    from tritonclip.gateway._serve import STOP_TIMEOUT_S

    assert seconds(services["gateway"]["stop_grace_period"]) > STOP_TIMEOUT_S


def test_a_key_that_is_not_set_is_none(services, monkeypatch):
    assert services["server"]["environment"] == {"TRITONCLIP_ADMIN_KEY": ""}
    monkeypatch.setenv("TRITONCLIP_ADMIN_KEY", "")
    assert serve.main.make_context("serve", ["/models"]).params["admin_key"] is None


def test_names_in_the_environment_are_those_that_the_code_reads(services):
    from tritonclip.gateway._settings import ENV_KEYS

    assert set(services["gateway"]["environment"]) == {ENV_KEYS}
    settings = LoadSettings.from_env(services["locust"]["environment"])
    given = services["locust"]["environment"].values()
    assert {settings.grpc_url, settings.http_url, settings.metrics_url} == set(given)


def test_who_needs_a_healthy_service_waits_for_one_with_a_health_check(services):
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


def test_models_have_shared_memory_and_a_place_to_compile(services):
    assert int(services["server"]["shm_size"]) >= 2**30
    assert "exec" in services["server"]["tmpfs"][0].partition(":")[2].split(",")


def test_the_gpu_changes_the_image_and_reserves_a_device():
    plain, gpu = (
        read(*files)["services"] for files in (("compose.yaml",), ("compose.yaml", "compose.gpu.yaml"))
    )
    assert gpu["server"]["build"]["dockerfile"] == "docker/Dockerfile" and gpu["server"]["image"].endswith(
        ":gpu"
    )
    devices = gpu["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"capabilities": ["gpu"], "count": 1, "driver": "nvidia"}]
    assert gpu["server"]["read_only"] and gpu["server"]["ports"] == plain["server"]["ports"]
    assert {name: one for name, one in gpu.items() if name != "server"} == {
        name: one for name, one in plain.items() if name != "server"
    }


def test_what_is_mounted_is_there(services):
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
    """By the path inside: the file or folder of this repository."""
    return {one["target"]: Path(one["source"]) for one in service["volumes"] if one["type"] == "bind"}


def test_prometheus_asks_services_at_their_ports_and_finds_its_rules(services):
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


def test_grafana_finds_its_dashboard_and_prometheus(services):
    grafana, mounted = services["grafana"], mounts(services["grafana"])
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert json.loads((mounted[str(home.parent)] / home.name).read_text(encoding="utf-8"))["title"]
    provisioning = mounted["/etc/grafana/provisioning"]
    provided, sources = (
        yaml.safe_load(next((provisioning / kind).glob("*.yaml")).read_text(encoding="utf-8"))
        for kind in ("dashboards", "datasources")
    )
    assert provided["providers"][0]["options"]["path"] in mounted
    host, _, port = sources["datasources"][0]["url"].removeprefix("http://").partition(":")
    assert int(port) in {one["target"] for one in services[host]["ports"]}
