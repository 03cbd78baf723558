"""Grafana's JSON of queries, panels and rows, and their places on the grid of 24 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
CALM, WARN, BAD = "green", "orange", "red"


@dataclass(frozen=True)
class Query:
    """A question to Prometheus.

    Attributes:
        expr: In PromQL, with the dashboard's variables.
        legend: The name of each series; `{{label}}` stands for its label.
        instant: Whether only the last value is asked for.
        format: `time_series`, `table` or `heatmap`.
    """

    expr: str
    legend: str
    instant: bool = False
    format: str = "time_series"

    def json(self, ref_id: str) -> Json:
        """The query as a panel's target."""
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "format": self.format,
            "instant": self.instant,
            "legendFormat": self.legend,
            "range": not self.instant,
            "refId": ref_id,
        }


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What every panel has; its kinds add what is drawn.

    Attributes:
        title: A few words.
        description: What is shown, and what to make of it.
        queries: Where the figures come from.
        unit: Grafana's id of a unit; `suffix:x` puts x behind the number.
        width: In columns.
        height: In grid rows.
        thresholds: Colours from values on, the lowest first; the first has no value.
        maximum: Of the axis or the bar; None: by the figures.
    """

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    height: int = 8
    thresholds: Sequence[tuple[float | None, str]] = ((None, CALM),)
    maximum: float | None = None

    kind = ""

    def json(self, number: int, x: int, y: int) -> Json:
        """The panel at a place."""
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {"defaults": self.defaults(), "overrides": self.overrides()},
            "options": self.options(),
            "targets": [query.json(chr(ord("A") + index)) for index, query in enumerate(self.queries)],
        } | self.extras()

    def defaults(self) -> Json:
        """How all fields look."""
        steps = [{"value": value, "color": color} for value, color in self.thresholds]
        found: Json = {"unit": self.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
        return found if self.maximum is None else found | {"max": self.maximum}

    def overrides(self) -> list[Json]:
        """How single fields look."""
        return []

    def options(self) -> Json:
        """The options of this kind of panel."""
        return {}

    def extras(self) -> Json:
        """Further members of the panel."""
        return {}


@dataclass(frozen=True, kw_only=True)
class TimeSeries(Panel):
    """Lines over time.

    Attributes:
        stacked: Whether they add up.
    """

    stacked: bool = False

    kind = "timeseries"

    def defaults(self) -> Json:
        """Thin lines; thresholds beyond the first are drawn as lines."""
        custom = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 40 if self.stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if len(self.thresholds) > 1 else "off"},
        }
        return super().defaults() | {"color": {"mode": "palette-classic"}, "custom": custom}

    def options(self) -> Json:
        """A table of the series below, all of them in the tooltip."""
        return {
            "legend": {
                "showLegend": True,
                "displayMode": "table",
                "placement": "bottom",
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }


@dataclass(frozen=True, kw_only=True)
class Stat(Panel):
    """One number, coloured by the thresholds."""

    kind = "stat"

    def defaults(self) -> Json:
        """The colour is that of the thresholds."""
        return super().defaults() | {"color": {"mode": "thresholds"}}

    def options(self) -> Json:
        """The last value, with its past in the background."""
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
        }


@dataclass(frozen=True, kw_only=True)
class Heatmap(Panel):
    """The buckets of a histogram over time; its one query has the format `heatmap`."""

    kind = "heatmap"

    def options(self) -> Json:
        """The buckets as they come, the fuller the brighter."""
        return {
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Viridis",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
            },
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "unit": self.unit},
        }

    def defaults(self) -> Json:
        """Cells count; the unit is that of the axis."""
        return {"custom": {"scaleDistribution": {"type": "linear"}}}


@dataclass(frozen=True, kw_only=True)
class Table(Panel):
    """Labels and last values.

    Attributes:
        columns: Those shown, in this order, and what they are called.
        units: Of columns that have one, by what they are called.
    """

    columns: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)

    kind = "table"

    def defaults(self) -> Json:
        """Plain cells."""
        return {"custom": {"align": "auto", "cellOptions": {"type": "auto"}}}

    def overrides(self) -> list[Json]:
        """The units of columns."""
        return [
            {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
            for name, unit in self.units.items()
        ]

    def options(self) -> Json:
        """A small table with a header."""
        return {"cellHeight": "sm", "showHeader": True}

    def extras(self) -> Json:
        """Picks, orders and names the columns."""
        names = list(self.columns)
        return {
            "transformations": [
                {"id": "filterFieldsByName", "options": {"include": {"names": names}}},
                {
                    "id": "organize",
                    "options": {
                        "indexByName": {name: index for index, name in enumerate(names)},
                        "renameByName": self.columns,
                    },
                },
            ]
        }


def laid_out(sections: Sequence[tuple[str, Sequence[Panel]]]) -> list[Json]:
    """The panels of all sections, each under a row with its title, from left to right and downwards.

    Panels that stand side by side should be equally high.
    """
    found: list[Json] = []
    y = 0
    for title, panels in sections:
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        row = {"id": len(found) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place}
        found.append(row | {"panels": []})
        y, x, height = y + 1, 0, 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            found.append(panel.json(len(found) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return found
