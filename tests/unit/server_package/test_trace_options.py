"""What Triton is told of traces, and what is said of a release that does not bear them."""

import pytest

from tritonclip_server.serving.release import EMBEDDED, PINNED
from tritonclip_server.serving.tracing import NEVER, TraceOptions, trace_options, trace_warning


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://collector/own/path", "https://collector/own/path"),
    ],
)
def test_the_url(given, told):
    assert f"--trace-config=opentelemetry,url={told}" in TraceOptions(url=given).arguments()


@pytest.mark.parametrize(("rate", "told"), [(0, NEVER), (1, 1), (50, 50)])
def test_the_rate(rate, told):
    assert f"--trace-config=rate={told}" in TraceOptions(url="http://a", rate=rate).arguments()


@pytest.mark.parametrize(
    "wrong", [{"url": "collector:4318"}, {"url": "http://"}, {"url": "http://a", "rate": -1}]
)
def test_what_is_malformed_is_refused(wrong):
    with pytest.raises(ValueError, match="trace"):
        TraceOptions(**wrong)


def test_the_standard_variables_count_where_no_option_does():
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318", "OTEL_SERVICE_NAME": "mine"}
    assert trace_options(None, 0, environ) == TraceOptions(url="http://a:4318", service="mine")
    assert trace_options("http://b", 5, environ) == TraceOptions(url="http://b", rate=5, service="mine")
    assert (
        trace_options(None, 0, environ | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}).url
        == "http://c/x"
    )
    assert trace_options(None, 0, environ | {"OTEL_TRACES_EXPORTER": "none"}) is None
    assert trace_options(None, 0, {}) is None


def test_a_release_that_may_crash_is_warned_of():
    assert "may crash" in trace_warning(EMBEDDED)
    assert trace_warning(PINNED) is None
