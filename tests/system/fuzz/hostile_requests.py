"""Hostile requests by kind, for both protocols: images, labels, tensors and parameters.

Each is a healthy request to one of the models with a change that makes it invalid or unusual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from hypothesis import strategies as st

from tests.system.fuzz.healthy_requests import healthy, healthy_image
from tests.system.fuzz.hostile_images import Recipe, recipes
from tests.system.fuzz.hostile_labels import label_lists
from tests.system.fuzz.hostile_tensors import tensor_requests
from tests.system.fuzz.wire import Parameter, Request, bytes_tensor


def _image_request(model: str, recipe: Recipe, with_healthy: bool) -> Request:
    files = [healthy_image(), recipe.build()] if with_healthy else [recipe.build()]
    tensors = (bytes_tensor("image", files), *healthy()[model].tensors[1:])
    return replace(healthy()[model], tensors=tensors, description=repr(recipe))


def image_requests() -> st.SearchStrategy[Request]:
    """Generate requests with a hostile image, alone or after a healthy one."""
    models = ("clip_zero_shot", "clip_image_embedding", "clip_image_embedding", "image_preprocess")
    return st.builds(_image_request, st.sampled_from(models), recipes(), st.booleans())


def _label_request(model: str, labels: list[bytes]) -> Request:
    old = healthy()[model].tensors
    tensors = tuple(bytes_tensor(one.name, labels) if one.name in ("labels", "text") else one for one in old)
    return replace(healthy()[model], tensors=tensors, description=_abbreviated(labels))


def _abbreviated(labels: list[bytes]) -> str:
    shown = [repr(one) if len(one) < 200 else f"{one[:8]!r} of {len(one)} bytes" for one in labels[:8]]
    return f"{len(labels)} labels: {', '.join(shown)}"


def label_requests() -> st.SearchStrategy[Request]:
    """Generate requests with hostile labels."""
    models = ("clip_zero_shot", "clip_text_embedding", "clip_text_embedding", "text_encoder")
    return st.builds(_label_request, st.sampled_from(models), label_lists())


_texts = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ("", "nan", "inf", "1e999", "-5", "0x10", "[]", "{}", '"', "\\", "\n", "\x00", "9" * 400)
    ),
)
_values = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), _texts)
DEADLINES = st.one_of(
    _values,
    st.sampled_from(
        (-1, 0, 1, 5, 60_000, 2**31, 2**53, 2**63 - 1, -(2**63), 1e308, 0.5, "1000", "1e3", True)
    ),
)
TRITON_PARAMETERS = (
    "priority",
    "timeout",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "headers",
    "binary_data_output",
    "triton_enable_empty_final_response",
    "x" * 3000,
    "ü",
    "",
)
"""Names of parameters that Triton itself reads, and unusual names."""
HEADERS = (
    {"x-odd": "1" * 4000},
    {"x-odd": ""},
    {"accept": "nothing/at-all"},
    {"traceparent": "00-zz"},
    {"authorization": "Bearer x"},
    {"te": "x"},
    {"x-forwarded-for": "::1, ::1"},
)


def _with_parameters(
    request: Request, parameters: Mapping[str, Parameter], request_id: str, headers: Mapping[str, str]
) -> Request:
    description = f"{str(dict(parameters))[:300]}, id of {len(request_id)}"
    return replace(
        request, parameters=parameters, request_id=request_id, headers=headers, description=description
    )


def parameter_requests() -> st.SearchStrategy[Request]:
    """Generate healthy requests with unusual parameters, ids and headers."""
    deadline = DEADLINES.map(lambda value: {"deadline_ms": value})
    other = st.dictionaries(
        st.one_of(st.sampled_from(TRITON_PARAMETERS), st.text(max_size=9)), _values, max_size=4
    )
    parameters = st.one_of(deadline, deadline, other, st.builds(lambda a, b: {**a, **b}, other, deadline))
    ids = st.one_of(
        st.text(max_size=20), st.sampled_from((300, 70_000, 1_000_000)).map(lambda size: "i" * size)
    )
    request = st.sampled_from(sorted(healthy())).map(healthy().__getitem__)
    return st.builds(_with_parameters, request, parameters, ids, st.sampled_from(({}, {}, {}, *HEADERS)))


KINDS: dict[str, Callable[[], st.SearchStrategy[Request]]] = {
    "images": image_requests,
    "labels": label_requests,
    "tensors": tensor_requests,
    "parameters": parameter_requests,
}
