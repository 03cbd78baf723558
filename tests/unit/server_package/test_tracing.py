"""Trace options of Triton, and the warning about releases that may crash."""

import pytest

from tritonclip_server.serving.release import EMBEDDED, PINNED
from tritonclip_server.serving.tracing import NEVER, TraceOptions, trace_options, trace_warning


@pytest.mark.parametrize(
    ("given", "exported"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://collector/own/path", "https://collector/own/path"),
    ],
)
def test_url_gets_the_default_path(given, exported):
    assert f"--trace-config=opentelemetry,url={exported}" in TraceOptions(url=given).arguments()


@pytest.mark.parametrize(("rate", "argument"), [(0, NEVER), (1, 1), (50, 50)])
def test_rate_of_zero_disables_sampling(rate, argument):
    assert f"--trace-config=rate={argument}" in TraceOptions(url="http://a", rate=rate).arguments()


@pytest.mark.parametrize(
    "wrong", [{"url": "collector:4318"}, {"url": "http://"}, {"url": "http://a", "rate": -1}]
)
def test_malformed_options_are_rejected(wrong):
    with pytest.raises(ValueError, match="trace"):
        TraceOptions(**wrong)


def test_environment_applies_if_no_option_is_given():
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318", "OTEL_SERVICE_NAME": "mine"}
    assert trace_options(None, 0, environ) == TraceOptions(url="http://a:4318", service="mine")
    assert trace_options("http://b", 5, environ) == TraceOptions(url="http://b", rate=5, service="mine")
    assert (
        trace_options(None, 0, environ | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}).url
        == "http://c/x"
    )
    assert trace_options(None, 0, environ | {"OTEL_TRACES_EXPORTER": "none"}) is None
    assert trace_options(None, 0, {}) is None


def test_release_that_may_crash_gets_a_warning():
    assert "may crash" in trace_warning(EMBEDDED)
    assert trace_warning(PINNED) is None
