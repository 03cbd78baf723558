from __future__ import annotations

import ast
import http.client
import pickle
import socket
import ssl
from functools import cache
from typing import get_args

import pytest
from tritonclient.utils import InferenceServerException

from tests.helpers.servers import ROOT
from tritonclip import errors
from tritonclip.errors import (
    AccessDeniedError,
    CertificateError,
    DeadlineExceededError,
    InferenceError,
    InvalidInputError,
    MissingExtraError,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
    rejection_reason,
)

LEAVES = {
    InvalidInputError: ValueError,
    ServerUnavailableError: Exception,
    DeadlineExceededError: TimeoutError,
    ModelNotReadyError: Exception,
    AccessDeniedError: Exception,
    InferenceError: Exception,
    MissingExtraError: ImportError,
}


def mapped(error: BaseException) -> TritonClipError:
    return errors.from_failure(error, model="clip_zero_shot", endpoint="grpc://host:8001", timeout_s=2.5)


@pytest.mark.parametrize(("kind", "builtin"), LEAVES.items())
def test_error_is_also_a_builtin_exception(kind: type[TritonClipError], builtin: type[Exception]) -> None:
    assert issubclass(kind, TritonClipError)
    assert issubclass(kind, builtin)
    assert kind.__name__ in (errors.__doc__ or "")


def test_every_error_is_in_the_tree() -> None:
    assert set(TritonClipError.__subclasses__()) == set(LEAVES)


@pytest.mark.parametrize("kind", [TritonClipError, *LEAVES])
def test_pickled_error_keeps_its_attributes(kind: type[TritonClipError]) -> None:
    error = pickle.loads(pickle.dumps(kind("image 1: empty", model="m", endpoint="http://h:1")))
    assert type(error) is kind
    assert (error.message, error.model, error.endpoint) == ("image 1: empty", "m", "http://h:1")
    assert str(error) == "image 1: empty (model m, server http://h:1)"
    assert str(kind("plain")) == "plain"


@pytest.mark.parametrize(
    ("grpc_status", "http_status", "kind"),
    [
        ("INVALID_ARGUMENT", "400", InvalidInputError),
        ("NOT_FOUND", "404", ModelNotReadyError),
        ("UNAVAILABLE", "503", ServerUnavailableError),
        ("INTERNAL", "500", InferenceError),
        ("UNAUTHENTICATED", "401", AccessDeniedError),
        ("PERMISSION_DENIED", "403", AccessDeniedError),
        ("DEADLINE_EXCEEDED", "504", DeadlineExceededError),
        ("RESOURCE_EXHAUSTED", "429", ServerUnavailableError),
        ("UNIMPLEMENTED", "501", InferenceError),
        ("CANCELLED", "418", InferenceError),
    ],
)
def test_both_protocols_map_to_the_same_error(
    grpc_status: str, http_status: str, kind: type[TritonClipError]
) -> None:
    text = "in ensemble 'clip_zero_shot', image 1: cannot identify image file"
    over_grpc = mapped(InferenceServerException(text, status=f"StatusCode.{grpc_status}"))
    over_http = mapped(InferenceServerException(text, status=http_status))
    assert type(over_grpc) is type(over_http) is kind
    assert over_grpc.message == over_http.message
    assert (over_grpc.model, over_grpc.endpoint) == ("clip_zero_shot", "grpc://host:8001")
    assert "ensemble" not in over_grpc.message


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "in ensemble 'clip_zero_shot', ",
        "[request id: <id_unknown>] ",
        "[request id: a b] in ensemble 'outer', in ensemble 'inner', ",
    ],
)
def test_tritons_prefixes_are_removed(prefix: str) -> None:
    error = mapped(InferenceServerException(prefix + "label 3: blank", status="400"))
    assert error.message == "label 3: blank. Correct this label, or leave it out."


