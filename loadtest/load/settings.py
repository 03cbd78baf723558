"""Settings of the load test. Only `LoadSettings.from_env` reads the environment."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any

PREFIX = "TRITONCLIP_LOAD_"
GATEWAY_URL = "TRITONCLIP_GATEWAY_URL"
PROTOCOLS = ("grpc", "http", "gateway")
KINDS = ("classify", "embed_images", "embed_texts")
OPEN_LOOP_SHAPES = ("knee", "overload")
SHAPES = ("constant", "stages", "spike", *OPEN_LOOP_SHAPES)

Stages = tuple[tuple[int, float], ...]
"""Numbers of users, and the duration of each stage in seconds."""


class SettingError(ValueError):
    """An environment variable is malformed. The text names it and the expected form."""


def _number(text: str, least: float, most: float = math.inf, *, above: bool = False) -> float:
    value = float(text)
    if not (math.isfinite(value) and least <= value <= most) or (above and value == least):
        raise ValueError
    return value


def _one_of(text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise ValueError
    return text


def _setting(default: Any, parse: Callable[[str], Any], expected: str, env: str | None = None) -> Any:
    return field(default=default, metadata={"parse": parse, "expected": expected, "env": env})


def _seconds(default: float) -> Any:
    return _setting(default, lambda text: _number(text, 0, above=True), "seconds above 0")


def _count(default: int, least: int = 1) -> Any:
    return _setting(
        default, lambda text: int(_number(str(int(text)), least)), f"a whole number of {least} or more"
    )


def _at_least_0(default: float | None) -> Any:
    return _setting(default, lambda text: _number(text, 0), "a number of 0 or more")


def _above_0(default: float) -> Any:
    return _setting(default, lambda text: _number(text, 0, above=True), "a number above 0")


def _share(default: float | None) -> Any:
    return _setting(default, lambda text: _number(text, 0, 1), "a number from 0 to 1")


def _text(default: str | None, env: str | None = None) -> Any:
    return _setting(default, str, "text", env)


def parse_mix(text: str) -> tuple[tuple[str, float], ...]:
    """Parse kinds and weights such as `classify=6,embed_texts=1`. Missing kinds are not sent."""
    parts = [part.split("=") for part in text.split(",")]
    mix = tuple((_one_of(kind.strip(), KINDS), _number(weight, 0)) for kind, weight in parts)
    if sum(weight for _, weight in mix) <= 0 or len(dict(mix)) < len(mix):
        raise ValueError
    return mix


def parse_stages(text: str) -> Stages:
    """Parse users and seconds such as `4:20,8:20`."""
    parts = [part.split(":") for part in text.split(",")]
    return tuple((int(_number(users, 1)), _number(duration, 0, above=True)) for users, duration in parts)


def parse_protocols(text: str) -> tuple[str, ...]:
    """Parse one protocol, or several separated by commas."""
    return tuple(dict.fromkeys(_one_of(part.strip(), PROTOCOLS) for part in text.split(",")))


def _stages(default: str) -> Any:
    return _setting(
        parse_stages(default), parse_stages, "users:seconds separated by commas, such as 4:20,8:20"
    )


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """Addresses, workload, load shape and thresholds of a run. README.md has the table.

    Attributes:
        protocol: Protocols of the users, in equal numbers.
        grpc_url: Address of Triton's gRPC port, `host:port`.
        http_url: Address of Triton's HTTP port, `http://host:port`.
        gateway_url: Address of the REST gateway, or None.
        metrics_url: Address of Triton's metrics, for `overload`; None disables sampling.
        seed: Seed of pictures, label sets and requests.
        deadline_s: Deadline of each request.
        pace_s: Seconds between the starts of a user's requests; 0 sends the next request after each answer.
        mix: Kinds of requests and their weights.
        zipf: Exponent of Zipf's law for label sets and texts; 0 draws uniformly.
        label_sets: Number of label sets.
        pictures: Number of pictures.
        bad_share: Share of deliberately invalid requests.
        score_tolerance: Largest difference of a score from the first answer to the same question.
        cosine_tolerance: Largest 1 - cosine between an embedding and the first answer to the same question.
        shape: Load shape, one of SHAPES.
        stages: Stages of the shape `stages`.
        spike: Stages of the shape `spike`.
        rate: Requests/s: first rate of `knee`, base rate of `overload`.
        multiple: Factor of `rate` in `overload`.
        warmup_s: Warm-up of an open-loop step, not measured.
        measure_s: Measured period of an open-loop step.
        target_p99_ms: Largest p99 that `knee` accepts.
        precision: Largest gap between the sustained and the failed rate of `knee`, as a share.
        knee_tries: Failed steps after which `knee` counts a rate as failed.
        max_in_flight: Limit of concurrent requests in open loops; further requests are not sent.
        output: JSON file for the result of an open-loop shape, or None.
        max_p99_ms: Threshold: largest p99 of right answers, or None.
        max_error_share: Threshold: largest share of requests without the right answer.
        min_rate: Threshold: lowest rate of right answers per second, for `knee` the lowest knee, or None.
    """

    protocol: tuple[str, ...] = _setting(("grpc",), parse_protocols, f"one or more of {', '.join(PROTOCOLS)}")
    grpc_url: str = _text("localhost:8001")
    http_url: str = _text("http://localhost:8000")
    gateway_url: str | None = _text(None, GATEWAY_URL)
    metrics_url: str | None = _text(None)
    seed: int = _count(0, least=0)
    deadline_s: float = _seconds(10.0)
    pace_s: float = _at_least_0(0.0)
    mix: tuple[tuple[str, float], ...] = _setting(
        parse_mix("classify=6,embed_images=3,embed_texts=1"),
        parse_mix,
        f"weights such as classify=6,embed_texts=1 for {', '.join(KINDS)}",
    )
    zipf: float = _at_least_0(1.0)
    label_sets: int = _count(200)
    pictures: int = _count(40)
    bad_share: float = _share(0.01)
    score_tolerance: float = _share(0.02)
    cosine_tolerance: float = _share(0.001)
    shape: str = _setting("constant", lambda text: _one_of(text, SHAPES), f"one of {', '.join(SHAPES)}")
    stages: Stages = _stages("4:20,8:20,16:20")
    spike: Stages = _stages("4:15,32:10,4:15")
    rate: float = _above_0(10.0)
    multiple: float = _above_0(2.0)
    warmup_s: float = _at_least_0(3.0)
    measure_s: float = _seconds(10.0)
    target_p99_ms: float = _above_0(500.0)
    precision: float = _setting(0.05, lambda text: _number(text, 0.001, 1), "a share from 0.001 to 1")
    knee_tries: int = _count(2)
    max_in_flight: int = _count(2000)
    output: str | None = _text(None)
    max_p99_ms: float | None = _at_least_0(None)
    max_error_share: float = _share(0.0)
    min_rate: float | None = _at_least_0(None)

    @property
    def is_open_loop(self) -> bool:
        """True if requests arrive on a schedule that does not depend on the server."""
        return self.shape in OPEN_LOOP_SHAPES

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> LoadSettings:
        """Read the settings from the environment (`os.environ` if None). Empty variables count as unset.

        Raises:
            SettingError: A value is malformed, or the protocol is `gateway` and its URL is not set.
        """
        env = os.environ if environ is None else environ
        read = {one.name: _parse(one, env[name]) for one in fields(cls) if env.get(name := variable(one))}
        settings = cls(**read)
        if "gateway" in settings.protocol and not settings.gateway_url:
            raise SettingError(
                f"protocol gateway: the address is not set; set {GATEWAY_URL}=http://host:port"
            )
        return settings


def variable(one: Field[Any]) -> str:
    """Return the name of a setting's environment variable."""
    return one.metadata["env"] or PREFIX + one.name.upper()


def _parse(one: Field[Any], text: str) -> Any:
    try:
        return one.metadata["parse"](text)
    except ValueError as error:
        expected = one.metadata["expected"]
        raise SettingError(f"{variable(one)}={text!r}: expected {expected}; correct or unset it") from error


def users_at(stages: Stages, time_s: float) -> int | None:
    """Return the number of users `time_s` seconds after the start, or None after the last stage."""
    end_s = 0.0
    for users, duration_s in stages:
        end_s += duration_s
        if time_s < end_s:
            return users
    return None
