"""Writes the dashboard: `python docker/monitoring/build_dashboard.py`. `sections.py` says what it shows."""

from __future__ import annotations

import json
from pathlib import Path

from panels import DATASOURCE, Json, laid_out
from sections import SECTIONS

OUTPUT = Path(__file__).parent / "grafana" / "dashboards" / "tritonclip.json"
STARTS = 'tritonclip_start_time_seconds{instance=~"$server"}'
SCHEMA_VERSION = 39
"""That of Grafana 11.0; later releases raise it when they load a dashboard, earlier ones do not read it."""


def _chosen(name: str, label: str, series: str) -> Json:
    """A variable that picks among the targets that have these series; all of them at first."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": f"label_values({series}, instance)",
        "query": {"query": f"label_values({series}, instance)", "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "regex": "",
        "options": [],
    }


def variables() -> list[Json]:
    """What one picks at the top of the page."""
    datasource = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "refresh": 1,
        "regex": "",
        "options": [],
    }
    server = _chosen("server", "Server", "tritonclip_start_time_seconds")
    return [datasource, server, _chosen("gateway", "Gateway", "tritonclip_gateway_requests_in_flight")]


def marks() -> list[Json]:
    """Marks over all panels, where a model instance was loaded anew."""
    restarts = {
        "name": "Restarts",
        "enable": True,
        "hide": False,
        "iconColor": "red",
        "datasource": DATASOURCE,
        "expr": f"max by (instance, model) (changes({STARTS}[$__rate_interval])) > 0",
        "titleFormat": "{{model}} restarted",
        "textFormat": "{{instance}}",
        "step": "15s",
        "useValueForTime": False,
    }
    return [restarts]


def dashboard() -> Json:
    """The whole dashboard."""
    return {
        "uid": "tritonclip",
        "title": "tritonclip",
        "description": "The Triton server with CLIP, and the REST gateway in front of it.",
        "tags": ["tritonclip", "triton"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "weekStart": "",
        "links": [],
        "annotations": {"list": marks()},
        "templating": {"list": variables()},
        "panels": laid_out(SECTIONS),
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(text(), encoding="utf-8")
