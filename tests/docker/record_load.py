"""Writes docker/monitoring/recorded_test.yaml: a real load as a Prometheus saw it, second by second.

`python tests/docker/record_load.py`, from the root of the checkout. A server on which hardly anything may
wait is called by few, then flooded, then the process of its vision encoder is killed. What promtool must find
in it comes from what the callers counted, not from Prometheus.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path += [str(ROOT / name) for name in ("tests", "tests/docker", "scripts")]

import yaml  # noqa: E402
from monitored_load import Load  # noqa: E402
from prometheus_server import MONITORING, Prometheus, wait_for  # noqa: E402

from gateway_launcher import running  # noqa: E402
from triton_launcher import EmbeddedTriton, ServerOptions  # noqa: E402

OUTPUT = MONITORING / "recorded_test.yaml"
CALM_S, FLOOD_S, BROKEN_S = 5, 14, 11
CALLERS = 40
AT_THE_END = ("TritonclipErrors", "TritonclipOverload", "TritonclipGatewayErrors")
FIRING = (
    (None, "firing", ()),
    (None, "pending", (*AT_THE_END, "TritonclipCacheHitsLow")),
    (160, "firing", ("TritonclipErrors",)),
    (314, "firing", AT_THE_END),
)
"""At which second after the first sample (None: at the last one) which alerts are in which state."""
SETTINGS = ("admission.queue_budget_ms=600", "vision_encoder.compile=off")
METRIC = re.compile(r"\b(?:nv|tritonclip)_\w+(?=[{\[\s)]|$)|\bup\b")
TOLERANCE = 0.01
HEAD = """\
# promtool's unit tests of rules and alerts on samples of a real load; written by tests/docker/record_load.py.
# Few callers, then a flood, then a dead vision encoder; one sample a second. The name of the test is what the
# callers counted, and the shares that are expected come from it. After the last sample the window of 5
# minutes still holds them all for a while.
"""


def prepared(directory: Path) -> Path:
    """A repository of the demo checkpoint."""
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "scripts/prepare_weights.py", "scripts/demo/checkpoint", *options]
    subprocess.run([*command, "--output", str(directory / "models")], cwd=ROOT, check=True)
    return directory / "models"


def write_config(directory: Path, targets: dict[str, str]) -> None:
    """The shipped configuration and rules, scraped and evaluated each second."""
    text = (MONITORING / "prometheus.yaml").read_text()
    for old, new in (targets | {" 5s": " 1s", " 15s": " 1s"}).items():
        text = text.replace(old, new)
    (directory / "prometheus.yaml").write_text(text)
    for name in ("rules.yaml", "alerts.yaml"):
        (directory / name).write_text((MONITORING / name).read_text())


def metrics() -> list[str]:
    """The names that the rules and alerts ask for, but those that they record."""
    groups = [
        yaml.safe_load((MONITORING / name).read_text())["groups"] for name in ("rules.yaml", "alerts.yaml")
    ]
    text = "\n".join(rule["expr"] for group in groups for part in group for rule in part["rules"])
    return sorted(set(METRIC.findall(re.sub(r"\b\w+:\w+:\w+", "", text))))


def values(samples: dict[int, str], seconds: int) -> str:
    """A sample a second in promtool's notation."""
    found = [samples.get(second, "_") for second in range(seconds + 1)]
    return f"{found[0]}x{seconds}" if len(set(found)) == 1 else " ".join(found)


def series(
    prometheus: Prometheus, names: dict[str, str], start_s: float, seconds: int
) -> Iterator[dict[str, str]]:
    """The samples in the form of promtool's tests, with `names` in the place of addresses."""
    for metric in metrics():
        end_s = start_s + seconds
        found = prometheus.ask("query_range", query=metric, start=start_s, end=end_s, step=1)["result"]
        for one in sorted(found, key=lambda each: sorted(each["metric"].items())):
            labels = {name: names.get(value, value) for name, value in one["metric"].items()}
            text = ", ".join(f'{name}="{value}"' for name, value in labels.items() if name != "__name__")
            samples = {round(at - start_s): value for at, value in one["values"]}
            yield {"series": f"{metric}{{{text}}}", "values": values(samples, seconds)}


