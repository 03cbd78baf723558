"""Figures derived from several measurements: the limits of the machine, and ratios with targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from tritonclip_server.benchmarks.serving.measurements import ENCODER_BATCHES

Rounds = Mapping[str, Sequence[Mapping[str, Any]]]
"""Figures of all rounds by name of the measurement."""
ENCODERS = tuple(f"encoder-{batch}" for batch in ENCODER_BATCHES)
BUSY, BUSY_INT8 = ("triton-16", "triton-64"), ("triton-int8-16", "triton-int8-64")
LITSERVE = tuple(f"litserve-{workers}-{callers}" for workers in (1, 2) for callers in (16, 64))
FASTAPI = ("fastapi-16", "fastapi-64")
FEW_LABELS, MANY_LABELS = ("triton-1", 10), ("labels-1000", 1000)


@dataclass(frozen=True)
class Spread:
    """Median and range of a figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise one value per round."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Target:
    """A figure derived from measurements, and the project's target for it.

    Attributes:
        title: Description in the report.
        relation: ">=", "<=" or "<", or an empty string if there is no target.
        bound: Value of the target, in `unit`.
        values: Computes one value per round. It raises KeyError if a measurement is missing.
        unit: Unit of the values; empty for ratios.
        bfloat16: True for a target of CPUs with bfloat16 instructions, False for those without, None for all.
    """

    title: str
    relation: str
    bound: float
    values: Callable[[Rounds], list[float]]
    unit: str = ""
    bfloat16: bool | None = None


@dataclass(frozen=True)
class DerivedFigure:
    """A target and the measured values."""

    target: Target
    spread: Spread

    @property
    def met(self) -> bool | None:
        """True if the median meets the target, None if there is no target."""
        value, bound = self.spread.median, self.target.bound
        return {">=": value >= bound, "<=": value <= bound, "<": value < bound}.get(self.target.relation)


def column(rounds: Rounds, name: str, figure: str = "images_per_s") -> list[float]:
    """Return one figure of a measurement for every round."""
    return [float(figures[figure]) for figures in rounds[name]]


def best(rounds: Rounds, names: Sequence[str]) -> str:
    """Return the name of the measurement with the highest median throughput."""
    measured = [name for name in names if name in rounds]
    if not measured:
        raise KeyError(f"none of {', '.join(names)} was measured")
    return max(measured, key=lambda name: median(column(rounds, name)))


def ratio(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Divide round by round, so that a drift of the machine cancels out."""
    return [a / b for a, b in zip(over, under, strict=True)]


def roofline(encoded_per_s: float, decoded_per_s: float) -> float:
    """Return images/s if only decoding and encoding took time, one after the other on all cores."""
    return 1 / (1 / encoded_per_s + 1 / decoded_per_s)


def rooflines(rounds: Rounds) -> list[float]:
    """Return the roofline of each round, with the best batch size of the encoder."""
    encoded = column(rounds, best(rounds, ENCODERS))
    return [roofline(*pair) for pair in zip(encoded, column(rounds, "decode"), strict=True)]


def latency_floors(rounds: Rounds) -> list[float]:
    """Return the latency in ms if only decoding on one core and encoding of one image took time."""
    decode_ms, encode_ms = column(rounds, "decode-1", "p50_ms"), column(rounds, "encoder-1", "p50_ms")
    return [sum(pair) for pair in zip(decode_ms, encode_ms, strict=True)]


def label_cost_us(rounds: Rounds) -> list[float]:
    """Return the server time of one more cached label in us: the slope of the stages that use labels."""

    def compute_ms(figures: Mapping[str, Any]) -> float:
        stages = figures["stages"]
        return float(stages["text_encoder"]["compute_ms"] + stages["similarity"]["compute_ms"])

    (few, few_count), (many, many_count) = FEW_LABELS, MANY_LABELS
    pairs = zip(rounds[few], rounds[many], strict=True)
    return [(compute_ms(b) - compute_ms(a)) * 1e3 / (many_count - few_count) for a, b in pairs]


def _throughput_over(others: Sequence[str], rounds: Rounds, own: Sequence[str] = BUSY) -> list[float]:
    return ratio(column(rounds, best(rounds, own)), column(rounds, best(rounds, others)))


def _throughput_over_roofline(rounds: Rounds) -> list[float]:
    return ratio(column(rounds, best(rounds, BUSY)), rooflines(rounds))


def _latency_over_floor(rounds: Rounds) -> list[float]:
    return ratio(column(rounds, "triton-1", "p50_ms"), latency_floors(rounds))


def _throughput(over: str, under: str, rounds: Rounds) -> list[float]:
    return ratio(column(rounds, over), column(rounds, under))


def _latency(over: str, under: str, rounds: Rounds) -> list[float]:
    return ratio(column(rounds, over, "p50_ms"), column(rounds, under, "p50_ms"))


TARGETS = (
    Target("roofline: decoding and encoding only", "", 0, rooflines, "images/s"),
    Target("latency floor: decoding and encoding one image", "", 0, latency_floors, "ms"),
    Target("throughput / pipeline one by one", "", 0, partial(_throughput_over, ["pipeline-1"])),
    Target("throughput / pipeline in batches of 16", "", 0, partial(_throughput_over, ["pipeline-16"])),
    Target("throughput / FastAPI", "", 0, partial(_throughput_over, FASTAPI)),
    Target("throughput / better LitServe", ">=", 1.6, partial(_throughput_over, LITSERVE), bfloat16=True),
    Target("throughput / better LitServe", "", 0, partial(_throughput_over, LITSERVE), bfloat16=False),
    Target(
        "throughput in int8 / better LitServe", ">=", 1.8, partial(_throughput_over, LITSERVE, own=BUSY_INT8)
    ),
    Target(
        "throughput at 16 callers, int8 / float32",
        ">=",
        1.45,
        partial(_throughput, "triton-int8-16", "triton-16"),
    ),
    Target(
        "throughput at 64 callers, int8 / float32",
        ">=",
        1.45,
        partial(_throughput, "triton-int8-64", "triton-64"),
    ),
    Target(
        "median latency of 1 caller, int8 / float32",
        "<=",
        0.6,
        partial(_latency, "triton-int8-1", "triton-1"),
    ),
    Target("throughput / roofline", ">=", 0.85, _throughput_over_roofline),
    Target("median latency of 1 caller / floor", "<=", 1.15, _latency_over_floor),
    Target(
        "median latency with 1000 cached labels / with 10",
        "<=",
        1.5,
        partial(_latency, MANY_LABELS[0], FEW_LABELS[0]),
    ),
    Target(
        "time per image, 1 request of 16 / 16 requests of 1",
        "<=",
        1,
        partial(_throughput, "triton-16", "images-16x1"),
    ),
    Target(
        "time per image, 4 requests of 16 / 64 requests of 1",
        "<=",
        1,
        partial(_throughput, "triton-64", "images-16x4"),
    ),
    Target("server time of a cached label", "<", 5, label_cost_us, "us"),
)
"""Targets of the project. "throughput" is the higher one of 16 and 64 callers."""


def derive(rounds: Rounds, bfloat16: bool) -> list[DerivedFigure]:
    """Compute the figures of `TARGETS` whose measurements are available.

    Args:
        rounds: Figures of all rounds.
        bfloat16: Whether the CPU has bfloat16 instructions.
    """
    found = []
    for target in TARGETS:
        if target.bfloat16 not in (None, bfloat16):
            continue
        try:
            found.append(DerivedFigure(target, Spread.of(target.values(rounds))))
        except (KeyError, ZeroDivisionError):  # not measured, or nothing was answered
            continue
    return found
