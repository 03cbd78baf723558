"""Findings of a soak on synthetic series: noise and spikes pass, leaks and steps fail."""

import numpy as np
import pytest
from loadtest.soaking.findings import (
    LOAD_ENDED,
    MAX_POINTS,
    MIB,
    check_growth,
    condense,
    measure_growth,
    process_names,
    soak_findings,
    theil_sen,
)

TIMES_S = np.arange(0, 1200, 5.0)
BASE = 400.0 * MIB


def noise(share, seed=0):
    return BASE * share * np.random.default_rng(seed).normal(size=len(TIMES_S))


def grows(values):
    rows = [{"time_s": time_s, "regions_bytes": value} for time_s, value in zip(TIMES_S, values, strict=True)]
    return check_growth(rows)["regions_bytes"].failed


def spiky():
    values = BASE + noise(0.001)
    values[100:104] *= 3  # 20 seconds
    values[-1] *= 3
    return values


def warming_up():
    """Return a series that doubles during the warm-up and then stays flat."""
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
def test_series_without_growth_passes(name):
    assert not grows(FLAT[name])


@pytest.mark.parametrize("name", GROWN)
def test_growing_series_fails(name):
    assert grows(GROWN[name])


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_affect_the_check(seed):
    assert not grows(BASE + noise(0.015, seed))
    assert grows(BASE * (1 + 0.06 * TIMES_S / 1200) + noise(0.015, seed))


def test_growth_of_a_straight_line_has_exact_figures():
    growth = measure_growth(TIMES_S, 100 + TIMES_S, warm_up_share=0.5)
    assert growth.span_s == pytest.approx(480, abs=5)
    assert growth.last - growth.first == pytest.approx(growth.span_s)
    assert growth.trend == pytest.approx(growth.span_s)
    assert growth.per_hour == pytest.approx(3600)
    assert growth.share == pytest.approx(growth.span_s / growth.first)


def test_theil_sen_slope_equals_scipy():
    from scipy.stats import theilslopes  # an import of more than a second

    values = noise(1.0)
    assert theil_sen(TIMES_S, values) == pytest.approx(theilslopes(values, TIMES_S)[0])


def test_long_series_is_condensed_with_the_same_slope():
    times = np.arange(0, 86_400, 5.0)
    leak = BASE * (1 + 0.1 * times / 86_400)
    assert len(condense(times, leak)[0]) == MAX_POINTS
    growth = measure_growth(times, leak)
    assert growth.per_hour == pytest.approx(BASE * 0.1 / 24, rel=0.01)


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_too_few_samples_are_an_error(samples):
    with pytest.raises(ValueError, match="soak longer, or sample more often"):
        measure_growth(TIMES_S[:samples], BASE + 0 * TIMES_S[:samples])


def rows(**series):
    """Return samples of a server with one stub; `series` replaces figures."""
    figures = {f"stub_0_0.{name}": BASE + 0 * TIMES_S for name in ("private_bytes", "resident_bytes")}
    figures |= {"stub_0_0.handles": 4 + 0 * TIMES_S, "stub_0_0.threads": 9 + 0 * TIMES_S}
    figures |= {"stub_0_0.pid": 77 + 0 * TIMES_S, "pending": 0 * TIMES_S, "executing": 0 * TIMES_S}
    figures |= {"regions_bytes": 4 * MIB + 0 * TIMES_S, "label_cache_bytes": MIB + 0 * TIMES_S}
    figures |= {name.replace("__", "."): values for name, values in series.items()}
    found = [{name: float(values[at]) for name, values in figures.items()} for at in range(len(TIMES_S))]
    return [{"time_s": float(time_s)} | row for time_s, row in zip(TIMES_S, found, strict=True)]


def test_flat_soak_has_no_findings():
    good = rows()
    assert soak_findings([*good, good[-1] | {"time_s": 1205.0, LOAD_ENDED: 1.0}]) == []
    assert process_names(good) == ["stub_0_0"]
    assert check_growth(good).keys() == {
        "stub_0_0.private_bytes",
        "stub_0_0.handles",
        "stub_0_0.threads",
        "regions_bytes",
        "label_cache_bytes",
    }


@pytest.mark.parametrize("figure", ["private_bytes", "handles", "threads"])
def test_finding_names_process_and_figure(figure):
    (found,) = soak_findings(rows(**{f"stub_0_0__{figure}": 100 * MIB * (1 + TIMES_S / 1200)}))
    assert found.subject == "stub_0_0"
    assert found.text.startswith(f"{figure} grew by ")
    assert "limit " in found.text


@pytest.mark.parametrize("figure", ["regions_bytes", "label_cache_bytes"])
def test_growth_outside_processes_is_attributed_to_the_server(figure):
    (found,) = soak_findings(rows(**{figure: MIB * (1 + TIMES_S // 100)}))
    assert found.subject == "server"
    assert found.text.startswith(f"{figure} grew by ")


@pytest.mark.parametrize(("more", "findings"), [(0, 0), (2, 0), (3, 1)])
def test_thread_count_may_grow_by_two(more, findings):
    assert len(soak_findings(rows(stub_0_0__threads=9.0 + more * (TIMES_S > 600)))) == findings


def test_allowed_share_is_configurable():
    grown = rows(stub_0_0__private_bytes=BASE * (1 + 0.04 * TIMES_S / 1200))
    assert len(soak_findings(grown)) == 1
    assert soak_findings(grown, share=0.1) == []


def test_replaced_process_is_a_finding():
    (found,) = soak_findings(rows(stub_0_0__pid=np.where(TIMES_S > 600, 78, 77)))
    assert (found.subject, found.text) == (
        "stub_0_0",
        "the process was replaced: process ids 77, 78",
    )


def test_exited_process_is_a_finding():
    ended = rows()
    for row in ended[200:]:
        for name in [name for name in row if name.startswith("stub")]:
            del row[name]
    (found,) = soak_findings(ended)
    assert found.subject == "stub_0_0"
    assert "missing in 40 samples, first at 1000 s" in found.text


def test_missing_metrics_are_a_finding():
    silent = rows()
    del silent[7]["pending"]
    (found,) = soak_findings(silent)
    assert found.text == "no metrics in 1 samples, first at 35 s"


def test_leftover_requests_are_a_finding():
    good = rows()
    left = good[-1] | {"time_s": 1205.0, LOAD_ENDED: 1.0, "executing": 2.0}
    (found,) = soak_findings([*good, left])
    assert found.text == "requests remained in the server after the load had ended: 0 pending, 2 executing"


def test_samples_after_the_load_do_not_count_as_growth():
    good = rows()
    after = [
        good[-1] | {"time_s": 1205.0 + at, LOAD_ENDED: 1.0, "stub_0_0.threads": 99.0} for at in range(90)
    ]
    assert soak_findings([*good, *after]) == []


def test_failures_of_the_load_are_findings():
    (found,) = soak_findings(rows(), {"classify - wrong answer: wrong labels": 3})
    assert (found.subject, found.text) == (
        "load",
        "3 requests failed: classify - wrong answer: wrong labels",
    )