def shares(outcomes: Counter[str]) -> dict[str, float]:
    """What promtool must find at the end of the samples, by the counts of the callers."""
    requests = sum(outcomes.values()) - outcomes["refused by the gateway"]
    refused = 'instance_reason:tritonclip_requests_refused:ratio_rate5m{reason="overload"}'
    answered = "instance:tritonclip_requests_answered:rate5m / instance:tritonclip_requests:rate5m"
    invalid = "instance:tritonclip_requests_invalid:rate5m / instance:tritonclip_requests:rate5m"
    return {
        f"sum without (reason) ({refused})": outcomes["overloaded"] / requests,
        "instance:tritonclip_requests_broken:ratio_rate5m": (outcomes["InferenceError"] + outcomes["500"])
        / requests,
        answered: outcomes["answered"] / requests,
        invalid: outcomes["InvalidInputError"] / requests,
    }


def expected(outcomes: Counter[str], seconds: int) -> list[dict[str, Any]]:
    """The unit tests: shares at the end, and alerts then and later, while the window holds the samples."""
    server = '{job="tritonclip-server", instance="server:8002"}'
    checks: list[dict[str, Any]] = [
        {
            "expr": f"abs({expr} - {share:.4f}) < bool {TOLERANCE}",
            "eval_time": f"{seconds}s",
            "exp_samples": [{"labels": server, "value": 1}],
        }
        for expr, share in shares(outcomes).items()
    ]
    for at_s, state, alerts in FIRING:
        samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts]
        expr = f'count by (alertname) (ALERTS{{alertstate="{state}"}})'
        checks.append({"expr": expr, "eval_time": f"{at_s or seconds}s", "exp_samples": samples})
    return checks


def record(directory: Path) -> dict[str, Any]:
    """Runs the load and returns the test group."""
    outcomes: Counter[str] = Counter()
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedTriton(prepared(directory), options))
        gateway = stack.enter_context(running(server.grpc_url, "--attempts", "1"))
        names = {server.metrics_url: "server:8002", gateway.url.removeprefix("http://"): "gateway:8080"}
        write_config(directory, {name: address for address, name in names.items()})
        prometheus = stack.enter_context(Prometheus(directory))
        wait_for(lambda: len(prometheus.query("up == 1")) == len(names), lambda: "no samples")
        time.sleep(1)
        start_s = time.time()
        for last_s, flood in ((CALM_S, 0), (FLOOD_S, CALLERS), (BROKEN_S, 0)):
            if last_s == BROKEN_S:
                (pid,) = (pid for pid, model in server.stubs().items() if model == "vision_encoder")
                os.kill(pid, signal.SIGKILL)
            with Load(server.grpc_url, gateway.url, flood, counted=True) as load:
                time.sleep(last_s)
            outcomes += load.outcomes
        time.sleep(2)  # the last counts are published and scraped
        seconds = int(time.time() - start_s)
        found = list(series(prometheus, names, start_s, seconds))
    return {
        "name": ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())),
        "interval": "1s",
        "input_series": found,
        "promql_expr_test": expected(outcomes, seconds),
    }


def main() -> None:
    """Records and writes."""
    with tempfile.TemporaryDirectory() as directory:
        group = record(Path(directory))
    document = {
        "rule_files": ["rules.yaml", "alerts.yaml"],
        "evaluation_interval": "1s",
        "group_eval_order": [
            part["name"]
            for name in ("rules.yaml", "alerts.yaml")
            for part in yaml.safe_load((MONITORING / name).read_text())["groups"]
        ],
        "tests": [group],
    }
    OUTPUT.write_text(HEAD + yaml.safe_dump(document, sort_keys=False, width=100_000), encoding="utf-8")


if __name__ == "__main__":
    main()
