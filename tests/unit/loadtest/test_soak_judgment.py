"""The judgment of a soak, on synthetic series: noise and spikes pass, leaks and steps do not."""

import numpy as np
import pytest
from loadtest.soaking.judgment import (
    LOAD_ENDED,
    MIB,
    MOST_POINTS,
    condense,
    growths,
    judge,
    measure_growth,
    process_names,
    theil_sen,
)
from scipy.stats import theilslopes

TIMES_S = np.arange(0, 1200, 5.0)
BASE = 400.0 * MIB


def noise(share, seed=0):
    return BASE * share * np.random.default_rng(seed).normal(size=len(TIMES_S))


def grows(values):
    rows = [{"time_s": time_s, "regions_bytes": value} for time_s, value in zip(TIMES_S, values, strict=True)]
    return growths(rows)["regions_bytes"].grew


def spiky():
    values = BASE + noise(0.001)
    values[100:104] *= 3  # 20 seconds
    values[-1] *= 3
    return values


def warming_up():
    """Grows by a half in the warm-up only."""
    return BASE * (1 - 0.5 * np.clip(1 - TIMES_S / 230, 0, 1)) + noise(0.001)


FLAT = {
    "constant": BASE + 0 * TIMES_S,
    "noise": BASE + noise(0.01),
    "spike": spiky(),
    "sawtooth": BASE * (1 + 0.05 * (TIMES_S % 60) / 60),
    "growth in the warm-up": warming_up(),
    "falling": BASE * (1 - 0.1 * TIMES_S / 1200),
    "below the limit": BASE * (1 + 0.015 * TIMES_S / 1200),
}
GROWN = {
    "leak": BASE * (1 + 0.04 * TIMES_S / 1200),
    "leak in noise": BASE * (1 + 0.05 * TIMES_S / 1200) + noise(0.02),
    "leak under a sawtooth": BASE * (1 + 0.06 * TIMES_S / 1200 + 0.05 * (TIMES_S % 60) / 60),
    "leak with spikes down": np.where(TIMES_S % 100 == 0, BASE / 2, BASE * (1 + 0.05 * TIMES_S / 1200)),
    "step": BASE * np.where(TIMES_S > 700, 1.03, 1) + noise(0.001),
    "stairs": BASE * (1 + 0.01 * (TIMES_S // 200)),
}


@pytest.mark.parametrize("name", FLAT)
def test_what_does_not_grow_passes(name):
    assert not grows(FLAT[name])


@pytest.mark.parametrize("name", GROWN)
def test_what_grows_fails(name):
    assert grows(GROWN[name])


@pytest.mark.parametrize("seed", range(20))
def test_noise_decides_nothing(seed):
    assert not grows(BASE + noise(0.015, seed))
    assert grows(BASE * (1 + 0.06 * TIMES_S / 1200) + noise(0.015, seed))


def test_growth_has_the_figures_of_a_straight_line():
    growth = measure_growth(TIMES_S, 100 + TIMES_S, warm_up_share=0.5)
    assert growth.span_s == pytest.approx(480, abs=5)
    assert growth.last - growth.first == pytest.approx(growth.span_s)
    assert growth.trend == pytest.approx(growth.span_s)
    assert growth.per_hour == pytest.approx(3600)
    assert growth.share == pytest.approx(growth.span_s / growth.first)


def test_the_trend_is_the_one_of_scipy():
    values = noise(1.0)
    assert theil_sen(TIMES_S, values) == pytest.approx(theilslopes(values, TIMES_S)[0])


def test_long_series_are_condensed_and_judged_alike():
    times = np.arange(0, 86_400, 5.0)
    leak = BASE * (1 + 0.1 * times / 86_400)
    assert len(condense(times, leak)[0]) == MOST_POINTS
    growth = measure_growth(times, leak)
    assert growth.per_hour == pytest.approx(BASE * 0.1 / 24, rel=0.01)


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_too_few_samples_are_refused(samples):
    with pytest.raises(ValueError, match="soak longer, or sample more often"):
        measure_growth(TIMES_S[:samples], BASE + 0 * TIMES_S[:samples])


def rows(**series):
    """Samples of a server with one stub; `series` replaces figures."""
    figures = {f"stub_0_0.{name}": BASE + 0 * TIMES_S for name in ("private_bytes", "resident_bytes")}
    figures |= {"stub_0_0.handles": 4 + 0 * TIMES_S, "stub_0_0.threads": 9 + 0 * TIMES_S}
    figures |= {"stub_0_0.pid": 77 + 0 * TIMES_S, "pending": 0 * TIMES_S, "executing": 0 * TIMES_S}
    figures |= {"regions_bytes": 4 * MIB + 0 * TIMES_S, "label_cache_bytes": MIB + 0 * TIMES_S}
    figures |= {name.replace("__", "."): values for name, values in series.items()}
    found = [{name: float(values[at]) for name, values in figures.items()} for at in range(len(TIMES_S))]
    return [{"time_s": float(time_s)} | row for time_s, row in zip(TIMES_S, found, strict=True)]


def test_a_good_soak_has_no_findings():
    good = rows()
    assert judge([*good, good[-1] | {"time_s": 1205.0, LOAD_ENDED: 1.0}]) == []
    assert process_names(good) == ["stub_0_0"]
    assert growths(good).keys() == {
        "stub_0_0.private_bytes",
        "stub_0_0.handles",
        "stub_0_0.threads",
        "regions_bytes",
        "label_cache_bytes",
    }


@pytest.mark.parametrize("figure", ["private_bytes", "handles", "threads"])
def test_a_finding_names_process_and_figure(figure):
    (found,) = judge(rows(**{f"stub_0_0__{figure}": 100 * MIB * (1 + TIMES_S / 1200)}))
    assert found.subject == "stub_0_0"
    assert found.text.startswith(f"{figure} grew by ")
    assert "are allowed" in found.text


@pytest.mark.parametrize("figure", ["regions_bytes", "label_cache_bytes"])
def test_what_belongs_to_no_process_is_the_servers(figure):
    (found,) = judge(rows(**{figure: MIB * (1 + TIMES_S // 100)}))
    assert found.subject == "server"
    assert found.text.startswith(f"{figure} grew by ")


@pytest.mark.parametrize(("more", "findings"), [(0, 0), (2, 0), (3, 1)])
def test_small_counts_may_grow_by_two(more, findings):
    assert len(judge(rows(stub_0_0__threads=9.0 + more * (TIMES_S > 600)))) == findings


def test_the_allowed_share_can_be_chosen():
    grown = rows(stub_0_0__private_bytes=BASE * (1 + 0.04 * TIMES_S / 1200))
    assert len(judge(grown)) == 1
    assert judge(grown, share=0.1) == []


def test_a_replaced_process_is_found():
    (found,) = judge(rows(stub_0_0__pid=np.where(TIMES_S > 600, 78, 77)))
    assert (found.subject, found.text) == (
        "stub_0_0",
        "the process was replaced: process ids 77, 78 in turn",
    )


def test_a_process_that_ended_is_found():
    ended = rows()
    for row in ended[200:]:
        for name in [name for name in row if name.startswith("stub")]:
            del row[name]
    (found,) = judge(ended)
    assert found.subject == "stub_0_0"
    assert "missing in 40 samples, first at 1000 s" in found.text


def test_a_server_without_metrics_is_found():
    silent = rows()
    del silent[7]["pending"]
    (found,) = judge(silent)
    assert "did not give its metrics for 1 samples, first at 35 s" in found.text


def test_requests_left_inside_are_found():
    good = rows()
    left = good[-1] | {"time_s": 1205.0, LOAD_ENDED: 1.0, "executing": 2.0}
    (found,) = judge([*good, left])
    assert found.text == "requests were left inside after the load had ended: 0 pending, 2 executing"


def test_what_comes_after_the_load_does_not_count_as_growth():
    good = rows()
    after = [
        good[-1] | {"time_s": 1205.0 + at, LOAD_ENDED: 1.0, "stub_0_0.threads": 99.0} for at in range(90)
    ]
    assert judge([*good, *after]) == []


def test_failures_of_the_load_are_findings():
    (found,) = judge(rows(), {"classify - wrong answer: other labels": 3})
    assert (found.subject, found.text) == (
        "load",
        "3 requests failed: classify - wrong answer: other labels",
    )
