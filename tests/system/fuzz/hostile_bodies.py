"""Bodies that are not valid requests: damaged protobuf messages and damaged HTTP messages.

`NEVER_SENT` lists bodies that crash the HTTP server of the embedded release. They are not generated.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from tests.system.fuzz.healthy_requests import healthy
from tests.system.fuzz.hostile_images import Edit
from tests.system.fuzz.hostile_tensors import is_never_sent
from tests.system.fuzz.senders import http_message
from tests.system.fuzz.wire import grpc_body, http_parts, parse_grpc_body

NEVER_SENT = {
    "JSON nested 200,000 levels deep": "overflows the stack of the JSON parser",
    "chunked bodies of millions of 1-byte chunks": "overflow the stack of the HTTP library",
    "form-urlencoded bodies of 5 MB and more": "crash the parser of the HTTP library",
}
DEEPEST = 100
JSON = {"Content-Type": "application/json"}

_edits = st.lists(
    st.builds(
        Edit,
        st.sampled_from(("truncate", "flip", "number", "cut", "repeat", "junk")),
        st.one_of(st.floats(0, 0.05), st.floats(0, 1)),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=5,
)


def _edited(body: bytes, edits: list[Edit]) -> bytes:
    for edit in edits:
        body = edit.apply(body)
    return body


def _healthy_names() -> st.SearchStrategy[str]:
    small = [name for name, request in healthy().items() if len(grpc_body(request)) < 20_000]
    return st.sampled_from(sorted(small))


def grpc_bodies() -> st.SearchStrategy[bytes]:
    """Generate damaged messages and random bytes."""
    whole = _healthy_names().map(lambda name: grpc_body(healthy()[name]))
    noise = st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).bytes(seed % 700))
    made = st.one_of(
        st.builds(_edited, whole, _edits), st.builds(_edited, whole, _edits), noise, st.binary(max_size=80)
    )
    return made.filter(lambda body: not _is_never_sent(body))


def _is_never_sent(body: bytes) -> bool:
    try:
        return is_never_sent(parse_grpc_body(body))
    except DecodeError:
        return False


_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
_FIELDS = ("id", "inputs", "outputs", "parameters")
_INPUT_FIELDS = ("name", "datatype", "shape", "data", "parameters")


def _text_document() -> dict[str, object]:
    text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["a cat"]}
    return {"id": "1", "inputs": [text], "outputs": [{"name": "token_counts"}], "parameters": {}}


def _with_field(field: str, value: object, inside: bool) -> bytes:
    document = _text_document()
    target = document["inputs"][0] if inside else document  # type: ignore[index]
    target[field] = value
    return json.dumps(document).encode()


def _document_message(model: str, body: bytes) -> bytes:
    return _message(f"/v2/models/{model}/infer", body, JSON)


def _message(path: str, body: bytes, headers: dict[str, str], method: str = "POST") -> bytes:
    plain = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(body))}
    return http_message(path, {**plain, **headers}, body, method)


def _healthy_message(name: str, headers: dict[str, str], edits: list[Edit]) -> bytes:
    path, own, body = http_parts(healthy()[name])
    return _message(path, _edited(body, edits), {**own, **headers})


def _nested(depth: int, opening: str) -> bytes:
    closing = {"[": "]", '{"a":': "}"}[opening]
    return b'{"inputs":%s}' % (opening * depth + "1" + closing * depth).encode()


LENGTHS = st.sampled_from(
    ("", "-1", "0", "1", "7", "99999999", "2147483648", "18446744073709551616", "abc", "1e3", " 5", "0x10")
)
PATHS = st.sampled_from(
    (
        "/",
        "/v2",
        "/v2/models//infer",
        "/v2/models/clip_zero_shot",
        "/v2/models/clip_zero_shot/infer/",
        "/v2/models/clip_zero_shot/generate",
        "/v2/models/clip_zero_shot/versions//infer",
        "/v2/models/clip_text_embedding/versions/x/infer",
        "/v2/models/%2e%2e/infer",
        "/v2/models/a%00b/infer",
        "/v2/" + "x" * 4000,
        "/v2/models/clip_text_embedding/infer?a=b",
        "/v2/health/ready",
        "/%",
        "/v2/models/%zz/infer",
    )
)
METHODS = st.sampled_from(("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "post", "BREW", ""))


def http_bodies() -> st.SearchStrategy[bytes]:
    """Generate whole HTTP messages with damaged JSON, lengths, paths, methods or heads."""
    name, no_edits = _healthy_names(), st.just(list[Edit]())
    text = st.just("clip_text_embedding")
    head_length = LENGTHS.map(lambda value: {"Inference-Header-Content-Length": value})
    body_length = LENGTHS.map(lambda value: {"Content-Length": value})
    small = st.just(json.dumps(_text_document()).encode())
    document = st.one_of(
        st.builds(_with_field, st.sampled_from(_FIELDS), _values, st.just(False)),
        st.builds(_with_field, st.sampled_from(_INPUT_FIELDS), _values, st.just(True)),
        st.builds(_edited, small, _edits),
        _values.map(lambda value: json.dumps(value).encode()),
        st.builds(_nested, st.integers(1, DEEPEST), st.sampled_from(("[", '{"a":'))),
        st.binary(max_size=200),
    )
    encodings = st.sampled_from(("gzip", "deflate", "br", "identity", "gzip, gzip", "x" * 300))
    return st.one_of(
        st.builds(_document_message, text, document),
        st.builds(_document_message, text, document),
        st.builds(_healthy_message, name, head_length, no_edits),
        st.builds(_healthy_message, name, body_length, no_edits),
        st.builds(_healthy_message, name, st.just({}), _edits),
        st.builds(_healthy_message, name, encodings.map(lambda value: {"Content-Encoding": value}), no_edits),
        st.builds(_message, PATHS, small, st.just(JSON), METHODS),
        st.builds(_message, PATHS, small, st.just(JSON)),
        st.builds(
            lambda message, edits: _edited(message, edits), st.builds(_document_message, text, small), _edits
        ),
    )


BODIES: dict[str, Callable[[], st.SearchStrategy[bytes]]] = {"grpc": grpc_bodies, "http": http_bodies}
