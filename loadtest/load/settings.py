"""Settings of the load test: one frozen value; only its `from_env` reads the environment."""

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
"""Numbers of users, and for how many seconds each stands."""


class SettingError(ValueError):
    """A variable of the environment is malformed; the text names it and says what is expected."""


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
    return _setting(default, str, "a text", env)


def parse_mix(text: str) -> tuple[tuple[str, float], ...]:
    """`classify=6,embed_texts=1` to kinds and their weights; kinds left out are not sent."""
    parts = [part.split("=") for part in text.split(",")]
    mix = tuple((_one_of(kind.strip(), KINDS), _number(weight, 0)) for kind, weight in parts)
    if sum(weight for _, weight in mix) <= 0 or len(dict(mix)) < len(mix):
        raise ValueError
    return mix


def parse_stages(text: str) -> Stages:
    """`4:20,8:20` to numbers of users and seconds."""
    parts = [part.split(":") for part in text.split(",")]
    return tuple((int(_number(users, 1)), _number(duration, 0, above=True)) for users, duration in parts)


def parse_protocols(text: str) -> tuple[str, ...]:
    """`grpc`, or several separated by commas."""
    return tuple(dict.fromkeys(_one_of(part.strip(), PROTOCOLS) for part in text.split(",")))


def _stages(default: str) -> Any:
    return _setting(parse_stages(default), parse_stages, "users:seconds, separated by commas, as 4:20,8:20")


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """What is sent where, in which shape, and what is demanded of it. README.md has the table.

    Attributes:
        protocol: The kinds of users, equally many of each.
        grpc_url: Of Triton's gRPC, `host:port`.
        http_url: Of Triton's HTTP, `http://host:port`.
        gateway_url: Of the REST gateway; None where there is none.
        metrics_url: Of Triton's metrics, for `overload`; None reads none.
        seed: Of pictures, label sets, and every user's requests.
        deadline_s: How long each request may take.
        pace_s: Seconds between the starts of a user's requests; 0: each follows on the last one's answer.
        mix: Kinds of requests and their weights.
        zipf: Exponent of the law by which label sets and texts are drawn; 0 draws all alike.
        label_sets: How many label sets there are.
        pictures: How many pictures there are.
        bad_share: Share of requests that are wrong on purpose.
        score_tolerance: Largest difference of a score from the first answer to the same question.
        cosine_tolerance: Largest 1 - cosine of an embedding and the first answer to the same question.
        shape: Course of the load; the open-loop ones bring their own arrivals.
        stages: Of the shape `stages`.
        spike: Of the shape `spike`.
        rate: Requests/s: where `knee` begins, and what `overload` multiplies.
        multiple: Of `overload`: times `rate`.
        warmup_s: Of an open-loop step, not measured.
        measure_s: Of an open-loop step, measured.
        target_p99_ms: Of `knee`: the largest p99.
        precision: Of `knee`: how far apart the last rates that held and did not hold may be, as a share.
        knee_tries: Of `knee`: a rate fails only if so many steps fail.
        max_in_flight: Of the open-loop shapes: most requests under way; what is due beyond is not sent.
        output: JSON file for what an open-loop shape found; None writes none.
        max_p99_ms: Threshold: largest p99 of the right answers; None demands nothing.
        max_error_share: Threshold: largest share of requests without the right answer.
        min_rate: Threshold: least right answers/s, of `knee` the least knee; None demands nothing.
    """

    protocol: tuple[str, ...] = _setting(("grpc",), parse_protocols, f"some of {', '.join(PROTOCOLS)}")
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
        f"weights as classify=6,embed_texts=1, of {', '.join(KINDS)}",
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
        """Whether requests arrive by the clock, whatever the server does."""
        return self.shape in OPEN_LOOP_SHAPES

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> LoadSettings:
        """Settings from the environment (`os.environ` if None), and the defaults; an empty text is none.

        Raises:
            SettingError: If a value is malformed, or the gateway is to be called and has no URL.
        """
        env = os.environ if environ is None else environ
        read = {one.name: _parse(one, env[name]) for one in fields(cls) if env.get(name := variable(one))}
        settings = cls(**read)
        if "gateway" in settings.protocol and not settings.gateway_url:
            raise SettingError(
                f"protocol gateway: its address is unknown; set {GATEWAY_URL}=http://host:port"
            )
        return settings


def variable(one: Field[Any]) -> str:
    """The name of a setting's variable."""
    return one.metadata["env"] or PREFIX + one.name.upper()


def _parse(one: Field[Any], text: str) -> Any:
    try:
        return one.metadata["parse"](text)
    except ValueError as error:
        expected = one.metadata["expected"]
        raise SettingError(f"{variable(one)}={text!r}: expected {expected}; correct or unset it") from error


def users_at(stages: Stages, time_s: float) -> int | None:
    """Number of users `time_s` seconds after the start, or None after the last stage."""
    end_s = 0.0
    for users, duration_s in stages:
        end_s += duration_s
        if time_s < end_s:
            return users
    return None