def test_cure_in_the_servers_text_is_kept() -> None:
    error = mapped(InferenceServerException("label 3 is blank; give it a character", status="400"))
    assert error.message == "label 3 is blank; give it a character"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("400", "Request for unknown model: 'clip_zero_shot' is not found"),
        ("404", "Request for unknown model: 'clip_zero_shot' has no available versions"),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'clip_zero_shot' is not found"),
        ("StatusCode.UNAVAILABLE", "Request for unknown model: 'clip_zero_shot' is not ready"),
        ("StatusCode.UNAVAILABLE", "in ensemble 'clip_zero_shot', model 'similarity' is not ready"),
    ],
)
def test_missing_model_raises_model_not_ready(status: str, text: str) -> None:
    error = mapped(InferenceServerException(text, status=status))
    assert type(error) is ModelNotReadyError
    assert "model repository" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "unexpected inference output 'scores' for model 'clip_zero_shot'",
        "unexpected inference input 'labels' for model 'clip_zero_shot'",
        "[request id: <id_unknown>] expected 2 inputs but got 1 inputs for model 'clip_zero_shot'.",
        "[request id: x] input 'image' batch size does not match other inputs for 'clip_zero_shot'",
        "[request id: x] inference input 'image' data-type is 'BYTES', but model 'm' expects 'INT32'",
    ],
)
def test_unexpected_tensors_raise_model_not_ready(text: str) -> None:
    error = mapped(InferenceServerException(text, status="StatusCode.INVALID_ARGUMENT"))
    assert type(error) is ModelNotReadyError
    assert "another version" in error.message


def test_too_large_request_raises_invalid_input() -> None:
    over_grpc = InferenceServerException(
        "Sent message larger than max (9 vs. 4)", status="StatusCode.RESOURCE_EXHAUSTED"
    )
    over_http = InferenceServerException("Payload Too Large", status="413")
    for error in (mapped(over_grpc), mapped(over_http)):
        assert type(error) is InvalidInputError
        assert "fewer" in error.message


@pytest.mark.parametrize("text", ["overloaded: the request has waited", "deadline passed: x", "draining: x"])
def test_rejected_request_is_unavailable_without_advice_to_check_the_url(text: str) -> None:
    rejection = InferenceServerException(f"in ensemble 'clip_zero_shot', {text}", "StatusCode.UNAVAILABLE")
    error = mapped(rejection)
    assert isinstance(error, ServerUnavailableError)
    assert error.message == f"{text}. Try again later."


@cache
def rejections_of_the_models() -> list[tuple[str, str]]:
    """Return (reason, text) of every RejectedError in the models' code, with 5 for each formatted value."""
    found = []
    for path in sorted((ROOT / "model_repository").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RejectedError":
                reason, text = node.args
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                values = [part.value if isinstance(part, ast.Constant) else 5 for part in parts]
                assert isinstance(reason, ast.Constant)
                found.append((reason.value, "".join(map(str, values))))
    return found


def test_rejection_reasons_match_the_models_own() -> None:
    for reason, text in rejections_of_the_models():
        assert rejection_reason(text) == reason
        assert rejection_reason(f"in ensemble 'clip_zero_shot', {text}") == reason
        error = mapped(InferenceServerException(text, "StatusCode.UNAVAILABLE"))
        assert rejection_reason(error.message) == reason


def test_every_rejection_reason_is_used_by_the_models() -> None:
    assert {reason for reason, _ in rejections_of_the_models()} == set(get_args(errors.Rejection))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Exceeds maximum queue size", "overload"),
        ("Request timeout expired", "deadline"),
        ("failed to connect to all addresses", None),
        ("image 0: the file is not overloaded: it is damaged", None),
    ],
)
def test_rejection_reason_of_other_texts(text: str, reason: str | None) -> None:
    assert rejection_reason(text) == reason


def test_restricted_protocol_raises_access_denied() -> None:
    text = "This protocol is restricted, expecting header 'triton-grpc-protocol-key'"
    error = mapped(InferenceServerException(text, status="StatusCode.UNAVAILABLE"))
    assert type(error) is AccessDeniedError
    assert "api_key" in error.message


