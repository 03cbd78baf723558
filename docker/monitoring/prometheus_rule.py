"""Print the rules and alerts as a PrometheusRule for the Prometheus operator on Kubernetes.

python docker/monitoring/prometheus_rule.py | kubectl apply -f -
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

FILES = ("rules.yaml", "alerts.yaml")


class _Dumper(yaml.SafeDumper):
    """Dumper that keeps the line breaks of expressions."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def prometheus_rule(namespace: str, release: str) -> dict[str, Any]:
    """Return the manifest with the contents of both rule files.

    Args:
        namespace: Namespace of the manifest.
        release: Value of the label that the operator's Prometheus selects, as in `monitors.yaml`.
    """
    folder = Path(__file__).parent
    read = [yaml.safe_load((folder / name).read_text(encoding="utf-8")) for name in FILES]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tritonclip", "namespace": namespace, "labels": {"release": release}},
        "spec": {"groups": [group for content in read for group in content["groups"]]},
    }


@click.command()
@click.option("--namespace", default="tritonclip", show_default=True, help="Namespace of the manifest.")
@click.option("--release", default="prometheus", show_default=True, help="Value of the label `release`.")
def main(namespace: str, release: str) -> None:
    """Print the rules and alerts as a PrometheusRule."""
    manifest = prometheus_rule(namespace, release)
    click.echo(yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=110), nl=False)


if __name__ == "__main__":
    main()
