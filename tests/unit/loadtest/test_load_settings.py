"""Settings, thresholds and stages of the load test; its README lists every setting."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from loadtest.load.settings import PREFIX, LoadSettings, SettingError, users_at, variable
from loadtest.load.thresholds import RunFigures, missed_thresholds

from tests.helpers.servers import ROOT

FIGURES = RunFigures(requests=100, failed=0, wrong=0, p99_ms=200.0, rate=50.0)


@pytest.mark.parametrize(
    ("thresholds", "figures", "names"),
    [
        ({}, FIGURES, []),
        ({"max_p99_ms": 200.0, "min_rate": 50.0}, FIGURES, []),
        ({"max_p99_ms": 199.0, "min_rate": 51.0}, FIGURES, ["max_p99_ms", "min_rate"]),
        ({"max_error_share": 0.05}, RunFigures(100, 5, 0, 1.0, 1.0), []),
        ({"max_error_share": 0.05}, RunFigures(100, 6, 0, 1.0, 1.0), ["max_error_share"]),
        ({"max_error_share": 1.0}, RunFigures(100, 1, 1, 1.0, 1.0), ["wrong_answers"]),
        ({"max_p99_ms": 1e9}, RunFigures(0, 0, 0, math.nan, 0.0), ["requests"]),
    ],
)
def test_missed_thresholds_are_listed_by_name(thresholds: dict, figures: RunFigures, names: list[str]):
    assert [line.split(":")[0] for line in missed_thresholds(LoadSettings(**thresholds), figures)] == names


def test_users_at_returns_the_current_stage_and_none_at_the_end():
    stages = ((4, 10.0), (8, 5.0))
    assert [users_at(stages, time_s) for time_s in (0, 9.9, 10, 14.9, 15)] == [4, 4, 8, 8, None]


def test_settings_are_read_from_the_environment():
    env = {
        "TRITONCLIP_LOAD_PROTOCOL": "http,grpc",
        "TRITONCLIP_LOAD_STAGES": "2:1.5",
        "TRITONCLIP_LOAD_SEED": "7",
    }
    settings = LoadSettings.from_env(env | {"TRITONCLIP_LOAD_ZIPF": ""})
    assert settings == LoadSettings(protocol=("http", "grpc"), stages=((2, 1.5),), seed=7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROTOCOL", "smtp"),
        ("BAD_SHARE", "1.5"),
        ("DEADLINE_S", "0"),
        ("RATE", "nan"),
        ("STAGES", "4"),
        ("STAGES", "0:5"),
        ("MIX", "classify=0"),
        ("MIX", "classify=1,classify=2"),
        ("SHAPE", "wave"),
        ("PICTURES", "1.5"),
    ],
)
def test_malformed_setting_is_named(name: str, value: str):
    with pytest.raises(SettingError, match=f"TRITONCLIP_LOAD_{name}='{value}': expected"):
        LoadSettings.from_env({f"TRITONCLIP_LOAD_{name}": value})


def test_gateway_without_address_is_an_error():
    with pytest.raises(SettingError, match="set TRITONCLIP_GATEWAY_URL"):
        LoadSettings.from_env({"TRITONCLIP_LOAD_PROTOCOL": "gateway"})


def test_readme_lists_every_setting():
    readme = (ROOT / "loadtest" / "README.md").read_text(encoding="utf-8")
    names = [variable(one).removeprefix(PREFIX) for one in fields(LoadSettings)]
    assert [name for name in names if f"`{name}`" not in readme] == []