@pytest.mark.parametrize(
    ("error", "kind", "part"),
    [
        (TimeoutError("timed out"), DeadlineExceededError, "2.5 s"),
        (ConnectionRefusedError(111, "Connection refused"), ServerUnavailableError, "Connection refused"),
        (OSError(113, "No route to host"), ServerUnavailableError, "No route to host"),
        (
            socket.gaierror(-2, "Name or service not known"),
            ServerUnavailableError,
            "Name or service not known",
        ),
        (ssl.SSLError(1, "certificate verify failed"), ServerUnavailableError, "encrypted connection failed"),
        (http.client.HTTPException("Expected HTTP/"), ServerUnavailableError, "not an HTTP port"),
        (ValueError("Expecting value"), InferenceError, "ValueError: Expecting value"),
    ],
)
def test_exception_without_a_status_is_mapped_by_its_type(
    error: Exception, kind: type[TritonClipError], part: str
) -> None:
    result = mapped(error)
    assert type(result) is kind
    assert part in result.message


def test_rejected_certificate_is_not_an_outage() -> None:
    for text, kind in (
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", CertificateError),
        ("[SSL] record layer failure", ServerUnavailableError),
    ):
        error = errors.from_failure(ssl.SSLError(1, text), model=None, endpoint="https://h:1", timeout_s=1)
        assert type(error) is kind
        assert "ca_file" in error.message


def test_long_text_is_truncated() -> None:
    error = mapped(InferenceServerException("x" * 5000, status="500"))
    assert error.message == "x" * 1000 + " [cut]. See the server's log, and report it."


def test_triton_error_without_status_or_text_is_an_inference_error() -> None:
    assert type(mapped(InferenceServerException("model version must be a string"))) is InferenceError
    assert "no message" in mapped(InferenceServerException("", status="500")).message


ALL_FAILED = "connections to all backends failing; last error: "
HTTP_SERVER = (
    "INTERNAL: ipv4:127.0.0.1:8080: Failed parsing HTTP/2 (Expected SETTINGS frame as the first frame, got "
    "frame type 80) (Trying to connect an http1.x server (HTTP status 400))"
)


@pytest.mark.parametrize(
    ("endpoint", "error", "kind", "parts"),
    [
        (
            "grpc://host:8080",
            InferenceServerException(ALL_FAILED + HTTP_SERVER, status="StatusCode.UNAVAILABLE"),
            ServerUnavailableError,
            ["HTTP server, such as the gateway", "grpc://host:8001", "http://host:8080"],
        ),
        (
            "grpc://[::1]:8000,b:8000",
            InferenceServerException(
                ALL_FAILED + "UNAVAILABLE: ipv6:[::1]:8000: Socket closed", status="StatusCode.UNAVAILABLE"
            ),
            ServerUnavailableError,
            ["http://[::1]:8000,b:8000", "grpc://[::1]:8001", "grpcs://[::1]:8000,b:8000"],
        ),
        (
            "http://host:8001/base",
            http.client.HTTPException("('Expected HTTP/, RTSP/ or ICE/', 8)"),
            ServerUnavailableError,
            ["not an HTTP port", "grpc://host:8001/base", "http://host:8000", "https://host:8001/base"],
        ),
        (
            "http://host:8080",
            InferenceServerException("there is nothing here", status="404"),
            ModelNotReadyError,
            ["neither Triton nor the gateway", "grpc://host:8001", "http://host:8000"],
        ),
        (
            "https://host:8000",
            ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"),
            CertificateError,
            ["does not use TLS", "http://host:8000"],
        ),
    ],
)
def test_port_of_another_protocol_names_the_url_to_try(
    endpoint: str, error: Exception, kind: type[TritonClipError], parts: list[str]
) -> None:
    result = errors.from_failure(error, model=None, endpoint=endpoint, timeout_s=1)
    assert type(result) is kind
    for part in parts:
        assert part in result.message
    assert "Expected" not in result.message


@pytest.mark.parametrize(
    ("endpoint", "status", "text"),
    [
        ("grpc://host:8001", "StatusCode.UNAVAILABLE", "Socket closed"),
        ("grpc://host:8001", "StatusCode.UNAVAILABLE", ALL_FAILED + "UNAVAILABLE: Connection refused"),
        ("http://host:8000", "404", "Request for unknown model: 'clip_zero_shot' is not found"),
        ("http://host:8000", "503", "Service Unavailable"),
    ],
)
def test_other_failures_do_not_suggest_another_port(endpoint: str, status: str, text: str) -> None:
    error = InferenceServerException(text, status=status)
    message = errors.from_failure(error, model=None, endpoint=endpoint, timeout_s=1).message
    assert "://" not in message
